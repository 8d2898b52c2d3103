"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest
import torch

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the commands that
# tests interrupt would never notice.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a GPU the kernels run in Triton's interpreter, which has to be chosen before Triton loads.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of published problem files, which is not part of the repository.

    It is `../shared/data` beside the repository, or what R1KIT_TEST_DATA names. Tests that need it
    are skipped where it is absent.
    """
    named = os.environ.get("R1KIT_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no published problem files at {folder} (R1KIT_TEST_DATA names another place)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly where a skip is not allowed."""
    if os.environ.get("R1KIT_NO_SKIPS") and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("R1KIT_NO_SKIPS is set, so a skipped test fails the run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With R1KIT_NO_SKIPS set, as in CI, a run that skipped a test has failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("R1KIT_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
