"""`r1kit teacher ...`: serve a teacher over HTTP, or talk to it."""

from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .engine import Engine

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
