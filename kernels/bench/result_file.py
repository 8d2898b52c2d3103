"""The result file: JSON lines, a header and then one row for each kernel and shape.

    {"kind": "header", "gpu": ..., "roof": {...}, "finished": false, ...}
    {"kernel": "mla_decode", "shape": {...}, "us": 14.2, "tb_s": ..., "tflops": ...,
     "share_of_bound": ..., "anchor": "fa3", "anchor_us": ..., "ratio": ..., ...}

A row is written and flushed when it is measured, so a run that is cut off keeps what it has. At
the end the file is written once more, whole: only then is the roof known (an anchor may read faster
than the roof's own kernels), and with it every share. `finished` tells which of the two it is.

`us` is null in a row that could not be measured; `skipped` or `error` then says why.
"""

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .points import Append, Point
from .timing import Roof, Timing

FOLDER = Path(__file__).parent / "results"
Row = dict[str, Any]
METHOD = (
    "median of CUDA-graph replays over rotating inputs larger than the L2; "
    "the anchors' planners run outside the timed calls (fa3's inside), ours inside"
)


@dataclass(slots=True)
class Results:
    """A header and its rows.

    Attributes:
        roof: the measured roof, raised by whatever anchor read faster.
    """

    header: Row
    rows: list[Row] = field(default_factory=list)
    roof: Roof = field(init=False)

    def __post_init__(self) -> None:
        self.roof = Roof(**self.header["roof"])
        for row in self.rows:
            self._raise_roof(row)

    def add(self, row: Row) -> None:
        """Take in one more row."""
        self.rows.append(row)
        self._raise_roof(row)

    def _raise_roof(self, row: Row) -> None:
        if row["kernel"] != "mla_decode":
            return
        for anchor, us in row.get("anchors", {}).items():
            tb_s = anchor_bytes(anchor, row["shape"]) / us / 1e6
            self.roof = self.roof.raised(tb_s, f"{anchor} at {shape_words(row)}")

    def find(self, kernel: str, shape: Row) -> Row | None:
        """The measured row of this kernel and shape."""
        for row in self.rows:
            if row["kernel"] == kernel and row["shape"] == shape and row["us"] is not None:
                return row
        return None

    def has(self, kernel: str, shape: Row) -> bool:
        """Whether the shape is done, measured or not."""
        return any(row["kernel"] == kernel and row["shape"] == shape for row in self.rows)


def anchor_bytes(anchor: str, shape: Row) -> int:
    """Bytes that an anchor moves for a row's shape, in its own dtypes."""
    fp8 = anchor.endswith("fp8")
    cache, dtype = ("fp8", "fp8") if fp8 else ("bf16", "bf16")
    return Point(**{**shape, "cache": cache, "query_dtype": dtype}).num_bytes


def decode_row(
    point: Point,
    timing: Timing,
    anchors: dict[str, float],
    roof: Roof,
    *,
    rivals: tuple[str, ...],
    fa3_bf16_us: float | None = None,
) -> Row:
    """The row of one decode step.

    Args:
        anchors: anchor -> microseconds, all that were timed beside it.
        rivals: those that `ratio` compares with; the fastest counts.
        fa3_bf16_us: FlashAttention-3's time on a bf16 cache, for an FP8 cache's row.
    """
    row = _row("mla_decode", point.shape, point.num_bytes, timing)
    row["tflops"] = point.flops / timing.us / 1e6
    row["share_of_bound"] = _decode_share(row, roof)
    row |= _compared(timing.us, {name: us for name, us in anchors.items() if name in rivals})
    row["anchors"] = anchors
    if point.cache != "bf16":
        row["fa3_bf16_us"] = fa3_bf16_us
    return row


def append_row(point: Append, timing: Timing, anchors: dict[str, float], roof: Roof) -> Row:
    """The row of one append. Its bound is the copy bandwidth."""
    row = _row("mla_append", point.shape, point.num_bytes, timing)
    row["tflops"] = 0.0
    row["share_of_bound"] = row["tb_s"] / roof.copy_tb_s
    row |= _compared(timing.us, anchors)
    row["anchors"] = anchors
    return row


def unmeasured_row(kernel: str, shape: Row, **why: str) -> Row:
    """The row of a shape that was skipped or failed; `why` is `skipped=...` or `error=...`."""
    names = ("us", "tb_s", "tflops", "share_of_bound", "anchor", "anchor_us", "ratio")
    return {"kernel": kernel, "shape": shape, **dict.fromkeys(names), **why}


