"""Multiple choice: every sample has its own order, and a letter is found where models write it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval.choice import CHOICE_JUDGE, ChoiceJudge, find_choice, shown
from r1kit.eval.evaluate import evaluate
from r1kit.eval.judge import Answered
from r1kit.eval.problems import ProblemsError
from r1kit.eval.prompt import PromptSettings
from r1kit.eval.suites import open_suite
from r1kit.eval.suites.suite import CHOICE_TEMPLATE, ChoiceProblem, Kind
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Sampling
from r1kit.teacher.ledger import Ledger

OPTIONS = ["the cell wall", "42 eV", "Mitochondria", "A and B"]


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        (r"So \boxed{C}.", 2),
        (r"\boxed{\text{(c)}}", 2),
        (r"\boxed{\textbf{C}}", 2),
        (r"$\boxed{\mathrm{C}}$", 2),
        (r"\boxed{C) Mitochondria}", 2),
        (r"\boxed{(B) 42\,eV}", 1),
        (r"\boxed{mitochondria}", 2),
        (r"\boxed{A} no, rather \boxed{B}", 1),
        (r"\boxed{A and B}", 3),  # an option's text goes before two letters
        (r"\boxed{Option B}", 1),
        ("The answer is (C), since (A) has none.", 2),
        ("The answer is C because it has two membranes.", 2),
        ("Answer: **B**", 1),
        ("**Answer: B. 42 eV**", 1),
        ("答案是 B。", 1),
        ("答案:C", 2),
        ("I would take (B).\nIt is the largest.", 1),
        ("First A. looked right, but it has to be **C**", 2),
        ("C", 2),
        ("Everything considered:\nMitochondria.", 2),
    ],
)
def test_the_chosen_option_is_found(reply: str, place: int) -> None:
    assert find_choice(reply, OPTIONS).option == place


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("", Verdict.WRONG),
        ("I do not know.", Verdict.WRONG),
        ("A good question, which I leave open.", Verdict.WRONG),  # an article is no letter
        (r"\boxed{E}", Verdict.WRONG),  # there are four options
        (r"\boxed{B, C}", Verdict.WRONG),
        (r"\boxed{the nucleus}", Verdict.UNVERIFIABLE),
        ("The answer is the nucleus", Verdict.UNVERIFIABLE),
        (r"\boxed{C}", Verdict.CORRECT),
        (r"\boxed{B}", Verdict.WRONG),
    ],
)
def test_no_choice_is_wrong_and_other_words_are_undecided(reply: str, verdict: Verdict) -> None:
    problem = ChoiceProblem("p", "Which?", "Mitochondria", "s", choices=tuple(OPTIONS))
    judge = ChoiceJudge(seed=3)
    order = shown(OPTIONS, 3, "p", 0)
    letter = "ABCD"[order.index("Mitochondria")]
    other = "ABCD"[order.index("42 eV")]
    reply = reply.replace("{C}", f"{{{letter}}}").replace("{B}", f"{{{other}}}")
    ((_, judgement),) = judge.judge([Answered(problem, 0, "k", reply or None)])
    assert judgement.verdict is verdict


def test_the_order_is_drawn_per_sample_and_favours_no_letter() -> None:
    orders = [tuple(shown(OPTIONS, 0, f"p{i}", j)) for i in range(400) for j in range(2)]
    assert all(sorted(order) == sorted(OPTIONS) for order in orders)
    assert len(set(orders)) == 24
    places = Counter(order.index("Mitochondria") for order in orders)
    assert all(150 <= places[place] <= 250 for place in range(4))  # 200 each, 4 standard errors
    assert shown(OPTIONS, 0, "p", 0) == shown(OPTIONS, 0, "p", 0)
    assert [shown(OPTIONS, seed, "p", 0) for seed in range(5)].count(shown(OPTIONS, 0, "p", 0)) < 4


def test_the_order_is_part_of_the_prompt_and_so_of_the_key() -> None:
    problem = ChoiceProblem("p", "Which?", "Mitochondria", "s", choices=tuple(OPTIONS))
    judge, settings = ChoiceJudge(), PromptSettings(template=CHOICE_TEMPLATE)
    texts = [judge.prompt(problem, index, settings).messages[0].content for index in range(8)]
    assert len(set(texts)) > 4
    first = shown(OPTIONS, 0, "p", 0)
    assert texts[0].startswith(
        f"Which?\n\nA) {first[0]}\nB) {first[1]}\nC) {first[2]}\nD) {first[3]}\n\nPlease reason"
    )
    assert texts[0].endswith(r"the letter of the right option within \boxed{}.")


def test_a_model_that_knows_the_text_is_right_in_every_order(
    tmp_path: Path, engine_of: Callable[..., Any]
) -> None:
    problem = ChoiceProblem("p", "Which?", "Mitochondria", "s", choices=tuple(OPTIONS))

    def script(request: Any) -> str:
        content = request.prompt.messages[0].content
        letter = next(line[0] for line in content.split("\n") if line[1:] == ") Mitochondria")
        return f"<think>\n</think>\\boxed{{{letter}}}"

    with Ledger.open(tmp_path / "t.sqlite") as ledger:
        engine = engine_of(script)
        result = evaluate(
            engine,
            [problem],
            ledger,
            sampling=Sampling(),
            samples=6,
            judge=ChoiceJudge(),
            prompt=PromptSettings(template=CHOICE_TEMPLATE),
        )
        assert set(ledger.verdicts(CHOICE_JUDGE)) == {row.key for row in result.rows}
    assert result.score.value == 1
    assert {row.judgement.extracted for row in result.rows} == {"Mitochondria"}
    assert len({row.judgement.reason for row in result.rows}) > 1  # the letters differ


ROWS = [
    {"question": "q0", "choices": ["x", "y"], "answer": 1},
    {"question": "q1", "choices": ["x", "y"], "answer": "B"},
    {"Question": "q2", "Choices": ["x", "y"], "Answer": "y", "id": "own", "subject": "bio"},
    {"question": "q3", "choices": {"text": ["1", "2"], "label": ["A", "B"]}, "answerKey": "B"},
    {"question": "q4", "choices": ["1", "0"], "answer": 1},
]


def test_a_file_with_choices_is_multiple_choice(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    loaded = open_suite(str(path))
    assert loaded.suite.kind is Kind.CHOICE
    assert [problem.answer for problem in loaded.problems] == ["y", "y", "y", "2", "0"]
    assert [p.id for p in loaded.problems] == ["own-1", "own-2", "own", "own-4", "own-5"]
    assert loaded.problems[2].source == "own/bio"
    assert open_suite(str(path), limit=2).problems == loaded.problems[:2]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "a place from 0 to 1, got 2"),
        ({"question": "q", "choices": ["x", "y"], "answer": True}, "names none of the choices"),
        ({"question": "q", "choices": ["x", "y"], "answer": "z"}, "'z' names none of the choices"),
        ({"question": "q", "choices": ["B", "A"], "answer": "A"}, "names two options"),
        ({"question": "q", "choices": ["x", "x"], "answer": 0}, "must be different texts"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "2 to 26 texts, got 1"),
        ({"question": "q", "choices": "x, y", "answer": 0}, "must be a list of texts, got None"),
        ({"asked": "q", "choices": ["x", "y"], "answer": 0}, "no question .* the line has asked"),
    ],
)
def test_a_row_that_is_no_question_with_options_is_named(
    tmp_path: Path, row: dict[str, object], says: str
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ProblemsError, match=f"own.jsonl:2: .*{says}"):
        open_suite(str(path))


def test_gpqa_is_read_from_its_table(tmp_path: Path) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,"
    head += "Incorrect Answer 3,High-level domain\n"
    rows = [f'rec{i},"Which,\nof {i}?"," right {i}\n",a{i},b{i},c{i},Physics\n' for i in range(198)]
    (tmp_path / "gpqa_diamond.csv").write_text(head + "".join(rows))
    loaded = open_suite("gpqa", 2, data_dir=tmp_path)
    first = loaded.problems[0]
    assert isinstance(first, ChoiceProblem)
    assert (first.id, first.answer, first.source) == ("rec0", "right 0", "gpqa/Physics")
    assert first.statement == "Which,\nof 0?"
    assert first.choices == ("right 0", "a0", "b0", "c0")
    assert (loaded.source.rows, loaded.source.is_expected) == (198, True)
    (tmp_path / "gpqa_diamond.csv").write_text(head + "".join(rows[:150]))
    with pytest.raises(ProblemsError, match="150 rows where gpqa has 198"):
        open_suite("gpqa", data_dir=tmp_path)
