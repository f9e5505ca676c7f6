"""Recording of hidden states in a model's own forward, for the oracle of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


def hidden_states(layers: Sequence[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """Return what each of some modules returns in a forward, in the order of their calls.

    Args:
        layers: Such as a diffusers transformer's ``blocks``.
        run: Calls the whole model once.
    """
    found: list[Tensor] = []
    hooks = [one.register_forward_hook(lambda *call: found.append(call[-1])) for one in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found
