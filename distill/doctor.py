"""`r1kit doctor`: what this machine has, what each command needs, and how to get what is missing.

Every probe only reads. A probe that cannot tell says so; nothing is assumed to be there.
"""

import ctypes
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..teacher.environment import cores, cpu_model, gpus, memory_gib, output, version
from .console import Console


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a machine may have.

    Attributes:
        there: whether it is usable; None where that cannot be told from here.
        found: what was seen, in words.
        get: how to get it, where it is missing.
    """

    there: bool | None
    found: str
    get: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """One command, and what has to be there for it.

    Attributes:
        command: as it is typed, with its variant in parentheses; `a|b` stands for both.
        needs: the findings without which it does not work, or not within a sensible time.
        helped_by: the findings that make it better or faster.
        also: what it needs besides, and no probe can find.
    """

    command: str
    needs: tuple[str, ...]
    helped_by: tuple[str, ...] = ()
    also: str = ""


MODELS = ("torch", "transformers")
GPU = ("gpu", "cuda")
KERNELS = ("torch", "triton")
HOPPER_KERNELS = (*KERNELS, *GPU, "nvrtc or nvcc")
TRITON_BUILDS = "a C compiler, with which Triton builds its launcher"
NEEDS = (
    Need("r1kit run quickstart", (*MODELS, "disk", "memory")),
    Need(
        "r1kit run RECIPE (teacher.kind: openai)",
        (*MODELS, "disk", "memory"),
        GPU,
        also="an OpenAI-compatible server at teacher.base_url",
    ),
    Need("r1kit distill sample|verify|filter|build|report", (*MODELS, "disk")),
    Need("r1kit students sft (tiny-qwen, tiny-llama)", MODELS),
    Need(
        "r1kit students sft (0.5B and more)",
        (*MODELS, *GPU),
        also="the model: its directory, or its name on huggingface.co",
    ),
    Need("r1kit eval run", MODELS),
    Need("r1kit eval compare", ()),
    Need("r1kit eval verify|selftest", ()),
    Need(
        "r1kit eval bench-verifier",
        (),
        also="a folder of JSONL files with pred, gold and expected",
    ),
    Need(
        "r1kit eval run (--suite gym:TASK)",
        (*MODELS, "c++ compiler"),
        also="reasoning-gym: pip install 'r1kit[gym]', which takes the compiler",
    ),
    Need("r1kit eval run (--suite lm_eval:TASK)", (*MODELS, "lm-eval")),
    Need("r1kit eval table", ()),
    Need("r1kit teacher serve|chat (tiny-r1)", MODELS),
    Need("r1kit teacher salvage", ("disk",)),
    Need("r1kit teacher train-tiny", MODELS, GPU),
    Need("r1kit kernels check (no GPU: in Triton's interpreter)", KERNELS),
    Need("r1kit kernels check (H100, H200)", HOPPER_KERNELS, also=TRITON_BUILDS),
    Need("r1kit kernels check (another NVIDIA GPU)", (*KERNELS, *GPU), also=TRITON_BUILDS),
    Need("r1kit kernels bench mla (H100, H200)", HOPPER_KERNELS, ("vllm",), TRITON_BUILDS),
    Need(
        "r1kit kernels bench mla (another NVIDIA GPU)",
        (*KERNELS, *GPU),
        ("vllm",),
        TRITON_BUILDS,
    ),
    Need("vllm serve MODEL (a server for teacher.base_url)", ("vllm", *GPU)),
)
"""What each command of this version needs."""


def gpu() -> Finding:
    """NVIDIA GPUs and their memory, as their driver reports them."""
    found = gpus()
    if found:
        words = ", ".join(f"{each['name']} ({each['memory']})" for each in found)
        return Finding(True, f"{words}, driver {found[0]['driver']}")
    return Finding(False, "no NVIDIA driver answers", "the quick start needs none")


def memory() -> Finding:
    """Main memory. The quick start peaks below 3 GB."""
    size = memory_gib()
    return Finding(size >= 4, f"{size:g} GiB for this process", "4 GiB, for the quick start")


def disk() -> Finding:
    """Free space in the current directory, where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    writable = os.access(Path.cwd(), os.W_OK)
    words = f"{free:,.1f} GiB free in {Path.cwd()}" + ("" if writable else ", not writable")
    return Finding(free >= 1 and writable, words, "free 1 GiB, or use --out DIR elsewhere")


