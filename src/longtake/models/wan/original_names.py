"""Names of Wan's own code in files of its transformer, by diffusers' converter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import diffusers

from longtake.errors import ModelError


def wan_names(keys: Collection[str]) -> Mapping[str, str]:
    """Return the keys of a transformer's file by the names that diffusers has for them.

    Also of causal Wan (CausVid, Self-Forcing, LongLive, Rolling Forcing), whose weights are named
    like those of Wan 2.1.

    Args:
        keys: ``blocks.0.self_attn.q.weight``, say; those of diffusers stay as they are.

    Raises:
        ModelError: The diffusers that is installed has no such converter.
    """
    if not any(".self_attn." in key for key in keys):
        return {key: key for key in keys}
    try:  # diffusers promises nothing about this module
        from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
    except ImportError as error:
        raise ModelError(
            f"diffusers {diffusers.__version__} has no converter of Wan's own names; give the "
            f"model as a diffusers folder."
        ) from error
    # It hands values on as they are, so names do for tensors: nothing is read or copied.
    converted: dict[str, str] = convert_wan_transformer_to_diffusers({key: key for key in keys})
    return converted
