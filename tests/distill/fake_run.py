"""`r1kit` with a quick engine and a quick student in place of the slow ones; no torch.

Run as a script it is the real command line (`python fake_run.py run RECIPE ...`), so that tests can
kill it, interrupt it and look at its exit code. The engine adds up the numbers in a statement. What
it answers depends on the sample's key alone: some answers are wrong, some cut off, some repeat.
FAKE_DELAY_S is what one answer takes; FAKE_FAIL_AFTER stops the engine after so many answers.
FAKE_SLOW names a stage that takes its time, so that it can be interrupted. A teacher of the kind
`openai`, and tiny-r1 where FAKE_REAL is set, are the real engines.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from r1kit.distill import cli, run
from r1kit.distill.console import Bar
from r1kit.distill.context import Parts
from r1kit.distill.settings import Recipe
from r1kit.students.settings import SftSettings
from r1kit.teacher import engines
from r1kit.teacher.engine import Engine, EngineError, Identity, Request, Response
from r1kit.teacher.settings import EngineSettings


class Adder:
    """An engine that thinks aloud and adds up."""

    def __init__(self, settings: EngineSettings) -> None:
        self.identity = Identity("adder", settings.model, settings.revision)
        self.delay_s = float(os.environ.get("FAKE_DELAY_S", "0"))
        if os.environ.get("FAKE_SLOW") == "evaluate" and settings.model.endswith("student"):
            self.delay_s = 1.0
        self.fail_after = int(os.environ.get("FAKE_FAIL_AFTER", "0"))
        self.answered = 0

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        for request in requests:
            if self.fail_after and self.answered == self.fail_after:
                raise EngineError("http://127.0.0.1:1/v1: gone; the last error was: refused")
            if before is not None:
                before(request, "adder")
            if self.delay_s:
                time.sleep(self.delay_s)
            self.answered += 1
            yield Response(request, self.body(request), "adder", self.delay_s)

    def body(self, request: Request) -> str:
        dice = int(request.key(self.identity)[:8], 16)
        statement = request.prompt.messages[0].content
        total = sum(int(word) for word in re.findall(r"\d+", statement))
        if "wrong" in self.identity.model or dice % 7 == 0:
            total += 1
        text = f"<think>\n{statement} That makes {total}.\n</think>\n\\boxed{{{total}}}"
        choice = {
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if dice % 11 == 0 else "stop",
        }
        usage = {"prompt_tokens": 9, "completion_tokens": 20 + dice % 30}
        return json.dumps({"choices": [choice], "usage": usage})

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_student(recipe: Recipe, out_dir: Path) -> None:
    """A directory that looks like a model."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "config.json").write_text("{}")
    (out_dir / "model.safetensors").write_text(recipe.train.model)


def train(settings: SftSettings, dataset: Path, out_dir: Path, bar: Bar) -> dict[str, Any]:
    """A student whose weights are the data set's bytes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "config.json").write_text("{}")
    (out_dir / "model.safetensors").write_bytes(dataset.read_bytes())
    if os.environ.get("FAKE_SLOW") == "train":
        time.sleep(60)
    bar.to(1, total=1)
    return {"steps": 1, "tokens": 100}


def open_engine(settings: EngineSettings) -> Engine:
    """The engine that adds up, or a real one."""
    is_real = "FAKE_REAL" in os.environ and settings.model == "tiny-r1"
    if settings.kind == "openai" or is_real:
        return engines.open_engine(settings)
    return Adder(settings)


def parts() -> Parts:
    """What does the work in place of the slow parts."""
    return Parts(open_engine=open_engine, make_student=make_student, train=train)


def judge_slowly() -> None:
    """Let every verdict take its time."""
    from r1kit.distill import verify
    from r1kit.eval.math.verify import verify_answers

    real = verify_answers

    def slow(*items: Any, **settings: Any) -> Iterator[Any]:
        for judged in real(*items, **settings):
            time.sleep(1.0)
            yield judged

    setattr(verify, "verify_answers", slow)  # noqa: B010 (it is none of its exports)


HEAVY = ("torch", "transformers", "datasets", "sympy", "math_verify", "pyarrow", "aiohttp")

if __name__ == "__main__":
    run.Parts = parts  # type: ignore[assignment,attr-defined]
    if os.environ.get("FAKE_SLOW") == "verify":
        judge_slowly()
    try:
        cli.main()
    finally:
        loaded = [name for name in HEAVY if name in sys.modules]
        sys.stderr.write(f"heavy modules: {loaded}\n")
