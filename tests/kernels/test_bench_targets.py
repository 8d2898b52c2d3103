"""The targets: each speaks of the right shapes, fails when it is missed, and never guesses."""

import pytest
from r1kit.kernels.bench.points import Append, Point
from r1kit.kernels.bench.result_file import Results, Row, unmeasured_row
from r1kit.kernels.bench.targets import TARGETS, Target, judge, mark, report

from .bench_rows import append, decode, new_results

K = 1024


def target(number: str) -> Target:
    (found,) = [each for each in TARGETS if each.number == number]
    return found


def results(*rows: Row) -> Results:
    held = new_results()
    for row in rows:
        held.add(row)
    return held


def us_for(point: Point | Append, tb_s: float) -> float:
    """The time at which a point moves `tb_s`."""
    return point.num_bytes / tb_s / 1e6


@pytest.mark.parametrize(
    ("number", "point", "anchors", "met_us", "missed_us"),
    [
        ("1a", Point(16, 256, 128 * K), {"fa3": 98.0}, 99.9, 100.1),
        ("1b", Point(16, 8, 4 * K), {"fa3": 30.0, "flashmla": 45.0}, 19.9, 20.1),
        ("2a", Point(128, 1, 4 * K), {"fa3_planned": 30.0}, 29.9, 30.1),
        ("3a", Point(16, 1, K, cache="fp8_ds_mla"), {"flashmla_fp8": 12.5, "fa3": 1.0}, 9.9, 10.1),
        ("3e", Point(128, 4, K, cache="fp8", query_dtype="fp8"), {"flashmla_fp8": 30.0}, 29, 31),
    ],
)
def test_a_ratio_is_judged_against_the_best_anchor(
    number: str, point: Point, anchors: dict[str, float], met_us: float, missed_us: float
) -> None:
    assert judge(target(number), results(decode(point, met_us, anchors))).met is True
    assert judge(target(number), results(decode(point, missed_us, anchors))).met is False
    untold = judge(target(number), results(decode(point, met_us)))
    assert (untold.met, untold.num_untold) == (None, 1)


@pytest.mark.parametrize(
    ("number", "point", "share"),
    [
        ("1d", Point(16, 128, 16 * K), 0.93),
        ("3d", Point(16, 128, 16 * K, cache="fp8_ds_mla"), 0.85),
        ("5a", Append(131072, "fp8"), 0.85),
    ],
)
def test_a_bandwidth_is_judged_against_the_roof(
    number: str, point: Point | Append, share: float
) -> None:
    for wanted, factor in ((True, 1.001), (False, 0.999)):
        if isinstance(point, Append):
            row = append(point, us_for(point, share * 3.0 * factor))
        else:
            row = decode(point, us_for(point, share * 4.0 * factor))
        assert judge(target(number), results(row)).met is wanted


def test_the_roof_that_counts_is_the_one_with_the_anchors() -> None:
    point = Point(16, 128, 16 * K)
    row = decode(point, us_for(point, 0.94 * 4), {"fa3": us_for(point, 4.5)})
    assert judge(target("1d"), results(row)).met is False


@pytest.mark.parametrize(
    ("number", "point", "wanted"),
    [
        ("2b", Point(128, 128, 16 * K), 640),
        ("3f", Point(128, 128, 16 * K, cache="fp8"), 400),
    ],
)
def test_a_speed_is_judged_in_tflops(number: str, point: Point, wanted: float) -> None:
    us = point.flops / wanted / 1e6
    assert judge(target(number), results(decode(point, us * 0.999))).met is True
    assert judge(target(number), results(decode(point, us * 1.001))).met is False


@pytest.mark.parametrize(
    ("number", "cache", "wanted"), [("3b", "fp8", 1.7), ("3c", "fp8_ds_mla", 1.5)]
)
def test_an_fp8_cache_is_judged_against_bf16(number: str, cache: str, wanted: float) -> None:
    point = Point(16, 64, 8 * K, cache=cache)
    met = decode(point, 100.0, {}, fa3_bf16_us=wanted * 100.1)
    missed = decode(point, 100.0, {}, fa3_bf16_us=wanted * 99.9)
    assert judge(target(number), results(met)).met is True
    assert judge(target(number), results(missed)).met is False
    assert judge(target(number), results(decode(point, 100.0))).met is None
    small = Point(16, 64, 4 * K, cache=cache)
    assert judge(target(number), results(decode(small, 1.0, {}, fa3_bf16_us=1.0))).num_told == 0


