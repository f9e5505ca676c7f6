"""The public API: its names, its signatures, and what a script that misuses it is told."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import pytest

import longtake
import public_api
from longtake import api, plugins
from longtake.api import (
    ConfigurationError,
    Engine,
    FullSequence,
    GenerationConfig,
    InferenceTrainer,
    LongtakeCallback,
    PromptAt,
    PromptData,
    Request,
    RequestStarted,
    SequenceParallel,
    VideoModule,
    VideoWriter,
)
from longtake.testing.tiny.base import TINY_HARDWARE

ROOT: Final = Path(__file__).parents[2]
SIZE: Final[dict[str, Any]] = {"num_frames": 5, "height": 16, "width": 16}
CLIP: Final[dict[str, Any]] = {"scheduler": FullSequence(), "steps": 1, "dtype": "float32"}
PROMPT: Final[Any] = "a red circle"


def test_the_files_that_the_list_is_made_into_are_up_to_date() -> None:
    wrong = "python tools/public_api.py --write, with a line in CHANGELOG.md and docs/migrating.md"
    assert public_api.STUB.read_text() == public_api.stub(), wrong
    assert public_api.SIGNATURES.read_text() == public_api.signatures(), wrong
    page = public_api.PAGE.read_text()
    assert public_api.replaced(page) == page, wrong


def test_what_is_public_is_documented() -> None:
    bare = [
        name
        for name in api.HOMES
        if isinstance(getattr(api, name), type) and not public_api.PAGE.read_text().count(name)
    ]
    assert not bare


def released() -> list[Path]:
    """Snapshots of releases before this version, newest first."""
    found = public_api.SIGNATURES.parent.glob("[0-9]*.txt")
    files = [file for file in found if file.stem != longtake.__version__]
    return sorted(files, key=lambda file: [int(n) for n in file.stem.split(".")], reverse=True)


def test_changes_since_the_last_release_are_told() -> None:
    if not released():
        pytest.skip("there was no release yet")
    changed = public_api.changed(released()[0].read_text(), public_api.signatures())
    for page in ("CHANGELOG.md", "docs/migrating.md"):
        text = (ROOT / page).read_text()
        said = re.split(r"^## ", text, flags=re.MULTILINE)
        unreleased = next(part for part in said if "nreleased" in part.split("\n", 1)[0])
        assert not [name for name in changed if f"`{name}`" not in unreleased], page


BEFORE: Final = """\
class Cache(ABC)
    abstract def window(self, task: Task) -> Window

def load(path: str) -> None

alias Rotary
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("task: Task", "task: Task, held: Held", {"Cache"}),
        ("alias Rotary\n", "", {"Rotary"}),
        ("load(path: str)", "load(path: Path)", {"load"}),
        ("alias Rotary", "alias Rotary\n\nalias New", set()),
        ("-> Window", "-> Window\n    def more(self) -> int", set()),
        ("-> Window", "-> Window\n    abstract def more(self) -> int", {"Cache"}),
    ],
)
def test_what_counts_as_a_change(old: str, new: str, changed: set[str]) -> None:
    assert public_api.changed(BEFORE, BEFORE.replace(old, new)) == changed


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no Generater.*nearest public name is \w+"):
        _ = api.Generater  # type: ignore[attr-defined]
    assert set(dir(api)) == set(api.HOMES)


def test_importing_it_imports_nothing_else() -> None:
    tree = ast.parse(Path(api.__file__).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found <= sys.stdlib_module_names | {"collections.abc", "longtake.errors"}


def point(group: str) -> EntryPoints:
    return EntryPoints([EntryPoint("sketch", f"{__name__}:SIZE", group)])


@pytest.mark.parametrize("group", ["longtake.models.v1", "longtake.schedulers", "other"])
def test_plug_ins_of_the_right_contracts_are_loaded(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda: point(group))
    assert plugins.plug_ins("models") == ([SIZE] if group == "longtake.models.v1" else [])


def test_a_plug_in_of_other_contracts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda: point("longtake.models.v7"))
    with pytest.raises(ConfigurationError, match=r"sketch is written for version 7 .* version 1"):
        plugins.plug_ins("models")
    monkeypatch.setattr(plugins, "entry_points", lambda: point("longtake.models"))
    with pytest.warns(FutureWarning, match=r"name its entry-point group longtake\.models\.v1"):
        assert plugins.plug_ins("models") == [SIZE]


