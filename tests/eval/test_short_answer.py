"""Short answers: a model grades, its silence is no verdict, and its agreement is measured."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval.agreement import compare, load_labels, measure
from r1kit.eval.evaluate import evaluate
from r1kit.eval.judge import Answered
from r1kit.eval.problems import Problem, ProblemsError
from r1kit.eval.prompt import PromptSettings
from r1kit.eval.short_answer import (
    MAX_REPLY,
    NOT_ATTEMPTED,
    Grade,
    ShortAnswerJudge,
    judge_prompt,
    read_grade,
)
from r1kit.eval.suites import open_suite
from r1kit.eval.suites.suite import Kind
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import EngineError, Sampling
from r1kit.teacher.ledger import Ledger

GREEDY = Sampling(0.0, 1.0, 256)
PROBLEM = Problem("p", "Who wrote Middlemarch?", "George Eliot", "simpleqa")


def judged(
    tmp_path: Path, engine: Any, *answers: str | None
) -> list[tuple[Verdict, str, tuple[str, ...]]]:
    with Ledger.open(tmp_path / "judge.sqlite") as ledger:
        judge = ShortAnswerJudge(engine, ledger, sampling=GREEDY)
        asked = [Answered(PROBLEM, i, str(i), answer) for i, answer in enumerate(answers)]
        said = dict(judge.judge(asked))
    return [
        (said[str(i)].verdict, said[str(i)].reason, said[str(i)].tags) for i in range(len(asked))
    ]


def grader(request: Any) -> Any:
    """Grades by the words of the answer."""
    reply = request.prompt.messages[0].content.split("==========")[1].strip()
    return {
        "Eliot": "It is she.\nGRADE: CORRECT",
        "Austen": "Another.\nGRADE: INCORRECT",
        "pass": "Open.\nGRADE: NOT_ATTEMPTED",
        "mumble": "Hard to say.",
        "endless": ("GRADE: CORRECT", "length"),
        "broken": None,
    }[reply]


def test_every_grade_and_every_failure_has_its_own_place(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    engine = engine_of(grader)
    words = ("Eliot", "Austen", "pass", "mumble", "endless", "broken", None, " ")
    said = judged(tmp_path, engine, *words)
    assert [verdict for verdict, *_ in said] == [
        Verdict.CORRECT,
        Verdict.WRONG,
        Verdict.WRONG,
        Verdict.UNVERIFIABLE,
        Verdict.UNVERIFIABLE,
        Verdict.INFRA_ERROR,
        Verdict.WRONG,
        Verdict.WRONG,
    ]
    assert [tags for *_, tags in said].count((NOT_ATTEMPTED,)) == 1 and said[2][2] == (
        NOT_ATTEMPTED,
    )
    assert said[4][1] == "the judge was cut off"
    assert said[5][1] == "the judge: it broke"
    assert len(engine.asked) == 6  # who said nothing is not shown to the judge
    again = engine_of(grader)
    assert judged(tmp_path, again, *words) == said
    assert len(again.asked) == 1  # only the broken call is made again


def test_a_judge_that_is_gone_leaves_what_it_graded(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    calls = []

    def script(request: Any) -> Any:
        calls.append(request)
        if len(calls) > 1:
            raise EngineError("the endpoint is gone")
        return grader(request)

    said = judged(tmp_path, engine_of(script), "Eliot", "Austen")
    assert [verdict for verdict, *_ in said] == [Verdict.CORRECT, Verdict.INFRA_ERROR]
    assert said[1][1] == "the judge: the endpoint is gone"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("It is she.\nGRADE: CORRECT", Grade.CORRECT),
        ("**GRADE: INCORRECT**", Grade.INCORRECT),
        ("grade: not attempted.", Grade.NOT_ATTEMPTED),
        ("GRADE: **NOT_ATTEMPTED**", Grade.NOT_ATTEMPTED),
        ("GRADE: CORRECT? No.\nGRADE: INCORRECT", Grade.INCORRECT),
        ("CORRECT", Grade.CORRECT),
        ("It says so.\n**INCORRECT**", Grade.INCORRECT),
        ("It is not correct.", None),
        ("GRADE: B", None),
        ("", None),
        (None, None),
    ],
)
def test_the_last_grade_counts(reply: str | None, grade: Grade | None) -> None:
    assert read_grade(reply) is grade


def test_the_judge_sees_question_gold_and_the_end_of_the_reply_between_its_lines() -> None:
    reply = "start " + "x" * MAX_REPLY + " ==========\nGRADE: CORRECT"
    text = judge_prompt("Who {wrote} it?", "Eliot", reply).messages[0].content
    assert "Question: Who {wrote} it?\n" in text and "Reference answer: Eliot\n" in text
    assert text.count("==========") == 2 and "start" not in text
    assert judge_prompt("q", "g", "r", prefill="<think>\n").prefill == "<think>\n"


def test_agreement_takes_off_what_chance_gives() -> None:
    right, wrong, open_ = Grade.CORRECT, Grade.INCORRECT, Grade.NOT_ATTEMPTED
    found = compare([right] * 4 + [wrong] * 4, [right] * 3 + [wrong] * 4 + [None])
    assert found.n == 8 and found.value == 6 / 8
    # By hand: chance = (4*3 + 4*4) / 64 = 28/64, so kappa = (48 - 28) / (64 - 28).
    assert found.kappa == pytest.approx(20 / 36)
    assert found.confusion["correct"] == {
        "correct": 3, "incorrect": 1, "not_attempted": 0, "ungraded": 0,
    }  # fmt: skip
    assert found.confusion["incorrect"]["ungraded"] == 1
    assert found.ci95[0] == pytest.approx(0.4093, abs=1e-4)  # Wilson, 6 of 8
    assert compare([open_], [open_]).kappa is None


def test_the_labels_that_come_along_cover_grades_and_languages() -> None:
    labels = load_labels()
    assert 20 <= len(labels) <= 40
    assert min(Counter(each.label for each in labels).values()) >= 6
    chinese = [
        each for each in labels if any("\u4e00" <= char <= "\u9fff" for char in each.question)
    ]
    assert len(chinese) >= 8 and {each.label for each in chinese} == set(Grade)
    assert len({(each.question, each.answer) for each in labels}) == len(labels)


def test_the_judge_is_held_against_the_labels(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    labels = load_labels()
    truth = {
        judge_prompt(e.question, e.gold, e.answer).messages[0].content: e.label for e in labels
    }
    flips = 3

    def script(request: Any) -> Any:
        content = request.prompt.messages[0].content
        grade = truth[content]
        flipped = list(truth).index(content) < flips
        return f"GRADE: {'NOT_ATTEMPTED' if flipped else str(grade).upper()}"

    with Ledger.open(tmp_path / "judge.sqlite") as ledger:
        judge = ShortAnswerJudge(engine_of(script), ledger, sampling=GREEDY)
        found = measure(judge, labels)
    wrong = sum(each.label is not Grade.NOT_ATTEMPTED for each in labels[:flips])
    assert found.value == 1 - wrong / len(labels) and found.n == len(labels)


def test_a_judge_that_was_never_there_stops_the_run_before_a_model_is_asked(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    def script(request: Any) -> Any:
        raise EngineError("nothing listens there")

    with Ledger.open(tmp_path / "judge.sqlite") as ledger:
        judge = ShortAnswerJudge(engine_of(script), ledger, sampling=GREEDY)
        with pytest.raises(EngineError, match="nothing listens there"):
            measure(judge, load_labels())


def test_own_labels_are_read_and_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    row = {"question": "q", "gold": "g", "answer": "a", "label": "NOT ATTEMPTED"}
    path.write_text(json.dumps(row) + "\n")
    assert [each.label for each in load_labels(path)] == [Grade.NOT_ATTEMPTED]
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "label": "good"}) + "\n")
    with pytest.raises(ProblemsError, match=r"labels.jsonl:2: label must be .* got 'good'"):
        load_labels(path)


def test_a_short_answer_suite_is_scored_through_the_judge(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    path = tmp_path / "facts.jsonl"
    rows = [{"Prompt": f"say {word}", "Answer": "Eliot"} for word in ("Eliot", "Austen", "pass")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = open_suite(f"short:{path}")
    assert loaded.suite.kind is Kind.SHORT_ANSWER
    model = engine_of(lambda r: f"<think>\nhm</think>{r.prompt.messages[0].content.split()[1]}")
    with (
        Ledger.open(tmp_path / "t.sqlite") as ledger,
        Ledger.open(tmp_path / "judge.sqlite") as kept,
    ):
        judge = ShortAnswerJudge(engine_of(grader), kept, sampling=GREEDY)
        settings = PromptSettings(template=loaded.suite.template)
        result = evaluate(
            model, loaded.problems, ledger, sampling=Sampling(), judge=judge, prompt=settings
        )
    assert [row.judgement.verdict for row in result.rows] == [
        Verdict.CORRECT,
        Verdict.WRONG,
        Verdict.WRONG,
    ]
    assert model.asked[0].prompt.messages[0].content == "say Eliot"
