"""`r1kit kernels`: what it prints, what it refuses, and its exit codes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from r1kit.kernels import cli
from r1kit.kernels.bench import check as check_module
from r1kit.kernels.bench import mla, result_file, timing
from r1kit.kernels.bench.points import Point
from r1kit.kernels.bench.result_file import Writer
from r1kit.kernels.mla_cache import mla_append_ref
from r1kit.kernels.mla_decode import mla_decode, mla_decode_ref
from typer.testing import CliRunner

from .bench_rows import GPU, ROOF, decode, new_results


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "1"))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "mla", "--heads", "0"], "--heads: '0' is not a positive whole number"),
        (["bench", "mla", "--heads", "129"], "heads must be 1 to 128, got 129"),
        (["bench", "mla", "--cache", "fp9"], "cache must be one of bf16, fp8, fp8_ds_mla, got"),
        (["bench", "mla", "--query-dtype", "f16"], "query_dtype must be one of bf16, fp8, got"),
        (["bench", "mla", "--variant", "fast"], "--variant must be one of hopper, triton, refer"),
        (["bench", "mla", "--kernel", "mla"], "--kernel must be one of mla_decode, mla_append"),
        (["bench", "mla", "--resume"], "--resume: name the file to go on with: --out FILE"),
        (["bench", "mla", "--max-tokens", "5"], "each with over 5 tokens"),
        (["bench", "mla", "--quick"], "bench mla needs an NVIDIA GPU"),
        (["bench", "mla", "--report", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["check", "--variant", "fast"], "--variant must be one of"),
        (["check", "--variant", "hopper"], "--variant hopper: needs a Hopper GPU"),
        (["check", "--only", "shape"], "--only shape: no such family; there are shapes"),
    ],
)
def test_a_wrong_argument_is_one_message_and_exit_code_2(arguments: list[str], says: str) -> None:
    answer = invoke(*arguments)
    assert answer.exit_code == 2
    assert says in " ".join(answer.output.replace("│", " ").split())
    assert "Traceback" not in answer.output


def kit(decode: Any) -> check_module.Kit:
    append = mla_append_ref
    return check_module.Kit(
        decode, mla_decode_ref, append, append, "cpu", "reference", 0, small=True
    )


def test_a_check_that_passes_exits_with_0_and_says_what_it_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_module.Kit, "here", lambda *_: kit(mla_decode))
    answer = invoke("check", "--only", "scales", "--only", "graphs")
    assert answer.exit_code == 0
    assert "no GPU here: a short list runs on the CPU (variant reference)" in answer.output
    assert "20 cases, 0 failed, 5 skipped" in answer.output
    assert "skipped 5: CUDA graphs need a GPU" in answer.output


def test_a_check_that_fails_exits_with_1_and_says_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def off(*args: Any, **more: Any) -> Any:
        out, lse = mla_decode(*args, **more)
        return out, lse + 1e-3

    monkeypatch.setattr(check_module.Kit, "here", lambda *_: kit(off))
    answer = invoke("check", "--only", "scales/bf16-bf16q")
    assert answer.exit_code == 1
    assert "FAILED scales/bf16-bf16q/0.01: a log-sum-exp is off" in answer.output
    assert "again: r1kit kernels check --only scales/bf16-bf16q/0.01" in answer.output


def test_a_report_judges_a_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "mla.jsonl", new_results())
    writer.add(decode(Point(16, 8, 8192), 90.0, {"fa3": 100.0}))
    writer.finish(finished=True)
    answer = invoke("bench", "mla", "--report", str(writer.path))
    assert answer.exit_code == 0
    (line,) = [line for line in answer.output.splitlines() if line.startswith("1a ")]
    assert "1.11x" in line
    assert "yes" in line
    assert "NVIDIA H200" not in answer.output
    whole = invoke("bench", "mla", "--report", str(writer.path), "--rows")
    assert "NVIDIA H200" in whole.output
    assert "h16 b8 s8k q1 bf16" in whole.output


@pytest.fixture
def imagined_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is the CPU with an imagined clock."""

    def clock(calls: Any) -> timing.Timing:
        calls[0]()
        return timing.Timing(10.0, 20, len(calls))

    here = mla.Machine("cpu", 0, clock, lambda: 10**12, lambda: None)
    monkeypatch.setattr(cli, "_device", lambda: "cuda")
    monkeypatch.setattr(mla.Machine, "here", lambda: here)
    monkeypatch.setattr(timing, "measure_roof", lambda: ROOF)
    monkeypatch.setattr(result_file, "gpu_facts", lambda: GPU)


SMALL = ("--heads", "4", "--batch", "1", "--context", "64", "--equal", "--cache", "bf16")


@pytest.mark.usefixtures("imagined_gpu")
def test_a_run_writes_a_file_and_prints_both_tables(tmp_path: Path) -> None:
    out = tmp_path / "mla.jsonl"
    how = (*SMALL, "--kernel", "mla_decode", "--variant", "reference", "--out", str(out))
    answer = invoke("bench", "mla", *how, "--commit", "abcdef")
    assert answer.exit_code == 0, answer.output
    assert "1 decode shapes and 0 appends, to" in answer.output
    assert "h4 b1 s64 q1 bf16-bf16q" in answer.output
    assert "wanted" in answer.output
    held = result_file.read(out)
    assert held.header["finished"] is True
    assert held.header["commit"] == "abcdef"
    assert held.header["gpu"] == "NVIDIA H200"
    assert len(held.rows) == 1

    again = invoke("bench", "mla", *how)
    assert again.exit_code == 2
    assert "results are never overwritten" in " ".join(again.output.replace("│", " ").split())
    resumed = invoke("bench", "mla", *how, "--resume", "--query-tokens", "1,2")
    assert resumed.exit_code == 0, resumed.output
    assert len(result_file.read(out).rows) == 2


@pytest.mark.usefixtures("imagined_gpu")
def test_a_run_whose_kernel_fails_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(mla, "our_calls", broken)
    how = (*SMALL, "--kernel", "mla_decode", "--no-anchors", "--out", str(tmp_path / "mla.jsonl"))
    answer = invoke("bench", "mla", *how)
    assert answer.exit_code == 1
    assert "FAILED h4 b1 s64 q1 bf16-bf16q: RuntimeError: no such instruction" in (answer.output)
    assert "no anchor was present (--no-anchors)" in answer.output


def test_it_runs_with_nothing_of_the_other_folders() -> None:
    """As on a machine that has torch, triton and typer alone."""
    code = (
        "import sys\n"
        "for name in ('aiohttp', 'transformers', 'datasets', 'math_verify'):\n"
        "    sys.modules[name] = None\n"
        "from r1kit.kernels import cli\n"
        "sys.argv = ['kernels', 'check', '--variant', 'reference', '--only', 'scales']\n"
        "try:\n"
        "    cli.app()\n"
        "finally:\n"
        "    ours = {name.split('.')[1] for name in sys.modules if name.startswith('r1kit.')}\n"
        "    print('folders:', *sorted(ours))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "15 cases, 0 failed" in done.stdout
    assert "folders: kernels" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from r1kit.kernels import cli\n"
        "sys.argv = ['kernels', 'bench', 'mla', '--help']\n"
        "try:\n"
        "    cli.app()\n"
        "finally:\n"
        "    print('heavy:', *sorted({'torch', 'triton', 'vllm'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "--query-tokens" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "heavy:"
