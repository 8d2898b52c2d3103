"""What an installed r1kit holds: all of its code, and the files that the code reads."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = [ROOT / name for name in ("distill", "students", "eval", "teacher", "kernels")]


def test_every_folder_of_code_is_listed_as_a_package() -> None:
    holds_code = {file.parent for folder in FOLDERS for file in folder.rglob("*.py")}
    names = {".".join(("r1kit", *folder.relative_to(ROOT).parts)) for folder in holds_code}
    assert names | {"r1kit", "r1kit.kernels"} == set(TOOL["packages"])


def test_every_file_of_the_packages_is_installed_with_them() -> None:
    packages = [ROOT.joinpath(*name.split(".")[1:]) for name in TOOL["packages"]]
    patterns = TOOL["package-data"]["*"]
    installed = {file for p in packages for pattern in patterns for file in p.glob(pattern)}
    present = {
        file
        for folder in FOLDERS
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert present - installed == set()
