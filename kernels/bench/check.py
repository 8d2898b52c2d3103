"""`r1kit kernels check`: every kernel against its definition in float64, and what else it promises.

Checks come in families; a family is a list of jobs, and a job yields one outcome for each case. A
name such as `shapes/fp8-bf16q/k64/h16-q2` says where a case stands, and `--only` takes any
beginning of one: the family, the job, or the case alone.

Cost: about a minute on an H200, kernels already built. In the interpreter a short list.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .compare import Errors, Tolerance, compare, same_bits, tolerance
from .problems import Problem
from .result_file import aligned

Result = tuple[Tensor, Tensor]
Say = Callable[[str], None]
Capture = Callable[[Callable[[], Result]], tuple[Result, Callable[[], None]]]
"""Records a call: its result's tensors, and what computes them again in place."""


class Unsupported(Exception):
    """A case that this GPU or variant cannot run; says why."""


class Broken(Exception):
    """A promise that does not hold; says how."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went.

    Attributes:
        name: its full name.
        errors: how far it was off, where it was compared with a definition.
        skipped: why it could not run, or empty.
        broken: what went wrong otherwise, or empty.
        note: a measurement worth printing.
        seconds: of its job, on the job's last outcome.
    """

    name: str
    errors: Errors = field(default_factory=Errors)
    skipped: str = ""
    broken: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the case is wrong."""
        return bool(self.broken or self.errors.wrong)

    @property
    def family(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Kit:
    """What is checked, and where.

    Attributes:
        decode_with, reference_with, append, append_ref: `mla_decode`, `mla_decode_ref`,
            `mla_append` and `mla_append_ref`; tests put broken ones here.
        device: `cuda` or `cpu`.
        variant: the variant that is forced, or None for the one that the kernel picks.
        small: whether to check the short list.
        capture: records a CUDA graph, or None where there are none.
    """

    decode_with: Callable[..., Result]
    reference_with: Callable[..., Result]
    append: Callable[..., None]
    append_ref: Callable[..., None]
    device: str
    variant: str | None = None
    seed: int = 0
    small: bool = False
    capture: Capture | None = None

    @classmethod
    def here(cls, device: str, variant: str | None, seed: int) -> "Kit":
        """The kernels as they are, on this machine.

        Without a GPU and a variant, `triton` runs in the interpreter.
        """
        from ..mla_cache import mla_append, mla_append_ref
        from ..mla_decode import mla_decode, mla_decode_ref

        if device == "cpu" and variant == "hopper":
            raise ValueError("--variant hopper: needs a Hopper GPU, and torch sees no GPU")
        chosen = "triton" if device == "cpu" and variant is None else variant
        kernels = (mla_decode, mla_decode_ref, mla_append, mla_append_ref)
        if device == "cpu":
            return cls(*kernels, device, chosen, seed, small=True)
        return cls(*kernels, device, chosen, seed, capture=capture_graph)

    @property
    def about(self) -> str:
        """One line on what runs where."""
        variant = self.variant or "the kernel's choice"
        if self.device == "cpu":
            how = "in Triton's interpreter" if variant == "triton" else "on the CPU"
            return (
                f"no GPU here: a short list runs {how} (variant {variant}); "
                "CUDA graphs, streams and large shapes are left out"
            )
        return f"{torch.cuda.get_device_name()}, variant {variant}"

    def decode(self, problem: Problem, **more: Any) -> Result:
        """Run the kernel.

        Raises:
            Unsupported: where this variant cannot.
        """
        try:
            return self.decode_with(**{"variant": self.variant, **problem.named(), **more})
        except NotImplementedError as error:
            raise Unsupported(str(error)) from error

    def reference(self, problem: Problem) -> Result:
        """The definition in float64, fed the same rounded inputs."""
        return self.reference_with(**problem.named(), dtype=torch.float64)

    def judge(self, problem: Problem, got: Result, want: Result) -> Errors:
        """Compare within the limits of the problem's dtypes."""
        return compare(*got, *want, limits_of(problem))

    def synchronize(self) -> None:
        """Wait for the GPU, so that a fault shows where it happened."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def capture_graph(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Capture a call in a CUDA graph, having made it once."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay


def limits_of(problem: Problem) -> Tolerance:
    """The limits of a problem."""
    spec = problem.spec
    return tolerance(spec.layout, spec.query_dtype, spec.score_spread)


Wanted = Callable[[str], bool]
"""Whether a case's name, without its job's, is to run."""
Case = tuple[str, Callable[[], Errors | str | None]]
"""A name, and what checks it: it returns errors, or a note, or raises Broken."""


@dataclass(frozen=True, slots=True)
class Job:
    """Cases that share their inputs.

    Attributes:
        name: family and job.
        cases: makes them; those that are not wanted may be left out.
    """

    name: str
    cases: Callable[[Wanted], Iterable[Case]]


def one(name: str, check: Callable[[], Errors | str | None]) -> Job:
    """A job of a single case, which carries the job's name."""
    return Job(name, lambda wanted: [("", check)] if wanted("") else [])


