"""Timing: enough sets to leave the L2, few enough replays, and a roof that is what was measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from r1kit.kernels.bench.timing import Roof, graph_time, num_replays, num_sets, stream_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MIB = 2**20
H200 = Roof(read_tb_s=4.0, read_by="sum", copy_tb_s=3.0, bf16_tflops=800.0, fp8_tflops=1500.0)


def test_the_sets_exceed_300_mb_or_are_64() -> None:
    for num_bytes in (5_000_000, 40_000_000, 299_000_000, 4_000_000_000):
        count = num_sets(num_bytes, 50 * MIB)
        assert count * num_bytes > 300e6 or count == 64
        assert (count - 1) * num_bytes <= 300e6
    assert num_sets(4_000_000_000, 50 * MIB) == 1


def test_small_sets_still_leave_the_l2() -> None:
    assert num_sets(1_200_000, 50 * MIB) * 1_200_000 > 2 * 50 * MIB
    assert num_sets(600_000, 50 * MIB) * 600_000 > 2 * 50 * MIB
    assert num_sets(1_000, 50 * MIB) == 256  # hopeless, and bounded
    with pytest.raises(ValueError, match="num_bytes must be positive, got 0"):
        num_sets(0, 0)


def test_replays_keep_to_the_budget() -> None:
    assert num_replays(1e-4) == 20
    assert num_replays(0.015) == 10
    assert num_replays(1.0) == 5
    assert num_replays(0.0) == 20


def test_the_bound_is_the_slower_of_memory_and_arithmetic() -> None:
    assert H200.bound_us(4e9, 0) == pytest.approx(1000)
    assert H200.bound_us(4e9, 8e12) == pytest.approx(10000)
    assert H200.bound_us(4e9, 8e12, fp8=True) == pytest.approx(8e12 / 1500e6)
    without = Roof(4.0, "sum", 3.0, 800.0, None)
    assert without.bound_us(0, 8e12, fp8=True) == pytest.approx(10000)


def test_only_faster_reading_raises_the_roof() -> None:
    assert H200.raised(3.9, "an anchor") is H200
    higher = H200.raised(4.2, "an anchor")
    assert (higher.read_tb_s, higher.read_by) == (4.2, "an anchor")
    assert (higher.copy_tb_s, higher.bf16_tflops) == (3.0, 800.0)


def test_the_streaming_kernel_reads_every_number_once() -> None:
    numbers_N = torch.arange(4 * 3 * 64, device=DEVICE).float()
    sum_P = stream_sums(numbers_N, 4, 64)
    assert sum_P.tolist() == numbers_N.view(4, -1).sum(1).tolist()
    with pytest.raises(ValueError, match="numbers_N must hold 5 runs of blocks of 64, got 768"):
        stream_sums(numbers_N, 5, 64)


class Clock:
    """CUDA's graphs and events, imagined: replays take what a list says, in milliseconds."""

    def __init__(self, replays_ms: list[float]) -> None:
        self.replays_ms = iter(replays_ms)
        self.replays = 0
        self.recorded: list[int] = []
        self.recording = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None: ...

            def synchronize(self) -> None: ...

            def elapsed_time(self, other: "Event") -> float:
                return next(clock.replays_ms)

        class Graph:
            def replay(self) -> None:
                clock.replays += 1

        @contextmanager
        def graph(_: Graph) -> Iterator[None]:
            clock.recording = True
            yield
            clock.recording = False

        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", graph)

    def call(self, number: int) -> None:
        if self.recording:
            self.recorded.append(number)


def test_a_figure_is_the_median_replay_over_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([15.0, *[8.0] * 4, 12.0, *[16.0] * 5])  # the first sets how many follow: 10
    clock.install(monkeypatch)
    timing = graph_time([lambda n=n: clock.call(n) for n in range(4)])  # type: ignore[misc]
    assert clock.recorded == [0, 1, 2, 3]  # one pass over all sets
    assert clock.replays == 11
    assert timing.us == pytest.approx(16000 / 4)
    assert (timing.replays, timing.sets) == (10, 4)
