"""lm-eval's tasks on our engines: load them, ask through the ledger, let lm-eval score, report.

The tasks of `lm_eval_tasks/` follow R1's protocol and are found at once; any other name is looked
up among lm-eval's own tasks, which takes some seconds. Data come from the Hub, or, offline, from
files `TASK.SPLIT.jsonl` in a folder.

lm-eval computes the scores and their standard errors, over questions. Questions that the engine
could not answer are left out of them, and where they are more than 1 % of the samples, the score is
not final.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import KitError
from ..teacher.collect import Collected
from ..teacher.engine import Engine, Identity, Sampling
from ..teacher.ledger import Ledger

if TYPE_CHECKING:
    from .lm_eval_bridge import EngineLM, Sampled

TASKS = Path(__file__).with_name("lm_eval_tasks")
PREFIX = "lm_eval:"
"""How a suite is named that lm-eval runs: `lm_eval:r1_mmlu`."""

FINAL_SHARE = 0.01
"""Samples without an answer, as a share, beyond which a score is not final."""

BOOTSTRAP = 1000
"""Resamples for the standard error of metrics that are no means; those of means are exact."""

FEWSHOT_SEED = 1234
"""lm-eval's own, so that stock tasks show the examples that they show there."""

R1_SAMPLING = Sampling()
"""R1's protocol: temperature 0.6, top-p 0.95, 32,768 tokens."""

INCLUDE = re.compile(r"^include:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a task reports.

    Attributes:
        name: lm-eval's, such as `acc`.
        filter: lm-eval's name for how replies were read before scoring.
        value: as lm-eval gives it; shares lie in [0, 1].
        se: its standard error over questions; None where lm-eval has none.
    """

    name: str
    filter: str
    value: float
    se: float | None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What one task, or a group of tasks as a whole, came to.

    Attributes:
        task: lm-eval's name.
        metrics: in the task's order; the first is the one to quote.
        n: questions scored.
        samples: answers per question.
        truncated: samples whose thinking never closed or that were cut off; not right.
        no_answer: other samples in which no answer was found; not right.
        infra_errors: samples that got no answer; unknown.
        left_out: questions that are not scored for that reason.
        version: the task's own.
        sha256: of its YAML file and those that it includes; empty for a group.
        num_fewshot: examples in front of each question, as lm-eval counts them.
        is_group: whether it sums up other tasks.
    """

    task: str
    metrics: tuple[Metric, ...]
    n: int
    samples: int
    truncated: int
    no_answer: int
    infra_errors: int
    left_out: int
    version: str
    sha256: str
    num_fewshot: int
    is_group: bool = False


@dataclass(frozen=True, slots=True)
class LmEvalResult:
    """The scores of the tasks asked for, and what a reader of them has to know.

    Attributes:
        scores: the tasks', then the groups'.
        is_final: whether at most 1 % of the samples lack an answer.
        notices: what was done other than the tasks say, with how often.
        identity: who answered.
        sampling: how; None: as each task says.
        lm_eval_version: of the package.
        sampled: every sample.
        collected: how the asking went; None where nothing had to be written.
    """

    scores: tuple[TaskScore, ...]
    is_final: bool
    notices: tuple[str, ...]
    identity: Identity
    sampling: Sampling | None
    lm_eval_version: str
    sampled: "tuple[Sampled, ...]"
    collected: Collected | None

    def score(self, task: str) -> TaskScore:
        """The score of a task or group by its name."""
        return next(score for score in self.scores if score.task == task)


def lm_eval_suite_names() -> list[str]:
    """The suites with R1's protocol, such as `lm_eval:r1_mmlu`. Loads nothing."""
    return sorted(f"{PREFIX}{path.stem}" for path in _own_files())


def run_lm_eval(
    engine: Engine,
    ledger: Ledger,
    task_names: Sequence[str],
    *,
    include_path: Path | None = None,
    data_dir: Path | None = None,
    samples: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    sampling: Sampling | None = R1_SAMPLING,
    thinking: bool = True,
    progress: Callable[[Collected], None] | None = None,
) -> LmEvalResult:
    """Ask an engine the questions of some tasks and score the answers.

    Args:
        engine: who answers; it is not closed.
        ledger: where raw answers are kept and looked up first; it is not closed.
        task_names: tasks, groups or tags: ours, those of `include_path`, lm-eval's own.
        include_path: a folder of further task YAMLs.
        data_dir: a folder of files `TASK.SPLIT.jsonl` to use instead of the Hub.
        samples: answers per question, for tasks that score all of them (ours do); None: the task's.
        limit: questions of each task, from the front.
        seed: every sample's own seed is derived from it, the question and the sample's index.
        sampling: how answers are drawn, whatever the task says; None: as each task says.
        thinking: open the thinking block, or force an answer without any.
        progress: called while answers come in.

    Raises:
        LmEvalError: the extra is missing, or a task is unknown, cannot be loaded, or cannot be run
            by this engine.
        EngineError, LedgerError: as `collect` raises them; what was answered is kept.
    """
    require_lm_eval()
    import lm_eval
    from lm_eval.evaluator import evaluate

    from .lm_eval_bridge import EngineLM

    with _lm_evals_seeds(), _no_bars():
        loaded = _load(task_names, include_path, data_dir, samples)
        writes = _check(loaded["tasks"], engine)
        lm = EngineLM(
            engine, ledger, sampling=sampling, thinking=thinking, seed=seed, progress=progress
        )
        for task in loaded["tasks"].values():
            _prepare(task, lm)
        results: Any = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=limit,
            bootstrap_iters=BOOTSTRAP,
            apply_chat_template=writes,
            fewshot_as_multiturn=True,
        )
    scores = tuple(_scores(loaded, results, lm))
    failed = sum(score.infra_errors for score in scores if not score.is_group)
    return LmEvalResult(
        scores,
        failed <= FINAL_SHARE * len(lm.sampled),
        (*_notices(lm), *_blank_but_right(loaded["tasks"], results["samples"])),
        engine.identity,
        sampling if writes else None,
        lm_eval.__version__,
        tuple(_graded(loaded["tasks"], results["samples"], lm.sampled)),
        lm.collected,
    )


