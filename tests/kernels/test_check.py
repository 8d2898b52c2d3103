"""The check itself: kernels that keep their promises pass, and each broken promise turns it red."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from r1kit.kernels.bench import families
from r1kit.kernels.bench.check import Kit, Outcome, Unsupported, begins, run, select, summary
from r1kit.kernels.bench.compare import Errors, Tolerance, compare, same_bits, tolerance
from r1kit.kernels.bench.problems import NOWHERE, Spec, draw, realistic
from r1kit.kernels.mla_cache import CacheLayout, mla_append_ref, read_cache
from r1kit.kernels.mla_decode import mla_decode, mla_decode_ref
from torch import Tensor

Result = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are tiny, and threads that wait for each other slow a busy machine down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Decode = Callable[..., Result]


def kit(decode: Decode = mla_decode, **more: Any) -> Kit:
    """A kit on the CPU whose kernels are the definitions themselves."""
    whole = Kit(decode, mla_decode_ref, mla_append_ref, mla_append_ref, "cpu", "reference", 0, True)
    return replace(whole, **more)


def failed(outcomes: list[Outcome]) -> set[str]:
    return {outcome.name for outcome in outcomes if outcome.failed}


def check(decode: Decode, *only: str, **more: Any) -> list[Outcome]:
    return run(kit(decode, **more), list(only), lambda line: None)


def test_the_reference_passes_every_family() -> None:
    said: list[str] = []
    outcomes = run(kit(), [], said.append)
    # The append's definition reads its slots back, which no trace can; the kernel does not.
    assert failed(outcomes) == {"compiled/append/bf16"}
    assert {outcome.family for outcome in outcomes} >= set(families.FAMILIES) - {
        "portable",
        "large",
    }
    skipped = {outcome.family for outcome in outcomes if outcome.skipped}
    assert skipped == {"graphs", "streams", "accuracy", "append"}  # each says which GPU it needs
    assert len({outcome.name for outcome in outcomes}) == len(outcomes)
    assert len(said) == len({outcome.family for outcome in outcomes})


@pytest.mark.parametrize("family", ["shapes/bf16-bf16q/k16", "shapes/fp8_ds_mla-fp8q/k48"])
def test_the_triton_variant_passes_a_sample(family: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("without the interpreter Triton runs on the GPU alone; the check covers it")
    triton = replace(kit(), variant="triton")
    outcomes = run(triton, [family], lambda line: None)
    assert len(outcomes) == 6
    assert failed(outcomes) == set()
    assert not any(outcome.skipped for outcome in outcomes)


# ---- kernels that break one promise each --------------------------------------------------------


def sees_the_future(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    """Every query token sees all tokens: no causal mask among them."""
    if not isinstance(query, Tensor) or query.ndim == 3:
        return mla_decode(query, cache, block_table, lengths, **more)
    each = [
        mla_decode(query[:, at : at + 1], cache, block_table, lengths, **more)
        for at in range(query.shape[1])
    ]
    return torch.cat([out for out, _ in each], 1), torch.cat([lse for _, lse in each], 1)


def reads_past_the_end(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    """One token more, where the last block has room."""
    more_tokens = (lengths % cache.shape[1] != 0).int()
    return mla_decode(query, cache, block_table, lengths + more_tokens, **more)


def trusts_the_table(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    """Loads what the entry past the end names."""
    last = -(-lengths.long() // cache.shape[1])
    named = block_table.gather(1, last.clamp(max=block_table.shape[1] - 1)[:, None])
    if bool((named < 0).any() or (named >= cache.shape[0]).any()):
        raise RuntimeError("illegal memory access")
    return mla_decode(query, cache, block_table, lengths, **more)


def counts_in_base_two(*args: Any, **more: Any) -> Result:
    out, lse = mla_decode(*args, **more)
    return out, lse * 1.4427


def forgets_the_cache_scale(*args: Any, cache_scale: Tensor | None = None, **more: Any) -> Result:
    return mla_decode(*args, **more)


def forgets_the_query_scale(*args: Any, query_scale: Tensor | None = None, **more: Any) -> Result:
    return mla_decode(*args, **more)


def leaves_empty_rows_alone(*args: Any, **more: Any) -> Result:
    out, lse = mla_decode(*args, **more)
    out[torch.isneginf(lse)] = torch.nan
    return out, lse


def rounds_coarsely(*args: Any, **more: Any) -> Result:
    """As if probabilities were e4m3 where they should be bf16."""
    out, lse = mla_decode(*args, **more)
    return (out.float() * 64).to(torch.float8_e4m3fn).to(torch.bfloat16) / 64, lse


def drifts_with_length(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    """Half a percent off in the longest sequence only: small outputs beside large ones."""
    out, lse = mla_decode(query, cache, block_table, lengths, **more)
    longest = int(lengths.argmax()) if lengths.numel() else 0
    if lengths.numel():
        noise = torch.randn(out[longest].shape, generator=torch.Generator().manual_seed(0))
        out[longest] += 0.005 * out[longest].std() * noise
    return out, lse


class Restless:
    """Gives other bits at every other call."""

    calls = 0

    def __call__(self, *args: Any, **more: Any) -> Result:
        out, lse = mla_decode(*args, **more)
        self.calls += 1
        return (out * (1 + 2**-7 * (self.calls % 2))).to(torch.bfloat16), lse


def splits_by_batch(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    """Cuts sequences by what the batch looks like, also where it was asked not to."""
    out, lse = mla_decode(query, cache, block_table, lengths, **more)
    return out, lse * (1 + 1e-6 * lengths.shape[0])


def assumes_dense_queries(query: Any, *args: Any, **more: Any) -> Result:
    """Takes a view's memory for the query."""
    if isinstance(query, Tensor) and not query.is_contiguous() and query.dtype == torch.bfloat16:
        query = query.flatten().flip(0).view(query.shape)
    return mla_decode(query, *args, **more)


