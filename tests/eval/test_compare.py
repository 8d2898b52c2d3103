"""Comparing two evaluations: what is called a difference, how often, and what is refused."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r1kit import KitError
from r1kit.eval.cli import app
from r1kit.eval.compare import CompareError, compare
from r1kit.eval.outcome import OutcomeError, read_answers
from r1kit.eval.paired import Call, Tally, call, paired, power, sign_flip_p
from r1kit.eval.student_t import t95
from typer.testing import CliRunner

PROVENANCE: dict[str, Any] = {
    "suite": "aime24",
    "suite_sha256": "a" * 64,
    "prompt_sha256": "b" * 64,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_tokens": 32768,
    "judge": "math/2",
    "policy": {},
}


def row(name: str, index: int, verdict: str, **more: Any) -> dict[str, Any]:
    """One line of answers.jsonl."""
    line = {
        "id": name,
        "suite": "aime24",
        "source": "aime24",
        "sample": index,
        "gold": "7",
        "finish": "stop",
        "completion_tokens": 100,
        "verdict": verdict,
        "extracted": "7",
        "answer_class": "7",
        "key": f"{name}-{index}",
    }
    return {**line, **more}


def rows(verdicts: dict[str, str]) -> list[dict[str, Any]]:
    """Lines from `{"problem": "+-?!"}`: right, wrong, unverifiable, lost."""
    words = {"+": "correct", "-": "wrong", "?": "unverifiable", "!": "infra_error"}
    return [
        row(name, index, words[mark])
        for name, marks in verdicts.items()
        for index, mark in enumerate(marks)
    ]


def evaluation(
    folder: Path, lines: Sequence[dict[str, Any]], provenance: dict[str, Any] | None = PROVENANCE
) -> Path:
    """A folder as `r1kit eval run` leaves it."""
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "answers.jsonl").write_text(text, encoding="utf-8")
    scores: dict[str, Any] = {"model": f"model {folder.name}"}
    if provenance is not None:
        scores["provenance"] = provenance
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def tally(rights: Sequence[int], k: int) -> Tally:
    return Tally(tuple(rights), (k,) * len(rights))


def test_a_run_against_itself_is_no_difference(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", rows({str(i): "++-+"[: 1 + i % 4] for i in range(40)}))
    found = compare(folder, folder)
    assert (found.call, found.difference.value, found.difference.p) == (Call.NOISE, 0.0, 1.0)
    assert found.warnings == ()
    assert found.difference.test == "no test, since no problem differs"
    # None of 40 problems differs, so at most 8.8 % of all would (Clopper and Pearson).
    bound = 1 - 0.025 ** (1 / 40)
    assert found.difference.ci95 == pytest.approx((-bound, bound), abs=1e-12)


def test_a_clear_difference_is_called_by_its_side(tmp_path: Path) -> None:
    good = evaluation(tmp_path / "good", rows({str(i): "+++-" for i in range(40)}))
    bad = evaluation(tmp_path / "bad", rows({str(i): "+---" for i in range(39)} | {"39": "++--"}))
    assert compare(good, bad).call is Call.A
    assert compare(bad, good).call is Call.B
    found = compare(good, bad)
    assert found.difference.value == pytest.approx((39 * 0.5 + 0.25) / 40, abs=1e-12)
    assert (found.difference.a_better, found.difference.b_better) == (40, 0)
    assert (found.a.model, found.a.per_problem, found.b.samples) == ("model good", (4, 4), 160)


def test_all_right_against_all_wrong_is_called_though_nothing_varies() -> None:
    for n in (30, 8):
        found = paired(tally([4] * n, 4), tally([0] * n, 4))
        assert call(found) is Call.A
        assert found.p == 2.0 ** (1 - n)
        share = 1 - 0.025 ** (1 / n)  # of problems that might be the other way round
        assert found.ci95 == pytest.approx((1 - 2 * share, 1.0), abs=1e-12)
    assert call(paired(tally([4], 4), tally([0], 4))) is Call.NOISE


def test_the_statistics_are_those_of_a_paired_t_test() -> None:
    a, b = [4, 3, 2, 4, 1] * 5, [2, 3, 3, 1, 0] * 5
    found = paired(tally(a, 4), tally(b, 4))
    deltas = np.array(a) / 4 - np.array(b) / 4
    se = deltas.std(ddof=1) / math.sqrt(25)
    assert found.value == pytest.approx(deltas.mean(), abs=1e-12)
    assert found.se == pytest.approx(se, abs=1e-12)
    half = t95(24) * se
    assert found.ci95 == pytest.approx((found.value - half, found.value + half), abs=1e-12)
    assert found.test == "paired t test, 24 degrees of freedom"
    # scipy.stats.ttest_rel(a, b).pvalue of SciPy 1.17.
    assert found.p == pytest.approx(0.0020132530027568403, rel=1e-12)


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_exact_test_counts_every_assignment_of_signs(deltas: list[int]) -> None:
    sizes = [abs(d) for d in deltas if d]
    hits = 0
    for signs in range(2 ** len(sizes)):
        total = sum(s if signs >> i & 1 else -s for i, s in enumerate(sizes))
        hits += abs(total) >= abs(sum(deltas))
    assert sign_flip_p([d / 4 for d in deltas]) == pytest.approx(hits / 2 ** len(sizes), abs=1e-12)


def test_with_one_sample_each_the_exact_test_is_mcnemars() -> None:
    a, b = [1] * 9 + [0] * 2 + [1] * 50, [0] * 9 + [1] * 2 + [1] * 50
    found = paired(tally(a, 1), tally(b, 1))
    tail = sum(math.comb(11, i) for i in range(3)) / 2**11
    assert found.p == pytest.approx(2 * tail, abs=1e-12)
    assert found.test == "exact McNemar test, 11 problems differ"
    assert (found.se_rerun, found.se_question) == (None, None)


def test_five_problems_that_differ_are_too_few_to_call() -> None:
    found = paired(tally([1] * 100, 1), tally([0] * 5 + [1] * 95, 1))
    assert found.ci95[0] > 0  # by the t interval alone it would be called
    assert found.p == 2 / 2**5
    assert call(found) is Call.NOISE


def test_one_problem_that_decides_everything_is_not_called() -> None:
    # All eight differences have one sign, so the exact test is sure; the mean is not.
    found = paired(tally([100, *[2] * 7], 100), tally([0] * 8, 100))
    assert found.p == 2 / 2**8
    assert found.ci95[0] < 0 < found.ci95[1]
    assert call(found) is Call.NOISE


def test_noise_of_reruns_and_of_questions_add_up_to_the_error() -> None:
    found = paired(tally([2, 4, 0, 1], 4), tally([2, 1, 0, 4], 4))
    within = [1 / 4 / 3 * 2, 3 / 16 / 3, 0, 3 / 16 / 3]
    assert found.se_rerun == pytest.approx(math.sqrt(sum(within)) / 4, abs=1e-12)
    assert found.se is not None and found.se_question is not None and found.se_rerun is not None
    assert found.se**2 == pytest.approx(found.se_rerun**2 + found.se_question**2, abs=1e-12)


def simulated(
    rng: np.random.Generator, n: int, k: int, shift: float, spread: float
) -> tuple[Tally, Tally]:
    """Two models on n problems: the log-odds differ by `shift`, and from problem to problem."""
    base, apart = rng.normal(0, 2, n), rng.normal(shift, spread, n)
    a, b = (1 / (1 + np.exp(-(base + sign * apart / 2))) for sign in (1, -1))
    return tally(rng.binomial(k, a).tolist(), k), tally(rng.binomial(k, b).tolist(), k)


@pytest.mark.parametrize(("n", "k", "spread"), [(30, 16, 0.0), (30, 64, 1.0), (300, 1, 1.0)])
def test_equal_models_are_called_different_in_5_of_100_comparisons(
    n: int, k: int, spread: float
) -> None:
    rng = np.random.default_rng(3)
    runs = [paired(*simulated(rng, n, k, 0.0, spread)) for _ in range(2000)]
    called = sum(call(found) is not Call.NOISE for found in runs) / 2000
    # 2,000 runs err by 0.5 points; twice that on top.
    assert 0.04 <= called <= 0.06
    held = sum(found.ci95[0] <= 0 <= found.ci95[1] for found in runs) / 2000
    assert 0.94 <= held <= 0.96


def test_the_problems_it_asks_for_bring_four_of_five_calls() -> None:
    rng, k, shift, spread = np.random.default_rng(7), 4, 0.8, 1.0
    large = paired(*simulated(rng, 200_000, k, shift, spread))  # the truth, as good as
    assert large.se is not None
    a, b = simulated(rng, 4000, k, shift, spread)
    needed = power(paired(a, b), a, b).problems
    assert needed is not None
    calls = [call(paired(*simulated(rng, needed, k, shift, spread))) for _ in range(1000)]
    assert sum(each is Call.A for each in calls) / 1000 == pytest.approx(0.8, abs=0.05)


def test_the_samples_it_asks_for_bring_four_of_five_calls() -> None:
    # No differences from problem to problem beyond the shift: more samples settle it.
    rng, n, k, shift = np.random.default_rng(8), 60, 4, 0.5
    factors = []
    for _ in range(300):
        a, b = simulated(rng, n, k, shift, 0.0)
        found = power(paired(a, b), a, b)
        if found.sample_factor is not None and found.detectable is not None:
            factors.append((abs(paired(a, b).value), found.sample_factor))
    truth = np.mean([paired(*simulated(rng, n, 256, shift, 0.0)).value for _ in range(50)])
    near = [factor for value, factor in factors if abs(value - truth) < 0.01]
    samples = round(k * float(np.median(near)))
    calls = [call(paired(*simulated(rng, n, samples, shift, 0.0))) for _ in range(1000)]
    assert len(near) > 20 and samples > 2 * k
    assert sum(each is Call.A for each in calls) / 1000 == pytest.approx(0.8, abs=0.08)


def test_the_smallest_difference_it_finds_is_found_in_four_of_five_cases() -> None:
    rng, n = np.random.default_rng(9), 50
    found = 0
    for _ in range(2000):
        deltas = rng.normal(0.0, 1.0, n)
        seen = deltas - deltas.mean()
        se = seen.std(ddof=1) / math.sqrt(n)
        # A true difference of (t + 0.84) true errors, here 1 / sqrt(n).
        truth = (t95(n - 1) + 0.8416) / math.sqrt(n)
        found += abs(deltas.mean() + truth) > t95(n - 1) * se
    assert found / 2000 == pytest.approx(0.8, abs=0.03)
    a, b = tally([3, 1, 2, 4, 0] * 10, 4), tally([2, 2, 2, 3, 1] * 10, 4)
    difference = paired(a, b)
    assert difference.se is not None
    told = power(difference, a, b)
    assert told.detectable == pytest.approx((t95(49) + 0.8416212) * difference.se, rel=1e-6)
    assert told.words.endswith("nothing settles the one seen, 0")


def test_where_only_new_problems_help_no_number_of_samples_is_named() -> None:
    # Each problem is certain for both models, so all the noise is the choice of problems.
    a, b = tally([64] * 11 + [0] * 9, 64), tally([0] * 11 + [64] * 9, 64)
    told = power(paired(a, b), a, b)
    assert told.sample_factor is None
    assert "no number of samples per problem settles it on 20 problems" in told.words
    assert told.problems is not None and told.problems > 20
    single = power(paired(tally([1, 0] * 9, 1), tally([0, 0, 1] * 6, 1)), *(tally([1], 1),) * 2)
    assert "cannot be told from one each" in single.words


def test_problems_of_one_side_are_left_out_counted_and_named(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", rows({"1": "+-", "2": "++", "only": "++"}))
    b = evaluation(tmp_path / "b", rows({"1": "--", "2": "+-"}))
    found = compare(a, b)
    assert (found.difference.n, found.difference.value) == (2, 0.5)
    assert (found.a.alone, found.b.alone) == (("only",), ())
    assert found.a.pass_at_1 == 0.75
    assert any("1 problem is only here and left out: only" in each for each in found.warnings)


def test_lost_samples_are_left_out_and_too_many_forbid_a_call(tmp_path: Path) -> None:
    every = {str(i): "++++" for i in range(40)}
    a = evaluation(tmp_path / "a", rows({**every, "0": "!!!!", "1": "+!++"}))
    b = evaluation(tmp_path / "b", rows(dict.fromkeys(every, "----")))
    found = compare(a, b)
    assert (found.difference.n, found.difference.value, found.dropped) == (39, 1.0, 1)
    assert (found.a.infra, found.a.infra_share, found.b.infra) == (5, 5 / 160, 0)
    assert found.call is Call.NOT_FINAL
    assert any("5 of its samples (3.1 %) ended in infra" in each for each in found.warnings)
    one_lost = evaluation(tmp_path / "c", rows({**every, "1": "+!++"}))
    assert compare(one_lost, b).call is Call.A


def test_what_was_asked_differently_is_said_loudly(tmp_path: Path) -> None:
    same = rows({str(i): "+-" for i in range(4)})
    a = evaluation(tmp_path / "a", same)
    b = evaluation(
        tmp_path / "b", same, {**PROVENANCE, "suite_sha256": "c" * 64, "temperature": 1.0}
    )
    said = compare(a, b).warnings
    assert said == (
        f"NOT ASKED ALIKE: rows that were asked: {'a' * 12}… against {'c' * 12}…",
        "NOT ASKED ALIKE: temperature: 0.6 against 1.0",
    )
    unknown = evaluation(tmp_path / "c", same, None)
    (said_so,) = compare(a, unknown).warnings
    assert "c: no provenance is recorded" in said_so
    other_gold = evaluation(tmp_path / "d", [{**line, "gold": "8"} for line in same])
    (said_so,) = compare(a, other_gold).warnings
    assert said_so.startswith("4 problems are judged by different right answers: 0, 1, 2 and 1")


def test_what_cannot_be_compared_is_refused_with_a_place(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", rows({"1": "+-"}))
    other = evaluation(tmp_path / "other", rows({"x": "+-"}))
    lost = evaluation(tmp_path / "lost", rows({"1": "!!"}))
    unfinished = evaluation(tmp_path / "unfinished", rows({"1": "+-"}))
    (unfinished / "scores.json").unlink()
    two = evaluation(tmp_path / "two", [row("1", 0, "wrong"), row("1", 0, "wrong", suite="b")])
    for folder, says in (
        (tmp_path / "nowhere", "nowhere: no such folder; name one that `r1kit eval run` has"),
        (a / "answers.jsonl", "answers.jsonl: not a folder"),
        (other, "no problem in common (1 such as '1', and 1 such as 'x')"),
        (lost, "none of the 1 common problems has a decided sample on both sides"),
        (unfinished, "scores.json: no such file: the evaluation has not finished"),
        (two, "two: it holds several suites that share ids"),
    ):
        with pytest.raises(CompareError, match=re.escape(says)):
            compare(a, folder)
    for text in ("{", "[]"):
        (unfinished / "scores.json").write_text(text, encoding="utf-8")
        with pytest.raises(CompareError, match=r"scores\.json: (cannot be read|expected)"):
            compare(a, unfinished)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "1", "sam', "answers.jsonl:2: not JSON"),
        ("[1]", "answers.jsonl:2: expected an object, found list"),
        (json.dumps({"id": "2"}), "answers.jsonl:2: no 'verdict'; the line has id"),
        (json.dumps(row("2", 0, "maybe")), "verdict must be one of correct, wrong,"),
        (json.dumps({**row("2", 0, "wrong"), "sample": "0"}), "sample must be int, got '0'"),
        (json.dumps(row("1", 0, "wrong")), "problem aime24: 1: sample 0 is there twice"),
    ],
)
def test_a_broken_line_stops_and_is_named(tmp_path: Path, line: str, says: str) -> None:
    folder = evaluation(tmp_path / "a", [row("1", 0, "correct")])
    with (folder / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(OutcomeError, match=re.escape(says)):
        compare(folder, folder)


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    cut = row("1", 1, "wrong", finish="length", extracted="", answer_class=None)
    folder = evaluation(tmp_path / "a", [row("1", 0, "correct"), cut])
    first, second = read_answers(folder).outcomes
    assert (first.answered, first.truncated, first.answer_class) == (True, False, "7")
    assert (second.answered, second.truncated, second.answer_class) == (False, True, None)
    assert list(read_answers(folder).golds.values()) == ["7"]
    (folder / "answers.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(OutcomeError, match="holds no samples"):
        read_answers(folder)
    with pytest.raises(OutcomeError, match="no such file"):
        read_answers(tmp_path / "nowhere")


def test_the_command_says_the_same_to_people_and_to_programs(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", rows({str(i): "++" for i in range(30)} | {"x": "++"}))
    b = evaluation(tmp_path / "b", rows({str(i): "+-" if i % 3 else "--" for i in range(30)}))
    told = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert told.exit_code == 0, told.output
    assert "A - B: +66.67 points (95 % interval +57.71 to +75.62) over 30 problems" in told.stdout
    assert told.stdout.rstrip().endswith("A is better")
    assert "power: this comparison finds a true difference of" in told.stdout
    assert "warning" not in told.stdout
    assert "1 problem is only here" in told.stderr
    as_json = CliRunner().invoke(app, ["compare", str(a), str(b), "--json"])
    values = json.loads(as_json.stdout)
    assert values["call"] == "A is better"
    assert values["difference"]["value"] == pytest.approx(2 / 3, abs=1e-12)
    assert values["a"]["alone"] == ["x"]
    refused = CliRunner().invoke(app, ["compare", str(a), str(tmp_path / "nowhere")])
    assert refused.exit_code != 0
    assert isinstance(refused.exception, KitError)
