"""Arrays from Matlab's older files; those of version 7.3 are HDF5, and need h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsense.data.base import Description


def read_matlab(description: Description, path: Path, name: str) -> NDArray[Any]:
    """Read one array from a file of Matlab's versions 4 to 7.2.

    Raises:
        DataError: the file is damaged, of another kind, or has no such array.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[name])
    except Exception as error:  # what scipy raises at a damaged file depends on where the damage is
        raise description.error(f"cannot read {path}: {error}.") from error
    if name not in content:
        raise description.error(f"{path}: expected an array {name!r}, but there is none.")
    return np.asarray(content[name])
