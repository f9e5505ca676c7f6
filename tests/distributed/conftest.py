"""Settings of all tests that start ranks."""

from __future__ import annotations

import os

import torch

# The ranks have as many as this process: the serial run that they are compared with must sum in the
# same order. ``make test-kernels`` asks for more than one.
torch.set_num_threads(int(os.environ.get("LONGTAKE_TEST_THREADS", "1")))
