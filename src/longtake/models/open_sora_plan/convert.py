"""Published Open-Sora-Plan checkpoints to a pipeline folder that longtake runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from diffusers import DPMSolverMultistepScheduler

from longtake.errors import ModelError
from longtake.models.loading.folder import ModelFolder, open_folder
from longtake.models.open_sora_plan.config import OpenSoraPlanConfig
from longtake.models.open_sora_plan.family import PIPELINE

_PARTS: Final = {
    "transformer": ("longtake", "OpenSoraT2V_v1_3"),
    "text_encoder": ("transformers", "MT5EncoderModel"),
    "tokenizer": ("transformers", "AutoTokenizer"),
}


def convert(transformer: Path, text_encoder: Path, vae: Path, target: Path) -> ModelFolder:
    """Lay out a pipeline folder around a published transformer, and open it.

    Nothing is copied or renamed: the parts' folders are linked, and weights keep their published
    names, in one file or in shards. The sampler is the published Euler ancestral one without its
    fresh noise, which is DPM-Solver of order 1: latents depend on the seed alone.

    Args:
        transformer: Folder of the published checkpoint: ``config.json`` and safetensors.
        text_encoder: Folder of mT5 as ``google/mt5-xxl`` has it, its tokenizer included, but with
            its weights in safetensors.
        vae: Folder of a VAE as diffusers saves it.
        target: The folder to make; must not exist.

    Raises:
        ModelError: A part is missing, or the transformer is not one of version 1.3.
    """
    folders = {
        "transformer": transformer,
        "text_encoder": text_encoder,
        "tokenizer": text_encoder,
        "vae": vae,
    }
    vae_class = ("diffusers", str(_config(vae)["_class_name"]))
    OpenSoraPlanConfig.read(_config(transformer))
    if target.exists():
        raise ModelError(f"{target} exists already; name a folder that does not.")
    target.mkdir(parents=True)
    for name, folder in folders.items():
        (target / name).symlink_to(folder.resolve(), target_is_directory=True)
    scheduler = DPMSolverMultistepScheduler(
        solver_order=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.save_pretrained(target / "scheduler")
    index = {
        "_class_name": PIPELINE,
        **_PARTS,
        "scheduler": ("diffusers", type(scheduler).__name__),
        "vae": vae_class,
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return open_folder(str(target))


def _config(part: Path) -> dict[str, Any]:
    folder = part.resolve()
    return ModelFolder(folder.parent, {}).config(folder.name)
