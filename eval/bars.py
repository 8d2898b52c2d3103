"""Progress of an evaluation on the error stream: how many answers, and what they make so far.

On a terminal a bar; elsewhere, as in a log file, a line now and then.
"""

import time
from typing import Self

from ..teacher.collect import Collected
from .live import Running
from .score import Score

LINE_S = 30.0
"""Seconds between two lines where there is no terminal."""


class Bars:
    """Shows one suite's progress. Its methods may be called from several threads.

    Args:
        name: the suite.
        total: answers wanted.
    """

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._name, self._total = name, total
        self._done = self._judged = 0
        self._said, self._said_at = "", time.monotonic()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                Remaining(),
                TextColumn("{task.fields[said]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=total, said="")

    def sampled(self, so_far: Collected) -> None:
        """Take over how many answers are there."""
        self._done = so_far.already + so_far.answered + so_far.failed
        self._show()

    def judged(self, running: Running) -> None:
        """Take over what the answers judged so far make."""
        self._judged = running.judged
        self._said = f"{running.judged:,} judged: {spell(running.score)}"
        self._show()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, said=self._said)
        elif time.monotonic() - self._said_at >= LINE_S:
            self._line()

    def _line(self) -> None:
        self._said_at = time.monotonic()
        said = f"; {self._said}" if self._said else ""
        self._console.print(
            f"{self._name}: {self._done:,} of {self._total:,} answers{said}",
            highlight=False,
            soft_wrap=True,
        )


def spell(score: Score) -> str:
    """A running score in a few words."""
    low, high = (f"{100 * end:.1f}" for end in score.ci95)
    cut = f", {score.truncated:,} truncated" if score.truncated else ""
    open_ = f", {score.undecided:,} undecided" if score.undecided else ""
    return f"pass@1 {100 * score.value:.1f} % ({low} to {high}){cut}{open_}"
