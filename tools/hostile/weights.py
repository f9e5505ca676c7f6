"""Hostile safetensors files: headers that lie, bytes that are not there, numbers that are none."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from hostile.values import INTEGERS, scratched, spliced, value


def hostile_weights(rng: Random, content: bytes) -> bytes:
    """Return a safetensors file with something wrong in it.

    Args:
        rng: Decides what.
        content: Of a good file.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    body = content[8 + length :]
    match rng.randrange(8):
        case 0:
            return scratched(rng, content)
        case 1:
            lie = rng.choice(
                (0, 1, 2**20, 10**8 + 1, 2**31, 2**63, 2**64 - 1, length + 8, length - 1)
            )
            return struct.pack("<Q", lie) + content[8:]
        case 2:
            return content[: rng.randrange(len(content))]
        case 3:
            return _joined(spliced(rng, header), body)
        case 4:
            return _joined(_changed(rng, header), body)
        case 5:
            return _joined(header, _not_finite(rng, body))
        case 6:
            return rng.choice(
                (b"", b"PK\x03\x04" + body, b"\x80\x02}q\x00." + body, b"GGUF" + body)
            )
        case _:
            return _joined(header | {"x" * rng.choice((1, 10**6)): value(rng)}, body)


def _changed(rng: Random, header: dict[str, Any]) -> dict[str, Any]:
    """Return a header with one tensor's place, shape, type or name changed."""
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry = dict(header[name])
    match rng.randrange(7):
        case 0:
            entry["data_offsets"] = header[other]["data_offsets"]
        case 1:
            entry["data_offsets"] = [rng.choice(INTEGERS), rng.choice(INTEGERS)]
        case 2:
            entry["shape"] = [rng.choice(INTEGERS) for _ in range(rng.randrange(9))]
        case 3:
            entry["dtype"] = rng.choice(("F8_E4M3", "I8", "F4", "C64", "", 7, None, "f32", "BOOL"))
        case 4:
            entry["shape"] = [*entry["shape"], 0]
        case 5:
            return {(f"{key}.x" if key == name else key): held for key, held in header.items()}
        case _:
            return {key: held for key, held in header.items() if key != name}
    return header | {name: entry}


def _joined(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _not_finite(rng: Random, body: bytes) -> bytes:
    place = rng.randrange(max(1, len(body) // 4)) * 4
    bad = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 3e38)))
    return body[:place] + bad * rng.choice((1, 64)) + body[place + 4 :][: len(body) - place - 4]
