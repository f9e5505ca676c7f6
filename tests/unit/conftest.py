"""Fixtures of all unit tests."""

from __future__ import annotations

import torch

# The models are tiny: threads would only wait for one another.
torch.set_num_threads(1)
