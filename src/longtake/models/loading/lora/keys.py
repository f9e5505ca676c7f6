"""Keys of LoRA files: which part of which module a tensor is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Part(StrEnum):
    """A tensor of a module, as longtake merges it."""

    DOWN = "lora_A"
    UP = "lora_B"
    UP_BIAS = "lora_B.bias"
    ALPHA = "alpha"
    MAGNITUDE = "dora_scale"
    DIFF = "diff"
    BIAS_DIFF = "diff_b"
    TABLE_DIFF = "diff_m"
    """Of a table of modulations, which is a parameter without a module."""


ADDED: Final = (Part.UP, Part.UP_BIAS, Part.DIFF, Part.BIAS_DIFF, Part.TABLE_DIFF)
"""Parts that change nothing where they are zero."""
_LOW_RANK: Final = re.compile(
    r"(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.(?!weight$|bias$)(\w+?))?(?:\.(weight|bias))?"
)
_OTHERS: Final = (
    (re.compile(r"(.+)\.alpha"), Part.ALPHA),
    (re.compile(r"(.+)\.(?:diff|w_norm)"), Part.DIFF),
    (re.compile(r"(.+)\.(?:diff_b|b_norm)"), Part.BIAS_DIFF),
    (re.compile(r"(.+)\.diff_m"), Part.TABLE_DIFF),
    (re.compile(r"(.+)\.(?:dora_scale|lora_magnitude_vector(?:\.\w+)*)"), Part.MAGNITUDE),
)
_METHODS: Final[Mapping[str, str]] = {
    r"hada_(w|t)\d": "LoHa",
    r"lokr_(w|t)\d": "LoKr",
    r"lora_mid": "LoCon with a core of its own (lora_mid)",
    r"b?oft_\w+": "OFT",
    r"glora_\w+|(a|b)(1|2)\.weight$": "GLoRA",
    r"on_input$|ia3_\w+": "IA3",
    r"vera_lambda\w*": "VeRA",
    r"lora_embedding_(A|B)": "LoRA of an embedding",
    r"set_weight$|reshape_weight$": "a replaced weight",
}
"""Other methods by what their keys end with: they are refused by name."""


def split(key: str) -> tuple[str, Part] | None:
    """Return a key's module, with its prefixes, and part; ``None`` where it is of no LoRA."""
    if match := _LOW_RANK.fullmatch(key):
        down, bias = match[2] in ("A", "down"), match[4] == "bias"
        if down and bias:
            return None
        return match[1], Part.DOWN if down else Part.UP_BIAS if bias else Part.UP
    for pattern, part in _OTHERS:
        if match := pattern.fullmatch(key):
            return match[1], part
    return None


def method(key: str) -> str | None:
    """Return the name of the method that a key belongs to, where it is another one than LoRA."""
    for pattern, name in _METHODS.items():
        if re.search(rf"(?:^|\.)(?:{pattern})", key):
            return name
    return None
