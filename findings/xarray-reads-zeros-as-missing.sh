#!/usr/bin/env bash
# Zeros in a zarr array of format 2 are NaN when xarray reads them; in format 3 they aren't.
#
# Expected   the numbers that were written.
# Found      zarr's default fill value is 0, and xarray takes the fill value of format 2 for the mark of what is
#            missing: every measured 0 becomes NaN, and uint8 pictures become float32. The same array written in format
#            3 reads as written. The switch that is documented for this, use_zarr_fill_value_as_mask=False, changes
#            nothing; mask_and_scale=False does.
# With       xarray 2026.9.0, zarr 3.1.6; 2026-11-27
# Matters    two ways: dark pixels and silence turn into NaN; and chunks that were never written look missing in the one
#            format and measured in the other.
# Source     xarray's page of open_zarr (the switch is on by default for format 2, off for 3); in
#            xarray/backends/zarr.py the dataset's opener passes None on in its place.
# subsense   the page on data: open with mask_and_scale=False and keep `present` as an array of its own.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "xarray==2026.9.0" "zarr==3.1.6" "numpy==2.3.5" "pandas==3.1.1"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import xarray
import zarr

print("xarray", xarray.__version__, "zarr", zarr.__version__)
found = {}
for version in (2, 3):
    group = zarr.open_group(f"v{version}.zarr", mode="w", zarr_format=version)
    for name, dtype in {"sound": "float32", "picture": "uint8"}.items():
        names = {"dimension_names": ["t"]} if version == 3 else {}
        array = group.create_array(name, shape=(4,), chunks=(2,), dtype=dtype, **names)
        if version == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = ["t"]
        array[:2] = [0, 5]  # the second chunk is never written
    data = xarray.open_zarr(f"v{version}.zarr", consolidated=False)
    found[version] = data.sound.values, data.picture.values
    sound, picture = found[version]
    print(f"format {version}: sound {sound}, picture {picture} {picture.dtype}; zarr: {array[:]}")
    assert array[:].tolist() == [0, 5, 0, 0]
nan = np.nan
for values in found[2]:
    assert np.array_equal(values, [nan, 5, nan, nan], equal_nan=True) and values.dtype == np.float32
for values in found[3]:
    assert np.array_equal(values, [0, 5, 0, 0])
for option in ({"use_zarr_fill_value_as_mask": False}, {"mask_and_scale": False}):
    picture = xarray.open_zarr("v2.zarr", consolidated=False, **option).picture.values
    print("format 2 with", option, picture, picture.dtype)
    assert np.isnan(picture[0]) == ("mask_and_scale" not in option)
assert picture.tolist() == [0, 5, 0, 0] and picture.dtype == np.uint8
PY
