"""Configuration files that a parser would not come to an end with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import run_here

from longtake.errors import ConfigurationError
from longtake.framework.console.config_files import check_files

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a {b: *a}", "within the value that it stands for, line 1"),
        ("a: &x [*x]", "within the value"),
        (BOMB, "more than 100,000 values"),
        ("a: " + "[" * 90 + "1" + "]" * 90, None),
        ("a: " + "[" * 150 + "1" + "]" * 150, "nested more than 100 levels"),
        ("[" * 5000, "nested more than 100 levels"),
        ("a:\n" + "- " * 5000, "nested more than 100 levels"),
        ("a: '" + "x" * 1_000_001 + "'", "has 1,000,006 bytes"),
        ("a: &a {x: 1}\nb: *a\nc: [*a, *a]", None),
        ("- a\n- b", "holds no options"),
        ("null", "holds no options"),
        ("3", "holds no options"),
        ("a: 1\nconfig: /etc/passwd", r"names another one \(config, line 2\)"),
        ("", "is empty"),
        ("{a: ", None),
        ("\x00", None),
    ],
)
def test_endless_files_are_refused(text: str, said: str | None, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for args in (["predict", "--config", str(file)], ["plan", f"-c={file}"]):
        if said is None:
            check_files(args)
        else:
            with pytest.raises(ConfigurationError, match=said):
                check_files(args)


def test_what_is_no_file_is_left_to_the_parser(tmp_path: Path) -> None:
    for name in ("missing.yaml", str(tmp_path), "", "\0", "x" * 300):
        check_files(["predict", "--config", name, "--config"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainer: [1]", "trainer is '[1]', but it must hold options by name"),
        ("data: 7", "data is '7', but it must hold options by name"),
        ("video: {zoom: null}", "video.zoom is null, but it has a value always"),
        ("overwrite: null", "overwrite is null"),
        (
            "model: {pipeline: demo, scheduler: {class_path: FifoQueue, "
            "init_args: {block_frames: null}}}",
            "model.scheduler.block_frames is null",
        ),
    ],
)
def test_what_the_parser_would_take_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    for words in (["predict"], ["plan"]):
        words = [*words, "--model.pipeline", "demo", "--data.prompts", "a bird"]
        words += ["--output", str(tmp_path / "out"), "--config", str(tmp_path / "c.yaml")]
        done = run_here(capsys, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"longtake: error: {said}")
    assert not (tmp_path / "out").exists()


def test_null_is_taken_where_it_means_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: {steps: null, lora: null, cache: {class_path: RollingKV, init_args: "
        "{frames: null}}}\n"
        "trainer: {strategy: null, callbacks: null}\ndata: {height: null, num_frames: 33}\n"
    )
    words = ("plan", "--model.pipeline", "demo", "--data.prompts", "a", "--config")
    done = run_here(capsys, *words, tmp_path / "c.yaml", "--model.cache", "NextBlockKV")
    assert (done.returncode, done.stderr) == (0, "")