def _row(kernel: str, shape: Row, num_bytes: int, timing: Timing) -> Row:
    """What every measured row begins with."""
    return {
        "kernel": kernel,
        "shape": shape,
        "us": timing.us,
        "tb_s": num_bytes / timing.us / 1e6,
        "replays": timing.replays,
        "sets": timing.sets,
    }


def _compared(us: float, rivals: dict[str, float]) -> Row:
    """The fastest rival, its time, and how many times faster ours is."""
    if not rivals:
        return {"anchor": None, "anchor_us": None, "ratio": None}
    best = min(rivals, key=rivals.__getitem__)
    return {"anchor": best, "anchor_us": rivals[best], "ratio": rivals[best] / us}


def _decode_share(row: Row, roof: Roof) -> float:
    """The bound's time over the row's."""
    point = Point(**row["shape"])
    bound_us = roof.bound_us(point.num_bytes, point.flops, fp8=point.query_dtype == "fp8")
    return bound_us / float(row["us"])


def settle(results: Results) -> None:
    """Count every share against the roof as it is known now, and write it into the header."""
    results.header["roof_with_anchors"] = asdict(results.roof)
    for row in results.rows:
        if row["us"] is not None and row["kernel"] == "mla_decode":
            row["share_of_bound"] = _decode_share(row, results.roof)


def header(roof: Roof, *, gpu: Row, date: str, commit: str, anchors: Row, command: str) -> Row:
    """The first line of a file.

    Args:
        gpu: what `gpu_facts` found.
        date: UTC, ISO 8601.
        anchors: what `anchor_facts` found.
    """
    return {
        "kind": "header",
        "date": date,
        **gpu,
        **versions(),
        **anchors,
        "commit": commit,
        "roof": asdict(roof),
        "roof_with_anchors": None,
        "method": METHOD,
        "command": command,
        "finished": False,
    }


def gpu_facts() -> Row:
    """Name, driver and size of the current GPU."""
    import torch

    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": found.name,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "num_sms": found.multi_processor_count,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "l2_mib": round(found.L2_cache_size / 2**20, 1),
    }


def versions() -> Row:
    """Versions of what the kernels are built with."""
    import torch
    import triton

    return {
        "cuda": torch.version.cuda or "none",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def git_commit() -> str:
    """The commit of this checkout, with `-dirty` where files differ, or `unknown`."""
    root = str(Path(__file__).parents[2])
    commit = _output("git", "-C", root, "rev-parse", "HEAD")
    if commit == "unknown":
        return commit
    changed = _output("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return commit if changed in ("", "unknown") else f"{commit}-dirty"


def _output(*command: str) -> str:
    """The first line that a command prints, or `unknown`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.splitlines()), "").strip()


def command_line() -> str:
    """The command as it was typed."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def new_file(folder: Path, gpu: str, day: str) -> Path:
    """A name in `folder` that no file has: `mla-h200-2026-11-25.jsonl`, then `-2`, `-3`."""
    short = re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "")).strip("-") or "gpu"
    base = f"mla-{short}-{day}"
    path, number = folder / f"{base}.jsonl", 1
    while path.exists():
        number += 1
        path = folder / f"{base}-{number}.jsonl"
    return path


