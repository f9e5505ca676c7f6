"""What a config may name: subclasses of a parameter's contract, and nothing else."""

from __future__ import annotations

import inspect
import os
import subprocess
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from tests.cli.command import run_here

from longtake.caches import FeatureCache
from longtake.errors import ConfigurationError
from longtake.framework.callbacks import LongtakeCallback
from longtake.framework.cli import LongtakeCLI
from longtake.framework.console.trust import NOT_BY_NAME, check_classes, taken
from longtake.guidance import Guidance
from longtake.models import AttentionKernel, ModelFamily, Sampler
from longtake.models.layers.kernel import check_backend
from longtake.models.trust import HUB_KERNELS, PLUGINS, kernel_commit, plugins_allowed
from longtake.noise import NoiseInit
from longtake.reuse import LayerReuse
from longtake.schedulers import BlockScheduler
from longtake.strategies import ParallelStrategy

CONTRACTS = (
    *(BlockScheduler, NoiseInit, FeatureCache, ParallelStrategy, ModelFamily, Sampler),
    *(Guidance, AttentionKernel, LayerReuse),
    LongtakeCallback,
)
"""Whose subclasses a config may name, anybody's."""
PLAIN = (int, float, str, bool, type(None), Path)
"""Types that no class but themselves is made for."""


class Taken(Exception):
    """Carries the parser out, before it has parsed."""


def parsers(monkeypatch: pytest.MonkeyPatch) -> dict[str, ArgumentParser]:
    def taken(self: object, parser: Any, args: object) -> None:
        raise Taken(parser._subcommands_action.choices)

    monkeypatch.setattr(LongtakeCLI, "parse_arguments", taken)
    with pytest.raises(Taken) as found:
        LongtakeCLI(["predict"])
    choices: dict[str, ArgumentParser] = found.value.args[0]
    return choices


def typed(parser: Any) -> Iterator[tuple[str, Any]]:
    """Yield a parser's options with their types."""
    for action in parser._actions:
        if (hint := getattr(action, "_typehint", None)) is not None:
            yield action.dest, hint


def chosen(contract: type) -> Iterator[type]:
    """Yield our own subclasses of a contract that a config can name."""
    subclasses: list[type] = type.__subclasses__(contract)
    for subclass in subclasses:
        yield from chosen(subclass)
        # Of jsonargparse, around a default: by no import path.
        lazy = subclass.__name__.startswith("LazyInstance")
        ours = subclass.__module__.startswith("longtake.") and not lazy
        if ours and not subclass.__module__.startswith((*NOT_BY_NAME, "longtake.testing")):
            yield subclass


