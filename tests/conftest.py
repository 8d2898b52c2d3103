"""What all tests share."""

import os
from pathlib import Path

import pytest


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
