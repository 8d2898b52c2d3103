"""The families of checks: what is tried, and what each promise means.

A family is a function from a kit to its jobs; `FAMILIES` lists them in the order in which they run,
the broadest first. `kit.small` marks the short list for Triton's interpreter.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..mla_cache import LATENT, WIDTH, CacheLayout
from .check import (
    Broken,
    Case,
    Job,
    Kit,
    Result,
    Unsupported,
    Wanted,
    judged_together,
    one,
    require_same_bits,
)
from .compare import Errors, cosine_difference
from .problems import NOWHERE, POISON, R1_SCALE, Problem, Spec, draw, lay_out, poisoned, realistic

HEADS = (1, 3, 8, 9, 16, 32, 63, 64, 126, 128)
QUERY_TOKENS = (1, 2, 3, 4)
BLOCK_SIZES = (16, 32, 48, 64, 128)
LENGTHS = (0, 1, 20, 63, 64, 65, 140, 1000, 4096, 2, 3)
SCALES = (0.01, R1_SCALE, 1.0)
KINDS = (
    (CacheLayout.BF16, "bf16"),
    (CacheLayout.FP8, "bf16"),
    (CacheLayout.FP8, "fp8"),
    (CacheLayout.FP8_DS, "bf16"),
    (CacheLayout.FP8_DS, "fp8"),
)
"""Every layout with every query dtype that its kernels may take; the kernel says which it does."""


def _kind(layout: CacheLayout, dtype: str) -> str:
    return f"{layout}-{dtype}q"


def _first(kit: Kit) -> list[tuple[str, Spec]]:
    """A ragged spec of each kind, for promises that depend little on the shape."""
    lengths = (0, 1, 17, 40) if kit.small else (0, 1, 65, 1000, 4096, 333)
    heads = 9 if kit.small else 16
    return [
        (
            _kind(layout, dtype),
            Spec(lengths, heads, 2, layout, dtype, 16 if kit.small else 64, seed=kit.seed),
        )
        for layout, dtype in KINDS
    ]


def shapes(kit: Kit) -> Iterator[Job]:
    """Heads x query tokens x layouts in blocks of 64, over ragged lengths, half of them strided.

    With other block sizes each head count meets one number of query tokens.
    """
    heads: tuple[int, ...] = (1, 9, 16) if kit.small else HEADS
    tokens: tuple[int, ...] = (1, 4) if kit.small else QUERY_TOKENS
    blocks: tuple[int, ...] = (16, 48) if kit.small else BLOCK_SIZES
    lengths = (0, 1, 17, 49, 2) if kit.small else LENGTHS
    for (layout, dtype), block in product(KINDS, blocks):
        spec = Spec(lengths, max(heads), max(tokens), layout, dtype, block, seed=kit.seed + block)
        name = f"shapes/{_kind(layout, dtype)}/k{block}"
        pairs = list(product(heads, tokens))
        if not kit.small and block != 64:
            turn = BLOCK_SIZES.index(block)
            pairs = [(h, tokens[(at + turn) % len(tokens)]) for at, h in enumerate(heads)]
        yield Job(name, partial(_shapes, kit, spec, pairs))


def _shapes(kit: Kit, spec: Spec, pairs: list[tuple[int, int]], wanted: Wanted) -> Iterator[Case]:
    """One definition serves all: a part's rows are the first heads and last tokens of the whole."""
    whole = draw(spec, kit.device)
    parts = {}
    for at, (h, q) in enumerate(pairs):
        part = whole.part(h, q)
        if wanted(f"h{h}-q{q}"):
            parts[f"h{h}-q{q}"] = part.with_query(part.joined.contiguous()) if at % 2 else part
    return judged_together(kit, whole, parts, _rows_of_part)


def _rows_of_part(want: Result, part: Problem) -> Result:
    tokens, heads = part.spec.query_tokens, part.spec.heads
    return want[0][:, -tokens:, :heads], want[1][:, -tokens:, :heads]


