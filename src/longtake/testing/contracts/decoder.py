"""Video decoder contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec

CUTS: Final[list[tuple[int, ...]]] = [(5,), (1, 4), (4, 1), (2, 3), (3, 1, 1), (1, 1, 1, 1, 1)]
"""Ways to cut 5 latent frames into blocks."""
_FRAME_BY_FRAME: Final = CUTS[-1]

EXACT: Final = 1e-10
"""Largest difference of what is equal but for the rounding of float64."""
ROUNDED: Final = 1e-3
"""Largest difference of what is equal but for the rounding of float32."""

cuts = pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "+".join(map(str, cut)))


class VideoDecoderContract(ABC):
    """What every decoder must do.

    How a kernel rounds may depend on the shapes of its operands, on some processors and not on
    others. So float64 shows that different cuts give the same video, and in float32 bits are
    compared where shapes are equal.
    """

    height: ClassVar[int] = 2
    """Latent height."""
    width: ClassVar[int] = 3
    """Latent width."""
    bit_equal: ClassVar[Collection[tuple[int, ...]]] = ()
    """Those of ``CUTS`` in which all operands have the shapes that they have in the oracle."""
    held_back: ClassVar[int] = 0
    """Latent frames whose video frames ``decode`` may hold back until later latents come."""

    @abstractmethod
    def spec(self) -> BackboneSpec:
        """Return the model's spec."""

    @abstractmethod
    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        """Return a new decoder, always with the same weights, in float32 or float64."""

    @abstractmethod
    def oracle(self, latents: Tensor) -> Tensor:
        """Decode a whole video to ``(frames, 3, height, width)``, in the dtype of the latents.

        Args:
            latents: ``(1, C, F, H, W)``, in float32 or float64.
        """

    @pytest.fixture(autouse=True)
    def _no_grad(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    @cuts
    def test_block_by_block_equals_the_whole(self, cut: tuple[int, ...]) -> None:
        """Where a video is cut into blocks cannot be seen in it."""
        latents = self._latents().double()
        expected = self.oracle(latents)
        assert expected.dtype == torch.float64, "the oracle does not compute in float64"
        assert expected.std() > 0.01, "the oracle's video is empty: the test would show nothing"
        found = torch.cat(_decode(self.decoder(torch.float64), latents, cut))
        assert found.dtype == torch.float64, "the decoder does not follow its weights' dtype"
        _assert_close(found, expected, EXACT, f"cut into {cut}")

    @cuts
    def test_the_same_blocks_give_the_same_bits(self, cut: tuple[int, ...]) -> None:
        """As runs decode, in float32; the oracle's bits where the shapes are those of the oracle.

        Elsewhere the oracle's video but for rounding.
        """
        latents = self._latents()
        found, again = (
            torch.cat(_decode(self.decoder(torch.float32), latents, cut)) for _ in range(2)
        )
        assert torch.equal(found, again), f"cut into {cut}, a video differs from itself"
        tolerance = 0.0 if cut in self.bit_equal else ROUNDED
        _assert_close(found, self.oracle(latents), tolerance, f"cut into {cut}")

    @cuts
    def test_frames_are_counted_by_the_compression(self, cut: tuple[int, ...]) -> None:
        """After every block there are as many video frames as the compression says.

        But for at most ``held_back`` latent frames, which come when the video is finished.
        """
        spec, decoder = self.spec(), self.decoder(torch.float32)
        state, latent_frames, video_frames = decoder.start(), 0, 0
        for block in torch.split(self._latents(), list(cut), dim=2):
            video_frames += sum(len(frames) for frames in decoder.decode(state, block))
            latent_frames += block.shape[2]
            complete = spec.compression.video_frames(latent_frames)
            held_back = complete - video_frames
            assert 0 <= held_back <= self.held_back * spec.compression.temporal
        video_frames += sum(len(frames) for frames in decoder.finish(state))
        assert video_frames == complete

    def test_frames_are_pictures(self) -> None:
        """``(frames, 3, height, width)``, fp32, within -1 and 1."""
        compression = self.spec().compression
        size = (compression.spatial * self.height, compression.spatial * self.width)
        # Far latents leave the range of the VAE, as bad predictions do.
        for frames in _decode(self.decoder(torch.float32), 100 * self._latents(), (5,)):
            assert tuple(frames.shape[1:]) == (3, *size)
            assert frames.dtype == torch.float32
            assert frames.min() >= -1
            assert frames.max() <= 1

    def test_two_videos_in_turns_do_not_disturb_each_other(self) -> None:
        """All that is carried from block to block is in the state."""
        decoder = self.decoder(torch.float32)
        videos = [self._latents(seed=seed) for seed in (0, 1)]
        states: list[Any] = [decoder.start() for _ in videos]
        found: list[list[Tensor]] = [[] for _ in videos]
        for turn in range(5):
            for latents, state, frames in zip(videos, states, found, strict=True):
                frames += list(decoder.decode(state, latents[:, :, turn : turn + 1]))
        for state, frames in zip(states, found, strict=True):
            frames += list(decoder.finish(state))
        for number, (latents, frames) in enumerate(zip(videos, found, strict=True)):
            alone = torch.cat(_decode(self.decoder(torch.float32), latents, _FRAME_BY_FRAME))
            _assert_close(torch.cat(frames), alone, 0.0, f"video {number} of two")

    def test_latents_are_not_changed(self) -> None:
        """They are the queue's context and the journal's record."""
        latents = self._latents()
        before = latents.clone()
        _decode(self.decoder(torch.float32), latents, (5,))
        assert torch.equal(latents, before), "decode() changes the latents in place"

    def _latents(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (1, self.spec().channels, 5, self.height, self.width)
        return torch.randn(shape, generator=generator)


def _decode(decoder: AnyDecoder, latents: Tensor, cut: tuple[int, ...]) -> list[Tensor]:
    """Decode a whole video, cut into blocks."""
    state, found = decoder.start(), list[Tensor]()
    for block in torch.split(latents, list(cut), dim=2):
        found += decoder.decode(state, block)
    return [*found, *decoder.finish(state)]


def _assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {found.shape}, not {expected.shape}"
    difference = (found - expected).abs().max().item()
    assert difference <= tolerance, f"{what}: {difference:.2e} from the expected video"
