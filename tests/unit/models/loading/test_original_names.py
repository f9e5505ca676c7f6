"""Files in the names of the models' own code: compared with diffusers' converters, and read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longtake.errors import ModelError
from longtake.framework.engine.preflight import check_modules
from longtake.models import ModelFolder, Placement, family_of, open_folder, registered
from longtake.models.blank import BlankModel
from longtake.models.loading.headers import read_headers
from longtake.models.loading.lora import NameTable, Swapped
from longtake.models.loading.lora.names import Halves, RankRole
from longtake.models.loading.parts import keep_layers
from longtake.models.loading.stored import TensorHeader
from longtake.models.loading.weights import load_module
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.cogvideox import tiny_cogvideox_folder, tiny_cogvideox_i2v_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder
from longtake.testing.tiny.ltx import tiny_ltx_condition_folder, tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder

PLACE = Placement(torch.device("cpu"), torch.float32)
FOLDERS: dict[str, Callable[[Path], ModelFolder]] = {
    "wan": tiny_wan_folder,
    "wan i2v": tiny_wan_i2v_folder,
    "skyreels": tiny_skyreels_folder,
    "hunyuan": tiny_hunyuan_folder,
    "hunyuan 1.5": tiny_hunyuan15_folder,
    "ltx": tiny_ltx_folder,
    "ltx condition": tiny_ltx_condition_folder,
    "mochi": tiny_mochi_folder,
    "cogvideox": tiny_cogvideox_folder,
    "cogvideox i2v": tiny_cogvideox_i2v_folder,
}
PUBLISHED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "wan": ("WanPipeline", WanTransformer3DModel, {"num_layers": 3}, "wan_transformer_to"),
    "wan i2v": (
        "WanImageToVideoPipeline",
        WanTransformer3DModel,
        {"num_layers": 2, "image_dim": 1280, "added_kv_proj_dim": 5120},
        "wan_transformer_to",
    ),
    "ltx": (
        "LTXPipeline",
        LTXVideoTransformer3DModel,
        {"num_layers": 3},
        "ltx_transformer_checkpoint_to",
    ),
    "hunyuan": (
        "HunyuanVideoPipeline",
        HunyuanVideoTransformer3DModel,
        {"num_layers": 2, "num_single_layers": 3},
        "hunyuan_video_transformer_to",
    ),
    "mochi": ("MochiPipeline", MochiTransformer3DModel, {}, "mochi_transformer_checkpoint_to"),
}
"""Transformers of the published widths: some converters are for those alone."""
Entry = tuple[str, tuple[str, ...]]
"""A tensor of a file, and diffusers' names for what it is made of."""


def entries(table: NameTable, known: Mapping[str, Any]) -> Iterator[tuple[str, RankRole, Entry]]:
    """Yield what a file in original names holds: of two names for one thing the first."""
    left = dict.fromkeys(known)
    for theirs, role in table:
        ours: Any = getattr(role, "module", None) or getattr(role, "modules", None) or role
        ours = (ours,) if isinstance(ours, str) else ours
        if not ours:
            continue
        pattern = re.compile(re.escape(ours[0]).replace(r"\*", r"(\d+)") + r"(\.weight|\.bias)?")
        for key in known:
            match = pattern.fullmatch(key)
            if match is None or key not in left:
                continue
            *numbers, ending = match.groups(default="")
            names = [_filled(part, numbers) + ending for part in (theirs, *ours)]
            for name in names[1:]:
                del left[name]
            yield names[0], role, (names[0], tuple(names[1:]))
    for key in left:  # what both call alike
        yield key, key, (key, (key,))


def _filled(name: str, numbers: list[str]) -> str:
    for number in numbers:
        name = name.replace("*", number, 1)
    return name