def assumes_a_dense_cache(query: Any, cache: Tensor, *args: Any, **more: Any) -> Result:
    if not cache.is_contiguous():
        raise RuntimeError("illegal memory access")
    return mla_decode(query, cache, *args, **more)


def takes_anything(
    query: Any, cache: Tensor, block_table: Tensor, lengths: Tensor, **more: Any
) -> Result:
    rows = (lengths.shape[0], 1, 8)
    return torch.zeros(*rows, 512).bfloat16(), torch.zeros(rows)


def blames_the_wrong_argument(*args: Any, **more: Any) -> Result:
    try:
        return mla_decode(*args, **more)
    except (ValueError, TypeError) as error:
        raise ValueError("something is wrong") from error


def swaps_heads(*args: Any, **more: Any) -> Result:
    out, lse = mla_decode(*args, **more)
    return out.flip(-2), lse.flip(-1)


def asks_for_an_address(query: Any, *args: Any, **more: Any) -> Result:
    """What a traced tensor has not."""
    if query.data_ptr() % 2:
        raise ValueError("query: lies at an odd address")
    return mla_decode(query, *args, **more)


def returns_float32(*args: Any, **more: Any) -> Result:
    out, lse = mla_decode(*args, **more)
    return out.float(), lse


@pytest.mark.parametrize(
    ("broken", "red"),
    [
        (sees_the_future, "shapes/bf16-bf16q/k16/h9-q4"),
        (reads_past_the_end, "shapes/fp8-bf16q/k16/h1-q1"),
        (reads_past_the_end, "lengths/fp8_ds_mla-bf16q/k16-h9-every"),
        (trusts_the_table, "shapes/bf16-bf16q/k48/h1-q1"),
        (counts_in_base_two, "shapes/bf16-bf16q/k16/h1-q1"),
        (forgets_the_cache_scale, "shapes/fp8-bf16q/k16/h1-q1"),
        (forgets_the_query_scale, "shapes/fp8-fp8q/k16/h1-q1"),
        (leaves_empty_rows_alone, "shapes/bf16-bf16q/k16/h1-q1"),
        (leaves_empty_rows_alone, "empty/bf16-bf16q/lengths"),
        (rounds_coarsely, "scales/fp8-bf16q/1"),
        (drifts_with_length, "lengths/bf16-bf16q/k16-h9-every"),
        (Restless(), "repeats/bf16-bf16q/h9"),
        (splits_by_batch, "invariant/bf16-bf16q/h9/alone-2"),
        (splits_by_batch, "invariant/bf16-bf16q/h9/many"),
        (assumes_dense_queries, "queries/bf16-bf16q/heads-first"),
        (assumes_dense_queries, "queries/bf16-bf16q/padded"),
        (assumes_a_dense_cache, "caches/bf16-bf16q/padded-blocks"),
        (assumes_a_dense_cache, "caches/fp8-bf16q/padded-tokens"),
        (takes_anything, "refusals/query-dtype"),
        (takes_anything, "refusals/block-outside"),
        (blames_the_wrong_argument, "refusals/lengths-dtype"),
        (swaps_heads, "shapes/bf16-bf16q/k16/h9-q1"),
        (asks_for_an_address, "compiled/decode/bf16-bf16q"),
        (returns_float32, "shapes/bf16-bf16q/k16/h1-q1"),
    ],
)
def test_a_broken_kernel_turns_the_check_red(broken: Decode, red: str) -> None:
    assert failed(check(mla_decode, red)) == set()
    assert failed(check(broken, red)) == {red}


