"""Layout of a run: what is settled before any weight is read, and how it is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.framework import GenerationConfig, PromptAt, Request
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads, longest
from longtake.framework.main import main
from longtake.models import Lora, Placement
from longtake.models.wan.family import WanFamily
from longtake.plan.cost.memory import RankMemory
from longtake.plan.cost.profiles import profile
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    Denoising,
    Layout,
    Mesh,
    ParallelStrategy,
    Progress,
    SingleDevice,
    Workload,
)
from longtake.strategies.automatic import Automatic
from longtake.testing.tiny.base import LAYERS, tiny_wan_folder

VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=37, height=32, width=48)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny", shard_size="20KB").path


@pytest.fixture(scope="module")
def generation_config(model: Path) -> GenerationConfig:
    return GenerationConfig(
        pipeline=str(model), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )


def chosen_by(
    generation_config: GenerationConfig,
    strategy: ParallelStrategy,
    world_size: int,
    memory: float = 1e9,
) -> ChosenLayout:
    model = ResolvedModel(generation_config, Placement(torch.device("cpu"), torch.float32))
    workloads = Workloads(model, replace(profile("H200"), memory=memory))
    return ChosenLayout(workloads, strategy, world_size)


class Recording(ParallelStrategy):
    """Puts the layers on two ranks, and remembers the workloads that it was asked about."""

    def __init__(self) -> None:
        self.workloads: list[Workload] = []

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        self.workloads.append(workload)
        half = workload.spec.layers // 2
        return Layout(
            mesh=Mesh(pipe=2),
            stages=(range(half), range(half, workload.spec.layers)),
            batches=(range(workload.branches),),
        )

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        raise AssertionError("nothing runs here")


def test_one_layout_is_made_for_the_longest_request(generation_config: GenerationConfig) -> None:
    strategy = Recording()
    chosen = chosen_by(generation_config, strategy, 2)
    chosen.check([VIDEO, replace(VIDEO, num_frames=81), replace(VIDEO, num_frames=5)])
    chosen.check([replace(VIDEO, num_frames=161)])
    assert [workload.latent_frames for workload in strategy.workloads] == [21]
    assert chosen.workload.flops.layer > 0, (
        "a strategy weighs layouts with the model's own operations"
    )


def test_an_endless_video_is_the_longest() -> None:
    endless = replace(VIDEO, num_frames=None)
    large = replace(VIDEO, height=64)
    assert longest([VIDEO, endless, replace(VIDEO, num_frames=4001)]) is endless
    assert longest([VIDEO, large]) is large


def test_a_layout_for_another_number_of_devices_is_refused(
    generation_config: GenerationConfig,
) -> None:
    with pytest.raises(ConfigurationError, match=r"lays out 2 devices, but .* is 3"):
        chosen_by(generation_config, Recording(), 3).check([VIDEO])


def test_weights_are_counted_per_layer_from_headers(generation_config: GenerationConfig) -> None:
    weights = chosen_by(generation_config, SingleDevice(), 1).workloads.model.count_weights()
    assert weights is not None
    assert len(weights.layers) == LAYERS
    assert len(set(weights.layers)) == 1, "all layers are alike"
    assert 0 < weights.rest < weights.layers[0] * LAYERS


def test_what_does_not_fit_a_rank_is_refused_with_what_would(
    generation_config: GenerationConfig,
) -> None:
    chosen = chosen_by(generation_config, SingleDevice(), 1)
    chosen.check([VIDEO])
    [memory] = chosen.memory.of(chosen.workload, chosen.layout)
    assert memory.weights + memory.vae > memory.kv > 0
    chosen_by(generation_config, SingleDevice(), 1, memory.peak).check([VIDEO])
    with pytest.raises(
        ConfigurationError, match=r"the run needs .* on rank 0 .*but its device has"
    ):
        chosen_by(generation_config, SingleDevice(), 1, memory.peak - 1).check([VIDEO])
    with pytest.raises(
        ConfigurationError, match=r"what would fit: a feature cache that holds less"
    ):
        chosen_by(generation_config, SingleDevice(), 1, memory.peak - memory.kv).check([VIDEO])
    half = memory.peak - memory.weights // 4
    with pytest.raises(ConfigurationError, match="2 pipeline stages in place of 1"):
        chosen_by(generation_config, SingleDevice(), 1, half).check([VIDEO])


def test_what_waits_in_host_memory_or_is_kept_in_fewer_bytes_counts_so(
    generation_config: GenerationConfig,
) -> None:
    def memory_of(**changes: Any) -> RankMemory:
        chosen = chosen_by(replace(generation_config, **changes), SingleDevice(), 1)
        chosen.check([VIDEO])
        [memory] = chosen.memory.of(chosen.workload, chosen.layout)
        return memory

    plain, waiting = memory_of(), memory_of(offload="layers")
    assert plain.text == plain.host > 0
    assert (waiting.text, waiting.host) == (0, plain.host + plain.weights)
    weights = chosen_by(generation_config, SingleDevice(), 1).workloads.model.count_weights()
    assert weights is not None
    assert waiting.weights == 4 * (weights.rest + 3 * weights.layers[0])
    assert memory_of(offload="text_encoder").weights == plain.weights
    head_dim = chosen_by(generation_config, SingleDevice(), 1).workloads.model.spec.head_dim
    # A byte for four, and exponents of two bytes.
    assert memory_of(cache_format="int8").kv == int(plain.kv * (1 + 2 / head_dim) / 4)
    assert memory_of(vae_dtype="bfloat16").vae == pytest.approx(plain.vae / 2, abs=2)


def test_a_plan_is_printed_without_processes_weights_or_gpus(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "long.yaml"
    config.write_text(f"""\
