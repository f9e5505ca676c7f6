"""Truncation of prompts: what a text encoder does not read of a text, said when it is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

_SHOWN: Final = 200
"""Characters of what was cut off that are said."""


def telling(tokenizer: Any, name: str, report: Callable[[str], None]) -> Any:
    """Have a tokenizer say what it cuts off, whoever calls it: a pipeline does, in its own way.

    Args:
        tokenizer: Of transformers; changed in place, it stays of its class.
        name: Of the component, for people to read.
        report: Called with a sentence for each text, once.

    Returns:
        The tokenizer.
    """
    kind: Any = type(tokenizer)
    told: set[str] = set()

    class Telling(kind):  # type: ignore[misc]  # of whichever class the folder's files say
        def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
            found = super().__call__(text, *args, **options)
            if not options.get("truncation"):
                return found
            texts = [text] if isinstance(text, str) else list(text or ())
            special = options.get("add_special_tokens", True)
            whole = super().__call__(texts, add_special_tokens=special, verbose=False).input_ids
            for ids, kept in zip(whole, _rows(found), strict=True):
                read = _common(ids, kept)
                left = self.decode(ids[read:], skip_special_tokens=True).strip()
                if len(ids) > len(kept) and left and left not in told:
                    told.add(left)
                    report(_sentence(name, len(kept), len(ids), left))
            return found

    Telling.__name__, Telling.__module__ = kind.__name__, kind.__module__
    tokenizer.__class__ = Telling
    return tokenizer


def _rows(found: Any) -> Iterator[list[int]]:
    """Yield the tokens of each text, without padding where it is told which they are."""
    ids, masks = found["input_ids"], found.get("attention_mask")
    if isinstance(ids[0], int):  # of one text
        ids, masks = [ids], None if masks is None else [masks]
    for place, row in enumerate(ids):
        mask = [1] * len(row) if masks is None else masks[place]
        yield [int(token) for token, seen in zip(row, mask, strict=True) if int(seen)]


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _sentence(name: str, reads: int, has: int, left: str) -> str:
    shown = left if len(left) <= _SHOWN else f"{left[:_SHOWN]}..."
    return (
        f"the {name} reads {reads} tokens, but a prompt has {has}: it is cut off, and this has no "
        f"effect: {shown!r}."
    )
