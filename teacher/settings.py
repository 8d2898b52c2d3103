"""Which engine answers, and how: the settings that recipes, overrides and commands share.

Declared once; nothing is read from the environment here. `api_key_env` holds the *name* of a
variable, which `engines.open_engine` looks up, so that no key ever stands in a recipe or a ledger.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EngineSettings(BaseModel):
    """One engine: `batch_size`, `max_length`, `device` are for `torch`, the rest for `openai`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["torch", "openai"] = Field(
        "torch", description="torch: in this process; openai: any compatible endpoint"
    )
    model: str = Field(
        "tiny-r1", min_length=1, description="built-in name, Hugging Face id, path, or served name"
    )
    revision: str = Field(
        "",
        description="openai: the declared version of the model, part of every sample's key; "
        "torch digests the model's files instead",
    )
    base_url: str | None = Field(
        None, description="the endpoint, up to and including /v1: http://127.0.0.1:8000/v1"
    )
    api_key_env: str | None = Field(
        None, description="name of the environment variable that holds the endpoint's key"
    )
    prefill_mode: Literal["assistant", "drop"] = Field(
        "assistant",
        description="assistant: send the prefill as a last assistant message to be continued "
        "(vLLM, SGLang, r1kit's own server); drop: do not send it (DeepSeek's API, and servers "
        "whose template opens the thinking itself)",
    )
    concurrency: int = Field(64, ge=1, le=8192, description="requests under way at a time")
    batch_size: int = Field(64, ge=1, description="sequences decoded together")
    max_length: int | None = Field(
        None, ge=1, description="tokens of prompt and reply together; the model's own if not set"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where torch runs the model; auto: cuda where it is"
    )
    timeout_s: float = Field(
        600.0, gt=0, description="seconds of silence, not of work, after which a try is given up"
    )
    retries: int = Field(6, ge=0, description="tries after the first one")
    stream: bool = Field(
        False,
        description="read replies as they are written: no long silence, but the raw response "
        "kept in the ledger is about ten times as large",
    )

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> "EngineSettings":
        if self.kind == "openai" and not self.base_url:
            raise ValueError("kind openai needs base_url, such as http://127.0.0.1:8000/v1")
        if self.kind != "openai" and self.base_url:
            raise ValueError(f"base_url is for kind openai, and kind is {self.kind}")
        return self
