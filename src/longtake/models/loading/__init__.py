"""Model folders on disk: found, checked, read; LoRA files merged into weights."""
