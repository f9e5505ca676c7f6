"""Settings of all tests."""

from __future__ import annotations

import os

from longtake.threads import sleep_at_barriers

# Before PyTorch is loaded, and for all processes that tests start.
sleep_at_barriers(os.environ)
