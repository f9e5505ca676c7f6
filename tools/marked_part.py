"""Marked part of a page: what a tool makes stands between two comments that name the tool."""

from __future__ import annotations


def replaced(page: str, tool: str, part: str) -> str:
    """Return a page's text with a tool's part as it is now.

    Args:
        page: The text as it was.
        tool: What the comments name: ``tools/file_index.py``.
        part: What stands between them: whole lines.
    """
    begin, end = f"<!-- {tool}: begin -->\n", f"<!-- {tool}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{part}{end}{after}"
