"""Fixtures of all unit tests."""

from __future__ import annotations

import os

import torch

# The models are tiny: threads would only wait for one another. ``make test-kernels`` asks for more.
torch.set_num_threads(int(os.environ.get("LONGTAKE_TEST_THREADS", "1")))
