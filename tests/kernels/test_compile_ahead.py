"""Every Triton kernel compiles for every GPU we name, on a machine that has none."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_ahead.py")
SMALLEST_SHARED_MEMORY = 99 * 1024
"""What a program may use on sm_86 and sm_89."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the compiler made of every case."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_kernel_compiles_for_every_gpu(rows: list[dict[str, Any]]) -> None:
    assert Counter(row["capability"] for row in rows) == {80: 17, 89: 17, 90: 17}
    assert len({(row["case"], row["capability"]) for row in rows}) == len(rows)
    assert all(row["code_bytes"] > 1000 for row in rows)


def test_the_portable_kernels_fit_the_smallest_shared_memory(rows: list[dict[str, Any]]) -> None:
    too_large = [(row["case"], row["shared_bytes"]) for row in rows]
    assert [case for case in too_large if case[1] > SMALLEST_SHARED_MEMORY] == []


def test_appends_move_16_bytes_at_a_time(rows: list[dict[str, Any]]) -> None:
    """Many tokens at once are bound by memory, and narrower accesses would show."""
    many = [row for row in rows if re.match("append .* of 8 dense", row["case"])]
    assert len(many) == 9
    for row in many:
        loads = re.findall(r"ld\.global\.v4\.b32", row["ptx"])
        stores = re.findall(r"st\.global\.v4\.b32", row["ptx"])
        assert len(loads) >= 2 and len(stores) >= 1, row["case"]


def test_decode_reads_its_operands_with_ldmatrix(rows: list[dict[str, Any]]) -> None:
    """Where the compiler lost the layout of a tile it would read shared memory bytewise."""
    split = [row for row in rows if row["case"].startswith("split")]
    assert len(split) == 18
    for row in split:
        assert row["ptx"].count("ldmatrix") >= 60, row["case"]
        asynchronous = "cp.async.cg" in row["ptx"]
        assert asynchronous == row["case"].startswith("split bf16"), row["case"]
