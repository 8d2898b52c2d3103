"""One of lm-eval's tasks as a suite of `r1kit eval run`: asked, scored by lm-eval, written down."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import KitError
from ..teacher.collect import Collected
from ..teacher.engine import Engine
from ..teacher.ledger import Ledger
from .bars import Bars
from .job import Headline, Job
from .lm_eval_report import facts_of, not_final, print_table, spell_metric, write_result
from .lm_eval_run import PREFIX, LmEvalResult, require_lm_eval, run_lm_eval

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class LmEvalReport:
    """What became of a task: a `Report`."""

    suite: str
    model: str
    facts: dict[str, Any]
    result: LmEvalResult
    folder: Path

    @property
    def headline(self) -> Headline:
        """The first metric of the task or group that was named."""
        name = self.suite.removeprefix(PREFIX)
        score = next((score for score in self.result.scores if score.task == name), None)
        if score is None or not score.metrics:
            return Headline(0, 0, "none", "")
        if not self.result.is_final:
            return Headline(score.n, score.samples, "none", "not final")
        value, interval = spell_metric(score.metrics[0], score.n)
        return Headline(score.n, score.samples, value, interval)

    @property
    def not_final(self) -> str:
        """See `Report.not_final`."""
        return not_final(self.result, self.suite.removeprefix(PREFIX))

    def show(self, console: "Console") -> None:
        """Print the table and the notes."""
        print_table(console, self.result, f"{self.model} on {self.suite}")
        text = f"answers and scores: {self.folder}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class LmEvalSuite:
    """A task that lm-eval scores: a `Prepared`.

    Args:
        name: `lm_eval:TASK`.
        job: what is asked of it.
        include_path: a folder of further task YAMLs.

    Raises:
        KitError: lm-eval is missing, or the job asks for what tasks decide themselves.
    """

    def __init__(self, name: str, job: Job, include_path: Path | None = None) -> None:
        require_lm_eval()
        if job.template is not None:
            raise KitError(f"{name}: a task has its own prompt; leave --template out")
        self.name = name
        self._job = job
        self._include_path = include_path

    def run(self, engine: Engine, folder: Path) -> LmEvalReport:
        """See `Prepared.run`. Raw answers are kept in traces.sqlite."""
        job, task = self._job, self.name.removeprefix(PREFIX)
        with Ledger.open(folder / "traces.sqlite") as ledger, _Progress(self.name) as progress:
            result = run_lm_eval(
                engine,
                ledger,
                [task],
                include_path=self._include_path,
                data_dir=job.data_dir,
                samples=job.samples,
                limit=job.limit,
                seed=job.seed,
                sampling=job.sampling,
                thinking=job.thinking,
                progress=progress.sampled,
            )
        facts = facts_of(
            result, task, job.model, seed=job.seed, limit=job.limit, thinking=job.thinking
        )
        write_result(folder, facts, result)
        return LmEvalReport(self.name, job.model, facts, result, folder)


class _Progress:
    """Bars that begin once it is known how many answers are wanted."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack = ExitStack()
        self._bars: Bars | None = None

    def sampled(self, so_far: Collected) -> None:
        """Show how many answers are there."""
        if self._bars is None:
            self._bars = self._stack.enter_context(Bars(self._name, so_far.wanted))
        self._bars.sampled(so_far)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
