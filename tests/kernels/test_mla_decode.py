"""MLA decode's interface: what it answers, what it refuses, and that torch.compile sees through it.

The portable kernel has its numbers checked in test_mla_triton.py; what runs on a GPU alone is held
to its promises by `r1kit kernels check`.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from r1kit.kernels import mla_decode as module
from r1kit.kernels import mla_triton
from r1kit.kernels.mla_cache import CacheLayout, mla_append, mla_append_ref, read_cache
from r1kit.kernels.mla_decode import (
    VARIANTS,
    DecodeInputs,
    Variant,
    mla_decode,
    mla_decode_ref,
    unsupported_reason,
)
from r1kit.tests.kernels.reference import DEVICE, assert_close, make_inputs, reference_of
from torch import Tensor

LAYOUTS = list(CacheLayout)
HERE: list[Variant] = ["reference", "triton"]
"""What runs on any machine; on a CPU, Triton in its interpreter."""
Answer = tuple[Tensor, Tensor]


def arguments(inputs: DecodeInputs) -> dict[str, Any]:
    """The inputs by the names that `mla_decode` has for them."""
    return {
        "query": (inputs.q_latent_BQHC, inputs.q_rope_BQHR),
        "cache": inputs.cache,
        "block_table": inputs.block_table_BM,
        "lengths": inputs.length_B,
        "scale": inputs.scale,
        "query_scale": inputs.query_scale,
        "cache_scale": inputs.cache_scale,
        "invariant": inputs.invariant,
    }


def joined(inputs: DecodeInputs) -> Tensor:
    """The query as one tensor; of bytes where it is FP8, which `cat` does not know everywhere."""
    parts = (inputs.q_latent_BQHC.view(torch.uint8), inputs.q_rope_BQHR.view(torch.uint8))
    return torch.cat(parts, dim=-1).view(inputs.q_latent_BQHC.dtype)


def same_bits(left: Answer, right: Answer) -> bool:
    return torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])


# ---- what it answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_definition_is_attention_over_the_tokens_that_the_table_names(
    layout: CacheLayout,
) -> None:
    """By other means: torch's own attention in float64 over tokens picked one by one."""
    num_queries = 3
    inputs = make_inputs([37, 3], layout=layout, num_heads=4, num_queries=num_queries)
    out, lse = reference_of(inputs)
    query = torch.cat([inputs.q_latent_BQHC.double(), inputs.q_rope_BQHR.double()], dim=-1)
    for at, length in enumerate([37, 3]):
        block_T = [int(inputs.block_table_BM[at, token // 16]) for token in range(length)]
        key_TW = torch.stack(
            [
                read_cache(inputs.cache[block : block + 1], layout, inputs.cache_scale)[0, t % 16]
                for t, block in enumerate(block_T)
            ]
        )
        ends_Q = torch.arange(length - num_queries + 1, length + 1, device=DEVICE)
        seen_QT = torch.arange(length, device=DEVICE) < ends_Q[:, None]
        want_HQC = torch.nn.functional.scaled_dot_product_attention(
            query[at].transpose(0, 1),
            key_TW.expand(4, -1, -1),
            key_TW[:, :512].expand(4, -1, -1),
            attn_mask=seen_QT,
            scale=inputs.scale,
        )
        torch.testing.assert_close(out[at].transpose(0, 1), want_HQC, atol=1e-12, rtol=1e-12)
        score_QHT = torch.einsum("qhw,tw->qht", query[at], key_TW) * inputs.scale
        want_QH = score_QHT.exp().mul(seen_QT[:, None]).sum(-1).log()
        torch.testing.assert_close(lse[at], want_QH, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("variant", HERE)
@pytest.mark.parametrize(
    ("layout", "fp8_query"),
    [(layout, False) for layout in LAYOUTS] + [(CacheLayout.FP8, True), (CacheLayout.FP8_DS, True)],
)
def test_each_variant_answers_as_the_definition(
    variant: Variant, layout: CacheLayout, fp8_query: bool
) -> None:
    """Ragged, permuted, NaN in what must not be read; without tokens: 0 and minus infinity."""
    inputs = make_inputs([35, 0, 1], layout=layout, num_heads=3, num_queries=2, fp8_query=fp8_query)
    out, lse = mla_decode(**arguments(inputs), variant=variant)
    assert_close(out, lse, *reference_of(inputs))
    assert out.shape == (3, 2, 3, 512) and lse.shape == (3, 2, 3)
    nothing = [(1, 0), (1, 1), (2, 0)]  # the second token of a sequence of one sees it, alone
    assert all((out[row] == 0).all() and (lse[row] == -torch.inf).all() for row in nothing)
    assert lse[2, 1].isfinite().all()


@pytest.mark.parametrize("variant", HERE)
@pytest.mark.parametrize("fp8_query", [False, True], ids=["bf16q", "fp8q"])
def test_a_pair_of_queries_means_what_one_tensor_means(variant: Variant, fp8_query: bool) -> None:
    inputs = make_inputs(
        [20, 9], layout=CacheLayout.FP8, num_heads=2, num_queries=2, fp8_query=fp8_query
    )
    given = arguments(inputs)
    pair = mla_decode(**given, variant=variant)
    assert same_bits(mla_decode(**{**given, "query": joined(inputs)}, variant=variant), pair)


@pytest.mark.parametrize("variant", HERE)
def test_without_a_dimension_for_query_tokens_there_is_one(variant: Variant) -> None:
    inputs = make_inputs([20, 9], layout=CacheLayout.BF16, num_heads=2)
    given = arguments(inputs)
    out, lse = mla_decode(**given, variant=variant)
    for query in (joined(inputs)[:, 0], (inputs.q_latent_BQHC[:, 0], inputs.q_rope_BQHR[:, 0])):
        flat = mla_decode(**{**given, "query": query}, variant=variant)
        assert same_bits(flat, (out[:, 0], lse[:, 0]))
        want, want_lse = mla_decode_ref(
            query, inputs.cache, inputs.block_table_BM, inputs.length_B, scale=inputs.scale
        )
        assert want.shape == flat[0].shape and want_lse.shape == flat[1].shape


@pytest.mark.parametrize("variant", HERE)
def test_a_query_token_sees_none_that_comes_after_it(variant: Variant) -> None:
    inputs = make_inputs([24], layout=CacheLayout.BF16, num_heads=2, num_queries=4)
    before = mla_decode(**arguments(inputs), variant=variant)
    for num_unseen in (1, 2, 3):  # other numbers in the last token, then in the last but one
        inputs.cache[int(inputs.block_table_BM[0, 1]), 8 - num_unseen] *= 2
        after = mla_decode(**arguments(inputs), variant=variant)
        blind = 4 - num_unseen
        assert same_bits(first(after, blind), first(before, blind))
        assert (after[1][0, blind:] != before[1][0, blind:]).all()


def first(answer: Answer, num_queries: int) -> Answer:
    """The answers of the first query tokens."""
    return answer[0][:, :num_queries], answer[1][:, :num_queries]


@pytest.mark.parametrize("variant", HERE)
def test_no_sequences_give_empty_answers(variant: Variant) -> None:
    inputs = make_inputs([5], layout=CacheLayout.BF16, num_heads=2, num_queries=3)
    given = arguments(inputs)
    given |= {"query": joined(inputs)[:0], "lengths": inputs.length_B[:0]}
    out, lse = mla_decode(**{**given, "block_table": inputs.block_table_BM[:0]}, variant=variant)
    assert out.shape == (0, 3, 2, 512) and lse.shape == (0, 3, 2)


@pytest.mark.parametrize("variant", HERE)
def test_strided_inputs_give_the_bits_of_contiguous_ones(variant: Variant) -> None:
    inputs = make_inputs([20, 9], layout=CacheLayout.FP8_DS, num_heads=2, num_queries=2)
    given = arguments(inputs)
    want = mla_decode(**given, variant=variant)
    apart = torch.nn.functional.pad(inputs.cache, (0, 48, 0, 3), value=0x7F)
    given["cache"] = apart[:, :-3, :-48]
    given["query"] = joined(inputs).transpose(1, 2).contiguous().transpose(1, 2)
    given["block_table"] = torch.nn.functional.pad(inputs.block_table_BM, (2, 3))[:, 2:-3]
    assert same_bits(mla_decode(**given, variant=variant), want)


def test_the_operator_hands_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[DecodeInputs] = []

    def record(inputs: DecodeInputs, out: Tensor, lse: Tensor) -> None:
        got.append(inputs)

    monkeypatch.setattr(mla_triton, "decode_triton", record)
    for invariant in (False, True):
        want = make_inputs(
            [20], layout=CacheLayout.FP8, num_heads=2, fp8_query=True, invariant=invariant
        )
        mla_decode(**arguments(want), variant="triton")
        for name in DecodeInputs.__slots__:
            left, right = getattr(got[-1], name), getattr(want, name)
            if isinstance(left, Tensor):
                assert left.data_ptr() == right.data_ptr() and left.stride() == right.stride(), name
            else:
                assert left == right, name


# ---- what it refuses ----------------------------------------------------------------------------


def bf16() -> dict[str, Any]:
    inputs = make_inputs([20, 9], layout=CacheLayout.BF16, num_heads=2)
    return {**arguments(inputs), "query": joined(inputs)}


def fp8() -> dict[str, Any]:
    inputs = make_inputs([20, 9], layout=CacheLayout.FP8, num_heads=2, fp8_query=True)
    return {**arguments(inputs), "query": joined(inputs)}


def odd(tensor: Tensor, dim: int = -1) -> Tensor:
    """The same shape, with every other element of one dimension."""
    return tensor.repeat_interleave(2, dim).narrow(dim, 0, 2 * tensor.shape[dim])[
        (slice(None),) * (dim % tensor.ndim) + (slice(None, None, 2),)
    ]


def off_by_one(tensor: Tensor) -> Tensor:
    """The same shape and strides, one element further on in memory."""
    storage = torch.zeros(tensor.numel() + 16, dtype=tensor.dtype, device=tensor.device)
    return storage[1:].as_strided(tensor.shape, tensor.contiguous().stride())


def many(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)


Change = Callable[[dict[str, Any]], Any]
REFUSED: list[tuple[str, Change, type[Exception], str]] = [
    # argument, what becomes of it, the error, what it says: what is wrong, what was found
    ("query", lambda a: a["query"].float(), TypeError, "must be bfloat16 .* got torch.float32"),
    ("query", lambda a: a["query"].half(), TypeError, "must be bfloat16 .* got torch.float16"),
    (
        "query", lambda a: (a["query"][..., :512], a["query"][..., 512:].half()), TypeError,
        "both parts must .* got torch.bfloat16 and torch.float16",
    ),
    (
        "query", lambda a: a["query"].to(torch.float8_e4m3fn), TypeError,
        "float8_e4m3fn goes with an FP8 cache, and this cache is bf16",
    ),
    (
        "query", lambda a: a["query"][..., :512], ValueError,
        r"must be \(B, Q, H, 576\) or \(B, H, 576\), got \(2, 1, 2, 512\)",
    ),
    ("query", lambda a: a["query"][0, 0], ValueError, r"must be \(B, Q, H, 576\) .* \(2, 576\)"),
    (
        "query", lambda a: (a["query"][..., :500], a["query"][..., 500:]), ValueError,
        r"latent part must be \(B, Q, H, 512\), got \(2, 1, 2, 500\)",
    ),
    (
        "query", lambda a: (a["query"][..., :512], a["query"][..., 520:]), ValueError,
        r"rope part must be \(2, 1, 2, 64\), got \(2, 1, 2, 56\)",
    ),
    (
        "query", lambda a: (a["query"][..., :512], a["query"][:, 0, :, 512:]), ValueError,
        r"rope part must be \(2, 1, 2, 64\), got \(2, 2, 64\)",
    ),
    ("query", lambda a: many(2, 1, 0, 576), ValueError, "1 to 128 heads, got 0"),
    ("query", lambda a: many(2, 1, 129, 576), ValueError, "1 to 128 heads, got 129"),
    ("query", lambda a: many(2, 0, 2, 576), ValueError, "1 to 4 query tokens, got 0"),
    ("query", lambda a: many(2, 5, 2, 576), ValueError, "1 to 4 query tokens, got 5"),
    (
        "query", lambda a: odd(a["query"]), ValueError,
        r"last dimension of the latent part must be contiguous, got strides \(.*, 2\)",
    ),
    (
        "query", lambda a: (a["query"][..., :512].contiguous(), odd(a["query"][..., 512:])),
        ValueError, "last dimension of the rope part must be contiguous",
    ),
    (
        "query", lambda a: many(2, 1, 2, 580)[..., :576], ValueError,
        r"rows of the latent part must start at multiples of 16 bytes, got strides .*580, 1\)",
    ),
    (
        "query", lambda a: (a["query"][..., :512].contiguous(), many(2, 1, 2, 68)[..., :64]),
        ValueError, "rows of the rope part must start at multiples of 16 bytes",
    ),
    (
        "query", lambda a: off_by_one(a["query"]), ValueError,
        "rows of the latent part must start at multiples of 16 bytes",
    ),
    ("query", lambda a: a["query"].to("meta"), ValueError, "where the cache is, .*, got meta"),
    (
        "query (rope part)",
        lambda a: ("query", (a["query"][..., :512], a["query"][..., 512:].to("meta"))), ValueError,
        "where the cache is, .*, got meta",
    ),
    ("cache", lambda a: a["cache"].float(), ValueError, "torch.float32 .* no known layout; known"),
    ("cache", lambda a: a["cache"][..., :512], ValueError, r"\(.*, 16, 512\) is no known layout"),
    ("cache", lambda a: a["cache"][0], ValueError, r"\(16, 576\) is no known layout"),
    ("cache", lambda a: a["cache"].view(torch.uint8), ValueError, "1152.* is no known layout"),
    ("cache", lambda a: many(4, 24, 576), ValueError, "must be a multiple of 16, got 24"),
    ("cache", lambda a: many(4, 8, 576), ValueError, "must be a multiple of 16, got 8"),
    ("cache", lambda a: many(4, 0, 576), ValueError, "must be a multiple of 16, got 0"),
    ("cache", lambda a: odd(a["cache"]), ValueError, r"must be contiguous, got strides \(.*, 2\)"),
    (
        "cache", lambda a: many(4, 16, 580)[..., :576], ValueError,
        r"tokens and blocks must start at multiples of 16 bytes, got strides \(9280, 580, 1\) of 2",
    ),
    ("cache", lambda a: off_by_one(a["cache"]), ValueError, "start at multiples of 16 bytes"),
    ("block_table", lambda a: a["block_table"].long(), TypeError, "must be int32, got torch.int64"),
    ("block_table", lambda a: a["block_table"][0], ValueError, r"must be \(2, M\), got \(4,\)"),
    ("block_table", lambda a: a["block_table"][:1], ValueError, r"must be \(2, M\), got \(1, 4\)"),
    ("block_table", lambda a: odd(a["block_table"]), ValueError, r"contiguous, got \(\d+, 2\)"),
    ("block_table", lambda a: a["block_table"].to("meta"), ValueError, "the cache is, .*got meta"),
    ("lengths", lambda a: a["lengths"].long(), TypeError, "must be int32, got torch.int64"),
    ("lengths", lambda a: a["lengths"].float(), TypeError, "must be int32, got torch.float32"),
    ("lengths", lambda a: a["lengths"][:1], ValueError, r"must be \(2,\), got \(1,\)"),
    ("lengths", lambda a: a["lengths"][:, None], ValueError, r"must be \(2,\), got \(2, 1\)"),
    ("lengths", lambda a: odd(a["lengths"]), ValueError, r"must be contiguous, got \(2,\)"),
    ("lengths", lambda a: a["lengths"].to("meta"), ValueError, "where the cache is, .*, got meta"),
    (
        "query_scale", lambda a: torch.ones(1, device=DEVICE), TypeError,
        "only FP8 queries have one, and the query is bfloat16",
    ),
    (
        "cache_scale", lambda a: torch.ones(1, device=DEVICE), TypeError,
        "only layout fp8 has one, and the cache is bf16",
    ),
]  # fmt: skip
REFUSED_WITH_FP8: list[tuple[str, Change, type[Exception], str]] = [
    (
        name, change, TypeError if says.startswith("must be one") else ValueError, says,
    )
    for name in ("query_scale", "cache_scale")
    for change, says in (
        (lambda a: torch.ones(1, device=DEVICE).double(), "must be one float32, got torch.float64"),
        (lambda a: torch.ones(3, device=DEVICE), r"must be one float32, got torch.float32 \(3,\)"),
        (lambda a: torch.ones(0, device=DEVICE), r"must be one float32, got torch.float32 \(0,\)"),
        (lambda a: torch.ones(1, device="meta"), "must be where the cache is, .*, got meta"),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "argument", "change", "error", "says"),
    [(bf16, *case) for case in REFUSED] + [(fp8, *case) for case in REFUSED_WITH_FP8],
)
def test_refuses_what_it_cannot_take_by_name(
    plain: Callable[[], dict[str, Any]],
    argument: str,
    change: Change,
    error: type[Exception],
    says: str,
) -> None:
    given = plain()
    mla_decode(**given, variant="reference")  # it is only the change that is wrong
    changed = change(given)
    name, value = changed if argument == "query (rope part)" else (argument, changed)
    with pytest.raises(error, match=f"^{re.escape(argument)}: .*{says}"):
        mla_decode(**{**given, name: value})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operator_refuses_what_the_function_refuses(layout: CacheLayout) -> None:
    """torch.compile calls it without the function, and a tracer can tell no address."""
    inputs = make_inputs([20, 9], layout=layout, num_heads=2)

    def call(cache: Tensor) -> None:
        torch.ops.r1kit.mla_decode(
            inputs.q_latent_BQHC, inputs.q_rope_BQHR, cache, inputs.block_table_BM,
            inputs.length_B, inputs.scale, None, inputs.cache_scale, False, "reference",
        )  # fmt: skip

    call(inputs.cache)
    with pytest.raises(ValueError, match=r"^cache: .* multiples of 16 bytes"):
        call(off_by_one(inputs.cache))


LONG = [24, 16]
"""Tokens of two sequences whose tables have room for 4 blocks of 16."""


@pytest.mark.parametrize("checked", [True, False], ids=["check_indices", "reference"])
@pytest.mark.parametrize(
    ("lengths", "table", "says"),
    [
        ([24, 65], None, r"lengths[1]: must be 0 to 64 with this table, got 65"),
        ([-1, 16], None, r"lengths[0]: must be 0 to 64 with this table, got -1"),
        (LONG, (0, 1, 7), r"block_table[0, 1]: the cache has blocks 0 to 6, got 7"),
        (LONG, (1, 0, -3), r"block_table[1, 0]: the cache has blocks 0 to 6, got -3"),
    ],
)
def test_finds_indices_that_lead_nowhere(
    checked: bool, lengths: list[int], table: tuple[int, int, int] | None, says: str
) -> None:
    """In the debug mode whatever the variant; the reference reads the lengths anyway."""
    inputs = make_inputs(LONG, layout=CacheLayout.BF16, num_heads=2)
    given = arguments(inputs)
    assert given["cache"].shape[0] == 7 and given["block_table"].shape[1] == 4
    given["lengths"] = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    if table is not None:
        given["block_table"][table[0], table[1]] = table[2]
    mode: dict[str, Any] = {"check_indices": True} if checked else {"variant": "reference"}
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        mla_decode(**given, **mode)


def test_a_table_with_room_for_more_does_not_lift_the_longest_length() -> None:
    given = bf16()
    given["block_table"] = torch.zeros(2, 20_000, dtype=torch.int32, device=DEVICE)
    given["lengths"] = torch.tensor([1, 163_841], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"^lengths\[1\]: must be 0 to 163840 .*, got 163841$"):
        mla_decode(**given, check_indices=True)


def test_what_stands_past_the_end_is_not_checked() -> None:
    """Tables are longer than their sequences, and hold anything there."""
    inputs = make_inputs(LONG, layout=CacheLayout.BF16, num_heads=2)
    assert (inputs.block_table_BM[:, 2:] == 2**31 - 1).all()
    mla_decode(**arguments(inputs), check_indices=True, variant="reference")


# ---- which variant ------------------------------------------------------------------------------


def test_refuses_a_variant_that_there_is_not() -> None:
    wrong: Any = "fastest"
    with pytest.raises(ValueError, match=r"^variant: one of hopper, triton, reference, got 'fast"):
        mla_decode(**bf16(), variant=wrong)


def moved(inputs: DecodeInputs, device: str) -> DecodeInputs:
    there: dict[str, Any] = {
        name: value.to(device)
        for name in DecodeInputs.__slots__
        if isinstance(value := getattr(inputs, name), Tensor)
    }
    return replace(inputs, **there)


def test_each_variant_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = moved(make_inputs([5], layout=CacheLayout.BF16, num_heads=2), "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert {name: unsupported_reason(cpu, name) for name in VARIANTS} == {
        "hopper": "the Hopper kernels need a GPU, and the cache is on cpu",
        "triton": None,
        "reference": None,
    }
    monkeypatch.delenv("TRITON_INTERPRET")
    said = unsupported_reason(cpu, "triton")
    assert said == "on a CPU Triton needs its interpreter: TRITON_INTERPRET=1 before it is imported"
    with pytest.warns(UserWarning, match=rf"plain PyTorch.*the cache is on cpu; {said}"):
        assert module.choose_variant(cpu, None) == "reference"
    with pytest.raises(NotImplementedError, match=r"^variant triton: on a CPU Triton needs"):
        module.choose_variant(cpu, "triton")


@pytest.mark.parametrize(
    ("capability", "hopper", "triton", "chosen"),
    [
        ((9, 0), None, None, "hopper"),
        ((8, 9), "need compute capability 9.0, this GPU has 8.9", None, "triton"),
        ((10, 0), "need compute capability 9.0, this GPU has 10.0", None, "triton"),
        (
            (7, 5), "need compute capability 9.0, this GPU has 7.5",
            "needs compute capability 8.0 or more, this GPU has 7.5", "reference",
        ),
    ],
)  # fmt: skip
def test_picks_what_fits_the_gpu(
    capability: tuple[int, int],
    hopper: str | None,
    triton: str | None,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    inputs: Any = SimpleNamespace(cache=SimpleNamespace(device=torch.device("cuda:0")))
    says: dict[Variant, str | None] = {"hopper": hopper, "triton": triton, "reference": None}
    for variant, reason in says.items():
        found = unsupported_reason(inputs, variant)
        assert found is None if reason is None else reason in str(found), variant
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert module.choose_variant(inputs, None) == chosen
    assert len(warned) == (chosen == "reference")


def test_says_which_devices_it_does_not_know() -> None:
    inputs: Any = SimpleNamespace(cache=SimpleNamespace(device=torch.device("mps")))
    variants: list[Variant] = ["hopper", "triton"]
    for variant in variants:
        assert "the cache is on mps" in str(unsupported_reason(inputs, variant))


# ---- the operators ------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compile_traces_through_append_and_decode(layout: CacheLayout, dynamic: bool) -> None:
    """One whole graph, from fake tensors: a step that appends a token and attends to it."""
    inputs = make_inputs([20, 9], layout=layout, num_heads=2)
    given = arguments(inputs)
    rng = torch.Generator().manual_seed(1)
    latent_TC = torch.randn(2, 512, generator=rng).bfloat16().to(DEVICE)
    rope_TR = torch.randn(2, 64, generator=rng).bfloat16().to(DEVICE)
    last_T = (inputs.length_B - 1).long()
    block_T = inputs.block_table_BM.gather(1, (last_T // 16)[:, None])[:, 0]
    slot_T = block_T * 16 + last_T % 16

    def step(latent_TC: Tensor, cache: Tensor, query: Tensor) -> Answer:
        mla_append(latent_TC, rope_TR, cache, slot_T, cache_scale=inputs.cache_scale)
        out, lse = mla_decode(**{**given, "query": query, "cache": cache}, variant="triton")
        return out * 2, lse + 1

    cache = inputs.cache.clone()
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    out, lse = compiled(latent_TC, cache, joined(inputs))
    mla_append_ref(latent_TC, rope_TR, inputs.cache, slot_T, cache_scale=inputs.cache_scale)
    assert torch.equal(cache.view(torch.uint8), inputs.cache.view(torch.uint8))
    assert_close(out / 2, lse - 1, *reference_of(inputs))


def test_decode_is_a_proper_operator() -> None:
    inputs = make_inputs([20, 9], layout=CacheLayout.BF16, num_heads=2, num_queries=2)
    torch.library.opcheck(
        torch.ops.r1kit.mla_decode.default,
        (
            inputs.q_latent_BQHC, inputs.q_rope_BQHR, inputs.cache, inputs.block_table_BM,
            inputs.length_B, inputs.scale, None, None, False, "triton",
        ),
    )  # fmt: skip


def test_append_is_a_proper_operator() -> None:
    """It says of itself that it writes the cache, and that it returns nothing."""
    cache = torch.zeros(2, 16, 576, dtype=torch.bfloat16, device=DEVICE)
    slot_T = torch.tensor([3, 17], device=DEVICE)
    torch.library.opcheck(
        torch.ops.r1kit.mla_append.default,
        (many(2, 512), many(2, 64), cache, slot_T, None, None, False),
    )


def test_fakes_have_the_shapes_and_dtypes_of_answers() -> None:
    for num_queries in (1, 3):
        inputs = make_inputs(
            [5, 6], layout=CacheLayout.FP8, num_heads=7, num_queries=num_queries, fp8_query=True
        )
        real = mla_decode(**arguments(inputs), variant="reference")
        fake = mla_decode(**arguments(moved(inputs, "meta")))
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (
                other.shape,
                other.dtype,
                other.stride(),
            )
            assert other.is_meta
