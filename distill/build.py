"""Build stage: the kept traces as a data set that `datasets` loads, with its card.

Reads   the kept traces, in the order in which they came
Writes  train.parquet   one row per trace, see `SCHEMA`
        README.md       the data set's card, with the header that the Hugging Face hub reads

Both appear together or not at all: they are written into `OUT.partial`, which is then renamed. The
same traces give the same bytes, as long as pyarrow is the same version.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import KitError
from ..eval.problems import Problem
from ..teacher.engine import Identity, Prompt
from .card import card_text
from .facts import CardFacts
from .trace import Trace

ROWS_PER_GROUP = 1_000
"""Rows of a Parquet row group: what is held in memory twice, and what a reader can skip."""

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
    ]
)
"""The columns; `card.COLUMNS` says what each one means."""


class BuildError(KitError):
    """The data set cannot be built. The message says which trace stands in the way."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built.

    Attributes:
        path: the Parquet file.
        rows: its rows.
        size_bytes: its size.
    """

    path: Path
    rows: int
    size_bytes: int


def build(
    kept: Sequence[Trace],
    out_dir: Path,
    *,
    card: CardFacts,
    identity: Identity,
    prompt: Callable[[Problem], Prompt],
    license: str = "other",
) -> BuildResult:
    """Write the kept traces and their card to `out_dir`, replacing what an earlier build left.

    Args:
        kept: the traces to train on; their order is the order of the rows.
        identity: the model that answered.
        prompt: how a problem was put to it; its turns are the first messages of a row.
        license: of the rows, as the hub spells it; `other` refers to where they come from.

    Raises:
        BuildError: there is no trace, two have one id, or one has no reply. Nothing is written.
    """
    _check(kept)
    partial = out_dir.with_name(f"{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    table = partial / "train.parquet"
    with pq.ParquetWriter(table, SCHEMA, compression="zstd", version="2.6") as writer:
        for start in range(0, len(kept), ROWS_PER_GROUP):
            group = kept[start : start + ROWS_PER_GROUP]
            rows = [row(trace, identity, prompt(trace.problem)) for trace in group]
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    size = table.stat().st_size
    text = card_text(card, kept, size_bytes=size, license=license)
    (partial / "README.md").write_text(text, encoding="utf-8")
    for name in ("train.parquet", "README.md"):
        _sync(partial / name)
    _replace(partial, out_dir)
    return BuildResult(out_dir / "train.parquet", len(kept), size)


def row(trace: Trace, identity: Identity, prompt: Prompt) -> dict[str, Any]:
    """One trace as the columns of `SCHEMA`. The last message is the whole reply."""
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    problem, completion = trace.problem, trace.completion
    return {
        "id": row_id(trace),
        "messages": [*turns, {"role": "assistant", "content": completion.text}],
        "problem_id": problem.id,
        "source": problem.source,
        "level": problem.level,
        "answer": problem.answer,
        "key": trace.key,
        "engine": identity.kind,
        "model": f"{identity.model}@{identity.revision}" if identity.revision else identity.model,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "verdict": None if trace.judgement is None else trace.judgement.verdict.value,
        "tags": [tag.name for tag in trace.tags],
    }


def row_id(trace: Trace) -> str:
    """The row's id: the problem's, and which of its samples this is."""
    return f"{trace.problem.id}#{trace.index}"


def _check(kept: Sequence[Trace]) -> None:
    """Refuse what no student could be trained on, before anything is written."""
    if not kept:
        raise BuildError("no trace was kept, so there is nothing to build")
    seen: set[str] = set()
    for trace in kept:
        if (name := row_id(trace)) in seen:
            raise BuildError(f"two traces are called {name}; problem ids must be unique in a run")
        seen.add(name)
        if not trace.completion.text.strip():
            raise BuildError(f"{name}: the reply is empty; filter.exclude must hold 'format'")


def _replace(partial: Path, out_dir: Path) -> None:
    """Put the finished folder in place of an earlier one; a crash between leaves one of them."""
    old = out_dir.with_name(f"{out_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        out_dir.rename(old)
    partial.rename(out_dir)
    _sync(out_dir.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make sure that a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
