#!/usr/bin/env bash
# NetCDF: what was never written is 9.97e36 in one library and missing in the other; 255 the other way round.
#
# Expected   both libraries agree on what is missing.
# Found      of four values of which two were written, xarray gives 9.97e36 for the rest of a float (-32767 of an
#            int16), as numbers; netCDF4 masks them. A uint8 of 255 that was written is masked by netCDF4, and is 255 in
#            xarray. h5py sees an array of two.
# With       netCDF4 1.7.5.1.post1, xarray 2026.9.0, h5py 3.16.0; 2026-11-27
# Matters    a sensor that stopped while others went on, along one unlimited time axis: the tail is finite and gigantic,
#            and no check for NaN or inf finds it.
# Source     netCDF's default fill values go by type, unless the variable states `_FillValue`; xarray masks stated ones
#            alone.
# subsense   `check_inputs=True` looks for NaN and inf: numbers that huge deserve the same refusal, or a bound by
#            modality.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "netCDF4==1.7.5.1.post1" "xarray==2026.9.0" "h5py==3.16.0" "numpy==2.3.5" "pandas==3.1.1"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import h5py
import netCDF4
import numpy as np
import xarray

print("netCDF4", netCDF4.__version__, "xarray", xarray.__version__, "h5py", h5py.__version__)
with netCDF4.Dataset("a.nc", "w") as file:
    file.createDimension("time", None)
    values = {
        "whole": ("f4", [1, 2, 3, 4]),
        "stopped": ("f4", [1, 2]),
        "steps": ("i2", [1, 2]),
        "picture": ("u1", [1, 255]),
    }
    for name, (dtype, numbers) in values.items():
        file.createVariable(name, dtype, ("time",))[: len(numbers)] = numbers
data = xarray.open_dataset("a.nc")
with netCDF4.Dataset("a.nc") as file:
    masked = {name: np.ma.getmaskarray(file[name][:]).tolist() for name in values}
for name in ("stopped", "steps", "picture"):
    print(f"{name:8} xarray {data[name].values}, netCDF4 masks {masked[name]}")
with h5py.File("a.nc") as file:
    print("h5py     stopped", file["stopped"][:])
    assert file["stopped"].shape == (2,)
assert np.isfinite(data.stopped.values).all() and (data.stopped.values[2:] > 9e36).all()
assert data.steps.values.tolist() == [1, 2, -32767, -32767]
assert masked["stopped"] == masked["steps"] == [False, False, True, True]
assert data.picture.values.tolist() == [1, 255, 255, 255]
assert masked["picture"] == [False, True, True, True]
PY
