"""Parts that all tiny models share: weights, text encoders, folders, layers, work."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast

from longtake.models import AnyBackbone, ModelFolder, PromptStates, open_folder
from longtake.models.text import join_prompts, split_prompts
from longtake.strategies import Denoising
from longtake.task import FrameRange


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> Any:
    """Give every parameter random values of a size that keeps activations near 1.

    Also norms, biases and modulation tables, which usually begin as ones and zeros: a test must
    see whether they are used.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        kind = name.rpartition(".")[2]
        if kind == "bias":
            values *= 0.1
        elif kind == "gamma" or parameter.dim() == 1:
            values = 1 + 0.2 * values
        elif kind == "scale_shift_table":
            values *= 0.3
        else:
            values /= math.sqrt(parameter[0].numel())
        parameter.copy_(values)
    return module.requires_grad_(False).eval()


def word_tokenizer(words: Sequence[str], *, closed: bool = False, **options: Any) -> Any:
    """Return a tokenizer of whole words.

    Args:
        words: Among them ``<pad>``, ``</s>`` and ``<unk>``.
        closed: Whether every prompt ends with ``</s>``.
        options: Of transformers' tokenizer.
    """
    numbers = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if closed:
        end = numbers["</s>"]
        tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **options,
    )


def t5_encoder(tokens: int, width: int, seed: int, kind: str = "T5", **changes: Any) -> Any:
    """Return a text encoder of random weights.

    Args:
        tokens: Of its tokenizer.
        width: Of its states.
        seed: Of the weights.
        kind: ``T5``, ``MT5`` or ``UMT5``.
        changes: To its configuration.
    """
    sizes = {"d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokens, d_model=width, **sizes | changes
    )
    return randomize(getattr(transformers, f"{kind}EncoderModel")(config), seed)


def save_folder(pipeline: Any, path: Path, shard_size: str | None = None) -> ModelFolder:
    """Save a pipeline as diffusers does, and open it.

    Args:
        pipeline: Of diffusers.
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
    """
    options = {} if shard_size is None else {"max_shard_size": shard_size}
    pipeline.save_pretrained(path, **options)
    return open_folder(str(path))


def drop_layers(blocks: nn.ModuleList, layers: Collection[int], first: int = 0) -> None:
    """Take away all but ``layers``, as after loading; ``first`` is the number of ``blocks[0]``."""
    for index in range(len(blocks)):
        if first + index not in layers:
            blocks[index] = nn.Identity()


def of_backbone(
    work: Denoising, backbone: AnyBackbone, prompts: PromptStates, **changes: Any
) -> Denoising:
    """Return the work of another backbone.

    Args:
        work: Of one rank.
        backbone: That runs instead, of the same layers.
        prompts: One row per branch, the same for all frames.
        changes: To other fields of the work.
    """
    rows = split_prompts(prompts)

    @cache
    def text(_frames: FrameRange, branches: range) -> Any:
        return backbone.condition_text(join_prompts([rows[branch] for branch in branches]))

    return replace(work, backbone=backbone, text=text, **changes)
