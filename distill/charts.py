"""The geometry of the report's charts: numbers in, places on a drawing out. Nothing is drawn here.

Every chart is `WIDTH` units wide, about the width of a phone, so that its lettering stays readable
there; `templates/charts.html.jinja` draws it as SVG and puts the numbers in a table behind it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..eval.score import Score
from .phrases import score_words

WIDTH = 400
LEFT, RIGHT = 8, 392
"""The plot's edges; what stands outside of them is lettering."""

MAX_BINS = 32
MAX_POINTS = 160
MAX_ROWS = 24


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One score: its place, its interval's ends, and which series it belongs to."""

    series: str
    x: float
    low: float
    high: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class MarkRow:
    """All scores of one source."""

    label: str
    y: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """Scores with their intervals, one row per source; `left_out` rows stand in the table only."""

    rows: tuple[MarkRow, ...]
    ticks: tuple[Tick, ...]
    height: float
    left_out: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its box on the drawing and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The lengths of one outcome, on an axis that all outcomes share.

    Attributes:
        bars: one per bin that is not empty.
        bins: (from, up to, count) of every bin, for the table.
        low, median, p90, high: tokens.
        peak: the highest count, which is as high as the drawing.
    """

    outcome: str
    count: int
    bars: tuple[Bar, ...]
    bins: tuple[tuple[int, int, int], ...]
    low: int
    median: int
    p90: int
    high: int
    peak: int


@dataclass(frozen=True, slots=True)
class Curve:
    """A line over training steps: SVG points, ticks of both axes, and the rows of its table."""

    points: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    height: float
    table: tuple[tuple[float, float], ...]
    num_points: int


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, ... (0.5, 0.2, ...) that cuts `span` into at most `most`."""
    if span <= 0:
        return 1.0
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(
        (factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9)),
        10 * power,
    )


def score_chart(scores: Mapping[str, Mapping[str, Score]]) -> ScoreChart:
    """Lay out scores.

    Args:
        scores: row label -> series -> score, in the order of the rows.
    """
    shown = list(scores.items())[:MAX_ROWS]
    series = list(dict.fromkeys(name for row in scores.values() for name in row))
    gap, head = 9.0, 20.0
    height = head + gap * len(series) + 12
    rows = []
    for place, (label, row) in enumerate(shown):
        top = place * height
        marks = []
        for name, score in row.items():
            low, high = (_share_x(end) for end in score.ci95)
            y = top + head + gap * (series.index(name) + 0.5)
            marks.append(Mark(name, _share_x(score.value), low, high, y, score_words(score)))
        rows.append(MarkRow(label, top + 14, tuple(marks)))
    ticks = tuple(Tick(_share_x(share / 4), f"{share * 25} %") for share in range(5))
    return ScoreChart(tuple(rows), ticks, len(shown) * height, len(scores) - len(shown))


def histograms(
    lengths: Mapping[str, Sequence[int]], *, height: float
) -> tuple[tuple[Histogram, ...], tuple[Tick, ...]]:
    """Lay out one histogram per outcome, `height` units high, on one axis of tokens.

    Returns:
        The histograms of the outcomes that have any trace, and the axis's ticks.
    """
    longest = max((max(each) for each in lengths.values() if each), default=0)
    width = max(1, math.ceil(nice_step(longest + 1, MAX_BINS)))
    num_bins = longest // width + 1
    scale = (RIGHT - LEFT) / (num_bins * width)
    found = []
    for outcome, values in lengths.items():
        if not values:
            continue
        counts = [0] * num_bins
        for value in values:
            counts[value // width] += 1
        found.append(_histogram(outcome, sorted(values), counts, width, scale, height))
    step = nice_step(num_bins * width, 5)
    last = math.floor(num_bins * width / step + 1e-9)
    ticks = tuple(Tick(LEFT + k * step * scale, f"{k * step:,.0f}") for k in range(last + 1))
    return tuple(found), ticks


def _histogram(
    outcome: str, ordered: list[int], counts: list[int], width: int, scale: float, height: float
) -> Histogram:
    """One outcome's bars and figures."""
    peak = max(counts)
    bins = tuple((k * width, (k + 1) * width - 1, count) for k, count in enumerate(counts))
    bars = tuple(
        Bar(
            LEFT + low * scale + 0.5,
            height - height * count / peak,
            max(0.5, width * scale - 1),
            height * count / peak,
            f"{low:,} to {high:,} tokens: {count:,}",
        )
        for low, high, count in bins
        if count
    )
    return Histogram(
        outcome, len(ordered), bars, bins, ordered[0], _quantile(ordered, 0.5),
        _quantile(ordered, 0.9), ordered[-1], peak,
    )  # fmt: skip


def curve(points: Sequence[tuple[float, float]], *, height: float) -> Curve | None:
    """Lay out y over x, `height` units high, y from 0; None where there are fewer than two points.

    More than `MAX_POINTS` points are averaged in groups.
    """
    if len(points) < 2:
        return None
    group = math.ceil(len(points) / MAX_POINTS)
    means = [_mean(points[at : at + group]) for at in range(0, len(points), group)]
    left, right = 34.0, float(RIGHT)
    (first, last), top = (means[0][0], means[-1][0]), max(y for _, y in means)
    y_step, x_step = nice_step(top, 4), nice_step(last - first, 4)
    ceiling = y_step * math.ceil(top / y_step - 1e-9) or 1.0

    def x_at(x: float) -> float:
        return left + (right - left) * (x - first) / ((last - first) or 1.0)

    def y_at(y: float) -> float:
        return height - height * y / ceiling

    line = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in means)
    x_from = math.ceil(first / x_step - 1e-9)
    x_ticks = [k * x_step for k in range(x_from, math.floor(last / x_step + 1e-9) + 1)]
    y_ticks = [k * y_step for k in range(round(ceiling / y_step) + 1)]
    every = math.ceil(len(means) / 20)
    return Curve(
        line,
        tuple(Tick(x_at(x), f"{x:,.10g}") for x in x_ticks),
        tuple(Tick(y_at(y), f"{y:.3g}") for y in y_ticks),
        height,
        tuple(means[::every]) + (() if (len(means) - 1) % every == 0 else (means[-1],)),
        len(points),
    )


def _share_x(share: float) -> float:
    """The place of a share in [0, 1]."""
    return LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, share))


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of all values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The last x and the mean y of a few points in a row."""
    return points[-1][0], sum(y for _, y in points) / len(points)
