"""What every stage is handed: the recipe, the run's directory, its ledger, and what does the work.

`Parts` are the three things of a run that are slow or outside: they are arguments, so that tests
put something quick in their place and drive the same runner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import Bar, Console
from .settings import Recipe
from .workspace import Workspace

if TYPE_CHECKING:
    from ..students.settings import SftSettings
    from ..teacher.engine import Engine
    from ..teacher.ledger import Ledger
    from ..teacher.settings import EngineSettings


def _open_engine(settings: EngineSettings) -> Engine:
    from ..teacher.engines import open_engine

    return open_engine(settings)


def _train(settings: SftSettings, dataset: Path, out_dir: Path, bar: Bar) -> Mapping[str, Any]:
    from .train import train_student

    return train_student(settings, dataset, out_dir, bar)


def _make_student(recipe: Recipe, out_dir: Path) -> None:
    from .train import make_student

    make_student(recipe, out_dir)


@dataclass(frozen=True, slots=True)
class Parts:
    """What does the work.

    Attributes:
        open_engine: settings -> an engine; the caller closes it.
        make_student: writes the untrained student to a directory that appears whole.
        train: trains it; see `train.train_student`, which is the default.
    """

    open_engine: Callable[[EngineSettings], Engine] = _open_engine
    make_student: Callable[[Recipe, Path], None] = _make_student
    train: Callable[[SftSettings, Path, Path, Bar], Mapping[str, Any]] = _train


@dataclass(slots=True)
class Context:
    """One run at work. The ledger opens when a stage first needs it; `close` closes it."""

    recipe: Recipe
    workspace: Workspace
    console: Console
    parts: Parts = field(default_factory=Parts)
    _ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The run's ledger, open for writing."""
        if self._ledger is None:
            from ..teacher.ledger import Ledger

            self._ledger = Ledger.open(self.workspace.ledger)
        return self._ledger

    def close(self) -> None:
        """Commit and close the ledger. Safe to call twice."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
