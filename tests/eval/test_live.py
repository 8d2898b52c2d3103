"""Live judging: it happens while answers come in, and ends with what judging at the end gives."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval import live
from r1kit.eval.evaluate import evaluate
from r1kit.eval.judge import Answered, MathJudge
from r1kit.eval.live import LiveJudge, Running
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Sampling
from r1kit.teacher.ledger import Ledger

PROBLEMS = [Problem(str(i), f"{i}?", str(i), "s") for i in range(6)]


class Listed(MathJudge):
    """Judges from a list of verdicts per key, the next one at every call."""

    name = "listed/1"

    def __init__(self, verdicts: dict[str, list[Verdict]]) -> None:
        super().__init__()
        self.verdicts = verdicts
        self.batches: list[list[str]] = []

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        self.batches.append([answered.key for answered in answers])
        for answered in answers:
            verdict = self.verdicts[answered.key].pop(0)
            yield answered.key, Judgement(verdict, "", Rule.NONE, "listed")


def answered(number: int) -> Answered:
    return Answered(PROBLEMS[number], 0, str(number), "x")


def test_the_running_score_is_told_while_answers_come_in(
    tmp_path: Path, engine_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BATCH_S", 0.0)
    monkeypatch.setattr("r1kit.teacher.collect.REPORT_S", 0.0)
    heard: list[Running] = []
    first = threading.Event()

    def script(request: Any) -> Any:
        if request.problem_id == "1":  # the second answer waits until the first one was judged
            assert first.wait(30), "nothing was judged while the engine was still answering"
        return f"<think>\n</think>\\boxed{{{min(int(request.problem_id), 2)}}}"

    def on_judged(running: Running) -> None:
        heard.append(running)
        first.set()

    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        result = evaluate(
            engine_of(script), PROBLEMS, ledger, sampling=Sampling(), on_judged=on_judged
        )
    assert (heard[0].judged, heard[0].score.value, heard[0].score.n) == (1, 1.0, 1)
    assert heard[-1].judged == 6
    assert heard[-1].score == result.score and result.score.value == 0.5


def test_what_was_answered_before_counts_at_once(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    heard: list[Running] = []
    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        for _ in range(2):
            heard.clear()
            evaluate(
                engine_of(lambda r: ("<think>\n</think>cut", "length")),
                PROBLEMS,
                ledger,
                sampling=Sampling(),
                on_judged=heard.append,
            )
    assert heard[-1].judged == 6 and heard[-1].score.truncated == 6


def test_only_what_stayed_undecided_is_judged_again_at_the_end() -> None:
    judge = Listed(
        {
            "0": [Verdict.CORRECT],
            "1": [Verdict.UNVERIFIABLE, Verdict.WRONG],
            "2": [Verdict.INFRA_ERROR, Verdict.UNVERIFIABLE],
        }
    )
    with LiveJudge(judge) as judging:
        for number in range(3):
            judging.put(answered(number))
        judging.put(answered(3), Judgement(Verdict.WRONG, "", Rule.NONE, "cut"), truncated=True)
        said = judging.finish()
    assert {key: judgement.verdict for key, judgement in said.items()} == {
        "0": Verdict.CORRECT,
        "1": Verdict.WRONG,
        "2": Verdict.UNVERIFIABLE,
        "3": Verdict.WRONG,
    }
    assert judge.batches[-1] == ["1", "2"]


def test_a_run_that_asked_nothing_judges_once(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    class Noting(MathJudge):
        def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
            batches.append(len(answers))
            for one in answers:
                yield one.key, Judgement(Verdict.UNVERIFIABLE, "", Rule.NONE, "noted")

    counts = []
    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        for _ in range(2):
            batches: list[int] = []
            engine = engine_of(lambda r: "<think>\n</think>1")
            evaluate(engine, PROBLEMS, ledger, sampling=Sampling(), judge=Noting())
            counts.append(sum(batches))
    assert counts == [12, 6]


def test_a_judge_that_raises_is_heard(tmp_path: Path, engine_of: Callable[..., Any]) -> None:
    class Broken(MathJudge):
        def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
            raise ZeroDivisionError("of the judge")

    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        with pytest.raises(ZeroDivisionError, match="of the judge"):
            evaluate(
                engine_of(lambda r: "<think>\n</think>1"),
                PROBLEMS,
                ledger,
                sampling=Sampling(),
                judge=Broken(),
            )
        assert ledger.counts().completions == 6  # the answers are kept


def test_an_engine_that_fails_leaves_no_thread(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    def script(request: Any) -> Any:
        raise KeyboardInterrupt

    before = threading.active_count()
    with Ledger.open(tmp_path / "t.sqlite") as ledger, pytest.raises(KeyboardInterrupt):
        evaluate(engine_of(script), PROBLEMS, ledger, sampling=Sampling())
    assert threading.active_count() <= before
    assert not [t for t in threading.enumerate() if t.name == "r1kit-judge"]