def lengths(kit: Kit) -> Iterator[Job]:
    """Every length around the first blocks, and random ones."""
    rng = random.Random(kit.seed)
    every = tuple(range(20 if kit.small else 131))
    some = tuple(rng.randrange(3000) for _ in range(64))
    for layout, dtype in KINDS:
        for block in (16,) if kit.small else (16, 64):
            for heads in (9,) if kit.small else (16, 128):
                name = f"lengths/{_kind(layout, dtype)}/k{block}-h{heads}"
                spec = Spec(every, heads, 2, layout, dtype, block, seed=kit.seed)
                yield one(f"{name}-every", partial(_plain, kit, spec))
                if not kit.small:
                    yield one(f"{name}-random", partial(_plain, kit, replace(spec, lengths=some)))


def _plain(kit: Kit, spec: Spec) -> Errors:
    """The kernel against its definition."""
    problem = draw(spec, kit.device)
    got = kit.decode(problem)
    kit.synchronize()
    return kit.judge(problem, got, kit.reference(problem))


def scales(kit: Kit) -> Iterator[Job]:
    """Softmax scales from nearly flat to peaked."""
    for (name, spec), scale in product(_first(kit), SCALES):
        yield one(f"scales/{name}/{scale:.3g}", partial(_plain, kit, replace(spec, scale=scale)))


def queries(kit: Kit) -> Iterator[Job]:
    """The query's forms: whatever its form, the same numbers give the same bits."""
    for name, spec in _first(kit):
        yield Job(f"queries/{name}", partial(_queries, kit, spec))


def _queries(kit: Kit, spec: Spec, wanted: Wanted) -> Iterator[Case]:
    problem = draw(spec, kit.device)
    plain = kit.decode(problem)
    want = kit.reference(problem)
    forms = {
        "joined": lambda q: q,
        "pair": lambda q: (q[..., :LATENT].contiguous(), q[..., LATENT:].contiguous()),
        "pair-views": lambda q: (q[..., :LATENT], q[..., LATENT:]),
        "padded": lambda q: _padded(q, WIDTH + 64),
        "heads-first": lambda q: q.transpose(1, 2).contiguous().transpose(1, 2),
        "batch-inside": lambda q: q.transpose(0, 1).contiguous().transpose(0, 1),
    }
    for name, form in forms.items():
        given = problem.with_query(form(problem.joined))
        yield name, partial(_in_another_form, kit, given, plain, want)
    yield "three-dimensional", partial(_three_dimensional, kit, problem)
    yield "broken-columns", partial(_strided_columns, kit, problem)


def _padded(query: Tensor, width: int) -> Tensor:
    """A view of the same numbers, NaN behind each row."""
    raw = torch.full((*query.shape[:-1], width), float("nan"), device=query.device)
    wide = raw.to(query.dtype)
    wide[..., : query.shape[-1]] = query
    return wide[..., : query.shape[-1]]


def _in_another_form(kit: Kit, given: Problem, plain: Result, want: Result) -> Errors:
    got = kit.decode(given)
    require_same_bits(got, plain, "another form of the same query")
    return kit.judge(given, got, want)


def _three_dimensional(kit: Kit, problem: Problem) -> None:
    """(B, H, 576) in, (B, H, 512) out: as with one query token."""
    single = problem.part(problem.spec.heads, 1)
    out_BQHC, lse_BQH = kit.decode(single)
    for query in (
        single.joined[:, 0],
        (single.joined[:, 0, :, :LATENT], single.joined[:, 0, :, LATENT:]),
    ):
        got = kit.decode(single.with_query(query))
        require_same_bits(
            got, (out_BQHC[:, 0], lse_BQH[:, 0]), "a query without its token dimension"
        )


def _strided_columns(kit: Kit, problem: Problem) -> str:
    """A query whose last dimension is strided is refused by name, or handled."""
    query = problem.joined
    spread = query.transpose(-1, -2).contiguous().transpose(-1, -2)
    return _refused_or_right(kit, problem, problem.with_query(spread), "query")


