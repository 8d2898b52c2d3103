"""`r1kit kernels bench mla`: latent attention's decode step and its append, beside their anchors.

Points that share batch, context and lengths are measured together: their caches are drawn once for
each layout, and an anchor is timed once for each head count, seconds before or after ours. Layouts
come one after another, so that no two caches of 40 GB lie side by side.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import anchors
from .compare import cosine_difference
from .inputs import SCALE, Inputs, Paged, draw_cache, draw_paged, draw_query
from .points import BLOCK_SIZE, LATENT, WIDTH, Append, Point
from .result_file import (
    Results,
    Row,
    Writer,
    append_row,
    cells,
    decode_row,
    shape_words,
    unmeasured_row,
)
from .targets import mark
from .timing import Timing, graph_time, num_sets

if TYPE_CHECKING:
    from ..mla_decode import Variant

Say = Callable[[str], None]
SPARE_BYTES = 3e9
"""Memory that must stay free beside the caches, for queries, outputs and workspaces."""
LAYOUT_ORDER = ("bf16", "fp8", "fp8_ds_mla")
ANCHORS_OF = {"bf16": anchors.BF16_DECODE, "fp8": anchors.FP8_DECODE}
"""Layout -> the anchors that read it; nobody else's kernel reads the 656-byte one densely."""
MOST_DISAGREEMENT = {"bf16": 1e-4, "fp8": 1e-2}
"""Query dtype -> cosine difference from an anchor's output at which one of the two must be wrong.
Queries rounded to FP8 differ by far less than the second from those that were not."""


class GpuLost(Exception):
    """The GPU answers no more in this process; says after what, and what to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What measures.

    Attributes:
        time: times the calls of one pass.
        free_bytes: asks how much memory is free.
        alive: raises where the GPU no longer answers, as after an illegal access.
    """

    device: str
    l2_bytes: int
    time: Callable[[Sequence[Callable[[], object]]], Timing]
    free_bytes: Callable[[], int]
    alive: Callable[[], object]

    @classmethod
    def here(cls) -> "Machine":
        """The current GPU."""
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return cls("cuda", found.L2_cache_size, graph_time, _free_bytes, torch.cuda.synchronize)

    def require_alive(self, after: str) -> None:
        """Raise GpuLost where a failure took the GPU along: every later figure would fail too."""
        try:
            self.alive()
        except RuntimeError as error:
            raise GpuLost(
                f"the GPU answers no more after {after}; what was measured is kept, "
                "and --resume goes on in a new process"
            ) from error


@dataclass(frozen=True, slots=True)
class How:
    """How a run measures.

    Attributes:
        machine: what it measures on.
        variant: the variant of ours, or None for the one that it picks.
        with_anchors: whether the anchors are timed beside it.
        budget_s: seconds after which no further group is begun, or None.
    """

    machine: Machine
    variant: "Variant | None" = None
    with_anchors: bool = True
    budget_s: float | None = None


@dataclass(slots=True)
class Timed:
    """What is known of one head count and number of query tokens within a group."""

    us: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """A run: where rows go, and how it went."""

    writer: Writer
    how: How
    say: Say
    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)

    def add(self, row: Row, seconds: float | None = None) -> None:
        """Judge, write and show a row."""
        mark(row, self.results)
        self.writer.add(row)
        error = row.get("error")
        if error:
            self.failures.append(f"{shape_words(row)}: {error}")
        after = f"  [{time.monotonic() - self.began:.0f} s]"
        name, *figures = cells(row)
        self.say(f"{name:<38}" + " ".join(f"{each:>8}" for each in figures) + after)
        if error:
            self.how.machine.require_alive(f"{shape_words(row)}: {error}")

    @property
    def results(self) -> Results:
        """What was measured so far."""
        return self.writer.results

    @property
    def out_of_time(self) -> bool:
        """Whether the budget is spent."""
        spent = time.monotonic() - self.began
        return self.how.budget_s is not None and spent > self.how.budget_s


def measure(
    points: Sequence[Point], appends: Sequence[Append], writer: Writer, how: How, say: Say
) -> Run:
    """Measure all points and appends that the file does not hold yet.

    Returns:
        The run. Its `failures` name the shapes where our kernel failed or disagreed.
    """
    run = Run(writer, how, say)
    left = len(appends) + len(points)
    try:
        left = _measure_all(points, appends, run)
    finally:  # also where Ctrl-C or a fault of the GPU ends it: what was measured is told in full
        for row in writer.results.rows:
            mark(row, writer.results)
        writer.finish(finished=not left)
    if left:
        say(f"{left} shapes left: the budget of {how.budget_s} s is spent; --resume goes on")
    return run


