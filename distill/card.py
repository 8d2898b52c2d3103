"""The data set's card: a README.md whose header the Hugging Face hub and `datasets` read.

It states what a row is, where the rows come from and how they were made, from facts alone: the same
run gives the same card.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from statistics import median_low
from typing import Any

from jinja2 import Environment, StrictUndefined

from .facts import CardFacts
from .phrases import size, yaml_text
from .trace import Trace

COLUMNS: Mapping[str, str] = {
    "id": "the problem's id, and which of its samples this is",
    "messages": "the turns as `role` and `content`; the last one is the assistant's whole reply, "
    "its `<think>` block included",
    "problem_id": "the problem's id in its source",
    "source": "where the problem comes from",
    "level": "how hard its source says it is; empty where unknown",
    "answer": "the gold answer",
    "key": "SHA-256 of all that decided this sample; the ledger's key",
    "engine": "the kind of engine that answered",
    "model": "the model that answered, and its revision where one was declared",
    "prompt_tokens": "tokens read, as the engine counted them",
    "completion_tokens": "tokens written, thinking included",
    "verdict": "what the judge said of the answer",
    "tags": "what the filters found and this run's settings let pass",
}
"""What each column of the Parquet file means, in the file's order."""

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The hub's words for the number of rows, each up to its bound."""


def card_text(facts: CardFacts, kept: Sequence[Trace], *, size_bytes: int, license: str) -> str:
    """The card of a data set of `kept`, which takes `size_bytes` as Parquet."""
    environment = Environment(
        autoescape=False,  # Markdown; what stands in tables goes through `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    folder = resources.files(__package__) / "templates"
    template = environment.from_string((folder / "card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        facts=facts,
        header=yaml_text(_header(facts, len(kept), license)),
        license=license,
        rows=len(kept),
        problems=len({trace.problem.id for trace in kept}),
        size=size(size_bytes),
        columns=COLUMNS,
        sources=_sources(kept, facts.sources),
        settings=yaml_text(facts.settings),
    )


def cell(value: object) -> str:
    """Text that cannot leave its cell of a Markdown table, nor become markup in it."""
    text = " ".join(str(value).split())
    for sign, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(sign, harmless)
    return text


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((word for bound, word in SIZES if rows < bound), "n>10M")


def _header(facts: CardFacts, rows: int, license: str) -> dict[str, Any]:
    """What the hub reads: how to list the data set, and how to load it."""
    return {
        "license": license,
        "pretty_name": " ".join(facts.name.split()),
        "size_categories": [size_category(rows)],
        "task_categories": ["text-generation"],
        "tags": ["reasoning", "distillation", "r1kit"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "train.parquet"}],
            }
        ],
    }


def _sources(kept: Sequence[Trace], sampled: Mapping[str, int]) -> list[dict[str, Any]]:
    """One line per source: sampled and kept rows, problems, and the median length."""
    by_source: dict[str, list[Trace]] = {source: [] for source in sampled}
    for trace in kept:
        by_source.setdefault(trace.problem.source, []).append(trace)
    lines = []
    for source, mine in sorted(by_source.items()):
        lengths = [trace.completion.completion_tokens for trace in mine]
        lines.append(
            {
                "name": source,
                "sampled": sampled.get(source),
                "kept": len(mine),
                "problems": len({trace.problem.id for trace in mine}),
                "tokens": median_low(lengths) if lengths else None,
            }
        )
    return lines
