"""What every test may rely on: one thread, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# Before torch is imported; processes that tests start inherit it. The layers here only wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

from command_line import own  # noqa: E402, F401 - a fixture for every test; it imports torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of read-only material (`shared / "data" / "utd_mhad"`), or skip the test that needs it."""
    folder = Path(os.environ.get("SUBSENSE_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the real data, and {folder} is no folder: set SUBSENSE_SHARED to where it is")
    return folder
