"""Talking to an engine in a terminal: one question, or a conversation. Thinking is dimmed."""

from collections.abc import Sequence

from rich.console import Console

from .engine import (
    THINK_CLOSE,
    THINK_OPEN,
    BadResponse,
    Completion,
    Engine,
    EngineError,
    Finish,
    Message,
    Prompt,
    Request,
    Sampling,
    parse_response,
)

_FORCED = {
    True: f"{THINK_OPEN}\n",
    False: f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n",
}


def talk(
    engine: Engine,
    sampling: Sampling,
    *,
    first: str | None,
    thinking: bool,
    seed: int,
    console: Console | None = None,
) -> None:
    """Ask `first` and return, or read questions until the input ends or a line is empty.

    Raises:
        EngineError: the engine gave no usable reply to `first`, or cannot go on.
    """
    console = console or Console()
    if first is not None:
        show(ask(engine, (Message("user", first),), sampling, thinking, seed, console), console)
        return
    turns: tuple[Message, ...] = ()
    while question := _read_line(console):
        turns += (Message("user", question),)
        completion = ask(engine, turns, sampling, thinking, seed, console)
        show(completion, console)
        # The model card's template drops earlier thinking from the conversation.
        turns += (Message("assistant", completion.answer or ""),)


def ask(
    engine: Engine,
    turns: Sequence[Message],
    sampling: Sampling,
    thinking: bool,
    seed: int,
    console: Console,
) -> Completion:
    """One reply, with a spinner while it is written."""
    request = Request(Prompt(tuple(turns), _FORCED[thinking]), sampling, 0, seed)
    with console.status("thinking" if thinking else "answering"):
        (response,) = engine.answer([request])
    try:
        completion = parse_response(response)
    except BadResponse as error:
        raise EngineError(f"{response.endpoint}: {error}") from error
    if completion.finish is Finish.ERROR:
        raise EngineError(completion.error or "no reply")
    return completion


def show(completion: Completion, console: Console) -> None:
    """Print a reply: thinking dimmed, then the answer, then a word if it was cut off."""
    if completion.thinking:
        console.print(completion.thinking.strip(), style="dim", markup=False, highlight=False)
    if completion.answer is not None:
        console.print(completion.answer.strip(), markup=False, highlight=False)
    if completion.finish is Finish.LENGTH:
        tokens = completion.completion_tokens
        console.print(f"(cut off after {tokens:,} tokens; raise --max-tokens)", style="yellow")
    elif completion.answer is None:
        console.print("(the thinking was never closed: there is no answer)", style="yellow")


def _read_line(console: Console) -> str:
    try:
        return console.input("[bold]> [/]").strip()
    except EOFError:
        return ""
