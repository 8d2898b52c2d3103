"""`r1kit teacher ...`: serve a teacher over HTTP, or talk to it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .engine import Engine
    from .tiny.train import Progress

app = typer.Typer(help="Serve a teacher, or talk to it.", no_args_is_help=True)


class EngineKind(StrEnum):
    """Which engine answers."""

    TORCH = "torch"
    OPENAI = "openai"


class PrefillMode(StrEnum):
    """What happens to text that a reply is forced to begin with."""

    ASSISTANT = "assistant"
    DROP = "drop"


EngineOption = Annotated[EngineKind, typer.Option("--engine", help="in this process, or over HTTP")]
ModelOption = Annotated[str, typer.Option("--model", help="built-in name, path, or served name")]
UrlOption = Annotated[
    str | None, typer.Option("--base-url", help="with --engine openai: http://HOST:PORT/v1")
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key-env", help="environment variable that holds the key")
]


@app.command()
def serve(
    engine: EngineOption = EngineKind.TORCH,
    model: ModelOption = "tiny-r1",
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="sequences decoded together")] = 64,
    base_url: UrlOption = None,
    api_key_env: KeyOption = None,
) -> None:
    """Serve a model to any OpenAI client, until Ctrl-C."""
    from .server import serve as serve_engine

    with _open(engine, model, base_url, api_key_env, batch_size=batch_size) as opened:
        name = opened.identity.model
        serve_engine(
            opened, host, port, ready=lambda url: typer.echo(f"serving {name} on {url} (Ctrl-C)")
        )
    typer.echo("stopped")


@app.command()
def chat(
    engine: EngineOption = EngineKind.TORCH,
    model: ModelOption = "tiny-r1",
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="ask this once, and leave")
    ] = None,
    thinking: Annotated[
        bool, typer.Option(help="force the reply to begin with thinking, or to go without")
    ] = True,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="same seed, same reply, where the engine can")] = 0,
    base_url: UrlOption = None,
    api_key_env: KeyOption = None,
    prefill_mode: Annotated[
        PrefillMode, typer.Option(help="drop: the endpoint cannot continue a message")
    ] = PrefillMode.ASSISTANT,
) -> None:
    """Talk to a model; its thinking is dimmed. Ctrl-D or an empty line ends the talk."""
    from .chat import talk
    from .engine import Sampling

    sampling = Sampling(temperature, top_p, max_tokens)
    with ExitStack() as stack:
        opened = stack.enter_context(
            _open(engine, model, base_url, api_key_env, prefill_mode=prefill_mode.value)
        )
        talk(opened, sampling, first=prompt, thinking=thinking, seed=seed)


@app.command()
def salvage(
    ledger: Annotated[Path, typer.Argument(help="the damaged traces.sqlite")],
) -> None:
    """Put what can be read of a damaged ledger into a sound one in its place."""
    from .salvage import salvage as salvage_file

    found = salvage_file(ledger)
    typer.echo(f"{ledger}: {found.answers:,} answers are readable; damaged file: {found.damaged}")


@app.command("train-tiny")
def train_tiny(
    out: Annotated[Path, typer.Option(help="directory for the weights; must not exist yet")],
    steps: Annotated[int | None, typer.Option(min=1, help="fewer for a trial")] = None,
    seed: Annotated[int, typer.Option(help="of the weights and of the examples")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    per_family: Annotated[int, typer.Option(min=1, help="held-out problems to score on")] = 100,
) -> None:
    """Rebuild tiny-r1 from nothing: 5 minutes on an H200, about 18 hours on two CPU cores."""
    from .tiny.rebuild import rebuild
    from .tiny.train import TinySettings

    settings = TinySettings(seed=seed)
    if steps is not None:
        settings = replace(settings, steps=steps, pool=min(settings.pool, steps * settings.batch))
    with _progress() as show:
        measured = rebuild(out, settings, device=device, per_family=per_family, progress=show)
    typer.echo(
        f"{out}: pass@1 {measured.mean(measured.thinking):.1%} with thinking, "
        f"{measured.mean(measured.direct):.1%} forced to answer at once"
    )


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on a terminal, a line every so many steps elsewhere."""
    import sys

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not sys.stderr.isatty():
        yield lambda step, steps, loss, rate: typer.echo(
            f"step {step}/{steps}, loss {loss:.4f}, {rate:,.0f} tokens/s", err=True
        )
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns) as bar:
        task = bar.add_task("train", note="")
        yield lambda step, steps, loss, rate: bar.update(
            task, completed=step, total=steps, note=f"loss {loss:.4f}, {rate:,.0f} tokens/s"
        )


def _open(
    kind: EngineKind, model: str, base_url: str | None, key_env: str | None, **more: object
) -> "Engine":
    """Open an engine from options; a wrong combination becomes a message without a traceback."""
    from pydantic import ValidationError

    from .engine import EngineError
    from .engines import open_engine
    from .settings import EngineSettings

    fields = {"kind": kind.value, "model": model, "base_url": base_url, "api_key_env": key_env}
    try:
        settings = EngineSettings.model_validate(fields | more)
    except ValidationError as error:
        said = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise EngineError(said) from error
    return open_engine(settings)
