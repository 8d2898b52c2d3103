"""The CUDA kernels compile for Hopper on a machine without a GPU, and what compiles them keeps.

NVRTC is a dependency of development; the one that torch brings is as good.
"""

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from r1kit.kernels import cuda_build
from r1kit.kernels.cuda_build import (
    CompileError,
    NoCompiler,
    Program,
    cache_folder,
    compile_program,
    with_nvrtc,
)
from r1kit.kernels.mla_cache import CacheLayout
from r1kit.kernels.mla_hopper import program_for
from r1kit.tests.kernels.cubin import symbols

MOST_SHARED_BYTES = 232_448
"""What a block can have on sm_90."""
REGISTERS = 65_536
"""Of a multiprocessor."""
MOST_SPILLED = {
    "narrow, 16 rows": 48,
    "narrow, 32 rows": 128,
    "wide, bf16": 96,
    "wide, fp8 with FP8 queries": 96,
    "wide, converting": 320,
}
"""Bytes a thread may store for lack of registers; NVRTC 13.0 and 13.5 differ by some 30. Most of it
lies where a piece of work begins or ends, and the loops over tiles reload a few words of it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program, by what chooses it."""

    layout: CacheLayout
    fp8_query: bool
    rows: int
    box_tokens: int
    cluster: int

    @property
    def program(self) -> Program:
        return program_for(self.layout, self.fp8_query, self.rows, self.box_tokens, self.cluster)

    @property
    def family(self) -> str:
        """Which ceiling of MOST_SPILLED holds."""
        if self.rows < 64:
            return f"narrow, {self.rows} rows"
        if self.layout == CacheLayout.BF16:
            return "wide, bf16"
        native = self.layout == CacheLayout.FP8 and self.fp8_query
        return "wide, fp8 with FP8 queries" if native else "wide, converting"

    def __str__(self) -> str:
        query = "fp8q" if self.fp8_query else "bf16q"
        wide = f"-box{self.box_tokens}-cluster{self.cluster}" if self.rows == 64 else ""
        return f"{self.layout}-{query}-rows{self.rows}{wide}"


def every_case() -> Iterator[Case]:
    """Each program that a call can ask for, once; box and cluster are nothing to the narrow one."""
    for layout in CacheLayout:
        for fp8_query in (False, True) if layout != CacheLayout.BF16 else (False,):
            yield Case(layout, fp8_query, 16, 16, 1)
            yield Case(layout, fp8_query, 32, 16, 1)
            for box_tokens in (64, 32, 16):
                for cluster in (2, 1):
                    yield Case(layout, fp8_query, 64, box_tokens, cluster)


def usual(case: Case) -> bool:
    """Whether plain `pytest` compiles it: the narrow ones, and both ends of the wide ones."""
    return case.rows < 64 or (case.box_tokens, case.cluster) in ((64, 2), (16, 1))


CASES = [
    pytest.param(case, id=str(case), marks=() if usual(case) else pytest.mark.soak)
    for case in every_case()
]


@cache
def nvrtc() -> ctypes.CDLL:
    """NVRTC; it comes with `.[dev]`."""
    found = cuda_build.find_nvrtc()
    assert found is not None, "no NVRTC here: pip install 'nvidia-cuda-nvrtc>=13,<14'"
    return found


def number(log: str, pattern: str) -> int:
    (found,) = re.findall(pattern, log)
    return int(found)


def test_every_program_is_there_once() -> None:
    programs = [case.program for case in every_case()]
    assert len(set(programs)) == len(programs) == 5 * (2 + 6)


