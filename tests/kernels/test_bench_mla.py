"""A run of the benchmark on the CPU: real kernels and files, an imagined clock and anchors."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from r1kit.kernels.bench import anchors, mla
from r1kit.kernels.bench.inputs import SCALE, Inputs, draw_cache, draw_paged, draw_query
from r1kit.kernels.bench.mla import GpuLost, How, Machine, Run, measure, our_calls
from r1kit.kernels.bench.points import Append, Point
from r1kit.kernels.bench.result_file import Writer, read
from r1kit.kernels.bench.timing import Timing
from r1kit.kernels.mla_cache import layout_of, read_cache
from r1kit.kernels.mla_decode import mla_decode_ref

from .bench_rows import new_results

BF16 = Point(4, 2, 70)
FP8 = Point(4, 2, 70, cache="fp8", query_dtype="fp8")
DS = Point(4, 2, 70, cache="fp8_ds_mla")


def clock(calls: Sequence[Callable[[], object]]) -> Timing:
    """A call takes as many microseconds as there are sets; the first is really made."""
    calls[0]()
    return Timing(float(len(calls)), 20, len(calls))


def machine(free: int = 10**12) -> Machine:
    return Machine("cpu", 0, clock, lambda: free, lambda: None)


def run(
    tmp_path: Path, points: list[Point], appends: list[Append] | None = None, **how: Any
) -> tuple[Run, list[str]]:
    said: list[str] = []
    writer = Writer(tmp_path / "mla.jsonl", new_results())
    settings = How(**{"machine": machine(), "variant": "reference", **how})
    return measure(points, appends or [], writer, settings, said.append), said


@pytest.fixture
def with_anchors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Any], Any]]:
    """Anchors that answer rightly; a test may replace one."""

    def right(inputs: Inputs) -> Any:
        paged = inputs.paged
        out, _ = mla_decode_ref(
            inputs.query_BQHD, paged.cache, paged.table_BM, paged.length_B, scale=SCALE
        )
        return (out.to(torch.bfloat16), None)

    answers: dict[str, Callable[[Any], Any]] = dict.fromkeys(
        (*anchors.BF16_DECODE, *anchors.FP8_DECODE), right
    )

    def prepare(anchor: str, sets: Sequence[Inputs]) -> list[Callable[[], object]]:
        return [lambda each=each: answers[anchor](each) for each in sets]  # type: ignore[misc]

    monkeypatch.setattr(anchors, "prepare", prepare)
    return answers


def test_each_layout_is_measured_beside_the_anchors_that_it_is_compared_with(
    tmp_path: Path, with_anchors: dict[str, Any]
) -> None:
    done, said = run(tmp_path, [FP8, BF16, DS])
    assert done.failures == []
    held = read(tmp_path / "mla.jsonl")
    assert held.header["finished"] is True
    rows = {row["shape"]["cache"]: row for row in held.rows}
    assert set(rows["bf16"]["anchors"]) == {"fa3", "fa3_planned", "flashmla"}
    assert rows["bf16"]["anchor"] in rows["bf16"]["anchors"]
    for cache in ("fp8", "fp8_ds_mla"):
        assert rows[cache]["anchor"] == "flashmla_fp8"
        assert rows[cache]["fa3_bf16_us"] == rows["bf16"]["anchors"]["fa3"]
    assert rows["bf16"]["us"] == rows["bf16"]["sets"] == 64
    assert max(rows["bf16"]["cosine_difference"].values()) < 1e-5
    assert max(rows["fp8"]["cosine_difference"].values()) < 1e-5
    assert len([line for line in said if "h4 b2 s70" in line]) == 3


def test_without_anchors_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("an anchor was asked for")

    monkeypatch.setattr(anchors, "prepare", never)
    run(tmp_path, [BF16, DS], with_anchors=False)
    held = read(tmp_path / "mla.jsonl")
    assert [row["anchor"] for row in held.rows] == [None, None]
    assert [row["anchor_errors"] for row in held.rows] == [{}, {}]


def test_an_anchor_that_fails_is_named_with_its_error_and_the_others_go_on(
    tmp_path: Path, with_anchors: dict[str, Any]
) -> None:
    def fails(inputs: Inputs) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    with_anchors["fa3"] = fails
    done, _ = run(tmp_path, [BF16])
    (row,) = done.results.rows
    assert set(row["anchors"]) == {"fa3_planned", "flashmla"}
    assert row["anchor_errors"] == {"fa3": "RuntimeError: no kernel image"}
    assert done.failures == []


def test_a_machine_without_vllm_says_which_anchors_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # so that importing it fails everywhere
    done, _ = run(tmp_path, [BF16, FP8], [Append(3, "fp8")])
    for row in done.results.rows:
        assert row["anchor"] is None
        assert row["anchor_errors"]
        assert all("vllm" in why for why in row["anchor_errors"].values())


def test_a_wrong_answer_fails_its_row_however_fast_it_was(
    tmp_path: Path, with_anchors: dict[str, Any]
) -> None:
    with_anchors["flashmla"] = lambda inputs: (torch.randn(2, 1, 4, 512).bfloat16(), None)
    done, _ = run(tmp_path, [BF16])
    (failure,) = done.failures
    assert "the outputs differ from flashmla by" in failure
    assert "fa3" not in failure
    with_anchors["flashmla"] = lambda inputs: torch.full((2, 1, 4, 512), torch.nan)
    done, _ = run(tmp_path / "again", [BF16])
    assert "differ from flashmla by nan" in done.failures[0]


def test_our_own_failure_is_a_row_and_a_failure(tmp_path: Path) -> None:
    done, _ = run(tmp_path, [BF16, DS], variant="fastest", with_anchors=False)
    assert len(done.failures) == 2
    assert "variant" in done.failures[0]
    rows = read(tmp_path / "mla.jsonl").rows
    assert [row["us"] for row in rows] == [None, None]
    assert all("fastest" in row["error"] for row in rows)


def test_what_does_not_fit_is_skipped_by_name_and_so_are_its_anchors(
    tmp_path: Path, with_anchors: dict[str, Any]
) -> None:
    needed = Point(4, 2, 70).cache_bytes + mla.SPARE_BYTES
    done, _ = run(tmp_path, [BF16, FP8], machine=machine(int(needed) - 1))
    rows = {row["shape"]["cache"]: row for row in done.results.rows}
    assert rows["bf16"]["us"] is None
    assert "GiB of memory" in rows["bf16"]["skipped"]
    assert rows["fp8"]["us"] is not None
    assert set(rows["fp8"]["anchor_errors"]) == {"fa3", "fa3_planned", "flashmla"}
    assert rows["fp8"]["fa3_bf16_us"] is None


def test_a_resumed_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, [BF16], [Append(3)], with_anchors=False)
    held = read(tmp_path / "mla.jsonl")
    writer = Writer(tmp_path / "mla.jsonl", held, resume=True)
    said: list[str] = []
    how = How(machine(), "reference", with_anchors=False)
    measure([BF16, DS], [Append(3), Append(4)], writer, how, said.append)
    assert len(said) == 2
    assert [row["shape"].get("cache") for row in read(writer.path).rows] == [
        "bf16", "bf16", "bf16", "fp8_ds_mla",
    ]  # fmt: skip


def test_a_budget_ends_a_run_and_says_what_is_left(tmp_path: Path) -> None:
    done, said = run(tmp_path, [BF16, DS], [Append(3)], with_anchors=False, budget_s=0.0)
    assert done.results.rows == []
    assert "3 shapes left" in said[-1]
    assert read(tmp_path / "mla.jsonl").header["finished"] is False


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([True])

    def stops(calls: Sequence[Callable[[], object]]) -> Timing:
        if next(turns, False):
            return clock(calls)
        raise KeyboardInterrupt

    impatient = replace(machine(), time=stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [BF16, DS], machine=impatient, with_anchors=False)
    held = read(tmp_path / "mla.jsonl")
    assert len(held.rows) == 1
    assert held.header["finished"] is False


def test_a_fault_that_takes_the_gpu_along_ends_the_run_with_its_row_on_file(tmp_path: Path) -> None:
    def fault(calls: Sequence[Callable[[], object]]) -> Timing:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def dead() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    broken = replace(machine(), time=fault, alive=dead)
    with pytest.raises(GpuLost, match=r"answers no more after h4 b2 s70 .*--resume goes on"):
        run(tmp_path, [BF16, DS], machine=broken, with_anchors=False)
    held = read(tmp_path / "mla.jsonl")
    assert ["illegal memory access" in row["error"] for row in held.rows] == [True]
    assert held.header["finished"] is False


@pytest.mark.parametrize("layout", ["bf16", "fp8", "fp8_ds_mla"])
def test_drawn_caches_are_finite_normal_and_addressed_once(layout: str) -> None:
    paged = draw_paged(layout, [100, 1, 64], "cpu")
    cache = paged.cache
    assert layout_of(cache) == layout
    values = read_cache(cache, layout_of(cache), torch.ones(1) if layout == "fp8" else None)
    assert 0.98 < values.double().std() < 1.02
    table = paged.table_BM.tolist()
    assert sorted([*table[0][:2], table[1][0], table[2][0]]) == [0, 1, 2, 3]
    assert paged.table_BM.max() < cache.shape[0]
    assert (paged.length_B.tolist(), paged.longest) == ([100, 1, 64], 100)


def test_large_caches_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1kit.kernels.bench.inputs.PIECE_BYTES", 64 * 1152 * 2.0)
    cache = draw_cache("fp8", 5, "cpu").float()
    assert all(0.9 < block.std() < 1.1 for block in cache)


def test_our_calls_answer_as_the_definition_does() -> None:
    for cache, dtype in (("bf16", "bf16"), ("fp8", "fp8"), ("fp8_ds_mla", "bf16")):
        point = Point(4, 2, 70, 2, cache, dtype)
        paged = draw_paged(cache, point.lengths, "cpu")
        query = draw_query(point, dtype, "cpu")
        (call,) = our_calls([Inputs(paged, query)], "reference")
        out, lse = call()
        want, want_lse = mla_decode_ref(
            query, paged.cache, paged.table_BM, paged.length_B, scale=192**-0.5
        )
        torch.testing.assert_close(out.double(), want, rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(lse.double(), want_lse, rtol=1e-6, atol=1e-6)


def test_an_append_writes_what_it_was_given(tmp_path: Path) -> None:
    done, _ = run(tmp_path, [], [Append(3, "fp8"), Append(5, "bf16")], with_anchors=False)
    if not torch.cuda.is_available():  # in the interpreter
        assert done.failures == []
        assert [row["kernel"] for row in done.results.rows] == ["mla_append"] * 2
        assert all(row["sets"] == 64 for row in done.results.rows)
