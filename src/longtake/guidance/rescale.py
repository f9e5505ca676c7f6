"""Rescaled guidance: a guided prediction with the deviation of the conditional one.

Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (WACV 2024), section 3.4.
"""

from __future__ import annotations

from torch import Tensor

from longtake.errors import ConfigurationError


def check_rescale(owner: object, share: float) -> None:
    """Refuse a share that is none.

    Raises:
        ConfigurationError: Says which are possible.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(
            f"{type(owner).__name__}.rescale is {share:g}, but it is a share: choose 0 (off) to 1."
        )


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Return a guided prediction, a share of it with the conditional one's standard deviation.

    Args:
        guided: ``(1, C, F, H, W)``.
        conditional: Of the same shape.
        share: 0 leaves the prediction as it is.
    """
    if not share:
        return guided
    dims = list(range(1, guided.ndim))
    deviation = conditional.float().std(dim=dims, keepdim=True)
    matched = guided * (deviation / guided.std(dim=dims, keepdim=True))
    return share * matched + (1 - share) * guided
