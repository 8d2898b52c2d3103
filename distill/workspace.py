"""A run's directory: where everything lies, which stages are done, and who may work there.

    runs/NAME/
      settings.yaml   the recipe as it ran
      problems.jsonl  what is asked              samples.jsonl   which samples were wanted
      traces.sqlite   the ledger: answers, verdicts, tags
      duplicates.json, contaminated.json              why a trace that passed the filters is out
      dataset/        the kept traces            student_before/, student/   the models
      eval/           one file per model         report.html, run.json, scores.json
      stages/         one marker per finished stage, written after everything else of that stage

Every file appears whole: it is written beside its place, synced, and renamed.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from .. import KitError


class WorkspaceError(KitError):
    """A run's directory cannot be used. The message says which, why, and what would do."""


class Stage(StrEnum):
    """The stages of a run, in their order."""

    PROBLEMS = "problems"
    SAMPLE = "sample"
    VERIFY = "verify"
    FILTER = "filter"
    DEDUP = "dedup"
    DECONTAMINATE = "decontaminate"
    BUILD = "build"
    TRAIN = "train"
    EVALUATE = "evaluate"
    REPORT = "report"


def stages_from(first: Stage) -> list[Stage]:
    """`first` and every stage after it."""
    order = list(Stage)
    return order[order.index(first) :]


@dataclass(frozen=True, slots=True)
class Marker:
    """That a stage is done, and what came of it.

    Attributes:
        stage: which one.
        digest: of the settings that feed it and of the digest of the stage before it.
        seconds: wall time of the attempt that finished it.
        counts: what the stage has to say; `left` and `removed` make the funnel.
        peak_mib: this process's peak memory up to then, in MiB.
        resumed: whether an earlier attempt had been broken off, so that `seconds` is not all.
        skipped: why the stage had nothing to do, where it was passed over.
    """

    stage: Stage
    digest: str
    seconds: float
    counts: dict[str, Any] = field(default_factory=dict)
    peak_mib: float = 0.0
    resumed: bool = False
    skipped: str | None = None


class Workspace:
    """The files of one run, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "settings.yaml"
        self.problems = root / "problems.jsonl"
        self.samples = root / "samples.jsonl"
        self.ledger = root / "traces.sqlite"
        self.duplicates = root / "duplicates.json"
        self.contaminated = root / "contaminated.json"
        self.dataset = root / "dataset"
        self.student_before = root / "student_before"
        self.student = root / "student"
        self.eval = root / "eval"
        self.report = root / "report.html"
        self.run_json = root / "run.json"
        self.scores = root / "scores.json"
        self.stages = root / "stages"
        self.facts = root / "stages" / "facts.json"
        self._lock = root / ".lock"
        self._outputs: dict[Stage, tuple[Path, ...]] = {
            Stage.PROBLEMS: (self.problems,),
            Stage.SAMPLE: (self.samples,),
            Stage.DEDUP: (self.duplicates,),
            Stage.DECONTAMINATE: (self.contaminated,),
            Stage.BUILD: (self.dataset,),
            Stage.TRAIN: (self.student_before, self.student),
            Stage.EVALUATE: (self.eval,),
            Stage.REPORT: (self.report, self.run_json, self.scores, self.facts),
        }

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the directory and work in it alone for as long as the block runs.

        Raises:
            WorkspaceError: another process works there, the directory holds something else, or it
                cannot be made.
        """
        self.check_it_is_ours()
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            handle = self._lock.open("a+", encoding="ascii")
        except OSError as error:
            raise WorkspaceError(f"{self.root}: cannot be written: {error.strerror}") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                pid = handle.read().strip() or "unknown"
                raise WorkspaceError(
                    f"{self.root}: another run (process {pid}) is at work there; wait for it, "
                    "or give this one a directory of its own with --out DIR"
                ) from error
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield

    def check_it_is_ours(self) -> None:
        """Refuse a directory with foreign files: stages replace what lies in their places."""
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise WorkspaceError(f"{self.root}: is a file; a run needs a directory")
        if any(self.root.iterdir()) and not self.stages.is_dir():
            raise WorkspaceError(
                f"{self.root}: holds files and is no run of r1kit; give an empty or new directory"
            )

    def marker(self, stage: Stage) -> Marker | None:
        """The marker of a finished stage, or None where it is not done."""
        try:
            values = json.loads((self.stages / f"{stage}.json").read_text(encoding="utf-8"))
            return Marker(**{**values, "stage": Stage(values["stage"])})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise WorkspaceError(
                f"{self.stages / f'{stage}.json'}: not a marker of this version ({error}); "
                "delete it to do that stage again"
            ) from error

    def begin(self, stage: Stage) -> bool:
        """Forget what `stage` and all after it had made; return whether this is a second attempt.

        The ledger stays: what was paid for is never thrown away. What is about to be redone goes
        first, so that no file of a stage outlives the marker that vouched for it.
        """
        trail = self.stages / f"{stage}.begun"
        resumed = trail.exists()
        for later in reversed(stages_from(stage)):
            (self.stages / f"{later}.json").unlink(missing_ok=True)
            for output in self._outputs.get(later, ()):
                _remove(output)
        trail.touch()
        return resumed

    def finish(self, marker: Marker) -> None:
        """Write a stage's marker, the last thing that happens in it."""
        write_json(self.stages / f"{marker.stage}.json", asdict(marker))
        (self.stages / f"{marker.stage}.begun").unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)
        with suppress(OSError):
            partial.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that it appears whole or not at all."""
    write_text(path, [json.dumps(value, indent=2, ensure_ascii=False) + "\n"])


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that no space is left. Libraries bury the number."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(error)
        if "No space left on device" in text or "database or disk is full" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
