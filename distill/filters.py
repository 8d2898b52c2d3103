"""Filters: what speaks against one trace. They tag, they do not delete.

Every filter is a pure function of one trace and gives at most one tag, with its evidence: what was
seen, so that a reader of the report can disagree. `FilterSettings.exclude` says which tags keep a
trace out of the data set; a tag that is not listed is counted and shown, and the trace stays.

What another stage found out about the trace (the engine failed, the judge did not call it correct)
becomes a tag in the same way, so the waterfall knows one kind of reason.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from ..eval.language import mixed_scripts, script_shares
from ..eval.verdict import Verdict
from ..teacher.engine import THINK_CLOSE, THINK_OPEN, Completion, Finish, exceeds_context
from .phrases import one_line
from .repetition import compression_ratio, longest_line_run, repeated_spans
from .trace import Tag, Trace

EVIDENCE_LENGTH = 160
"""Characters of evidence; more would not fit a line of the report."""

SHORTEST_COMPRESSED = 1_000
"""Characters below which the compression ratio says little: zlib has not warmed up yet."""


class TagName(StrEnum):
    """Every word that a filter has for what it found, in the order of the waterfall."""

    ENGINE_ERROR = "engine_error"
    CONTEXT_EXCEEDED = "context_exceeded"
    TRUNCATED = "truncated"
    UNJUDGED = "unjudged"
    WRONG = "wrong"
    UNVERIFIABLE = "unverifiable"
    INFRA_ERROR = "infra_error"
    FORMAT = "format"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    LENGTH_UNKNOWN = "length_unknown"
    REPETITION = "repetition"
    MIXED_SCRIPTS = "mixed_scripts"


class FilterSettings(BaseModel):
    """What is tagged, and which tags keep a trace out of the data set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    exclude: tuple[TagName, ...] = Field(
        tuple(TagName),
        description="tags that keep a trace out; those of a missing answer always do",
    )
    require_thinking: bool = Field(True, description="an empty thinking block is tagged format")
    require_box: bool = Field(True, description="an answer without \\boxed{} is tagged format")
    min_tokens: int = Field(1, ge=1, description="fewer completion tokens are tagged too_short")
    max_tokens: int | None = Field(
        None, ge=1, description="more are tagged too_long; null: no limit"
    )
    max_repeated_share: float = Field(
        0.1, ge=0, le=1, description="share of the text in 40-word spans that occur 4 times or more"
    )
    max_line_repeats: int = Field(10, ge=1, description="times a block of lines may stand in a row")
    min_compression_ratio: float = Field(
        0.08, ge=0, le=1, description="zlib's ratio; looked at from 1,000 characters on"
    )
    max_foreign_share: float = Field(
        0.005, ge=0, le=1, description="share of letters in scripts that the problem is not in"
    )


def tag(trace: Trace, settings: FilterSettings) -> tuple[Tag, ...]:
    """All that speaks against one trace, in the order of the waterfall; empty if nothing does."""
    if trace.completion.finish is Finish.ERROR:  # there is no text that could be looked at
        error = trace.completion.error or "the engine gave no reason"
        name = TagName.CONTEXT_EXCEEDED if exceeds_context(error) else TagName.ENGINE_ERROR
        return (_tag(name, error),)
    found = (look(trace, settings) for look in FILTERS)
    return tuple(each for each in found if each is not None)


def excluding(tags: tuple[Tag, ...], settings: FilterSettings) -> Tag | None:
    """The tag that keeps a trace out of the data set: the first in the waterfall, or None."""
    words = {TagName.ENGINE_ERROR, TagName.CONTEXT_EXCEEDED, *settings.exclude}
    order = {name: place for place, name in enumerate(TagName)}
    counted = [each for each in tags if each.name in words]
    return min(counted, key=lambda each: order[TagName(each.name)], default=None)


