"""What a person reads when a setting is wrong: where, what was found, and what would do.

quickstart.yaml: sample.temprature: unknown setting; did you mean 'temperature'?
--set sample.max_tokens: must be a whole number, got 'many'
"""

import difflib
import types
from collections.abc import Iterable, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

WANTED = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a section of settings",
    "model_type": "must be a section of settings",
    "model_attributes_type": "must be a section of settings",
}
"""pydantic's error type -> what would do."""

BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}
"""pydantic's error type -> (the words, the key of the bound in its context)."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None where nothing comes close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is known where nothing comes close."""
    names = sorted(known)
    if (guess := nearest(word, names)) is not None:
        return f"; did you mean '{guess}'?"
    return f"; known here: {', '.join(names)}" if names else ""


def field_at(model: type[BaseModel], path: Sequence[str | int]) -> Any:
    """The annotation that stands at `path` inside `model`, or None where there is none."""
    here: Any = model
    for part in path:
        section = section_of(here)
        if section is None or part not in section.model_fields:
            return None
        here = section.model_fields[str(part)].annotation
    return here


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings model that an annotation holds, looking through `X | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((s for a in get_args(annotation) if (s := section_of(a))), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def complaints(
    error: ValidationError, model: type[BaseModel], source: str, overrides: Sequence[str]
) -> str:
    """All that is wrong, one line each, each naming the file or the --set it came from."""
    return "\n".join(
        f"{_origin(problem['loc'], source, overrides)}: {_say(problem, model)}"
        for problem in error.errors()
    )


def _origin(loc: tuple[str | int, ...], source: str, overrides: Sequence[str]) -> str:
    """`quickstart.yaml: sample.temperature`, or `--set sample.temperature` where that set it."""
    key = ".".join(str(part) for part in loc)
    for override in overrides:
        if _within(key, override) or _within(override, key):
            return f"--set {key or override}"
    return f"{source}: {key}" if key else source


def _within(key: str, section: str) -> bool:
    """Whether `key` is `section` or lies inside it."""
    return key == section or key.startswith(section + ".")


def _say(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """One complaint: what would do, and what was found."""
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        section = section_of(field_at(model, problem["loc"][:-1]))
        known = section.model_fields if section else ()
        return f"unknown setting{did_you_mean(str(problem['loc'][-1]), known)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context.get("error", problem["msg"]))
    if kind in BOUNDS:
        words, name = BOUNDS[kind]
        return f"must be {words} {context[name]}, got {show(found)}"
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"])
        guess = nearest(str(found), expected.replace("'", "").replace(" or ", ", ").split(", "))
        hint = f"; did you mean '{guess}'?" if guess else ""
        return f"must be {expected}, got {show(found)}{hint}"
    if kind in WANTED:
        return f"{WANTED[kind]}, got {show(found)}"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {show(found)}"


def show(found: object) -> str:
    """A value the way a person wrote it, cut to a readable length."""
    if found is None:
        return "nothing"
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
