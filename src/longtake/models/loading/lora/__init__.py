"""LoRA files: names of every trainer, strengths, checks, and the merge into a rank's weights."""

from longtake.models.loading.lora.arithmetic import Change, Difference, LowRank, merged
from longtake.models.loading.lora.changes import changes_of
from longtake.models.loading.lora.file import LoraFile
from longtake.models.loading.lora.names import ModelNames, NameTable, Swapped
from longtake.models.loading.lora.options import Lora

__all__ = [
    "Change",
    "Difference",
    "Lora",
    "LoraFile",
    "LowRank",
    "ModelNames",
    "NameTable",
    "Swapped",
    "changes_of",
    "merged",
]