def texts(prompts: Any) -> list[list[tuple[float, str]]]:
    data = PromptData(prompts=prompts)
    return [[(part.at, part.text) for part in request.prompts] for request in data.requests()]


@pytest.mark.parametrize(
    "prompts",
    [
        "a bird",
        ("a bird",),
        ["a bird"],
        PromptAt(text="a bird"),
        [PromptAt(text="a bird")],
        (one for one in ("a bird",)),
    ],
)
def test_prompts_are_taken_in_any_form(prompts: Any) -> None:
    assert texts(prompts) == [[(0.0, "a bird")]]


def test_a_prompt_file_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("a bird\n")
    assert texts(tmp_path / "all.txt") == [[(0.0, "a bird")]]


def test_a_request_takes_a_text() -> None:
    forms: list[Any] = ["a bird", ("a bird",), ["a bird"], (PromptAt(text="a bird"),)]
    assert len({Request(prompts=form, **SIZE) for form in forms}) == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (7, "data.prompts is 7, of type int"),
        ({"a": 1}, "of type dict"),
        ([7], "a prompt is 7, of type int"),
        ([["a", "b"]], "2 prompts, but not all say from when on"),
    ],
)
def test_what_are_no_prompts_is_refused(prompts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PromptData(prompts=prompts)


class Silent(LongtakeCallback):
    pass


class Starts(LongtakeCallback):
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        raise AssertionError("nothing is run in this test")


@pytest.mark.parametrize(
    ("model", "data", "callbacks", "message"),
    [
        (VideoModule("demo"), None, [Starts()], "given nothing to make; give it a PromptData"),
        (VideoModule("demo"), ["a bird"], [Starts()], "given a list to make"),
        ("demo", PromptData("a bird"), [Starts()], "given a str; it makes videos with a Vid"),
        (VideoModule("demo"), PromptData("a bird"), [Silent()], "no callback takes what predict"),
        (VideoModule("demo"), PromptData("a bird"), [], "no callback takes what predict"),
    ],
)
def test_a_script_that_leaves_something_out_is_told(
    model: Any, data: Any, callbacks: list[LongtakeCallback], message: str
) -> None:
    trainer = InferenceTrainer(accelerator="cpu", callbacks=callbacks)
    with pytest.raises(ConfigurationError, match=message):
        trainer.predict(model, data)


def test_a_writer_without_a_folder_is_refused() -> None:
    trainer = InferenceTrainer(accelerator="cpu")
    with pytest.raises(ConfigurationError, match="VideoWriter has no folder"):
        VideoWriter().setup(trainer, VideoModule("demo"), "predict")


def test_ranks_that_are_not_joined_are_refused() -> None:
    config = GenerationConfig("demo", **CLIP)
    engine = Engine(config, SequenceParallel(ulysses=2), world_size=2, hardware=TINY_HARDWARE)
    with pytest.raises(ConfigurationError, match=r"one of 2 ranks.*engine\.join"):
        engine.load([Request(prompts=PROMPT, **SIZE)])


def test_a_module_that_nobody_has_prepared_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"runs under InferenceTrainer\.predict"):
        VideoModule("demo").on_predict_epoch_end()


# Lightning advises this and that, and calls what torch will rename; the command silences it.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_a_video_from_a_script(tmp_path: Path) -> None:
    trainer = InferenceTrainer(accelerator="cpu")
    trainer.attach([VideoWriter("gif").to(tmp_path / "out")])
    trainer.predict(VideoModule("demo", **CLIP), PromptData(prompts=PROMPT, **SIZE))
    assert (tmp_path / "out" / "0000" / "video.gif").stat().st_size > 100
