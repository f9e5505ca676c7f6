"""Encoders of given frames: no tensor on the way grows with the number of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longtake.models.cogvideox.encoder import CogVideoXEncoder
from longtake.models.hunyuan_video.encoder import HunyuanVideoEncoder
from longtake.models.hunyuan_video15.encoder import HunyuanVideo15Encoder
from longtake.models.ltx.encoder import LTXEncoder
from longtake.models.wan.encoder import WanEncoder
from longtake.testing.tiny.base import tiny_wan_vae
from longtake.testing.tiny.cogvideox import tiny_cogvideox_vae
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_vae
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_vae
from longtake.testing.tiny.ltx import tiny_ltx_vae

WINDOW = 3
"""Latent frames that HunyuanVideo 1.5's attention looks back at: 31 in a run."""

# SkyReels-V2 has Wan's.
ENCODERS: dict[str, Callable[[], Any]] = {
    "wan": lambda: WanEncoder(tiny_wan_vae()),
    "hunyuan_video": lambda: HunyuanVideoEncoder(tiny_hunyuan_vae()),
    "hunyuan_video15": lambda: HunyuanVideo15Encoder(tiny_hunyuan15_vae(), WINDOW),
    "cogvideox": lambda: CogVideoXEncoder(tiny_cogvideox_vae()),
    "ltx": lambda: LTXEncoder(tiny_ltx_vae()),
}


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many bytes the largest tensor has that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.size = max(self.size, *(tensor.nbytes for tensor in made), 0)
        return out


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_no_tensor_grows_with_the_video(name: str) -> None:
    found = []
    for frames in (49, 193):
        encoder, largest = ENCODERS[name](), Largest()
        pixels = torch.zeros(frames, 32, 32, 3, dtype=torch.uint8)
        with largest:
            latents = encoder.encode(pixels)
        found.append(largest.size)
        assert latents.nbytes < largest.size, "the result itself would be the largest"
    assert found[0] == found[1]
