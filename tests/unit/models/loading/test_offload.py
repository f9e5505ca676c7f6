"""Offloaded layers: which are on the device when, and that nothing else changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtake.models.loading.offload import LayerStream

META = torch.device("meta")
"""Stands for a device: whatever was copied there can be told from what was not."""


class Layer(nn.Module):
    """A layer with a part that is called alone, and a parameter of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, size), nn.Linear(size, 4))
        self.table = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.table * self.inner(x)
        return made


def here(layers: list[Layer]) -> list[int]:
    """Return which layers compute with weights on the device."""
    found = [{parameter.device for parameter in layer.parameters()} for layer in layers]
    assert all(len(devices) == 1 for devices in found)  # a layer comes as a whole
    return [index for index, devices in enumerate(found) if META in devices]


def test_only_the_layer_that_computes_has_its_weights_on_the_device() -> None:
    layers = [Layer(3 + index) for index in range(4)]
    LayerStream(layers, META)
    assert here(layers) == []
    for index in (0, 1, 2, 3, 0, 1):  # as a schedule calls them
        layers[index](torch.empty(2, 4, device=META))
        assert here(layers) == [index]


def test_layers_come_in_any_order_and_for_one_of_their_parts() -> None:
    layers = [Layer(3) for _ in range(3)]
    weights = [layer.inner[0].weight for layer in layers]
    LayerStream(layers, META)
    for index in (2, 0, 0, 2, 1):
        layers[index].inner[0](torch.empty(2, 4, device=META))
        assert here(layers) == [index]
    assert layers[0].inner[0].weight is weights[0]  # its own again, not a copy


def test_a_single_layer_stays() -> None:
    layers = [Layer(3)]
    LayerStream(layers, META)
    for _ in range(3):
        layers[0](torch.empty(2, 4, device=META))
        assert here(layers) == [0]
