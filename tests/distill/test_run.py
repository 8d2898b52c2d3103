"""The runner, driven by the real command line with a quick engine: resuming, refusing, ending."""

import importlib.util
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from r1kit.distill.console import Console
from r1kit.distill.recipe import load
from r1kit.distill.run import DiskFull, FileRefused, run
from r1kit.distill.settings import Recipe
from r1kit.distill.workspace import Stage, Workspace
from r1kit.teacher.engine import EngineError

SCRIPT = Path(__file__).with_name("fake_run.py")
PROBLEMS = 60


def load_fakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_run", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKES = load_fakes()


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe over a file of sums, scored on a file of other sums."""
    rows = [{"id": f"p{i}", "problem": f"What is {i} plus {i * 7 % 100}?"} for i in range(PROBLEMS)]
    held_out = [{"id": f"h{i}", "problem": f"Please add {i} to {i * 3}."} for i in range(10)]
    for row, i in zip(rows, range(PROBLEMS), strict=True):
        row["answer"] = str(i + i * 7 % 100)
    for row, i in zip(held_out, range(10), strict=True):
        row["answer"] = str(4 * i)
    write_rows(tmp_path / "problems.jsonl", rows)
    write_rows(tmp_path / "held_out.jsonl", held_out)
    path = tmp_path / "sums.yaml"
    path.write_text(
        f"name: sums\n"
        f"problems: {tmp_path}/problems.jsonl\n"
        f"prompt: {{template: '{{statement}}'}}\n"
        f"sample: {{samples_per_problem: 2, max_tokens: 64}}\n"
        f"eval: {{suite: {tmp_path}/held_out.jsonl, max_tokens: 64}}\n"
    )
    return path


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "run", str(recipe), "--out", str(out), *more]


def finished(
    recipe: Path, out: Path, *more: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, out, *more),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def kept_keys(out: Path) -> list[str]:
    import pyarrow.parquet as pq

    keys: list[str] = pq.read_table(out / "dataset" / "train.parquet")["key"].to_pylist()
    return keys


def answers(out: Path) -> int:
    with sqlite3.connect(f"file:{out / 'traces.sqlite'}?mode=ro", uri=True) as ledger:
        (count,) = ledger.execute("SELECT count(*) FROM responses").fetchone()
    return int(count)


def in_process(recipe: Recipe, out: Path, **more: Stage) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(stream=nowhere, interactive=False)
        run(recipe, Workspace(out), console, parts=FAKES.parts(), **more)


@pytest.fixture
def unbroken(recipe_file: Path, tmp_path: Path) -> Path:
    """A run that nothing disturbed."""
    in_process(load(str(recipe_file), []), tmp_path / "unbroken")
    return tmp_path / "unbroken"


def test_a_run_writes_the_figures_that_programs_read(unbroken: Path) -> None:
    scores = json.loads((unbroken / "scores.json").read_text())
    assert scores["sampled"] == 2 * PROBLEMS
    assert scores["kept"] == len(kept_keys(unbroken)) > 0
    assert scores["sampled"] - scores["kept"] == sum(scores["removed"].values())
    for who in ("teacher", "student_before", "student_after"):
        assert scores[who]["n"] == 10
        low, high = scores[who]["ci95"]
        assert 0 <= low <= scores[who]["pass@1"] <= high <= 1
    assert scores["stages"].keys() == {str(stage) for stage in Stage} - {"report"}
    assert all(stage["seconds"] >= 0 for stage in scores["stages"].values())
    run_json = json.loads((unbroken / "run.json").read_text())
    assert run_json["environment"]["peak_mib"] > 10
    assert run_json["environment"]["versions"]["pydantic"]
    assert (unbroken / "report.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_a_second_run_does_nothing_and_says_so_within_five_seconds(
    recipe_file: Path, tmp_path: Path
) -> None:
    first = finished(recipe_file, tmp_path / "out")
    assert first.returncode == 0, first.stderr
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json*")}
    began = time.monotonic()
    second = finished(recipe_file, tmp_path / "out")
    assert time.monotonic() - began < 5
    assert second.returncode == 0, second.stderr
    assert "nothing to do, every stage is done" in second.stderr
    assert "heavy modules: []" in second.stderr
    assert second.stdout == first.stdout  # the same table, and where the report is
    assert f"report: {tmp_path / 'out' / 'report.html'}" in second.stdout
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json*")}


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(5, 72))]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_traces(
    seed: int, recipe_file: Path, unbroken: Path, tmp_path: Path
) -> None:
    out, moments = tmp_path / "killed", random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(
            command(recipe_file, out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "FAKE_DELAY_S": "0.005"},
        )
        time.sleep(moments.uniform(0.2, 1.8))
        process.kill()
        process.wait()
    last = finished(recipe_file, out)
    assert last.returncode == 0, last.stderr
    assert kept_keys(out) == kept_keys(unbroken)
    scores = [json.loads((path / "scores.json").read_text()) for path in (out, unbroken)]
    for name in ("teacher", "removed", "kept", "sampled"):
        assert scores[0][name] == scores[1][name]


def test_resuming_asks_only_for_what_is_missing(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = finished(recipe_file, out, FAKE_FAIL_AFTER="50")
    assert broken.returncode == 2
    assert "r1kit: http://127.0.0.1:1/v1: gone; the last error was: refused" in broken.stderr
    assert f"answers so far: {out}/traces.sqlite. The same command goes on" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert answers(out) == 50
    whole = finished(recipe_file, out)
    assert whole.returncode == 0, whole.stderr
    marker = json.loads((out / "stages" / "sample.json").read_text())
    assert marker["counts"]["asked"] == 2 * PROBLEMS - 50
    assert marker["resumed"]


def test_ctrl_c_leaves_with_130_and_says_what_is_kept(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(recipe_file, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKE_DELAY_S": "0.05"},
    )
    deadline = time.monotonic() + 20
    while not (out / "traces.sqlite").exists() or answers_or_none(out) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "r1kit: stopped during sample. Kept: done: problems; answers so far:" in said
    assert "Traceback" not in said
    assert answers(out) >= 5


def answers_or_none(out: Path) -> int:
    try:
        return answers(out)
    except sqlite3.Error:
        return 0


def test_two_runs_on_one_directory_the_second_refuses(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Workspace(out).hold():
        second = finished(recipe_file, out)
    assert second.returncode == 2
    assert f"{out}: another run (process {os.getpid()}) is at work there" in second.stderr
    assert finished(recipe_file, out).returncode == 0


def test_a_changed_setting_redoes_what_it_feeds_and_mixes_no_answers(
    recipe_file: Path, unbroken: Path
) -> None:
    def seconds_and_digest(stage: Stage) -> str:
        return (unbroken / "stages" / f"{stage}.json").read_text()

    before = {stage: seconds_and_digest(stage) for stage in Stage}
    in_process(load(str(recipe_file), ["sample.temperature=0.9"]), unbroken)
    assert seconds_and_digest(Stage.PROBLEMS) == before[Stage.PROBLEMS]
    assert seconds_and_digest(Stage.SAMPLE) != before[Stage.SAMPLE]
    assert json.loads((unbroken / "scores.json").read_text())["sampled"] == 2 * PROBLEMS
    hot = set(kept_keys(unbroken))
    assert answers(unbroken) > 4 * PROBLEMS  # the old answers stay in the ledger
    in_process(load(str(recipe_file), []), unbroken)
    assert not hot & set(kept_keys(unbroken))
    marker = json.loads(seconds_and_digest(Stage.SAMPLE))
    assert marker["counts"]["asked"] == 0  # and serve again when the setting comes back


def test_a_setting_that_cannot_change_a_result_redoes_nothing(
    recipe_file: Path, unbroken: Path
) -> None:
    recipe = load(
        str(recipe_file),
        ["teacher.concurrency=2", "teacher.batch_size=3", "verify.workers=1", "eval.batch_size=9"],
    )
    before = (unbroken / "stages" / "report.json").read_text()
    in_process(recipe, unbroken)
    assert (unbroken / "stages" / "report.json").read_text() == before


def test_from_redoes_a_stage_and_asks_nothing_again(recipe_file: Path, unbroken: Path) -> None:
    held, kept = answers(unbroken), kept_keys(unbroken)
    verified = (unbroken / "stages" / "verify.json").stat().st_mtime_ns
    in_process(load(str(recipe_file), []), unbroken, start=Stage.FILTER)
    assert (unbroken / "stages" / "verify.json").stat().st_mtime_ns == verified
    assert (answers(unbroken), kept_keys(unbroken)) == (held, kept)


def test_where_no_trace_survives_the_table_is_honest_and_nothing_is_lost(
    recipe_file: Path, tmp_path: Path
) -> None:
    out, wrong = tmp_path / "out", tmp_path / "wrong"
    wrong.mkdir()
    (
        wrong / "config.json"
    ).touch()  # a teacher must be there, whatever the quick engine makes of it
    ended = finished(recipe_file, out, "--set", f"teacher.model={wrong}")
    assert ended.returncode == 3
    scores = json.loads((out / "scores.json").read_text())
    removed = scores["removed"]
    assert sum(removed.values()) == scores["sampled"] == 2 * PROBLEMS
    assert scores["kept"] == 0
    assert scores["student_after"] is None and scores["teacher"] is None
    assert scores["teacher_on_problems"]["pass@1"] == 0
    assert scores["teacher_on_problems"]["n"] == PROBLEMS
    said = ended.stderr
    assert f"no trace was kept of {2 * PROBLEMS} sampled: {removed['wrong']} wrong, " in said
    assert f"All answers stay in {out}/traces.sqlite" in said
    assert "train         skipped: no trace was kept" in said
    assert answers(out) == 2 * PROBLEMS
    assert (out / "report.html").exists() and not (out / "dataset").exists()
    again = finished(recipe_file, out, "--set", f"teacher.model={wrong}")
    assert again.returncode == 3
    assert "nothing to do" in again.stderr


def test_a_full_disk_is_named_and_a_rerun_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = load(str(recipe_file), [])
    in_process(recipe, out, until=Stage.PROBLEMS)
    (out / ".samples.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as stopped:
        in_process(recipe, out)
    assert str(stopped.value).startswith(f"{out}/samples.jsonl: no space left on the disk")
    assert "during sample. Kept: done: problems; answers so far:" in str(stopped.value)
    assert not (out / "samples.jsonl").exists()
    assert answers(out) == 2 * PROBLEMS
    in_process(recipe, out)
    assert json.loads((out / "scores.json").read_text())["sampled"] == 2 * PROBLEMS


def test_a_file_that_may_not_be_written_is_named(recipe_file: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", load(str(recipe_file), [])
    in_process(recipe, out, until=Stage.PROBLEMS)
    (out / ".samples.jsonl.partial").mkdir()  # root may write everything, but not over this
    with pytest.raises(FileRefused, match=r"samples\.jsonl: Is a directory, during sample\. Kept:"):
        in_process(recipe, out)


def test_an_edited_problem_file_is_noticed(
    recipe_file: Path, unbroken: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    for row in rows[:10]:
        row["answer"] = "12345"
    write_rows(tmp_path / "problems.jsonl", rows)
    kept = kept_keys(unbroken)
    in_process(load(str(recipe_file), []), unbroken)
    now = kept_keys(unbroken)
    assert set(now) < set(kept)  # the corrected gold answer is judged anew, with the old answers
    assert answers(unbroken) == 2 * PROBLEMS + 4 * 10  # two teachers and students, one retrained


def test_an_unreachable_teacher_makes_no_marker(recipe_file: Path, tmp_path: Path) -> None:
    def refuse(settings: object) -> None:
        raise EngineError("http://127.0.0.1:1/v1: refused")

    parts = FAKES.Parts(open_engine=refuse)
    recipe, workspace = load(str(recipe_file), []), Workspace(tmp_path / "out")
    with (
        Path(os.devnull).open("w") as nowhere,
        pytest.raises(EngineError, match="refused") as stopped,
    ):
        run(recipe, workspace, Console(stream=nowhere, interactive=False), parts=parts)
    assert "Kept: done: problems" in stopped.value.__notes__[0]
    assert Workspace(tmp_path / "out").marker(Stage.SAMPLE) is None
