"""Cuts of a video into blocks: the longer first one, the rest at the end, changes of the prompt."""

from __future__ import annotations

from itertools import islice

import pytest

from longtake.errors import ConfigurationError
from longtake.schedulers.cuts import EqualBlocks, finite
from longtake.task import Video


@pytest.mark.parametrize("longer", [0, 2])
@pytest.mark.parametrize("frames", [1, 3, 5, 6, 11, 12, None])
def test_blocks_cover_the_video_without_a_gap(longer: int, frames: int | None) -> None:
    cut = EqualBlocks(3, longer)
    blocks = list(islice(cut.all(frames), 20))
    assert [f for block in blocks for f in block.each] == list(range(blocks[-1].stop))
    assert frames is None or blocks[-1].stop == frames
    assert {len(block) for block in blocks[1:-1]} <= {3}
    assert len(blocks[0]) == min(3 + longer, frames or 99)


def test_start_of_a_block_that_is_not_there_is_the_end() -> None:
    assert EqualBlocks(3, 2).start(5, 9) == 9
    assert EqualBlocks(3, 2).start(5, None) == 17


@pytest.mark.parametrize("longer", [0, 2, 3])
@pytest.mark.parametrize("change", range(12))
def test_a_change_comes_with_the_first_block_that_begins_at_it_or_later(
    longer: int, change: int
) -> None:
    cut, video = EqualBlocks(3, longer), Video(None, 4, prompt_changes=(change,))
    blocks = list(islice(cut.all(None), 20))
    wanted = next(number for number, block in enumerate(blocks) if block.start >= change)
    assert [number for number in range(20) if cut.changes_before(number, video)] == [wanted]
    assert cut.changes_after(wanted - 1, video)
    assert not cut.changes_after(wanted, video)


def test_a_block_without_frames_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="block_frames is 0, but a block holds at least 1"):
        EqualBlocks(0)


def test_an_endless_video_has_no_length() -> None:
    assert finite(7, "X needs an end") == 7
    with pytest.raises(ConfigurationError, match=r"num_frames is null.*, but X needs an end; use"):
        finite(None, "X needs an end")
