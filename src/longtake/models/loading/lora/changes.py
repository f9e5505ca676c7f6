"""Changes that LoRAs make to a component's tensors: every key finds its place, or is refused."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from longtake.errors import ModelError, nearest
from longtake.models.loading.lora.arithmetic import Change, Difference, LowRank
from longtake.models.loading.lora.file import LoraFile, Module
from longtake.models.loading.lora.fit import check_fit, weight_of, whole
from longtake.models.loading.lora.keys import Part
from longtake.models.loading.lora.names import FIRST, ModelNames, NameTable, Shape, Target
from longtake.models.loading.lora.options import Lora
from longtake.models.loading.stored import take

_TEXT = re.compile(r"(?:base_model\.model\.)?(?:text_encoder|lora_te\d?_|lora_text_encoder)")
"""How names begin that are of text encoders."""


def changes_of(
    loras: Iterable[Lora],
    component: str,
    components: Collection[str],
    known: Mapping[str, Shape],
    wanted: Collection[str],
    table: NameTable = (),
    report: Callable[[str], None] = lambda _: None,
    merged: Callable[[Lora, str, int], None] = lambda *_: None,
) -> dict[str, list[Change]]:
    """Read what some LoRAs change about the tensors of a component that are ``wanted`` here.

    Headers are read and checked whole, so that every rank refuses the same; of tensors, only
    those that ``wanted`` ones depend on, and those that have no place in the model: they may be
    zero.

    Args:
        loras: Of the run.
        component: A transformer, or what no LoRA is for.
        components: Of the model.
        known: Shape of every tensor of the component, on all ranks together.
        wanted: Those of this rank; none: everything is checked alone.
        table: Original names of the model's family.
        report: Called with a sentence that names what is skipped, where an option says so.
        merged: Called with each LoRA, the component, and how many of its keys change that.

    Raises:
        ModelError: A key matches no module, or a tensor does not fit; names key, file and shapes.
    """
    changes: dict[str, list[Change]] = defaultdict(list)
    if not component.startswith(FIRST):
        return {}
    names = ModelNames(known, table)
    for lora in loras:
        merge = _Merge(LoraFile(lora), component, components, known, names)
        for key, change in merge.changes(wanted, report, merged):
            changes[key].append(change)
    return dict(changes)


@final
@dataclass(frozen=True, slots=True)
class _Merge:
    """One LoRA and one transformer."""

    file: LoraFile
    component: str
    components: Collection[str]
    known: Mapping[str, Shape]
    names: ModelNames

    def changes(
        self,
        wanted: Collection[str],
        report: Callable[[str], None],
        merged: Callable[[Lora, str, int], None],
    ) -> Iterator[tuple[str, Change]]:
        """Check everything, then yield what is changed about the wanted tensors."""
        modules = [module for module in self.file.modules(self.names) if self._is_here(module)]
        skipped: list[tuple[Module, str]] = []
        for module in modules:
            lost = self._lost(module)
            if lost and not self.file.changes_nothing(module, lost):
                skipped.append((module, next(iter(lost.values()))))
            for part in lost:
                del module.keys[part]
        kept = [module for module in modules if module.keys]
        self._settle(skipped, report, anything=bool(kept))
        for module in kept:
            check_fit(self.file, module, self.component, self.known)
        merged(self.file.lora, self.component, sum(len(module.keys) for module in kept))
        with self.file.open() as reader:
            for module in kept:
                yield from self._read(reader, module, wanted)

    def _is_here(self, module: Module) -> bool:
        homes = self.file.homes(module)
        nowhere = not any(home in self.components for home in homes)
        return self.component in homes or (nowhere and self.component == FIRST)

    def _lost(self, module: Module) -> Mapping[Part, str]:
        """Return a module's keys that have no place in the transformer."""
        if module.target is None or self.component not in self.file.homes(module):
            return dict(module.keys)
        lost = dict[Part, str]()
        biases = all(f"{part}.bias" in self.known for part in module.target.parts)
        weights = all(weight_of(part, self.known) in self.known for part in module.target.parts)
        for part, key in module.keys.items():
            if not (biases if part in (Part.BIAS_DIFF, Part.UP_BIAS) else weights):
                lost[part] = key
        return lost

    def _settle(
        self, skipped: list[tuple[Module, str]], report: Callable[[str], None], *, anything: bool
    ) -> None:
        """Refuse what the model lacks, or say that it is skipped."""
        if not skipped:
            return
        module, key = skipped[0]
        lora, others = self.file.lora, len(skipped) - 1
        if lora.missing == "refuse" or not anything:
            more = f" (and {others} other modules)" if others else ""
            raise ModelError(f"the key {key}{more} in {self.file.path} {self._reason(module, key)}")
        counts = Counter(re.sub(r"\d+", "*", key) for _, key in skipped)
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        report(
            f"the LoRA {self.file.path} changes {len(skipped)} modules that the {self.component} "
            f"lacks; they are skipped: {listed}."
        )

    def _reason(self, module: Module, key: str) -> str:
        if _TEXT.match(key):
            return "is of a text encoder; longtake merges LoRAs into transformers" + _HINT
        if self.component not in (homes := self.file.homes(module)):
            return f"is for the {' and the '.join(homes)}, which the model lacks" + _HINT
        if module.target is not None:
            return f"changes the bias of {module.target.parts[0]}, which has none" + _HINT
        return (
            f"matches no module of the {self.component}; the nearest module is "
            f"{nearest(module.name, self.names)}" + _HINT
        )

    def _read(
        self, reader: Any, module: Module, wanted: Collection[str]
    ) -> Iterator[tuple[str, Change]]:
        """Yield what a module of the file changes about the wanted tensors."""
        target = whole(module)
        keys = [(weight_of(part, self.known), f"{part}.bias") for part in target.parts]
        if not any(key in wanted for pair in keys for key in pair):
            return
        tensors = {part: self.file.read(reader, key) for part, key in module.keys.items()}
        sizes = [self.known[weight][0] for weight, _ in keys]
        for index, (weight, bias) in enumerate(keys):
            rows = {
                part: _rows(part, tensor, target, sizes)[index] for part, tensor in tensors.items()
            }
            for key, change in self._built(module, target.parts[index], weight, bias, rows):
                if key in wanted:
                    yield key, change

    def _built(
        self, module: Module, name: str, weight: str, bias: str, rows: Mapping[Part, Tensor]
    ) -> Iterator[tuple[str, Change]]:
        scale = self.file.lora.strength(self.component)
        if Part.UP in rows:
            factor = self._factor(module, name, rows)
            yield (
                weight,
                LowRank(
                    scale=scale,
                    up=rows[Part.UP],
                    down=rows[Part.DOWN],
                    factor=factor,
                    magnitude=rows.get(Part.MAGNITUDE),
                ),
            )
            if Part.UP_BIAS in rows:
                yield bias, Difference(scale=scale, values=rows[Part.UP_BIAS], factor=factor)
        for part in (Part.DIFF, Part.TABLE_DIFF):
            if part in rows:
                yield weight, Difference(scale=scale, values=rows[part])
        if Part.BIAS_DIFF in rows:
            yield bias, Difference(scale=scale, values=rows[Part.BIAS_DIFF])

    def _factor(self, module: Module, name: str, rows: Mapping[Part, Tensor]) -> float:
        rank = rows[Part.DOWN].shape[0]
        if Part.ALPHA in rows:
            return float(rows[Part.ALPHA]) / rank
        return self.file.settings.factor((name, module.name), module.expert, rank)


_HINT = ". Where that is meant, missing: skip merges the rest of the LoRA."


def _rows(part: Part, tensor: Tensor, target: Target, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Return what of a tensor is of each of the modules that share a module of the file."""
    if part in (Part.DOWN, Part.ALPHA):
        return [tensor] * len(sizes)
    if part is Part.MAGNITUDE:
        tensor = tensor.flatten()
    if len(target.order) == 1:  # of any shape that fits
        return [tensor]
    return [take(tensor, rows) for rows in target.rows(sizes)]
