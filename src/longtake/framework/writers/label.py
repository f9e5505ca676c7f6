"""Label of a file: that it is machine-made, by which model and from which seed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from longtake import __version__

_SOURCE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""What IPTC calls media that a trained model has made; photo libraries look for it."""
_XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/" Iptc4xmpExt:DigitalSourceType="{source}" '
    "exif:UserComment={text}/></rdf:RDF></x:xmpmeta>"
)
_GIF_END: Final = b"\x3b"
_PIECE: Final = 255
"""Bytes of a GIF's block, at most."""
_HAS_XMP: Final = 0x04
"""The bit of a WebP's flags that says that an XMP chunk follows."""
_FLAGS_AT: Final = 20


def label(model: str, seed: int) -> str:
    """Return what a file says of itself.

    Args:
        model: A hub id with its commit, or the name of a folder; "" where it is not known.
        seed: Of the starting noise.
    """
    by = f", model {model}" if model else ""
    return f"Machine-made (trainedAlgorithmicMedia) by longtake {__version__}{by}, seed {seed}"


def xmp(text: str) -> bytes:
    """Return a label as XMP, with what IPTC calls such media."""
    return _XMP.format(source=_SOURCE, text=quoteattr(text)).encode()


def label_gif(path: Path, text: str) -> None:
    """Put a comment at the end of a finished GIF.

    Args:
        path: The file.
        text: The label.
    """
    data = text.encode()
    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    comment = b"\x21\xfe" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    with path.open("r+b") as file:
        file.seek(-1, 2)
        if file.read(1) == _GIF_END:
            file.seek(-1, 2)
            file.write(comment + _GIF_END)


def label_webp(path: Path, text: str) -> None:
    """Append an XMP chunk to a finished animated WebP.

    Args:
        path: The file.
        text: The label.
    """
    data = xmp(text)
    with path.open("r+b") as file:
        head = file.read(_FLAGS_AT + 1)
        if head[12:16] != b"VP8X":
            return  # a single picture in the simple form has no room for it
        end = file.seek(0, 2)
        file.write(b"XMP " + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))
        size = file.tell() - 8
        assert end % 2 == 0
        file.seek(4)
        file.write(struct.pack("<I", size))
        file.seek(_FLAGS_AT)
        file.write(bytes([head[_FLAGS_AT] | _HAS_XMP]))