class Writer:
    """A result file while it grows.

    Raises:
        ValueError: where the file exists and is not to be continued, or cannot be written.
    """

    def __init__(self, path: Path, results: Results, *, resume: bool = False) -> None:
        self.path = path
        self.results = results
        if path.exists() and not resume:
            raise ValueError(
                f"--out {path}: exists, and results are never overwritten; "
                "name another file, or add --resume to go on with this one"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if resume:  # whole lines only: the last one may have been cut off
                self._write_whole()
            self._file: TextIO = path.open("a" if resume else "x", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be written: {error.strerror}; name another file with --out FILE"
            ) from None
        if not resume:
            self._line(results.header)

    def add(self, row: Row) -> None:
        """Write a row at once."""
        self.results.add(row)
        self._line(row)

    def finish(self, *, finished: bool) -> None:
        """Write the file whole, with every share against the final roof."""
        settle(self.results)
        self.results.header["finished"] = finished
        self.close()
        self._write_whole()

    def close(self) -> None:
        """Leave the file as it stands."""
        self._file.close()

    def _write_whole(self) -> None:
        """Replace the file by its header and all rows."""
        beside = self.path.with_name(f"{self.path.name}.partial")
        text = "".join(f"{_dumps(row)}\n" for row in (self.results.header, *self.results.rows))
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.path)

    def _line(self, row: Row) -> None:
        self._file.write(f"{_dumps(row)}\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _dumps(row: Row) -> str:
    """A row as a line, numbers to six digits: the clocks vary in the third."""
    return json.dumps(_rounded(row), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def read(path: Path) -> Results:
    """Read a result file; a last line that was cut off is dropped, since its row was never whole.

    Raises:
        ValueError: where it is no result file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    parsed: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except ValueError:
            if number == len(lines) > 1:
                break
            raise ValueError(f"{path}:{number}: not JSON: {line[:60]!r}") from None
    if not parsed or parsed[0].get("kind") != "header" or "roof" not in parsed[0]:
        raise ValueError(f"{path}: no result file: its first line is no header")
    for number, row in enumerate(parsed[1:], start=2):
        if missing := {"kernel", "shape", "us"} - row.keys():
            raise ValueError(f"{path}:{number}: not a row: {', '.join(sorted(missing))} missing")
    return Results(parsed[0], parsed[1:])


def merged(files: list[Results]) -> Results:
    """Several files of one GPU as one; the first header stands, with the highest roof of all.

    Raises:
        ValueError: where they come from different GPUs.
    """
    first = files[0]
    roof = first.roof
    for each in files[1:]:
        if each.header["gpu"] != first.header["gpu"]:
            raise ValueError(
                f"results of {each.header['gpu']} and {first.header['gpu']} cannot be told together"
            )
        roof = roof.raised(each.roof.read_tb_s, each.roof.read_by)
    rows = [row for each in files for row in each.rows]
    return Results({**first.header, "roof": asdict(roof)}, rows)


def shape_words(row: Row) -> str:
    """A row's shape in a few words."""
    shape = row["shape"]
    return str(Append(**shape) if row["kernel"] == "mla_append" else Point(**shape))


def aligned(columns: list[str], lines: list[list[str]]) -> str:
    """A table in plain text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    numeric = [
        bool(lines) and all(re.fullmatch(r"[-+0-9.,x%]*|n/a", line[at]) for line in lines)
        for at in range(len(columns))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in (columns, ["-" * width for width in widths], *lines)
    )


COLUMNS = [
    "shape",
    "us",
    "TB/s",
    "TFLOP/s",
    "bound",
    "anchor",
    "anchor us",
    "ratio",
    "met",
]


def cells(row: Row) -> list[str]:
    """A row as the table's cells."""
    if row["us"] is None:
        why = row.get("error") or row.get("skipped") or "not measured"
        return [shape_words(row), *["n/a"] * 4, why.splitlines()[0][:60], "n/a", "n/a", "n/a"]
    met = row.get("met")
    return [
        shape_words(row),
        f"{row['us']:.2f}",
        f"{row['tb_s']:.2f}",
        f"{row['tflops']:.0f}",
        f"{row['share_of_bound']:.0%}",
        row["anchor"] or "none",
        f"{row['anchor_us']:.2f}" if row["anchor"] else "n/a",
        f"{row['ratio']:.2f}x" if row["anchor"] else "n/a",
        {True: "yes", False: "NO", None: ""}[met] if "target" in row else "",
    ]


def table(results: Results) -> str:
    """All rows, under what the header has to say about them."""
    head = results.header
    roof = results.roof
    lines = [
        f"{head['gpu']}, driver {head['driver']}, CUDA {head['cuda']}, torch {head['torch']}, "
        f"triton {head['triton']}, vLLM {head['vllm'] or 'absent'}, commit {head['commit'][:12]}, "
        f"{head['date']}" + ("" if head["finished"] else ", NOT FINISHED"),
        f"roof: read {roof.read_tb_s:.2f} TB/s ({roof.read_by}), copy {roof.copy_tb_s:.2f} TB/s, "
        f"bf16 {roof.bf16_tflops:.0f} TFLOP/s, "
        f"fp8 {'n/a' if roof.fp8_tflops is None else f'{roof.fp8_tflops:.0f} TFLOP/s'}",
    ]
    if head["vllm"] is None or head["anchors_off"]:
        why = head["anchors_off"] or "vLLM is not installed"
        lines.append(f"no anchor was present ({why}): ratios are missing, their targets untold")
    lines += [aligned(COLUMNS, [cells(row) for row in results.rows])]
    failed = sorted(
        {
            f"{name}: {why}"
            for row in results.rows
            for name, why in row.get("anchor_errors", {}).items()
        }
    )
    lines += [f"anchor failed: {each}" for each in failed]
    return "\n".join(lines)
