"""The wheel: it holds every file of the package and nothing else, and works where only it is.

The wheel is built from a copy of the working tree and installed into a fresh environment, which
finds the dependencies, and nothing of r1kit, where the tests run. Nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("distill", "students", "eval", "teacher", "kernels")
NOT_SOURCE = ("__pycache__", "*.egg-info", ".git", ".venv", "*_cache", ".hypothesis", "runs")
BUILT = ("build", "dist", "r1kit")
"""What an earlier build left in the root: old files there would get into the new wheel."""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no r1kit but the one of its own environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree, as a fresh checkout has it."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE, *BUILT))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    out = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--wheel", "--no-isolation")
    done = run(sys.executable, *build, "--outdir", out, source, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel in it."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, symlinks=True, with_pip=False)
    place = {"base": str(home), "platbase": str(home)}
    python = Path(sysconfig.get_path("scripts", "venv", place)) / "python"
    install = ("--disable-pip-version-check", "install", "--no-deps", "--no-index")
    done = run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    # A path in a .pth file brings the packages along, but not that folder's own .pth files, so the
    # finder of an editable install stays behind.
    here = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    fresh = Path(sysconfig.get_path("purelib", "venv", place))
    (fresh / "dependencies.pth").write_text("".join(f"{path}\n" for path in here))
    return python.parent


def test_the_wheel_holds_every_file_of_the_package_and_no_other(source: Path, wheel: Path) -> None:
    files = [source / "__init__.py", source / "py.typed"]
    for folder in FOLDERS:
        files += [path for path in (source / folder).rglob("*") if path.is_file()]
    want = {PurePosixPath("r1kit", path.relative_to(source).as_posix()) for path in files}
    assert PurePosixPath("r1kit/teacher/tiny/tiny-r1/model.safetensors") in want
    with zipfile.ZipFile(wheel) as held:
        got = {PurePosixPath(name) for name in held.namelist()}
    about = {path for path in got if path.parts[0].endswith(".dist-info")}
    assert sorted(want - (got - about)) == []  # add it to `packages` or `package-data`
    assert sorted((got - about) - want) == []
    assert {path.name for path in about} >= {"METADATA", "entry_points.txt", "LICENSE"}


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 12e6  # 7.6 MB in 2026-11, nearly all of it tiny-r1's weights


def test_the_installed_package_lies_in_its_own_environment(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "python", "-c", "import r1kit; print(r1kit.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(scripts.parent), done.stdout + done.stderr


def test_the_installed_help_answers_in_under_four_tenths_of_a_second(
    scripts: Path, tmp_path: Path
) -> None:
    quickest_s = float("inf")
    for _ in range(10):  # a busy machine makes it slower, and nothing makes it quicker
        began = time.perf_counter()
        answer = run(scripts / "r1kit", "--help", cwd=tmp_path)
        quickest_s = min(quickest_s, time.perf_counter() - began)
        assert answer.returncode == 0, answer.stderr
        if quickest_s < 0.4:
            break
    assert quickest_s < 0.4


def test_the_installed_quick_start_can_be_planned(scripts: Path, tmp_path: Path) -> None:
    answer = run(scripts / "r1kit", "run", "quickstart", "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "runs/quickstart: what a run would do" in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_installed_teacher_answers(scripts: Path, tmp_path: Path) -> None:
    evaluate = ["eval", "run", "--suite", "tiny", "--limit", "1", "--model", "tiny-r1"]
    answer = run(scripts / "r1kit", *evaluate, "--out", tmp_path / "out", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "out" / "traces.sqlite").exists()
