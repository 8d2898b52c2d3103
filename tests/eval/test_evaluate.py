"""Evaluation: asks only for what is missing, and tells wrong, cut off and undecided apart."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from r1kit import KitError
from r1kit.eval.cli import app
from r1kit.eval.evaluate import NO_ROOM, Evaluation, EvaluationError, evaluate, sample_seed
from r1kit.eval.math.verify import JUDGE
from r1kit.eval.outcome import read_answers
from r1kit.eval.problems import Problem
from r1kit.eval.prompt import PromptSettings
from r1kit.eval.score import summarise
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Engine, Finish, Identity, Request, Response, Sampling
from r1kit.teacher.engines import open_engine
from r1kit.teacher.ledger import Ledger
from r1kit.teacher.settings import EngineSettings
from typer.testing import CliRunner

SAMPLING = Sampling(max_tokens=100)
PROBLEMS = [
    Problem("a", "say right", "5", "one"),
    Problem("b", "say wrong", "5", "one"),
    Problem("c", "say cut", "5", "two"),
    Problem("d", "say broken", "5", "two"),
    Problem("e", "say strange", "5", "two"),
    Problem("f", "say nothing", "5", "two"),
]
REPLIES = {
    "right": ("<think>\nhm</think>So \\boxed{5}", "stop"),
    "wrong": ("<think>\nhm \\boxed{5}</think>So \\boxed{6}", "stop"),
    "cut": ("<think>\nhm</think>So \\boxed{5} and", "length"),
    "strange": ("<think>\nhm</think>\\boxed{5 cm or (}", "stop"),
    "nothing": ("<think>\nhm</think>", "stop"),
}


NAMES = ("problems", "one", "two", "all")


class Scripted:
    """An engine that says what the statement tells it to."""

    identity = Identity("scripted", "parrot")

    def __init__(self, replies: dict[str, tuple[str, str]] = REPLIES) -> None:
        self.replies = replies
        self.asked: list[Request] = []

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        for request in requests:
            if before is not None:
                before(request, "here")
            self.asked.append(request)
            word = request.prompt.messages[0].content.split()[1]
            if word == "broken":
                yield Response(request, "", "here", 0.1, error="it broke")
                continue
            text, finish = self.replies[word]
            body = {
                "choices": [{"message": {"content": text}, "finish_reason": finish}],
                "usage": {"prompt_tokens": 3, "completion_tokens": len(text)},
            }
            yield Response(request, json.dumps(body), "here", 0.1)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


def run(
    folder: Path, engine: Engine, problems: Sequence[Problem] = PROBLEMS, **more: Any
) -> Evaluation:
    with Ledger.open(folder / "traces.sqlite") as ledger:
        settings = {"sampling": SAMPLING, "prompt": PromptSettings(template="{statement}"), **more}
        return evaluate(engine, problems, ledger, workers=1, **settings)


def test_every_outcome_has_its_own_place(tmp_path: Path) -> None:
    evaluation = run(tmp_path, Scripted())
    rows = {row.problem.id: row for row in evaluation.rows}
    assert {name: row.judgement.verdict for name, row in rows.items()} == {
        "a": Verdict.CORRECT,
        "b": Verdict.WRONG,
        "c": Verdict.WRONG,
        "d": Verdict.INFRA_ERROR,
        "e": Verdict.UNVERIFIABLE,
        "f": Verdict.WRONG,
    }
    assert [name for name, row in rows.items() if row.truncated] == ["c"]
    assert rows["c"].judgement.extracted == ""
    assert rows["b"].judgement.extracted == "6"
    assert rows["d"].finish is Finish.ERROR
    assert rows["f"].judgement.reason == "no answer"
    score = evaluation.score
    assert (score.value, score.n, score.undecided, score.truncated) == (1 / 6, 6, 2, 1)
    assert {name: (s.value, s.n) for name, s in evaluation.by_source.items()} == {
        "one": (0.5, 2),
        "two": (0.0, 4),
    }


def test_a_prompt_that_fills_the_context_is_not_right(tmp_path: Path) -> None:
    """With the real engine: its words are what tells."""
    long = Problem("a", "say " * 2000, "5", "one")
    with open_engine(EngineSettings(kind="torch", model="tiny-r1")) as engine:
        (row,) = run(tmp_path, engine, [long]).rows
    assert (row.judgement.verdict, row.judgement.tags) == (Verdict.WRONG, (NO_ROOM,))
    assert "leaves no room for a reply: max_length is 1024" in row.judgement.reason


def test_a_servers_limit_may_be_a_setting_and_is_undecided(tmp_path: Path) -> None:
    class Full(Scripted):
        def answer(
            self,
            requests: Iterable[Request],
            *,
            before: Callable[[Request, str], None] | None = None,
        ) -> Iterator[Response]:
            error = "This model's maximum context length is 16384 tokens"
            yield from (Response(request, "", "there", 0.1, error=error) for request in requests)

    (row,) = run(tmp_path, Full(), PROBLEMS[:1]).rows
    assert (row.judgement.verdict, row.judgement.tags) == (Verdict.INFRA_ERROR, ())
    assert "maximum context length" in row.judgement.reason


def test_a_second_call_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, Scripted())
    again = Scripted()
    evaluation = run(tmp_path, again)
    assert [request.problem_id for request in again.asked] == ["d"]  # it broke, and is wanted still
    assert evaluation.collected.already == 5
    more = Scripted()
    run(tmp_path, more, PROBLEMS[:2], samples=3)
    assert sorted((r.problem_id, r.index) for r in more.asked) == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]


def test_another_setting_asks_anew(tmp_path: Path) -> None:
    run(tmp_path, Scripted(), PROBLEMS[:1])
    for change in ({"seed": 1}, {"sampling": Sampling(temperature=0.0)}, {"prompt": None}):
        engine = Scripted({"right": REPLIES["right"]})
        problem = Problem("a", "say right", "5", "one")
        run(tmp_path, engine, [problem], **change)
        assert len(engine.asked) == 1


def test_each_sample_has_a_seed_of_its_own_that_depends_on_nothing_else(tmp_path: Path) -> None:
    engine = Scripted()
    run(tmp_path, engine, PROBLEMS[:2], samples=2, seed=7)
    seeds = {(r.problem_id, r.index): r.seed for r in engine.asked}
    assert seeds == {(p, i): sample_seed(7, p, i) for p in "ab" for i in range(2)}
    assert len(set(seeds.values())) == 4
    assert sample_seed(0, "a", 0) == sample_seed(0, "a", 0)
    assert len({sample_seed(0, str(i), 0) for i in range(1000)}) == 1000
    assert all(0 <= sample_seed(i, "x", 3) < 2**31 for i in range(100))


def test_the_verdicts_are_kept_in_the_ledger(tmp_path: Path) -> None:
    evaluation = run(tmp_path, Scripted())
    with Ledger.open(tmp_path / "traces.sqlite", write=False) as ledger:
        stored = ledger.verdicts(JUDGE)
    assert {key: row.verdict for key, row in stored.items()} == {
        row.key: str(row.judgement.verdict) for row in evaluation.rows
    }


def test_the_order_counts_in_the_embedded_families_only(tmp_path: Path) -> None:
    replies = {"sorted": ("<think>\n</think>\\boxed{3, 2, 1}", "stop")}
    problems = [
        Problem("t", "say sorted", "1, 2, 3", "tiny/sorting"),
        Problem("m", "say sorted please", "1, 2, 3", "math500/Algebra"),
    ]
    verdicts = [r.judgement.verdict for r in run(tmp_path, Scripted(replies), problems).rows]
    assert verdicts == [Verdict.WRONG, Verdict.CORRECT]


def test_problems_that_cannot_be_evaluated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no problems"):
        run(tmp_path, Scripted(), [])
    with pytest.raises(EvaluationError, match="two problems have the id 'a'"):
        run(tmp_path, Scripted(), [PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(EvaluationError, match="samples must be at least 1"):
        run(tmp_path, Scripted(), samples=0)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, list[Request]]]:
    """Run `r1kit eval ...` with the scripted engine; returns the result and what was asked."""
    suite = tmp_path / "own.jsonl"
    suite.write_text(
        "".join(
            json.dumps({"id": p.id, "problem": p.statement, "answer": p.answer, "source": p.source})
            + "\n"
            for p in PROBLEMS
        )
    )
    engines: list[Scripted] = []

    def open_engine(settings: Any) -> Scripted:
        engines.append(Scripted())
        return engines[-1]

    monkeypatch.setattr("r1kit.teacher.engines.open_engine", open_engine)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").touch()  # a model must be there, whoever answers
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[Any, list[Request]]:
        engines.clear()
        result = CliRunner().invoke(app, ["run", "--suite", str(suite), *arguments])
        return result, [request for engine in engines for request in engine.asked]

    return call


def test_the_command_prints_a_table_by_source_and_resumes(
    command: Callable[..., tuple[Any, list[Request]]], tmp_path: Path
) -> None:
    arguments = ("--model", "tiny-r1", "--out", "here", "--workers", "1")
    result, asked = command(*arguments)
    assert str(result.exception).startswith("not final: own: 1 of 6 samples"), result.output
    assert len(asked) == 6
    lines = [re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in result.stdout.splitlines()]
    head, one, two, every = (next(r for r in lines if r[0] == name) for name in NAMES)
    assert head == [
        "problems", "samples", "pass@1", "95 % interval", "truncated", "no answer",
        "unverifiable", "infra",
    ]  # fmt: skip
    assert one == ["one", "2", "1", "50.0 %", "9.5 to 90.5", "0", "0", "0", "0"]
    assert two == ["two", "3", "1", "(0.0 %)", "not final", "25.0 %", "25.0 %", "25.0 %", "25.0 %"]
    assert every[:5] == ["all", "5", "1", "(20.0 %)", "not final"]  # a sample got no answer
    result, asked = command(*arguments)
    assert [request.problem_id for request in asked] == ["d"]


def test_the_command_writes_scores_and_answers(
    command: Callable[..., tuple[Any, list[Request]]], tmp_path: Path
) -> None:
    result, _ = command("--json", "--out", "here", "--limit", "2", "--samples", "2")
    facts = json.loads(result.stdout)
    assert facts == json.loads((tmp_path / "here/scores.json").read_text())
    score, where_from = facts["score"], facts["provenance"]
    assert (score["final"], score["problems"], score["samples"]) == (True, 2, 4)
    assert score["pass@1"]["value"] == score["cons@k"]["2"]["value"] == 0.5
    assert facts["by_source"]["one"] == score
    assert (where_from["suite"], where_from["rows"], where_from["samples"]) == ("own", 2, 2)
    assert (where_from["judge"], where_from["policy"]["order"]) == (JUDGE, "any")
    assert where_from["extra"]["rows_from"]["place"].endswith("own.jsonl")
    assert where_from["extra"]["rows_from"]["rows"] == 6
    answers = [
        json.loads(line) for line in (tmp_path / "here/answers.jsonl").read_bytes().splitlines()
    ]
    fields = ("id", "sample", "verdict", "answer_class", "suite")
    assert [tuple(answer[name] for name in fields) for answer in answers] == [
        ("a", 0, "correct", "right", "own"),
        ("a", 1, "correct", "right", "own"),
        ("b", 0, "wrong", "= 6", "own"),
        ("b", 1, "wrong", "= 6", "own"),
    ]
    outcomes = read_answers(tmp_path / "here").outcomes
    assert summarise(outcomes).to_json() == facts["score"]


def test_tiny_models_see_the_bare_statement_and_others_the_advice(
    command: Callable[..., tuple[Any, list[Request]]],
) -> None:
    _, asked = command("--model", "tiny-r1", "--limit", "1")
    assert asked[0].prompt.messages[0].content == "say right"
    _, asked = command("--model", "other", "--limit", "1")
    assert asked[0].prompt.messages[0].content.endswith("final answer within \\boxed{}.")
    _, asked = command("--model", "other", "--limit", "1", "--no-thinking")
    assert asked[0].prompt.prefill == "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--engine", "vlm"), "--engine: .* got 'vlm'"),
        (("--engine", "openai"), "^--engine openai needs --base-url, such as http"),
        (("--template", "nothing"), "^--template: needs {statement} .* got 'nothing'"),
    ],
)
def test_wrong_options_are_named(
    command: Callable[..., tuple[Any, list[Request]]], arguments: tuple[str, str], says: str
) -> None:
    result, _ = command(*arguments)
    assert isinstance(result.exception, KitError)
    assert re.search(says, str(result.exception))