def _refused_or_right(kit: Kit, problem: Problem, strange: Problem, argument: str) -> str:
    try:
        got = kit.decode(strange)
    except (ValueError, TypeError) as error:
        if argument not in str(error):
            raise Broken(f"refused without naming {argument}: {error}") from None
        return ""
    require_same_bits(got, kit.decode(problem), f"a strided {argument}")
    return ""


def caches(kit: Kit) -> Iterator[Job]:
    """Strided caches and tables; blocks beyond 2**31 numbers and 2**32 bytes."""
    for name, spec in _first(kit):
        yield one(f"caches/{name}/padded-blocks", partial(_plain, kit, replace(spec, pad_block=16)))
        yield one(f"caches/{name}/padded-tokens", partial(_plain, kit, replace(spec, pad_token=64)))
        yield one(f"caches/{name}/strided-table", partial(_strided_table, kit, spec))
        yield one(f"caches/{name}/strided-columns", partial(_strided_cache, kit, spec))
        if not kit.small:
            far = replace(spec, num_blocks=120_000, first_block=119_000)
            yield one(f"caches/{name}/far-blocks", partial(_far, kit, far))


def _far(kit: Kit, spec: Spec) -> Errors:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    needed = 120_000 * 64 * 1152 * (1 if spec.layout == CacheLayout.BF16 else 0.6) * 1.3
    if free < needed:
        raise Unsupported(f"needs {needed / 2**30:.0f} GiB of free GPU memory")
    return _plain(kit, spec)


def _strided_table(kit: Kit, spec: Spec) -> Errors:
    problem = draw(spec, kit.device)
    rows, width = problem.table_BM.shape
    wide = torch.full((rows, width + 5), 2**31 - 1, dtype=torch.int32, device=kit.device)
    wide[:, :width] = problem.table_BM
    return _against_itself(kit, problem, replace(problem, table_BM=wide[:, :width]))


def _against_itself(kit: Kit, problem: Problem, other: Problem) -> Errors:
    got = kit.decode(other)
    require_same_bits(got, kit.decode(problem), "the same problem in other strides")
    return kit.judge(problem, got, kit.reference(problem))


def _strided_cache(kit: Kit, spec: Spec) -> str:
    problem = draw(spec, kit.device)
    spread = problem.cache.transpose(-1, -2).contiguous().transpose(-1, -2)
    return _refused_or_right(kit, problem, replace(problem, cache=spread), "cache")


def repeats(kit: Kit) -> Iterator[Job]:
    """The same inputs give the same bits, whatever lies in the memory that is handed out."""
    for name, spec in _first(kit):
        for heads in (9,) if kit.small else (16, 128):
            job = f"repeats/{name}/h{heads}"
            yield one(job, partial(_repeat, kit, replace(spec, heads=heads)))


def _repeat(kit: Kit, spec: Spec) -> None:
    problem = draw(spec, kit.device)
    first = kit.decode(problem)
    for turn in range(2 if kit.small else 20):
        _scribble(kit)
        require_same_bits(kit.decode(problem), first, f"repeat {turn + 1}")


def _scribble(kit: Kit) -> None:
    """Leave NaN in the memory that comes next."""
    numbers = 2**10 if kit.small else 2**24
    del_me = torch.full((numbers,), float("nan"), device=kit.device)
    del del_me


def invariant(kit: Kit) -> Iterator[Job]:
    """With `invariant=True` a sequence's bits do not depend on its neighbours."""
    for name, spec in _first(kit):
        for heads in (9,) if kit.small else (16, 128):
            job = f"invariant/{name}/h{heads}"
            yield Job(job, partial(_invariant, kit, replace(spec, heads=heads)))


