"""Answers written to break the judge: none is run, none takes longer than the limit allows, none is
found right, and none leaves the judge broken. A plain run takes a sample of each kind of them, the
same one every time; `make soak` takes them all.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from r1kit.eval.math.verify import Judgement, MathVerifier
from r1kit.eval.verdict import Verdict

GOLD = "31337"
"""Occurs in no hostile text."""

TIMEOUT_S = 0.25

BOUND_S = 2 * TIMEOUT_S + 4
"""A comparison that is killed is tried a second time; the rest is for starting two workers on a
busy machine."""

QUICK_S = 1.5
"""For what needs no worker. The slowest took 0.06 s on an idle core (2026-11)."""

ENDLESS = r"\prod_{k=1}^{2000} k^k"
"""A worker writes out its digits until it is killed."""

RIGHT = r"\lim_{x\to 0}\frac{\sin 3x}{x}"
"""Is 3, and a worker has to find that out."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    """One verifier of little patience for all, whose workers have something to start from."""
    with MathVerifier(timeout_s=TIMEOUT_S) as opened:
        opened.verify(RIGHT, "3")
        yield opened


@pytest.fixture
def patient() -> Iterator[MathVerifier]:
    """A verifier that leaves its workers the time for what they can do, also on a busy machine."""
    with MathVerifier(timeout_s=2.0) as opened:
        yield opened


def judge(verifier: MathVerifier, pred: str, gold: str, within_s: float) -> Judgement:
    """Judge a pair that is not equal, and hold the promises that every verdict has to hold."""
    began = time.monotonic()
    judgement = verifier.verify(pred, gold)
    took_s = time.monotonic() - began
    assert judgement.verdict in (Verdict.WRONG, Verdict.UNVERIFIABLE), judgement
    assert took_s < within_s, f"{took_s:.2f} s, by the step {judgement.step!r}"
    return judgement


def sampled(texts: Collection[str], count: int) -> list[Any]:
    """All of them as parameters, of which a plain run takes so many, spread by a fixed seed."""
    chosen = set(random.Random(count).sample(sorted(texts), count))
    soak = pytest.mark.soak
    return [text if text in chosen else pytest.param(text, marks=soak) for text in texts]


NUMBERS = {
    "a tower of tens": "10^{10^{10^{10}}}",
    "a tower of nines": "9^{9^{9^{9}}}",
    "a tower without end": "x^{" * 200 + "x" + "}" * 200,
    "a power beyond memory": "2^{10^{11}}",
    "a power beyond words": "2^{10^{19}}",
    "a negative power beyond memory": "2^{-10^{18}}",
    "a fraction beyond memory": "(1/3)^{10^{12}}",
    "two that cancel beyond memory": "7^{10^{10}}-7^{10^{10}}",
    "nested factorials": "((((9!)!)!)!)!",
    "a factorial beyond memory": "(10^{18})!",
    "a thousand factorials": "(" * 300 + "9" + "!)" * 300,
    "a binomial beyond memory": r"\binom{10^{18}}{10^{17}}",
    "a decimal power beyond memory": "1e999999999999",
    "a tiny decimal": "1e-999999999999",
    "a base beyond sense": "10_{99999999999999999999}",
    "the base nought": "10_0",
    "a sum of a billion billions": r"\sum_{k=1}^{10^{18}} k",
    "a sum that has no closed form": r"\sum_{k=1}^{10^{12}} \frac{\sin k}{k^2+1}",
    "a product beyond memory": r"\prod_{k=1}^{10^{12}} k",
    "a polynomial of a million terms": "(a+b+c+d+e+f)^{100}-(a+b+c+d+e)^{100}",
    "a polynomial beyond memory": "(x+1)^{10^{18}}-x^{10^{18}}",
    "an integral that nobody can do": r"\int \frac{e^{x^2}\ln(x+\sin x)}{\sqrt{1+x^5}}\,dx",
    "a sine far out": r"\sin(10^{10^{10}})",
    "an exponential beyond words": "e^{e^{e^{e^{e}}}}",
    "a matrix power": r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{10^{18}}",
    "a nought below the line": r"\frac{1}{0}",
    "a logarithm of nought": r"\ln 0",
    "the nought-th root": r"\sqrt[0]{2}",
    "a remainder by nought": r"5\bmod 0",
    "half a million signs": r"\pm 1" * 25,
    "a long recurring decimal": r"0.\overline{" + "12" * 900 + "}",
    "a long decimal": "0." + "12" * 900,
    "a long integer": "7" * 1990,
    "a determinant": r"\begin{vmatrix}"
    + r"\\".join("&".join(f"a_{{{row}{column}}}" for column in range(9)) for row in range(9))
    + r"\end{vmatrix}",
}


@pytest.mark.parametrize("name", sampled(NUMBERS, 10))
def test_no_number_is_too_large_for_the_limit(verifier: MathVerifier, name: str) -> None:
    judge(verifier, f"\\boxed{{{NUMBERS[name]}}}", GOLD, BOUND_S)
    judge(verifier, "x+1", NUMBERS[name], BOUND_S)


NESTED = {
    "braces": ("{", "}"),
    "round brackets": ("(", ")"),
    "sized brackets": (r"\left(", r"\right)"),
    "set braces": (r"\{", r"\}"),
    "pairs": ("(1,", ")"),
    "fractions": (r"\frac{1}{1+", "}"),
    "fractions above": (r"\frac{", "}{2}"),
    "roots": (r"\sqrt{", "}"),
    "powers": ("2^{", "}"),
    "indices": ("x_{", "}"),
    "text": (r"\text{", "}"),
    "underbraces": (r"\underbrace{", "}_{n}"),
    "overlines": (r"\overline{", "}"),
    "floors": (r"\lfloor ", r"\rfloor "),
    "bars": ("|", "|"),
    "sines": (r"\sin(", ")"),
    "sums": (r"\sum_{k=1}^{9}(", ")"),
    "integrals": (r"\int_0^1(", ")dx"),
    "matrices": (r"\begin{pmatrix}", r"\end{pmatrix}"),
    "boxes": (r"\boxed{", "}"),
    "thoughts": ("<think>", "</think>"),
    "minus signs": ("-(", ")"),
}


@pytest.mark.parametrize("name", sampled(NESTED, 6))
@pytest.mark.parametrize("size", [1_900, 100_000])
def test_no_nesting_is_too_deep(verifier: MathVerifier, name: str, size: int) -> None:
    opening, closing = NESTED[name]
    depth = size // len(opening + closing)
    for text in (opening * depth + "7" + closing * depth, opening * depth, closing * depth):
        judge(verifier, text, GOLD, BOUND_S)
        judge(verifier, "x+1", text, BOUND_S)
    assert depth > 10


RUNS = (
    *(" ", "\t", "\n", "~", "\\", "\\ ", "\\,", "\\!", "{,}", ",", ", ", ";", ".", "..", "-", "--"),
    *(
        "7",
        "7,",
        "7 ",
        "7 7",
        "7.",
        ".7",
        "7e",
        "7e-",
        "7/",
        "7:",
        "7_",
        "7_{",
        "777,777 ",
        "7'",
        "7!",
    ),
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "####", "# ", "*", "**", "%", "\\%", "\\$", "^", "^{"),
    *(
        "_",
        "\\frac",
        "\\frac1",
        "\\sqrt",
        "\\sqrt[",
        "\\pm ",
        "\\cup ",
        "\\left",
        "\\right",
        "|",
        "||",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\\{",
        "\\}",
        "=",
        "x=",
        "x==",
        "<",
        "x<",
        "\\le ",
        "!",
        "x",
        "x ",
    ),
    *(
        "a ",
        "the ",
        "or ",
        "and ",
        "is ",
        "answer is ",
        "answer: ",
        "answer",
        "mod ",
        "e",
        "i",
        "''",
    ),
    *(
        "\\text",
        "\\text{",
        "\\boxed",
        "\\boxed{",
        "\\fbox ",
        "\\mathrm{m}",
        "\\begin{pmatrix}",
        "&",
    ),
    *(
        "\\\\",
        "\\dots",
        "\\ldots ",
        "\\overline",
        "\\dot7",
        "°",
        "^\\circ",
        "½",
        "√",
        "x²",
        "−",
        "７",
    ),
    *(
        "<think>",
        "</think>",
        "one ",
        "hundred ",
        "twenty-",
        "seven-",
        "(A) ",
        "A",
        "12:00 ",
        "cm ",
        "m/",
    ),
)


@pytest.mark.parametrize("run", sampled(RUNS, 40))
def test_no_pattern_is_slow_on_a_long_run(verifier: MathVerifier, run: str) -> None:
    """The answer is too long to be compared, so all the time goes to finding it."""
    for ending in ("", "x", "\\", "\n.", "}"):
        began = time.monotonic()
        verdict = verifier.verify(run * (100_000 // len(run)) + ending, GOLD).verdict
        took_s = time.monotonic() - began
        assert verdict in (Verdict.WRONG, Verdict.UNVERIFIABLE)
        assert took_s < QUICK_S, f"{took_s:.2f} s before {ending!r}"


@pytest.mark.parametrize("run", sampled(RUNS, 16))
def test_no_run_that_is_compared_breaks_the_limit(verifier: MathVerifier, run: str) -> None:
    text = (run * 1_900)[:1_900]
    judge(verifier, text, GOLD, BOUND_S)
    judge(verifier, f"\\boxed{{{text}x}}", GOLD, BOUND_S)
    judge(verifier, "x+1", text, BOUND_S)


ODD = {
    "NUL": "7\0",
    "only NUL": "\0" * 50,
    "half a character": "7\ud800",
    "halves in the wrong order": "\udc00\ud800",
    "right to left": "\u202e7\u202c",
    "marks": "\u200f\u200e\u2066 7 \u2069",
    "joiners": "7\u200d\u200b\ufeff7",
    "combining": "7" + "\u0301" * 500,
    "private": "\ue000\U000f0000",
    "controls": "".join(map(chr, range(1, 32))),
    "line ends": "7\r\u0085\u2028\u2029\v\f",
    "Arabic digits": "٣٤",
    "bold digits": "𝟕",
    "emoji": "7\ufe0f\u20e3",
    "tabs": "\t7\t",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", ["{}", "\\boxed{{{}}}", "The answer is ${}$.", "x^{{{}}}"])
def test_odd_characters_are_only_wrong(verifier: MathVerifier, name: str, form: str) -> None:
    judge(verifier, form.format(ODD[name]), GOLD, BOUND_S)
    judge(verifier, GOLD, form.format(ODD[name]), BOUND_S)


def test_a_megabyte_is_dealt_with_at_once(verifier: MathVerifier) -> None:
    for text in ("7" * 10**6, "{" * 10**6, "So 7+7. " * 125_000, "\\boxed{" + "x+" * 500_000 + "}"):
        judge(verifier, text, GOLD, QUICK_S)
        judge(verifier, GOLD, text, QUICK_S)


PAYLOADS = (
    r"\write18{touch marker}",
    r"\immediate\write18{touch marker}",
    r"\input{|touch marker}",
    "__import__('os').system('touch marker')",
    "__import__('os').system('touch marker') + 7",
    "open('marker', 'w')",
    "open('marker','w').close() == None",
    'exec(\'open("marker", "w")\')',
    "eval(compile('open(\"marker\",\"w\")', '', 'eval'))",
    "(lambda: open('marker', 'w'))()",
    "[open('marker', 'w') for x in (1,)]",
    "{open('marker', 'w') for x in (1,)}",
    "{**{}, 'a': open('marker', 'w')}",
    "(x := open('marker', 'w'))",
    "f\"{open('marker', 'w')}\"",
    "().__class__.__base__.__subclasses__()[104].load_module('os').system('touch marker')",
    "getattr(__builtins__, 'open')('marker', 'w')",
    "sqrt(open('marker', 'w'))",
    "Symbol('x').func(open('marker', 'w'))",
    "S(\"open('marker', 'w')\")",
    "sympify(\"open('marker', 'w')\")",
    "lambdify(x, \"open('marker', 'w')\")(7)",
    "import os; os.system('touch marker')",
    "$(touch marker)",
    "`touch marker`",
    "; touch marker #",
    "\x00; touch marker",
    "cos\nposix\nsystem\n(S'touch marker'\ntR.",
    "!!python/object/apply:os.system ['touch marker']",
    "{{ cycler.__init__.__globals__.os.system('touch marker') }}",
    "${7*7}${T(java.lang.Runtime).getRuntime().exec('touch marker')}",
)
FORMS = (
    "{}",
    r"\boxed{{{}}}",
    "The answer is ${}$.",
    r"\text{{{}}}",
    "x^{{{}}}",
    r"\frac{{{}}}{{7}}",
)

JUDGE_ALL = """
import json, sys
from r1kit.eval.math.verify import MathItem, MathVerifier, verify_answers
if __name__ == "__main__":
    texts, gold = json.loads(sys.stdin.read())
    pairs = [(text, gold) for text in texts] + [(gold, text) for text in texts]
    with MathVerifier(timeout_s=2) as verifier:
        said = [verifier.verify(*pair).verdict for pair in pairs]
        assert verifier.verify(r"\\lim_{x\\to 0}\\frac{\\sin 3x}{x}", "3").verdict == "correct"
    items = [MathItem(str(i), *pair) for i, pair in enumerate(pairs)]
    said += [judged.verdict for _, judged in verify_answers(items, 1, 2.0)]
    print(json.dumps(said))
