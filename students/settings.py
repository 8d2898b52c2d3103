"""The settings of a training run, declared once for recipes, overrides, checks and help.

A later source wins: default, what a built-in student asks for, recipe, `--set`. A built-in student
starts from random weights and wants another optimizer and a thousand times the learning rate of a
pretrained one, so its own values stand in `FROM_SCRATCH` and are filled in where nothing is said.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import KitError

BUILT_IN = ("tiny-qwen", "tiny-llama")
"""The students that come with the package."""

FROM_SCRATCH: Mapping[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 4e-3,
    "adamw_learning_rate": 3e-3,
    "epochs": 4,
    "batch_size": 16,
    "max_length": 512,
    "tokens_per_pass": 8_192,
    "packing": False,
    "save_dtype": "float32",
}
"""What the built-in students want where nothing else is said; measured in students/README.md."""


class SettingsError(KitError):
    """A setting is wrong. The message names it, what was found, and what would do."""


class SftSettings(BaseModel):
    """Which student learns, and how. The defaults suit a pretrained model of 0.5B to 8B."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(
        "tiny-qwen", min_length=1, description="tiny-qwen, tiny-llama, a path, or a hub id"
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="of random weights and of the order of examples"
    )
    epochs: float = Field(2.0, gt=0, description="passes over the data; fractions are allowed")
    batch_size: int = Field(32, ge=1, description="examples per step, whatever the layout")
    max_length: int = Field(
        16_384, ge=2, description="tokens of the longest example, and of a packed row"
    )
    too_long: Literal["drop", "truncate"] = Field(
        "drop", description="what becomes of longer examples; they are counted either way"
    )
    packing: bool = Field(
        True, description="pack examples into rows of max_length instead of padding them"
    )
    tokens_per_pass: int = Field(
        16_384,
        ge=1,
        description="tokens, padding included, of one forward pass; a batch takes as many passes"
        " as it needs, and its loss does not depend on their number",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "adamw", description="muon: Muon for the hidden matrices, AdamW for all else"
    )
    learning_rate: float = Field(1e-5, gt=0, description="the highest, after the warm-up")
    adamw_learning_rate: float | None = Field(
        None, gt=0, description="of AdamW's part beside Muon; learning_rate where not given"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled; norms and biases are spared")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    final_share: float = Field(
        0.1, ge=0, le=1, description="share of the learning rate that the last step has"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="bound of the gradient's norm")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where it is")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of matrix products; master weights stay float32. auto: bfloat16 on CUDA and"
        " on CPUs with AMX, float32 elsewhere",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations: less memory, a third more time"
    )
    save_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of the saved weights"
    )

    @model_validator(mode="before")
    @classmethod
    def _ask_the_student(cls, values: Any) -> Any:
        """Lay what was said over what the built-in student wants."""
        if isinstance(values, dict) and values.get("model", "tiny-qwen") in BUILT_IN:
            return {**FROM_SCRATCH, **values}
        return values


def read_settings(model: str, overrides: list[str]) -> SftSettings:
    """The settings of `--model` with `key=value` overrides laid over them; values are YAML.

    Raises:
        SettingsError: an override is not `key=value`, its key unknown, or its value out of bounds.
    """
    import yaml

    values: dict[str, Any] = {"model": model}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set needs key=value, got {override!r}")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {key}: not a value: {text!r}") from error
    try:
        return SftSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_complaint(problem) for problem in error.errors())) from error


def _complaint(problem: Any) -> str:
    """One line on one setting: its name, what is wrong, what was found."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, list(SftSettings.model_fields), n=1)
        hint = f"did you mean '{close[0]}'?" if close else ", ".join(SftSettings.model_fields)
        return f"--set {key}: unknown setting; {hint}"
    return f"--set {key}: {problem['msg'].lower()}, got {problem['input']!r}"


def is_path(model: str) -> bool:
    """Whether a model's name can only be meant as a path, or is one that exists."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).exists()