def _invariant(kit: Kit, spec: Spec, wanted: Wanted) -> Iterator[Case]:
    problem = draw(spec, kit.device)
    out, lse = kit.decode(problem, invariant=True)

    def right() -> Errors:
        return kit.judge(problem, (out, lse), kit.reference(problem))

    def same(chosen: list[int]) -> None:
        got = kit.decode(problem.rows(chosen), invariant=True)
        require_same_bits(got, (out[chosen], lse[chosen]), f"sequences {chosen} by themselves")

    count = len(spec.lengths)
    yield "right", right
    for at in range(count):
        yield f"alone-{at}", partial(same, [at])
    yield "backwards", partial(same, list(range(count))[::-1])
    yield "many", partial(same, [count - 1] * (3 if kit.small else 200) + [1, 2])


def graphs(kit: Kit) -> Iterator[Job]:
    """One captured graph serves every length, table, query and cache that is copied in later."""
    for name, spec in _first(kit):
        for heads in (9,) if kit.small else (16, 128):
            job = f"graphs/{name}/h{heads}"
            yield one(job, partial(_graph, kit, replace(spec, heads=heads)))


def _graph(kit: Kit, spec: Spec) -> Errors:
    if kit.capture is None:
        raise Unsupported("CUDA graphs need a GPU")
    room = replace(spec, num_blocks=400, table_width=80)
    middling = 30 if kit.small else 1000
    count = len(spec.lengths)
    drawn = [
        draw(replace(room, lengths=each, seed=spec.seed + at), kit.device)
        for at, each in enumerate(
            [(5,) * count, (0,) * count, spec.lengths, (middling,) * count, spec.lengths[::-1]]
        )
    ]
    static = _copy(drawn[0])
    got, replay = kit.capture(partial(kit.decode, static))
    worst = Errors()
    for problem in [*drawn, drawn[0]]:
        for name in _TENSORS:
            if (tensor := getattr(static, name)) is not None:
                tensor.copy_(getattr(problem, name))
        replay()
        kit.synchronize()
        again = kit.decode(problem)
        require_same_bits(got, again, f"a replay at lengths {problem.spec.lengths}")
        errors = kit.judge(problem, got, kit.reference(problem))
        worst = errors if errors.wrong or errors.used > worst.used else worst
        if worst.wrong:
            break
    return worst


_TENSORS = ("query", "cache", "table_BM", "length_B", "query_scale", "cache_scale")


def _copy(problem: Problem) -> Problem:
    """The same in memory of its own."""
    copies: dict[str, Any] = {}
    for name in _TENSORS:
        tensor = getattr(problem, name)
        copies[name] = None if tensor is None else tensor.clone()
    return replace(problem, **copies)


def streams(kit: Kit) -> Iterator[Job]:
    """Two streams at once do not share what they write."""
    for name, spec in _first(kit):
        yield one(f"streams/{name}", partial(_streams, kit, spec))


def _streams(kit: Kit, spec: Spec) -> None:
    if kit.device == "cpu":
        raise Unsupported("streams need a GPU")
    problems = [draw(replace(spec, seed=spec.seed + at), kit.device) for at in range(2)]
    alone = [kit.decode(problem) for problem in problems]
    torch.cuda.synchronize()
    two = [torch.cuda.Stream() for _ in problems]
    got: list[list[Result]] = [[], []]
    for _ in range(20):
        for at, stream in enumerate(two):
            with torch.cuda.stream(stream):
                got[at].append(kit.decode(problems[at]))
    torch.cuda.synchronize()
    for at, results in enumerate(got):
        for turn, result in enumerate(results):
            require_same_bits(result, alone[at], f"stream {at}, turn {turn}")


