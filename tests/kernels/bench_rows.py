"""Rows and headers of an imagined GPU, for the tests of result files and targets."""

from typing import Any

from r1kit.kernels.bench.points import Append, Point
from r1kit.kernels.bench.result_file import Results, Row, append_row, decode_row, header
from r1kit.kernels.bench.timing import Roof, Timing

ROOF = Roof(read_tb_s=4.0, read_by="sum", copy_tb_s=3.0, bf16_tflops=800.0, fp8_tflops=1500.0)
GPU = {"gpu": "NVIDIA H200", "driver": "570.1", "num_sms": 132, "memory_gib": 140.0, "l2_mib": 50.0}


def new_results(vllm: str | None = "0.26.0") -> Results:
    """A file without rows."""
    head = header(
        ROOF,
        gpu=GPU,
        date="2026-11-25T10:00:00+00:00",
        commit="0123456789abcdef",
        anchors={"vllm": vllm, "anchors_off": None},
        command="r1kit kernels bench mla",
    )
    return Results(head)


def decode(point: Point, us: float, anchors: dict[str, float] | None = None, **more: Any) -> Row:
    """A decode row that took `us`."""
    rivals = ("flashmla_fp8",) if point.cache != "bf16" else ("fa3", "fa3_planned", "flashmla")
    return decode_row(point, Timing(us, 20, 4), anchors or {}, ROOF, rivals=rivals, **more)


def append(point: Append, us: float, anchors: dict[str, float] | None = None) -> Row:
    """An append row that took `us`."""
    return append_row(point, Timing(us, 20, 4), anchors or {}, ROOF)