def truncated(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The reply used up its tokens. An outcome of its own: neither an answer nor an error."""
    if trace.completion.finish is not Finish.LENGTH:
        return None
    return _tag(TagName.TRUNCATED, f"cut off after {trace.completion.completion_tokens:,} tokens")


def not_correct(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The judge did not call the answer correct; the tag is its verdict, or that there is none."""
    judgement = trace.judgement
    if trace.completion.finish is Finish.LENGTH:
        return None  # it has no answer to judge, and its own tag says so
    if judgement is None:
        return _tag(TagName.UNJUDGED, "no judge has seen this answer")
    if judgement.verdict is Verdict.CORRECT:
        return None
    found = judgement.extracted or "nothing"
    seen = f"answered {found}, the gold answer is {trace.problem.answer}"
    return _tag(TagName(judgement.verdict), f"{seen}: {judgement.reason}")


def bad_format(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The reply is not one closed block of thinking followed by an answer."""
    fault = format_fault(trace.completion, settings)
    return None if fault is None else _tag(TagName.FORMAT, fault)


def format_fault(completion: Completion, settings: FilterSettings) -> str | None:
    """Say what is wrong with the reply's format, the gravest first; None where nothing is."""
    text = completion.text
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    if opened > closed == 0:
        return "the thinking is never closed"
    if opened > 1 or closed > 1:
        return f"the thinking is opened {opened} times and closed {closed} times"
    if closed > opened:
        return "the thinking is closed but never opened; prompt.prefill can open it"
    if opened and text.index(THINK_OPEN) > text.index(THINK_CLOSE):
        return "the thinking is closed before it is opened"
    if opened and text.partition(THINK_OPEN)[0].strip():
        return f"text stands before the thinking: {text.partition(THINK_OPEN)[0].strip()!r}"
    if settings.require_thinking and not (completion.thinking or "").strip():
        return "the thinking is empty" if opened else "there is no thinking"
    if not (completion.answer or "").strip():
        return "no answer follows the thinking"
    if settings.require_box and "\\boxed" not in (completion.answer or ""):
        return f"the answer holds no \\boxed{{}}: {(completion.answer or '').strip()!r}"
    return None


def bad_length(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The reply has fewer or more tokens than the settings allow."""
    count = trace.completion.completion_tokens
    if count == 0 and trace.completion.text.strip():
        if settings.min_tokens == 1 and settings.max_tokens is None:
            return None
        return _tag(TagName.LENGTH_UNKNOWN, "the server counted no tokens, so no limit can be held")
    if count < settings.min_tokens:
        return _tag(TagName.TOO_SHORT, f"{count:,} tokens, fewer than {settings.min_tokens:,}")
    if settings.max_tokens is not None and count > settings.max_tokens:
        return _tag(TagName.TOO_LONG, f"{count:,} tokens, more than {settings.max_tokens:,}")
    return None


def repetition(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The reply runs in a loop, by one of the three measures of `repetition.py`."""
    text = trace.completion.text
    spans = repeated_spans(text)
    if spans.share > settings.max_repeated_share:
        seen = f"{spans.share:.0%} of the text is spans that come {spans.times} times"
        return _tag(TagName.REPETITION, f"{seen}: {spans.example!r}")
    run = longest_line_run(text)
    if run.times > settings.max_line_repeats:
        seen = " / ".join(run.block)
        return _tag(TagName.REPETITION, f"{run.times} times in a row: {seen!r}")
    ratio = compression_ratio(text)
    if len(text) >= SHORTEST_COMPRESSED and ratio < settings.min_compression_ratio:
        return _tag(TagName.REPETITION, f"zlib makes {len(text):,} characters {ratio:.1%} as large")
    return None


def scripts(trace: Trace, settings: FilterSettings) -> Tag | None:
    """The reply is written in scripts that its problem is not written in.

    A problem without words, such as a bare formula, allows any one script.
    """
    text = trace.completion.text.replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip()
    shares, known = script_shares(text), set(script_shares(trace.problem.statement))
    if len(shares) < 2 and (not known or known.issuperset(shares)):
        return None  # the usual case, settled without looking for the place
    mixing = mixed_scripts(text)
    if known:
        foreign = sum(each for script, each in shares.items() if script not in known)
        beside = f"the problem is in {_listed(known)}"
    else:
        foreign, beside = mixing.foreign_share, f"most are in {mixing.main}"
    if foreign <= settings.max_foreign_share:
        return None
    seen = f"{foreign:.1%} of the letters are in another script, {beside}"
    found = mixing.span if mixing.main in known or not known else text
    return _tag(TagName.MIXED_SCRIPTS, f"{seen}: {found!r}")


FILTERS: tuple[Callable[[Trace, FilterSettings], Tag | None], ...] = (
    truncated,
    not_correct,
    bad_format,
    bad_length,
    repetition,
    scripts,
)


def _listed(scripts: Iterable[str]) -> str:
    return " and ".join(sorted(scripts))


def _tag(name: TagName, evidence: str) -> Tag:
    """A tag whose evidence fits one line."""
    return Tag(name.value, one_line(evidence, EVIDENCE_LENGTH))
