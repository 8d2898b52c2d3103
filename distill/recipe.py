"""Reading a recipe: YAML by path or by name, overrides laid over it, and every mistake named.

A later source wins: default, recipe, `--set`; a `--set` of a whole section goes before those of its
keys, in whatever order they were given. Nothing is read from the environment. Paths count from the
current directory.

    r1kit run quickstart --set sample.temperature=0.8 --set problems=mine.jsonl
"""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .. import KitError
from .settings import Recipe
from .wording import complaints, field_at, nearest, show


class RecipeError(KitError):
    """A recipe or an override is wrong. The message names the place and says what would do."""


def builtin_names() -> list[str]:
    """The recipes that come with the package."""
    files = resources.files(f"{__package__}.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load(name_or_path: str, overrides: list[str]) -> Recipe:
    """Read a recipe, lay the overrides over it, and check the result.

    Args:
        name_or_path: a built-in recipe's name, or the path of a YAML file.
        overrides: `key=value` with dots between sections; the value is read as YAML, except where
            the setting is text.

    Raises:
        RecipeError: anything about them is wrong; every complaint stands on a line of its own.
    """
    source, text = _read(name_or_path)
    values = _parse(source, text)
    sections_first = sorted(overrides, key=lambda o: o.partition("=")[0].count("."))
    keys = [_lay_over(values, override) for override in sections_first]
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(complaints(error, Recipe, source, keys)) from error


def _read(name_or_path: str) -> tuple[str, str]:
    """The name to use in messages, and the text."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or _is_file(path):
        try:
            return name_or_path, path.read_text(encoding="utf-8-sig")
        except IsADirectoryError as error:
            raise RecipeError(
                f"{path}: a directory without settings.yaml; give a recipe, or the directory of a "
                "run, which holds one"
            ) from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not UTF-8 text: {error}") from error
        except OSError as error:
            raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if name_or_path not in builtin_names():
        guess = nearest(name_or_path, builtin_names())
        raise RecipeError(
            f"no recipe is named {show(name_or_path)}"
            + (f"; did you mean '{guess}'?" if guess else ".")
            + f" Built in: {', '.join(builtin_names())}. Or give the path of a YAML file."
        )
    file = resources.files(f"{__package__}.recipes") / f"{name_or_path}.yaml"
    return f"{name_or_path}.yaml", file.read_text(encoding="utf-8")


def _is_file(path: Path) -> bool:
    """Whether it is a file; no file has a name that the file system refuses."""
    try:
        return path.is_file()
    except OSError:
        return False


class _Loader(yaml.SafeLoader):
    """YAML without its silent trap: a key given twice is an error, not the last one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _parse(source: str, text: str) -> dict[str, Any]:
    """The recipe as plain values."""
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{source}{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{source}: must hold settings as `key: value`, got {show(values)}")
    return values


def _lay_over(values: dict[str, Any], override: str) -> str:
    """Put one `key=value` into `values`; return its key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set needs key=value, got {override!r}")
    *sections, last = key.split(".")
    here = values
    for depth, section in enumerate(sections):
        inner = here.setdefault(section, {})
        if depth == 0 and section == "problems" and isinstance(inner, str):
            inner = here[section] = {"path": inner}  # the short form of that section
        if inner is None:
            inner = here[section] = {}
        if not isinstance(inner, dict):
            at = ".".join(sections[: depth + 1])
            raise RecipeError(f"--set {key}: {at} is no section, it is {show(inner)}")
        here = inner
    here[last] = _value(key, text)
    return key


def _value(key: str, text: str) -> Any:
    """The value of an override: text where the setting is text, YAML everywhere else."""
    if field_at(Recipe, key.split(".")) in (str, str | None, Path, Path | None):
        return text
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}: not YAML: {text!r}; quote it?") from error