def torch() -> Finding:
    """PyTorch, and whether it loads."""
    installed = version("torch")
    if installed is None:
        return Finding(False, "not installed", "pip install 'torch>=2.11,<2.14'")
    code = "import torch; print(torch.version.cuda or 'CPU build', torch.get_num_threads())"
    words = _in_a_child(code)
    if words is None:
        return Finding(False, f"{installed}, and importing it fails", "reinstall torch")
    build, _, threads = words.rpartition(" ")
    build = build if build == "CPU build" else f"CUDA {build}"
    return Finding(True, f"{installed}, {build}, {threads} threads")


def cuda() -> Finding:
    """Whether torch can use a GPU. Asked in a child: a broken driver can take the process along."""
    if version("torch") is None:
        return Finding(False, "torch is not installed", "pip install 'torch>=2.11,<2.14'")
    code = (
        "import torch\n"
        "gpus = range(torch.cuda.device_count())\n"
        "print(*(torch.cuda.get_device_name(i) for i in gpus), sep=', ')"
    )
    words = _in_a_child(code)
    if words:
        return Finding(True, words)
    if not gpus():
        return Finding(False, "torch sees no GPU", "a machine with an NVIDIA GPU and its driver")
    built_without = (version("torch") or "").endswith("+cpu")
    return Finding(
        False,
        "torch is a CPU build" if built_without else "torch cannot use the GPU",
        "the CUDA build that pytorch.org/get-started names for this driver",
    )


def _in_a_child(code: str) -> str | None:
    """What a piece of Python prints, or None where it fails or takes over a minute."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package(name: str, get: str) -> Callable[[], Finding]:
    """A probe for an installed package, which is not imported."""

    def probe() -> Finding:
        found = version(name)
        return Finding(found is not None, found or "not installed", get)

    return probe


def compiler() -> Finding:
    """A C++ compiler, which torch.compile uses on a CPU. The core needs none."""
    for name in ("g++", "clang++"):
        if words := output(name, "--version"):
            return Finding(True, words.splitlines()[0])
    return Finding(False, "no g++, no clang++", "apt-get install g++, for torch.compile")


def cuda_compiler() -> Finding:
    """What compiles the CUDA kernels when they are first used: NVRTC, or else a toolkit's nvcc.

    Triton brings its own.
    """
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        if found := version(name):
            return Finding(True, f"NVRTC {found}")
    if library := find_library("nvrtc"):
        return Finding(True, f"NVRTC, {library}")
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    for nvcc in ("nvcc", str(toolkit)):
        if words := output(nvcc, "--version"):
            release = next((line for line in words.splitlines() if "release" in line), words)
            return Finding(True, release.strip())
    get = "torch's CUDA builds bring NVRTC; or: pip install nvidia-cuda-nvrtc"
    return Finding(False, "no NVRTC, no nvcc", get)


def bubblewrap() -> Finding:
    """bwrap, the outer layer of a sandbox for code that models write, tried out once."""
    words = output("bwrap", "--version")
    if words is None:
        return Finding(False, "not installed", "apt-get install bubblewrap")
    if output("bwrap", "--ro-bind", "/", "/", "--unshare-net", "true") is None:
        return Finding(False, f"{words}, which is refused here", "see user namespaces")
    return Finding(True, f"{words}, which works here")


def seccomp() -> Finding:
    """Whether the kernel filters system calls."""
    actions = _setting("/proc/sys/kernel/seccomp/actions_avail")
    if actions is None:
        return Finding(False, "the kernel does not offer it", "Linux 4.14 or later with seccomp")
    return Finding(True, "the kernel offers it")


def landlock() -> Finding:
    """The kernel's Landlock version: file access rules that need no rights."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Finding(False, f"{sys.platform}, {platform.machine()}", "Linux 5.13 or later")
    create_ruleset, only_tell_the_version = 444, 1
    libc = ctypes.CDLL(None, use_errno=True)
    got = libc.syscall(create_ruleset, None, 0, only_tell_the_version)
    if got > 0:
        return Finding(True, f"version {got}")
    why = errno.errorcode.get(ctypes.get_errno(), "unknown error")
    return Finding(False, f"the kernel answers {why}", "Linux 5.13 or later with Landlock enabled")


