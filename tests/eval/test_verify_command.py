"""`r1kit eval verify` and `bench-verifier`: files of pairs in, verdicts and figures out."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from r1kit import KitError
from r1kit.eval import verify_cli
from r1kit.eval.cli import app
from r1kit.eval.math import bench
from r1kit.eval.math.bench import OURS, THEIRS, WRAPPED, Answer, tally
from r1kit.eval.math.pairs import Pair, judge_pairs, percentile, read_pairs
from r1kit.eval.verdict import Verdict
from typer.testing import CliRunner

ROWS: list[dict[str, Any]] = [
    {"pred": r"so \boxed{\frac{2}{4}}", "gold": "0.5", "expected": True, "id": "é", "n": [1, None]},
    {"pred": "x+1", "gold": "x+2", "expected": False},
    {"pred": "5", "gold": r"5\text{ m}", "expected": "wrong"},
    {"pred": "<think>7", "gold": "7"},
    {"gold": 12, "pred": 12.0, "problem": None},
]


def write(folder: Path, rows: Sequence[Any] | str, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def call(*arguments: str | Path, stdin: bytes | None = None) -> Any:
    environment = {"COLUMNS": "100"}
    return CliRunner().invoke(app, [*map(str, arguments)], input=stdin, env=environment)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_comes_back_in_order_with_its_verdict(tmp_path: Path) -> None:
    done = call("verify", write(tmp_path, ROWS), "--json")
    assert done.exit_code == 0, done.output
    found = lines(done.stdout)
    assert [
        {name: row[name] for name in given} for given, row in zip(ROWS, found, strict=True)
    ] == ROWS
    assert [row["verdict"] for row in found] == ["correct", "wrong", "correct", "wrong", "correct"]
    assert all(row["rule"] and row["ms"] > 0 and row["reason"] for row in found)
    assert (found[0]["extracted"], found[0]["extraction"]) == (r"\frac{2}{4}", "boxed")
    assert "é" in done.stdout.splitlines()[0]  # as it was, not as an escape


def test_the_file_of_lines_is_the_printed_lines(tmp_path: Path) -> None:
    out = tmp_path / "new" / "judged.jsonl"
    done = call("verify", write(tmp_path, ROWS), "--json", "--out", out)
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8") == done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["judged.jsonl"]


def test_without_json_the_verdicts_are_counted_and_disagreements_named(tmp_path: Path) -> None:
    done = call("verify", write(tmp_path, [*ROWS, {"pred": "[b]", "gold": "6", "expected": True}]))
    assert done.exit_code == 0, done.output
    cells = {tuple(line.replace("│", " ").split()) for line in done.stdout.splitlines()}
    assert {("correct", "3"), ("infra_error", "0")} <= cells
    assert ("as", "expected", "2", "of", "4") in cells
    assert "5   for   5\\text{ m}\n    expected wrong, found correct" in done.stdout
    assert "[b]   for   6\n    expected true, found" in done.stdout
    assert "pairs/s; p50" in done.stdout


def test_the_policy_is_taken_from_the_options_and_from_the_line(tmp_path: Path) -> None:
    rows = [
        {"pred": "5", "gold": "5 m"},
        {"pred": "5", "gold": "5 m", "policy": {"units": "ignored"}},
    ]
    rows += [{"pred": "25\\%", "gold": "25"}, {"pred": "0.33", "gold": r"\frac13"}]
    options = (
        "--policy",
        "units=required",
        "--policy",
        "percent=exact",
        "--policy",
        "tolerance=0.02",
    )
    done = call("verify", write(tmp_path, rows), "--json", *options)
    assert [row["verdict"] for row in lines(done.stdout)] == [
        "wrong",
        "correct",
        "wrong",
        "correct",
    ]


def test_the_problem_is_heeded(tmp_path: Path) -> None:
    row = {"pred": "0.67", "gold": "2/3"}
    rows = [row, {**row, "problem": "Give 2/3 rounded to the nearest hundredth."}]
    done = call("verify", write(tmp_path, rows), "--json")
    assert [row["verdict"] for row in lines(done.stdout)] == ["wrong", "correct"]


def test_standard_input_is_a_file_too() -> None:
    done = call("verify", "-", "--json", stdin=b'\xef\xbb\xbf{"pred": "1", "gold": "1"}\r\n\r\n')
    assert [row["verdict"] for row in lines(done.stdout)] == ["correct"]
    bad = call("verify", "-", stdin=b'{"pred": "1"}')
    assert str(bad.exception).startswith("stdin:1: no 'gold'; the line has 'pred'")


def test_half_a_character_goes_through(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    path = write(tmp_path, '{"pred": "\\ud800", "gold": "1"}\n')
    assert call("verify", path, "--out", out).exit_code == 0
    (row,) = lines(out.read_text(encoding="utf-8"))
    assert (row["pred"], row["verdict"]) == ("\ud800", "wrong")


BAD = {
    "not json": ("not JSON (Expecting value", "one JSON object per line"),
    '{"pred": "1", "gold": "1"': ("not JSON", ""),
    '["1", "1"]': ("found a list: [", ""),
    '{"prediction": "1", "gold": "1"}': ("no 'pred'", "rename 'prediction' to 'pred'"),
    '{"pred": "1", "answer": "1"}': ("no 'gold'", "rename 'answer' to 'gold'"),
    '{"pred": null, "gold": "1"}': ("pred must be text or a number, got null", ""),
    '{"pred": "1", "gold": true}': ("gold must be text or a number, got a boolean: true", ""),
    '{"pred": "1", "gold": "1", "problem": 5.5e1, "expected": "maybe"}': ("`expected` must be", ""),
    '{"pred": "1", "gold": "1", "policy": "strict"}': ("policy must be an object", ""),
    '{"pred": "1", "gold": "1", "policy": {"unit": 1}}': ("unit: unknown setting", "'units'?"),
    '{"pred": "1", "gold": "1", "policy": {"decimals": 0}}': ("decimals: Input should be", "got 0"),
    '{"pred": "1", "gold": "1", "expected": "correct", "allow": 3}': (
        "`expected` must be",
        'got "correct" and 3',
    ),
    "[" * 20_000: ("not JSON", ""),
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str) -> None:
    out = tmp_path / "out.jsonl"
    path = write(tmp_path, f'{{"pred": "1", "gold": "1"}}\n\n{line}\n')
    done = call("verify", path, "--json", "--out", out)
    assert isinstance(done.exception, KitError), done.output
    assert str(done.exception).startswith(f"{path}:3: ")
    assert all(words in str(done.exception) for words in BAD[line])
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_of_pairs_is_an_error_that_says_so(tmp_path: Path) -> None:
    cases = [
        (tmp_path / "absent.jsonl", "absent.jsonl: cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (write(tmp_path, "\n\n", "empty.jsonl"), "empty.jsonl: no pairs (it is empty)"),
    ]
    (tmp_path / "bytes.jsonl").write_bytes(b'{"pred": "\xff"}')
    cases.append((tmp_path / "bytes.jsonl", "bytes.jsonl:1: not UTF-8 text (byte 0xff)"))
    for path, says in cases:
        assert says in str(call("verify", path).exception)
    taken = call("verify", write(tmp_path, ROWS), "--out", tmp_path / "empty.jsonl" / "x")
    assert "x: cannot be written" in str(taken.exception)
    for option in ("units", "units=maybe", "unit=required", "decimals=none"):
        assert "--policy" in str(
            call("verify", write(tmp_path, ROWS), "--policy", option).exception
        )


def test_the_file_takes_the_old_ones_place_and_is_never_half_written(tmp_path: Path) -> None:
    out, kept = write(tmp_path, "old\n", "out.jsonl"), tmp_path / "kept.jsonl"
    kept.hardlink_to(out)  # would change too if lines went into the old file
    assert call("verify", write(tmp_path, ROWS), "--out", out).exit_code == 0
    assert kept.read_text() == "old\n"
    assert len(lines(out.read_text(encoding="utf-8"))) == len(ROWS)


def test_a_failure_on_the_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write(tmp_path, "old\n", "out.jsonl")
    path = write(tmp_path, ROWS)

    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("r1kit.eval.verify_cli.as_line", broken)
    assert isinstance(call("verify", path, "--out", out).exception, MemoryError)
    assert out.read_text() == "old\n"
    assert {each.name for each in tmp_path.iterdir()} == {"out.jsonl", "pairs.jsonl"}


ENDLESS = {"pred": r"\prod_{k=1}^{2000} k^k", "gold": "5"}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_ctrl_c_ends_it_at_once_and_cleanly(tmp_path: Path, workers: str) -> None:
    path = write(tmp_path, [{"pred": "1", "gold": "1"}, ENDLESS, ENDLESS, ENDLESS, ENDLESS])
    out = tmp_path / "out.jsonl"
    arguments = ("eval", "verify", path, "--out", out, "--workers", workers, "--timeout", "100")
    process = subprocess.Popen(
        [sys.executable, "-m", "r1kit.distill.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    partial, give_up = tmp_path / "out.jsonl.partial", time.monotonic() + 30
    while not partial.exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(2.0)  # by now it waits for a worker
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert said == f"r1kit: interrupted after 1 pairs; {out} was not written\n"
    assert printed == ""
    assert list(tmp_path.iterdir()) == [path]


def test_several_workers_say_the_same_in_the_same_order(tmp_path: Path) -> None:
    rows = [{"pred": str(n % 7), "gold": "3"} for n in range(200)]
    rows[5] = {"pred": r"\lim_{x\to 0}\frac{\sin 3x}{x}", "gold": "3"}
    pairs = read_pairs(write(tmp_path, rows))
    judged = {n: list(judge_pairs(pairs, workers=n)) for n in (1, 4)}
    assert [each.pair.row for each in judged[4]] == rows
    verdicts = {n: [each.judgement for each in found] for n, found in judged.items()}
    assert verdicts[1] == verdicts[4]
    assert verdicts[4][5].verdict is Verdict.CORRECT


def test_each_pair_has_its_own_time(tmp_path: Path) -> None:
    path = write(tmp_path, [{"pred": "1", "gold": "1"}, ENDLESS, {"pred": "2", "gold": "2"}])
    first, slow, last = judge_pairs(read_pairs(path), timeout_s=0.5)
    assert slow.ms >= 500 > 10 * max(first.ms, last.ms)


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (0, 20, 21, 50, 99, 100)] == [1, 1, 2, 3, 5, 5]
    assert percentile([], 50) == 0.0


def test_the_tally_counts_agreement_by_the_first_pass_and_time_by_all() -> None:
    said = ["correct", "wrong", "correct", "unread", "hung", "crashed"]
    first = [Answer(each, 10.0) for each in said]
    second = [Answer(each, 30.0) for each in said]
    second[0] = Answer("wrong", 30.0)
    of = tally([True, True, False, False, False, True], [first, second], alarm_s=0.01)
    assert (of.pairs, of.agreed, of.agreement) == (6, 3, 0.5)
    assert (of.false_positives, of.false_negatives, of.unverifiable, of.broken) == (1, 2, 1, 1)
    assert of.timeouts == 6  # all took the limit of 10 ms
    assert (of.mean_ms, of.p50_ms, of.p99_ms, of.max_ms) == (20.0, 10.0, 30.0, 30.0)
    assert of.pairs_per_s == pytest.approx(50.0)
    assert of.slowest_pairs_per_s == pytest.approx(1000 / 30)
    assert of.fastest_pairs_per_s == 100.0


PAIRS: list[dict[str, Any]] = [
    {"pred": "$2$", "gold": "$2$", "expected": True},
    {"pred": r"\frac12", "gold": "0.5", "expected": True},
    {"pred": "$3$", "gold": "$4$", "expected": False},
    {"pred": "$3$", "gold": "$4$", "expected": True, "doubt": True},
    {"pred": "$3$", "gold": "$5$", "expected": True},
    {"pred": "$6$", "gold": "$[6]$", "expected": True},
    {"pred": "$6$", "gold": "$[6]$", "expected": "wrong"},
]


def test_the_contenders_work_through_the_same_pairs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data, PAIRS, "one.jsonl")
    write(data, [{"pred": "1", "gold": "1", "expected": "correct"}], "two.jsonl")
    out = tmp_path / "bench.json"
    done = call("bench-verifier", "--data", data, "--repeats", "2", "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 pairs of disputed expectation are in no figure" in done.stdout
    both = " ".join(done.stdout.split())
    assert both.count("in no figure, since one expects both: $6$ for $[6]$") == 1
    assert "not judged as expected: 1 pairs, and 2 of those in no figure;" in both
    facts = json.loads(out.read_text())
    assert facts["contradicted_pairs_left_out"] == [{"file": "one", "pred": "$6$", "gold": "$[6]$"}]
    assert facts["total"][OURS]["pairs"] == 5 and facts["files"]["two"][OURS]["agreement"] == 1.0
    assert {name: facts["files"]["one"][name]["agreed"] for name in (OURS, THEIRS, WRAPPED)} == {
        OURS: 3,
        THEIRS: 2,  # it reads no LaTeX without signs around it
        WRAPPED: 3,
    }
    order = [(each["contender"], each["position"]) for each in facts["passes"]]
    assert order == [(OURS, 1), (THEIRS, 2), (WRAPPED, 3), (WRAPPED, 1), (THEIRS, 2), (OURS, 3)]
    assert all(each["wall_s"] > 0 for each in facts["passes"])
    assert list(facts["imports"]) == [OURS, THEIRS]
    for imports in facts["imports"].values():
        assert 0.01 < imports["import_s"] < imports["first_verdict_s"]
    assert facts["imports"][OURS]["first_verdict_s"] > 0.3  # SymPy, which its own imports leave out
    ours, theirs = facts["total"][OURS]["pairs_per_s"], facts["total"][THEIRS]["pairs_per_s"]
    assert facts["total"]["speed_ratio"][THEIRS] == pytest.approx(ours / theirs)
    remaining = facts["disagreements"]
    assert [each["gold"] for each in remaining] == ["$4$", "$5$", "$[6]$"]
    assert [each.get("doubt", False) for each in remaining] == [True, False, False]
    assert [each.get("contradicted", False) for each in remaining] == [False, False, True]
    assert all(each["step"] and each["reason"] for each in remaining)
    five = {name: remaining[1][name] for name in ("pred", "expected", "ours", THEIRS, WRAPPED)}
    assert five == {
        "pred": "$3$",
        "expected": True,
        "ours": "wrong",
        THEIRS: "wrong",
        WRAPPED: "wrong",
    }
    assert facts["provenance"]["versions"]["math-verify"].startswith("0.9.")


def test_what_starts_our_workers_is_warmed_up_and_needs_one() -> None:
    (judged,) = judge_pairs([Pair(*bench.SLOW_PAIR)])
    assert bench.SLOW_PAIR in bench.WARM_UP
    assert (judged.judgement.verdict, judged.judgement.step) == ("correct", "symbolic")


def test_a_contradiction_is_one_of_the_same_question_in_the_same_file(tmp_path: Path) -> None:
    pair = {"pred": "1,2", "gold": "2,1"}
    asked = [
        {**pair, "expected": True},
        {**pair, "expected": "unverifiable", "problem": "In which order?"},
        {**pair, "expected": "correct"},
    ]
    write(tmp_path, asked, "agreed.jsonl")
    write(tmp_path, [{**pair, "expected": False}, *asked], "torn.jsonl")
    entries = bench.read_entries(tmp_path)
    assert [entry.contradicted for entry in entries] == [False] * 3 + [True, True, False, True]
    assert [entry.counts for entry in entries] == [not entry.contradicted for entry in entries]
    write(tmp_path, [{**pair, "expected": False}, *asked], "torn_too.jsonl")
    comparison = bench.Comparison(tuple(bench.read_entries(tmp_path)), (), {}, {})
    assert [entry.file for entry in comparison.contradicted] == ["torn", "torn_too"]


def test_the_figures_fit_eighty_columns_with_names_of_files_in_full(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("latex2sympy_extended_parse", "a_name_that_is_longer_than_any_column_can_be")
    pair = Pair("1", "1", right=frozenset([Verdict.CORRECT]), row={"expected": True})
    passes = tuple(
        bench.Pass(contender, 1, (Answer("correct", 12_345.678), Answer("hung", 60_000.0)))
        for contender in (OURS, THEIRS, WRAPPED)
    )
    comparison = bench.Comparison(
        tuple(bench.Entry(name, pair, doubt=False) for name in names),
        passes,
        {OURS: bench.Imports(0.1, 1.3)},
        {"date": "2026-01-01", "cpu": "a processor", "cores": 2, "versions": {"sympy": "1.14"}},
    )
    verify_cli._print_comparison(comparison)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert printed.count(names[0]) == 2 and printed.count(names[1][:26]) == 2
    assert printed.count(WRAPPED) == 7 and printed.count("broken") == 1
    assert "r1kit: imports 0.10 s, first slow verdict after 1.30 s (in no figure)" in printed


def die_at_the_second_and_hang_at_the_third(contender: str) -> bench.Judge:
    """Stands in for a contender; the child finds it by its name in this module."""

    def judge(pair: Pair) -> bench.Said:
        if pair.pred == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while pair.pred == "hang":
            time.sleep(1)
        return bench.Said("correct")

    return judge


def test_a_contender_that_dies_or_hangs_loses_that_pair_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = multiprocessing.get_context("fork")  # the child has to have the stand-in
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(bench, "_judge", die_at_the_second_and_hang_at_the_third)
    monkeypatch.setattr(bench, "LIMIT_S", 0.5)
    pairs = [Pair(pred, "1") for pred in ("a", "die", "hang", "b")]
    found = bench.run_contender(THEIRS, pairs, 1, lambda: None)
    assert [answer.said for answer in found.answers] == ["correct", "crashed", "hung", "correct"]
    assert found.answers[2].ms == pytest.approx(500, rel=0.5)


def test_a_bench_needs_pairs_with_expectations(tmp_path: Path) -> None:
    absent = call("bench-verifier", "--data", tmp_path / "absent")
    assert "absent: no .jsonl file in it; --data names a folder of them" in str(absent.exception)
    write(tmp_path, [{"pred": "1", "gold": "1"}])
    assert "no `expected` in the line" in str(call("bench-verifier", "--data", tmp_path).exception)
