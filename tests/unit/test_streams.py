"""Streams whose reader has gone away."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from longtake.streams import heedless


def test_what_is_read_is_written_and_what_nobody_reads_is_lost() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        stream = heedless(pipe)
        stream.write("a word\n")
        assert os.read(reader, 100) == b"a word\n"
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"another")
        stream.write("another\n")
        stream.flush()
        stream.close()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path, closed: str) -> None:
    """What a library prints would be written into it."""
    file = tmp_path / "file"
    lines = (
        "import os, sys",
        "from longtake.streams import open_standard_streams",
        "open_standard_streams()",
        f"number = os.open({str(file)!r}, os.O_RDWR | os.O_CREAT)",
        "sys.stdout.write('a word'); sys.stdout.flush()",
        "sys.stderr.write('a word'); sys.stderr.flush()",
        "os.write(2, b'a word')",
        "sys.exit(number > 2 and 7)",
    )
    ended = subprocess.run(
        f"exec {shlex.quote(sys.executable)} -c {shlex.quote(chr(10).join(lines))} {closed}",
        shell=True,
        check=False,
    )
    assert ended.returncode == 7
    assert file.read_bytes() == b""