trainer: {{accelerator: cuda, devices: 4, strategy: {{class_path: DualParal}}}}
model: {{pipeline: {model}, steps: 5}}
data: {{prompts: [bird], num_frames: null, height: 32, width: 48}}
output: {tmp_path / "out"}
""")
    main(["plan", "--config", str(config), "--profile", "h200", "--format", "json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["figures"]["devices"] == 4
    assert plan["figures"]["hardware"] == "H200"
    assert plan["figures"]["blocks"] is None, "it is endless"
    known = {name: value for name, value in plan["settings"].items() if value is not None}
    assert known == {
        "model": str(model),
        "pipeline": "WanPipeline",
        "licence": "apache-2.0",
        "steps": 5,
        "guidance_scale": 5.0,
        "sampler": "UniPCMultistepScheduler",
        "flow_shift": 3.0,
        "height": 32,
        "width": 48,
        "fps": 16,
    }
    assert [row["rank"] for row in plan["ranks"]] == [0, 1, 2, 3]
    assert [row["chosen"] for row in plan["alternatives"]].count("yes") == 1
    assert len(plan["alternatives"]) > 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_profile_is_refused_in_a_sentence(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--data.prompts", "bird", "--data.height", "32", "--data.width", "48")
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--model.pipeline", str(model), *settings, "--profile", "H20"])
    assert ended.value.code == 2
    assert "no hardware profile is named 'H20'; the nearest is" in capsys.readouterr().err


def test_replicas_are_weighed_where_there_are_several_requests(
    generation_config: GenerationConfig,
) -> None:
    requests = [replace(VIDEO, index=index) for index in range(3)]
    chosen = chosen_by(generation_config, Automatic(), 2)
    chosen.check(requests)
    assert [one.replicas.count for one in chosen.divisions] == [1, 2]
    assert (chosen.replicas.count, chosen.mesh.data, chosen.replica_size) == (2, 2, 1)
    assert chosen.replicas.shares == ((0, 2), (1,))
    assert chosen.makes(requests[1], 1)
    assert not chosen.makes(requests[1], 0)
    with pytest.raises(ConfigurationError, match="request 3 was not there when the requests were"):
        chosen.makes(replace(VIDEO, index=3), 0)
    alone = chosen_by(generation_config, Automatic(), 2)
    alone.check(requests[:1])
    assert alone.replicas.count == 1, "one video is nothing to share out"


def test_a_strategy_without_a_plan_is_shared_out_by_the_sizes_of_videos(
    generation_config: GenerationConfig,
) -> None:
    strategy = Recording()
    strategy.data = 2
    chosen = chosen_by(generation_config, strategy, 4)
    frames = (13, 37, 25)
    chosen.check([replace(VIDEO, index=n, num_frames=one) for n, one in enumerate(frames)])
    assert chosen.replicas.shares == ((1,), (0, 2))
    assert chosen.replicas.makespan is None


def test_a_plan_shows_who_makes_what(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = '["a bird", "a fox", "an owl"]'
    settings = ("--data.prompts", prompts, "--data.height", "32", "--data.width", "48")
    devices = ("--trainer.devices", "4", "--trainer.strategy", "DualParal")
    degrees = ("--trainer.strategy.data", "2", "--trainer.strategy.stages", "2")
    words = ("plan", "--model.pipeline", str(model), *settings, *devices, *degrees)
    main([*words])
    table = capsys.readouterr().out
    for title in ("plan", "settings", "replicas", "ranks", "memory of ranks, GB", "alternatives"):
        assert re.search(rf"^ +{title} +$", table, re.MULTILINE), title
    assert "data2xpipe2" in table
    main(
        [
            "plan",
            *("--format", "json"),
            "--model.pipeline",
            str(model),
            *settings,
            *devices,
            *degrees,
        ]
    )
    plan = json.loads(capsys.readouterr().out)
    shares = [(row["ranks"], row["requests"]) for row in plan["replicas"]]
    assert shares == [("0-1", "0,2"), ("2-3", "1")]
    assert [row["rank"] for row in plan["ranks"]] == [0, 1, 2, 3]


def test_a_request_is_checked_once(generation_config: GenerationConfig) -> None:
    """The engine asks for all of a run's requests, and again before each."""

    class Asked(Recording):
        asked = 0

        @override
        def check(self, layout: Layout, workload: Workload) -> None:
            self.asked += 1

    strategy = Asked()
    chosen = chosen_by(generation_config, strategy, 2)
    requests = [replace(VIDEO, index=index) for index in range(3)]
    chosen.check(requests)
    for request in requests:
        chosen.check([request])
    assert strategy.asked == 3
    chosen.check([replace(VIDEO, seed=7)])
    assert strategy.asked == 4
    with pytest.raises(ConfigurationError, match="num_frames is 38"):
        chosen.check([replace(VIDEO, num_frames=38)])


def counted(method: str) -> Any:
    """Return what counts how often the family is asked for something."""
    asked = getattr(WanFamily, method)
    return patch.object(WanFamily, method, autospec=True, side_effect=asked)


def test_a_model_is_resolved_once_however_many_requests(
    generation_config: GenerationConfig,
) -> None:
    with counted("spec") as spec, counted("defaults") as defaults:
        chosen = chosen_by(generation_config, SingleDevice(), 1)
        chosen.check([replace(VIDEO, index=index) for index in range(5)])
    assert (spec.call_count, defaults.call_count) == (1, 1)


@pytest.mark.parametrize("loras", [0, 1])
def test_preflight_builds_the_modules_once(
    generation_config: GenerationConfig, tmp_path: Path, loras: int
) -> None:
    """For the weights and for the LoRAs together."""
    tensors = {
        "blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 24),
        "blocks.0.attn1.to_q.lora_B.weight": torch.zeros(24, 2),
    }
    save_file(tensors, file := tmp_path / "lora.safetensors")
    given: list[Lora | str] = [Lora(path=str(file))] * loras
    with counted("load_backbone") as load_backbone:
        Engine(replace(generation_config, lora=given), SingleDevice())
    assert load_backbone.call_count == 1
