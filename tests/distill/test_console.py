"""What a run shows: honest rates, plain lines where there is no terminal."""

import io
import time

import pytest
from r1kit.distill.console import Bar, Console, duration, words


def test_what_an_earlier_run_did_does_not_count_towards_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    bar = Bar("sample", 1000, "samples", lambda bar: None, began=100.0)
    bar.skip(500)
    bar.advance(50)
    assert bar.rate == 5.0
    assert bar.seconds_left == 90.0
    assert words(bar) == "5.0 samples/s, 1 min 30 s left"


def test_without_a_terminal_a_plain_line_comes_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Console(stream).bar("sample", 100, "samples") as bar:
        for _ in range(50):
            now[0] += 0.5
            bar.advance()
    assert stream.getvalue().splitlines() == [
        "  sample: 20/100 (20%), 2.0 samples/s, 40 s left",
        "  sample: 40/100 (40%), 2.0 samples/s, 30 s left",
    ]


def test_on_a_terminal_a_bar_is_drawn() -> None:
    stream = io.StringIO()
    with Console(stream, interactive=True).bar("verify", 3, "answers") as bar:
        bar.advance(3)
    assert "verify" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min")],
)
def test_durations_are_said_the_way_people_say_them(seconds: float, says: str) -> None:
    assert duration(seconds) == says
