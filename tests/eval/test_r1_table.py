"""R1's table: the published numbers, how each row is run, and measured scores beside them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from r1kit import KitError
from r1kit.eval.cli import app
from r1kit.eval.lm_eval_run import lm_eval_suite_names
from r1kit.eval.r1_table import (
    R1Table,
    Value,
    load_table,
    measured_of,
    models_measured,
    read_runs,
    spell,
)
from typer.testing import CliRunner

ROWS = load_table().models.rows
BY_TITLE = {row.title: row for row in ROWS}


def test_the_table_has_the_published_rows_in_their_order() -> None:
    assert [row.title for row in ROWS] == [
        "MMLU (Pass@1)",
        "MMLU-Redux (EM)",
        "MMLU-Pro (EM)",
        "DROP (3-shot F1)",
        "IF-Eval (Prompt Strict)",
        "GPQA-Diamond (Pass@1)",
        "SimpleQA (Correct)",
        "FRAMES (Acc.)",
        "AlpacaEval2.0 (LC-winrate)",
        "ArenaHard (GPT-4-1106)",
        "LiveCodeBench (Pass@1-COT)",
        "Codeforces (Percentile)",
        "Codeforces (Rating)",
        "SWE Verified (Resolved)",
        "Aider-Polyglot (Acc.)",
        "AIME 2024 (Pass@1)",
        "MATH-500 (Pass@1)",
        "CNMO 2024 (Pass@1)",
        "CLUEWSC (EM)",
        "C-Eval (EM)",
        "C-SimpleQA (Correct)",
    ]


def test_columns_add_up_to_what_the_published_ones_do() -> None:
    # Sums of the README's own table, read by a program: a mistyped digit changes one.
    models = load_table().models
    sums = [
        sum(row.published[place] or 0 for row in models.rows)
        for place in range(len(models.columns))
    ]
    assert sums == pytest.approx([1925.2, 1904.8, 2446.3, 3176.6, 2811.9, 3605.1], abs=0.05)
    columns = zip(*(row.published for row in ROWS), strict=True)
    missing = [sum(value is None for value in column) for column in columns]
    assert missing == [0, 0, 1, 0, 10, 0]
    students = load_table().students
    totals = [
        sum(row.published[place] or 0 for row in students.rows)
        for place in range(len(students.columns))
    ]
    assert totals == pytest.approx([480.0, 646.1, 882.0, 547.7, 429.4, 12765.0], abs=0.05)


def test_every_row_is_run_or_says_why_not() -> None:
    for row in ROWS:
        assert (row.run is None) != (row.why_not is None), row.title
    with pytest.raises(ValueError, match="needs either run or why_not"):
        type(ROWS[0]).model_validate({**ROWS[0].model_dump(), "why_not": "as well"})


def test_every_lm_eval_suite_runs_a_row_and_every_row_of_lm_eval_is_a_suite() -> None:
    named = {
        row.run.split("--suite ")[1].split()[0]
        for row in (*ROWS, *load_table().students.columns)
        if row.run
    }
    assert {name for name in named if name.startswith("lm_eval:")} == set(lm_eval_suite_names())


def test_a_row_with_too_few_numbers_is_refused() -> None:
    table = load_table().model_dump()
    table["students"]["rows"][0]["published"] = [1.0]
    with pytest.raises(ValueError, match="6 numbers are needed"):
        R1Table.model_validate(table)


def write(folder: Path, name: str, facts: Any, *, at: float = 1e9) -> Path:
    path = folder / name / "scores.json"
    path.parent.mkdir(parents=True)
    path.write_text(facts if isinstance(facts, str) else json.dumps(facts))
    os.utime(path, (at, at))
    return path


def plain(suite: str, model: str, value: float, **more: Any) -> dict[str, Any]:
    score = {"pass@1": value, "n": 30, "ci95": [value - 0.1, value + 0.1], "samples": 4}
    return {"suite": suite, "model": model, "score": {**score, **more}}


CARD = {
    "suite": "aime24",
    "model": "big",
    "card": {
        "final": True,
        "pass@1": {"value": 0.5, "ci95": [0.4, 0.6], "n": 30},
        "cons@k": {"64": {"value": 0.7, "ci95": [0.6, 0.8], "n": 30}},
        "problems": 30,
        "samples_per_problem": [64, 64],
    },
}
ONE_METRIC = {
    "suite": "lm_eval:r1_drop",
    "model": "small",
    "is_final": True,
    "score": {"metric": "f1", "value": 0.25, "ci95": None, "n": 100, "samples": 1},
}


HALF = Value(0.5, (0.4, 0.6))


@pytest.mark.parametrize(
    ("facts", "title", "value", "size"),
    [
        (plain("aime24", "m", 0.5), "AIME 2024 (Pass@1)", HALF, (30, 4)),
        (CARD, "AIME 2024 (Pass@1)", HALF, (30, 64)),
        (ONE_METRIC, "DROP (3-shot F1)", Value(0.25), (100, 1)),
        ({"suites": {"x": ONE_METRIC}}, "DROP (3-shot F1)", Value(0.25), (100, 1)),
        (plain("/d/math500/test.jsonl", "m", 0.5), "MATH-500 (Pass@1)", HALF, (30, 4)),
        (plain("/d/aime24.jsonl", "m", 0.5), "AIME 2024 (Pass@1)", HALF, (30, 4)),
        (plain("gpqa", "m", 0.5), "GPQA-Diamond (Pass@1)", HALF, (30, 4)),
        (
            {"suite": "codeforces", "model": "m", "score": {"rating": 1500, "n": 10}},
            "Codeforces (Rating)",
            Value(1500.0),
            (10, None),
        ),
    ],
)  # fmt: skip
def test_every_form_of_scores_is_read(
    tmp_path: Path, facts: Any, title: str, value: Value, size: tuple[int, int | None]
) -> None:
    path = write(tmp_path, "a", facts)
    ((measured,), why) = measured_of(facts, path)
    assert why == []
    assert measured.value(BY_TITLE[title]) == value
    assert (measured.n, measured.samples) == size
    others = {row.title for row in ROWS if measured.value(row) is not None}
    assert others == {title}


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ([], "holds no scores"),
        ({"suite": "aime24", "score": {"pass@1": 1}}, "names no suite, no model or no score"),
        ({"suite": "aime24", "model": "m", "score": None}, "no suite, no model or no score"),
        ({"suite": "aime24", "model": "m", "score": {"n": 3}}, "no number that is known"),
        ({**ONE_METRIC, "is_final": False}, "not final"),
        ({**CARD, "card": {**CARD["card"], "final": False}}, "not final"),  # type: ignore[dict-item]
    ],
)
def test_what_is_no_score_is_left_out_and_said(tmp_path: Path, facts: Any, why: str) -> None:
    write(tmp_path, "a", facts)
    measured, (notice,) = read_runs(tmp_path)
    assert measured == []
    assert why in notice
    assert str(tmp_path / "a" / "scores.json") in notice


def test_a_broken_file_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path, "a", '{"suite": "aim')
    write(tmp_path, "b", CARD)
    measured, (notice,) = read_runs(tmp_path)
    assert [each.model for each in measured] == ["big"]
    assert "cannot be read" in notice


def test_of_two_scores_the_newer_one_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "z-old", plain("aime24", "m", 0.2), at=1e9)
    write(tmp_path, "a-new", plain("aime24", "m", 0.4), at=2e9)
    measured, _ = read_runs(tmp_path)
    row = BY_TITLE["AIME 2024 (Pass@1)"]
    ((shown,),) = models_measured([row], measured).values()
    assert shown is not None
    value = shown.value(row)
    assert value is not None and value.ci95 is not None
    assert (value.value, value.ci95[1]) == (0.4, 0.5)
    assert value.ci95[0] == pytest.approx(0.3)
    assert models_measured([BY_TITLE["MMLU (Pass@1)"]], measured) == {}


def test_shares_are_percentages_and_ratings_are_not() -> None:
    assert spell(Value(0.5, (0.4, 0.6)), "%") == "50.0 (40.0 to 60.0)"
    assert spell(Value(1500.4), "points") == "1500"


def table(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["table", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_command_shows_published_and_measured_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, "a", CARD)
    write(tmp_path, "b", ONE_METRIC)
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in table("--runs", str(tmp_path)).splitlines()
        if line.startswith("│")
    ]
    assert ["AIME 2024 (Pass@1)", "16.0", "9.3", "39.2", "63.6", "79.2", "79.8"] in lines
    assert ["Codeforces (Rating)", "717", "759", "1134", "1820", "2061", "2029"] in lines
    assert ["MMLU-Pro (EM)", "78.0", "72.6", "75.9", "80.3", "-", "84.0"] in lines
    assert ["AIME 2024 (Pass@1)", "79.8", "50.0 (40.0 to 60.0)", "n 30 x 64"] in lines
    assert ["DROP (3-shot F1)", "92.2", "25.0", "n 100 x 1"] in lines
    assert ["Distill-Qwen-7B", "55.5", "83.3", "92.8", "49.1", "37.6", "1189"] in lines
    assert [
        "big (measured here)", "50.0 (40.0 to 60.0)", "70.0 (60.0 to 80.0)", "", "", "", "",
    ] in lines  # fmt: skip
    assert ["C-Eval (EM)", "r1kit eval run --suite lm_eval:r1_ceval"] in lines
    assert any(line[0].startswith("SWE Verified") and "not run here" in line[-1] for line in lines)


def test_the_json_holds_all_of_it(tmp_path: Path) -> None:
    write(tmp_path, "a", CARD)
    facts = json.loads(table("--runs", str(tmp_path), "--json"))
    (aime,) = [row for row in facts["models"] if row["benchmark"] == "AIME 2024"]
    assert aime["published"]["DeepSeek R1"] == 79.8
    assert aime["measured"]["big"] == {
        "value": 0.5,
        "ci95": [0.4, 0.6],
        "n": 30,
        "samples": 64,
        "folder": str(tmp_path / "a"),
    }
    assert facts["students"]["measured"]["big"]["AIME 2024 cons@64"]["value"] == 0.7
    assert facts["students"]["published"]["o1-mini"]["CodeForces rating"] == 1820


def test_without_any_run_the_published_table_is_shown_and_a_named_folder_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/eval: nothing was measured yet" in table()
    with pytest.raises(KitError, match="--runs nowhere: no such directory"):
        table("--runs", "nowhere")
