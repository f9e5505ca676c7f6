"""Strict device: memory of the host and operators of the CPU, under CUDA's rules for tensors.

Code that has only run on a CPU may leave a tensor on the wrong device, draw from the wrong
generator or read a copy that has not ended, and pass. On this device, PyTorch's ``PrivateUse1`` by
the name of ``strict``, the first two are errors and the third gives NaN; all else has the CPU's
bits. The rules stand at the head of ``strict_device.cpp``.

A process that has registered it cannot be rid of it: tests do so in a process of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch.utils.backend_registration import rename_privateuse1_backend

from longtake.testing.strict_device import backend

NAME: Final = "strict"
_SOURCE: Final = Path(__file__).with_name("strict_device.cpp")


def compiler() -> str | None:
    """Return the C++ compiler of this machine: ``$CXX``, ``c++`` or ``g++``; ``None`` without."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++"))), None)


def build(folder: Path) -> Path:
    """Compile the device, once for each PyTorch and source; return the library.

    Args:
        folder: Where libraries are kept, nobody else's to write.

    Raises:
        RuntimeError: It does not compile; with the compiler's words.
    """
    command = compiler()
    assert command is not None, "ask for the compiler first"
    key = hashlib.sha256(_SOURCE.read_bytes() + torch.__version__.encode() + sys.platform.encode())
    library = folder / f"strict_device-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    partial = library.with_suffix(f".{os.getpid()}.part")
    torch_folder = Path(torch.__file__).parent
    run = subprocess.run(
        [
            *(command, "-std=c++20", "-shared", "-fPIC", "-O0", str(_SOURCE), "-o", str(partial)),
            *(f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{command} does not compile {_SOURCE}:\n{run.stderr}")
    partial.rename(library)
    return library


@cache
def register(library: Path) -> torch.device:
    """Make the device known to this process, for good.

    Args:
        library: From ``build``.
    """
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, backend)  # type: ignore[no-untyped-call]
    return torch.device(NAME, 0)