def test_the_easier_of_two_is_enough() -> None:
    point = Point(16, 2, 32 * K)
    fast, slow = us_for(point, 0.9 * 4), us_for(point, 0.5 * 4)
    one = target("1c")
    assert judge(one, results(decode(point, fast))).met is True  # 90 % of reading
    assert judge(one, results(decode(point, slow, {"fa3": 1.6 * slow}))).met is True
    assert judge(one, results(decode(point, slow, {"fa3": 1.4 * slow}))).met is False
    assert judge(one, results(decode(point, slow))).met is None  # the ratio might save it
    assert judge(one, results(decode(Point(16, 16, 32 * K), slow))).num_told == 0


def test_two_tokens_are_compared_with_one_of_the_same_shape() -> None:
    one, two = Point(16, 32, 4 * K), Point(16, 32, 4 * K, 2)
    cost = target("4")
    assert judge(cost, results(decode(one, 100.0), decode(two, 114.0))).met is True
    missed = judge(cost, results(decode(one, 100.0), decode(two, 116.0)))
    assert missed.met is False
    assert missed.reached == pytest.approx(1.16)
    other = Point(16, 32, 4 * K, cache="fp8")
    assert judge(cost, results(decode(other, 100.0), decode(two, 100.0))).met is None


def test_the_worst_shape_stands_for_the_target() -> None:
    rows = [
        decode(Point(16, batch, 8 * K), us, {"fa3": 100.0})
        for batch, us in ((8, 90.0), (16, 120.0), (32, 110.0))
    ]
    verdict = judge(target("1a"), results(*rows))
    assert verdict.met is False
    assert verdict.worst is rows[1]
    assert verdict.reached == pytest.approx(100 / 120)
    assert verdict.num_told == 3


def test_one_shape_that_cannot_be_told_leaves_the_target_untold() -> None:
    good = decode(Point(16, 8, 8 * K), 90.0, {"fa3": 100.0})
    bare = decode(Point(16, 16, 8 * K), 90.0)
    verdict = judge(target("1a"), results(good, bare))
    assert (verdict.met, verdict.num_told, verdict.num_untold) == (None, 1, 1)
    skipped = unmeasured_row("mla_decode", Point(16, 16, 8 * K).shape, skipped="too large")
    assert judge(target("1a"), results(good, skipped)).met is None


def test_a_kernel_that_fails_or_answers_wrongly_meets_nothing() -> None:
    good = decode(Point(16, 8, 8 * K), 90.0, {"fa3": 100.0})
    failed = unmeasured_row("mla_decode", Point(16, 16, 8 * K).shape, error="RuntimeError: x")
    assert judge(target("1a"), results(good, failed)).met is False
    wrong = {**good, "error": "the outputs differ"}
    assert judge(target("1a"), results(wrong)).met is False
    held = results(wrong)
    mark(wrong, held)
    assert wrong["met"] is False


def test_a_row_names_its_targets_and_whether_it_meets_them_all() -> None:
    point = Point(16, 128, 16 * K)
    fast = decode(point, us_for(point, 3.9), {"fa3": us_for(point, 3.9)})
    held = results(fast)
    mark(fast, held)
    assert fast["target"].startswith("1a bf16, 16 heads: 0.98")
    assert "; 1d " in fast["target"]
    assert fast["met"] is True
    slow = decode(point, us_for(point, 3.5), {"fa3": us_for(point, 3.5)})
    mark(slow, results(slow))
    assert slow["met"] is False
    bare = decode(point, us_for(point, 3.9))
    mark(bare, results(bare))
    assert bare["met"] is None
    unnamed = decode(Point(8, 1, K), 10.0)
    mark(unnamed, results(unnamed))
    assert "target" not in unnamed


def test_small_appends_are_compared_with_vllm() -> None:
    small, large = Append(512), Append(4096)
    rows = [append(small, 3.0, {"concat_and_cache_mla": 2.9}), append(large, 9.0, {})]
    verdict = judge(target("5b"), results(*rows))
    assert (verdict.met, verdict.num_told) == (False, 1)


def test_the_report_has_a_line_for_every_target_and_guesses_none() -> None:
    text = report(new_results())
    for each in TARGETS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{each.number} ")]
        assert each.says in line
        assert "nothing" in line
        assert "untold" in line
    point = Point(16, 128, 16 * K)
    told = report(results(decode(point, us_for(point, 3.9), {"fa3": us_for(point, 3.9)})))
    (line,) = [line for line in told.splitlines() if line.startswith("1d ")]
    assert "93.0%" in line
    assert "97.5%" in line
    assert "yes" in line
    assert "h16 b128 s16k q1 bf16" in line