"""


def test_no_answer_is_run_by_the_judge_or_its_workers(tmp_path: Path) -> None:
    """In a process of its own, so that the workers too start in the folder that is looked at."""
    marker = tmp_path / "marker"
    payloads = [*PAYLOADS, *(text.replace("marker", str(marker)) for text in PAYLOADS[:8])]
    texts = [form.format(payload) for form in FORMS for payload in payloads]
    done = subprocess.run(
        [sys.executable, "-c", JUDGE_ALL],
        input=json.dumps([texts, GOLD]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 4 * len(texts)
    assert set(said) <= {Verdict.WRONG, Verdict.UNVERIFIABLE}
    assert list(tmp_path.iterdir()) == []


def test_after_a_worker_was_killed_the_next_pairs_are_judged(patient: MathVerifier) -> None:
    killed = judge(patient, ENDLESS, GOLD, 60)
    assert (killed.step, killed.verdict) == ("limit", Verdict.UNVERIFIABLE)
    assert patient.verify("2/4", r"\frac12").verdict is Verdict.CORRECT
    assert patient.verify(RIGHT, "3").verdict is Verdict.CORRECT


MIXED = (
    (ENDLESS, GOLD, {Verdict.UNVERIFIABLE, Verdict.WRONG}),
    ("__import__('os').system('touch marker')", GOLD, {Verdict.UNVERIFIABLE, Verdict.WRONG}),
    ("{" * 100_000, GOLD, {Verdict.UNVERIFIABLE, Verdict.WRONG}),
    ("0.5", r"\frac12", {Verdict.CORRECT}),
    ("(x+1)^2", "x^2+2x+1", {Verdict.CORRECT}),
    ("x+1", "x+2", {Verdict.WRONG}),
    (r"\{2,1\}", r"\{1,2\}", {Verdict.CORRECT}),
    (RIGHT, "3", {Verdict.CORRECT}),
    (RIGHT, "4", {Verdict.WRONG}),
)


CROWD = (*MIXED, *MIXED[1:])
"""One endless pair is enough: it keeps the worker from the others for twice the limit."""


def test_eight_threads_may_judge_at_once(patient: MathVerifier) -> None:
    ready = threading.Barrier(8)

    def worker(start: int) -> list[bool]:
        ready.wait(timeout=30)
        return [
            patient.verify(pred, gold).verdict in allowed for pred, gold, allowed in CROWD[start::8]
        ]

    with ThreadPoolExecutor(8) as threads:
        right = [each for found in threads.map(worker, range(8)) for each in found]
    assert right == [True] * len(CROWD)


def test_a_gathered_crowd_may_judge_at_once_and_the_loop_goes_on(patient: MathVerifier) -> None:
    async def ask_all() -> tuple[list[Judgement], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.02)
                beats += 1

        heart = asyncio.create_task(beat())
        asked = [patient.averify(pred, gold) for pred, gold, _ in CROWD]
        judged = await asyncio.gather(*asked)
        heart.cancel()
        return judged, beats

    judged, beats = asyncio.run(ask_all())
    wanted = [allowed for *_, allowed in CROWD]
    assert [j.verdict in w for j, w in zip(judged, wanted, strict=True)] == [True] * len(wanted)
    assert beats > 10


PIECES = st.sampled_from(
    [*RUNS, *(p for pair in NESTED.values() for p in pair), "7", "x", "+", "1"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(st.tuples(PIECES, st.integers(1, 6)), max_size=12), as_gold=st.booleans())
def test_whatever_is_put_together_is_judged(
    verifier: MathVerifier, pieces: list[tuple[str, int]], as_gold: bool
) -> None:
    text = "".join(piece * count for piece, count in pieces)
    pair = (GOLD, text) if as_gold else (text, GOLD)
    began = time.monotonic()
    assert verifier.verify(*pair).verdict in (Verdict.WRONG, Verdict.UNVERIFIABLE)
    assert time.monotonic() - began < BOUND_S
