"""The example of a sampler of one's own, chosen in YAML."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import predict

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_sampler_comes_by_its_class_path(config: Path, tmp_path: Path) -> None:
    choice = "  sampler: {class_path: own_sampler.ChurnedEuler, init_args: {churn: 0.3}}\n"
    config.write_text(config.read_text().replace("  steps: 3\n", "  steps: 3\n" + choice))
    output = tmp_path / "out"
    done = predict("--config", config, "--output", output, modules=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert "churn: 0.3" in (output / "config.yaml").read_text()
    assert list(output.glob("0000/video.mp4"))
