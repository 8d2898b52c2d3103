"""Opening an engine from settings: what cannot be had is refused before anything is asked."""

from pathlib import Path

import pytest
import torch
from r1kit.teacher.engine import EngineError
from r1kit.teacher.engines import check_engine, open_engine
from r1kit.teacher.settings import EngineSettings


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="torch sees no CUDA device; use auto or cpu"):
        open_engine(EngineSettings(device="cuda"))
    with open_engine(EngineSettings(batch_size=1)) as engine:
        assert (engine.identity.kind, engine.identity.model) == ("torch", "tiny-r1")


def test_a_model_that_is_not_there_is_refused_at_once_and_a_hub_id_is_left_to_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for model, says in (
        ("tiny-r2", "tiny-r2: no such directory; did you mean 'tiny-r1'?"),
        ("./gone", r"\./gone: no such directory; built in: tiny-r1\."),
        ("empty", "empty: has no config.json; built in"),
    ):
        with pytest.raises(EngineError, match=says):
            check_engine(EngineSettings(model=model))
    check_engine(EngineSettings(model="Qwen/Qwen2.5-0.5B-Instruct"))
    check_engine(EngineSettings(model="tiny-r1"))
