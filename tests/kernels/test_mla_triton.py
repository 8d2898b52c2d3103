"""The portable MLA decode: its answers against the definition in float64, and its promises."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from r1kit.kernels import mla_triton
from r1kit.kernels.mla_cache import CacheLayout, mla_append_ref
from r1kit.kernels.mla_decode import DecodeInputs
from r1kit.kernels.mla_triton import decode_triton
from r1kit.tests.kernels.reference import DEVICE, assert_close, make_inputs, reference_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

LAYOUTS = list(CacheLayout)


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut finely, so that small inputs have parts of every kind."""
    monkeypatch.setattr(mla_triton, "LEAST_TILES", 1)
    monkeypatch.setattr(mla_triton, "INVARIANT_ROWS", 6 * 16)
    monkeypatch.setattr(mla_triton, "num_multiprocessors", lambda device: 5)


def decode(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """Run the kernel into tensors that hold NaN, so that what it leaves out shows."""
    shape = inputs.q_latent_BQHC.shape
    out = torch.full(shape, torch.nan, dtype=torch.bfloat16, device=DEVICE)
    lse = torch.full(shape[:3], torch.nan, device=DEVICE)
    decode_triton(inputs, out, lse)
    return out, lse


def check(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """Hold the kernel, which runs first, against the definition."""
    out, lse = decode(inputs)
    assert_close(out, lse, *reference_of(inputs))
    return out, lse


@pytest.mark.parametrize(
    ("layout", "fp8_query"),
    [(layout, False) for layout in LAYOUTS] + [(CacheLayout.FP8, True), (CacheLayout.FP8_DS, True)],
)
@pytest.mark.parametrize(
    ("num_heads", "num_queries", "block_size", "lengths"),
    [
        (1, 1, 16, [17, 0, 130]),
        (5, 3, 48, [2, 95]),  # a sequence shorter than its queries
        (16, 1, 64, [129]),
        (11, 3, 32, [40]),  # two tiles of rows
    ],
)
def test_matches_the_definition(
    layout: CacheLayout,
    fp8_query: bool,
    num_heads: int,
    num_queries: int,
    block_size: int,
    lengths: list[int],
) -> None:
    check(
        make_inputs(
            lengths,
            layout=layout,
            num_heads=num_heads,
            num_queries=num_queries,
            block_size=block_size,
            fp8_query=fp8_query,
        )
    )


@pytest.mark.parametrize("invariant", [False, True], ids=["shared", "invariant"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_merges_long_sequences_from_many_parts(layout: CacheLayout, invariant: bool) -> None:
    lengths = [500, 20, 0, 200]
    check(make_inputs(lengths, layout=layout, num_heads=2, num_queries=2, invariant=invariant))


@pytest.mark.parametrize("num_multiprocessors", [1, 3, 7, 24])
def test_any_number_of_programs_gives_the_answer(
    num_multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number cuts the row of tiles elsewhere: within sequences, between them, past the end."""
    monkeypatch.setattr(mla_triton, "num_multiprocessors", lambda device: num_multiprocessors)
    lengths = [0, 1, 64, 65, 0, 0, 250, 128]
    check(make_inputs(lengths, layout=CacheLayout.BF16, num_heads=1))


@pytest.mark.parametrize("invariant", [False, True], ids=["shared", "invariant"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_see_nothing_are_zero_and_minus_infinity(
    layout: CacheLayout, invariant: bool
) -> None:
    inputs = make_inputs([0, 2, 0], layout=layout, num_heads=3, num_queries=4, invariant=invariant)
    out, lse = decode(inputs)
    assert (out[[0, 2]] == 0).all() and (lse[[0, 2]] == -torch.inf).all()
    assert (out[1, :2] == 0).all() and (lse[1, :2] == -torch.inf).all()
    assert lse[1, 2:].isfinite().all() and (out[1, 2:] != 0).any()


def test_no_sequences_are_no_work() -> None:
    inputs = make_inputs([5], layout=CacheLayout.BF16, num_heads=2)
    inputs = replace(
        inputs,
        q_latent_BQHC=inputs.q_latent_BQHC[:0],
        q_rope_BQHR=inputs.q_rope_BQHR[:0],
        block_table_BM=inputs.block_table_BM[:0],
        length_B=inputs.length_B[:0],
    )
    out, lse = decode(inputs)
    assert out.shape == (0, 1, 2, 512) and lse.shape == (0, 1, 2)


@pytest.mark.parametrize("invariant", [False, True], ids=["shared", "invariant"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_inputs_give_the_same_bits(layout: CacheLayout, invariant: bool) -> None:
    inputs = make_inputs([150, 31], layout=layout, num_heads=2, invariant=invariant)
    first, second = decode(inputs), decode(inputs)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neighbours_do_not_change_a_bit_in_invariant_mode(layout: CacheLayout) -> None:
    among = make_inputs([40, 230, 0], layout=layout, num_heads=2, invariant=True)
    out, lse = decode(among)
    for sequence in (0, 1):
        here = slice(sequence, sequence + 1)
        alone = replace(
            among,
            q_latent_BQHC=among.q_latent_BQHC[here],
            q_rope_BQHR=among.q_rope_BQHR[here],
            block_table_BM=among.block_table_BM[here],
            length_B=among.length_B[here],
        )
        out_alone, lse_alone = decode(alone)
        assert torch.equal(out[here], out_alone) and torch.equal(lse[here], lse_alone)


def test_a_longer_table_does_not_change_a_bit_in_invariant_mode() -> None:
    inputs = make_inputs([260], layout=CacheLayout.BF16, num_heads=3, invariant=True)
    wide = torch.nn.functional.pad(inputs.block_table_BM, (0, 40), value=2**31 - 1)
    first, second = decode(inputs), decode(replace(inputs, block_table_BM=wide))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_query_tokens_are_masked_causally() -> None:
    """Token j of Q answers as if the sequence ended with it."""
    inputs = make_inputs([50, 18], layout=CacheLayout.BF16, num_heads=4, num_queries=3)
    out, lse = decode(inputs)
    for token in range(3):
        here = slice(token, token + 1)
        alone = replace(
            inputs,
            q_latent_BQHC=inputs.q_latent_BQHC[:, here],
            q_rope_BQHR=inputs.q_rope_BQHR[:, here],
            length_B=inputs.length_B - (2 - token),
        )
        out_alone, lse_alone = decode(alone)
        torch.testing.assert_close(out[:, here], out_alone, atol=1e-3, rtol=2**-7)
        torch.testing.assert_close(lse[:, here], lse_alone, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cache_table_and_queries_may_be_strided(layout: CacheLayout) -> None:
    inputs = make_inputs([70, 33], layout=layout, num_heads=2, num_queries=2)
    want = decode(inputs)
    apart = torch.nn.functional.pad(inputs.cache.view(torch.uint8), (0, 48, 0, 5), value=0x7F)
    apart = apart.view(inputs.cache.dtype)[:, :-5, : inputs.cache.shape[2]]
    assert apart.stride(0) != apart.stride(1) * apart.shape[1]
    table = torch.nn.functional.pad(inputs.block_table_BM, (0, 3), value=2**31 - 1)
    got = decode(
        replace(
            inputs,
            cache=apart,
            block_table_BM=table[:, :-3],
            q_latent_BQHC=inputs.q_latent_BQHC.transpose(1, 2).contiguous().transpose(1, 2),
            q_rope_BQHR=inputs.q_rope_BQHR.contiguous(),
        )
    )
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("scale", [-0.3, 0.0, 3.0])
def test_any_softmax_scale_will_do(scale: float) -> None:
    for layout in LAYOUTS:
        check(replace(make_inputs([75], layout=layout, num_heads=2), scale=scale))


@pytest.mark.parametrize("layout", [CacheLayout.FP8, CacheLayout.FP8_DS])
@pytest.mark.parametrize("size", [2.0**-100, 2.0**40])
def test_bf16_queries_beyond_float16_lose_nothing(layout: CacheLayout, size: float) -> None:
    """float16 ends at 65,504 and at 6e-8; the queries enter it relative to the largest of a row."""
    inputs = make_inputs([75, 20], layout=layout, num_heads=3, query_size=4 * size)
    rows = inputs.q_rope_BQHR.clone()
    rows[0, 0, 0] = 0  # a row whose rope part is empty
    inputs = replace(inputs, scale=inputs.scale / size, q_rope_BQHR=rows)
    check(inputs)


def attend_to_rows(latent_TC: Tensor, score_T: Tensor, layout: CacheLayout) -> Tensor:
    """The output of one head whose scores are known: they come through one rope dimension."""
    num_tokens = latent_TC.shape[0]
    dtype = torch.float8_e4m3fn if layout == CacheLayout.FP8 else torch.uint8
    width = 576 if layout == CacheLayout.FP8 else 656
    cache = torch.zeros(-(-num_tokens // 16), 16, width, dtype=torch.uint8).view(dtype)
    rope_TR = torch.zeros(num_tokens, 64)
    rope_TR[:, 0] = score_T
    mla_append_ref(latent_TC.bfloat16(), rope_TR.bfloat16(), cache, torch.arange(num_tokens))
    query = torch.zeros(1, 1, 1, 576)
    query[..., 512] = 1.0
    query = query.bfloat16().to(DEVICE)
    inputs = DecodeInputs(
        q_latent_BQHC=query[..., :512],
        q_rope_BQHR=query[..., 512:],
        cache=cache.to(DEVICE),
        layout=layout,
        block_table_BM=torch.arange(cache.shape[0], dtype=torch.int32, device=DEVICE)[None],
        length_B=torch.tensor([num_tokens], dtype=torch.int32, device=DEVICE),
        scale=1.0,
        query_scale=None,
        cache_scale=None,
        invariant=False,
    )
    out, lse = decode(inputs)
    want, want_lse = reference_of(inputs)
    torch.testing.assert_close(out.double(), want, rtol=2**-7, atol=0.0)
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-6, atol=1e-6)
    return out[0, 0, 0]


@pytest.mark.parametrize("layout", [CacheLayout.FP8, CacheLayout.FP8_DS])
def test_small_weights_survive_float16(layout: CacheLayout) -> None:
    """Weights of e**-18 are 2**-26 of the largest, below what float16 knows beside 1."""
    latent_TC = torch.zeros(200, 512)
    latent_TC[0, 0] = 1.0
    latent_TC[1:, 1] = 1.0
    score_T = torch.full((200,), -18.0)
    score_T[0] = 0.0
    out_C = attend_to_rows(latent_TC, score_T, layout)
    assert 2.9e-6 < out_C[1].item() < 3.1e-6


def test_groups_of_tiny_scale_keep_their_digits() -> None:
    """Group 0 is 1e-9 of group 1, and its scale alone would vanish in float16."""
    rng = torch.Generator().manual_seed(0)
    latent_TC = torch.rand(90, 512, generator=rng) + 0.5
    latent_TC[:, :128] *= 1e-9
    latent_TC[:, 128:256] *= torch.logspace(-3, 3, 90)[:, None]
    latent_TC[:, 256:384] *= torch.logspace(3, -3, 90)[:, None]
    latent_TC[:, 384:] *= 1e20
    attend_to_rows(latent_TC, torch.linspace(-1, 1, 90), CacheLayout.FP8_DS)


def test_nan_in_a_token_that_is_read_reaches_the_answer() -> None:
    """Never a plausible answer from a broken cache."""
    for layout in LAYOUTS:
        inputs = make_inputs([40, 40], layout=layout, num_heads=2)
        block = int(inputs.block_table_BM[1, 2])
        inputs.cache.view(torch.uint8)[block, 3, :2] = 0xFF
        out, lse = decode(inputs)
        assert out[0].isfinite().all() and lse[0].isfinite().all()
        assert out[1].isnan().any(dim=-1).all() and lse[1].isnan().all()


TENSORS = ("q_latent_BQHC", "q_rope_BQHR", "cache", "block_table_BM", "length_B")


class Recorder:
    """Stands where a kernel does, and keeps how it was launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[object, ...]] = []

    def __getitem__(self, grid: object) -> Any:
        def launch(*arguments: object, **constants: object) -> None:
            plain = [one for one in arguments if not isinstance(one, Tensor)]
            self.launches.append((grid, plain, constants))

        return launch


@pytest.mark.parametrize("invariant", [False, True], ids=["shared", "invariant"])
def test_the_launch_never_looks_at_the_lengths(
    invariant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured graph serves every length: fake tensors refuse to be read by the host."""
    split, merge = Recorder(), Recorder()
    monkeypatch.setattr(mla_triton, "_split_kernel", split)
    monkeypatch.setattr(mla_triton, "_merge_kernel", merge)
    inputs = make_inputs([40, 3], layout=CacheLayout.BF16, num_heads=2, invariant=invariant)
    with FakeTensorMode() as mode:
        fake: dict[str, Any] = {name: mode.from_tensor(getattr(inputs, name)) for name in TENSORS}
        decode(replace(inputs, **fake))
    decode(inputs)
    decode(replace(inputs, length_B=inputs.length_B * 0))
    for recorder in (split, merge):
        assert len(recorder.launches) == 3
        assert recorder.launches[0] == recorder.launches[1] == recorder.launches[2]


def shaped(
    layout: CacheLayout,
    num_sequences: int,
    num_blocks: int,
    num_rows: int = 1,
    *,
    invariant: bool = False,
) -> DecodeInputs:
    """Inputs without numbers: blocks of 16 tokens, and no more heads than a model has."""
    num_queries = -(-num_rows // 128)

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    return DecodeInputs(
        q_latent_BQHC=empty(num_sequences, num_queries, num_rows // num_queries, 512),
        q_rope_BQHR=empty(num_sequences, num_queries, num_rows // num_queries, 64),
        cache=empty(1, 16, 576, dtype=torch.uint8 if layout == CacheLayout.FP8 else torch.bfloat16),
        layout=layout,
        block_table_BM=empty(num_sequences, num_blocks, dtype=torch.int32),
        length_B=empty(num_sequences, dtype=torch.int32),
        scale=1.0,
        invariant=invariant,
    )


def test_every_part_has_a_slot_of_its_own() -> None:
    """In numbers: the parts of any batch, as the kernel cuts them, fit and never share a slot."""
    tile = mla_triton.pick_tile(CacheLayout.BF16, 1)
    full = 0
    for seed in range(300):
        draw = random.Random(seed)
        tiles = [draw.choice([0, 1, 2, draw.randrange(40)]) for _ in range(draw.randint(1, 8))]
        num_blocks = max(1, max(tiles) * tile.tokens // 16)
        shape = shaped(CacheLayout.BF16, len(tiles), num_blocks)
        plan = mla_triton.plan_parts(shape, tile, draw.randint(1, 30))
        chunk = max(-(-sum(tiles) // plan.parts), 1)
        slots = [
            program + sequence
            for sequence, count in enumerate(tiles)
            for program in range(plan.num_programs)
            if max(program * chunk, sum(tiles[:sequence]))
            < min(program * chunk + chunk, sum(tiles[:sequence]) + count)
        ]
        assert len(set(slots)) == len(slots)
        assert plan.num_programs * chunk >= sum(tiles)
        assert all(slot < plan.num_slots for slot in slots)
        full += plan.num_slots - 1 in slots
    assert full > 0  # one slot less would have been too few


@pytest.mark.parametrize("num_rows", [1, 16, 17, 128, 512])
@pytest.mark.parametrize("num_tokens", [16, 1000, 163840])
def test_invariant_parts_depend_on_rows_alone(num_rows: int, num_tokens: int) -> None:
    """Neither the batch, nor the table, nor the GPU has a say in where a sequence is cut."""
    layout = CacheLayout.FP8
    tile = mla_triton.pick_tile(layout, num_rows)

    def plan(num_sequences: int, num_blocks: int, multiprocessors: int) -> mla_triton.PartsPlan:
        shape = shaped(layout, num_sequences, num_blocks, num_rows, invariant=True)
        return mla_triton.plan_parts(shape, tile, multiprocessors)

    tiles = -(-num_tokens // tile.tokens)
    chunks = set()
    for num_sequences, spare, multiprocessors in ((1, 0, 132), (7, 1, 8), (256, 5000, 108)):
        found = plan(num_sequences, -(-num_tokens // 16) + spare, multiprocessors)
        chunk = max(-(-tiles // found.parts), mla_triton.LEAST_TILES)
        assert found.num_slots == num_sequences * found.parts
        assert found.parts * chunk >= tiles
        chunks.add(chunk)
    assert len(chunks) == 1


def test_refuses_outputs_that_are_not_contiguous() -> None:
    inputs = make_inputs([5], layout=CacheLayout.BF16, num_heads=2)
    lse = torch.zeros(1, 1, 2, device=DEVICE)
    wide = torch.zeros(1, 1, 2, 513, dtype=torch.bfloat16, device=DEVICE)[..., :512]
    with pytest.raises(ValueError, match="out_BQHC and lse_BQH must be contiguous"):
        decode_triton(inputs, wide, lse)
