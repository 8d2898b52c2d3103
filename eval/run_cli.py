"""`r1kit eval run`: suites asked, judged, scored and written down. Only light imports up here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .job import Job, Prepared


def run(
    suite: Annotated[
        str,
        typer.Option(
            help="one or several with commas: `tiny`, `tiny/FAMILY`, `aime24`, `aime25`, "
            "`math500`, `gsm8k`, `cnmo24`, `gpqa`, `simpleqa`, `chinese_simpleqa`, `frames`, "
            "`gym:TASK`, `short:FILE`, `lm_eval:TASK`, or a file of problems"
        ),
    ] = "tiny",
    model: Annotated[
        str, typer.Option(help="a built-in name, a Hugging Face id, a path, or a server's name")
    ] = "tiny-r1",
    engine: Annotated[str, typer.Option(help="`torch` (in this process) or `openai`")] = "torch",
    base_url: Annotated[
        str | None, typer.Option(help="of the openai engine, such as http://127.0.0.1:8000/v1")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="the environment variable that holds the API key")
    ] = None,
    prefill_mode: Annotated[
        str,
        typer.Option(
            help="how the openai engine opens the thinking: `assistant` sends a last assistant "
            "message (vLLM, SGLang), `drop` sends nothing (DeepSeek's API)"
        ),
    ] = "assistant",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="where named suites lie as files; without it they come from the Hub"),
    ] = None,
    accept_changed: Annotated[
        bool, typer.Option(help="go on with rows that are not those known of a named suite")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="answers per problem; by default 64 for AIME, 4 for MATH-500"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="problems of each suite; all where not given")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="tokens one answer may take, thinking included")
    ] = 32_768,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 is greedy; R1's model card advises 0.6")
    ] = 0.6,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="nucleus of the draw")] = 0.95,
    seed: Annotated[
        int, typer.Option(help="of the draws, of generated suites, of the order of choices")
    ] = 0,
    template: Annotated[
        str | None,
        typer.Option(
            help="the user's turn around {statement}; by default the bare statement for the "
            "built-in tiny models, and for all others what the suite's kind needs, which for "
            "mathematics is DeepSeek's advice"
        ),
    ] = None,
    thinking: Annotated[
        bool, typer.Option(help="open the thinking block, or force an answer without any")
    ] = True,
    judge_model: Annotated[
        str | None,
        typer.Option(
            help="who grades short answers, and what the math verifier cannot decide; named as "
            "--model is"
        ),
    ] = None,
    judge_engine: Annotated[
        str, typer.Option(help="`torch` or `openai`; openai where --judge-base-url is given")
    ] = "torch",
    judge_base_url: Annotated[str | None, typer.Option(help="the judge's endpoint")] = None,
    judge_api_key_env: Annotated[
        str | None, typer.Option(help="the environment variable that holds the judge's API key")
    ] = None,
    judge_thinking: Annotated[
        bool, typer.Option(help="open the judge's thinking block; for judges such as R1")
    ] = False,
    judge_max_tokens: Annotated[
        int, typer.Option(min=1, help="tokens one grade may take, thinking included")
    ] = 4096,
    judge_labels: Annotated[
        Path | None,
        typer.Option(help="graded answers to hold the judge against; by default our own"),
    ] = None,
    audit: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="share of the verifier's verdicts that --judge-model looks at as well; where they "
            "disagree the verdict stands, and both opinions go into disagreements.jsonl",
        ),
    ] = 0.05,
    batch_size: Annotated[int, typer.Option(min=1, help="of the torch engine")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="processes that compare answers")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(
            help="where answers and scores go, of several suites into one folder each; by default "
            "runs/eval/SUITE-MODEL"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print scores as JSON")] = False,
) -> None:
    """Ask a model every problem of a suite, judge the answers, and print pass@1 with its interval.

    Answers are kept in OUT/traces.sqlite: the same command a second time asks nothing again, and
    one with more samples asks for the new ones only.
    """
    from .. import KitError
    from ..teacher.engines import check_engine
    from .job import Job, engine_settings, judge_options, open_checked, sampling_of

    names = suite_list(suite)
    settings = engine_settings(
        kind=engine,
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        prefill_mode=prefill_mode,
        batch_size=batch_size,
    )
    check_engine(settings)
    job = Job(
        engine=settings,
        sampling=sampling_of(temperature, top_p, max_tokens),
        samples=samples,
        limit=limit,
        seed=seed,
        template=template,
        thinking=thinking,
        workers=workers,
        data_dir=data_dir,
        accept_changed=accept_changed,
        judge=judge_options(
            judge_model,
            kind=judge_engine,
            base_url=judge_base_url,
            api_key_env=judge_api_key_env,
            thinking=judge_thinking,
            max_tokens=judge_max_tokens,
            labels=judge_labels,
        ),
        audit=audit,
    )
    prepared = [prepare(name, job) for name in names]
    folders = folders_of([each.name for each in prepared], model, out)
    from .results import show

    with open_checked(settings) as opened:
        reports = [each.run(opened, folder) for each, folder in zip(prepared, folders, strict=True)]
    show(reports, as_json=as_json)
    open_ends = [f"{each.suite}: {each.not_final}" for each in reports if each.not_final]
    if open_ends:
        raise KitError(f"not final: {'; '.join(open_ends)}")


def prepare(name: str, job: "Job") -> "Prepared":
    """Who runs a suite: the one place where the form of its name decides that.

    Whoever it is checks all that can be checked before a model is loaded.

    Raises:
        KitError: there is no such suite, or it cannot be asked like this.
    """
    from .lm_eval_run import PREFIX

    if name.startswith(PREFIX):
        from .lm_eval_suite import LmEvalSuite

        return LmEvalSuite(name, job)
    from .own_suite import OwnSuite

    return OwnSuite(name, job)


def suite_list(text: str) -> list[str]:
    """The suites that --suite names: parted by commas, unless there is a file of that very name.

    Raises:
        KitError: a name is empty or stands there twice.
    """
    from .. import KitError

    names = [text] if Path(text).is_file() else [name.strip() for name in text.split(",")]
    if "" in names:
        raise KitError(f"--suite: an empty name in {text!r}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise KitError(f"--suite: {twice} stands there twice")
    return names


def folders_of(suites: Sequence[str], model: str, out: Path | None) -> list[Path]:
    """Make a folder for every suite: OUT itself for one, OUT/SUITE for several.

    Raises:
        KitError: two suites would share one, or a folder cannot be made.
    """
    from .. import KitError

    names = [slug(name) for name in suites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise KitError(f"--suite: two suites would both go into {twice}; run them one by one")
    if out is None:
        folders = [Path("runs/eval") / slug(f"{name}-{model}") for name in names]
    else:
        folders = [out] if len(names) == 1 else [out / name for name in names]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KitError(
                f"--out {folder}: cannot be made a directory: {error.strerror}"
            ) from error
    return folders


def slug(text: str) -> str:
    """A name that is safe as a folder's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.") or "model"
