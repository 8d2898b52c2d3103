"""Filter, dedup and decontaminate stages: what is not worth training on is tagged, never deleted.

Reads   the run's traces with their verdicts
Writes  tags into the ledger; duplicates.json and contaminated.json with the evidence
"""

import json
from collections import Counter
from typing import Any

from . import gather
from .context import Context
from .decontaminate import contaminated, held_out
from .dedup import duplicates
from .filters import tag
from .funnel import CONTAMINATED, DUPLICATE, survivors
from .store import filter_name, tagger, traces
from .trace import Trace
from .workspace import write_json


def run_filter(context: Context, digest: str) -> dict[str, Any]:
    """Tag every trace; return how often each tag was given."""
    found: Counter[str] = Counter()
    name, rows = tagger("filter", digest), []
    total = _num_samples(context)
    with context.console.bar("filter", total, "traces") as bar:
        for trace in traces(context, judged=True):
            words = [each.name for each in tag(trace, context.recipe.filter)]
            found.update(words)
            rows.append((trace.key, name, words))
            bar.advance()
    context.ledger.put_tags(rows)
    return {"tags": dict(found.most_common())}


def run_dedup(context: Context, digest: str) -> dict[str, Any]:
    """Find exact repetitions among the traces that no filter objects to."""
    with context.console.bar("dedup", None, "traces") as bar:
        passed = _surviving(context)
        found = duplicates(passed)
        bar.to(len(passed))
    write_json(context.workspace.duplicates, found)
    name = tagger("dedup", digest)
    context.ledger.put_tags((key, name, [DUPLICATE]) for key in found)
    return {
        "removed": {DUPLICATE: len(found)} if found else {},
        "left": len(passed) - len(found),
    }


def run_decontaminate(context: Context, digest: str) -> dict[str, Any]:
    """Find traces whose problem stands in a suite that models are scored on."""
    problems = held_out(context.recipe)
    repeated = json.loads(context.workspace.duplicates.read_text(encoding="utf-8"))
    kept = [trace for trace in _surviving(context) if trace.key not in repeated]
    with context.console.bar("decontaminate", len(kept), "traces") as bar:
        found = contaminated(kept, problems, context.recipe.decontaminate.n)
        bar.to(len(kept))
    write_json(context.workspace.contaminated, found)
    name = tagger("decontaminate", digest)
    context.ledger.put_tags((key, name, [CONTAMINATED]) for key in found)
    return {
        "removed": {CONTAMINATED: len(found)} if found else {},
        "left": len(kept) - len(found),
        "suites": list(problems),
        "reasons": gather.fall(context, gather.sifted(context)).counts,
    }


def _surviving(context: Context) -> list[Trace]:
    """The traces that no tag of the filters excludes."""
    tagged = traces(context, judged=True, tags_of=filter_name(context))
    return survivors(tagged, context.recipe.filter)


def _num_samples(context: Context) -> int:
    with context.workspace.samples.open(encoding="utf-8") as lines:
        return sum(1 for _ in lines)
