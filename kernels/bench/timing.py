"""How anything is timed here: CUDA-graph replays over rotating inputs that the L2 cannot hold.

One pass calls the kernel once on each set of inputs. The pass is captured in a graph and replayed;
the figure is the median replay divided by the calls in it, so it holds what the GPU does and no
Python. The sets together exceed the L2 several times over, as the caches of a model's layers do: a
call finds nothing of what it read the last time.

The roof is what this GPU reaches, not what its data sheet says: reading 4 GiB (the better of a sum
and a streaming kernel), copying them, and multiplying 8192 x 8192 matrices.
Cost: 5 to 20 replays a figure within 0.15 s; the roof takes about a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

ROTATING_BYTES = 300e6
MOST_SETS = 64
MOST_REPLAYS = 20
FEWEST_REPLAYS = 5
BUDGET_S = 0.15
ROOF_BYTES = 2**32
STREAMS = ((2048, 4096), (4096, 4096), (8192, 2048), (4096, 16384))
"""Block and number of programs of the streaming kernel; the fastest counts."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One kernel on one shape.

    Attributes:
        us: microseconds a call, the median of the replays.
        replays: how many were timed.
        sets: calls in each, every one on inputs of its own.
    """

    us: float
    replays: int
    sets: int


@dataclass(frozen=True, slots=True)
class Roof:
    """What this GPU reaches, measured.

    Attributes:
        read_tb_s: the fastest reading seen, in 1e12 bytes a second.
        read_by: what reached it.
        copy_tb_s: copying; bytes read and bytes written both count.
        bf16_tflops: a bf16 product, in 1e12 operations a second.
        fp8_tflops: an e4m3 product, or None where this GPU or this torch has none.
    """

    read_tb_s: float
    read_by: str
    copy_tb_s: float
    bf16_tflops: float
    fp8_tflops: float | None

    def raised(self, read_tb_s: float, read_by: str) -> "Roof":
        """This roof, or a higher one where something read faster."""
        if read_tb_s <= self.read_tb_s:
            return self
        return Roof(read_tb_s, read_by, self.copy_tb_s, self.bf16_tflops, self.fp8_tflops)

    def bound_us(self, num_bytes: float, flops: float, *, fp8: bool = False) -> float:
        """Microseconds that reading these bytes or doing this arithmetic takes at least."""
        tflops = (self.fp8_tflops if fp8 else None) or self.bf16_tflops
        return max(num_bytes / self.read_tb_s, flops / tflops) / 1e6


def num_sets(num_bytes: int, l2_bytes: int) -> int:
    """Sets of inputs, of `num_bytes` each, to rotate through.

    Enough for 300 MB, and no more than 64 sets, unless those would leave the L2 half the bytes:
    the smallest shapes take more.
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes must be positive, got {num_bytes}")
    wanted = min(MOST_SETS, int(ROTATING_BYTES // num_bytes) + 1)
    return max(wanted, min(4 * MOST_SETS, 2 * l2_bytes // num_bytes + 1))


def num_replays(pass_s: float, budget_s: float = BUDGET_S) -> int:
    """Replays of a pass of `pass_s` seconds that fit in the budget: 5 to 20."""
    return max(FEWEST_REPLAYS, min(MOST_REPLAYS, int(budget_s / max(pass_s, 1e-9))))


def graph_time(calls: Sequence[Callable[[], object]], budget_s: float = BUDGET_S) -> Timing:
    """Time one call: capture one pass over all of them, replay it, take the median.

    The calls must already be safe to capture; each runs once before.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    replays = num_replays(_replay_s(graph), budget_s)
    seconds = sorted(_replay_s(graph) for _ in range(replays))
    return Timing(seconds[replays // 2] / len(calls) * 1e6, replays, len(calls))


def _replay_s(graph: torch.cuda.CUDAGraph) -> float:
    """Seconds of one replay."""
    began = torch.cuda.Event(enable_timing=True)
    ended = torch.cuda.Event(enable_timing=True)
    began.record()
    graph.replay()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3


@triton.jit
def _stream_kernel(numbers_ptr, sum_ptr, EACH: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    place_N = program * EACH + tl.arange(0, BLOCK)
    sum_N = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, EACH, BLOCK):
        sum_N += tl.load(numbers_ptr + place_N + start)
    tl.store(sum_ptr + program, tl.sum(sum_N, axis=0))


def stream_sums(numbers_N: Tensor, programs: int, block: int) -> Tensor:
    """Read float32 numbers once, in `programs` runs of blocks, and return the sum of each run."""
    each, left = divmod(numbers_N.numel(), programs)
    if left or each % block:
        raise ValueError(
            f"numbers_N must hold {programs} runs of blocks of {block}, got {numbers_N.numel()}"
        )
    sum_P = numbers_N.new_empty(programs)
    _stream_kernel[(programs,)](numbers_N, sum_P, EACH=each, BLOCK=block, num_warps=8)
    return sum_P


def measure_roof(num_bytes: int = ROOF_BYTES) -> Roof:
    """Measure what the current GPU reaches."""
    # Zeros would flatter: they toggle no wires, so the clocks stay higher.
    source_N = torch.empty(num_bytes, dtype=torch.uint8, device="cuda").random_()
    reads = _reading_us(source_N.view(torch.float32))
    target_N = torch.empty_like(source_N)
    copy_us = graph_time([partial(target_N.copy_, source_N)]).us
    read_by = min(reads, key=reads.__getitem__)
    return Roof(
        read_tb_s=num_bytes / reads[read_by] / 1e6,
        read_by=read_by,
        copy_tb_s=2 * num_bytes / copy_us / 1e6,
        bf16_tflops=_bf16_tflops(),
        fp8_tflops=_fp8_tflops(),
    )


def _reading_us(numbers_N: Tensor) -> dict[str, float]:
    """Microseconds that each way of reading all numbers takes."""
    reads = {"sum": graph_time([partial(torch.sum, numbers_N)]).us}
    for block, programs in STREAMS:
        stream = partial(stream_sums, numbers_N, programs, block)
        reads[f"stream of {programs} x {block}"] = graph_time([stream]).us
    return reads


def _bf16_tflops(size: int = 8192) -> float:
    """Speed of a square bf16 product."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / graph_time([partial(torch.matmul, left, right)]).us / 1e6


def _fp8_tflops(size: int = 8192) -> float | None:
    """Speed of a square e4m3 product; None where this GPU or this torch has none."""
    if torch.cuda.get_device_capability() < (8, 9):
        return None
    left, right = (
        torch.randn(size, size, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)
        for _ in range(2)
    )
    one = torch.ones((), device="cuda")
    product = partial(torch._scaled_mm, left, right.t(), one, one, out_dtype=torch.bfloat16)
    try:
        product()
    except (RuntimeError, ValueError):  # a build without it; the table then says n/a
        return None
    return 2 * size**3 / graph_time([product]).us / 1e6
