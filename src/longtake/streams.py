"""Streams whose reader may go away: what is said then is lost, and the run goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Final, TextIO, final

from typing_extensions import override

_LAST: Final = 2
"""The number of standard error."""


@final
class _Heedless(io.FileIO):
    """Writes to a pipe or a terminal, whether somebody reads it or not."""

    @override
    def write(self, data: object, /) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        try:
            return super().write(view)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return view.nbytes


def open_standard_streams() -> None:
    """Have standard input, output and error be open, and output not mind that nobody reads it.

    Where one was closed before the process began, the next file that is opened would get its
    number, and what libraries print would be written into that.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _LAST:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = heedless(sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False))


def heedless(stream: TextIO) -> TextIO:
    """Return a stream that writes where another one does, and does not mind that nobody reads it.

    Args:
        stream: Of a descriptor.
    """
    raw = io.BufferedWriter(_Heedless(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(
        raw, encoding=stream.encoding, errors="backslashreplace", line_buffering=True
    )
