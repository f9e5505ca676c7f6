"""The teardown of a rank: what a failed one leaves out, since it would wait for a device."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from longtake.errors import RankFailure
from longtake.framework.launch.rank_strategy import RankStrategy
from longtake.testing.cuda_rules.device import EmulatedDevice


@pytest.fixture
def strategy() -> RankStrategy:
    strategy = RankStrategy(LightningEnvironment())
    strategy.accelerator = mock.Mock()
    strategy._communicator = mock.Mock()
    strategy._communicator.last_actions.return_value = ["rank 0: compute", "rank 1: nothing"]
    return strategy


def parts(strategy: RankStrategy) -> tuple[mock.Mock, mock.Mock]:
    communicator, accelerator = strategy._communicator, strategy.accelerator
    assert isinstance(communicator, mock.Mock)
    assert isinstance(accelerator, mock.Mock)
    return communicator, accelerator


@pytest.mark.parametrize("error", [ValueError("out of luck"), RankFailure("rank 1 is gone.")])
def test_a_failed_rank_gives_no_memory_back_and_aborts_its_transfers(
    strategy: RankStrategy, error: Exception
) -> None:
    """An accelerator's teardown empties its cache: on CUDA that waits for posted receives."""
    communicator, accelerator = parts(strategy)
    device = EmulatedDevice(patience=0.5)
    device.begin("messages", "posted receive", lambda: [mock.Mock(wait=threading.Event().wait)])
    accelerator.teardown.side_effect = lambda: device.synchronize("empty_cache")
    with mock.patch.object(dist, "destroy_process_group") as destroy:
        strategy.on_exception(error)
        strategy.teardown()
    accelerator.teardown.assert_not_called()
    destroy.assert_not_called()
    communicator.abort.assert_called_once()
    communicator.close.assert_called_once()


def test_a_rank_that_ends_well_tears_down(strategy: RankStrategy) -> None:
    communicator, accelerator = parts(strategy)
    with mock.patch.object(dist, "destroy_process_group") as destroy:
        strategy.teardown()
    accelerator.teardown.assert_called_once()
    destroy.assert_called_once()
    communicator.abort.assert_not_called()


def test_what_all_ranks_did_last_is_written(strategy: RankStrategy, tmp_path: Path) -> None:
    strategy.last_actions = tmp_path / "last_actions.txt"
    strategy.on_exception(RankFailure("rank 1 is gone."))
    assert strategy.last_actions.read_text() == "rank 0: compute\nrank 1: nothing\n"


def test_what_takes_too_long_is_said(
    strategy: RankStrategy, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy._report("rank 1 has been in compute block 3, step 4 for 30 s.")
    assert capsys.readouterr().err == (
        "longtake: warning: rank 1 has been in compute block 3, step 4 for 30 s.\n"
    )
