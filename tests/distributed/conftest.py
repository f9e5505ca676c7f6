"""Settings of all tests that start ranks."""

from __future__ import annotations

import torch

# As the ranks do: the serial run that they are compared with must sum in the same order.
torch.set_num_threads(1)
