"""From settings to an engine. The heavy modules load only when their engine is asked for."""

import os

from .engine import Engine, EngineError
from .settings import EngineSettings


def open_engine(settings: EngineSettings) -> Engine:
    """Open the engine that the settings describe. The caller closes it.

    Raises:
        EngineError: the variable that should hold the API key is not set, the URL is malformed, the
            model does not load, or its device is not there.
    """
    if settings.kind == "openai":
        return _open_openai(settings)
    import torch

    from .tiny import model_path
    from .torch_engine import TorchEngine

    built_in = model_path(settings.model)
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise EngineError("device is cuda, but torch sees no CUDA device; use auto or cpu")
    device = "cuda" if has_cuda and settings.device != "cpu" else "cpu"
    return TorchEngine(
        built_in or settings.model,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        device=device,
        name=settings.model if built_in else None,
    )


def _open_openai(settings: EngineSettings) -> Engine:
    from .openai_engine import OpenAIEngine

    assert settings.base_url is not None, "checked by EngineSettings"
    return OpenAIEngine(
        settings.base_url,
        settings.model,
        revision=settings.revision,
        api_key=_api_key(settings.api_key_env),
        prefill_mode=settings.prefill_mode,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        stream=settings.stream,
    )


def _api_key(variable: str | None) -> str | None:
    """The key that the named environment variable holds, or None where none is named."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EngineError(
            f"api_key_env: the environment variable {variable} is not set; "
            f"set it with `export {variable}=...`, or leave api_key_env out"
        )
    return key
