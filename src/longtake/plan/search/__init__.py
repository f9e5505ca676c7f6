"""Search for layouts: meshes, splits of layers, numbers of decode ranks."""