@pytest.mark.parametrize("case", CASES)
def test_compiles_for_hopper_within_its_means(case: Case) -> None:
    """To machine code that has the symbols that the launch reads, and can be launched at all."""
    program = case.program
    cubin, log = with_nvrtc(nvrtc(), program.source(), program, ["--ptxas-options=-v"])
    found = symbols(cubin)
    assert found[program.kernel].section == f".text.{program.kernel}"
    shared_bytes, threads = (
        int.from_bytes(found[f"{program.kernel}_{name}"].content, "little")
        for name in ("smem", "threads")
    )
    assert threads % 128 == 0 and 128 <= threads <= 1024
    assert 0 < shared_bytes <= MOST_SHARED_BYTES and " bytes smem" not in log  # all is dynamic
    assert number(log, r"Used (\d+) registers") * threads <= REGISTERS
    assert number(log, r"(\d+) bytes spill stores") <= MOST_SPILLED[case.family]
    assert "warning" not in log, log


# ---- what is kept -------------------------------------------------------------------------------

TINY = """
extern "C" __device__ const int tiny_smem = 4 * SIZE;
extern "C" __global__ void tiny(float* out) { out[threadIdx.x] = SIZE; }
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A small program in a folder of its own, with an empty cache."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "tiny.cu").write_text(TINY, encoding="utf-8")
    monkeypatch.setattr(cuda_build, "SOURCES", tmp_path / "sources")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Program(("tiny.cu",), "tiny", (("SIZE", 8),))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that NVRTC is given."""
    given: list[Program] = []

    def record(library: ctypes.CDLL, source: str, program: Program) -> tuple[bytes, str]:
        given.append(program)
        return with_nvrtc(library, source, program)

    nvrtc()
    monkeypatch.setattr(cuda_build, "with_nvrtc", record)
    return given


def kept() -> list[str]:
    return sorted(file.name for file in cache_folder().iterdir())


def test_a_program_is_compiled_once(tiny: Program, compiled: list[Program]) -> None:
    first = compile_program(tiny)
    assert symbols(first)["tiny_smem"].content == (32).to_bytes(4, "little")
    assert compile_program(tiny) == first
    assert compiled == [tiny]
    (name,) = kept()
    assert re.fullmatch(r"tiny-[0-9a-f]{64}\.cubin", name)


