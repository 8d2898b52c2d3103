"""What an FP8 cache costs the embedded teacher: nothing that its perplexity shows.

tiny-r1 has R1's latent: 512 values and a rotary key of 64. Here its cache is ours, so the model
reads what `mla_append` would have written, in each layout, of every token of every layer.
"""

import math
from typing import Any

import pytest
import torch
from r1kit.kernels.mla_cache import LATENT, ROPE, CacheLayout, mla_append_ref, read_cache
from r1kit.teacher.tiny import model_path
from r1kit.teacher.tiny.examples import draw_texts
from r1kit.teacher.tiny.tokenizer import build_tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, DynamicCache

# The argument has a newer name in newer versions of transformers; the old one serves all of ours.
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values`:FutureWarning")

BLOCK_SIZE = 64
NUM_TOKENS = 10_000


class LatentCache(DynamicCache):
    """One sequence's latents in our paged layouts, a cache for each layer."""

    def __init__(self, layout: CacheLayout) -> None:
        super().__init__()
        self.layout = layout

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append latents (1, 1, T, 512) and rotated keys (1, 1, T, 64); return what was stored."""
        latent_TC, rope_TR = key_states[0, 0], value_states[0, 0]
        num_tokens = latent_TC.shape[0]
        cache = empty_cache(self.layout, -(-num_tokens // BLOCK_SIZE))
        mla_append_ref(latent_TC, rope_TR, cache, torch.arange(num_tokens))
        stored_TW = read_cache(cache, self.layout).flatten(0, 1)[:num_tokens].to(latent_TC.dtype)
        latent_TC, rope_TR = stored_TW.split([LATENT, ROPE], dim=-1)
        return latent_TC[None, None], rope_TR[None, None]


def empty_cache(layout: CacheLayout, num_blocks: int) -> Tensor:
    """Blocks of `layout`, whatever their bytes."""
    dtype = torch.bfloat16 if layout is CacheLayout.BF16 else torch.uint8
    width = layout.row_bytes // dtype.itemsize
    return torch.full((num_blocks, BLOCK_SIZE, width), 255, dtype=torch.uint8).to(dtype)


Text = tuple[Tensor, int]
"""Token ids, and how many of them were given: the model learnt to write the others."""


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    """Worked problems of at least 10,000 tokens that the model writes."""
    tokenizer, found, total = build_tokenizer(), [], 0
    for given, worked in draw_texts(1_000, seed=20_260, direct_share=0.2):
        both = [tokenizer.encode(text, add_special_tokens=False) for text in (given, worked)]
        found.append((torch.tensor(both[0] + both[1]), len(both[0])))
        total += len(both[1])
        if total >= NUM_TOKENS:
            break
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    path = model_path("tiny-r1")
    assert path is not None
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def perplexity(model: Any, texts: list[Text], layout: CacheLayout | None) -> float:
    """Of what the model writes; None: with no cache at all."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids_T, given in texts:
            how: dict[str, Any] = {"use_cache": False}
            if layout is not None:
                how = {"use_cache": True, "past_key_values": LatentCache(layout)}
            logits_TV = model(ids_T[None], **how).logits[0, given - 1 : -1].float()
            total += float(functional.cross_entropy(logits_TV, ids_T[given:], reduction="sum"))
            count += len(ids_T) - given
    assert count >= NUM_TOKENS
    return math.exp(total / count)


@pytest.fixture(scope="module")
def plain(model: Any, texts: list[Text]) -> float:
    return perplexity(model, texts, None)


def test_a_bf16_cache_changes_nothing(model: Any, texts: list[Text], plain: float) -> None:
    assert perplexity(model, texts, CacheLayout.BF16) == plain


@pytest.mark.parametrize("layout", [CacheLayout.FP8, CacheLayout.FP8_DS])
def test_an_fp8_cache_keeps_the_perplexity_of_tiny_r1(
    layout: CacheLayout, model: Any, texts: list[Text], plain: float
) -> None:
    changed = perplexity(model, texts, layout)
    assert changed != plain  # the cache is really read
    assert abs(changed / plain - 1) < 0.005
    # The model is sure of what it writes, so that is easy; its cross-entropy says more.
    assert abs(math.log(changed) / math.log(plain) - 1) < 0.03