def large(kit: Kit) -> Iterator[Job]:
    """Large batches, and contexts of 163,840 tokens."""
    if kit.small:
        return
    rng = random.Random(kit.seed)
    many = tuple(rng.randrange(400) for _ in range(300))
    for layout, dtype in KINDS:
        for heads, tokens in ((16, 2), (128, 1)):
            name = f"large/{_kind(layout, dtype)}/h{heads}"
            spec = Spec(many, heads, tokens, layout, dtype, seed=kit.seed)
            yield one(f"{name}-batch300", partial(_plain, kit, spec))
            yield one(f"{name}-long", partial(_plain, kit, replace(spec, lengths=(163840,))))
            long_and_short = replace(spec, lengths=(3, 163840, 0, 70000))
            yield one(f"{name}-long-and-short", partial(_plain, kit, long_and_short))


def empty(kit: Kit) -> Iterator[Job]:
    """No sequence is longer than 0, and no sequence at all."""
    for name, spec in _first(kit):
        yield one(f"empty/{name}/lengths", partial(_plain, kit, replace(spec, lengths=(0, 0, 0))))
        yield one(f"empty/{name}/batch", partial(_no_batch, kit, spec))


def _no_batch(kit: Kit, spec: Spec) -> None:
    problem = draw(spec, kit.device).rows([])
    out, lse = kit.decode(problem)
    shape = (0, spec.query_tokens, spec.heads)
    if out.shape != (*shape, LATENT) or lse.shape != shape:
        raise Broken(f"shapes are {tuple(out.shape)} and {tuple(lse.shape)} for a batch of 0")


def refusals(kit: Kit) -> Iterator[Job]:
    """Bad input is an error that names the argument."""
    yield Job("refusals", partial(_refusals, kit))


def _refusals(kit: Kit, wanted: Wanted) -> Iterator[Case]:
    spec = Spec((20, 33), 8, 1, block_size=16, seed=kit.seed)
    plain = draw(spec, kit.device)
    fp8 = draw(replace(spec, layout=CacheLayout.FP8, query_dtype="fp8"), kit.device)
    query, cache, table = plain.joined, plain.cache, plain.table_BM
    outside = table.clone()
    outside[1, 0] = cache.shape[0]
    negative = table.clone()
    negative[1, 0] = -1
    bad: dict[str, tuple[Problem, str, dict[str, Any]]] = {
        "query-dtype": (plain.with_query(query.half()), "query", {}),
        "query-width": (plain.with_query(query[..., :512]), "query", {}),
        "query-rank": (plain.with_query(query[0, 0]), "query", {}),
        "query-pair": (plain.with_query((query[..., :500], query[..., 500:])), "query", {}),
        "heads": (plain.with_query(query.repeat(1, 1, 17, 1)), "heads", {}),
        "query-tokens": (plain.with_query(query.repeat(1, 5, 1, 1)), "query", {}),
        "batch": (plain.with_query(query[:1]), "block_table", {}),
        "cache-dtype": (replace(plain, cache=cache.float()), "cache", {}),
        "cache-width": (replace(plain, cache=cache[..., :512]), "cache", {}),
        "cache-rank": (replace(plain, cache=cache[0]), "cache", {}),
        "block-size": (replace(plain, cache=cache[:, :12]), "cache", {}),
        "table-dtype": (replace(plain, table_BM=table.long()), "block_table", {}),
        "table-rank": (replace(plain, table_BM=table[0]), "block_table", {}),
        "lengths-dtype": (replace(plain, length_B=plain.length_B.long()), "lengths", {}),
        "lengths-shape": (replace(plain, length_B=plain.length_B[:1]), "lengths", {}),
        "query-fp8-on-bf16": (plain.with_query(fp8.joined), "query", {}),
        "query-scale-unused": (replace(plain, query_scale=fp8.query_scale), "query_scale", {}),
        "query-scale-dtype": (
            replace(fp8, query_scale=torch.ones(1, dtype=torch.float64, device=kit.device)),
            "query_scale", {},
        ),
        "cache-scale-shape": (
            replace(fp8, cache_scale=torch.ones(3, device=kit.device)), "cache_scale", {},
        ),
        "cache-scale-unused": (replace(plain, cache_scale=fp8.cache_scale), "cache_scale", {}),
        "length-negative": (
            replace(plain, length_B=-plain.length_B), "lengths", {"check_indices": True},
        ),
        "length-beyond-table": (
            replace(plain, length_B=torch.tensor([20, 400], dtype=torch.int32, device=kit.device)),
            "lengths", {"check_indices": True},
        ),
        "block-outside": (replace(plain, table_BM=outside), "block_table", {"check_indices": True}),
        "block-negative": (
            replace(plain, table_BM=negative), "block_table", {"check_indices": True},
        ),
        "variant": (plain, "variant", {"variant": "fastest"}),
    }  # fmt: skip
    if kit.device == "cuda":
        bad["device"] = (replace(plain, table_BM=table.cpu()), "block_table", {})
    for name, (problem, argument, more) in bad.items():
        yield name, partial(_refuses, kit, problem, argument, more)


