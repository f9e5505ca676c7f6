"""The bundled model's world: its clips, and a judge of what its videos show."""
