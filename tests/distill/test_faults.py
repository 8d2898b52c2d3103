"""Faults from outside, injected for real: servers that fail, signals, full disks, broken ledgers.

Each ends with a message (where, what, what would do) and an exit code, and loses nothing: the same
command, or the one that the message names, goes on to the same result.
"""

import errno
import importlib.util
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "fake_run.py"
PROBLEMS = 24


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


HTTP = load(HERE.parent / "teacher" / "test_openai_engine.py")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over a file of sums, scored on a file of other sums."""
    for name, form, count in (
        ("sums", "What is {} plus 3?", PROBLEMS),
        ("held", "Add {} to 3.", 4),
    ):
        rows = [
            {"id": f"{name}{i}", "problem": form.format(100 + i), "answer": 103 + i}
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "sums.yaml"
    path.write_text(
        f"name: sums\n"
        f"problems: {tmp_path}/sums.jsonl\n"
        f"prompt: {{template: '{{statement}}', prefill: ''}}\n"
        f"sample: {{samples_per_problem: 1, max_tokens: 64}}\n"
        f"eval: {{suite: {tmp_path}/held.jsonl, max_tokens: 64}}\n"
    )
    return path


def start(recipe: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "run", str(recipe), "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(recipe: Path, out: Path, *more: str, **environment: str) -> tuple[int, str, str]:
    """Run to the end: exit code, what was printed, what was said."""
    process = start(recipe, out, *more, **environment)
    printed, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    return process.returncode, printed, said


def answers(out: Path) -> dict[str, str]:
    """The raw answers of the ledger, by key; empty while there is no ledger yet."""
    try:
        with sqlite3.connect(f"file:{out / 'traces.sqlite'}?mode=ro", uri=True) as ledger:
            return dict(ledger.execute("SELECT key, raw FROM responses"))
    except sqlite3.Error:
        return {}


def kept(out: Path) -> list[tuple[str, str]]:
    """Id and reply of every row of the data set."""
    import pyarrow.parquet as pq

    rows = pq.read_table(out / "dataset" / "train.parquet").to_pylist()
    return [(row["id"], row["messages"][-1]["content"]) for row in rows]


def counts(out: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return scores


# Endpoints.


def add(body: dict[str, Any]) -> Any:
    """The reply of a server that can add."""
    words = body["messages"][0]["content"].replace("?", "").replace(".", "").split()
    total = sum(int(word) for word in words if word.isdigit())
    return HTTP.whole(f"<think>\nI add.\n</think>\n\\boxed{{{total}}}")


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    servers: list[Any] = []

    def make(script: Callable[[dict[str, Any], int], Any]) -> Any:
        servers.append(HTTP.Server(script))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def at(server: Any, **more: Any) -> list[str]:
    """The settings of a teacher behind a server."""
    settings = {"kind": "openai", "model": "r1", "base_url": server.url, **more}
    return [word for key, value in settings.items() for word in ("--set", f"teacher.{key}={value}")]


def test_an_endpoint_that_goes_away_is_named_and_another_one_goes_on(
    recipe: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    def script(body: dict[str, Any], count: int) -> Any:
        if len(dying.bodies) == 10:
            dying.leave()
        return add(body)

    dying, out = serve(script), tmp_path / "out"
    code, _, said = finish(recipe, out, *at(dying, concurrency=2, retries=0))
    assert code == 2
    assert f"r1kit: {dying.url}: no connection: " in said and "Connect call failed" in said
    assert "is the server running, and is base_url right?" in said
    assert f"Kept: done: problems; answers so far: {out}/traces.sqlite. The same command" in said
    before = answers(out)
    assert 10 <= len(before) == len(dying.bodies) < PROBLEMS
    healthy = serve(lambda body, count: add(body))
    code, _, said = finish(recipe, out, *at(healthy))
    assert code == 0, said
    assert answers(out).items() >= before.items()
    asked = [body["messages"][0]["content"] for body in healthy.bodies]
    assert len(asked) == PROBLEMS - len(before) + 4  # and the four that the teacher is scored on
    assert counts(out)["kept"] == PROBLEMS


FAULTS = {
    "What is 100 plus": ("500", "HTTP 500: overload"),
    "What is 101 plus": ("429", "HTTP 429: slow down"),
    "What is 102 plus": ("garbage", "the body is not JSON"),
    "What is 103 plus": ("empty-choice", "the choice is empty"),
    "What is 104 plus": ("empty-choices", "the list of choices is empty"),
    "What is 105 plus": ("half-a-body", "the connection broke"),
}
TOO_LONG = HTTP.Reply(
    '{"error": {"message": "This model\'s maximum context length is 9 tokens."}}', 400
)


def test_replies_that_are_no_answers_are_counted_kept_and_asked_again_when_wanted(
    recipe: Path, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    def script(body: dict[str, Any], count: int) -> Any:
        statement = body["messages"][0]["content"]
        if statement.startswith("What is 106 plus"):
            return TOO_LONG
        fault = next((f for start, (f, _) in FAULTS.items() if statement.startswith(start)), None)
        return add(body) if fault is None else HTTP.FAULTS[fault]

    ill, out = serve(script), tmp_path / "out"
    code, printed, said = finish(recipe, out, *at(ill, retries=1))
    assert code == 0, said
    assert counts(out)["removed"] == {"engine_error": 6, "context_exceeded": 1}
    assert (
        counts(out)["kept"] == PROBLEMS - 7 == len(answers(out)) - 3 * 4
    )  # three models are scored
    printed = " ".join(printed.split())
    assert "answer 17 (engine error 6, context exceeded 1)" in printed
    assert f"6 samples got no usable answer ({ill.url}: " in printed
    assert "`--from sample` asks again" in printed
    assert "1 samples do not fit into the teacher's context" in printed
    assert "maximum context length is 9 tokens" in printed
    with sqlite3.connect(out / "traces.sqlite") as ledger:
        failed = dict(
            ledger.execute("SELECT problem_id, error FROM attempts WHERE outcome = 'error'")
        )
    for number, (_, words) in enumerate(FAULTS.values()):
        assert words in failed[f"sums{number}"]
    healthy = serve(lambda body, count: add(body))
    code, _, said = finish(recipe, out, "--from", "sample", *at(healthy, retries=1))
    assert code == 0, said
    assert counts(out)["kept"] == PROBLEMS
    assert len(healthy.bodies) == 7


# Signals.


@pytest.mark.parametrize(("stage", "needs"), [("verify", 1), ("train", 0), ("evaluate", 1)])
def test_ctrl_c_in_a_stage_says_what_is_kept_and_the_rest_is_done_later(
    stage: str, needs: int, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(recipe, out, FAKE_SLOW=stage)
    begun = out / "stages" / f"{stage}.begun"
    give_up = time.monotonic() + 60
    while not begun.exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(0.5 * needs)  # in the middle of it
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"r1kit: stopped during {stage}. Kept: done: problems, sample" in said
    assert f"answers so far: {out}/traces.sqlite. The same command goes on from there." in said
    assert not (out / "stages" / f"{stage}.json").exists()
    held = answers(out)
    assert len(held) >= PROBLEMS
    code, _, said = finish(recipe, out)
    assert code == 0, said
    assert answers(out).items() >= held.items()
    whole = tmp_path / "whole"
    assert finish(recipe, whole)[0] == 0
    assert kept(out) == kept(whole)


def test_killed_at_random_moments_the_real_engine_ends_with_the_same_traces(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\n"
        "problems: {generator: tiny, limit: 20}\n"
        "prompt: {template: '{statement}'}\n"
        "teacher: {batch_size: 4}\n"
        "sample: {samples_per_problem: 1, top_p: 1.0, max_tokens: 112}\n"
        "eval: {limit: 5, max_tokens: 112}\n"
    )

    def build(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "distill", "build", str(path), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "FAKE_REAL": "1"},
        )

    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random()
    undisturbed = build(whole)
    process, enough = build(killed), draw.randint(1, 12)
    while process.poll() is None and len(answers(killed)) < enough:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(answers(killed)) >= enough
    process = build(killed)
    time.sleep(draw.uniform(0, 3))
    process.kill()
    process.wait()
    assert build(killed).wait(timeout=120) == undisturbed.wait(timeout=120) == 0
    assert len(answers(whole)) == 20
    assert {k: text(v) for k, v in answers(killed).items()} == {
        k: text(v) for k, v in answers(whole).items()
    }
    assert kept(killed) == kept(whole)
    assert len(kept(whole)) >= 15  # tiny-r1 solves its own problems


def text(raw: str) -> str:
    content: str = json.loads(raw)["choices"][0]["message"]["content"]
    return content


# Disks.


def test_a_ledger_that_may_not_grow_stops_the_run_and_space_lets_it_go_on(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "run", str(recipe), "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "FAKE_DELAY_S": "0.02"},  # so that the commits are many and small
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)),
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert f"r1kit: {out}/traces.sqlite: the disk " in said
    assert "all that was acknowledged is kept: make space (`df -h " in said
    assert "Kept: done: problems; answers so far: " in said
    before = answers(out)
    assert 0 < len(before) < PROBLEMS
    code, _, said = finish(recipe, out)
    assert code == 0, said
    assert answers(out).items() >= before.items()
    assert counts(out)["sampled"] == PROBLEMS


def test_a_disk_that_fills_up_during_build_leaves_no_half_data_set(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1kit.distill.console import Console
    from r1kit.distill.recipe import load as load_recipe
    from r1kit.distill.run import DiskFull, run
    from r1kit.distill.workspace import Stage, Workspace

    out, fakes = tmp_path / "out", load(SCRIPT)
    settings, fsync = load_recipe(str(recipe), []), os.fsync

    def full(descriptor: int) -> None:  # a delayed allocation fails when it is written out
        if "dataset" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    def go() -> None:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            console = Console(stream=nowhere, interactive=False)
            run(settings, Workspace(out), console, parts=fakes.parts(), until=Stage.BUILD)

    with monkeypatch.context() as disk, pytest.raises(DiskFull) as stopped:
        disk.setattr(os, "fsync", full)
        go()
    said = str(stopped.value)
    assert "no space left on the disk, during build. Kept: done: problems, sample, verify" in said
    assert stopped.value.exit_code == 2
    assert not (out / "dataset").exists()
    held = answers(out)
    go()
    assert answers(out) == held
    assert len(kept(out)) > 0


def test_an_output_that_is_full_is_no_traceback(recipe: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "run", str(recipe), "--out", str(tmp_path / "out")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert "r1kit: the output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "scores.json").exists()


# Ledgers.


def sampled(recipe: Path, out: Path) -> dict[str, str]:
    """A run that was stopped after its sampling."""
    command = [sys.executable, str(SCRIPT), "distill", "sample", str(recipe), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return answers(out)


def test_a_damaged_ledger_is_refused_and_the_advice_saves_what_can_be_read(
    recipe: Path, tmp_path: Path
) -> None:
    out, ledger = tmp_path / "out", tmp_path / "out" / "traces.sqlite"
    before = sampled(recipe, out)
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'attempts'"
        ).fetchone()
    connection.close()
    with ledger.open("r+b") as file:  # one page of the attempts, and one further back
        for page in (root - 1, ledger.stat().st_size // 4096 - 3):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    code, _, said = finish(recipe, out)
    assert code == 2
    assert f"r1kit: {ledger}: the ledger is damaged (" in said
    assert f"`r1kit teacher salvage {ledger}`" in said and "--from sample" in said
    advice = [sys.executable, str(SCRIPT), "teacher", "salvage", str(ledger)]
    done = subprocess.run(advice, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    after = answers(out)
    assert f"{ledger}: {len(after)} answers are readable; damaged file: {out}/damaged-1-" in (
        done.stdout
    )
    assert 0 < len(after) < len(before) and after.items() <= before.items()
    assert (out / "damaged-1-traces.sqlite").exists()
    code, _, said = finish(recipe, out, "--from", "sample")
    assert code == 0, said
    marker = json.loads((out / "stages" / "sample.json").read_text())
    assert marker["counts"]["asked"] == PROBLEMS - len(after)
    assert answers(out).items() >= before.items()


def test_a_ledger_of_another_schema_is_refused_and_moved_away_the_run_samples_afresh(
    recipe: Path, tmp_path: Path
) -> None:
    out, ledger = tmp_path / "out", tmp_path / "out" / "traces.sqlite"
    before = sampled(recipe, out)
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()
    code, _, said = finish(recipe, out)
    assert code == 2
    advice = f"mkdir {out}/old && mv {ledger}* {out}/old/"
    assert "made by an older r1kit (schema 0, this one reads 1)" in said and f"`{advice}`" in said
    subprocess.run(advice, shell=True, check=True)
    code, _, said = finish(recipe, out)
    assert code == 0, said
    assert answers(out).items() >= before.items()
    assert counts(out)["removed"].get("engine_error", 0) == 0


def test_a_complete_run_needs_its_ledger_no_more(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert finish(recipe, out)[0] == 0
    (out / "traces.sqlite").unlink()
    code, _, said = finish(recipe, out)
    assert code == 0 and "nothing to do, every stage is done" in said
    assert not (out / "traces.sqlite").exists()


# Published problems, and a teacher that cannot solve them.


@pytest.mark.parametrize(
    "name", ["aime/aime24.jsonl", "aime/aime25.jsonl", "math500/test.jsonl", "gsm8k/test.jsonl"]
)
def test_published_problems_end_with_counts_per_reason_and_lose_nothing(
    name: str, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = [f"problems={data_dir / name}", "problems.limit=25", "train.epochs=1"]
    more = [word for setting in settings for word in ("--set", setting)]
    code, printed, said = finish(Path("quickstart"), out, *more)
    removed = counts(out)["removed"]
    assert sum(removed.values()) + counts(out)["kept"] == counts(out)["sampled"] == 25
    assert len(answers(out)) >= 25
    assert (out / "report.html").exists() and f"report: {out}/report.html" in printed
    if counts(out)["kept"] == 0:
        assert code == 3
        reasons = ", ".join(f"{count} {reason}" for reason, count in removed.items())
        assert f"r1kit: {out}: no trace was kept of 25 sampled: {reasons}. Nothing was" in said
    else:  # the quick engine hits an answer now and then
        assert code == 0


def test_a_benchmark_that_is_scored_on_too_is_told_before_sampling_and_named_at_the_end(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, said = finish(recipe, out, "--set", f"eval.suite={tmp_path}/sums.jsonl")
    assert code == 3
    note = f"note: {PROBLEMS} of {PROBLEMS} problems stand in {tmp_path}/sums.jsonl, which no"
    assert said.index(note) < said.index("  sample        ")
    assert f"{counts(out)['removed']['contaminated']} contaminated" in said
    assert "stands in a suite that models are scored on; eval.suite and decontaminate" in said
