"""What one command asks of every suite that it names, and how its options become settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from .. import KitError
from ..teacher.engine import Engine, Sampling
from ..teacher.settings import EngineSettings
from .prompt import NO_THINKING_PREFILL, PromptSettings
from .provenance import Where

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """The judge of short answers: how to open it and how to ask it."""

    settings: EngineSettings
    thinking: bool
    max_tokens: int
    labels: Path | None


@dataclass(frozen=True, slots=True)
class Job:
    """What one command asks of every suite that it names; the options of `r1kit eval run`."""

    engine: EngineSettings
    sampling: Sampling
    samples: int | None = None
    limit: int | None = None
    seed: int = 0
    template: str | None = None
    thinking: bool = True
    workers: int = 2
    data_dir: Path | None = None
    accept_changed: bool = False
    judge: JudgeOptions | None = None
    audit: float = 0.05

    @property
    def model(self) -> str:
        """What the command calls the model."""
        return self.engine.model


@dataclass(frozen=True, slots=True)
class Headline:
    """A suite's line among several: how much was asked, and the score as it is shown."""

    problems: int
    samples: int
    value: str
    interval: str


class Report(Protocol):
    """What became of one suite, written into its folder already."""

    @property
    def suite(self) -> str:
        """The suite's name."""
        ...

    @property
    def model(self) -> str:
        """Who answered."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What scores.json holds."""
        ...

    @property
    def headline(self) -> Headline:
        """The line that stands for it in a table of suites."""
        ...

    @property
    def not_final(self) -> str:
        """Why this is not a final score; empty where it is one."""
        ...

    def show(self, console: "Console") -> None:
        """Print it for people."""
        ...


class Prepared(Protocol):
    """A suite that is there and can be asked. Nothing heavy is open yet."""

    @property
    def name(self) -> str:
        """What its folder is called after."""
        ...

    def run(self, engine: Engine, folder: Path) -> Report:
        """Ask, judge, write into the folder, and report. The engine stays open."""
        ...


def engine_settings(prefix: str = "", **values: Any) -> EngineSettings:
    """Engine settings, with what is wrong in them as an error that a user can read.

    Args:
        prefix: what the options are called by, such as `judge-`.
        values: of `EngineSettings`.
    """
    try:
        return EngineSettings(**values)
    except ValidationError as error:
        if values.get("kind") == "vllm":
            raise KitError(
                f"--{prefix}engine vllm: this version has no vLLM engine in process; start "
                f"`vllm serve {values.get('model', 'MODEL')}` and use --{prefix}engine openai "
                f"--{prefix}base-url http://127.0.0.1:8000/v1, or --{prefix}engine torch"
            ) from error
        said = "; ".join(_complaint(each, prefix) for each in error.errors())
        raise KitError(said) from error


def _complaint(error: Mapping[str, Any], prefix: str = "") -> str:
    """One complaint of pydantic in the command line's words."""
    said = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return said.replace("base_url", f"--{prefix}base-url").replace("kind", f"--{prefix}engine")
    option = str(error["loc"][0]).replace("_", "-").replace("kind", "engine")
    return f"--{prefix}{option}: {said}, got {error['input']!r}"


def sampling_of(temperature: float, top_p: float, max_tokens: int) -> Sampling:
    """Sampling settings, with what is wrong in them named as its option."""
    try:
        return Sampling(temperature, top_p, max_tokens)
    except ValueError as error:
        raise KitError(f"--{error}".replace("_", "-", 1)) from error


def prompt_settings(
    model: str, template: str | None, suite_template: str, *, thinking: bool
) -> PromptSettings:
    """How problems are put to the model.

    Args:
        model: the built-in tiny models were trained on bare statements.
        template: the user's own; None leaves it to model and suite.
        suite_template: what the suite's kind needs.
        thinking: whether the reply is made to begin with an open thinking block.
    """
    if template is None:
        template = "{statement}" if model.startswith("tiny-") else suite_template
    values = {"template": template}
    if not thinking:
        values["prefill"] = NO_THINKING_PREFILL
    try:
        return PromptSettings(**values)
    except ValidationError as error:
        raise KitError(_complaint(error.errors()[0])) from error


def judge_options(
    model: str | None,
    *,
    thinking: bool,
    max_tokens: int,
    labels: Path | None,
    **values: Any,
) -> JudgeOptions | None:
    """The judge's options; None where no judge is named.

    Raises:
        KitError: something else of the judge is named, or the options do not go together.
    """
    if model is None:
        if values.get("base_url") is not None:
            raise KitError("--judge-base-url needs --judge-model, the name that it serves")
        return None
    if values.get("base_url") is not None and values.get("kind") == "torch":
        values["kind"] = "openai"
    mode = "assistant" if thinking else "drop"  # nothing is forced on a judge that may not think
    settings = engine_settings("judge-", model=model, prefill_mode=mode, **values)
    return JudgeOptions(settings, thinking, max_tokens, labels)


def open_checked(settings: EngineSettings, prefix: str = "") -> Engine:
    """Open an engine; an endpoint that refuses the first connection is named at once."""
    from ..teacher import engines
    from .endpoint import FirstContact

    opened = engines.open_engine(settings)
    if settings.base_url is None:
        return opened
    return FirstContact(opened, settings.base_url, f"--{prefix}base-url")


def where_of(settings: EngineSettings) -> Where:
    """Where the model runs, as `open_engine` decides it."""
    if settings.kind != "torch":
        return "elsewhere"
    import torch

    return "cuda" if torch.cuda.is_available() and settings.device != "cpu" else "cpu"
