"""Opening an engine from settings: what cannot be had is refused before anything is asked."""

import pytest
import torch
from r1kit.teacher.engine import EngineError
from r1kit.teacher.engines import open_engine
from r1kit.teacher.settings import EngineSettings


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="torch sees no CUDA device; use auto or cpu"):
        open_engine(EngineSettings(device="cuda"))
    with open_engine(EngineSettings(batch_size=1)) as engine:
        assert (engine.identity.kind, engine.identity.model) == ("torch", "tiny-r1")
