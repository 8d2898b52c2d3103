"""Compile CUDA C++ at first use, keep the machine code by its hash, load it and launch it.

NVRTC comes with every CUDA build of torch, so no toolkit has to be installed; where only a toolkit
is, `nvcc` does the same. The machine code is kept in `~/.cache/r1kit/kernels` (or below
`XDG_CACHE_HOME`) under the hash of source, options and compiler, so that each is compiled once for
a machine. Neither compiling nor reading the cache needs a GPU.

Everything here speaks to the libraries through ctypes: the driver's launch takes attributes that
torch has no call for (cooperative launches, clusters, tensor maps).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "cuda"


class NoCompiler(RuntimeError):
    """Neither NVRTC nor nvcc was found."""


class CompileError(RuntimeError):
    """The compiler refused a source; the message is its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """A source with everything that decides its machine code."""

    files: tuple[str, ...]
    """Names below `kernels/cuda/`; their texts are joined in this order."""
    kernel: str
    defines: tuple[tuple[str, int], ...] = ()
    arch: str = "sm_90a"

    def source(self) -> str:
        """The joined text."""
        return "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in self.files)

    def options(self) -> list[str]:
        """The compiler's options, the same for NVRTC and nvcc but for the architecture."""
        return ["-std=c++17", *(f"-D{name}={value}" for name, value in self.defines)]


def compile_program(program: Program) -> bytes:
    """The machine code (cubin) of `program`, from the cache or freshly compiled.

    Raises:
        NoCompiler: neither NVRTC nor nvcc is here.
        CompileError: with the compiler's log.
    """
    source = program.source()
    nvrtc = find_nvrtc()
    nvcc = find_nvcc() if nvrtc is None else None
    if nvrtc is None and nvcc is None:
        raise NoCompiler(
            "the Hopper kernels are compiled at first use, and neither NVRTC (libnvrtc.so, which "
            "CUDA builds of torch bring; or: pip install nvidia-cuda-nvrtc) nor nvcc (on PATH or "
            "below CUDA_HOME) was found"
        )
    with_what = f"nvrtc {nvrtc_version(nvrtc)}" if nvrtc else f"nvcc {nvcc_version(str(nvcc))}"
    identity = "\0".join([source, program.arch, *program.options(), with_what])
    kept = (
        cache_folder() / f"{program.kernel}-{hashlib.sha256(identity.encode()).hexdigest()}.cubin"
    )
    if kept.is_file():
        return kept.read_bytes()
    if nvrtc:
        cubin, _ = with_nvrtc(nvrtc, source, program)
    else:
        cubin = _with_nvcc(str(nvcc), source, program)
    _keep(kept, cubin)
    return cubin


def cache_folder() -> Path:
    """Where machine code is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "r1kit" / "kernels"


def _keep(path: Path, content: bytes) -> None:
    """Write whole or not at all; a folder that cannot be written only costs the next start time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        print(f"r1kit: compiled kernels are not kept: {error}", file=sys.stderr)  # noqa: T201


# ---- the compilers ------------------------------------------------------------------------------


@functools.cache
def find_nvrtc() -> ctypes.CDLL | None:
    """NVRTC as torch or pip brings it, or the system's.

    The one of torch's own CUDA comes first: what a newer one makes, its driver may not know.
    """
    own = (torch.version.cuda or "").partition(".")[0]
    majors = sorted(("13", "12"), key=lambda major: major != own)
    names = [f"libnvrtc.so.{major}" for major in majors]
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry]
    found = [
        folder / place / "lib" / name
        for name in names
        for folder in folders
        for place in ("cu13", "cuda_nvrtc")
        if (folder / place / "lib" / name).is_file()
    ]
    for candidate in [*found, *names]:
        try:
            if isinstance(candidate, Path):
                _load_builtins(candidate.parent)
            return ctypes.CDLL(str(candidate))
        except OSError:
            continue
    return None


def _load_builtins(folder: Path) -> None:
    """Load what NVRTC opens by its bare name when it compiles: some versions do not look for it
    beside themselves, but all take it where it is loaded already."""
    for library in sorted(folder.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(library))


def nvrtc_version(nvrtc: ctypes.CDLL) -> str:
    """Such as 13.0."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def find_nvcc() -> str | None:
    """The toolkit's compiler: on PATH, or below CUDA_HOME."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))


@functools.cache
def nvcc_version(nvcc: str) -> str:
    """The last line of what it says of itself: its build."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().splitlines()[-1]


def with_nvrtc(
    nvrtc: ctypes.CDLL, source: str, program: Program, more_options: Sequence[str] = ()
) -> tuple[bytes, str]:
    """The machine code of `source`, compiled as `program` says, and the compiler's log.

    Args:
        more_options: such as `--ptxas-options=-v`, for a log that tells registers and spills.

    Raises:
        CompileError: with the log.
    """
    options = [f"--gpu-architecture={program.arch}", *program.options(), *more_options]
    handle = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(handle), source.encode(), program.files[-1].encode(), 0, None, None
    )
    if status != 0:
        raise CompileError(f"{program}: NVRTC took no program: status {status}")
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(handle, len(options), array)
        log = _nvrtc_log(nvrtc, handle)
        if status != 0:
            raise CompileError(f"{program}:\n{log}")
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetCUBINSize(handle, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(handle, cubin)
        return cubin.raw, log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))


def _nvrtc_log(nvrtc: ctypes.CDLL, handle: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(handle, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(handle, log)
    return log.value.decode(errors="replace")


def _with_nvcc(nvcc: str, source: str, program: Program) -> bytes:
    number = program.arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory() as folder:
        text, cubin = Path(folder) / "kernel.cu", Path(folder) / "kernel.cubin"
        text.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [nvcc, f"-gencode=arch=compute_{number},code={program.arch}", *program.options(),
             "-cubin", "-o", str(cubin), str(text)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CompileError(f"{program}:\n{done.stdout}{done.stderr}")
        return cubin.read_bytes()


# ---- the driver ---------------------------------------------------------------------------------

_MAX_DYNAMIC_SHARED = 8
_COOPERATIVE, _CLUSTER = 2, 4


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint * 16))


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library."""
    return ctypes.CDLL("libcuda.so.1")


