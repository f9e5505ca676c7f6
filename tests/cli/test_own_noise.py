"""A noise chosen in YAML: the example of one of one's own, and one of ours with options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import predict

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN = "{class_path: own_noise.Drifting, init_args: {likeness: %s}}"
FREE = "{class_path: FreeNoise, init_args: {length: 5, overlap: %s}}"


@pytest.mark.parametrize(
    ("noise", "shown"), [(OWN % 0.25, "likeness: 0.25"), (FREE % 2, "overlap: 2")]
)
def test_a_noise_comes_by_its_class_path(
    config: Path, tmp_path: Path, noise: str, shown: str
) -> None:
    choose(config, noise)
    output = tmp_path / "out"
    done = predict("--config", config, "--output", output, modules=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert shown in (output / "config.yaml").read_text()
    assert list(output.glob("0000/video.mp4"))


@pytest.mark.parametrize(
    ("noise", "sentence"),
    [(OWN % 1.5, "a likeness of 1.5 leaves no new noise"), (FREE % 5, "the nearest overlap is 4")],
)
def test_options_of_a_noise_that_cannot_be_are_refused_in_a_sentence(
    config: Path, tmp_path: Path, noise: str, sentence: str
) -> None:
    choose(config, noise)
    done = predict("--config", config, "--output", tmp_path / "out", modules=EXAMPLES)
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def choose(config: Path, noise: str) -> None:
    config.write_text(config.read_text().replace("  steps: 3\n", f"  steps: 3\n  noise: {noise}\n"))
