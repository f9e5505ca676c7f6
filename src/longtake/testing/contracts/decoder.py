"""The contract suite of video decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec

CUTS = [(5,), (1, 4), (4, 1), (2, 3), (3, 1, 1), (1, 1, 1, 1, 1)]
"""Ways to cut 5 latent frames into blocks."""

cuts = pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "+".join(map(str, cut)))


class VideoDecoderContract(ABC):
    """What every decoder must do."""

    height: ClassVar[int] = 2
    """Latent height."""
    width: ClassVar[int] = 3
    """Latent width."""
    tolerance: ClassVar[float] = 0.0
    """Largest difference from the oracle. Say why above 0."""
    held_back: ClassVar[int] = 0
    """Latent frames whose video frames ``decode`` may hold back until later latents come."""

    @abstractmethod
    def spec(self) -> BackboneSpec:
        """Return the model's spec."""

    @abstractmethod
    def decoder(self) -> AnyDecoder:
        """Return a new decoder, always with the same weights."""

    @abstractmethod
    def oracle(self, latents: Tensor) -> Tensor:
        """Decode a whole video ``(1, C, F, H, W)`` to ``(frames, 3, height, width)``."""

    @pytest.fixture(autouse=True)
    def _no_grad(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    @cuts
    def test_block_by_block_equals_the_whole(self, cut: tuple[int, ...]) -> None:
        """Where a video is cut into blocks cannot be seen in it."""
        latents = self._latents()
        expected = self.oracle(latents)
        assert expected.std() > 0.01, "the oracle's video is empty: the test would show nothing"
        decoder = self.decoder()
        state, found = decoder.start(), []
        for block in torch.split(latents, list(cut), dim=2):
            found += list(decoder.decode(state, block))
        found += list(decoder.finish(state))
        self._assert_equal(torch.cat(found), expected, f"cut into {cut}")

    @cuts
    def test_frames_are_counted_by_the_compression(self, cut: tuple[int, ...]) -> None:
        """After every block there are as many video frames as the compression says.

        But for at most ``held_back`` latent frames, which come when the video is finished.
        """
        spec, decoder = self.spec(), self.decoder()
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
        spec, decoder = self.spec(), self.decoder()
        # Far latents leave the range of the VAE, as bad predictions do.
        size = (spec.compression.spatial * self.height, spec.compression.spatial * self.width)
        state = decoder.start()
        video = [*decoder.decode(state, 100 * self._latents()), *decoder.finish(state)]
        for frames in video:
            assert tuple(frames.shape[1:]) == (3, *size)
            assert frames.dtype == torch.float32
            assert frames.min() >= -1
            assert frames.max() <= 1

    def test_two_videos_in_turns_do_not_disturb_each_other(self) -> None:
        """All that is carried from block to block is in the state."""
        decoder = self.decoder()
        videos = [self._latents(seed=seed) for seed in (0, 1)]
        states: list[Any] = [decoder.start() for _ in videos]
        found: list[list[Tensor]] = [[] for _ in videos]
        for turn in range(5):
            for latents, state, frames in zip(videos, states, found, strict=True):
                frames += list(decoder.decode(state, latents[:, :, turn : turn + 1]))
        for state, frames in zip(states, found, strict=True):
            frames += list(decoder.finish(state))
        for number, (latents, frames) in enumerate(zip(videos, found, strict=True)):
            self._assert_equal(torch.cat(frames), self.oracle(latents), f"video {number}")

    def test_latents_are_not_changed(self) -> None:
        """They are the queue's context and the journal's record."""
        latents, decoder = self._latents(), self.decoder()
        before = latents.clone()
        list(decoder.decode(decoder.start(), latents))
        assert torch.equal(latents, before), "decode() changes the latents in place"

    def _latents(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (1, self.spec().channels, 5, self.height, self.width)
        return torch.randn(shape, generator=generator)

    def _assert_equal(self, found: Tensor, expected: Tensor, what: str) -> None:
        assert found.shape == expected.shape, f"{what}: {found.shape}, not {expected.shape}"
        difference = (found - expected).abs().max().item()
        assert difference <= self.tolerance, f"{what}: {difference:.2e} from the whole video"
