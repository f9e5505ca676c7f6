"""The worked example of a plug-in package: its imports, the suites, and a video from YAML."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import torch
from longtake_allegro import AllegroFamily
from longtake_allegro.backbone import AllegroBackbone
from longtake_allegro.family import allegro_decoder
from longtake_allegro.tiny import tiny_folder, tiny_transformer, tiny_vae
from torch import Tensor

from longtake.api import (
    CONTRACT_VERSION,
    AnyBackbone,
    AnyDecoder,
    BackboneContract,
    BackboneSpec,
    ModelFolder,
    Placement,
    PromptStates,
    VideoDecoderContract,
    hidden_states,
)
from longtake.models.registry import _FAMILIES

ROOT: Final = Path(__file__).parents[2] / "examples" / "allegro"
# Collecting this module registers the family; tests of other modules see the package's own alone.
_FAMILIES.pop("AllegroPipeline")
PLACE: Final = Placement(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_FAMILIES, "AllegroPipeline", AllegroFamily)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_folder(tmp_path_factory.mktemp("allegro") / "model")


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.name)
def test_it_imports_what_is_public_alone(file: Path) -> None:
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    ours = {name for name in modules if name.split(".")[0] == "longtake"}
    assert ours <= {"longtake.api"}


def test_its_entry_point_is_one_that_longtake_loads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"][f"longtake.models.v{CONTRACT_VERSION}"]
    assert [import_module(name).AllegroFamily for name in points.values()] == [AllegroFamily]


def positions(frames: int, height: int, width: int) -> Any:
    """Return diffusers' rotary positions, by the pipeline's own code."""
    from diffusers import AllegroPipeline

    pipeline: Any = AllegroPipeline.__new__(AllegroPipeline)
    parts = {"transformer": tiny_transformer(), "vae_scale_factor_spatial": 1}
    for name, part in parts.items():
        object.__setattr__(pipeline, name, part)
    prepare = AllegroPipeline._prepare_rotary_positional_embeddings
    return prepare(pipeline, 1, height, width, frames, torch.device("cpu"))


class TestAllegroBackbone(BackboneContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder, self.model = folder, tiny_transformer()

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        dit = tiny_transformer()
        kept = range(3) if layers is None else layers
        for index in set(range(3)).difference(kept):
            dit.transformer_blocks[index] = torch.nn.Identity()
        return AllegroBackbone(AllegroFamily().spec(self.folder), dit, kept)

    def prompts(self) -> PromptStates:
        states = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
        return {"states": states, "mask": torch.tensor([[1] * 4 + [0] * 2, [1] * 5 + [0]])}

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        rows, _, frames, height, width = latents.shape
        found: Tensor = self.model(
            latents,
            prompts["states"],
            torch.full((rows,), timestep),
            encoder_attention_mask=prompts["mask"],
            image_rotary_emb=positions(frames, height, width),
            return_dict=False,
        )[0]
        return found

    def layer_oracle(
        self, latents: Tensor, timestep: float, prompts: PromptStates
    ) -> Sequence[Tensor]:
        layers = list(self.model.transformer_blocks)
        return hidden_states(layers, lambda: self.oracle(latents, timestep, prompts))


class TestAllegroDecoder(VideoDecoderContract):
    """Tiles of 3 latent frames that overlap by one, so that 5 of them are two tiles."""

    held_back: ClassVar[int] = 3

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def spec(self) -> BackboneSpec:
        return AllegroFamily().spec(self.folder)

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return allegro_decoder(self._vae(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        vae = self._vae(latents.dtype)
        vae.enable_tiling()
        video: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return video[0].clamp(-1, 1)

    def _vae(self, dtype: torch.dtype) -> Any:
        vae = tiny_vae().to(dtype)
        vae.kernel, vae.stride = (12, 4, 6), (8, 4, 6)
        return vae


@torch.no_grad()
def test_a_last_tile_that_is_short_is_decoded_too(folder: ModelFolder) -> None:
    decoder = AllegroFamily().load_decoder(folder, torch.device("cpu"))
    for latent_frames, tiles in ((1, 1), (6, 1), (8, 2), (10, 2), (11, 3)):
        latents, state = torch.randn(1, 4, latent_frames, 2, 3), decoder.start()
        parts = [*decoder.decode(state, latents), *decoder.finish(state)]
        assert sum(map(len, parts)) == 4 * latent_frames
        assert len(parts) <= tiles + 1


def test_a_video_from_yaml_is_made(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many frames as were asked for: 4 n of them, and no other number."""
    from longtake.framework.main import main

    text = (ROOT / "run.yaml").read_text()
    text = re.sub("pipeline: .*", f"pipeline: {folder.path}", text)
    file = tmp_path / "run.yaml"
    file.write_text(text.replace("output: out/allegro", f"output: {tmp_path / 'out'}"))
    main(["predict", "--config", str(file), "--video.format", "png"])
    assert len(list((tmp_path / "out/0000/frames").glob("*.png"))) == 32
    with pytest.raises(SystemExit) as refused:
        main(["predict", "--config", str(file), "--data.num_frames", "33"])
    assert refused.value.code == 2
