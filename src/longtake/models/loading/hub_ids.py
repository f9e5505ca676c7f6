"""Hub ids that cannot be run as they are, and what to do about it."""

from __future__ import annotations

from typing import Final

from huggingface_hub.errors import GatedRepoError

from longtake.errors import ModelError

_CONVERTED: Final = {
    "tencent/HunyuanVideo": "hunyuanvideo-community/HunyuanVideo",
    "tencent/HunyuanVideo-I2V": "hunyuanvideo-community/HunyuanVideo-I2V",
    "tencent/HunyuanVideo-1.5": "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",
}
"""Repositories in the layout of their authors' own scripts, and the same models as folders of
diffusers, where the name does not say it."""
_SUFFIXED: Final = ("Wan-AI/Wan2", "Skywork/SkyReels-V2-")
"""How ids begin whose twin for diffusers has the same name with ``-Diffusers``."""


def check_layout(name: str) -> None:
    """Refuse a hub id that is known to hold a model in another layout than diffusers'.

    Raises:
        ModelError: Names the same model in diffusers' layout.
    """
    if twin := twin_of(name):
        raise ModelError(
            f"model.pipeline is {name}, which holds the model in its authors' own layout; the same "
            f"model as a diffusers folder is {twin}."
        )


def twin_of(name: str) -> str | None:
    """Return the id of the same model as a diffusers folder, if ``name`` is known not to be one."""
    if name.startswith(_SUFFIXED) and not name.lower().endswith("-diffusers"):
        return f"{name}-Diffusers"
    return _CONVERTED.get(name)


def reason_of(name: str, error: Exception) -> str:
    """Return why the hub has not given a repository, in a sentence that says what to do."""
    if isinstance(error, GatedRepoError):
        return (
            f"the repository is gated: its owner wants your consent first. Sign in at "
            f"https://huggingface.co/{name}, accept the licence and the conditions that are shown "
            f"there, then make that account known here with `hf auth login` (or HF_TOKEN) and run "
            f"this again."
        )
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
