"""The kernels that ours are measured beside, as vLLM 0.26 ships and calls them.

    fa3            FlashAttention-3 MLA (queries' latent part as q_v), splits left to its heuristic
    fa3_planned    the same under full CUDA graphs: at most 32 splits, planned once a step, outside
    flashmla       FlashMLA, bf16; planned at its first call, outside
    flashmla_fp8   FlashMLA's dense FP8 kernel: FP8 queries and cache; planned outside
    concat_and_cache_mla   vLLM's append

All run on blocks of 64 tokens. Nothing here falls back: an anchor that cannot be imported or that
fails is reported by name with what it said.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from .inputs import SCALE, Inputs
from .points import BLOCK_SIZE, LATENT

Call = Callable[[], object]
MOST_SPLITS = 32
BF16_DECODE = ("fa3", "fa3_planned", "flashmla")
FP8_DECODE = ("flashmla_fp8",)
APPEND = ("concat_and_cache_mla",)


def vllm_version() -> str | None:
    """The version of the vLLM that is installed, or None."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return _unpacked_version()


def _unpacked_version() -> str | None:
    """The version of a vLLM that lies on the path without being installed."""
    try:
        import vllm
    except ImportError:
        return None
    return str(getattr(vllm, "__version__", "unknown"))


def prepare(anchor: str, sets: Sequence[Inputs]) -> list[Call]:
    """Calls of one decode anchor, one for each set of inputs. The sets' lengths must be equal.

    Raises:
        ImportError: where vLLM lacks it.
        ValueError: for a name that is no anchor.
    """
    makers = {
        "fa3": lambda: _fa3(sets, planned=False),
        "fa3_planned": lambda: _fa3(sets, planned=True),
        "flashmla": lambda: _flashmla(sets),
        "flashmla_fp8": lambda: _flashmla_fp8(sets),
    }
    if anchor not in makers:
        raise ValueError(f"anchor must be one of {', '.join(makers)}, got {anchor!r}")
    return makers[anchor]()


def output(anchor: str, returned: object, query_BQHD: Tensor) -> Tensor:
    """The (B, Q, H, 512) output in what an anchor's call returned."""
    out = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(out, Tensor):
        raise TypeError(f"{anchor} returned no tensor: {type(out).__name__}")
    return out.view(*query_BQHD.shape[:-1], LATENT)


def _fa3(sets: Sequence[Inputs], *, planned: bool) -> list[Call]:
    """FlashAttention-3, called as vLLM's backend calls it."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata

    batch, query_tokens, heads, _ = sets[0].query_BQHD.shape
    longest = sets[0].paged.longest
    starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32) * query_tokens
    how: dict[str, object] = {}
    if planned:
        how["num_splits"] = MOST_SPLITS
        how["scheduler_metadata"] = get_scheduler_metadata(
            batch_size=batch,
            max_seqlen_q=query_tokens,
            max_seqlen_k=longest,
            num_heads_q=heads,
            num_heads_kv=1,
            headdim=64,
            cache_seqlens=sets[0].paged.length_B,
            qkv_dtype=torch.bfloat16,
            headdim_v=LATENT,
            page_size=BLOCK_SIZE,
            cu_seqlens_q=starts,
            causal=True,
            num_splits=MOST_SPLITS,
        )

    def call(inputs: Inputs) -> Call:
        query = inputs.query_BQHD.flatten(0, 1)
        latent, rope = query[..., :LATENT].contiguous(), query[..., LATENT:].contiguous()
        cache = inputs.paged.cache.unsqueeze(2)
        return lambda: flash_attn_varlen_func(
            q=rope,
            k=cache[..., LATENT:],
            v=cache[..., :LATENT],
            q_v=latent,
            max_seqlen_q=query_tokens,
            cu_seqlens_q=starts,
            max_seqlen_k=longest,
            seqused_k=inputs.paged.length_B,
            block_table=inputs.paged.table_BM,
            softmax_scale=SCALE,
            causal=True,
            fa_version=3,
            **how,
        )

    return [call(inputs) for inputs in sets]


def _flashmla(sets: Sequence[Inputs]) -> list[Call]:
    """FlashMLA in bf16. Its plan is made at the first call, and serves all that follow."""
    import vllm._flashmla_C  # noqa: F401
    from vllm.third_party.flashmla.flash_mla_interface import (
        flash_mla_with_kvcache,
        get_mla_metadata,
    )

    plan, _ = get_mla_metadata()

    def call(inputs: Inputs) -> Call:
        return lambda: flash_mla_with_kvcache(
            inputs.query_BQHD,
            inputs.paged.cache.unsqueeze(2),
            inputs.paged.table_BM,
            inputs.paged.length_B,
            LATENT,
            plan,
            softmax_scale=SCALE,
            causal=True,
        )

    return [call(inputs) for inputs in sets]


def _flashmla_fp8(sets: Sequence[Inputs]) -> list[Call]:
    """FlashMLA's dense FP8 kernel, as vLLM calls it."""
    from vllm.v1.attention.ops.flashmla import (
        flash_mla_with_kvcache_fp8,
        get_mla_metadata_dense_fp8,
    )

    _, query_tokens, heads, _ = sets[0].query_BQHD.shape
    plan, splits = get_mla_metadata_dense_fp8(sets[0].paged.length_B, query_tokens * heads, 1)
    one = torch.ones(1, device="cuda")

    def call(inputs: Inputs) -> Call:
        return lambda: flash_mla_with_kvcache_fp8(
            inputs.query_BQHD,
            inputs.paged.cache.unsqueeze(2),
            inputs.paged.table_BM,
            inputs.paged.length_B,
            LATENT,
            plan,
            splits,
            softmax_scale=SCALE,
            causal=True,
            descale_q=one,
            descale_k=one,
        )

    return [call(inputs) for inputs in sets]


def append_call(
    latent_TC: Tensor, rope_TR: Tensor, cache: Tensor, slot_T: Tensor, layout: str, scale: Tensor
) -> Call:
    """One call of vLLM's append; `layout` is a name of ours.

    Raises:
        ImportError: where vLLM lacks it.
    """
    from vllm import _custom_ops

    theirs = {"bf16": "auto", "fp8": "fp8", "fp8_ds_mla": "fp8_ds_mla"}[layout]
    bytes_of = cache if layout == "bf16" else cache.view(torch.uint8)
    return lambda: _custom_ops.concat_and_cache_mla(
        latent_TC, rope_TR, bytes_of, slot_T, theirs, scale
    )
