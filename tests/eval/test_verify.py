"""Mathematical verdicts: right, wrong, cannot tell, and broken are four different things."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from r1kit.eval.math import verify as verify_module
from r1kit.eval.math.exact import decide
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement, MathItem, verify_answers
from r1kit.eval.pool import Failure, Result
from r1kit.eval.verdict import Verdict

CORRECT, WRONG, UNVERIFIABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE


class NoExecutor:
    """Stands in for a pool where none may be needed."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result[Any]]:
        raise AssertionError(f"the pool was asked about {list(items)}")

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


class FailingExecutor(NoExecutor):
    """A pool in which every item fails in the same way."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.calls: list[int] = []

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result[Any]]:
        number = len(list(items))
        self.calls.append(number)
        for index in range(number):
            yield Result(index, None, self.failure, "so it was")


def judge(pairs: list[tuple[str, str | None]], timeout_s: float = 30.0) -> list[Judgement]:
    """Judge (gold, answer) pairs; every answer goes into a box."""
    items = [
        MathItem(str(i), None if answer is None else f"\\boxed{{{answer}}}", gold)
        for i, (gold, answer) in enumerate(pairs)
    ]
    found = dict(verify_answers(items, workers=1, timeout_s=timeout_s))
    assert len(found) == len(items)
    return [found[item.key] for item in items]


QUICK = [
    ("42", "42", CORRECT),
    ("42", "43", WRONG),
    ("42", "042", CORRECT),
    ("42", "42.0", CORRECT),
    ("42", "$42$.", CORRECT),
    ("-5", "−5", CORRECT),
    ("1/2", "0.5", CORRECT),
    (r"\frac{1}{2}", r"\dfrac12", CORRECT),
    ("1/2", "2/4", CORRECT),
    ("1/2", "0.5000001", WRONG),
    ("1/2", "-1/2", WRONG),
    (r"-\frac{3}{4}", "-0.75", CORRECT),
    (r"3\frac{1}{2}", "3.5", CORRECT),
    ("31/2", "3 1/2", WRONG),
    ("7/2", "3 1/2", CORRECT),
    ("1234", "1,234", CORRECT),
    ("1234", r"1{,}234", CORRECT),
    ("1234", r"1,\!234", CORRECT),
    ("1234", r"1\,234", CORRECT),
    ("32349", "32, 349", None),
    ("1000", r"1.0 \times 10^3", CORRECT),
    ("1/0", "5", None),
    ("5", "1/0", None),
    ("17, 34, 52", "17, 34, 52", CORRECT),
    ("17, 34, 52", "17,34,52", CORRECT),
    ("17, 34, 52", "17, 34, 53", WRONG),
    ("17, 34, 52", "17, 34", WRONG),
    ("17, 34, 52", "52, 34, 17", UNVERIFIABLE),
    ("(1, 2)", "(1,2)", CORRECT),
    ("(1, 2)", "(2,1)", WRONG),
    (r"\{1, 2\}", r"\{2, 1\}", CORRECT),
    (r"\{1, 2\}", "2, 1", CORRECT),
    (r"\{1, 2\}", "2, 3", WRONG),
    ("(1,2)", r"\{1,2\}", WRONG),
    (r"\{1,2\}", "(1,2)", WRONG),
    (r"(\sqrt 2, 1)", r"\{1, \sqrt 2\}", WRONG),
    ("(1,2)", "[1,2]", WRONG),
    ("12_5", "12_5", CORRECT),
    ("12_5", "12_{5}", CORRECT),
    ("12_5", "12_7", WRONG),
    ("12", "12_5", UNVERIFIABLE),
    ("12_5", "12", UNVERIFIABLE),
    ("12_5", "13", WRONG),
    (r"5\text{ cm}", r"5\text{ m}", UNVERIFIABLE),
    (r"5\text{ cm}", "5 centimeters", CORRECT),
    (r"5\text{ cm}", "5", CORRECT),
    (r"5\text{ cm}", "6 cm", WRONG),
    ("10", "10 weeks", CORRECT),
    (r"\$10", "10", CORRECT),
    ("10", r"\$10", CORRECT),
    ("5", "5m", None),
    ("3", "3R^2", None),
    ("3", "3abc", None),
    ("5", "5 x", None),
    (r"15\mbox{ cm}^2", "15 cm^2", CORRECT),
    (r"15\text{ cm}^2", r"15\text{ cm}^3", UNVERIFIABLE),
    (r"15\mbox{ cm}^2", "15 square feet", UNVERIFIABLE),
    ("5 hours", "5 hrs.", CORRECT),
    ("6 inches", "6 in", CORRECT),
    (r"90^\circ", "90", CORRECT),
    ("28", r"28\%", CORRECT),
    (r"\text{Evelyn}", "evelyn", CORRECT),
    (r"\text{Evelyn}", "Bob", WRONG),
    (r"\text{(C)}", "C", None),
    ("ab", "ba", None),
    ("no solution", "no real solution", UNVERIFIABLE),
    (r"1, 2, \ldots, 9", r"1, 2, \ldots, 10", UNVERIFIABLE),
    ("5", "x = 5", CORRECT),
    ("x = 5", "5", None),
    ("9" * 1000, "9" * 999 + "8", WRONG),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), QUICK)
def test_what_strings_and_fractions_settle(gold: str, answer: str, verdict: Verdict | None) -> None:
    decision = decide(gold, answer)
    assert (decision.verdict if decision else None) == verdict


@pytest.mark.parametrize(
    ("ordered", "verdict"), [(None, UNVERIFIABLE), (True, WRONG), (False, CORRECT)]
)
def test_the_order_of_a_bare_list_matters_as_the_caller_says(
    ordered: bool | None, verdict: Verdict
) -> None:
    decision = decide("3, 5, 7", "5, 3, 7", ordered=ordered)
    assert decision is not None and decision.verdict is verdict


def test_formulas_are_compared_as_formulas() -> None:
    cases = [
        ("x^2+2x+1", "(x+1)^2", CORRECT),
        ("x^2+2x+1", "(x+2)^2", WRONG),
        (r"\frac{\pi}{2}", "pi/2", CORRECT),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt 3}", CORRECT),
        (r"\frac13", "0.333333", CORRECT),
        (r"\frac13", "0.33", WRONG),
        ("-1+e^{16}", "-1+exp(16)", CORRECT),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", CORRECT),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", WRONG),
        ("[0,1)", "[0, 1.0)", CORRECT),
        ("x=5", "5", CORRECT),
        (r"1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2", CORRECT),
        (r"1 - \frac{1}{\mathrm{e}}", r"1 + \frac{1}{\mathrm{e}}", WRONG),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", WRONG),
        (r"\frac{1}{2^{99}}", r"2^{-99}", CORRECT),
        (r"e^{-50}", r"e^{-51}", WRONG),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", WRONG),
        ("1/2", r"1/2 \text{ or } 3/4", WRONG),
        ("5", "(", UNVERIFIABLE),
        (r"\frac{", "5", UNVERIFIABLE),
    ]
    found = judge([(gold, answer) for gold, answer, _ in cases])
    assert [(c[:2], j.verdict) for c, j in zip(cases, found, strict=True)] == [
        (c[:2], c[2]) for c in cases
    ]


def test_a_reply_without_an_answer_is_wrong_and_says_so() -> None:
    found = dict(
        verify_answers(
            [
                MathItem("none", None, "5"),
                MathItem("empty", "", "5"),
                MathItem("prose", "I do not know what it should be", "5"),
                MathItem("box", r"\boxed{}", "5"),
            ],
            executor=NoExecutor(),
        )
    )
    assert set(found.values()) >= {Judgement(WRONG, "", Rule.NONE, "no answer")}
    assert {(j.verdict, j.reason) for j in found.values()} == {(WRONG, "no answer")}


def test_quick_answers_need_no_worker() -> None:
    items = [MathItem(str(i), f"so \\boxed{{{i}}}", "7") for i in range(1000)]
    found = dict(verify_answers(items, executor=NoExecutor()))
    assert sum(j.verdict is CORRECT for j in found.values()) == 1
    assert found["7"] == Judgement(CORRECT, "7", Rule.BOXED, "the same text")


def test_a_comparison_without_end_is_killed_and_the_others_go_on() -> None:
    started = time.monotonic()
    pairs: list[tuple[str, str | None]] = [
        ("5", "9^{9^{9^9}}"),
        ("x+1", "1+x"),
        ("9^{9^{9^9}}+1", "9^{9^{9^9}}"),  # math-verify hides the overflow and says "not equal"
        ("x+1", "x+2"),
    ]
    found = judge(pairs, timeout_s=2.0)
    assert [j.verdict for j in found] == [UNVERIFIABLE, CORRECT, UNVERIFIABLE, WRONG]
    assert found[0].reason == "the comparison was killed after 2 s, twice"
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("failure", "verdict", "calls"),
    [
        (Failure.TIMEOUT, UNVERIFIABLE, [2, 2]),
        (Failure.CRASH, Verdict.INFRA_ERROR, [2, 2]),
        (Failure.ERROR, UNVERIFIABLE, [2, 0]),
    ],
)
def test_a_broken_judge_never_says_wrong(
    failure: Failure, verdict: Verdict, calls: list[int]
) -> None:
    executor = FailingExecutor(failure)
    items = [MathItem("a", r"\boxed{x+1}", "x+2"), MathItem("b", r"\boxed{x+3}", "x+2")]
    found = dict(verify_answers(items, executor=executor))
    assert {j.verdict for j in found.values()} == {verdict}
    assert executor.calls == calls


def test_equal_questions_are_compared_once() -> None:
    executor = FailingExecutor(Failure.ERROR)
    items = [MathItem(str(i), r"\boxed{x+1}", "x+2") for i in range(5)]
    assert len(list(verify_answers(items, executor=executor))) == 5
    assert executor.calls[0] == 1


def test_a_very_long_answer_is_refused_and_not_compared() -> None:
    items = [MathItem("a", "\\boxed{" + "1+" * 1000 + "1}", "5"), MathItem("b", "5", "x" * 2001)]
    found = dict(verify_answers(items, executor=NoExecutor()))
    assert {j.verdict for j in found.values()} == {UNVERIFIABLE}
    assert "2,001 characters, over 2,000" in found["a"].reason


@pytest.mark.parametrize("boxed", [False, True])
def test_no_answer_is_ever_run(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boxed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        json.loads(line)
        for line in (data_dir / "verifier/security_payloads.jsonl").read_bytes().splitlines()
    ]
    marker = tmp_path / "marker"
    payloads = [row["pred"] for row in rows] + [f"__import__('os').mknod({str(marker)!r})"]
    items = [
        MathItem(str(i), f"\\boxed{{{text}}}" if boxed else text, "0")
        for i, text in enumerate(payloads)
    ]
    verdicts = [j.verdict for _, j in verify_answers(items, workers=1)]
    assert CORRECT not in verdicts
    assert list(tmp_path.iterdir()) == []


def test_math500_gold_solutions_are_judged_as_written(data_dir: Path) -> None:
    path = data_dir / "verifier/math500_gold_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    items = [MathItem(str(i), row["pred"], row["gold"]) for i, row in enumerate(rows)]
    found = dict(verify_answers(items, workers=1))
    agreed = [(found[str(i)].verdict is CORRECT) == row["expected"] for i, row in enumerate(rows)]
    assert (sum(agreed), len(agreed)) == (807, 807)
    assert not any(j.verdict is Verdict.INFRA_ERROR for j in found.values())


def test_every_math500_gold_answer_equals_itself_as_a_formula(data_dir: Path) -> None:
    """The slow comparison, with the quick one out of the way."""
    rows = [
        json.loads(line) for line in (data_dir / "math500/test.jsonl").read_bytes().splitlines()
    ]
    golds = sorted({row["answer"] for row in rows})
    pairs = [(gold, gold) for gold in golds]
    decisions = dict(verify_module._compare_all(pairs, 1, 30.0, None))
    different = {pair[0] for pair, decision in decisions.items() if decision.verdict is WRONG}
    assert len(decisions) == len(golds)
    assert len(different) <= 1, different
