"""Parts of transformers that families share: attention, positions, noise levels."""
