"""Mathematical verdicts: right, wrong, cannot tell, and broken are four different things."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
from r1kit.eval.math.decide import decide
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.policy import MathPolicy
from r1kit.eval.math.slow_pair import SlowPair, compare_slowly
from r1kit.eval.math.verify import Judgement, MathItem, MathVerifier, reply_of, verify_answers
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
    ("32349", "32, 349", WRONG),
    ("1000", r"1.0 \times 10^3", CORRECT),
    ("1/0", "5", UNVERIFIABLE),
    ("5", "1/0", UNVERIFIABLE),
    ("17, 34, 52", "17, 34, 52", CORRECT),
    ("17, 34, 52", "17,34,52", CORRECT),
    ("17, 34, 52", "17, 34, 53", WRONG),
    ("17, 34, 52", "17, 34", WRONG),
    ("17, 34, 52", "52, 34, 17", CORRECT),
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
    ("12", "12_5", WRONG),
    ("12_5", "12", WRONG),
    ("12_5", "13", WRONG),
    (r"5\text{ cm}", r"5\text{ m}", WRONG),
    (r"5\text{ cm}", "5 centimeters", CORRECT),
    (r"5\text{ cm}", "5", CORRECT),
    (r"5\text{ cm}", "6 cm", WRONG),
    ("10", "10 weeks", CORRECT),
    (r"\$10", "10", CORRECT),
    ("10", r"\$10", CORRECT),
    ("5", "5m", CORRECT),
    ("3", "3R^2", WRONG),
    ("3", "3abc", WRONG),
    ("5", "5 x", WRONG),
    (r"15\mbox{ cm}^2", "15 cm^2", CORRECT),
    (r"15\text{ cm}^2", r"15\text{ cm}^3", WRONG),
    (r"15\mbox{ cm}^2", "15 square feet", WRONG),
    ("5 hours", "5 hrs.", CORRECT),
    ("6 inches", "6 in", CORRECT),
    (r"90^\circ", "90", CORRECT),
    ("28", r"28\%", CORRECT),
    (r"\text{Evelyn}", "evelyn", CORRECT),
    (r"\text{Evelyn}", "Bob", WRONG),
    (r"\text{(C)}", "C", CORRECT),
    ("ab", "ba", CORRECT),
    ("no solution", "no real solution", CORRECT),
    (r"1, 2, \ldots, 9", r"1, 2, \ldots, 10", None),
    ("5", "x = 5", CORRECT),
    ("x = 5", "5", CORRECT),
    ("9" * 1000, "9" * 999 + "8", WRONG),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), QUICK)
def test_what_needs_no_worker(gold: str, answer: str, verdict: Verdict | None) -> None:
    decision = decide(gold, answer, MathPolicy(), rounds=False)
    assert (decision.verdict if decision else None) == verdict


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
    assert set(found.values()) >= {Judgement(WRONG, "", Rule.NONE, "no answer", step="none")}
    assert {(j.verdict, j.reason) for j in found.values()} == {(WRONG, "no answer")}


def test_quick_answers_need_no_worker() -> None:
    items = [MathItem(str(i), f"so \\boxed{{{i}}}", "7") for i in range(1000)]
    found = dict(verify_answers(items, executor=NoExecutor()))
    assert sum(j.verdict is CORRECT for j in found.values()) == 1
    assert found["7"] == Judgement(CORRECT, "7", Rule.BOXED, "the same text", step="text")


def test_a_comparison_without_end_is_killed_and_the_others_go_on() -> None:
    started = time.monotonic()
    pairs: list[tuple[str, str | None]] = [
        ("5", ENDLESS),
        ("x+1", "1+x"),
        (r"\lim_{x\to 0} \frac{\sin x}{x}", "1"),
        ("x+1", "x+2"),
    ]
    found = judge(pairs, timeout_s=3.0)
    assert [j.verdict for j in found] == [UNVERIFIABLE, CORRECT, CORRECT, WRONG]
    assert found[0].reason == "the comparison was killed after 3 s, twice"
    assert time.monotonic() - started < 60


ENDLESS = r"\prod_{k=1}^{2000} k^k"
"""The quick reader leaves it to the slow one, which writes out all of its digits."""


def test_numbers_beyond_all_bounds_are_named_and_not_computed() -> None:
    started = time.monotonic()
    found = judge([("5", "9^{9^{9^9}}"), ("9^{9^{9^9}}+1", "9^{9^{9^9}}"), ("5", "((9!)!)!")])
    assert {j.verdict for j in found} == {UNVERIFIABLE}
    assert found[0].reason == "a number beyond all bounds"
    assert time.monotonic() - started < 30


LIMIT = r"\lim_{x\to 0} x"
"""A formula that needs a worker."""


@pytest.mark.parametrize(
    ("failure", "verdict", "calls"),
    [
        (Failure.TIMEOUT, UNVERIFIABLE, [2, 2]),
        (Failure.CRASH, Verdict.INFRA_ERROR, [2, 2]),
        (Failure.ERROR, UNVERIFIABLE, [2]),
    ],
)
def test_a_broken_judge_never_says_wrong(
    failure: Failure, verdict: Verdict, calls: list[int]
) -> None:
    executor = FailingExecutor(failure)
    items = [MathItem("a", rf"\boxed{{{LIMIT}}}", "x+2"), MathItem("b", rf"\boxed{{{LIMIT}}}", "3")]
    found = dict(verify_answers(items, executor=executor))
    assert {j.verdict for j in found.values()} == {verdict}
    assert executor.calls == calls


def test_equal_questions_are_compared_once() -> None:
    executor = FailingExecutor(Failure.ERROR)
    items = [MathItem(str(i), rf"\boxed{{{LIMIT}}}", "x+2") for i in range(5)]
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


def test_every_math500_gold_answer_equals_itself_for_the_slow_reader(data_dir: Path) -> None:
    """With the quick comparison of strings out of the way."""
    rows = [
        json.loads(line) for line in (data_dir / "math500/test.jsonl").read_bytes().splitlines()
    ]
    golds = sorted({row["answer"] for row in rows})
    decisions = {g: compare_slowly(SlowPair(g, g, MathPolicy(), False)) for g in golds}
    assert [gold for gold, found in decisions.items() if found.verdict is WRONG] == []
    undecided = [gold for gold, found in decisions.items() if found.verdict is UNVERIFIABLE]
    assert len(undecided) <= 12, undecided  # words, which no formula reader reads


def test_several_boxes_are_one_answer_only_where_several_things_are_asked() -> None:
    with MathVerifier() as verifier:
        assert verifier.verify(r"\boxed{1} and \boxed{2}", r"\{1, 2\}").verdict is CORRECT
        assert verifier.verify(r"\boxed{1} and \boxed{2}", "2").verdict is CORRECT
        assert verifier.verify(r"\boxed{1} and \boxed{2}", "1").verdict is WRONG
        far = r"\boxed{1} was the first of our many attempts, but it is \boxed{2}"
        assert verifier.verify(far, r"\{1, 2\}").verdict is WRONG


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("just 5", "just 5"),
        ("<think>4?</think>5", "5"),
        ("4?</think>5", "5"),
        ("<think>4?</think>no <think>5</think>6", "6"),
        ("<think>it is 5", None),
        ("<think>4</think>5<think>6", None),
    ],
)
def test_only_what_follows_closed_thinking_is_an_answer(text: str, reply: str | None) -> None:
    assert reply_of(text) == reply


def test_a_verifier_answers_many_threads_at_once() -> None:
    pairs = [("x+1", "1+x", CORRECT), ("x+1", "x+2", WRONG), (LIMIT, "0", CORRECT)] * 8
    with MathVerifier(workers=2) as verifier, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda pair: verifier.verify(pair[1], pair[0]).verdict, pairs))
    assert found == [verdict for *_, verdict in pairs]


def test_a_verifier_leaves_the_event_loop_free() -> None:
    async def ask() -> tuple[list[Verdict], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        with MathVerifier(workers=2, timeout_s=1.0) as verifier:
            judged = await asyncio.gather(
                verifier.averify(ENDLESS, "5"),
                verifier.averify("0", LIMIT),
                verifier.averify("1", LIMIT),
            )
        ticking.cancel()
        return [judgement.verdict for judgement in judged], ticks

    verdicts, ticks = asyncio.run(ask())
    assert verdicts == [UNVERIFIABLE, CORRECT, WRONG]
    assert ticks > 20  # of some 200 in the two seconds that the first one takes


def test_a_verifier_goes_on_after_it_has_lost_its_worker() -> None:
    with MathVerifier(timeout_s=2.0) as verifier:
        assert verifier.verify(ENDLESS, "5").verdict is UNVERIFIABLE
        assert verifier.verify("0", LIMIT).verdict is CORRECT


def test_a_closed_verifier_says_so() -> None:
    verifier = MathVerifier()
    verifier.close()
    with pytest.raises(RuntimeError, match="the verifier is closed"):
        verifier.verify("0", LIMIT)


def test_a_reader_without_memory_is_a_broken_judge_and_not_an_unreadable_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from r1kit.eval.math import slow

    def starve(text: str) -> None:
        raise MemoryError

    monkeypatch.setattr(slow, "latex2sympy", starve)
    with pytest.raises(MemoryError):
        compare_slowly(SlowPair(LIMIT, "0", MathPolicy(), False))