def test_whatever_decides_the_machine_code_makes_it_anew(
    tiny: Program, compiled: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    other_size = Program(tiny.files, tiny.kernel, (("SIZE", 16),))
    other_gpu = Program(tiny.files, tiny.kernel, tiny.defines, "sm_89")
    assert len({compile_program(each) for each in (tiny, other_size, other_gpu)}) == 3
    source = cuda_build.SOURCES / "tiny.cu"
    source.write_text(TINY.replace("= SIZE;", "= SIZE + 1;"), encoding="utf-8")
    compile_program(tiny)
    monkeypatch.setattr(cuda_build, "nvrtc_version", lambda library: "99.0")
    compile_program(tiny)
    assert compiled == [tiny, other_size, other_gpu, tiny, tiny]
    assert len(kept()) == 5


def test_a_broken_source_gives_the_compilers_words(tiny: Program) -> None:
    nvrtc()
    source = cuda_build.SOURCES / "tiny.cu"
    source.write_text(TINY + "void broken() { return nonsense; }", encoding="utf-8")
    with pytest.raises(CompileError, match=r"(?s)tiny\.cu.*identifier .nonsense. is undefined"):
        compile_program(tiny)
    assert not cache_folder().exists()


def test_without_any_compiler_it_names_both(tiny: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_build, "find_nvrtc", lambda: None)
    monkeypatch.setattr(cuda_build, "find_nvcc", lambda: None)
    with pytest.raises(NoCompiler, match=r"pip install nvidia-cuda-nvrtc.* nor nvcc .*CUDA_HOME"):
        compile_program(tiny)


def test_a_cache_that_cannot_be_written_is_said_and_not_needed(
    tiny: Program, compiled: list[Program], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert symbols(compile_program(tiny))["tiny"].section == ".text.tiny"
    compile_program(tiny)
    assert compiled == [tiny, tiny]
    said = capsys.readouterr().err
    assert said.count("r1kit: compiled kernels are not kept: ") == 2 and str(tmp_path) in said


# ---- the compilers ------------------------------------------------------------------------------

FAKE_NVCC = """#!{python}
import pathlib, sys
if "--version" in sys.argv:
    print("nvcc: a fake\\nBuild 1.2.3")
    sys.exit()
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
source = pathlib.Path(sys.argv[-1]).read_text()
if "nonsense" in source:
    sys.exit("nonsense is undefined")
out.write_text(" ".join(each for each in sys.argv[1:] if "/" not in each) + source)
"""


def test_nvcc_does_where_there_is_no_nvrtc(
    tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for nvcc below CUDA_HOME: what it is asked for, and what becomes of its errors."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(FAKE_NVCC.format(python=sys.executable), encoding="utf-8")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_build, "find_nvrtc", lambda: None)
    assert cuda_build.find_nvcc() == str(nvcc)
    got = compile_program(tiny).decode()
    assert got.startswith("-gencode=arch=compute_90a,code=sm_90a -std=c++17 -DSIZE=8 -cubin -o")
    assert got.endswith(TINY)
    assert compile_program(tiny).decode() == got
    (cuda_build.SOURCES / "tiny.cu").write_text("nonsense", encoding="utf-8")
    with pytest.raises(CompileError, match=r"(?s)tiny.*nonsense is undefined"):
        compile_program(tiny)


def test_nvrtc_is_found_where_pip_puts_it_and_finds_its_builtins(tmp_path: Path) -> None:
    """In a process of its own, since a library that is loaded stays."""
    code = (
        "from r1kit.kernels import cuda_build as c\n"
        "p = c.Program(('tiny.cu',), 'tiny', (('SIZE', 8),))\n"
        f"print(len(c.with_nvrtc(c.find_nvrtc(), {TINY!r}, p)[0]), c.find_nvrtc()._name)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    size, _, place = run.stdout.strip().partition(" ")
    assert int(size) > 1000
    packages = [Path(entry).resolve() for entry in sys.path if entry]
    assert any(Path(place).resolve().is_relative_to(entry) for entry in packages), place


def test_a_folder_without_nvrtc_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of that name that is no library does not stop the search."""
    wrong = tmp_path / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("no library", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = cuda_build.find_nvrtc.__wrapped__()
    assert found is not None and found._name != str(wrong)


@pytest.mark.parametrize(
    ("cuda", "order"), [("12.8", ["12", "13"]), ("13.0", ["13", "12"]), (None, ["13", "12"])]
)
def test_the_nvrtc_of_torchs_own_cuda_comes_first(
    cuda: str | None, order: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders before the system's, and in a folder the builtins before what opens them."""
    for place, major in (("cu13", "13"), ("cuda_nvrtc", "12")):
        folder = tmp_path / "nvidia" / place / "lib"
        folder.mkdir(parents=True)
        for name in (f"libnvrtc.so.{major}", f"libnvrtc-builtins.so.{major}.0"):
            (folder / name).touch()
    tried: list[str] = []

    def refuse(path: str) -> ctypes.CDLL:
        tried.append(path.removeprefix(str(tmp_path)))
        if "builtins" in path:
            return ctypes.CDLL(None)
        raise OSError("no library")

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(cuda_build, "ctypes", SimpleNamespace(CDLL=refuse))
    assert cuda_build.find_nvrtc.__wrapped__() is None
    in_folders, of_the_system = tried[:-2], tried[-2:]
    assert of_the_system == [f"libnvrtc.so.{major}" for major in order]
    places = {"13": "/nvidia/cu13/lib", "12": "/nvidia/cuda_nvrtc/lib"}
    assert in_folders == [
        f"{places[major]}/{name}"
        for major in order
        for name in (f"libnvrtc-builtins.so.{major}.0", f"libnvrtc.so.{major}")
    ]
