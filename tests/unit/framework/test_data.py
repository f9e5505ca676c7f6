"""Prompts to requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.errors import ConfigurationError
from longtake.framework import PromptAt
from longtake.framework.data import PromptData
from longtake.framework.engine.request import repeated

CASES = Path(__file__).parents[2] / "cases"


def texts(data: PromptData) -> list[list[tuple[float, str]]]:
    return [[(part.at, part.text) for part in request.prompts] for request in data.requests()]


def test_one_prompt_is_one_request() -> None:
    data = PromptData("a bird", num_frames=9, height=16, width=32, fps=8, seed=3)
    (request,) = data.requests()
    assert texts(data) == [[(0, "a bird")]]
    assert (request.index, request.num_frames, request.height, request.width) == (0, 9, 16, 32)
    assert (request.fps, request.seed, request.negative_prompt) == (8, 3, "")


def test_a_list_mixes_prompts_and_schedules() -> None:
    schedule = [PromptAt(at=0, text="dawn"), PromptAt(at=30, text="storm")]
    data = PromptData(["a bird", schedule])
    assert texts(data) == [[(0, "a bird")], [(0, "dawn"), (30, "storm")]]
    assert [request.index for request in data.requests()] == [0, 1]


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# birds\na bird\n\n  a gull \n", encoding="utf-8")
    assert texts(PromptData(str(file))) == [[(0, "a bird")], [(0, "a gull")]]


def test_a_line_of_jsonl_overrides_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a bird", "seed": 5, "num_frames": null}\n'
        '{"prompt": [{"at": 0, "text": "dawn"}, {"at": 2.5, "text": "dusk"}], "width": 64}\n'
    )
    data = PromptData(str(file), num_frames=9, width=32, seed=1)
    first, second = data.requests()
    assert (first.seed, first.num_frames, first.width) == (5, None, 32)
    assert (second.seed, second.num_frames, second.width) == (1, 9, 64)
    assert texts(data)[1] == [(0, "dawn"), (2.5, "dusk")]


@pytest.mark.parametrize("times", [[], [1], [0, 5, 5], [0, 5, 3]])
def test_a_schedule_starts_at_0_and_runs_forward(times: list[float]) -> None:
    data = PromptData([[PromptAt(at=at, text="bird") for at in times]])
    with pytest.raises(ConfigurationError, match="starts at 0 and runs forward"):
        data.requests()


def test_requests_are_sized_and_can_be_read_again() -> None:
    requests = PromptData(["a", "b"]).predict_dataloader()
    assert len(requests) == 2
    assert list(requests) == list(requests)


@pytest.mark.parametrize("name", ["list.prompt", "promptfile", ""])
def test_a_file_or_folder_of_a_prompts_name_is_refused(name: str) -> None:
    path = CASES / "prompt-file-other-ending" / name
    kind = "file" if name else "folder"
    with pytest.raises(ConfigurationError, match=rf"there is a {kind} of that name.*\.txt"):
        PromptData(str(path)).requests()
    assert texts(PromptData([str(path)])) == [[(0, str(path))]]


def test_a_long_prompt_is_no_file() -> None:
    prompt = "a red circle, " * 500
    assert texts(PromptData(prompt)) == [[(0, prompt)]]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("structured.jsonl", '{"shot": "wide", "subject": "red circle"}'),
        ("structured.txt", '{"shot": "wide", "subject": "red circle"}'),
        ("wild.txt", "{red|blue} circle"),
    ],
)
def test_prompts_may_look_like_json(file: str, text: str) -> None:
    path = CASES / "prompt-json-structured" / file
    assert texts(PromptData(str(path))) == [[(0, text)]]
    assert texts(PromptData([text])) == [[(0, text)]]
    assert texts(PromptData(text)) == [[(0, text)]]


@pytest.mark.parametrize(
    "prompt", ["{at: 0, text: dawn}", '[{"at": 0, "text": "dawn"}]', "[[{at: 0, text: dawn}]]"]
)
def test_a_schedule_that_was_read_as_a_text_is_refused(prompt: str) -> None:
    for data in (PromptData(prompt), PromptData([prompt])):
        with pytest.raises(ConfigurationError, match="looks like a prompt schedule"):
            data.requests()


def test_a_number_among_prompts_is_refused() -> None:
    """As the command line hands it on: the second prompt has become the text of the list."""
    data = PromptData(["a red circle", '["a red circle", 1917]'])
    with pytest.raises(ConfigurationError, match=r"prompt 1 is .*1917.*numbers in quotes"):
        data.requests()
    assert texts(PromptData(["[wide shot] a cat", "[wide shot]"]))[0] == [(0, "[wide shot] a cat")]


def test_a_seed_that_is_left_open_is_drawn_once_for_the_run() -> None:
    drawn = [PromptData(["a", "b"], seed=None) for _ in range(3)]
    seeds = {request.seed for data in drawn for request in data.requests()}
    assert len(seeds) == 3, "two draws of 32 bits were equal, or one run has several seeds"
    for data in drawn:
        assert {data.settled["seed"]} == {request.seed for request in data.requests()}


def test_a_line_cannot_have_its_seed_drawn(tmp_path: Path) -> None:
    """A rerun from config.yaml would draw another one."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a bird", "seed": null}\n')
    with pytest.raises(ConfigurationError, match=r"line 1: seed cannot be None"):
        PromptData(str(file)).requests()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "a", "seed": 1, "prompt": "b"}', "line 1: prompt is there twice"),
        (b'{"prompt": "\\ud800"}', "line 1: half a character"),
        ("a".encode("utf-16"), "line 1: UTF-16; save the file as UTF-8"),
        (b"caf\xe9", "line 1: not UTF-8 text"),
        (b'[{"prompt": "a"},\n{"prompt": "b"}]', "line 1: not JSON"),
    ],
)
def test_lines_that_say_two_things_or_none_are_refused(
    tmp_path: Path, line: bytes, why: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(line)
    with pytest.raises(ConfigurationError, match=why):
        PromptData(str(file)).requests()


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_ends_them(tmp_path: Path, ends: str) -> None:
    """With a byte order mark or without; spaces and tabs around a prompt do not count."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(
        "\ufeff\ta red\tcircle  ,# a comment, ,a #1 shape,".replace(",", ends).encode()
    )
    assert texts(PromptData(str(file))) == [[(0, "a red\tcircle")], [(0, "a #1 shape")]]


def test_requests_for_the_same_video_are_said() -> None:
    requests = PromptData(["a", "b", "a", "a"], seed=4).requests()
    said = repeated(requests)
    assert [line.partition(",")[0] for line in said] == [
        "request 2 asks for the same video as request 0",
        "request 3 asks for the same video as request 0",
    ]
    assert not repeated(PromptData(["a", "b"]).requests())
