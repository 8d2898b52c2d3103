"""What a person sees while a run works: bars on a terminal, plain lines everywhere else.

Progress and notices go to standard error, results to standard output, so that `--json` output can
be piped while the progress stays visible.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of one stage."""


@dataclass(slots=True)
class Bar:
    """The progress of one stage. `show` is called with the bar whenever it moved."""

    label: str
    total: int | None
    unit: str
    show: Callable[["Bar"], None]
    done: int = 0
    began_with: int = 0
    """What was done before this run; it counts as progress, and not towards the rate."""
    note: str = ""
    began: float = field(default_factory=lambda: time.monotonic())

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.to(self.done + count)

    def to(self, done: int, *, total: int | None = None, note: str | None = None) -> None:
        """Set how many units are done, and perhaps the total or a word on how it goes."""
        self.done = done
        self.total = self.total if total is None else total
        self.note = self.note if note is None else note
        self.show(self)

    def skip(self, done: int) -> None:
        """Set how many units an earlier run had already done."""
        self.began_with = done
        self.to(done)

    @property
    def rate(self) -> float:
        """Units per second of this run."""
        seconds = time.monotonic() - self.began
        return (self.done - self.began_with) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the total at the rate so far, or None where that is not known."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self.done) / self.rate


@dataclass(slots=True)
class Console:
    """Where progress, notices and results go.

    Args:
        stream: gets progress and notices.
        interactive: whether to draw bars; by default, whether `stream` is a terminal.
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    interactive: bool | None = None

    def say(self, text: str) -> None:
        """Print one notice."""
        print(text, file=self.stream, flush=True)

    def result(self, renderable: Any) -> None:
        """Print a result, text or anything that rich can draw, to standard output."""
        if isinstance(renderable, str):  # as it is: a path or JSON must not be wrapped
            print(renderable, flush=True)  # noqa: T201
            return
        from rich.console import Console as RichConsole

        width = None if sys.stdout.isatty() else 100
        RichConsole(file=sys.stdout, width=width, highlight=False).print(renderable)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Bar]:
        """Show the progress of one stage for as long as the block runs."""
        interactive = self.stream.isatty() if self.interactive is None else self.interactive
        with self._drawn(label, total) if interactive else self._lines() as show:
            yield Bar(label, total, unit, show)

    @contextmanager
    def _drawn(self, label: str, total: int | None) -> Iterator[Callable[[Bar], None]]:
        """A rich bar with rate and time left."""
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
        )
        screen = RichConsole(file=self.stream, force_terminal=True)
        with Progress(*columns, console=screen, transient=True, refresh_per_second=4) as progress:
            task = progress.add_task(label, total=total, words="starting")

            def show(bar: Bar) -> None:
                progress.update(task, completed=bar.done, total=bar.total, words=words(bar))

            yield show

    @contextmanager
    def _lines(self) -> Iterator[Callable[[Bar], None]]:
        """A plain line every few seconds."""
        last = time.monotonic()

        def show(bar: Bar) -> None:
            nonlocal last
            if time.monotonic() - last < PLAIN_EVERY_S:
                return
            last = time.monotonic()
            share = f"{bar.done:,}"
            if bar.total:
                share = f"{bar.done:,}/{bar.total:,} ({bar.done / bar.total:.0%})"
            self.say(f"  {bar.label}: {share}, {words(bar)}")

        yield show


def words(bar: Bar) -> str:
    """Rate, time left and the stage's own note, such as `12.3 samples/s, 2 min 5 s left`."""
    rate = f"{bar.rate:,.1f}" if bar.rate < 100 else f"{bar.rate:,.0f}"
    parts = [f"{rate} {bar.unit}/s"]
    if bar.seconds_left is not None:
        parts.append(f"{duration(bar.seconds_left)} left")
    return ", ".join([*parts, bar.note] if bar.note else parts)


def duration(seconds: float) -> str:
    """Seconds the way people say them: `0.4 s`, `12 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