def _refuses(kit: Kit, problem: Problem, argument: str, more: dict[str, Any]) -> None:
    """The kernel raises ValueError or TypeError, and its message names the argument."""
    arguments = {"variant": kit.variant, **problem.named(), **more}
    try:
        kit.decode_with(**arguments)
        kit.synchronize()
    except (ValueError, TypeError) as error:
        if argument not in str(error):
            raise Broken(f"the error does not name {argument}: {error}") from None
        return
    raise Broken(f"took a wrong {argument} without an error")


def accuracy(kit: Kit) -> Iterator[Job]:
    """What FP8 costs on realistic latents, against bf16 latents and queries unrounded to FP8."""
    yield Job("accuracy", partial(_accuracy, kit))


MOST_FP8_DIFFERENCE = 1e-3
CLEARLY_BETTER = 0.75
"""The 656-byte cache's cosine difference, at most, over the 576-byte one's, queries in bf16."""


def _accuracy(kit: Kit, wanted: Wanted) -> Iterator[Case]:
    lengths, heads = ((40, 33), 9) if kit.small else ((4096, 2000, 9000, 700), 16)
    plain = Spec(lengths, heads, 1, block_size=16 if kit.small else 64, seed=kit.seed)
    kv_TD, query = realistic(plain, 2.0, kit.device)
    far: dict[str, float] = {}

    def problem(layout: CacheLayout, dtype: str) -> Problem:
        rng = torch.Generator(kit.device).manual_seed(plain.seed)
        spec = replace(plain, layout=layout, query_dtype=dtype)
        return lay_out(spec, kv_TD, query.to(torch.bfloat16), rng)

    def measured(layout: CacheLayout, dtype: str) -> str:
        out, _ = kit.decode(problem(layout, dtype))
        want, _ = kit.reference(problem(CacheLayout.BF16, "bf16"))
        value = cosine_difference(out, want)
        far[_kind(layout, dtype)] = value
        if not value < MOST_FP8_DIFFERENCE:
            raise Broken(f"cosine difference {value:.1e}, at most {MOST_FP8_DIFFERENCE:.0e}")
        return f"cosine difference {value:.2e} from unquantised bf16"

    def better() -> str:
        for layout in (CacheLayout.FP8, CacheLayout.FP8_DS):
            if _kind(layout, "bf16") not in far:
                measured(layout, "bf16")
        share = far["fp8_ds_mla-bf16q"] / far["fp8-bf16q"]
        if not share < CLEARLY_BETTER:
            raise Broken(f"the 656-byte cache's difference is {share:.0%} of the 576-byte one's")
        return f"the 656-byte cache's difference is {share:.0%} of the 576-byte one's"

    def not_behind_flashmla() -> str:
        drawn = problem(CacheLayout.FP8, "fp8")
        theirs = _flashmla_fp8(kit, drawn)
        if not bool(theirs.isfinite().all()):
            raise Unsupported("FlashMLA-FP8's output is not finite here: nothing to compare with")
        want, _ = kit.reference(problem(CacheLayout.BF16, "bf16"))
        ours, _ = kit.decode(drawn)
        value, other = cosine_difference(ours, want), cosine_difference(theirs, want)
        if not value <= 1.02 * other:
            raise Broken(f"cosine difference {value:.2e}, FlashMLA-FP8's {other:.2e}")
        return f"cosine difference {value:.2e}, FlashMLA-FP8's {other:.2e}"

    for layout, dtype in KINDS[1:]:
        yield _kind(layout, dtype), partial(measured, layout, dtype)
    yield "656-better-than-576", better
    yield "beside-flashmla", not_behind_flashmla


