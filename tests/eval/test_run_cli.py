"""`r1kit eval run`: several suites, defaults, judges, refused endpoints, and killed runs."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from r1kit import KitError
from r1kit.eval.cli import app
from r1kit.eval.run_cli import folders_of, suite_list
from typer.testing import CliRunner

SUMS: list[dict[str, Any]] = [
    {"id": f"s{i}", "problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(4)
]
CHOICES: list[dict[str, Any]] = [
    {"id": f"c{i}", "question": "Which?", "choices": ["yes", "no"], "answer": 0} for i in "ab"
]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_of: Callable[..., Any]
) -> Callable[..., tuple[Any, dict[str, list[Any]]]]:
    """Run `r1kit eval run ...` beside some files; returns the result and who was asked what."""
    for name, rows in {"sums": SUMS, "choices": CHOICES}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    for model in ("model", "grader"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").touch()  # a model must be there, whoever answers
    asked: dict[str, list[Any]] = {}

    def script(request: Any) -> str:
        content = request.prompt.messages[0].content
        if "Which?" in content:
            return "<think>\n</think>\\boxed{A}"
        first = content.split()[0]
        return f"<think>\n</think>\\boxed{{{int(first) + 1 if first.isdigit() else 0}}}"

    def grade(request: Any) -> str:
        reply = request.prompt.messages[0].content.split("==========")[1]
        return "GRADE: CORRECT" if "1" in reply else "GRADE: NOT_ATTEMPTED"

    def open_engine(settings: Any) -> Any:
        engine = engine_of(grade if settings.model == "grader" else script, settings.model)
        asked[settings.model] = engine.asked
        return engine

    monkeypatch.setattr("r1kit.teacher.engines.open_engine", open_engine)

    def call(*arguments: str) -> tuple[Any, dict[str, list[Any]]]:
        asked.clear()
        return CliRunner().invoke(app, ["run", "--model", "model", *arguments]), asked

    return call


def test_several_suites_share_an_engine_and_have_a_folder_each(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    result, asked = command("--suite", "sums.jsonl,choices.jsonl", "--out", "o", "--samples", "2")
    assert result.exit_code == 0, result.output
    assert len(asked["model"]) == 12
    sums = json.loads((tmp_path / "o/sums/scores.json").read_text())
    choices = json.loads((tmp_path / "o/choices/scores.json").read_text())
    assert (sums["suite"], sums["score"]["pass@1"]["value"]) == ("sums", 1.0)
    assert (choices["suite"], choices["score"]["problems"]) == ("choices", 2)
    kinds = [facts["provenance"]["extra"]["kind"] for facts in (sums, choices)]
    assert kinds == ["math", "choice"]
    assert sums["provenance"]["extra"]["rows_from"]["rows"] == 4
    assert choices["provenance"]["policy"] == {"seed": 0}
    summary = result.stdout[result.stdout.rindex("suite") :]
    assert "sums" in summary and "choices" in summary and "100.0 %" in summary
    rows = lines_of(tmp_path / "o/choices/answers.jsonl")
    assert [row["suite"] for row in rows] == ["choices"] * 4
    again, asked = command(
        "--suite", "sums.jsonl,choices.jsonl", "--out", "o", "--samples", "2", "--json"
    )
    assert asked["model"] == []
    assert {n: f["reused"] for n, f in json.loads(again.stdout)["suites"].items()} == {
        "sums": 8,
        "choices": 4,
    }


def test_adding_samples_reuses_the_first_ones(command: Callable[..., Any], tmp_path: Path) -> None:
    command("--suite", "sums.jsonl", "--out", "o", "--samples", "2")
    before = lines_of(tmp_path / "o/answers.jsonl")
    result, asked = command("--suite", "sums.jsonl", "--out", "o", "--samples", "5", "--json")
    facts = json.loads(result.stdout)
    assert (facts["asked"], facts["reused"]) == (12, 8)
    assert {request.index for request in asked["model"]} == {2, 3, 4}
    after = lines_of(tmp_path / "o/answers.jsonl")
    assert [row for row in after if row["sample"] < 2] == before


def test_r1s_defaults_are_asked_for(command: Callable[..., Any], data_dir: Path) -> None:
    arguments = ("--suite", "aime24,math500", "--data-dir", str(data_dir), "--limit", "1")
    result, asked = command(*arguments, "--out", "o")
    assert result.exit_code == 0, result.output
    assert [request.problem_id[:6] for request in asked["model"]] == ["aime24"] * 64 + [
        "test/p"
    ] * 4
    request = asked["model"][0]
    assert (request.sampling.temperature, request.sampling.top_p) == (0.6, 0.95)
    assert request.sampling.max_tokens == 32768
    (message,) = request.prompt.messages  # no system prompt
    assert message.role == "user"
    assert message.content.endswith(
        "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert request.prompt.prefill == "<think>\n"


def test_short_answers_need_a_judge_and_report_how_far_it_agrees(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    result, asked = command("--suite", "simpleqa")
    assert isinstance(result.exception, KitError)
    assert "simpleqa: another model has to judge its answers: name it with --judge-model" in str(
        result.exception
    )
    assert asked == {}
    arguments = ("--suite", "short:sums.jsonl", "--judge-model", "grader", "--out", "o")
    result, asked = command(*arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "o/scores.json").read_text())
    assert (facts["score"]["pass@1"]["value"], facts["not_attempted"]) == (0.25, 3)
    assert facts["provenance"]["policy"]["engine"]["model"] == "grader"
    agreement = facts["judge_agreement"]
    assert agreement["n"] >= 20 and 0 < agreement["value"] < 1 and "kappa" in agreement
    assert f"of {agreement['n']} labelled answers, kappa" in result.stdout
    assert "not attempted (counted as not right): 3 of 4" in result.stdout
    assert len(asked["grader"]) == agreement["n"] + 4
    assert asked["grader"][0].sampling.temperature == 0
    _, asked = command(*arguments)
    assert asked == {"model": [], "grader": []}


def test_a_judge_named_in_part_is_refused(command: Callable[..., Any]) -> None:
    result, _ = command("--suite", "tiny", "--judge-base-url", "http://127.0.0.1:1/v1")
    assert "--judge-base-url needs --judge-model" in str(result.exception)
    result, _ = command("--suite", "tiny", "--judge-model", "x", "--judge-engine", "openai")
    assert "--judge-engine openai needs --judge-base-url" in str(result.exception)


def test_an_engine_that_is_not_there_yet_names_what_works(command: Callable[..., Any]) -> None:
    result, _ = command("--engine", "vllm")
    assert isinstance(result.exception, KitError)
    assert "vllm serve model" in str(result.exception) and "--engine openai" in str(
        result.exception
    )


@pytest.fixture
def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_a_refused_endpoint_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{free_port}/v1"
    arguments = ["run", "--suite", "tiny", "--limit", "2", "--engine", "openai", "--model", "m"]
    began = time.monotonic()
    result = CliRunner().invoke(app, [*arguments, "--base-url", url, "--out", "o"])
    assert time.monotonic() - began < 3
    assert isinstance(result.exception, KitError)
    assert f"--base-url: 127.0.0.1:{free_port}: nothing listens there" in str(result.exception)
    with closing(sqlite3.connect(tmp_path / "o" / "traces.sqlite")) as ledger:
        assert ledger.execute("SELECT count(*) FROM attempts").fetchone() == (0,)


def test_an_endpoint_that_is_gone_is_not_missed_when_nothing_is_asked(
    command: Callable[..., Any], free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    arguments = ("--suite", "sums.jsonl", "--engine", "openai", "--base-url", url, "--out", "o")
    with socket.create_server(("127.0.0.1", free_port)):
        result, asked = command(*arguments)
        assert result.exit_code == 0 and len(asked["model"]) == 4
    result, asked = command(*arguments)
    assert result.exit_code == 0 and asked["model"] == []
    result, _ = command(*arguments, "--samples", "2")
    assert "nothing listens there" in str(result.exception)


def test_progress_in_a_log_tells_the_running_score(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1kit.eval.bars.LINE_S", 0.0)
    monkeypatch.setattr("r1kit.eval.live.BATCH_S", 0.0)
    result, _ = command("--suite", "sums.jsonl", "--out", "o")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("sums.jsonl: 4 problems, 1 answer each; sums.jsonl (digest ")
    assert lines[-1] == "sums: 4 of 4 answers; 4 judged: pass@1 100.0 % (51.0 to 100.0)"
    assert sum("judged: pass@1 100.0 %" in line for line in lines) > 1  # not at the end alone


def test_suites_are_parted_by_commas_but_a_file_of_that_name_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert suite_list("tiny, aime24") == ["tiny", "aime24"]
    (tmp_path / "a,b.jsonl").touch()
    assert suite_list("a,b.jsonl") == ["a,b.jsonl"]
    for wrong, says in (
        ("tiny,,aime24", "an empty name"),
        ("tiny,tiny", "tiny stands there twice"),
    ):
        with pytest.raises(KitError, match=says):
            suite_list(wrong)


def test_two_suites_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match="two suites would both go into own"):
        folders_of(["own", "own"], "m", None)
    assert folders_of(["tiny/gcd"], "org/m", None) == [Path("runs/eval/tiny-gcd-org-m")]
    assert folders_of(["a"], "m", tmp_path / "o") == [tmp_path / "o"]
    assert folders_of(["a", "b"], "m", tmp_path / "o") == [tmp_path / "o/a", tmp_path / "o/b"]


def start(out: Path) -> subprocess.Popen[bytes]:
    """The real command on the real embedded model, in a process of its own."""
    options = ["--suite", "tiny", "--limit", "10", "--samples", "3", "--max-tokens", "112"]
    return subprocess.Popen(
        [
            sys.executable, "-c", "from r1kit.distill.cli import main; main()", "eval", "run",
            *options, "--batch-size", "4", "--out", str(out),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def answered(out: Path) -> dict[str, tuple[str, str]]:
    """Key -> (raw response, when it was stored)."""
    path = out / "traces.sqlite"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        try:
            rows = ledger.execute("SELECT key, raw, created FROM responses").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return {}
    return {key: (raw, created) for key, raw, created in rows}


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(tmp_path: Path) -> None:
    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random()
    undisturbed = start(whole)
    process, enough = start(killed), draw.randint(1, 20)
    while process.poll() is None and len(answered(killed)) < enough:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = answered(killed)
    assert len(before) >= enough
    assert not (killed / "scores.json").exists()
    assert start(killed).wait(timeout=120) == undisturbed.wait(timeout=120) == 0

    after = answered(killed)
    assert {key: after[key] for key in before} == before  # nothing was answered twice
    facts, known = (json.loads((out / "scores.json").read_text()) for out in (killed, whole))
    assert (known["asked"], known["reused"]) == (30, 0)
    assert (facts["asked"], facts["reused"]) == (30 - len(before), len(before))
    for name in ("score", "by_source"):
        assert facts[name] == known[name]
    assert facts["score"]["pass@1"]["value"] > 0.5  # tiny-r1 solves its own problems
    assert (killed / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