def replay_again(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """A graph as it should be: a replay computes from what lies in the inputs now."""
    result = call()

    def replay() -> None:
        for held, new in zip(result, call(), strict=True):
            held.copy_(new)

    return result, replay


def replay_nothing(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """A graph that baked in what it saw when it was captured."""
    return call(), lambda: None


def test_a_graph_that_remembers_its_lengths_turns_the_check_red() -> None:
    red = {f"graphs/{kind}/h9" for kind in ("bf16-bf16q", "fp8-fp8q")}
    assert failed(check(mla_decode, *red, capture=replay_again)) == set()
    assert failed(check(mla_decode, *red, capture=replay_nothing)) == red


def quantises_per_block(
    latent: Tensor, rope: Tensor, cache: Tensor, slot: Tensor, **more: Any
) -> None:
    """Leaves the last group's scale at 1."""
    mla_append_ref(latent, rope, cache, slot, **more)
    if cache.dtype == torch.uint8:
        cache[..., 524:528] = torch.ones(1).view(torch.uint8)


def writes_padding(latent: Tensor, rope: Tensor, cache: Tensor, slot: Tensor, **more: Any) -> None:
    """Takes -1 for the last slot."""
    total = cache.shape[0] * cache.shape[1]
    mla_append_ref(latent, rope, cache, torch.where(slot < 0, total - 1, slot), **more)


def skips_the_last(latent: Tensor, rope: Tensor, cache: Tensor, slot: Tensor, **more: Any) -> None:
    mla_append_ref(latent[:-1], rope[:-1], cache, slot[:-1], **more)


@pytest.mark.parametrize(
    ("broken", "red"),
    [
        (quantises_per_block, "append/fp8_ds_mla/t19/definition"),
        (writes_padding, "append/bf16/t19/definition"),
        (skips_the_last, "append/fp8/t1/definition"),
    ],
)
def test_a_broken_append_turns_the_check_red(broken: Callable[..., None], red: str) -> None:
    assert failed(check(mla_decode, red)) == set()
    assert failed(check(mla_decode, red, append=broken)) == {red}


def test_fp8_that_costs_too_much_turns_the_accuracy_red() -> None:
    def blurred(query: Any, *args: Any, **more: Any) -> Result:
        out, lse = mla_decode(query, *args, **more)
        return out + 0.05 * out.float().std() * torch.randn(out.shape), lse

    red = failed(check(blurred, "accuracy"))
    assert {"accuracy/fp8-bf16q", "accuracy/656-better-than-576"} <= red
    notes = [outcome.note for outcome in check(mla_decode, "accuracy") if outcome.note]
    assert any("of the 576-byte one's" in note for note in notes)


# ---- what a case may do -------------------------------------------------------------------------


def test_a_variant_that_cannot_run_is_skipped_with_its_reason_and_never_passed() -> None:
    def cannot(*args: Any, **more: Any) -> Result:
        raise NotImplementedError("variant hopper: this is no Hopper GPU")

    outcomes = check(cannot, "shapes/bf16-bf16q")
    assert {outcome.skipped for outcome in outcomes} == {"variant hopper: this is no Hopper GPU"}
    text = summary(outcomes)
    assert "skipped 12: variant hopper: this is no Hopper GPU" in text
    assert text.splitlines()[2].endswith("skipped")


def test_a_crash_is_a_failure_of_its_case_and_the_rest_goes_on() -> None:
    def crashes(query: Any, *args: Any, **more: Any) -> Result:
        if query.shape[2] == 9:
            raise RuntimeError("CUDA error: an illegal memory access")
        return mla_decode(query, *args, **more)

    outcomes = check(crashes, "shapes/bf16-bf16q/k16")
    assert {name.rpartition("/")[2] for name in failed(outcomes)} == {"h9-q1", "h9-q4"}
    text = summary(outcomes)
    assert "FAILED shapes/bf16-bf16q/k16/h9-q1: RuntimeError: CUDA error" in text
    assert "again: r1kit kernels check --only shapes/bf16-bf16q/k16/h9-q1" in text
    assert "6 cases, 2 failed" in text


def test_only_names_whole_parts() -> None:
    assert begins("shapes/a/h1-q1", "shapes/a")
    assert begins("shapes/a", "shapes/a")
    assert not begins("shapes/a/h16-q1", "shapes/a/h1")
    assert select(["shapes", "append/fp8"]) == ["shapes", "append/fp8"]
    with pytest.raises(ValueError, match="--only shape: no such family; there are shapes, lengths"):
        select(["shape"])
    assert [outcome.name for outcome in check(mla_decode, "shapes/bf16-bf16q/k16/h1-q1")] == [
        "shapes/bf16-bf16q/k16/h1-q1"
    ]
    assert failed(check(mla_decode, "shapes/bf16-bf16q/k16/h999")) == {"shapes/bf16-bf16q/k16/h999"}


# ---- the inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", list(CacheLayout))
@pytest.mark.parametrize("pads", [(0, 0), (16, 64)])
def test_everything_that_must_not_be_read_is_poisoned(
    layout: CacheLayout, pads: tuple[int, int]
) -> None:
    spec = Spec((0, 5, 33), 4, 1, layout, block_size=16, pad_block=pads[0], pad_token=pads[1])
    problem = draw(spec, "cpu")
    values = read_cache(problem.cache, layout, problem.cache_scale).double()
    used = torch.zeros(values.shape[:2], dtype=torch.bool)
    for at, length in enumerate(spec.lengths):
        for token in range(length):
            used[problem.table_BM[at, token // 16], token % 16] = True
    assert used.sum() == 38
    assert torch.isfinite(values[used]).all()
    assert torch.isnan(values[~used]).all()
    raw = problem.cache._base
    assert raw is not None
    assert (raw.view(torch.uint8)[:, 16:] == 0xFF).all()
    taken = -(-torch.tensor(spec.lengths) // 16)
    past = torch.arange(problem.table_BM.shape[1]) >= taken[:, None]
    assert (problem.table_BM[past] == NOWHERE).all()
    assert past.sum(1).min() >= 2


def test_blocks_are_handed_out_in_no_order_and_from_where_it_was_asked() -> None:
    problem = draw(replace(Spec((64, 64)), block_size=16, num_blocks=40, first_block=20), "cpu")
    used = problem.table_BM[:, :4].flatten().tolist()
    assert used != sorted(used)
    assert len(set(used)) == 8
    assert min(used) >= 20
    assert max(used) < 40


def test_a_part_and_rows_are_the_same_numbers() -> None:
    problem = draw(Spec((9, 20, 3), 8, 4, block_size=16), "cpu")
    part = problem.part(3, 2)
    assert torch.equal(part.joined, problem.joined[:, 2:, :3])
    assert not part.joined.is_contiguous()
    rows = problem.rows([2, 0])
    assert rows.length_B.tolist() == [3, 9]
    assert torch.equal(rows.joined, problem.joined[[2, 0]])


def test_realistic_latents_are_normed_have_loud_channels_and_peaked_scores() -> None:
    spec = Spec((500,), 4)
    kv_TD, query = realistic(spec, 2.0, "cpu")
    latent = kv_TD[:, :512].float()
    assert 0.7 < latent.square().mean().sqrt() < 1.5
    assert latent.abs().mean(0).max() > 5 * latent.abs().mean()
    deviation = (query[0, 0].float() @ kv_TD.float().T * spec.scale).std(-1)
    assert torch.allclose(deviation, torch.full((4,), 2.0), rtol=0.02)


# ---- the comparison -----------------------------------------------------------------------------


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers)[None]


def compared(out: Tensor, lse: Tensor, want: Tensor, want_lse: Tensor, **limits: float) -> Errors:
    wide = Tolerance(**{"cosine": 1.0, **limits})
    return compare(out.bfloat16(), lse.float(), want.double(), want_lse.double(), wide)


def test_a_number_passes_by_its_absolute_or_its_relative_error() -> None:
    lse = torch.tensor([1.0])
    near = compared(row(1.0), lse, row(1.01), lse, out_abs=0.0, out_rel=0.011)
    assert not near.wrong
    assert near.used == pytest.approx(0.01 / 1.01 / 0.011)
    assert compared(row(1.0), lse, row(1.01), lse, out_abs=1e-3, out_rel=1e-3).wrong
    assert not compared(row(1.0), lse, row(1.01), lse, out_abs=0.011, out_rel=0.0).wrong
    off = compared(row(1.0), lse, row(1.0), lse + 1e-3)
    assert off.wrong == "a log-sum-exp is off"
    assert off.lse_abs == pytest.approx(1e-3, rel=1e-3)


def test_each_row_must_point_the_right_way() -> None:
    lse = torch.zeros(2)
    want = torch.tensor([[100.0, 100.0], [1e-4, 1e-4]])
    out = torch.tensor([[100.0, 100.0], [1e-4, -1e-4]])
    errors = compared(out, lse, want, lse, cosine=5e-6)
    assert errors.wrong == "a row points elsewhere"  # though its absolute error is tiny
    assert errors.cosine == pytest.approx(1.0)


def test_nan_is_never_right() -> None:
    lse = torch.zeros(1)
    nan = float("nan")
    assert "an output is off" in compared(row(nan), lse, row(1.0), lse).wrong
    assert compared(row(1.0), lse * nan, row(1.0), lse).wrong == "a log-sum-exp is off"
    assert str(compared(row(nan), lse, row(1.0), lse).used) == "nan"


def test_a_blind_row_must_be_zero_and_minus_infinity() -> None:
    blind = torch.tensor([float("-inf")])
    assert not compared(row(0.0), blind, row(0.0), blind).wrong
    assert compared(row(1e-9), blind, row(0.0), blind).wrong.startswith("a row that sees nothing")
    assert "not -inf" in compared(row(0.0), torch.tensor([-1e30]), row(0.0), blind).wrong
    assert "a log-sum-exp is off" in compared(row(1.0), blind, row(1.0), torch.zeros(1)).wrong


def test_only_fp8_queries_and_the_656_byte_cache_get_more_room() -> None:
    assert tolerance("bf16", "bf16", 1.0) == tolerance("fp8", "bf16", 1.0) == Tolerance()
    assert Tolerance() == Tolerance(8e-4, 2.01 / 128, 5e-6, 1e-6, 8.01 / 65536)
    ds = tolerance("fp8_ds_mla", "bf16", 0.5)
    assert ds == Tolerance(lse_abs=1e-6 + 2**-8)
    assert tolerance("fp8", "fp8", 0.5).cosine == 1e-3


def test_bits_are_compared_as_bits() -> None:
    nan = torch.tensor([float("nan"), float("-inf"), 0.0])
    assert same_bits((nan,), (nan.clone(),))
    assert not same_bits((nan,), (torch.tensor([float("nan"), float("-inf"), -0.0]),))
    assert not same_bits((nan,), (nan.double(),))
    assert same_bits((torch.tensor(1.0),), (torch.tensor(1.0),))


def test_unsupported_is_no_error_of_the_user() -> None:
    assert not issubclass(Unsupported, ValueError | TypeError)