def doors(name: str, hint: Any, seen: set[object]) -> Iterator[str]:
    """Yield what of a type accepts a class or a callable that is of no contract."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in PLAIN or hint is ... or origin is Literal:
        return
    if origin in (Union, types.UnionType, list, tuple, dict):
        for part in inner:
            yield from doors(name, part, seen)
    elif origin is Callable or origin is type(lambda: 0) or str(origin).endswith("abc.Callable"):
        if inner[-1] not in CONTRACTS:
            yield f"{name}: {hint}"
        else:
            yield from doors(name, inner[-1], seen)
    elif hint in CONTRACTS:
        for subclass in chosen(hint):
            if subclass not in seen and not inspect.isabstract(subclass):
                seen.add(subclass)
                parser = ArgumentParser()
                parser.add_class_arguments(subclass, fail_untyped=False)
                for option, inner_hint in typed(parser):
                    yield from doors(f"{name} > {subclass.__name__}.{option}", inner_hint, seen)
    elif is_dataclass(hint) and isinstance(hint, type):
        if hint not in seen:
            seen.add(hint)
            hints = get_type_hints(hint)
            for field in fields(hint):
                yield from doors(f"{name}.{field.name}", hints[field.name], seen)
    else:
        yield f"{name}: {hint}"


@pytest.mark.parametrize("command", ["predict", "plan", "models", "convert"])
def test_no_option_takes_an_arbitrary_class_or_callable(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[object] = set()
    options = list(typed(parsers(monkeypatch)[command]))
    assert [door for name, hint in options for door in doors(name, hint, seen)] == []
    if command == "predict":
        assert len(options) > 30
        assert len([found for found in seen if isinstance(found, type)]) > 20


@pytest.mark.parametrize(
    "hint",
    [
        *(Any, object, type, types.ModuleType, subprocess.Popen, Callable[[], int]),
        *(Callable[[], subprocess.Popen[str]], list[Any], dict[str, Any]),
    ],
)
def test_the_walk_finds_open_types(hint: Any) -> None:
    assert list(doors("x", hint, set()))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trainer.callbacks", "{class_path: %s.TimelineWriter, init_args: {folder: {path: x}}}"),
        ("trainer.callbacks", "{class_path: %s.TimelineWriter, init_args: {communicator: POPEN}}"),
        ("trainer.callbacks", "{class_path: %s.ReportWriter, init_args: {communicator: POPEN}}"),
        ("trainer.callbacks", "[{class_path: %s.VideoWriter}]"),
        ("trainer.callbacks", "POPEN"),
        ("trainer.strategy", "FromPlan"),
        ("trainer.strategy", "POPEN"),
        ("model.cache", "POPEN"),
        ("model.cache", "{class_path: AnchorKV, init_args: {cache: POPEN}}"),
        ("model.sampler", "POPEN"),
        ("model.sampler", "longtake.models.samplers.loading.load_sampler"),
        ("model.sampler", "{class_path: DiffusersSampler, init_args: {scheduler: POPEN}}"),
        ("model.sampler", "{scheduler: DDIMScheduler, options: {eta: POPEN}}"),
        ("model.family", "longtake.models.registry.family_of"),
        (
            "model.family",
            "{class_path: longtake.models.registry.family_of, init_args: {folder: {path: x, "
            "index: {}, report: POPEN}}}",
        ),
        ("model.lora", "[{path: POPEN}]"),
        ("data.prompts", "[[{at: 0, text: POPEN}]]"),
        ("data.seed", "POPEN"),
        ("output", "POPEN"),
        ("video", "POPEN"),
        ("model", "POPEN"),
    ],
)
def test_a_config_starts_no_program(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touched = tmp_path / "touched"
    popen = f"{{class_path: subprocess.Popen, init_args: {{args: [touch, '{touched}']}}}}"
    text = value.replace("%s", "longtake.framework.callbacks").replace("POPEN", popen)
    keys = option.split(".")
    config = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys))
    file = tmp_path / "hostile.yaml"
    file.write_text(f"{config.rstrip()} {text}\n")
    done = run_here(
        *(capsys, "predict", "--model.pipeline", "demo", "--data.prompts", "a bird"),
        *("--output", tmp_path / "out", "--config", file),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("longtake: error: ")
    assert done.stderr.count("\n") == 1
    if "longtake.models" not in value:
        assert "a function" not in done.stderr
    assert not touched.exists()
    assert not (tmp_path / "out").exists()


def test_a_good_config_file_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(
        "model: {pipeline: demo, cache: {class_path: AnchorKV, init_args: {frames: 1}}}\n"
        "trainer: {accelerator: cpu}\ndata: {prompts: [a bird], num_frames: 129}\n"
    )
    for words in (["plan", "--config", str(file)], ["--config", str(file), "plan"]):
        done = run_here(capsys, *words)
        assert (done.returncode, done.stderr) == (0, "")


def test_functions_are_refused_wherever_they_stand() -> None:
    check_classes({"a": {"class_path": "pathlib.Path"}, "b": [1, {"c": Path("x")}]})
    for value in (os.getpid, {"class_path": "os.getpid"}, [{"class_path": "pathlib.Path.home"}]):
        with pytest.raises(ConfigurationError, match=r"model\.cache is .*, a function"):
            check_classes({"model": {"cache": value}})


@pytest.mark.parametrize(
    "text",
    [
        "trainer: {strategy: {class_path: SingleDevice, dict_kwargs: {a: 1}}}",
        "model: {scheduler: {class_path: FifoQueue, dict_kwargs: {a: 1}}}",
    ],
)
def test_options_that_nobody_looks_at_are_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = run_here(
        *(capsys, "predict", "--model.pipeline", "demo", "--data.prompts", "a bird"),
        *("--output", tmp_path / "out", "--config", tmp_path / "c.yaml"),
    )
    assert done.returncode == 2
    assert "has dict_kwargs, but" in done.stderr
    assert done.stderr.count("\n") == 1


def test_trust_is_taken_from_the_command_line() -> None:
    commit = "0123456789" * 4
    environment: dict[str, str] = {}
    words = ["predict", "--plugins", "none", "--x", f"--allow_hub_kernels={commit}"]
    assert taken(words, environment) == ["predict", "--x"]
    assert environment == {PLUGINS: "none", HUB_KERNELS: commit}
    assert not plugins_allowed(environment)
    assert kernel_commit(environment) == commit
    assert plugins_allowed({})
    assert kernel_commit({}) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plugins"], "--plugins is given without a value"),
        (["--plugins", "some"], "'some', but it must be one of all, none"),
        (["--allow_hub_kernels", "main"], "'main', but it must be a commit"),
    ],
)
def test_trust_is_said_clearly(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        taken(words, {})


@pytest.mark.parametrize("option", ["plugins: all", "allow_hub_kernels: '%s'" % ("a" * 40)])
def test_no_file_allows_itself_anything(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(option)
    done = run_here(
        *(capsys, "predict", "--model.pipeline", "demo", "--config", tmp_path / "own.yaml"),
        *("--output", tmp_path / "out"),
    )
    assert done.returncode == 2
    assert f"there is no option {option.partition(':')[0]}" in done.stderr


def test_kernels_come_from_the_hub_only_when_their_commit_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from diffusers.models import attention_dispatch

    from longtake.models import Placement

    asked: list[object] = []

    def run(q: Any, k: Any, v: Any, backend: str) -> None:
        name = attention_dispatch.AttentionBackendName(backend)
        found = attention_dispatch._HUB_KERNELS_REGISTRY[name]
        asked.extend((found.revision, found.version))

    monkeypatch.setattr("longtake.models.layers.kernel.attention_kernel", run)
    for name in ("_check_attention_backend_requirements", "_maybe_download_kernel_for_backend"):
        monkeypatch.setattr(f"longtake.models.layers.kernel.{name}", lambda _backend: None)
    monkeypatch.setattr(
        "longtake.models.layers.kernel._HUB_KERNELS_REGISTRY",
        registry := dict(attention_dispatch._HUB_KERNELS_REGISTRY),
    )
    monkeypatch.setattr(attention_dispatch, "_HUB_KERNELS_REGISTRY", registry)
    for name, kernel in registry.items():
        registry[name] = type(kernel)(kernel.repo_id, kernel.function_attr, version=kernel.version)
    place = Placement(torch.device("cpu"), torch.float32)
    for backend in (name.value for name in registry):
        monkeypatch.delenv(HUB_KERNELS, raising=False)
        with pytest.raises(ConfigurationError, match="--allow_hub_kernels COMMIT"):
            check_backend(backend, place)
        assert asked == []
        monkeypatch.setenv(HUB_KERNELS, "b" * 40)
        check_backend(backend, place)
        assert asked == ["b" * 40, None]
        asked.clear()