def _measure_all(points: Sequence[Point], appends: Sequence[Append], run: Run) -> int:
    """Measure what the file lacks; return how many shapes were left for lack of time."""
    left = 0
    held = run.results
    for append in appends:
        if held.has("mla_append", append.shape):
            continue
        if run.out_of_time:
            left += 1
            continue
        run.add(_append(append, run))
        _free()
    for _, same in groupby(points, key=lambda point: point.group):
        group = [each for each in same if not held.has("mla_decode", each.shape)]
        if run.out_of_time:
            left += len(group)
        elif group:
            _group(group, run)
    return left


def _free_bytes() -> int:
    """Bytes of the current GPU that nothing holds."""
    return int(torch.cuda.mem_get_info()[0])


def _free() -> None:
    """Give back the memory of graphs and inputs that are gone: the next shape may need it."""
    torch.cuda.empty_cache()


def _group(group: list[Point], run: Run) -> None:
    """Measure the points of one batch, context and choice of lengths."""
    timed: dict[tuple[int, int], Timed] = {}
    for layout in _layouts(group, run.how):
        ours = [point for point in group if point.cache == layout]
        shapes = dict.fromkeys((point.query_tokens, point.heads) for point in group)
        if why := _too_large(group[0], layout, run.how.machine.free_bytes()):
            for shape in shapes:
                unread = dict.fromkeys(ANCHORS_OF.get(layout, ()), f"its caches: {why}")
                timed.setdefault(shape, Timed()).errors.update(unread)
            for point in ours:
                run.add(unmeasured_row("mla_decode", point.shape, skipped=why))
            continue
        paged = _draw_sets(group[0], layout, run.how.machine)
        for shape in shapes:
            here = [point for point in ours if (point.query_tokens, point.heads) == shape]
            known = timed.setdefault(shape, Timed())
            for row in _rows(here, _like(group, shape), layout, paged, known, run):
                run.add(row)
        del paged
        _free()


def _like(group: list[Point], shape: tuple[int, int]) -> Point:
    """A point of the group with these query tokens and heads."""
    return next(each for each in group if (each.query_tokens, each.heads) == shape)


def _layouts(group: list[Point], how: How) -> list[str]:
    """The layouts to draw: ours, and those that the anchors of ours read."""
    wanted = {point.cache for point in group}
    if how.with_anchors:
        wanted |= {"bf16"} | ({"fp8"} if wanted & {"fp8", "fp8_ds_mla"} else set())
    return [layout for layout in LAYOUT_ORDER if layout in wanted]


def _with(point: Point, **changes: Any) -> Point:
    return Point(**{**point.shape, **changes})


def _too_large(point: Point, layout: str, free: int) -> str | None:
    """Why the free memory cannot hold the caches, or None."""
    needed = _with(point, cache=layout).cache_bytes + SPARE_BYTES
    if needed <= free:
        return None
    return f"needs {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} are free"


def _draw_sets(point: Point, layout: str, machine: Machine) -> list[Paged]:
    """As many caches as rotate."""
    count = num_sets(_with(point, cache=layout).cache_bytes, machine.l2_bytes)
    return [draw_paged(layout, point.lengths, machine.device) for _ in range(count)]


def _rows(
    ours: list[Point], shape: Point, layout: str, paged: list[Paged], known: Timed, run: Run
) -> Iterator[Row]:
    """Time the anchors of this layout, then our points on it.

    Args:
        shape: any point with the heads and query tokens at hand.
        known: what the anchors took; grows.
    """
    theirs = ANCHORS_OF.get(layout, ()) if run.how.with_anchors else ()
    outputs: dict[str, Tensor] = {}
    wanted = {point.query_dtype for point in ours} | ({layout} if theirs else set())
    device = run.how.machine.device
    queries = {dtype: [draw_query(shape, dtype, device) for _ in paged] for dtype in sorted(wanted)}
    for anchor in theirs:
        # An anchor's queries have its cache's dtype, and both names are the same word.
        sets = list(map(Inputs, paged, queries[layout]))
        _time_anchor(anchor, sets, known, outputs, run.how.machine)
    for point in ours:
        sets = list(map(Inputs, paged, queries[point.query_dtype]))
        yield _time_ours(point, sets, known, outputs, run)


def _time_anchor(
    anchor: str, sets: list[Inputs], known: Timed, outputs: dict[str, Tensor], machine: Machine
) -> None:
    """Time an anchor, or note how it failed; keep its first output."""
    try:
        calls = anchors.prepare(anchor, sets)
        known.us[anchor] = machine.time(calls).us
        outputs[anchor] = anchors.output(anchor, calls[0](), sets[0].query_BQHD).clone()
    except Exception as error:  # noqa: BLE001 (whatever another's kernel raises is its finding)
        known.us.pop(anchor, None)
        known.errors[anchor] = f"{type(error).__name__}: {error}".splitlines()[0]
        machine.require_alive(f"{anchor} failed: {known.errors[anchor]}")