def require_lm_eval() -> None:
    """Raise an LmEvalError where the extra is not installed."""
    if find_spec("lm_eval") is None:
        raise KitError(
            "lm-eval is not installed, and it runs this suite: pip install 'r1kit[lm-eval]'"
        )


def _load(
    names: Sequence[str], include_path: Path | None, data_dir: Path | None, samples: int | None
) -> dict[str, Any]:
    """lm-eval's tasks and groups for these names, with our changes to them.

    Raises:
        LmEvalError: a name is unknown, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    from .lm_eval_bridge import LmEvalError

    paths = [TASKS, *([include_path] if include_path else [])]
    manager = TaskManager(include_path=paths, include_defaults=False)
    if any(name not in manager.task_index for name in names):
        manager = TaskManager(include_path=paths, include_defaults=True)
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            raise LmEvalError(_unknown(name, manager.all_tasks))
        changes = _changes(name, entry.cfg or {}, data_dir, samples)
        # A group of one is lm-eval's public way to load a registered task with changes.
        spec = {"group": "r1kit", "task": [{"task": name, **changes}]} if changes else name
        try:
            loaded: Any = manager.load([spec])
        except KitError:
            raise
        except Exception as error:  # of the Hub, of the network, of the data: whatever it is
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise LmEvalError(
                f"{name}: cannot be loaded ({said}); its data come from the Hub, or from files "
                f"{name}.SPLIT.jsonl in the folder that --data-dir names"
            ) from error
        tasks |= loaded["tasks"]
        groups |= {key: group for key, group in loaded["groups"].items() if key != "r1kit"}
    return {"tasks": tasks, "groups": groups}


def _unknown(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    own = ", ".join(path.stem for path in _own_files())
    return f"{name}: no task of lm-eval has this name{hint} With R1's protocol: {own}"


def _changes(
    name: str, config: Mapping[str, Any], data_dir: Path | None, samples: int | None
) -> dict[str, Any]:
    """What to change in a task's configuration.

    Raises:
        LmEvalError: it cannot be changed like this.
    """
    changes: dict[str, Any] = {}
    if samples is not None:
        changes |= _repeats(name, config, samples)
    if data_dir is not None:
        changes |= _local_data(name, config, data_dir)
    return changes


def _repeats(name: str, config: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """`samples` answers per question, in a task that scores all its repeats."""
    from .lm_eval_bridge import LmEvalError

    filters = config.get("filter_list") or []
    if not _takes_all_repeats(filters):
        if samples == 1:
            return {}
        raise LmEvalError(
            f"{name}: scores one answer per question, so {samples} cannot be had; leave --samples "
            "out, or use a task whose filter is take_first_k, as those called r1_... have"
        )
    changed = [
        {
            **each,
            "filter": [
                {**step, "k": samples} if step["function"] == "take_first_k" else step
                for step in each["filter"]
            ],
        }
        for each in filters
    ]
    return {"repeats": samples, "filter_list": changed}


def _local_data(name: str, config: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """The data of a task from files, one for each split that it uses."""
    from .lm_eval_bridge import LmEvalError

    used = {
        str(config[key])
        for key in ("training_split", "validation_split", "test_split", "fewshot_split")
        if config.get(key)
    }
    own_source = config.get("custom_dataset") is not None
    if own_source and name in {path.stem for path in _own_files()}:
        used |= set(config.get("dataset_kwargs") or {})
    elif own_source or "class" in config or not isinstance(config.get("task"), str):
        raise LmEvalError(
            f"{name}: --data-dir is for single tasks that read a data set by its name; this one "
            "loads its data itself, or stands for several tasks"
        )
    files = {split: data_dir / f"{name}.{split}.jsonl" for split in sorted(used)}
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise LmEvalError(
            f"--data-dir {data_dir}: {name} needs {' and '.join(missing)}, with the columns of its "
            "data set on the Hub, one row a line"
        )
    paths = {split: str(file) for split, file in files.items()}
    if own_source:
        return {"dataset_kwargs": paths}
    return {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": paths}}


def _check(tasks: Mapping[str, Any], engine: Engine) -> bool:
    """Refuse what cannot be run; say whether the tasks let the model write.

    Raises:
        LmEvalError: a task needs what this engine does not have, or the tasks do not go together.
    """
    from .lm_eval_bridge import LmEvalError, likelihood_maker

    kinds = {name: task.OUTPUT_TYPE == "generate_until" for name, task in tasks.items()}
    for name, task in tasks.items():
        if not kinds[name]:
            likelihood_maker(engine, name)
        if getattr(task, "UNSAFE_CODE", False):
            raise LmEvalError(f"{name}: runs programs that the model wrote, outside any sandbox")
        if getattr(task, "MULTIMODAL", False):
            raise LmEvalError(f"{name}: shows images or plays sounds, which engines do not take")
    if len(set(kinds.values())) > 1:
        writing = sorted(name for name, writes in kinds.items() if writes)
        raise LmEvalError(
            f"{', '.join(writing)} let the model write and the others compare log-likelihoods; "
            "ask for them one by one"
        )
    return all(kinds.values())


def _prepare(task: Any, lm: "EngineLM") -> None:
    """What lm-eval's own entry does to a task, and: leave out what got no answer.

    lm-eval walks over the questions twice, to ask and to score. Until it has asked, nothing failed.
    """
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    walk = task.doc_iterator

    def answered(**where: Any) -> Iterator[tuple[int, Any]]:
        failed = lm.failed
        return ((at, doc) for at, doc in walk(**where) if (task.task_name, at) not in failed)

    task.doc_iterator = answered


def _scores(loaded: Mapping[str, Any], results: Any, lm: "EngineLM") -> Iterator[TaskScore]:
    """What lm-eval computed, with our counts."""
    failed = Counter(name for name, _ in lm.failed)
    for name, task in loaded["tasks"].items():
        computed = results["results"][name]
        outcomes = Counter(str(s.outcome) for s in lm.sampled if s.task == name)
        metrics = _metrics(computed)
        unread = next((m.value for m in metrics if m.name == "unread"), None)
        no_answer = outcomes["no_answer"]
        if unread is not None:  # counts every blank and every reply without a readable answer
            no_answer = round(unread) - _blank_otherwise(lm, name)
        yield TaskScore(
            name,
            tuple(metric for metric in metrics if metric.name != "unread"),
            computed["sample_len"],
            task.config.repeats,
            outcomes["truncated"],
            no_answer,
            outcomes["infra_error"],
            failed[name],
            str(results["versions"][name]),
            _yaml_sha256(task),
            results["n-shot"].get(name) or 0,
        )
    for name, group in loaded["groups"].items():
        computed = results["results"].get(name, {})
        if metrics := _metrics(computed):
            members = {task.task_name for task in group.get_all_tasks()}
            outcomes = Counter(str(s.outcome) for s in lm.sampled if s.task in members)
            yield TaskScore(
                name,
                metrics,
                computed["sample_len"],
                1,
                outcomes["truncated"],
                outcomes["no_answer"],
                outcomes["infra_error"],
                sum(failed[member] for member in members),
                str(results["versions"].get(name, "")),
                "",
                0,
                is_group=True,
            )


def _graded(
    tasks: Mapping[str, Any], rows: Mapping[str, Any], sampled: Sequence["Sampled"]
) -> Iterator["Sampled"]:
    """Every sample with what the task's first metric makes of it alone, and the target.

    A question's row holds the metrics of all its samples together. Tasks that score all of them are
    given each one again; of other tasks only the first one counts, and the row is about that.
    """
    scored = {(name, row["doc_id"]): row for name in rows for row in rows[name]}
    docs = {(name, i.doc_id): i.doc for name, task in tasks.items() for i in task.instances}
    for sample in sampled:
        task, place = tasks[sample.task], (sample.task, sample.doc_id)
        if sample.outcome == "infra_error":
            metrics = {}
        elif _takes_all_repeats(task.config.filter_list or []):
            metrics = task.process_results(docs[place], [[sample.reply]])
        else:
            row = scored.get(place, {"metrics": []}) if sample.index == 0 else {"metrics": []}
            metrics = {name: row[name] for name in row["metrics"]}
        value = next(iter(metrics.values()), None)
        yield replace(
            sample,
            value=float(value) if isinstance(value, int | float) else None,
            gold=str(task.doc_to_target(docs[place])),
        )


def _takes_all_repeats(filters: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a task's scoring is given all replies to a question, as a list."""
    steps = (step for each in filters for step in each["filter"])
    return any(step["function"] == "take_first_k" for step in steps)


