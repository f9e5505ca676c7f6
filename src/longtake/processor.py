"""Processor's name, as the machine gives it."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor_name() -> str:
    """Return the name of the processor, or of its kind where the machine says no more."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(errors="replace") if listed.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