def judged_together(
    kit: Kit, whole: Problem, parts: dict[str, Problem], take: Callable[[Result, Problem], Result]
) -> Iterator[Case]:
    """Cases that share one definition: the kernel runs on each part, then the definition once.

    Args:
        whole: what the definition is evaluated on.
        take: what of the definition's result belongs to a part.
    """
    got = {name: _attempt(kit, part) for name, part in parts.items()}
    kit.synchronize()
    some = any(isinstance(result, tuple) for result in got.values())
    want = kit.reference(whole) if some else None

    def check(name: str) -> Errors:
        result = got[name]
        if isinstance(result, Exception):
            raise result
        assert want is not None
        return kit.judge(parts[name], result, take(want, parts[name]))

    for name in parts:
        yield name, partial(check, name)


def _attempt(kit: Kit, problem: Problem) -> Result | Exception:
    """The kernel's result, or what it raised."""
    try:
        return kit.decode(problem)
    except Exception as error:  # noqa: BLE001 (it is raised again where its case is counted)
        return error


def run_job(job: Job, only: list[str]) -> Iterator[Outcome]:
    """Run a job's wanted cases. Whatever a case raises is its outcome."""

    def full(case: str) -> str:
        return f"{job.name}/{case}" if case else job.name

    def wanted(case: str) -> bool:
        return not only or any(begins(full(case), each) for each in only)

    began = time.perf_counter()
    outcomes: list[Outcome] = []
    try:
        for name, check in job.cases(wanted):
            if wanted(name):
                outcomes.append(_run_case(full(name), check))
    except Exception as error:  # noqa: BLE001 (any failure is what a check is there to report)
        outcomes.append(Outcome(job.name, broken=_told(error)))
    if outcomes:
        outcomes[-1] = replace(outcomes[-1], seconds=time.perf_counter() - began)
    yield from outcomes


def _run_case(name: str, check: Callable[[], Errors | str | None]) -> Outcome:
    """Run one case."""
    try:
        said = check()
    except Unsupported as why:
        return Outcome(name, skipped=str(why))
    except Broken as why:
        return Outcome(name, broken=str(why))
    except Exception as error:  # noqa: BLE001 (any failure is what a check is there to report)
        return Outcome(name, broken=_told(error))
    if isinstance(said, Errors):
        return Outcome(name, errors=said)
    return Outcome(name, note=said or "")


