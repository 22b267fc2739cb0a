"""What every test may rely on: one thread per worker, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start inherit it


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of read-only material (`shared / "data" / "utd_mhad"`), or skip the test that needs it."""
    folder = Path(os.environ.get("SUBSENSE_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the real data, and {folder} is no folder: set SUBSENSE_SHARED to where it is")
    return folder
