"""One suite of `suites/` from its name to its scores: loaded, asked, judged, written down."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from .. import KitError
from ..teacher.engine import THINK_OPEN, Engine, Sampling
from ..teacher.engines import check_engine
from ..teacher.ledger import Ledger
from .agreement import Agreement, load_labels, measure
from .audit import AuditedJudge
from .bars import Bars
from .choice import ChoiceJudge
from .classes import Classes, answer_classes
from .evaluate import evaluate
from .gym import GymJudge
from .job import Job, JudgeOptions, open_checked, prompt_settings, where_of
from .judge import Judge, MathJudge
from .provenance import Provenance, collect_provenance, model_folder
from .results import SuiteReport, announce, report, write
from .short_answer import ShortAnswerJudge
from .suites.load import known_kind, open_suite
from .suites.suite import Kind


class OwnSuite:
    """A suite that is asked and judged here.

    Args:
        name: as `open_suite` takes it.
        job: what is asked of it.

    Raises:
        KitError: it cannot be loaded or asked like this.
    """

    def __init__(self, name: str, job: Job) -> None:
        self._job = job
        if known_kind(name) is Kind.SHORT_ANSWER:
            check_engine(judge_of(name, job).settings)
        self._loaded = open_suite(
            name, job.limit, job.seed, data_dir=job.data_dir, accept_changed=job.accept_changed
        )
        suite = self._loaded.suite
        self._samples = job.samples or suite.samples
        self._prompt = prompt_settings(
            job.model, job.template, suite.template, thinking=job.thinking
        )

    @property
    def name(self) -> str:
        """The suite's."""
        return self._loaded.suite.name

    def run(self, engine: Engine, folder: Path) -> SuiteReport:
        """See `Prepared.run`. Raw answers are kept in traces.sqlite, grades in judge.sqlite."""
        job, loaded = self._job, self._loaded
        announce(loaded, self._samples)
        with ExitStack() as stack:
            ledger = stack.enter_context(Ledger.open(folder / "traces.sqlite"))
            judge, agreement = self._open_judge(folder, stack)
            bars = stack.enter_context(Bars(self.name, len(loaded.problems) * self._samples))
            evaluation = evaluate(
                engine,
                loaded.problems,
                ledger,
                sampling=job.sampling,
                samples=self._samples,
                seed=job.seed,
                prompt=self._prompt,
                judge=judge,
                progress=bars.sampled,
                on_judged=bars.judged,
            )
            classes = answer_classes(evaluation.rows, judge) if self._samples > 1 else Classes({})
            provenance = self._provenance(engine, judge)
        audit = judge.counts if isinstance(judge, AuditedJudge) else None
        made = report(
            evaluation, loaded.suite, job.model, provenance, classes, agreement, audit, folder
        )
        if isinstance(judge, AuditedJudge):
            judge.write(folder)
        write(made, evaluation, classes)
        return made

    def _provenance(self, engine: Engine, judge: Judge) -> Provenance:
        """Where the scores come from."""
        job, loaded = self._job, self._loaded
        return collect_provenance(
            suite=self.name,
            problems=loaded.problems,
            prompt=self._prompt,
            sampling=job.sampling,
            samples=self._samples,
            seed=job.seed,
            identity=engine.identity,
            where=where_of(job.engine),
            judge=judge.name,
            policy=judge.settings,
            weights=model_folder(job.model) if job.engine.kind == "torch" else None,
            dtype="float32" if job.engine.kind == "torch" else None,  # `open_engine`'s only one
            extra={"kind": loaded.suite.kind, "rows_from": asdict(loaded.source)},
        )

    def _open_judge(self, folder: Path, stack: ExitStack) -> tuple[Judge, Agreement | None]:
        """Who judges, and how far a judge that is a model can be trusted."""
        job, suite = self._job, self._loaded.suite
        if suite.kind is Kind.CHOICE:
            return ChoiceJudge(job.seed), None
        if suite.kind is Kind.GYM:
            return GymJudge(job.workers), None
        if suite.kind is Kind.MATH:
            verifier = MathJudge(suite.policy, workers=job.workers)
            if job.judge is None:
                return verifier, None
            return AuditedJudge(verifier, _open_model(job.judge, folder, stack), job.audit), None
        options = judge_of(self.name, job)
        judge = _open_model(options, folder, stack)
        return judge, measure(judge, load_labels(options.labels))


def _open_model(options: JudgeOptions, folder: Path, stack: ExitStack) -> ShortAnswerJudge:
    """A model that grades answers, its grades kept in the suite's folder."""
    return ShortAnswerJudge(
        stack.enter_context(open_checked(options.settings, "judge-")),
        stack.enter_context(Ledger.open(folder / "judge.sqlite")),
        sampling=Sampling(0.0, 1.0, options.max_tokens),
        prefill=f"{THINK_OPEN}\n" if options.thinking else "",
    )


def judge_of(name: str, job: Job) -> JudgeOptions:
    """The judge of short answers.

    Raises:
        KitError: none is named.
    """
    if job.judge is None:
        raise KitError(
            f"{name}: another model has to judge its answers: name it with --judge-model, and with "
            "--judge-base-url where it is served"
        )
    return job.judge