def _told(error: Exception) -> str:
    """An error on one line. Of a long one the beginning and the end: dynamo's cause comes last."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 700 else f"{text[:200]} ... {text[-480:]}"


def begins(name: str, beginning: str) -> bool:
    """Whether `beginning` names `name` or something that holds it, whole parts only."""
    return name == beginning or name.startswith(f"{beginning}/")


def select(only: list[str]) -> list[str]:
    """The names to run, checked: each must begin with a family.

    Raises:
        ValueError: for one that does not.
    """
    from .families import FAMILIES

    for name in only:
        if name.partition("/")[0] not in FAMILIES:
            raise ValueError(f"--only {name}: no such family; there are {', '.join(FAMILIES)}")
    return only


def run(kit: Kit, only: list[str], say: Say) -> list[Outcome]:
    """Run the families, and say how each went as soon as it is through, and where a long one is."""
    from .families import FAMILIES

    found: list[Outcome] = []
    said = time.perf_counter()
    for family, jobs in FAMILIES.items():
        if only and not any(begins(each, family) for each in only):
            continue
        here: list[Outcome] = []
        for job in jobs(kit):
            if time.perf_counter() - said > QUIET_S:
                say(f"{family}: {len(here)} cases so far; now {job.name}")
                said = time.perf_counter()
            if not only or any(begins(job.name, each) or begins(each, job.name) for each in only):
                here += run_job(job, only)
        if here:
            say(line_of(family, here))
            said = time.perf_counter()
        found += here
    if only and not found:
        say(f"nothing is named {', '.join(only)}: no case ran")
        found.append(Outcome(only[0], broken="no such case"))
    return found


def line_of(family: str, outcomes: list[Outcome]) -> str:
    """A family in one line, for whoever waits."""
    failed = sum(outcome.failed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return f"{family}: {len(outcomes)} cases, {failed} failed, {seconds:.1f} s"


QUIET_S = 5.0
"""After so many silent seconds a check says which job it begins, should that one never end."""

COLUMNS = ["family", "cases", "skipped", "abs err", "cosine", "lse err", "used", "s", "ok"]


def summary(outcomes: list[Outcome]) -> str:
    """The table of families, then what was skipped, noted and failed."""
    lines = []
    for family in dict.fromkeys(outcome.family for outcome in outcomes):
        here = [outcome for outcome in outcomes if outcome.family == family]
        errors = [outcome.errors for outcome in here]
        skipped = sum(bool(outcome.skipped) for outcome in here)
        lines.append(
            [
                family,
                str(len(here)),
                str(skipped),
                _number(_worst(each.out_abs for each in errors)),
                _number(_worst(each.cosine for each in errors)),
                _number(_worst(each.lse_abs for each in errors)),
                f"{_worst(each.used for each in errors):.0%}",
                f"{sum(outcome.seconds for outcome in here):.1f}",
                _verdict(here, skipped),
            ]
        )
    told = [aligned(COLUMNS, lines)]
    told += ["used: the greatest share of a tolerance that an error used up"]
    told += [f"note: {outcome.name}: {outcome.note}" for outcome in outcomes if outcome.note]
    reasons: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.skipped:
            reasons[outcome.skipped] = reasons.get(outcome.skipped, 0) + 1
    told += [f"skipped {count}: {why}" for why, count in reasons.items()]
    failures = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failures[:20]:
        why = outcome.broken or outcome.errors.wrong
        told += [f"FAILED {outcome.name}: {why} ({_figures(outcome.errors)})"]
        told += [f"       again: r1kit kernels check --only {outcome.name}"]
    if len(failures) > 20:
        told += [f"and {len(failures) - 20} more failed"]
    total = f"{len(outcomes)} cases, {len(failures)} failed, {sum(reasons.values())} skipped"
    return "\n".join([*told, total])


def _verdict(here: list[Outcome], skipped: int) -> str:
    if any(outcome.failed for outcome in here):
        return "NO"
    return "skipped" if skipped == len(here) else "yes"


def _worst(numbers: Iterable[float]) -> float:
    """The greatest number, NaN where one is."""
    listed = list(numbers)
    return math.nan if any(map(math.isnan, listed)) else max(listed, default=0.0)


def _number(value: float) -> str:
    return f"{value:.1e}"


def _figures(errors: Errors) -> str:
    return (
        f"abs {errors.out_abs:.1e}, cosine {errors.cosine:.1e}, "
        f"lse {errors.lse_abs:.1e}, {errors.used:.3g} of the tolerance"
    )


def require_same_bits(left: Result, right: Result, what: str) -> None:
    """Raise Broken where two results differ in a bit."""
    if not same_bits(left, right):
        out = int((left[0] != right[0]).sum()) if left[0].shape == right[0].shape else -1
        raise Broken(f"{what}: {'shapes' if out < 0 else f'{out} output numbers'} differ")
