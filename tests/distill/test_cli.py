"""The command line: quick to answer, one message for a mistake, nothing heavy too early."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

R1KIT = [sys.executable, "-m", "r1kit.distill.cli"]


def r1kit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*R1KIT, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd)


def test_help_names_every_command(tmp_path: Path) -> None:
    answer = r1kit("--help", cwd=tmp_path)
    assert answer.returncode == 0
    for command in ("run", "doctor", "distill", "teacher", "students", "eval"):
        assert f"\n  {command} " in answer.stdout


HEAVY = {
    *("torch", "transformers", "tokenizers", "safetensors", "datasets", "accelerate", "peft"),
    *("numpy", "pyarrow", "sympy", "math_verify", "aiohttp", "starlette", "uvicorn", "triton"),
    *("pydantic", "yaml", "jinja2", "plotly"),
}


@pytest.mark.parametrize(
    ("arguments", "typers_own"),
    [
        (["--help"], set()),
        (["run", "--help"], {"pydantic"}),  # typer checks a command's arguments with it
        (["distill", "--help"], {"pydantic"}),
        (["teacher", "--help"], {"pydantic"}),
        (["students", "sft", "--help"], {"pydantic"}),
        (["eval", "run", "--help"], {"pydantic"}),
    ],
)
def test_help_imports_nothing_heavy(
    arguments: list[str], typers_own: set[str], tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.argv = ['r1kit', *{arguments}]\n"
        "from r1kit.distill.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print(*{HEAVY - typers_own} & {{*sys.modules}}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stderr.strip(), done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "quikstart"], "no recipe is named 'quikstart'; did you mean 'quickstart'?"),
        (["run", "no.yaml"], "no.yaml: cannot be read: No such file or directory"),
        (
            ["run", "quickstart", "--set", "sample.temprature=1"],
            "--set sample.temprature: unknown setting; did you mean 'temperature'?",
        ),
        (["run", "quickstart", "--from", "tran"], "--from tran: no such stage; did you mean"),
        (["run", "quickstart", "--set", "problems=no.jsonl"], "no.jsonl: no such file"),
        (["run", "quickstart", "--set", "eval.suite=tniy"], "tniy: neither a suite (tiny, "),
        (
            ["run", "quickstart", "--set", "train.model=./gone"],
            "train.model: ./gone: no such directory; built in: tiny-qwen",
        ),
        (["run", "quickstart", "--out", "full"], "full: holds files and is no run of r1kit"),
        (["run", "quickstart", "--out", "full", "--dry-run"], "full: holds files and is no run"),
        (
            ["run", "quickstart", "--set", "problems=broken.jsonl", "--dry-run"],
            "broken.jsonl:2: ",
        ),
        (
            ["run", "quickstart", "--set", "problems.families=[gdc]", "--dry-run"],
            "problems.families: there is no family 'gdc'; ",
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "broken.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": \n')
    answer = r1kit(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"r1kit: {says}")
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(tmp_path: Path) -> None:
    answer = r1kit("run", "quickstart", "--dry-run", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    plan = json.loads(answer.stdout)
    assert set(plan["stages"].values()) == {"not done"}
    assert plan["tokens"].startswith("at most ")
    assert plan["time_of_sampling"].startswith("unknown")
    assert plan["cost"] == "0 (local)"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_no_price_of_an_endpoint(tmp_path: Path) -> None:
    endpoint = ["teacher.kind=openai", "teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=r1"]
    more = [word for setting in endpoint for word in ("--set", setting)]
    answer = r1kit("run", "quickstart", "--dry-run", "--json", *more, cwd=tmp_path)
    assert json.loads(answer.stdout)["cost"] == "unknown: no price for r1"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            [*R1KIT, "run", "quickstart", "--dry-run"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    assert "Traceback" not in done.stderr


def test_the_version_is_told(tmp_path: Path) -> None:
    from r1kit import __version__

    assert r1kit("--version", cwd=tmp_path).stdout == f"r1kit {__version__}\n"


@pytest.mark.parametrize("folder", ["teacher", "students", "eval"])
def test_every_folders_commands_are_mounted(folder: str, tmp_path: Path) -> None:
    answer = r1kit(folder, "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "Commands" in answer.stdout
