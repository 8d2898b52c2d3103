"""What an lm-eval suite leaves: scores.json, answers.jsonl, and a table on the terminal."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from ..teacher.collect import Collected
from .lm_eval_run import FINAL_SHARE, PREFIX, LmEvalResult, Metric, TaskScore
from .score import wilson
from .verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from .lm_eval_bridge import Sampled

Z95 = NormalDist().inv_cdf(0.975)
"""The two-sided 95 % point of the normal distribution."""

FINISH = {"truncated": "length", "infra_error": "error"}
"""Outcome -> how answers.jsonl says why a reply ended, where that is not by itself."""

SHARES = ("acc", "em", "exact_match", "f1", "pass@", "prompt_", "inst_")
"""Beginnings of the names of metrics that are shares, shown in percent."""


def not_final(result: LmEvalResult, name: str) -> str:
    """Why there is no final score; empty where there is one."""
    if result.is_final:
        return ""
    failed = sum(score.infra_errors for score in result.scores if not score.is_group)
    why = result.collected.last_error if result.collected else None
    return (
        f"{PREFIX}{name}: {failed:,} of {len(result.sampled):,} samples got no usable answer from "
        f"the engine, more than {FINAL_SHARE:.0%}, so there is no final score; run the same "
        "command again, which asks for those only" + (f" (the last error: {why})" if why else "")
    )


def facts_of(
    result: LmEvalResult, name: str, model: str, *, seed: int, limit: int | None, thinking: bool
) -> dict[str, Any]:
    """The scores for programs. `score` is the first metric of the task or group that was named."""
    named = next((score for score in result.scores if score.task == name), None)
    collected = result.collected or Collected(0, 0)
    return {
        "model": model,
        "suite": f"{PREFIX}{name}",
        "is_final": result.is_final,
        "score": None
        if named is None or not named.metrics
        else {
            **_plain(named.metrics[0], named.n),
            "n": named.n,
            "samples": named.samples,
            "truncated": named.truncated,
            "no_answer": named.no_answer,
            "infra_errors": named.infra_errors,
        },
        "tasks": {
            score.task: {
                **asdict(score),
                "metrics": [_plain(metric, score.n) for metric in score.metrics],
            }
            for score in result.scores
        },
        "notices": list(result.notices),
        "provenance": {
            "lm_eval": result.lm_eval_version,
            "engine": asdict(result.identity),
            "sampling": asdict(result.sampling) if result.sampling else None,
            "thinking": thinking,
            "seed": seed,
            "limit": limit,
        },
        "asked": collected.answered + collected.failed,
        "reused": collected.already,
    }


def _plain(metric: Metric, n: int) -> dict[str, Any]:
    interval = interval_of(metric, n)
    return {
        "metric": metric.name,
        "filter": metric.filter,
        "value": metric.value,
        "se": metric.se,
        "ci95": list(interval) if interval else None,
    }


def interval_of(metric: Metric, n: int) -> tuple[float, float] | None:
    """The 95 % interval from the standard error; None where the metric has none.

    Where all questions of a share came out alike, or there is but one, it is Wilson's: "all the
    same" does not mean "certain".
    """
    if _is_share(metric) and not metric.se:
        return wilson(metric.value, n) if n and metric.value in (0, 1) else None
    if metric.se is None:
        return None
    low, high = metric.value - Z95 * metric.se, metric.value + Z95 * metric.se
    return (max(0.0, low), min(1.0, high)) if _is_share(metric) else (low, high)


def _is_share(metric: Metric) -> bool:
    return metric.name.startswith(SHARES) and 0 <= metric.value <= 1


def write_result(folder: Path, facts: dict[str, Any], result: LmEvalResult) -> None:
    """Write answers.jsonl and then scores.json, each whole."""
    answers = "".join(
        json.dumps(_row(sample, facts["suite"]), ensure_ascii=False) + "\n"
        for sample in result.sampled
    )
    scores = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    for name, text in (("answers.jsonl", answers), ("scores.json", scores)):
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def _row(sample: "Sampled", suite: str) -> dict[str, Any]:
    """One sample in the words of every answers.jsonl; one that is right in part has no verdict."""
    verdict = {1.0: Verdict.CORRECT, 0.0: Verdict.WRONG, None: None}.get(sample.value)
    if sample.outcome == "infra_error":
        verdict = Verdict.INFRA_ERROR
    return {
        "id": f"{sample.task}/{sample.doc_id}",
        "suite": suite,
        "source": sample.task,
        "sample": sample.index,
        "gold": sample.gold,
        "finish": FINISH.get(sample.outcome, "stop"),
        "completion_tokens": sample.completion_tokens,
        **({} if verdict is None else {"verdict": verdict}),
        "extracted": sample.reply,
        "outcome": sample.outcome,
        "value": sample.value,
        "key": sample.key,
    }


def print_table(console: "Console", result: LmEvalResult, title: str) -> None:
    """Print every metric of every task, groups last, then the counts and the notices."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    for name in ("questions", "samples", "score", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in result.scores:
        if score.is_group:
            table.add_section()
        name, n, samples = score.task, f"{score.n:,}", str(score.samples)
        for metric in score.metrics or (None,):
            shown = ("not final", "")
            if metric and result.is_final:
                shown = spell_metric(metric, score.n)
            table.add_row(name, _title(metric, score) if metric else "", n, samples, *shown)
            name = n = samples = ""
    console.print(table)
    for line in _notes(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _title(metric: Metric, score: TaskScore) -> str:
    """A metric's name, with lm-eval's filter where a task reads replies in several ways."""
    several = len({each.filter for each in score.metrics}) > 1
    return f"{metric.name} ({metric.filter})" if several else metric.name


def _notes(result: LmEvalResult) -> list[str]:
    """What stands below the table."""
    tasks = [score for score in result.scores if not score.is_group]
    counts = [
        f"{score.task}: {score.truncated:,} truncated, {score.no_answer:,} without an answer, "
        f"{score.infra_errors:,} infrastructure errors"
        for score in tasks
    ]
    versions = ", ".join(f"{score.task} version {score.version}" for score in tasks)
    return [*counts, *result.notices, f"lm-eval {result.lm_eval_version}, {versions}"]


def spell_metric(metric: Metric, n: int) -> tuple[str, str]:
    """Value and interval; shares in percent."""
    interval = interval_of(metric, n)
    if _is_share(metric):
        ends = "" if interval is None else " to ".join(f"{100 * end:.1f}" for end in interval)
        return f"{100 * metric.value:.1f} %", ends
    ends = "" if interval is None else " to ".join(f"{end:.4g}" for end in interval)
    return f"{metric.value:.4g}", ends