def original(state: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Return a transformer's tensors as its authors' code would have saved them."""
    found = {}
    for name, role, (_, parts) in entries(table, state):
        tensors = [state[part] for part in parts]
        if isinstance(role, Swapped):
            scale, shift = tensors[0].chunk(2)
            found[name] = torch.cat([shift, scale])
        elif isinstance(role, Halves):
            halves = [tensor.chunk(2) for tensor in tensors]
            found[name] = torch.cat([half[which] for which in (0, 1) for half in halves])
        else:
            found[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return found


@pytest.mark.parametrize("model", PUBLISHED)
def test_names_and_rows_are_those_of_diffusers_converter(model: str, tmp_path: Path) -> None:
    """Each tensor holds the numbers of its rows, so it is seen which of them go where."""
    pipeline, transformer_class, changes, converter = PUBLISHED[model]
    with torch.device("meta"):
        transformer = transformer_class(**changes)
    known, table = transformer.state_dict(), registered()[pipeline].lora_names
    stand_ins: dict[str, Tensor] = {}
    start = 0
    for name, _, (_, parts) in entries(table, known):
        rows = sum(known[part].shape[0] for part in parts)
        stand_ins[name] = torch.arange(start, start + rows)
        start += rows
    flat = {key: tensor[:, None] for key, tensor in stand_ins.items()}
    convert = getattr(converters, f"convert_{converter}_diffusers")
    theirs = convert(dict(stand_ins))
    assert theirs.keys() == known.keys(), "the table has the names that the converter knows"

    folder = stand_in_folder(tmp_path, pipeline, transformer, flat)
    ours = read_headers(folder, "transformer")
    assert ours.keys() == known.keys()
    for key, header in ours.items():
        whole = stand_ins[header.key.removeprefix("model.diffusion_model.")]
        rows = [whole[a:b] for a, b in header.rows or ((0, len(whole)),)]
        assert torch.equal(torch.cat(rows), theirs[key]), key
        assert header.shape[0] == known[key].shape[0], key


def stand_in_folder(
    path: Path, pipeline: str, transformer: Any, tensors: Mapping[str, Tensor]
) -> ModelFolder:
    transformer.save_config(path / "transformer")
    index = {
        "_class_name": pipeline,
        "transformer": ["diffusers", type(transformer).__name__],
    }
    stored = {f"model.diffusion_model.{key}": t.contiguous() for key, t in tensors.items()}
    save_file(stored, path / "x.safetensors")
    return ModelFolder(path, index, weights=path / "x.safetensors")


@pytest.fixture(params=FOLDERS, scope="module")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelFolder, dict[str, Tensor], dict[str, Tensor]]:
    """Return a pipeline, its transformer's tensors, and the same in their original names."""
    folder = FOLDERS[request.param](tmp_path_factory.mktemp("tiny") / "tiny")
    [file] = (folder.path / "transformer").glob("*.safetensors")
    state = load_file(file)
    return folder, state, original(state, family_of(folder).lora_names)


def written(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    save_file({prefix + key: tensor.clone() for key, tensor in tensors.items()}, path)
    return str(path)


def loaded(folder: ModelFolder, layers: range | None = None) -> dict[str, Tensor]:
    family = family_of(folder)
    build = family.transformer_class
    assert build is not None
    prune = None
    if layers is not None:
        prune = partial(keep_layers, layers=layers, lists=family.layer_lists)
    module = load_module(folder, "transformer", build.from_config, PLACE, prune=prune)
    return dict(module.state_dict())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_is_read_bit_for_bit(case: Any, tmp_path: Path, prefix: str) -> None:
    folder, state, theirs = case
    weights = written(tmp_path / "x.safetensors", theirs, prefix)
    assert theirs.keys() != state.keys()
    own = open_folder(str(folder.path), weights=weights)
    check_modules(BlankModel.of(own), weights=True)
    found = loaded(own)
    assert found.keys() == state.keys()
    assert [key for key in state if not torch.equal(found[key], state[key])] == []


def test_diffusers_own_names_stay_as_they_are(case: Any, tmp_path: Path) -> None:
    folder, state, _ = case
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", state))
    headers = read_headers(own, "transformer")
    assert {key: header.key for key, header in headers.items()} == {key: key for key in state}
    assert not any(header.rows for header in headers.values())


def test_a_stage_reads_its_own_layers_alone(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more of a tensor that is shared than its own rows."""
    folder, state, theirs = case
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", theirs))
    lists = family_of(own).layer_lists
    read: list[str] = []

    def noted(header: TensorHeader, reader: object) -> Tensor:
        read.append(header.key)
        return torch.zeros(header.shape)

    monkeypatch.setattr(TensorHeader, "read", noted)
    found = loaded(own, range(1, 2))
    layers = {key.split(".")[1] for key in found if key.split(".")[0] in lists}
    assert layers == {"1"}
    assert set(read) < set(theirs)
    assert len(read) == len(found) < len(state)


def test_other_models_in_the_file_are_left_alone(case: Any, tmp_path: Path) -> None:
    """As in a checkpoint of a whole pipeline: text encoders and VAE beside the transformer."""
    folder, state, theirs = case
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in theirs.items()}
    tensors |= {"text_encoders.t5xxl.shared.weight": torch.ones(2, 2)}
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", tensors))
    assert read_headers(own, "transformer").keys() == state.keys()


def test_cogvideox_names_are_those_of_its_own_code(tmp_path: Path) -> None:
    """Written by hand, from diffusers' script of conversion, which no package holds."""
    folder = tiny_cogvideox_folder(tmp_path / "tiny")
    [file] = (folder.path / "transformer").glob("*.safetensors")
    state = load_file(file)
    theirs = original(state, family_of(folder).lora_names)
    layer = "transformer.layers.0"
    assert {key.replace("layers.1.", "layers.0.") for key in theirs if layer in key} >= {
        f"{layer}.attention.query_key_value.weight",
        f"{layer}.attention.dense.weight",
        f"{layer}.mlp.dense_h_to_4h.bias",
        f"{layer}.input_layernorm.weight",
        f"{layer}.post_attention_layernorm.weight",
    }
    pieces = theirs["mixins.adaln_layer.adaLN_modulations.0.1.weight"].chunk(12)
    norm1, norm2 = (state[f"transformer_blocks.0.norm{n}.linear.weight"] for n in (1, 2))
    assert torch.equal(torch.cat(pieces[0:3] + pieces[6:9]), norm1)
    assert torch.equal(torch.cat(pieces[3:6] + pieces[9:12]), norm2)
    norm = theirs["mixins.adaln_layer.query_layernorm_list.0.weight"]
    assert torch.equal(norm, state["transformer_blocks.0.attn1.norm_q.weight"])
    theirs |= {"mixins.pos_embed.freqs_sin": torch.ones(3, 2)}  # made anew
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", theirs))
    assert read_headers(own, "transformer").keys() == state.keys()


def test_a_vae_of_another_version_in_the_file_is_refused(tmp_path: Path) -> None:
    folder = tiny_ltx_folder(tmp_path / "tiny")
    [file] = (folder.path / "transformer").glob("*.safetensors")
    [vae] = (folder.path / "vae").glob("*.safetensors")
    theirs = original(load_file(file), family_of(folder).lora_names)
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in theirs.items()}
    own = load_file(vae)["latents_std"]
    family, cpu = family_of(folder), torch.device("cpu")
    for name, std in (("same", own.bfloat16()), ("other", own + 0.1)):
        more = {"vae.per_channel_statistics.std-of-means": std, "vae.x": torch.ones(1)}
        weights = written(tmp_path / f"{name}.safetensors", tensors | more)
        given = open_folder(str(folder.path), weights=weights)
        if name == "same":
            check_modules(BlankModel.of(given), weights=True)
            family.load_decoder(given, cpu)
            continue
        with pytest.raises(ModelError, match=r"other\.safetensors holds a VAE whose latents"):
            check_modules(BlankModel.of(given), weights=True)


def test_rows_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    folder = tiny_hunyuan_folder(tmp_path / "tiny")
    [file] = (folder.path / "transformer").glob("*.safetensors")
    theirs = original(load_file(file), family_of(folder).lora_names)
    theirs["single_blocks.0.linear1.weight"] = theirs["single_blocks.0.linear1.weight"][:-1]
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", theirs))
    words = r"linear1\.weight .* rows, but .*to_q\.weight .*proj_mlp\.weight.* have \d+ \+"
    with pytest.raises(ModelError, match=words):
        read_headers(own, "transformer")


def test_two_experts_are_two_files(tmp_path: Path) -> None:
    folder = tiny_wan_folder(tmp_path / "tiny", experts=2)
    states, files = {}, {}
    for part, name in (("transformer", "high"), ("transformer_2", "low")):
        [file] = (folder.path / part).glob("*.safetensors")
        states[part] = load_file(file)
        theirs = original(states[part], family_of(folder).lora_names)
        files[name] = written(tmp_path / f"{name}.safetensors", theirs)
        file.unlink()
    own = open_folder(str(folder.path), weights=files["high"], weights_2=files["low"])
    assert own.is_whole
    check_modules(BlankModel.of(own), weights=True)
    for part, state in states.items():
        module = load_module(own, part, WanTransformer3DModel.from_config, PLACE)
        assert all(torch.equal(t, state[key]) for key, t in module.state_dict().items())
    assert not torch.equal(*(state["proj_out.weight"] for state in states.values()))
    with pytest.raises(ModelError, match=r"has 2 experts; give the other one as model\.weights_2"):
        open_folder(str(folder.path), weights=files["high"])
    with pytest.raises(ModelError, match=r"give the other one as model\.weights\."):
        open_folder(str(folder.path), weights_2=files["low"])
    single = tiny_wan_folder(tmp_path / "single")
    with pytest.raises(ModelError, match="has no second expert"):
        open_folder(str(single.path), weights=files["high"], weights_2=files["low"])


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that live at once, those of an opened file among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._storages: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                seen: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._storages[storage._cdata] = seen, storage.nbytes()
        self._storages = {
            key: held for key, held in self._storages.items() if not held[0].expired()
        }
        self.most = max(self.most, sum(size for _, size in self._storages.values()))
        return result


@pytest.mark.parametrize("float8", [False, True])
def test_no_tensor_is_held_twice(tmp_path: Path, float8: bool) -> None:
    """While a model is read there is what has been read, and one tensor more on its way."""
    folder = tiny_hunyuan_folder(tmp_path / "tiny")
    [file] = (folder.path / "transformer").glob("*.safetensors")
    theirs = original(load_file(file), family_of(folder).lora_names)
    kept = torch.float8_e4m3fn if float8 else torch.bfloat16
    stored = {key: tensor.to(kept) for key, tensor in theirs.items()}
    if float8:
        scales = {key for key in stored if key.endswith(".weight") and stored[key].dim() == 2}
        stored |= {f"{key.removesuffix('weight')}scale_weight": torch.ones(()) for key in scales}
    own = open_folder(str(folder.path), weights=written(tmp_path / "x.safetensors", stored))
    with Held() as held:
        found = loaded(own)
    wanted = sum(tensor.numel() * 4 for tensor in found.values())
    largest = max(tensor.numel() for tensor in theirs.values()) * (4 + kept.itemsize)
    assert wanted < held.most <= wanted + largest
    assert largest < wanted / 8, "else it would show nothing"
