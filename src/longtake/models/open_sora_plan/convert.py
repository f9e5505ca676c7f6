"""Published Open-Sora-Plan checkpoints to a pipeline folder that longtake runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor

from longtake.errors import LongtakeError, ModelError
from longtake.models.loading.convert import read_checkpoint, state_dicts, write_state
from longtake.models.loading.folder import ModelFolder, open_folder
from longtake.models.loading.weight_files import PICKLES, SAFETENSORS
from longtake.models.open_sora_plan.config import IMAGE_TO_VIDEO, OpenSoraPlanConfig
from longtake.models.open_sora_plan.family import IMAGE_PIPELINE, PIPELINE, VAE_CLASS
from longtake.models.open_sora_plan.wavelet_vae import WaveletVaeConfig

_PUBLISHED: Final = "OpenSoraT2V_v1_3"
"""What the configuration of text-to-video weights calls their class."""
_AVERAGED: Final = "ema_state_dict"
"""The VAE's weights that are meant to be used, where its trainer has kept them."""
_GENERATOR: Final = "gen_model"
"""The VAE among the models that its trainer saves."""
_TAPS: Final = "wavelet_transform"
"""In the names of the VAE's wavelets, which are no weights: they are left out."""
_WEIGHTS: Final = {"vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""How the files of parts are called that are published as pickles, without the ending."""


def convert(transformer: Path, text_encoder: Path, vae: Path, target: Path) -> ModelFolder:
    """Lay out a pipeline folder around the published folders, and open it.

    Safetensors are linked, neither copied nor renamed. Weights that are published as pickles (the
    VAE's ``merged.ckpt``, mT5's ``pytorch_model.bin``) are read as tensors alone, mapped into
    memory, and written as safetensors: nothing in them is run.

    Args:
        transformer: Folder of the published transformer, text to video or image to video:
            ``config.json`` and safetensors.
        text_encoder: Folder of mT5 as ``google/mt5-xxl`` has it, its tokenizer included.
        vae: Folder of the published VAE: ``config.json`` and ``merged.ckpt``, or safetensors.
        target: The folder to make; must not exist.

    Raises:
        ModelError: A part is missing, or is not one of version 1.3.
        OutputError: Weights cannot be written.
    """
    config = _config(transformer)
    OpenSoraPlanConfig.read(config)
    WaveletVaeConfig.read(_config(vae))
    _config(text_encoder)
    if target.exists():
        raise ModelError(f"{target} exists already; name a folder that does not.")
    target.mkdir(parents=True)
    try:
        _lay_out(transformer, text_encoder, vae, target)
    except LongtakeError:
        shutil.rmtree(target)  # of links and of what has been written
        raise
    image = config.get("_class_name") == IMAGE_TO_VIDEO
    index = {
        "_class_name": IMAGE_PIPELINE if image else PIPELINE,
        "transformer": ("longtake", IMAGE_TO_VIDEO if image else _PUBLISHED),
        "text_encoder": ("transformers", "MT5EncoderModel"),
        "tokenizer": ("transformers", "AutoTokenizer"),
        "scheduler": ("diffusers", EulerAncestralDiscreteScheduler.__name__),
        "vae": ("longtake", VAE_CLASS),
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return open_folder(str(target))


def convert_folder(
    transformer: Path,
    target: Path | None,
    text_encoder: Path | None,
    vae: Path | None = None,
) -> ModelFolder:
    """Make a pipeline folder as ``longtake convert`` is asked for it.

    Args:
        transformer: As for ``convert``.
        target: As for ``convert``; needed.
        text_encoder: As for ``convert``; needed.
        vae: As for ``convert``; ``None``: the folder ``vae`` beside the transformer's.

    Raises:
        LongtakeError: As ``convert``, or something is left out.
    """
    name = _config(transformer).get("_class_name")
    if name not in (_PUBLISHED, IMAGE_TO_VIDEO):
        raise ModelError(
            f"{transformer} holds a {name}, but folders are converted of Open-Sora-Plan 1.3's "
            f"transformer alone ({_PUBLISHED}, {IMAGE_TO_VIDEO}); of other models give one file."
        )
    if text_encoder is None:
        raise ModelError(
            f"{transformer} comes without a text encoder; give the folder of google/mt5-xxl as "
            f"--text_encoder."
        )
    if target is None:
        raise ModelError(
            f"{transformer} is a folder; name the pipeline folder to make with --output."
        )
    beside = transformer.resolve().parent / "vae"
    return convert(transformer, text_encoder, beside if vae is None else vae, target)


def _lay_out(transformer: Path, text_encoder: Path, vae: Path, target: Path) -> None:
    """Link or write the parts, and the configuration of the published sampler."""
    _link(transformer, target / "transformer")
    _link(text_encoder, target / "tokenizer")
    _part(text_encoder, target / "text_encoder")
    _part(vae, target / "vae")
    scheduler = EulerAncestralDiscreteScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    scheduler.save_pretrained(target / "scheduler")


def _part(folder: Path, made: Path) -> None:
    """Link a part's folder, or write its weights anew where they are a pickle."""
    names = sorted(file.name for file in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if any(name.endswith(SAFETENSORS) for name in names) or not pickles:
        _link(folder, made)
        return
    if len(pickles) > 1:
        raise ModelError(
            f"{folder} holds {len(pickles)} pickles ({', '.join(pickles)}); leave the one with the "
            f"weights of the {made.name} there."
        )
    made.mkdir()
    (made / "config.json").symlink_to((folder / "config.json").resolve())
    file = folder / pickles[0]
    write_state(_weights(file, read_checkpoint(file)), made / (_WEIGHTS[made.name] + SAFETENSORS))


def _weights(file: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return a part's state dict: the averaged weights before the others, the VAE before a loss."""
    found = dict(state_dicts(content))
    for name in (_AVERAGED, f"state_dict.{_GENERATOR}", "state_dict", _GENERATOR, ""):
        if name in found:
            averaged = name == _AVERAGED  # by a wrapper, whose name stands before all of them
            return {
                key.replace("module.", "") if averaged else key: tensor
                for key, tensor in found[name].items()
                if _TAPS not in key
            }
    raise ModelError(
        f"{file} holds no plain state dict, tensors by name, as {_AVERAGED} or state_dict (it "
        f"holds {', '.join(map(str, content)) or 'nothing'})."
    )


def _link(folder: Path, link: Path) -> None:
    link.symlink_to(folder.resolve(), target_is_directory=True)


def _config(part: Path) -> dict[str, Any]:
    folder = part.resolve()
    return ModelFolder(folder.parent, {}).config(folder.name)
