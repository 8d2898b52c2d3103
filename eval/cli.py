"""`r1kit eval`: the commands, each in a file of its own; `--help` imports nothing heavy."""

import typer

from . import run_cli, table_cli, verify_cli
from .compare_cli import compare

app = typer.Typer(help="Score models on problems with known answers.", no_args_is_help=True)
app.command("table")(table_cli.table)


@app.callback()
def _group() -> None:
    """Score models on problems with known answers."""


app.command("run")(run_cli.run)
app.command()(compare)
app.command()(verify_cli.verify)
app.command()(verify_cli.selftest)
app.command()(verify_cli.bench_verifier)
