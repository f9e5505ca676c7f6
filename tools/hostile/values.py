"""Hostile values: of the types that options have, of other types, and far out of range."""

from __future__ import annotations

import math
from random import Random
from typing import Any, Final

INTEGERS: Final = (
    *(0, -1, 1, 2, 3, 7, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(-(2**64), 10**30, 10**400),
)
NUMBERS: Final = (
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5, 1.5, -1.0, 1e308, -1e308, 5e-324, 1e-30),
)
TEXTS: Final = (
    *("", " ", "\t", "null", "~", "true", "nan", ".inf", "1e400", "0x10", "1_000", "١٢", "None"),
    *("[", "]", "{", "}", "[[", "{a", "a: b: c", "- -", "%s%n", "${HOME}", "&a *a", "*a", "!!x y"),
    *("!!python/object/apply:os.system ['touch stray']", "!!binary AAAA", "!!set {a}", "=", "--"),
    *(
        "@file",
        "|",
        ">",
        "?",
        "#",
        "'",
        '"',
        "\\",
        "\\x00",
        "\x7f",
        "\u202e",
        "\ufeff",
        "\U0001f3ac",
    ),
    *("a" * 5000, "../../../../etc/passwd", "/dev/null", "/", ".", "..", "~", "~nobody", "C:\\x"),
    *("demo", "demo/", "owner/name", "a/b/c", "hf://x/y", "https://localhost:1/x", "file:///x"),
    *("x.txt", "x.jsonl", "x.json", "x.safetensors", "x.bin", "x.png", "x.mp4"),
    *("FifoQueue", "DualParal", "NoSuchClass", "subprocess.Popen", "os.getpid", "longtake", "a.b"),
    *("longtake.framework.callbacks.TimelineWriter", "longtake.strategies.from_plan.FromPlan"),
    *("UniPCMultistepScheduler", "DDIMScheduler", "FlaxDDIMScheduler", "ConfigMixin", "fp16"),
)
NAMES: Final = (
    *("class_path", "init_args", "dict_kwargs", "path", "scale", "at", "text", "scheduler"),
    *("options", "block_frames", "context_frames", "stages", "cfg", "", " ", "__class__", "a.b"),
    *("config", "model", "data", "trainer", "seed_everything", "$schema", "self", "0", "null"),
)


def scalar(rng: Random) -> Any:
    """Return a hostile value that is no container."""
    return rng.choice((rng.choice(INTEGERS), rng.choice(NUMBERS), rng.choice(TEXTS), None, True))


def value(rng: Random, depth: int = 3) -> Any:
    """Return a hostile value of JSON."""
    kind = rng.randrange(10) if depth else 0
    if kind < 6:
        return scalar(rng)
    if kind == 6:
        return deep(rng)
    if kind < 8:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def deep(rng: Random) -> Any:
    """Return lists or mappings in one another, up to a few hundred deep."""
    found: Any = scalar(rng)
    for _ in range(rng.choice((5, 50, 300))):
        found = [found] if rng.random() < 0.5 else {rng.choice(NAMES): found}
    return found


def spliced(rng: Random, tree: Any) -> Any:
    """Return a tree of JSON with something in it replaced, removed, added or doubled."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return value(rng)
    if isinstance(tree, list):
        place = rng.randrange(len(tree))
        return [*tree[:place], spliced(rng, tree[place]), *tree[place + 1 :]]
    name = rng.choice(list(tree))
    match rng.randrange(8):
        case 0:
            return {key: inner for key, inner in tree.items() if key != name}
        case 1:
            return {**tree, rng.choice(NAMES): value(rng)}
        case 2:
            return {**tree, name: [tree[name], tree[name]]}
        case _:
            return {**tree, name: spliced(rng, tree[name])}


def scratched(rng: Random, content: bytes) -> bytes:
    """Return bytes of which some are cut off, changed, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                del data[place:]
            case 1 if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place:place] = rng.randbytes(rng.choice((1, 8, 200)))
            case 3:
                del data[place : place + rng.choice((1, 8, 200))]
            case 4:
                data[place:place] = rng.choice(TEXTS).encode()
            case _:
                data[place : place + 8] = rng.choice(
                    (b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7)
                )
    return bytes(data)
