#!/usr/bin/env bash
# Reprojecting 8-bit pictures without a nodata value: what lies outside is 255, and pad_box gives 0.
#
# Expected   0, or an error that no nodata value is known.
# Found      rio.reproject fills what the source doesn't cover with 255 for uint8 (-32768 for int16, NaN for float32)
#            and writes that value down as nodata; rio.pad_box and rasterio's boundless reads fill the same area with 0.
# With       rioxarray 0.19.0, xarray 2026.9.0, rasterio 1.4.4; 2026-11-27
# Matters    two scenes that don't overlap: the second camera is "white" where it saw nothing, a saturated pixel counts
#            as missing, and which value means missing goes by the function used.
# Source     rioxarray/raster_array.py and raster_writer.py: a default by dtype where none is set.
# subsense   nothing to mend; the page on data: write nodata explicitly before warping, and make `present` of it.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "rioxarray==0.19.0" "rasterio==1.4.4" "xarray==2026.9.0" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import rasterio
import rioxarray
import xarray
from rasterio.transform import from_origin
from rasterio.windows import Window

print("rioxarray", rioxarray.__version__, "xarray", xarray.__version__, "rasterio", rasterio.__version__)
with rasterio.open(
    "a.tif",
    "w",
    driver="GTiff",
    height=8,
    width=8,
    count=1,
    dtype="uint8",
    crs="EPSG:32633",
    transform=from_origin(0, 80, 10, 10),
) as file:
    file.write(np.full((1, 8, 8), 7, np.uint8))
scene = rioxarray.open_rasterio("a.tif")
grid = dict(transform=from_origin(-50, 130, 10, 10), shape=(18, 18))
found = {}
for dtype in ("uint8", "int16", "float32"):
    moved = scene.astype(dtype).rio.reproject("EPSG:32633", **grid)
    found[dtype] = np.unique(moved.values).tolist()
    print(f"reproject, {dtype:8} values {found[dtype]}, nodata {moved.rio.nodata}")
found["pad_box"] = np.unique(scene.rio.pad_box(-50, -50, 130, 130).values).tolist()
with rasterio.open("a.tif") as file:
    found["boundless"] = np.unique(file.read(1, window=Window(-5, -5, 18, 18), boundless=True)).tolist()
print("pad_box, uint8:", found["pad_box"], "| boundless read:", found["boundless"])
assert found["uint8"] == [7, 255]
assert found["int16"] == [-32768, 7]
assert found["float32"][0] == 7.0 and np.isnan(found["float32"][1])
assert found["pad_box"] == found["boundless"] == [0, 7]
PY
