"""The command line: quick to answer, one message for a mistake, nothing heavy too early."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

OPENAI = ["--set", "teacher.kind=openai", "--set", "teacher.model=r1"]
URL = ["--set", "teacher.base_url=http://127.0.0.1:1/v1"]
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
        (
            ["run", "quickstart", "--set", "problems=twice.jsonl", "--dry-run"],
            "twice.jsonl:2: the id 'a' already stands on line 1",
        ),
        (
            ["run", "quickstart", "--set", "problems=named.jsonl", "--dry-run"],
            "named.jsonl:1: no answer (looked for 'expected_answer' or 'answer' or 'final_answer' "
            "or 'gold'); the line has Problem, The Answer; did you mean 'The Answer'? "
            "Map it with --set 'problems.fields.answer=The Answer'\n",
        ),
        (
            ["run", "quickstart", "--set", "eval.suite=named.jsonl", "--dry-run"],
            "named.jsonl:1: no answer (looked for 'expected_answer' or 'answer' or 'final_answer' "
            "or 'gold'); the line has Problem, The Answer; did you mean 'The Answer'? "
            "Rename the field 'The Answer' to 'answer'\n",
        ),
        (
            ["run", "quickstart", "--set", "teacher.model=tiny-r2", "--dry-run"],
            "teacher: tiny-r2: no such directory; did you mean 'tiny-r1'? Anything else is a direc",
        ),
        (
            ["run", "quickstart", "--set", "teacher.concurency=3"],
            "--set teacher.concurency: unknown setting; did you mean 'concurrency'?",
        ),
        (
            ["run", "quickstart", *OPENAI, "--set", "teacher.base_url=localhost:1", "--dry-run"],
            "teacher: base_url: 'localhost:1' is not a URL such as http://127.0.0.1:8000/v1",
        ),
        (
            ["run", "quickstart", *OPENAI, *URL, "--set", "teacher.api_key_env=R1KIT_UNSET"],
            "teacher: api_key_env: the environment variable R1KIT_UNSET is not set; set it with",
        ),
        (["run", "quickstart", "--out", "named.jsonl"], "named.jsonl: is a file; a run needs a"),
        (
            ["run", "quickstart", "--out", "named.jsonl/run"],
            "named.jsonl/run: cannot be written: Not a directory",
        ),
        (["run", "full"], "no recipe is named 'full'. Built in: "),
        (["run", "./full/."], "no recipe is named './full/.'"),
        (["run", "x" * 5000], "no recipe is named 'xxx"),
        (["eval", "run", "--suite", "nosuch"], "nosuch: neither a suite (tiny, "),
        (["eval", "run", "--suite", "sum.jsonl", "--model", "tiny-r2"], "tiny-r2: no such direc"),
        (
            ["eval", "run", "--suite", "sum.jsonl", "--out", "named.jsonl"],
            "--out named.jsonl: cannot be made a directory: File exists",
        ),
        (["eval", "run", "--top-p", "0"], "--top-p must lie in (0, 1], got 0.0"),
        (["eval", "run", "--engine", "vlm"], "--engine: "),
        (["students", "sft", "--data", "x", "--out", "y", "--set", "sed=1"], "--set sed: unknown"),
        (
            ["students", "sft", "--data", "x", "--out", "y", "--set", "epochs=.inf"],
            "--set epochs: input should be a finite number, got inf",
        ),
        (
            ["students", "sft", "--data", "x", "--out", "y", "--set", f"seed={2**64}"],
            "--set seed: input should be less than 9223372036854775808",
        ),
        (["teacher", "serve", "--model", "tiny-r2"], "tiny-r2: no such directory; did you mean"),
        (["teacher", "serve", "--engine", "openai"], "kind openai needs base_url, such as http"),
        (["teacher", "chat", "--base-url", "http://h/v1"], "base_url is for kind openai, and kind"),
        (["teacher", "salvage", "nosuch.sqlite"], "nosuch.sqlite: no such file; name a ledger"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    row = '{"id": "a", "problem": "1+1?", "answer": "2"}\n'
    (tmp_path / "sum.jsonl").write_text(row)
    (tmp_path / "twice.jsonl").write_text(row + row)
    (tmp_path / "named.jsonl").write_text('{"Problem": "1+1?", "The Answer": "2"}\n')
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runn", "quickstart"], "Did you mean 'run'?"),
        (["run", "quickstart", "--dryrun"], "No such option: --dryrun"),
        (["run"], "Missing argument 'RECIPE'"),
        (["distill", "smaple", "quickstart"], "Did you mean 'sample'?"),
        (["eval", "run", "--limit", "0"], "greater than or equal to 1"),
        (["eval", "run", "--temperature", "hot"], "valid number"),
        (["students", "sft", "--out", "x"], "Missing option '--data'"),
        (["teacher", "serve", "--port", "99999"], "less than or equal to 65535"),
        (["teacher", "train-tiny"], "Missing option '--out'"),
    ],
)
def test_a_mistyped_command_line_is_explained_too(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    answer = r1kit(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert says in answer.stderr and "Traceback" not in answer.stderr


def test_what_the_suite_of_the_evaluation_will_take_away_is_told_before_it_is_paid(
    tmp_path: Path,
) -> None:
    rows = [f'{{"problem": "What is {i} plus {i}?", "answer": "{2 * i}"}}\n' for i in range(9)]
    (tmp_path / "sums.jsonl").write_text("".join(rows))
    (tmp_path / "some.jsonl").write_text("".join(rows[:4]))
    settings = ["--set", "problems=sums.jsonl", "--set", "eval.suite=some.jsonl"]
    told = r1kit("run", "quickstart", *settings, "--dry-run", cwd=tmp_path)
    assert "note: 4 of 9 problems stand in some.jsonl, which no student may" in told.stdout
    others = r1kit("run", "quickstart", *settings[:2], "--dry-run", cwd=tmp_path)
    assert others.returncode == 0 and "note:" not in others.stdout


def test_the_directory_of_a_run_is_as_good_as_its_recipe(tmp_path: Path) -> None:
    from r1kit.distill.recipe import load

    (tmp_path / "mine").mkdir()
    stored = yaml.safe_dump(load("quickstart", ["sample.max_tokens=7"]).model_dump(mode="json"))
    (tmp_path / "mine" / "settings.yaml").write_text(stored)
    (tmp_path / "mine" / "stages").mkdir()
    for command in (["run"], ["distill", "report"]):
        answer = r1kit(*command, "mine", "--dry-run", "--json", cwd=tmp_path)
        plan = json.loads(answer.stdout)
        assert plan["run"] == "mine"
        assert plan["tokens"].endswith("(7 each)")
    other = r1kit("run", "./mine/stages", cwd=tmp_path)
    assert other.returncode == 2
    assert "mine/stages: a directory without settings.yaml; give a recipe, or" in other.stderr


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
