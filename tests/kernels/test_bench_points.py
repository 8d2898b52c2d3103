"""The points: what is measured, and how many bytes and operations each is charged for."""

from itertools import groupby

import pytest
from r1kit.kernels.bench import points as module
from r1kit.kernels.bench.points import (
    KINDS,
    NAMED,
    Append,
    Choice,
    Point,
    appends,
    counts,
    points,
    ragged_lengths,
)
from r1kit.kernels.mla_cache import LATENT, WIDTH, CacheLayout


def test_the_layouts_are_those_of_the_cache() -> None:
    assert {each.value: each.row_bytes for each in CacheLayout} == module.BYTES_PER_TOKEN
    assert (module.LATENT, module.WIDTH) == (LATENT, WIDTH)


@pytest.mark.parametrize(
    ("point", "num_bytes", "flops"),
    [
        # Batch * context * 1152 and batch * heads * (576 + 512) * 2; 2 * rows * context * 1088.
        (Point(16, 128, 16384), 128 * 16384 * 1152 + 128 * 16 * 2176, 2 * 2048 * 16384 * 1088),
        (Point(128, 1, 4096, cache="fp8", query_dtype="fp8"), 4096 * 576 + 128 * (576 + 1024),
         2 * 128 * 4096 * 1088),
        (Point(16, 2, 100, cache="fp8_ds_mla"), 200 * 656 + 32 * 1088 * 2, 2 * 2 * 16 * 100 * 1088),
        # Of two query tokens the first sees one token less.
        (Point(8, 1, 10, 2), 10 * 1152 + 2 * 8 * 1088 * 2, 2 * 8 * (10 + 9) * 1088),
    ],
)  # fmt: skip
def test_a_point_is_charged_for_what_must_move(point: Point, num_bytes: int, flops: int) -> None:
    assert point.num_bytes == num_bytes
    assert point.flops == flops


def test_an_append_is_charged_for_reading_and_writing() -> None:
    assert Append(10, "bf16").num_bytes == 10 * (1152 + 1152 + 8)
    assert Append(10, "fp8_ds_mla").num_bytes == 10 * (1152 + 656 + 8)


def test_ragged_lengths_are_the_same_everywhere_and_mean_what_they_say() -> None:
    lengths = ragged_lengths(256, 8192)
    assert lengths == ragged_lengths(256, 8192)
    assert lengths[:4] == [8332, 26844, 3152, 10095]  # the same on every machine and Python
    assert 0.8 * 8192 < sum(lengths) / 256 < 1.25 * 8192
    assert max(lengths) > 3 * min(lengths)
    assert Point(16, 256, 8192, ragged=True).cache_bytes == sum(lengths) * 1152


def test_the_full_run_covers_what_was_asked_for() -> None:
    chosen = points(Choice())
    shapes = {(p.heads, p.batch, p.context) for p in chosen if not p.ragged}
    assert {heads for heads, _, _ in shapes} == {8, 16, 32, 64, 128}
    assert {batch for _, batch, _ in shapes} == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert {context for _, _, context in shapes} == {1024, 4096, 8192, 16384, 32768, 131072}
    assert {(p.cache, p.query_dtype) for p in chosen} == set(KINDS)
    assert {p.query_tokens for p in chosen if p.heads == 16} == {1, 2}
    assert any(p.ragged for p in chosen)
    assert max(p.cache_bytes for p in chosen) <= 40e9


def test_the_quick_run_holds_the_shapes_that_the_targets_name() -> None:
    chosen = set(points(Choice(quick=True)))
    for batch, context in NAMED:
        for heads, tokens in ((16, 1), (128, 1), (16, 2)):
            for cache, dtype in KINDS:
                assert Point(heads, batch, context, tokens, cache, dtype) in chosen
    assert len(chosen) < 300


def test_points_of_one_group_stay_together_and_one_token_comes_before_two() -> None:
    for choice in (Choice(), Choice(quick=True)):
        chosen = points(choice)
        groups = [group for group, _ in groupby(chosen, key=lambda point: point.group)]
        assert len(groups) == len(set(groups))
        assert len(chosen) == len(set(chosen))
        for point in chosen:
            if point.query_tokens == 2:
                single = Point(**{**point.shape, "query_tokens": 1})
                assert chosen.index(single) < chosen.index(point)
        named = [(batch, context) in NAMED for batch, context, _ in groups]
        assert named == sorted(named, reverse=True)  # a run that is cut off has them


def test_a_choice_narrows_the_quick_run_and_widens_the_full_one() -> None:
    quick = points(Choice(quick=True, heads=(128,), cache=("fp8",)))
    assert {(p.heads, p.cache) for p in quick} == {(128, "fp8")}
    (own,) = points(
        Choice(
            heads=(24,),
            batch=(3,),
            context=(777,),
            cache=("bf16",),
            query_tokens=(4,),
            ragged=False,
        )
    )
    assert own == Point(24, 3, 777, 4)
    pair = points(
        Choice(
            heads=(16,), batch=(1,), context=(64,), cache=("fp8_ds_mla",), query_dtype=("fp8",),
            query_tokens=(1,), ragged=False,
        )
    )  # fmt: skip
    assert [(p.cache, p.query_dtype) for p in pair] == [("fp8_ds_mla", "fp8")]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (Choice(heads=(129,)), "heads must be 1 to 128, got 129"),
        (Choice(context=(200_000,)), "context must be 1 to 163840, got 200000"),
        (Choice(query_tokens=(5,)), "query_tokens must be 1 to 4, got 5"),
        (Choice(cache=("int8",)), "cache must be one of bf16, fp8, fp8_ds_mla, got 'int8'"),
        (Choice(query_dtype=("fp16",)), "query_dtype must be one of bf16, fp8, got 'fp16'"),
        (Choice(quick=True, heads=(7,)), "no shape matches all of the options"),
        (Choice(max_tokens=10), "each with over 10 tokens"),
    ],
)
def test_a_choice_that_leaves_nothing_or_makes_no_sense_is_refused(
    choice: Choice, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        points(choice)


def test_appends_are_measured_from_one_token_to_131072_in_each_layout() -> None:
    assert {each.tokens for each in appends(None, quick=False)} >= {1, 512, 131072}
    assert {each.cache for each in appends(None, quick=True)} == set(module.BYTES_PER_TOKEN)
    assert {each.cache for each in appends(("fp8",), quick=True)} == {"fp8"}
    with pytest.raises(ValueError, match="cache must be one of"):
        appends(("fp7",), quick=True)


def test_numbers_are_read_from_a_list() -> None:
    assert counts("16,128", "--heads") == (16, 128)
    assert counts("4k, 128K,100", "--context") == (4096, 131072, 100)
    assert counts(None, "--heads") is None
    for wrong in ("0", "", "1,,2", "k", "-1", "1.5", "²"):
        with pytest.raises(ValueError, match=r"--heads: .* is not a positive whole"):
            counts(wrong, "--heads")
