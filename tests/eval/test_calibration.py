"""The calibration set: well formed, balanced, without repetition, and judged without a mistake."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from r1kit.eval.cli import app
from r1kit.eval.math import selftest
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.pairs import Judged, Pair, make_policy, read_pairs
from r1kit.eval.math.selftest import CALIBRATION
from r1kit.eval.math.verify import Judgement, MathVerifier
from r1kit.eval.verdict import Verdict
from typer.testing import CliRunner

CORRECT, WRONG, UNVERIFIABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE
ROWS = [json.loads(line) for line in CALIBRATION.read_text(encoding="utf-8").splitlines()]


def test_every_row_says_what_it_is_and_why() -> None:
    for row in ROWS:
        needed, further = (
            {"pred", "gold", "expected", "kind", "note"},
            {"problem", "policy", "allow"},
        )
        assert needed <= row.keys() <= needed | further, row
        assert all(type(row[name]) is str for name in needed), row
        assert row["gold"].strip() and row["kind"].strip() and row["note"].strip(), row
        assert Verdict(row["expected"]) in (CORRECT, WRONG, UNVERIFIABLE), row
        assert row.get("allow", [UNVERIFIABLE]) == [UNVERIFIABLE], row
        make_policy(row.get("policy", {}), place=str(row))


def test_there_are_rows_of_every_kind_right_ones_and_wrong_ones() -> None:
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in ROWS:
        expected[row["kind"]][row["expected"]] += 1
    assert len(ROWS) >= 900 and len(expected) >= 40
    assert [
        kind for kind, counts in expected.items() if min(counts[CORRECT], counts[WRONG]) < 2
    ] == []
    wrong = sum(counts[WRONG] for counts in expected.values())
    assert 0.4 < wrong / len(ROWS) < 0.5


def test_nothing_stands_there_twice() -> None:
    asked = Counter(
        (
            row["pred"],
            row["gold"],
            row.get("problem"),
            json.dumps(row.get("policy"), sort_keys=True),
        )
        for row in ROWS
    )
    assert [each for each, times in asked.items() if times > 1] == []


def test_no_row_is_one_of_the_published_pairs_that_the_bench_measures_on(data_dir: Path) -> None:
    def bare(row: dict[str, str]) -> tuple[str, str]:
        return row["pred"].replace("$", "").strip(), row["gold"].replace("$", "").strip()

    published = set()
    for path in (data_dir / "verifier").glob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        published |= {bare(json.loads(line)) for line in lines}
    assert len(published) > 1000
    assert [row for row in ROWS if bare(row) in published] == []


def test_few_rows_allow_that_nothing_is_decided() -> None:
    allowed = sum("allow" in row or row["expected"] == UNVERIFIABLE for row in ROWS)
    assert allowed / len(ROWS) < 0.1


def test_the_verifier_makes_no_mistake() -> None:
    report = selftest.run()
    mistakes = [
        f"{each.pair.pred!r} for {each.pair.gold!r}: expected {each.pair.row['expected']}, found "
        f"{each.judgement.verdict} ({each.judgement.step}: {each.judgement.reason})"
        for each in report.failures
    ]
    assert mistakes == []
    assert report.passed
    assert report.total.pairs == len(ROWS)
    assert report.total.false_positives == 0
    assert report.total.precision == 1.0
    assert report.total.recall > 0.99


def test_every_right_answer_is_right_by_its_own_standard() -> None:
    golds = {row["gold"] for row in ROWS if row["expected"] != UNVERIFIABLE}
    with MathVerifier() as verifier:
        unlike = {gold for gold in golds if verifier.verify(gold, gold).verdict is not CORRECT}
    assert unlike == set()


def judged(verdict: Verdict, right: set[Verdict], kind: str, ms: float) -> Judged:
    pair = Pair("a", "b", right=frozenset(right), row={"kind": kind})
    return Judged(pair, Judgement(verdict, "a", Rule.WHOLE, ""), ms)


def test_the_report_counts_what_was_judged() -> None:
    report = selftest.report(
        [
            judged(CORRECT, {CORRECT}, "set", 1.0),
            judged(WRONG, {CORRECT}, "set", 2.0),
            judged(UNVERIFIABLE, {CORRECT, UNVERIFIABLE}, "set", 3.0),
            judged(CORRECT, {WRONG}, "text", 4.0),
            judged(UNVERIFIABLE, {UNVERIFIABLE}, "text", 990.0),
        ]
    )
    total, sets = report.total, report.by_kind["set"]
    assert (total.pairs, total.positives, total.found, total.false_positives) == (5, 3, 1, 1)
    assert (total.unverifiable, total.failed) == (2, 2)
    assert (total.precision, total.recall) == (1 / 2, 1 / 3)
    assert (total.p50_ms, total.p99_ms, total.total_s) == (3.0, 990.0, 1.0)
    assert (sets.pairs, sets.precision, sets.recall, sets.failed) == (3, 1.0, 1 / 3, 1)
    assert not report.passed and len(report.failures) == 2


@pytest.fixture
def tiny_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A calibration set of two rows, the second of which expects a mistake."""
    path = tmp_path / "calibration.jsonl"
    rows = [
        {"pred": "2/4", "gold": "0.5", "expected": "correct", "kind": "fraction", "note": "n"},
        {"pred": "[red]", "gold": "6", "expected": "correct", "kind": "text", "note": "n"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(selftest, "CALIBRATION", path)
    return path


def test_the_command_fails_where_a_verdict_is_a_mistake(tiny_set: Path) -> None:
    done = CliRunner().invoke(app, ["selftest"], env={"COLUMNS": "100"})
    assert done.exit_code == 1, done.output
    assert "FAILED: 1 verdicts are mistakes" in done.output
    assert "[red]   for   6" in done.output
    told = CliRunner().invoke(app, ["selftest", "math", "--json"])
    assert told.exit_code == 1
    facts = json.loads(told.stdout)["math"]
    assert (facts["pairs"], facts["failed"], facts["passed"]) == (2, 1, False)
    assert (facts["precision"], facts["recall"]) == (1.0, 0.5)
    assert [failure["pred"] for failure in facts["failures"]] == ["[red]"]
    assert facts["by_kind"]["fraction"]["failed"] == 0


def test_the_command_passes_where_no_verdict_is_a_mistake(tiny_set: Path) -> None:
    tiny_set.write_bytes(tiny_set.read_bytes().splitlines(keepends=True)[0])
    done = CliRunner().invoke(app, ["selftest"], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert "passed" in done.output


def test_the_command_passes_on_the_set_as_it_is() -> None:
    done = CliRunner().invoke(app, ["selftest", "--json"])
    facts = json.loads(done.stdout)["math"]
    assert done.exit_code == 0, facts["failures"]
    assert (facts["passed"], facts["pairs"], facts["precision"]) == (True, len(ROWS), 1.0)


@pytest.mark.parametrize(
    ("verdict", "mistakes"),
    [
        (CORRECT, sum(row["expected"] != CORRECT for row in ROWS)),
        (WRONG, sum(row["expected"] != WRONG for row in ROWS)),
        (
            UNVERIFIABLE,
            sum(row["expected"] != UNVERIFIABLE and "allow" not in row for row in ROWS),
        ),
        (Verdict.INFRA_ERROR, len(ROWS)),
    ],
)
def test_a_verifier_that_always_says_the_same_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, mistakes: int
) -> None:
    def verify(self: MathVerifier, answer: str, gold: str, *, problem: str = "") -> Judgement:
        return Judgement(verdict, answer, Rule.WHOLE, "")

    monkeypatch.setattr(MathVerifier, "verify", verify)
    done = CliRunner().invoke(app, ["selftest", "--json"])
    facts = json.loads(done.stdout)["math"]
    assert done.exit_code == 1
    assert (facts["passed"], facts["failed"]) == (False, mistakes)
    assert mistakes > len(ROWS) / 3


def test_an_unknown_self_test_is_named() -> None:
    done = CliRunner().invoke(app, ["selftest", "maths"])
    assert str(done.exception) == "maths: no such self-test; there are math"


def test_the_set_is_read_as_pairs() -> None:
    pairs = read_pairs(CALIBRATION)
    assert [pair.row for pair in pairs] == ROWS
    allowed = next(pair for pair in pairs if "allow" in pair.row)
    assert set(allowed.right or ()) == {Verdict(allowed.row["expected"]), UNVERIFIABLE}
