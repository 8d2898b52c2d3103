"""Rows of a data set on huggingface.co, through the `datasets` package and its cache."""

from collections.abc import Iterator
from typing import Any

from .suite import Hub, Suite, SuiteError


def hub_rows(suite: Suite, hub: Hub) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, fields), downloading what the cache lacks.

    Raises:
        SuiteError: it cannot be loaded; the message says why and what would do.
    """
    import datasets

    try:
        rows = datasets.load_dataset(hub.id, hub.config, split=hub.split)
    except Exception as error:
        # packages below it raise whatever they like, and each means that there are no rows
        first_line = (str(error).strip() or "no reason given").splitlines()[0]
        raise SuiteError(
            f"{suite.name}: {hub.id} cannot be loaded from huggingface.co "
            f"({type(error).__name__}: {first_line[:200]}); {without_hub(suite)}"
        ) from error
    yield from enumerate((dict(row) for row in rows), start=1)


def hub_place(hub: Hub) -> str:
    """A data set in words."""
    config = f" ({hub.config})" if hub.config else ""
    return f"huggingface.co/datasets/{hub.id}{config}, split {hub.split}"


def without_hub(suite: Suite) -> str:
    """How to go on with a file."""
    where = f" {suite.origin}" if suite.origin else ""
    return f"or put the rows into DIR/{suite.files[0]} and give --data-dir DIR.{where}".rstrip()
