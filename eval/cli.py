"""`r1kit eval`: score a model on a suite. Only light imports up here; `--help` is instant."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import table_cli

if TYPE_CHECKING:
    from ..teacher.settings import EngineSettings
    from .evaluate import Evaluation
    from .prompt import PromptSettings

app = typer.Typer(help="Score models on problems with known answers.", no_args_is_help=True)
app.command("table")(table_cli.table)


@app.callback()
def _group() -> None:
    """Score models on problems with known answers."""


@app.command()
def run(
    suite: Annotated[
        str, typer.Option(help="`tiny`, `tiny/FAMILY`, or a JSONL file of problems")
    ] = "tiny",
    model: Annotated[
        str, typer.Option(help="a built-in name, a Hugging Face id, a path, or a server's name")
    ] = "tiny-r1",
    engine: Annotated[str, typer.Option(help="`torch` (in this process) or `openai`")] = "torch",
    base_url: Annotated[
        str | None, typer.Option(help="of the openai engine, such as http://127.0.0.1:8000/v1")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="the environment variable that holds the API key")
    ] = None,
    prefill_mode: Annotated[
        str,
        typer.Option(
            help="how the openai engine opens the thinking: `assistant` sends a last assistant "
            "message (vLLM, SGLang), `drop` sends nothing (DeepSeek's API)"
        ),
    ] = "assistant",
    samples: Annotated[int, typer.Option(min=1, help="answers per problem")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="problems in all; every one where not given")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="tokens one answer may take, thinking included")
    ] = 32_768,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 is greedy; R1's model card advises 0.6")
    ] = 0.6,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="nucleus of the draw")] = 0.95,
    seed: Annotated[int, typer.Option(help="of the draws, and of generated suites")] = 0,
    template: Annotated[
        str | None,
        typer.Option(
            help="the user's turn around {statement}; by default the bare statement for the "
            "built-in tiny models, and DeepSeek's advice for all others"
        ),
    ] = None,
    thinking: Annotated[
        bool, typer.Option(help="open the thinking block, or force an answer without any")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="of the torch engine")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="processes that compare answers")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="where answers and scores go; by default under runs/eval/")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print scores as JSON")] = False,
) -> None:
    """Ask a model every problem of a suite, judge the answers, and print pass@1 with its interval.

    Answers are kept in OUT/traces.sqlite: the same command a second time asks nothing again.
    """
    from .. import KitError
    from ..teacher.engine import Sampling
    from ..teacher.engines import check_engine, open_engine
    from ..teacher.ledger import Ledger
    from .evaluate import evaluate
    from .suites import load_suite

    problems = load_suite(suite, limit, seed)
    settings = _engine_settings(
        kind=engine,
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        prefill_mode=prefill_mode,
        batch_size=batch_size,
    )
    check_engine(settings)
    asked_as = _prompt(model, template, thinking)
    try:
        sampling = Sampling(temperature, top_p, max_tokens)
    except ValueError as error:
        raise KitError(f"--{error}".replace("_", "-", 1)) from error
    folder = out if out is not None else Path("runs/eval") / _slug(f"{Path(suite).stem}-{model}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"--out {folder}: cannot be made a directory: {error.strerror}") from error
    with (
        Ledger.open(folder / "traces.sqlite") as ledger,
        open_engine(settings) as opened,
        _Bars(len(problems) * samples) as bars,
    ):
        evaluation = evaluate(
            opened,
            problems,
            ledger,
            sampling=sampling,
            samples=samples,
            seed=seed,
            prompt=asked_as,
            workers=workers,
            progress=bars.sampled,
            on_judged=bars.judged,
        )
    facts = _facts(evaluation, suite, model)
    _write(folder, facts, evaluation)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print_table(evaluation, f"{model} on {suite}")
        typer.echo(f"answers and scores: {folder}")


def _engine_settings(**values: Any) -> "EngineSettings":
    """Engine settings, with what is wrong in them as an error that a user can read."""
    from pydantic import ValidationError

    from .. import KitError
    from ..teacher.settings import EngineSettings

    try:
        return EngineSettings(**values)
    except ValidationError as error:
        raise KitError("; ".join(_complaint(each) for each in error.errors())) from error


def _complaint(error: Any) -> str:
    """One complaint of pydantic in the command line's words."""
    said = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return said.replace("base_url", "--base-url").replace("kind", "--engine")
    option = str(error["loc"][0]).replace("_", "-").replace("kind", "engine")
    return f"--{option}: {said}, got {error['input']!r}"


def _prompt(model: str, template: str | None, thinking: bool) -> "PromptSettings":
    """How problems are put to the model."""
    from pydantic import ValidationError

    from .. import KitError
    from .prompt import NO_THINKING_PREFILL, PromptSettings

    if template is None and model.startswith("tiny-"):
        template = "{statement}"
    values = {} if template is None else {"template": template}
    if not thinking:
        values["prefill"] = NO_THINKING_PREFILL
    try:
        return PromptSettings(**values)
    except ValidationError as error:
        raise KitError(_complaint(error.errors()[0])) from error


def _slug(text: str) -> str:
    """A name that is safe as a folder's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.") or "model"


class _Bars:
    """Progress on the terminal's error stream: answers sampled, then answers judged."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._sample = self._progress.add_task("answers", total=total)
        self._judge = self._progress.add_task("verdicts", total=total)

    def sampled(self, so_far: Any) -> None:
        """Show how many answers are there."""
        done = so_far.already + so_far.answered + so_far.failed
        self._progress.update(self._sample, completed=done)

    def judged(self, done: int) -> None:
        """Show how many verdicts are there."""
        self._progress.update(self._judge, completed=done)

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()


def _facts(evaluation: "Evaluation", suite: str, model: str) -> dict[str, Any]:
    """The scores for programs."""

    def plain(score: Any) -> dict[str, Any]:
        values = asdict(score)
        return {"pass@1": values.pop("value"), **values, "ci95": list(score.ci95)}

    return {
        "model": model,
        "suite": suite,
        "score": plain(evaluation.score),
        "by_source": {name: plain(score) for name, score in evaluation.by_source.items()},
        "asked": evaluation.collected.answered + evaluation.collected.failed,
        "reused": evaluation.collected.already,
    }


def _write(folder: Path, facts: dict[str, Any], evaluation: "Evaluation") -> None:
    """Write answers.jsonl and then scores.json, each whole."""
    answers = "".join(
        json.dumps(
            {
                "id": row.problem.id,
                "source": row.problem.source,
                "sample": row.index,
                "gold": row.problem.answer,
                "finish": row.finish,
                "completion_tokens": row.completion_tokens,
                **asdict(row.judgement),
                "key": row.key,
            },
            ensure_ascii=False,
        )
        + "\n"
        for row in evaluation.rows
    )
    for name, text in (
        ("answers.jsonl", answers),
        ("scores.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n"),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def _print_table(evaluation: "Evaluation", title: str) -> None:
    """Print the scores by source and as a whole."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("source")
    for name in ("problems", "samples", "pass@1", "95 % interval", "truncated", "undecided"):
        table.add_column(name, justify="right")
    rows = [*evaluation.by_source.items()]
    if len(rows) != 1:
        rows.append(("all", evaluation.score))
    for source, score in rows:
        if source == "all":
            table.add_section()
        low, high = (f"{100 * end:.1f}" for end in score.ci95)
        table.add_row(
            source,
            str(score.n),
            str(score.samples),
            f"{100 * score.value:.1f} %",
            f"{low} to {high}",
            str(score.truncated),
            str(score.undecided),
        )
    Console(file=sys.stdout).print(table)
