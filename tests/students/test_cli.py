"""`r1kit students sft` as a person runs it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r1kit.students import sft
from r1kit.students.cli import app
from r1kit.students.models import build_model
from typer.testing import CliRunner

QUICK = ["--set", "batch_size=8", "--set", "epochs=1", "--set", "dtype=float32"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["sft", *arguments], env={"COLUMNS": "100"})


def test_it_trains_and_shows_a_table_and_what_was_left_out(
    make_sums: Callable[..., list[dict[str, Any]]], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows = make_sums(17)
    rows[3]["messages"][-1]["content"] = "8" * 600
    done = run("--data", str(write_rows(rows)), "--out", str(tmp_path / "out"), *QUICK)
    assert done.exit_code == 0, done.output
    assert re.search(r"examples\s+│ 16", done.output) and re.search(r"steps\s+│ 2", done.output)
    assert "1 of the rows: longer than max_length, left out (such as row-3)" in done.output
    build_model(str(tmp_path / "out"))


def test_interrupted_it_says_what_was_kept(
    make_sums: Callable[..., list[dict[str, Any]]],
    write_rows: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sft, "summed_loss", interrupt)
    out = tmp_path / "out"
    done = run("--data", str(write_rows(make_sums(8))), "--out", str(out), *QUICK)
    assert done.exit_code == 130 and not out.exists()
    assert "stopped before the training ended" in done.output
    assert "nothing was written" in done.output


def test_what_a_user_can_fix_is_raised_as_such(tmp_path: Path) -> None:
    from r1kit import KitError

    done = run("--data", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, KitError)
    assert "no.jsonl: does not exist" in str(done.exception)