def _time_ours(
    point: Point, sets: list[Inputs], known: Timed, outputs: dict[str, Tensor], run: Run
) -> Row:
    """Time our kernel and compare its output with those of the anchors on the same inputs."""
    fp8 = point.cache != "bf16"
    rivals = anchors.FP8_DECODE if fp8 else anchors.BF16_DECODE
    try:
        calls = our_calls(sets, run.how.variant)
        timing = run.how.machine.time(calls)
        out_BQHC, _ = calls[0]()
    except Exception as error:  # noqa: BLE001 (a row that failed is reported, the others go on)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        return unmeasured_row("mla_decode", point.shape, error=why)
    fa3 = [us for name, us in known.us.items() if name.startswith("fa3")]
    row = decode_row(
        point,
        timing,
        {name: us for name, us in known.us.items() if fp8 or name not in anchors.FP8_DECODE},
        run.results.roof,
        rivals=rivals,
        fa3_bf16_us=min(fa3, default=None),
    )
    row["anchor_errors"] = dict(known.errors)
    if point.query_dtype == ("fp8" if fp8 else "bf16") and outputs:
        _compare(row, point, out_BQHC, outputs)
    return row


def _compare(row: Row, point: Point, out_BQHC: Tensor, outputs: dict[str, Tensor]) -> None:
    """Note how far our output is from the anchors'; too far is an error of the row."""
    far = {name: cosine_difference(out_BQHC, theirs) for name, theirs in outputs.items()}
    row["cosine_difference"] = far
    most = MOST_DISAGREEMENT[point.query_dtype]
    if wrong := [f"{name} by {value:.1e}" for name, value in far.items() if not value <= most]:
        row["error"] = f"the outputs differ from {', '.join(wrong)} (at most {most:.0e})"


def our_calls(sets: Sequence[Inputs], variant: "Variant | None") -> list[Callable[[], Any]]:
    """Calls of our kernel, one for each set of inputs."""
    from ..mla_decode import mla_decode

    one = torch.ones(1, device=sets[0].query_BQHD.device)

    def call(inputs: Inputs) -> Callable[[], Any]:
        query, paged = inputs.query_BQHD, inputs.paged
        return lambda: mla_decode(
            query,
            paged.cache,
            paged.table_BM,
            paged.length_B,
            scale=SCALE,
            query_scale=one if query.dtype == torch.float8_e4m3fn else None,
            cache_scale=one if paged.cache.dtype == torch.float8_e4m3fn else None,
            variant=variant,
        )

    return [call(inputs) for inputs in sets]


def _append(point: Append, run: Run) -> Row:
    """Time one append and vLLM's beside it."""
    machine = run.how.machine
    inputs = [_draw_append(point, machine.device) for _ in range(_append_sets(point))]
    one = torch.ones(1, device=machine.device)
    known: dict[str, float] = {}
    errors: dict[str, str] = {}
    if run.how.with_anchors:
        try:
            theirs = [anchors.append_call(*each, point.cache, one) for each in inputs]
            known[anchors.APPEND[0]] = machine.time(theirs).us
        except Exception as error:  # noqa: BLE001 (whatever another's kernel raises is its finding)
            errors[anchors.APPEND[0]] = f"{type(error).__name__}: {error}".splitlines()[0]
    try:
        timing = machine.time(_append_calls(point, inputs, one))
    except Exception as error:  # noqa: BLE001 (a row that failed is reported, the others go on)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        return unmeasured_row("mla_append", point.shape, error=why)
    row = append_row(point, timing, known, run.results.roof)
    row["anchor_errors"] = errors
    return row


def _append_sets(point: Append) -> int:
    """Sets for an append. Small ones would need thousands to leave the L2; all rotate alike."""
    return min(64, num_sets(point.num_bytes, 0))


def _append_calls(
    point: Append, inputs: Sequence[tuple[Tensor, ...]], one: Tensor
) -> list[Callable[[], None]]:
    """Calls of our append, one for each set of inputs."""
    from ..mla_cache import CacheLayout, mla_append

    scale = one if point.cache == "fp8" else None
    layout = CacheLayout(point.cache)

    def call(latent: Tensor, rope: Tensor, cache: Tensor, slot: Tensor) -> Callable[[], None]:
        return lambda: mla_append(latent, rope, cache, slot, layout=layout, cache_scale=scale)

    return [call(*each) for each in inputs]


def _draw_append(point: Append, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents and ropes as slices of one projection, a cache, and slots in random order."""
    kv_TD = torch.empty(point.tokens, WIDTH, dtype=torch.bfloat16, device=device).normal_()
    blocks = -(-point.tokens // BLOCK_SIZE) + 1
    slot_T = torch.randperm(blocks * BLOCK_SIZE, device=device)[: point.tokens]
    cache = draw_cache(point.cache, blocks, device)
    return kv_TD[:, :LATENT], kv_TD[:, LATENT:], cache, slot_T
