"""Color conversion: RGB pictures as the YUV frames that encoders take."""

from __future__ import annotations

from typing import Any, Final, Literal

import av
from av.video.reformatter import Interpolation

from longtake.framework.writers.base import Picture

# The same on every machine, and without the darkening that the fast path's rounding brings.
EXACT: Final = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INP
)


def yuv420p(picture: Picture, matrix: Literal["ITU601", "ITU709"]) -> Any:
    """Return a picture as PyAV's frame in 4:2:0, limited range.

    Args:
        picture: RGB.
        matrix: Which RGB to YUV matrix.
    """
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=matrix, dst_color_range="MPEG", interpolation=EXACT
    )
