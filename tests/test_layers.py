"""The floors of the package: imports point down, are relative, and touch no foreign names.

The table of `MAY_USE` is the rule that the folders are built on; everything else here keeps the
repository importable as `r1kit` alone, also by a Python that was started in its root.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_USE = {
    "distill": {"students", "eval", "teacher"},
    "students": {"eval", "teacher"},
    "eval": {"teacher"},
    "teacher": {"kernels"},
    "kernels": set[str](),
}
"""Folder -> the folders below it that its files may import."""

OF_THE_ROOT = {"KitError", "__version__"}
"""What the root's `__init__.py` offers to every folder but `kernels`."""

UNDER_THE_KERNELS = {"torch", "triton"}
"""What `kernels` may import beside the standard library, outside its commands and its `bench/`."""


def violations(source: str, place: str) -> list[str]:
    """What the imports of one file do that they may not.

    Args:
        source: the file's text.
        place: its path within the package, such as `teacher/tiny/card.py`.
    """
    package = place.split("/")[:-1]
    folder = package[0] if package else ""
    found = []
    for line, level, module, names in imports(source):
        if level == 0:
            found += [f"{place}:{line}: {why}" for why in _foreign(folder, place, module)]
            continue
        if level > len(package) + 1:
            found.append(f"{place}:{line}: {'.' * level}{module} leaves the package")
            continue
        target = [*package[: len(package) + 1 - level], *filter(None, module.split("."))]
        for name in [target[0]] if target else names:
            if why := _not_below(folder, name, at_the_root=not target):
                found.append(f"{place}:{line}: {why}")
    return found


def imports(source: str) -> Iterator[tuple[int, int, str, list[str]]]:
    """Line, number of leading dots, module and names of every import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or "", [alias.name for alias in node.names]


def _foreign(folder: str, place: str, module: str) -> list[str]:
    """What is wrong with an absolute import."""
    top = module.split(".")[0]
    if top == "r1kit":
        return [f"{module}: imports inside the package are relative"]
    if top in MAY_USE:
        return [f"{module}: a folder of ours under a bare name, or a foreign package that it hides"]
    plain = top in sys.stdlib_module_names or top in UNDER_THE_KERNELS
    if folder == "kernels" and not plain and place.split("/")[1] not in ("cli.py", "bench"):
        return [f"{module}: kernels may import {' and '.join(sorted(UNDER_THE_KERNELS))} only"]
    return []


def _not_below(folder: str, name: str, *, at_the_root: bool) -> str:
    """Why `folder` may not import `name`, a folder or a name of the root; empty where it may."""
    if name in MAY_USE:
        if name == folder or name in MAY_USE.get(folder, ()):
            return ""
        return f"{folder or 'the root'} may not import {name}: imports point down"
    if folder == "kernels":
        return f"kernels may import nothing of ours, and imports {name}"
    if at_the_root and name in OF_THE_ROOT:
        return ""
    return f"{name}: neither a folder nor one of {', '.join(sorted(OF_THE_ROOT))}"


def package_files() -> list[Path]:
    """Every Python file of the package."""
    return [ROOT / "__init__.py", *(file for f in MAY_USE for file in (ROOT / f).rglob("*.py"))]


def test_every_import_points_down_and_is_relative() -> None:
    files = package_files()
    assert len(files) > 50  # the folders were found
    found = [
        each
        for file in files
        for each in violations(file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("place", "source", "says"),
    [
        ("eval/x.py", "from ..distill.run import run", "eval may not import distill"),
        ("eval/math/x.py", "from ...students import sft", "eval may not import students"),
        ("teacher/x.py", "from .. import eval", "teacher may not import eval"),
        ("teacher/x.py", "def f():\n    from ..eval import pool", "x.py:2: teacher may not import"),
        ("students/x.py", "from ..kernels.router import route", "students may not import kernels"),
        ("kernels/x.py", "from ..teacher import engine", "kernels may not import teacher"),
        ("kernels/x.py", "from .. import KitError", "kernels may import nothing of ours"),
        ("kernels/x.py", "import transformers", "kernels may import torch and triton only"),
        ("__init__.py", "from .distill import cli", "the root may not import distill"),
        ("distill/x.py", "from r1kit.eval import pool", "imports inside the package are relative"),
        ("distill/x.py", "import os, r1kit", "imports inside the package are relative"),
        ("distill/x.py", "from kernels import get_kernel", "under a bare name"),
        ("distill/x.py", "import eval.pool as pool", "under a bare name"),
        ("distill/x.py", "from ...somewhere import x", "...somewhere leaves the package"),
        ("distill/x.py", "from .. import helpers", "helpers: neither a folder nor one of KitError"),
        ("distill/x.py", "from ..helpers import x", "helpers: neither a folder nor one of"),
    ],
)
def test_the_check_sees_an_import_that_is_not_allowed(place: str, source: str, says: str) -> None:
    (found,) = violations(source, place)
    assert says in found


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("distill/x.py", "from ..eval.math.verify import verify_answers\nfrom .. import KitError"),
        (
            "eval/math/x.py",
            "from ..pool import Pool\nfrom . import equal\nfrom .equal import equal",
        ),
        ("teacher/tiny/x.py", "from ...kernels.router import route\nimport torch\nimport re"),
        ("kernels/x.py", "import math\nimport triton.language as tl\nfrom .fp8 import quantize"),
        ("kernels/cli.py", "import typer"),
        ("kernels/bench/x.py", "from vllm import _custom_ops"),
    ],
)
def test_the_check_lets_an_allowed_import_pass(place: str, source: str) -> None:
    assert violations(source, place) == []


def test_no_test_imports_a_folder_under_a_bare_name() -> None:
    found = [
        f"{file.name}:{line}: {module}"
        for file in (ROOT / "tests").rglob("*.py")
        for line, level, module, _ in imports(file.read_text(encoding="utf-8"))
        if level == 0 and module.split(".")[0] in MAY_USE
    ]
    assert found == []


def test_kernels_stays_a_directory_that_hides_no_package_of_that_name() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_a_file_carries_the_name_of_its_idea() -> None:
    assert [file for file in package_files() if file.name == "utils.py"] == []


def test_every_folder_with_python_is_a_floor_and_says_what_lives_there() -> None:
    left_behind = {"build", "dist", "runs", "r1kit"}  # by builds and runs; git ignores them
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith((".", "__"))
        if path.name not in left_behind and next(path.rglob("*.py"), None) is not None
    }
    assert folders - {"tests"} <= set(MAY_USE)
    for folder in MAY_USE:
        assert (ROOT / folder / "README.md").is_file(), folder
