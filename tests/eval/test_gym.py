"""reasoning-gym: its tasks are suites, and its own scorer judges, in workers that can be killed."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval import gym
from r1kit.eval.evaluate import evaluate
from r1kit.eval.gym import GymJudge, extract_gym
from r1kit.eval.judge import Answered
from r1kit.eval.math.extract import Rule
from r1kit.eval.problems import ProblemsError
from r1kit.eval.suites import open_suite
from r1kit.eval.suites.suite import GymProblem, Kind
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Sampling
from r1kit.teacher.ledger import Ledger


@pytest.fixture
def task() -> str:
    pytest.importorskip("reasoning_gym")
    return "gcd"


def test_a_task_is_a_suite_of_its_own_problems(task: str) -> None:
    import reasoning_gym

    loaded = open_suite(f"gym:{task}", 5, 7)
    assert loaded.suite.kind is Kind.GYM
    data = reasoning_gym.create_dataset(task, size=5, seed=7)
    assert [p.statement for p in loaded.problems] == [entry["question"] for entry in data]
    assert [p.answer for p in loaded.problems] == [entry["answer"] for entry in data]
    assert {p.source for p in loaded.problems} == {"gym/gcd"}
    assert loaded.source.place.startswith("reasoning-gym 0.") and "seed 7" in loaded.source.place
    assert open_suite(f"gym:{task}", 5, 8).problems != loaded.problems


def test_an_unknown_task_gets_a_hint(task: str) -> None:
    with pytest.raises(ProblemsError, match=r"gym:gdc: .*no task 'gdc'; did you mean 'gcd'"):
        open_suite("gym:gdc", 1)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(gym, "version", absent)
    with pytest.raises(ProblemsError, match=r"pip install 'r1kit\[gym\]'"):
        open_suite("gym:gcd", 1)


def test_the_tasks_scorer_decides(task: str, tmp_path: Path, engine_of: Callable[..., Any]) -> None:
    problems = open_suite(f"gym:{task}", 3).problems
    said = {
        problems[0].id: f"<think>\n</think>So <answer>{problems[0].answer}</answer>",
        problems[1].id: "<think>\n</think><answer>0</answer>",
        problems[2].id: "<think>\n</think>",
    }
    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        result = evaluate(
            engine_of(lambda request: said[request.problem_id]),
            problems,
            ledger,
            sampling=Sampling(),
            judge=GymJudge(),
        )
    judged = [row.judgement for row in result.rows]
    assert [j.verdict for j in judged] == [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]
    assert judged[0].reason == "reasoning-gym's score is 1"
    assert judged[1].reason.startswith("reasoning-gym's score is 0")
    assert judged[2].reason == "no answer"


class Hanging:
    """A task whose scorer does what the answer says."""

    def __getitem__(self, place: int) -> dict[str, str]:
        return {"question": "?", "answer": "!"}

    def score_answer(self, answer: str, entry: dict[str, str]) -> float:
        if answer == "hang":
            time.sleep(60)
        if answer == "raise":
            raise KeyError("metadata")
        return {"half": 0.5, "all": 1.0}[answer]


def _hanging_score(scored: gym._Scored) -> float:
    return Hanging().score_answer(scored.answer, {})


def test_what_the_scorer_cannot_do_is_undecided_and_a_share_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gym, "_score", _hanging_score)
    problem = GymProblem("g", "?", None, "gym/x", task="x")
    answers = [Answered(problem, 0, word, word) for word in ("hang", "raise", "half", "all")]
    judged = dict(GymJudge(1, timeout_s=0.5).judge(answers))
    assert {key: judgement.verdict for key, judgement in judged.items()} == {
        "hang": Verdict.UNVERIFIABLE,
        "raise": Verdict.UNVERIFIABLE,
        "half": Verdict.WRONG,
        "all": Verdict.CORRECT,
    }
    assert "killed after 0.5 s" in judged["hang"].reason
    assert "KeyError" in judged["raise"].reason


@pytest.mark.parametrize(
    ("reply", "text", "rule"),
    [
        ("<answer>1</answer> no <answer> 2 3\n4 5 </answer>", "2 3\n4 5", Rule.PHRASE),
        (r"it is \boxed{7}", "7", Rule.BOXED),
        (" 7 ", "7", Rule.WHOLE),
        ("", "", Rule.NONE),
        (None, "", Rule.NONE),
    ],
)
def test_the_answer_stands_in_its_tags(reply: str | None, text: str, rule: Rule) -> None:
    assert extract_gym(reply) == (text, rule)
