"""Kandinsky 5: backbone, positions, folder layout; its VAE is HunyuanVideo's."""

from longtake.models.kandinsky5.backbone import Kandinsky5Backbone
from longtake.models.kandinsky5.family import Kandinsky5Family
from longtake.models.kandinsky5.positions import Kandinsky5Rotary

__all__ = ["Kandinsky5Backbone", "Kandinsky5Family", "Kandinsky5Rotary"]
