"""Data sets of several modalities, one file each, loaded by name.

The table below names where each one's code is; nothing is imported before it is asked for. Nothing is downloaded, ever:
except for `digits`, which comes with scikit-learn, the files must lie under `root`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from subsense.data.base import Data, Description, FileSamples, Part, Samples
from subsense.errors import DataError
from subsense.support.factories import check_options, find

__all__ = ["DATASETS", "Data", "Description", "FileSamples", "Part", "Samples", "describe", "explain", "load"]

DATASETS = {
    "digits": "subsense.data.digits:digits",
    "utd-mhad": "subsense.data.utd_mhad:utd_mhad",
    "utd-mhad-raw": "subsense.data.utd_mhad_raw:utd_mhad_raw",
    "cwfid": "subsense.data.cwfid:cwfid",
    "cmu-mosi": "subsense.data.cmu_mosi:cmu_mosi",
    "mfnet": "subsense.data.mfnet:mfnet",
    "nyudv2": "subsense.data.nyudv2:nyudv2",
    "mcubes": "subsense.data.mcubes:mcubes",
    "mosi": "subsense.data.mosi:mosi",
    "mosei": "subsense.data.mosei:mosei",
    "food101": "subsense.data.food101:food101",
    "emoji": "subsense.data.emoji:emoji",
    "ntu": "subsense.data.ntu:ntu",
    "deliver": "subsense.data.deliver:deliver",
    "pst900": "subsense.data.pst900:pst900",
    "fmb": "subsense.data.fmb:fmb",
    "brats": "subsense.data.brats:brats",
    "sunrgbd": "subsense.data.sunrgbd:sunrgbd",
    "kitti-road": "subsense.data.kitti_road:kitti_road",
    "pamap2": "subsense.data.pamap2:pamap2",
    "opportunity": "subsense.data.opportunity:opportunity",
}
"""Name -> the function that loads it. Beside it in its module stands the `DESCRIPTION`."""


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


def describe(name: str) -> Description:
    """Say what is known of a data set by name, without its files; raise `DataError` for an unknown name.

    >>> describe("utd-mhad").num_classes
    27
    """
    factory = find(name, DATASETS, "data set", DataError)
    description = import_module(factory.__module__).DESCRIPTION
    assert isinstance(description, Description)
    return description


def explain(name: str) -> str:
    """Give the text of the function that loads a data set: what its folder holds, and its options.

    >>> "the images come with scikit-learn" in explain("digits")
    True
    """
    return inspect.getdoc(find(name, DATASETS, "data set", DataError)) or ""
