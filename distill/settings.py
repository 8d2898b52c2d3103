"""The settings of a run, declared once for the recipe, the overrides, the checks and the help.

A section that belongs to another folder is declared there: the teacher's engine, the prompt, the
filters and the training.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..eval.prompt import PromptSettings
from ..students.settings import SftSettings
from ..teacher.settings import EngineSettings
from .filters import FilterSettings


class Settings(BaseModel):
    """What all sections share: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FieldSettings(Settings):
    """Names of the fields of a problem file, where they are not recognised by themselves."""

    statement: str | None = Field(None, description="the field with the problem's text")
    answer: str | None = Field(None, description="the field with the gold answer")
    id: str | None = Field(None, description="the field with the problem's id")
    level: str | None = Field(None, description="the field that says how hard it is")
    source: str | None = Field(None, description="the field that says where it comes from")
    subject: str | None = Field(None, description="the field that divides the source further")

    def named(self) -> dict[str, str]:
        """The fields that were given a name."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class ProblemSettings(Settings):
    """Which problems the teacher is asked: a file, or an embedded generator."""

    path: Path | None = Field(None, description="JSONL, one problem per line; .gz is read too")
    fields: FieldSettings = Field(
        default_factory=FieldSettings, description="field names of that file"
    )
    limit: int | None = Field(None, ge=1, description="take the first so many problems only")
    generator: Literal["tiny"] | None = Field(
        None, description="'tiny': the embedded families of problems with exact checks"
    )
    families: tuple[str, ...] = Field((), description="families to generate; empty means all")
    train: int = Field(200, ge=1, description="problems generated per family")
    seed: int = Field(0, ge=0, description="seed of the generator")

    @field_validator("path", mode="after")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return path and path.expanduser()  # a shell leaves the ~ of KEY=~/FILE alone

    @model_validator(mode="after")
    def _one_source(self) -> "ProblemSettings":
        if self.path is not None and self.generator is not None:
            raise ValueError(
                f"give either path or generator, got path {str(self.path)!r} and generator "
                f"{self.generator!r}; `--set problems=FILE` replaces the whole section"
            )
        if self.path is None and self.generator is None:
            raise ValueError("give path: FILE.jsonl or generator: tiny, got neither")
        if self.path is None and (named := self.fields.named()):
            raise ValueError(
                f"fields name the columns of a file, and there is no path; got {', '.join(named)}"
            )
        return self


class SampleSettings(Settings):
    """How the teacher answers. The defaults are DeepSeek's advice for R1."""

    samples_per_problem: int = Field(4, ge=1, description="answers sampled per problem")
    temperature: float = Field(0.6, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1, description="nucleus of the draw")
    max_tokens: int = Field(32_768, ge=1, description="tokens of one answer, thinking included")


class VerifySettings(Settings):
    """How answers are judged."""

    workers: int = Field(2, ge=1, description="processes that judge at the same time")
    timeout_s: float = Field(
        10.0, gt=0, description="seconds for one comparison, then it is killed"
    )


class DecontaminateSettings(Settings):
    """Which evaluation problems must not be trained on."""

    suites: tuple[str, ...] = Field(
        (), description="suites or JSONL files besides eval.suite, which is always checked"
    )
    n: int = Field(13, ge=1, description="words in a row that count as the same text")


class EvalSettings(Settings):
    """What teacher and student are scored on."""

    suite: str = Field("tiny", min_length=1, description="a suite's name or a JSONL file")
    limit: int | None = Field(None, ge=1, description="problems taken, over all families")
    samples: int = Field(1, ge=1, description="answers per problem")
    temperature: float = Field(0.6, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1, description="nucleus of the draw")
    max_tokens: int = Field(32_768, ge=1, description="tokens of one answer, thinking included")
    seed: int = Field(0, ge=0, description="which problems of a generated suite, and the draws")
    batch_size: int = Field(64, ge=1, description="answers the student writes at the same time")


class Recipe(Settings):
    """One run, from problems to an evaluated student."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder under runs/"
    )
    seed: int = Field(0, ge=0, description="feeds every sample's own seed")
    problems: ProblemSettings = Field(description="a JSONL file's path, or a section")
    teacher: EngineSettings = Field(default_factory=EngineSettings, description="who answers")
    prompt: PromptSettings = Field(
        default_factory=PromptSettings, description="how a problem is asked"
    )
    sample: SampleSettings = Field(
        default_factory=SampleSettings, description="how the teacher answers"
    )
    verify: VerifySettings = Field(
        default_factory=VerifySettings, description="how answers are judged"
    )
    filter: FilterSettings = Field(
        default_factory=FilterSettings, description="what is not worth training on"
    )
    decontaminate: DecontaminateSettings = Field(
        default_factory=DecontaminateSettings, description="what must not be trained on"
    )
    train: SftSettings = Field(
        default_factory=SftSettings, description="which student learns, and how"
    )
    eval: EvalSettings = Field(
        default_factory=EvalSettings, description="what the models are scored on"
    )

    @field_validator("problems", mode="before")
    @classmethod
    def _a_path_will_do(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value