def check(status: int, doing: str) -> None:
    """Raise what the driver says of a call that failed."""
    if status == 0:
        return
    text = ctypes.c_char_p()
    driver().cuGetErrorString(status, ctypes.byref(text))
    said = text.value.decode() if text.value else f"error {status}"
    raise RuntimeError(f"{doing}: CUDA says: {said}")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A loaded kernel with its launch constants."""

    function: ctypes.c_void_p
    name: str
    threads: int
    shared_bytes: int

    def launch(
        self,
        grid: tuple[int, int],
        arguments: Sequence[ctypes.Structure | ctypes.Array[ctypes.c_ubyte]],
        stream: int,
        *,
        cooperative: bool = False,
        cluster: int = 1,
    ) -> None:
        """Launch on `stream`; `arguments` are the kernel's parameters, each by value."""
        attributes = (_Attribute * 2)()
        count = 0
        if cooperative:
            attributes[count].id = _COOPERATIVE
            attributes[count].value[0] = 1
            count += 1
        if cluster > 1:
            attributes[count].id = _CLUSTER
            attributes[count].value[0:3] = [cluster, 1, 1]
            count += 1
        config = _Config(
            (ctypes.c_uint * 3)(grid[0], grid[1], 1), (ctypes.c_uint * 3)(self.threads, 1, 1),
            self.shared_bytes, stream, attributes, count,
        )  # fmt: skip
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        status = driver().cuLaunchKernelEx(ctypes.byref(config), self.function, pointers, None)
        check(status, f"launching {self.name}")


def load(program: Program, constants: tuple[str, ...] = ()) -> tuple[Kernel, dict[str, int]]:
    """Compile or fetch `program` and load it into the current CUDA context.

    Its shared memory and threads stand in the source as `NAME_smem` and `NAME_threads`, so that
    they are stated once; `constants` names further `const int` symbols to read.

    Raises:
        RuntimeError: what the driver refuses, such as loading while a graph is captured.
    """
    cuda, cubin = driver(), compile_program(program)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuModuleLoadData(ctypes.byref(module), cubin), f"loading {program.kernel}")
    check(
        cuda.cuModuleGetFunction(ctypes.byref(function), module, program.kernel.encode()),
        f"finding {program.kernel}",
    )
    values = {}
    for name in ("smem", "threads", *constants):
        values[name] = _constant(module, f"{program.kernel}_{name}")
    check(
        cuda.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, values["smem"]),
        f"asking for {values['smem']} bytes of shared memory for {program.kernel}",
    )
    return Kernel(function, program.kernel, values["threads"], values["smem"]), values


def _constant(module: ctypes.c_void_p, name: str) -> int:
    address, size, value = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_int()
    check(
        driver().cuModuleGetGlobal_v2(
            ctypes.byref(address), ctypes.byref(size), module, name.encode()
        ),
        f"finding {name}",
    )
    check(
        driver().cuMemcpyDtoH_v2(ctypes.byref(value), address, ctypes.c_size_t(4)),
        f"reading {name}",
    )
    return value.value


class TensorMap(ctypes.Structure):
    """128 opaque bytes that tell the copy engine how a tensor lies; aligned to 64."""

    _fields_ = (("bytes", ctypes.c_ubyte * 128),)


SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}
"""Bytes of the swizzle span -> the driver's name for it."""


def tensor_map(
    address: int, dims: Sequence[int], strides: Sequence[int], box: Sequence[int], swizzle: int
) -> ctypes.Array[ctypes.c_ubyte]:
    """How the copy engine sees a byte tensor.

    Args:
        address: of its first byte on the device, a multiple of 16.
        dims: bytes of the innermost dimension, then the lengths of the others.
        strides: in bytes, of all but the innermost; multiples of 16.
        box: what one copy takes of each dimension.
        swizzle: span of the shared-memory swizzle in bytes: 0, 64 or 128.
    """
    rank = len(dims)
    room = (ctypes.c_ubyte * 192)()
    aligned = (ctypes.addressof(room) + 63) // 64 * 64
    status = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(aligned), 0, rank, ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*dims), (ctypes.c_uint64 * (rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*box), (ctypes.c_uint32 * rank)(*([1] * rank)),
        0, SWIZZLE[swizzle], 3, 0,
    )  # fmt: skip
    check(status, f"describing a tensor of {list(dims)} with strides {list(strides)}")
    view = (ctypes.c_ubyte * 128).from_address(aligned)
    copy = (ctypes.c_ubyte * 128)()
    ctypes.memmove(copy, view, 128)
    return copy
