"""The demo model's tokenizer and text encoder: a word list and a small random, frozen UMT5.

A random encoder keeps the words apart, which is all that 216 prompts need; the transformer's own
text projection learns the rest.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from longtake.demo import shapes

WIDTH = 64
LENGTHS = (16, 64, 226, 512)
"""Text lengths to train for, in tokens with padding; Wan's own are 512 (pipeline) and 226."""


def new_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the prompts, ``</s>`` at the end."""
    words = ["<pad>", "</s>", "<unk>", "a", "moving", "on", "background"]
    words += [*shapes.COLORS, *shapes.SHAPES, *shapes.MOTIONS, *shapes.BACKGROUNDS]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\ban\b"), "a")  # "an orange background"
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,  # the longest prompt has 10 tokens
    )


def new_encoder(tokens: int) -> UMT5EncoderModel:
    """The frozen text encoder for a vocabulary of ``tokens`` words."""
    torch.manual_seed(7)
    config = UMT5Config(
        vocab_size=tokens, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4
    )
    return UMT5EncoderModel(config).eval()


@torch.no_grad()
def embed(prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeds prompts, one slot of padding (zeros, as Wan's pipeline makes them) at the end.

    Returns:
        Embeddings ``(N, T + 1, 64)``, zero after a prompt's own tokens, and the number of own
        tokens ``(N,)``.
    """
    tokenizer = new_tokenizer()
    encoder = new_encoder(len(tokenizer))
    batch = tokenizer(prompts, padding="longest", return_tensors="pt")
    mask = batch.attention_mask
    states = encoder(batch.input_ids, mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, 1)), mask.sum(dim=1)


def padding_bias(own: Tensor, slots: int, length: int) -> Tensor:
    """Attention bias that makes one slot of padding count as all padding of a long text.

    Wan pads texts to a fixed length and lets the video attend to the padding too. All padding is
    alike, so one slot whose logit is raised by the logarithm of its number gives the same result
    without the work, and the model can be trained for several lengths.

    Args:
        own: Number of own tokens, ``(N,)``.
        slots: Number of slots in the embeddings; the last one is padding.
        length: Text length with all padding, in tokens.

    Returns:
        ``(N, 1, 1, slots)``: 0 for own tokens, minus infinity for unused slots.
    """
    bias = torch.zeros(own.shape[0], slots)
    bias.masked_fill_(torch.arange(slots)[None] >= own[:, None], -math.inf)
    bias[:, -1] = (length - own).float().log()
    return bias[:, None, None]
