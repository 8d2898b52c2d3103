"""What a run ran on: versions, commit, hardware. Nothing heavy is imported to find out."""

import os
import platform
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "math-verify",
    "sympy",
    "pyarrow",
    "pydantic",
    "aiohttp",
    "vllm",
    "bitsandbytes",
    "liger-kernel",
)
"""Packages whose version can change a run's numbers."""


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, as `run.json` states them."""
    return {
        "r1kit": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: v for name in PACKAGES if (v := version(name)) is not None},
        "hardware": hardware(),
    }


def version(package: str) -> str | None:
    """An installed package's version, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit that this package runs from, `+` behind it where files differ; None elsewhere."""
    file = Path(__file__).resolve()
    folder = str(file.parent)
    if output("git", "-C", folder, "ls-files", "--error-unmatch", file.name) is None:
        return None  # installed somewhere inside another project's repository
    head = output("git", "-C", folder, "rev-parse", "HEAD")
    if head is None:
        return None
    changes = output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    return head + ("+" if changes else "")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "gpus": gpus(),
    }


def cpu_model() -> str:
    """The processor's name, as Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cores() -> int | None:
    """The cores that this process may run on, or the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where a container reads its limit, by version of cgroups: a word or a huge number is none."""


def memory_gib(cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """The memory that this process may use, in GiB: the machine's, or its container's if less."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in CGROUP_LIMITS:
        try:
            size = min(size, int((cgroups / name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return round(size / 2**30, 1)


def gpus() -> list[dict[str, str]]:
    """Every NVIDIA GPU: name, memory and driver. Empty where there is no driver."""
    fields = "name,memory.total,driver_version,compute_cap"
    text = output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    rows = [[part.strip() for part in line.split(",")] for line in (text or "").splitlines()]
    names = ("name", "memory", "driver", "compute_capability")
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def output(*command: str) -> str | None:
    """What a command prints, or None where it is missing, fails or takes over five seconds."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def peak_mib(*, children: bool = False) -> float:
    """Peak memory of this process, or a bound on that of its finished children, in MiB.

    A child inherits its parent's peak when it is forked, so the largest child took at most this.
    """
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(who).ru_maxrss / unit, 1)
