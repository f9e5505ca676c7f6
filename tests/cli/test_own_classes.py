"""Examples of classes of one's own, chosen in YAML: one of each contract."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.cli.command import predict, run_here

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN = """\
  sampler: {class_path: own_sampler.ChurnedEuler, init_args: {churn: 0.3}}
  guidance: {class_path: own_guidance.ZeroStar, init_args: {strength: 0.5}}
  attention: {class_path: own_attention.ByChunks, init_args: {chunk: 50}}
  reuse: {class_path: own_reuse.EverySecond, init_args: {threshold: 0.7}}
  cache: NoCache
"""


SKETCH = """\
trainer:
  accelerator: cpu
  strategy: subclass_strategy.BranchByBranch
  callbacks: [{class_path: own_callback.Poster, init_args: {folder: POSTERS}}]
model:
  pipeline: MODEL
  family: {class_path: plug_in_backbone.SketchFamily}
  scheduler: {class_path: own_schedule.OneByOne, init_args: {block_frames: 4, context_frames: 2}}
  cache: NoCache
  noise: {class_path: own_noise.Drifting, init_args: {likeness: 0.25}}
  sampler: {class_path: own_sampler.ChurnedEuler, init_args: {churn: 0.3}}
  guidance: {class_path: own_guidance.ZeroStar, init_args: {strength: 0.5}}
  attention: {class_path: own_attention.ByChunks, init_args: {chunk: 50}}
  steps: 2
  guidance_scale: 2.0
data: {prompts: [a bird in the sky], num_frames: 8, height: 16, width: 16}
"""


def test_every_contract_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model, schedule, noise, sampler, guidance, kernel, strategy and callback of one's own."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import_module("sketch_dit").save_random(tmp_path / "sketch")
    text = SKETCH.replace("MODEL", str(tmp_path / "sketch"))
    file = tmp_path / "run.yaml"
    file.write_text(text.replace("POSTERS", str(tmp_path / "posters")))
    output = tmp_path / "out"
    done = run_here(capsys, "predict", "--config", file, "--output", output)
    assert done.returncode == 0, done.stderr
    assert (output / "0000" / "video.mp4").exists()
    assert (tmp_path / "posters" / "poster-0000.png").exists()


def test_a_cache_of_ones_own_comes_by_its_class_path(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    run = yaml.safe_load(config.read_text())
    run["model"]["scheduler"] = {"class_path": "Autoregressive", "init_args": {"block_frames": 2}}
    run["model"]["cache"] = {
        "class_path": "own_cache.Thinned",
        "init_args": {"recent": 3, "far": 1},
    }
    run["model"]["noise"] = "Independent"
    config.write_text(yaml.safe_dump(run))
    done = run_here(capsys, "predict", "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "0000" / "video.mp4").exists()


def test_classes_of_ones_own_come_by_their_class_paths(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("  steps: 3\n", "  steps: 3\n" + OWN))
    output = tmp_path / "out"
    done = predict("--config", config, "--output", output, modules=EXAMPLES)
    assert done.returncode == 0, done.stderr
    used = (output / "config.yaml").read_text()
    assert "churn: 0.3" in used
    assert "strength: 0.5" in used
    assert "chunk: 50" in used
    assert "threshold: 0.7" in used
    assert list(output.glob("0000/video.mp4"))


@pytest.mark.parametrize(
    ("key", "choice", "sentence"),
    [
        (
            "guidance",
            "{class_path: PerturbedAttentionGuidance, init_args: {layers: [9]}}",
            "PerturbedAttentionGuidance is to perturb layer 9, but the model has layers 0 to 3",
        ),
        (
            "guidance",
            "{class_path: AdaptiveProjectedGuidance, init_args: {norm: -2}}",
            "norm is -2",
        ),
        ("guidance", "ClassifierFreeGuidanc", "the nearest is ClassifierFreeGuidance"),
        ("guidance", "EmbeddedGuidance", "this model is not told a scale"),
        (
            "reuse",
            "{class_path: FirstBlockCache, init_args: {threshold: -1}}",
            "threshold is -1; the least",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_refused_in_a_sentence(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    key: str,
    choice: str,
    sentence: str,
) -> None:
    own = f"  steps: 3\n  {key}: {choice}\n"
    config.write_text(config.read_text().replace("  steps: 3\n", own))
    done = run_here(capsys, "predict", "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())


def test_a_kernel_that_cannot_be_is_refused_in_a_sentence(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    text = config.read_text()
    for attention, sentence in (
        ("own_attention.ByChunks", "a kernel of your own as {class_path: package.module.Class}"),
        ("{class_path: own_attention.ByChunks, init_args: {chunk: 0}}", "cannot read 0 keys"),
    ):
        own = f"  steps: 3\n  attention: {attention}\n"
        config.write_text(text.replace("  steps: 3\n", own))
        done = run_here(capsys, "predict", "--config", config)
        assert done.returncode == 2
        assert sentence in " ".join(done.stderr.split())


def test_further_forwards_are_planned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = "{class_path: SkipLayerGuidance, init_args: {layers: [1, 2]}}"
    own = f"  steps: 3\n  guidance: {choice}\n"
    config.write_text(config.read_text().replace("  steps: 3\n", own))
    planned = run_here(capsys, "plan", "--config", config, "--format", "json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert [rank["branches"] for rank in plan["ranks"]] == ["0,1,2"]
    assert plan["settings"]["guidance"] == "SkipLayerGuidance"
