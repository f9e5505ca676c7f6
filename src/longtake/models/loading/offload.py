"""Offloading of layers: weights in host memory, brought to the device one layer ahead."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor, nn

_Weights: TypeAlias = dict[tuple[nn.Module, str], nn.Parameter]
_PAUSE: Final = 1e-4
"""Seconds between two looks at whether a layer has run: other threads go on meanwhile."""


@dataclass(frozen=True, slots=True)
class _Brought:
    """A layer's weights on the device.

    Args:
        weights: By module and name.
        ready: Recorded behind the copy; ``None`` where copies are not asynchronous.
    """

    weights: _Weights
    ready: torch.Event | None


@final
class LayerStream:
    """Gives a transformer's layers their weights when they are called, and takes them away again.

    At most three layers are on the device: the one that computes, the next one, which is copied
    meanwhile on a stream of its own, and the one before until its last kernel has run. Layers are
    expected in order, again and again, as a schedule calls them; any other order is slower, not
    wrong. The computing stream waits for an event behind the copy. The host runs no further ahead
    than a layer: otherwise it would ask for the memory of all of them before any has run.

    A backbone may call parts of a layer alone (to project a prompt, say): the whole layer comes.

    Args:
        layers: Those of this rank, in order, with their weights in host memory.
        device: Where they compute.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._at_home: list[_Weights] = []
        self._copies = torch.Stream(device=device) if device.type == "cuda" else None
        self._here: tuple[int, _Brought] | None = None
        self._next: tuple[int, _Brought] | None = None
        self._passed: torch.Event | None = None
        for index, layer in enumerate(layers):
            home: _Weights = {}
            for part in layer.modules():
                for name, parameter in part.named_parameters(recurse=False):
                    if self._copies is not None:
                        parameter = nn.Parameter(parameter.data.pin_memory(), requires_grad=False)
                        part._parameters[name] = parameter
                    home[part, name] = parameter
                part.register_forward_pre_hook(partial(self._need, index))
            self._at_home.append(home)

    def _need(self, index: int, module: nn.Module, args: Any) -> None:
        """Have a layer's weights on the device before it, or a part of it, computes."""
        if self._here is not None and self._here[0] == index:
            return
        if self._here is not None:
            _give(self._at_home[self._here[0]])
        if self._next is not None and self._next[0] == index:
            brought = self._next[1]
        else:
            brought = self._bring(index)
        if brought.ready is not None:
            torch.accelerator.current_stream(self._device).wait_event(brought.ready)
        _give(brought.weights)
        self._here, self._next = (index, brought), None
        self._keep_pace()
        following = (index + 1) % len(self._at_home)
        if following != index:
            self._next = following, self._bring(following)

    def _keep_pace(self) -> None:
        """Wait until the layer before the last one has run: its memory is free then."""
        if self._copies is None:
            return
        while self._passed is not None and not self._passed.query():
            time.sleep(_PAUSE)
        self._passed = torch.accelerator.current_stream(self._device).record_event()

    def _bring(self, index: int) -> _Brought:
        """Copy a layer's weights to the device, beside what computes there."""
        home = self._at_home[index]
        if self._copies is None:
            return _Brought({place: _moved(p, self._device) for place, p in home.items()}, None)
        computing = torch.accelerator.current_stream(self._device)
        with self._copies:
            weights = {place: _moved(p, self._device) for place, p in home.items()}
            ready = self._copies.record_event()
        for parameter in weights.values():
            # Its memory is not given to the next copy before what computes with it is done.
            for tensor in _plain(parameter.data):
                tensor.record_stream(computing)
        return _Brought(weights, ready)


def _give(weights: _Weights) -> None:
    for (part, name), parameter in weights.items():
        part._parameters[name] = parameter


def _moved(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    moved = parameter.detach().to(device, non_blocking=True)
    return nn.Parameter(moved, requires_grad=False)


def _plain(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that hold memory: a quantized one has its numbers and its scales."""
    if type(tensor) is Tensor:
        return [tensor]
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    return [getattr(tensor, name) for name in names]
