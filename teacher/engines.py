"""From settings to an engine. The heavy modules load only when their engine is asked for."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from .engine import Engine, EngineError
from .settings import EngineSettings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`lean.load` has it too; this module loads nothing heavy."""


def open_engine(settings: EngineSettings) -> Engine:
    """Open the engine that the settings describe. The caller closes it.

    Raises:
        EngineError: the variable that should hold the API key is not set, the URL is malformed, the
            model does not load, or its device is not there.
    """
    if settings.kind == "openai":
        return _open_openai(settings)
    check_engine(settings)
    import torch

    from .tiny import model_path
    from .torch_engine import TorchEngine

    quieten_transformers()
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


def quieten_transformers() -> None:
    """Keep its bars for loading and saving away from our own, and a warning that leads astray.

    A prompt longer than the model is refused and counted; it does not "result in indexing errors".
    """
    import logging

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)


def check_engine(settings: EngineSettings) -> None:
    """Refuse, before anything heavy loads, what cannot be opened.

    Raises:
        EngineError: the URL is malformed, the API key is not set, or the model is not there.
    """
    if settings.kind == "openai":
        _open_openai(settings).close()  # opening sends nothing yet
        return
    from .tiny import TINY_R1, model_path

    directory = model_path(settings.model) or Path(settings.model).expanduser()
    is_hub_id = HUB_ID.fullmatch(settings.model) and not directory.exists()
    if is_hub_id or (directory / "config.json").is_file():
        return  # an id is looked up, over the network, when the engine opens
    near = get_close_matches(settings.model, [TINY_R1], 1)
    hint = f"; did you mean '{TINY_R1}'?" if near else f"; built in: {TINY_R1}."
    found = "has no config.json" if directory.is_dir() else "no such directory"
    raise EngineError(
        f"{settings.model}: {found}{hint} Anything else is a directory with config.json, or a "
        "Hugging Face id such as Qwen/Qwen2.5-0.5B-Instruct"
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