def _flashmla_fp8(kit: Kit, problem: Problem) -> Tensor:
    """FlashMLA-FP8's output for the same rounded inputs."""
    if kit.device == "cpu":
        raise Unsupported("FlashMLA needs a Hopper GPU")
    try:
        from vllm.v1.attention.ops import flashmla
    except ImportError as error:
        raise Unsupported(f"FlashMLA-FP8 comes with vLLM, which is not here: {error}") from None
    spec = problem.spec
    heads = spec.heads * spec.query_tokens
    plan, splits = flashmla.get_mla_metadata_dense_fp8(problem.length_B, heads, 1)
    # Its promises do not cover poison: what is behind the end becomes 0, and block numbers real.
    clean = problem.cache.view(torch.uint8).clone()
    clean[clean == POISON] = 0
    table_BM = problem.table_BM.masked_fill(problem.table_BM == NOWHERE, 0)
    out, _ = flashmla.flash_mla_with_kvcache_fp8(
        problem.joined,
        clean.view(torch.float8_e4m3fn).unsqueeze(2),
        table_BM,
        problem.length_B,
        LATENT,
        plan,
        splits,
        softmax_scale=spec.scale,
        causal=True,
        descale_q=problem.query_scale,
        descale_k=problem.cache_scale,
    )
    return torch.as_tensor(out)


def append(kit: Kit) -> Iterator[Job]:
    """The append writes exactly the definition's bytes, and vLLM's, and no other."""
    for layout in CacheLayout:
        for tokens in (0, 1, 19) if kit.small else (0, 1, 7, 512, 4097, 131072):
            yield Job(f"append/{layout}/t{tokens}", partial(_append, kit, layout, tokens))


def _append(kit: Kit, layout: CacheLayout, tokens: int, wanted: Wanted) -> Iterator[Case]:
    rng = torch.Generator(kit.device).manual_seed(kit.seed + tokens)
    block = 16 if kit.small else 64
    num_blocks = tokens // block + 3
    kv_TD = torch.randn(tokens, WIDTH + 16, generator=rng, device=kit.device).to(torch.bfloat16)
    if tokens > 6:
        kv_TD[1] = 0
        kv_TD[2] *= 1000  # beyond what e4m3 holds at this scale: it saturates
        kv_TD[3] *= 1e-4  # below its smallest normal number
        kv_TD[4, :128] = 0  # a scale of nothing
    slot_T = torch.randperm(num_blocks * block, generator=rng, device=kit.device)[:tokens]
    slot_T[5::7] = -1
    spec = Spec((), layout=layout, block_size=block, pad_block=16, pad_token=64)
    scale = torch.tensor([0.37], device=kit.device) if layout == CacheLayout.FP8 else None
    latent, rope = kv_TD[:, :LATENT], kv_TD[:, LATENT:WIDTH]

    def written(by: Callable[..., None]) -> Tensor:
        cache = poisoned(spec, num_blocks, torch.device(kit.device))
        by(latent, rope, cache, slot_T, layout=layout, cache_scale=scale)
        kit.synchronize()
        whole = cache._base
        return (cache if whole is None else whole).contiguous().view(torch.uint8)

    def as_defined() -> None:
        ours, theirs = written(kit.append), written(kit.append_ref)
        if wrong := int((ours != theirs).sum()):
            raise Broken(f"{wrong} bytes of {ours.numel()} differ")

    def as_vllm() -> str:
        ours, theirs = written(kit.append).short(), written(partial(_their_append, kit)).short()
        wrong = int((ours != theirs).sum())
        if wrong > ours.numel() / 1e4 or int((ours - theirs).abs().max()) > 1:
            raise Broken(f"{wrong} bytes of {ours.numel()} differ from vLLM's")
        return f"{wrong} bytes of {ours.numel()} differ from vLLM's, by a step" if wrong else ""

    yield "definition", as_defined
    if tokens:  # vLLM's takes at least one
        yield "vllm", as_vllm


