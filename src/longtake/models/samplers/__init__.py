"""Samplers: diffusers' schedulers, one copy per block; frames that are known."""
