"""Data sets of several modalities, one file each, loaded by name.

The table below names where each one's code is; nothing is imported before it is asked for. Nothing is downloaded, ever:
except for `digits`, which comes with scikit-learn, the files must lie under `root`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subsense.data.base import Data, Samples
from subsense.errors import DataError
from subsense.factories import check_options, find

__all__ = ["DATASETS", "Data", "Samples", "load"]

DATASETS = {
    "digits": "subsense.data.digits:digits",
    "utd-mhad": "subsense.data.utd_mhad:utd_mhad",
    "cwfid": "subsense.data.cwfid:cwfid",
    "cmu-mosi": "subsense.data.cmu_mosi:cmu_mosi",
}


def load(name: str, root: str | Path | None = None, **options: Any) -> Data:
    """Load a data set by name.

    Args:
        name: a key of `DATASETS`.
        root: the folder that holds the data sets' own folders (`root/utd_mhad/utd_mhad.npz`); `digits` needs none.
        options: the data set's own, see its function.

    Raises:
        DataError: unknown name or option; a file that is absent or damaged.

    >>> load("digits").modalities
    {'nw': '1 4 4', 'ne': '1 4 4', 'sw': '1 4 4', 'se': '1 4 4'}
    """
    factory = find(name, DATASETS, "data set", DataError)
    check_options(f"data set {name!r}", factory, options, DataError)
    data = factory(root=root, **options)
    assert isinstance(data, Data)
    return data