def _their_append(
    kit: Kit, latent: Tensor, rope: Tensor, cache: Tensor, slot: Tensor, *, layout: str,
    cache_scale: Tensor | None,
) -> None:  # fmt: skip
    """vLLM's append."""
    if kit.device == "cpu":
        raise Unsupported("vLLM's append needs a GPU")
    from .anchors import append_call

    scale = torch.ones(1, device=kit.device) if cache_scale is None else cache_scale
    try:
        call = append_call(latent, rope, cache, slot, layout, scale)
    except ImportError as error:
        raise Unsupported(f"vLLM is not here: {error}") from None
    call()


def compiled(kit: Kit) -> Iterator[Job]:
    """torch.compile traces through both operators without a break, to the same bits."""
    for name, spec in _first(kit)[: 1 if kit.small else None]:
        yield one(f"compiled/decode/{name}", partial(_compiled_decode, kit, spec))
    for layout in list(CacheLayout)[: 1 if kit.small else None]:
        yield one(f"compiled/append/{layout}", partial(_compiled_append, kit, layout))


def _compiled_decode(kit: Kit, spec: Spec) -> None:
    problem = draw(spec, kit.device)
    plain = kit.decode(problem)
    traced = torch.compile(kit.decode_with, fullgraph=True, backend="eager")
    got = traced(variant=kit.variant, **problem.named())
    require_same_bits(got, plain, "the traced call")


def _compiled_append(kit: Kit, layout: CacheLayout) -> None:
    kv_TD = torch.ones(5, WIDTH, dtype=torch.bfloat16, device=kit.device)
    slot_T = torch.tensor([3, 20, -1, 0, 31], device=kit.device)
    spec = Spec((), layout=layout, block_size=16)
    scale = torch.tensor([0.37], device=kit.device) if layout == CacheLayout.FP8 else None
    traced = torch.compile(kit.append, fullgraph=True, backend="eager")
    plain, other = (poisoned(spec, 2, torch.device(kit.device)) for _ in range(2))
    latent, rope = kv_TD[:, :LATENT], kv_TD[:, LATENT:]
    kit.append(latent, rope, plain, slot_T, cache_scale=scale)
    traced(latent, rope, other, slot_T, cache_scale=scale)
    require_same_bits((plain, plain), (other, other), "the traced append")


def portable(kit: Kit) -> Iterator[Job]:
    """The Triton variant, which serves every other GPU, on this one too."""
    if kit.variant is not None:
        return
    here = replace(kit, variant="triton")
    for name, spec in _first(kit):
        for heads in (16, 128):
            job = f"portable/{name}/h{heads}"
            yield one(job, partial(_plain, here, replace(spec, heads=heads)))
        yield one(f"portable/{name}/graph", partial(_graph, here, spec))
        yield Job(f"portable/{name}/invariant", partial(_invariant, here, spec))


FAMILIES: dict[str, Callable[[Kit], Iterable[Job]]] = {
    "shapes": shapes,
    "lengths": lengths,
    "empty": empty,
    "scales": scales,
    "queries": queries,
    "caches": caches,
    "refusals": refusals,
    "repeats": repeats,
    "invariant": invariant,
    "graphs": graphs,
    "streams": streams,
    "accuracy": accuracy,
    "append": append,
    "large": large,
    "compiled": compiled,
    "portable": portable,
}
"""Name -> jobs, in the order in which they run."""
