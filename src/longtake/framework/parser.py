"""The command line's parser: one sentence for a mistake, exit status 2."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override


class OneSentenceParser(LightningArgumentParser):
    """Says what is wrong in one sentence instead of the whole usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviated option would silently set another one as soon as options are added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message as one line and exit with status 2."""
        sys.stderr.write(f"longtake: error: {one_line(message)}\n")
        self.exit(2)


def one_line(message: str) -> str:
    """Join a message's lines to one."""
    return " ".join(part.strip() for part in message.splitlines() if part.strip())


__all__ = ["ActionConfigFile", "OneSentenceParser", "one_line"]