def user_namespaces() -> Finding:
    """Whether a process may make a user namespace. A child tries, and is gone with it."""
    if sys.platform != "linux":
        return Finding(False, sys.platform, "Linux")
    if _in_a_child("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))") == "0":
        return Finding(True, "a process here can make one")
    if _setting("/proc/sys/user/max_user_namespaces") == "0":
        get = "sysctl user.max_user_namespaces=15000"
        return Finding(False, "max_user_namespaces is 0", get)
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        get = "sysctl kernel.unprivileged_userns_clone=1"
        return Finding(False, "unprivileged_userns_clone is 0", get)
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return Finding(False, "AppArmor restricts them", "an AppArmor profile for bwrap")
    get = "in a container: a seccomp profile that allows unshare, such as Podman's"
    return Finding(False, "a process here is refused one", get)


def _setting(path: str) -> str | None:
    """A kernel setting, or None where the kernel does not have it."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None


PROBES: Mapping[str, Callable[[], Finding]] = {
    "memory": memory,
    "disk": disk,
    "gpu": gpu,
    "torch": torch,
    "cuda": cuda,
    "transformers": package("transformers", "pip install 'transformers>=5.10,<6'"),
    "triton": package("triton", "pip install triton, on Linux; torch's CUDA builds bring it"),
    "vllm": package("vllm", "pip install 'r1kit[serve]', on Linux with CUDA"),
    "bitsandbytes": package("bitsandbytes", "pip install 'r1kit[qlora]'"),
    "liger": package("liger-kernel", "pip install 'r1kit[train]'"),
    "lm-eval": package("lm_eval", "pip install 'r1kit[lm-eval]'"),
    "c++ compiler": compiler,
    "nvrtc or nvcc": cuda_compiler,
    "bwrap": bubblewrap,
    "seccomp": seccomp,
    "landlock": landlock,
    "user namespaces": user_namespaces,
}
"""What is looked for, in the order of the table."""


def examine() -> dict[str, Finding]:
    """Every probe's finding. One that breaks reports how, and the others go on."""
    findings = {}
    for name, probe in PROBES.items():
        try:
            findings[name] = probe()
        except (OSError, ValueError, IndexError) as error:
            findings[name] = Finding(None, f"cannot be told: {error}")
    return findings


def verdicts(findings: Mapping[str, Finding]) -> dict[str, str]:
    """Command -> `yes`, or what is missing for it."""
    said = {}
    for need in NEEDS:
        missing = [name for name in need.needs if findings[name].there is False]
        without = [name for name in need.helped_by if findings[name].there is False]
        said[need.command] = "yes" + (f" (better with {', '.join(without)})" if without else "")
        if missing:
            said[need.command] = f"no: {', '.join(missing)} missing"
    return said


def advice(name: str, finding: Finding) -> str:
    """How to get what is missing, and whether it is worth getting."""
    if finding.there:
        return ""
    if any(name in (*need.needs, *need.helped_by) for need in NEEDS):
        return finding.get
    return f"{finding.get} (no command of this version needs it)"


def show(*, as_json: bool = False) -> None:
    """Print what this machine has and what it can run."""
    findings = examine()
    commands = verdicts(findings)
    console = Console()
    head = (
        f"r1kit {__version__}, Python {platform.python_version()} on {platform.platform()}, "
        f"{cpu_model()}, {cores()} cores"
    )
    if as_json:
        machine = {name: asdict(finding) for name, finding in findings.items()}
        result = {"system": head, "machine": machine, "commands": commands}
        console.result(json.dumps(result, ensure_ascii=False))
        return
    console.result(head)
    table = Table(title="this machine", title_justify="left")
    for column in ("what", "", "found", "how to get it"):
        table.add_column(column)
    marks = {True: "yes", False: "no", None: "?"}
    for name, finding in findings.items():
        told = (finding.found, advice(name, finding))
        table.add_row(name, marks[finding.there], *map(escape, told))
    console.result(table)
    console.result(f"pip stands for: {sys.executable} -m pip")
    table = Table(title="what it can run", title_justify="left")
    for column in ("command", "needs", "can run here"):
        table.add_column(column, overflow="fold")
    for need in NEEDS:
        needs = "; ".join(filter(None, (", ".join(need.needs), need.also)))
        table.add_row(need.command, needs, commands[need.command])
    console.result(table)
