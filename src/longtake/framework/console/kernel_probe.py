"""Kernel probe: the attention backends that run here, tried one after another.

``python -m longtake.framework.console.kernel_probe`` prints a line for each: in a process of its
own, since a backend that was built for another machine may end it.
"""

from __future__ import annotations

import sys

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from longtake.errors import ConfigurationError
from longtake.models.base import Placement
from longtake.models.layers.kernel import check_backend


def main() -> None:
    """Try every backend, and print which of them run."""
    on_gpu = torch.cuda.is_available()
    place = Placement(torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16)
    # Those that are fetched from the hub come last: it may not answer. Flex is compiled first,
    # which takes longer than anybody waits here.
    names = [name for name in AttentionBackendName if name is not AttentionBackendName.FLEX]
    for name in sorted(names, key=lambda name: ("hub" in name.value, name.value)):
        try:
            check_backend(name.value, place)
        except ConfigurationError:
            continue
        sys.stdout.write(f"{name.value}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
