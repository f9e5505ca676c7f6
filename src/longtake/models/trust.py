"""Trust in code that is not longtake's own: what a command line has allowed.

It stands in environment variables, so that the processes that a run starts have it too, and so that
no YAML file can allow itself anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from longtake.errors import ConfigurationError

PLUGINS: Final = "LONGTAKE_PLUGINS"
"""``none``: no class and no package but longtake's own is imported by name."""
HUB_KERNELS: Final = "LONGTAKE_HUB_KERNELS"
"""The commit of the one repository whose attention kernels may be downloaded and run."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def plugins_allowed(environment: Mapping[str, str]) -> bool:
    """Return whether code may be imported by a name that a config or a package gives.

    Args:
        environment: The process's environment variables.

    Raises:
        ConfigurationError: The variable says neither ``all`` nor ``none``.
    """
    said = environment.get(PLUGINS, "all")
    if said not in ("all", "none"):
        raise ConfigurationError(
            f"--plugins (or {PLUGINS}) is {said!r}, but it must be one of all, none."
        )
    return said == "all"


def kernel_commit(environment: Mapping[str, str]) -> str | None:
    """Return the commit that kernels from the hub may be loaded from; ``None``: no kernels may.

    Args:
        environment: The process's environment variables.

    Raises:
        ConfigurationError: The variable holds no commit.
    """
    said = environment.get(HUB_KERNELS)
    if said is not None and not _COMMIT.fullmatch(said):
        raise ConfigurationError(
            f"--allow_hub_kernels (or {HUB_KERNELS}) is {said!r}, but it must be a commit, 40 "
            f"hexadecimal digits: branches and tags can change to other code at any time."
        )
    return said
