"""The command line: `r1kit`. It has the shape of the folders, and loads each one when it is used.

    r1kit run RECIPE      the whole pipeline, resumable
    r1kit doctor          what this machine can run, what is missing, how to get it
    r1kit teacher | distill | students | eval | kernels ...

Nothing heavy is imported before a command needs it: `r1kit --help` takes a fraction of a second.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from .. import KitError, __version__

if TYPE_CHECKING:
    from .workspace import Stage

FOLDERS = {
    "teacher": "The teacher: serve it, talk to it, train the embedded one.",
    "students": "Students: train them.",
    "eval": "Evaluation: score a model on a suite.",
    "kernels": "GPU kernels: check them, time them.",
}
"""Folder -> the line that stands for it in the help; its commands live in its own cli.py."""


INTERRUPTED = "interrupted; what was finished is kept, and the same command goes on from there"


def _lazy(folder: str) -> type[TyperGroup]:
    """A group whose commands come from `r1kit.FOLDER.cli`, imported when one is looked for."""

    class LazyGroup(TyperGroup):
        def _real(self) -> TyperGroup:
            from importlib import import_module

            module = import_module(f"..{folder}.cli", package=__package__)
            return typer.main.get_group(module.app)

        def list_commands(self, ctx):  # type: ignore[no-untyped-def]
            return self._real().list_commands(ctx)

        def get_command(self, ctx, cmd_name):  # type: ignore[no-untyped-def]
            return self._real().get_command(ctx, cmd_name)

    return LazyGroup


app = typer.Typer(
    name="r1kit",
    help="Distil DeepSeek-R1 into small reasoning models: sample, verify, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
distill = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The pipeline, up to one of its stages.",
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="a built-in recipe's name, a YAML file, or the directory of a run"
    ),
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="laid over the recipe; repeatable")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="do this stage and all after it again"),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="say what would be done and what it may cost; do nothing")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="the run's directory; by default runs/NAME")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"r1kit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Hold the options that stand before every command."""


@app.command()
def run(
    recipe: RecipeArgument,
    override: SetOption = [],  # noqa: B006 (typer copies it)
    from_stage: FromOption = None,
    dry_run: DryOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn problems into an evaluated student. Resumes where an earlier run stopped."""
    _run(recipe, override, from_stage, "report", dry_run, out, as_json)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    from .doctor import show

    show(as_json=as_json)


def _run(
    recipe: str,
    override: list[str],
    from_stage: str | None,
    until: str,
    dry_run: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Load the recipe, and run or describe it."""
    from .console import Console
    from .present import describe, run_recipe
    from .recipe import builtin_names, load
    from .workspace import Stage, Workspace

    stored = Path(recipe) / "settings.yaml"
    if recipe not in builtin_names() and os.path.isfile(stored):  # noqa: PTH113 (never raises)
        recipe, out = str(stored), out if out is not None else stored.parent
    settings = load(recipe, override)
    workspace = Workspace(out if out is not None else Path("runs") / settings.name)
    start = None if from_stage is None else _stage(from_stage)
    if dry_run:
        describe(settings, workspace, Console(), start=start, as_json=as_json)
        return
    run_recipe(settings, workspace, Console(), start=start, until=Stage(until), as_json=as_json)


def _stage(name: str) -> Stage:
    """The stage called `name`."""
    from .wording import did_you_mean
    from .workspace import Stage

    try:
        return Stage(name)
    except ValueError:
        raise KitError(f"--from {name}: no such stage{did_you_mean(name, list(Stage))}") from None


def _add_stage_command(stage: str, help_text: str) -> None:
    """Add `r1kit distill STAGE`, which runs a recipe up to that stage."""

    @distill.command(stage, help=help_text)
    def command(
        recipe: RecipeArgument,
        override: SetOption = [],  # noqa: B006 (typer copies it)
        from_stage: FromOption = None,
        dry_run: DryOption = False,
        out: OutOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _run(recipe, override, from_stage, stage, dry_run, out, as_json)


_add_stage_command("sample", "Sample the teacher's answers.")
_add_stage_command("verify", "Sample, and judge the answers.")
_add_stage_command("filter", "Sample, judge, and tag what is not worth training on.")
_add_stage_command("build", "Everything up to the data set.")
_add_stage_command("report", "The whole run; its report is written last.")
app.add_typer(distill, name="distill")
for _folder, _line in FOLDERS.items():
    app.add_typer(
        typer.Typer(cls=_lazy(_folder), help=_line, no_args_is_help=True, rich_markup_mode=None),
        name=_folder,
    )


def main() -> None:
    """Run the command line; what a user can fix is one message and an exit code, no traceback."""
    # Threads that spin, waiting for one that is not running, take its core away. Beside busy
    # processes training is 2.6 to 2.9 times as fast with this as with GNU OpenMP's own 300,000
    # (students/README.md). It is read when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except KitError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"r1kit: {INTERRUPTED}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _stop_printing()
        sys.exit(141)
    except OSError as error:  # what no command could say better
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        _stop_printing()
        print(f"r1kit: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _stop_printing() -> None:
    """Let what Python still has to print go nowhere, so that leaving does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: KitError) -> None:
    """Print an error and what was noted along its way up."""
    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    print(f"r1kit: {text}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