def _blank_otherwise(lm: "EngineLM", task: str) -> int:
    """Truncated samples among the scored questions: they are blank, and counted as such already."""
    return sum(
        s.task == task and s.outcome == "truncated" and (task, s.doc_id) not in lm.failed
        for s in lm.sampled
    )


def _metrics(computed: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The metrics in lm-eval's result of one task: keys `NAME,FILTER` and `NAME_stderr,FILTER`."""
    found = []
    for key, value in computed.items():
        name, comma, used_filter = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        se = computed.get(f"{name}_stderr,{used_filter}")
        se = float(se) if isinstance(se, int | float) else None
        found.append(Metric(name, used_filter, float(value), se))
    return tuple(found)


def _notices(lm: "EngineLM") -> Iterator[str]:
    """What was done other than the tasks say; a count where it concerns samples."""
    for said, count in sorted(lm.notices.items()):
        yield said if "asked with" in said or "not passed on" in said else f"{said} ({count:,})"
    failed = lm.failed
    if failed:
        yield (
            f"{len(failed):,} questions are left out: the engine gave no usable answer; the same "
            "command asks for those again"
        )


def _blank_but_right(tasks: Mapping[str, Any], samples: Mapping[str, Any]) -> Iterator[str]:
    """Warn of tasks that find something right in an empty reply: their score cannot be trusted."""
    for name, rows in samples.items():
        better = tasks[name].higher_is_better()
        blank = [
            row
            for row in rows
            if tasks[name].OUTPUT_TYPE == "generate_until"
            and not any(str(reply).strip() for replies in row["resps"] for reply in replies)
            and any(
                better.get(metric) and isinstance(row[metric], int | float) and row[metric] > 0
                for metric in row["metrics"]
            )
        ]
        if blank:
            yield (
                f"{name}: its metrics find something right in {len(blank):,} questions whose "
                "replies are empty (cut off, or thinking that never closed); do not quote them"
            )


def _yaml_sha256(task: Any) -> str:
    """The digest of a task's YAML and of the files that it includes; empty for one without."""
    source = Path(str((task.config.metadata or {}).get("config_source", "")))
    digest = hashlib.sha256()
    for _ in range(10):  # an include leads to an include; a cycle lm-eval has refused
        if not source.is_file():
            break
        text = source.read_text(encoding="utf-8")
        digest.update(text.encode())
        found = INCLUDE.search(text)
        if found is None:
            return digest.hexdigest()
        source = source.parent / found.group(1)
    return ""


def _own_files() -> list[Path]:
    """The YAMLs that are tasks: the others are what they include and read."""
    return [
        path
        for path in sorted(TASKS.glob("r1_*.yaml"))
        if re.search(r"^task:", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


@contextmanager
def _lm_evals_seeds() -> Iterator[None]:
    """The seeds that lm-eval sets for tasks that draw while they load, put back afterwards."""
    import random

    import numpy as np

    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the bars of `datasets` away from our own."""
    import datasets

    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()
