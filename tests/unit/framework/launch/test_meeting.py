"""The meeting of ranks: what is said when it does not come about."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from longtake.errors import ConfigurationError, RankFailure
from longtake.framework.launch.interrupt import Interrupted
from longtake.framework.launch.meeting import CalledOff, Meeting

SOON = timedelta(seconds=1)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def meeting(port: int, rank: int, said: list[str], host: str = "127.0.0.1") -> Meeting:
    return Meeting(
        host=host,
        port=port,
        rank=rank,
        world_size=2,
        one_machine=True,
        patience=3 * SOON,
        told=SOON,
        silent=SOON,
        say=said.append,
        abandon=said.append,
    )


def test_ranks_that_come_meet(port: int) -> None:
    said: list[str] = []
    stores: list[Store] = []
    other = threading.Thread(target=lambda: stores.append(meeting(port, 1, said).meet({})))
    other.start()
    time.sleep(0.1)  # the first rank is late, as a machine may be
    store = meeting(port, 0, said).meet({})
    other.join()
    store.set("word", "said")
    assert stores[0].get("word") == b"said"
    assert not said


def test_a_host_name_that_does_not_resolve_is_told_at_once(port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"no machine of the name no-such-host\.invalid"):
        meeting(port, 1, [], "no-such-host.invalid").meet({})


def test_a_port_in_use_is_told_at_once(port: int) -> None:
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        with pytest.raises(ConfigurationError, match=f"port {port}, which another program uses"):
            meeting(port, 0, []).meet({})


def test_a_rank_that_never_comes_is_named_soon_and_given_up_on_later(port: int) -> None:
    said: list[str] = []
    with pytest.raises(RankFailure, match="rank 0 has waited for rank 1 to come to"):
        meeting(port, 0, said).meet({})
    assert said == [f"rank 0 waits for rank 1 to come to 127.0.0.1:{port}; it gives up after 3 s."]


def test_a_first_rank_that_never_comes_is_told_by_the_others(port: int) -> None:
    said: list[str] = []
    with pytest.raises(RankFailure, match=r"but nobody answers there \(Connection refused\)"):
        meeting(port, 1, said).meet({})
    (sentence,) = said
    assert sentence.startswith(f"rank 1 waits for rank 0 at 127.0.0.1:{port}, where nobody answers")


def test_a_rank_that_stalls_when_it_has_come_is_named_soon(port: int) -> None:
    """As one that is stopped while it waits for a third: what it has said is still there."""
    kept: list[Store] = []

    def come() -> None:
        first = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
        kept.append(PrefixStore("longtake/0", first))
        kept[0].set("here/1", "lo")

    other = threading.Timer(0.3, come)
    other.start()
    with pytest.raises(RankFailure, match=r"rank 0 has met rank 1 at .* no sign of life for 1 s"):
        meeting(port, 0, []).meet({})
    other.join()
    assert kept


def test_a_first_rank_that_stalls_is_told_by_the_others(port: int) -> None:
    """As one that is stopped: its machine still takes connections, and nobody answers them."""
    said: list[str] = []
    silent = socket.create_server(("127.0.0.1", port))
    waits = meeting(port, 1, said)
    ended = threading.Event()

    def meet() -> None:
        with suppress(RankFailure):
            waits.meet({})
        ended.set()

    threading.Thread(target=meet, daemon=True).start()
    for _ in range(100):
        if said:
            break
        time.sleep(0.1)
    (sentence,) = said
    assert sentence.startswith("what keeps the run's store at 127.0.0.1:")
    assert sentence.endswith("has not answered rank 1 for 1 s")
    silent.close()
    assert ended.wait(20.0)


@pytest.mark.parametrize("refuser", [0, 1])
def test_a_rank_that_refuses_calls_the_meeting_off(port: int, refuser: int) -> None:
    said: list[str] = []
    known: list[bool] = []
    other = threading.Thread(target=lambda: known.append(meeting(port, refuser, said).call_off({})))
    other.start()
    with pytest.raises(CalledOff):
        meeting(port, 1 - refuser, said).meet({})
    other.join()
    assert known == [False], "no other rank has said why"
    assert not said


def test_of_ranks_whose_number_nobody_knows_all_hear_of_a_refusal(port: int) -> None:
    known: list[bool] = []
    heard: list[int] = []

    def hear(rank: int) -> None:
        with pytest.raises(CalledOff):
            meeting(port, rank, []).meet({})
        heard.append(rank)

    first = replace(meeting(port, 0, []), world_size=0)
    threads = [threading.Thread(target=hear, args=(rank,)) for rank in (1, 2)]
    threads.append(threading.Thread(target=lambda: known.append(first.call_off({}))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert (sorted(heard), known) == ([1, 2], [False])


def test_whoever_calls_a_meeting_off_does_not_wait_for_what_is_no_store(port: int) -> None:
    said: list[str] = []

    def refuse() -> None:
        with suppress(RankFailure):
            meeting(port, 1, said).call_off({})

    with socket.create_server(("127.0.0.1", port)):
        thread = threading.Thread(target=refuse)
        thread.start()
        for _ in range(100):
            if said:
                break
            time.sleep(0.1)
    thread.join(20.0)
    (sentence,) = said
    assert "has not answered rank 1 for 1 s" in sentence


def test_of_two_that_refuse_one_says_why(port: int) -> None:
    known: list[bool] = []
    other = threading.Thread(target=lambda: known.append(meeting(port, 0, []).call_off({})))
    other.start()
    known.append(meeting(port, 1, []).call_off({}))
    other.join()
    assert sorted(known) == [False, True]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_waiting(port: int, rank: int) -> None:
    waits = meeting(port, rank, [])
    threading.Timer(0.1, waits.stop.set, (signal.SIGTERM,)).start()
    with pytest.raises(Interrupted) as ended:
        waits.meet({})
    assert ended.value.signal == signal.SIGTERM


def test_with_torchrun_no_rank_keeps_the_store(port: int) -> None:
    """Its agent does; there is none here."""
    with pytest.raises(RankFailure, match="nobody answers there"):
        meeting(port, 0, []).meet({"TORCHELASTIC_USE_AGENT_STORE": "True"})
