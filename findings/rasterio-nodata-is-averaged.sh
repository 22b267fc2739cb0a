#!/usr/bin/env bash
# Warping a picture of several bands averages one band's nodata value into its measurements.
#
# Expected   nodata is left out band by band, as it is when the bands are warped one by one, and as reading an overview
#            does.
# Found      rasterio.warp.reproject and WarpedVRT of two bands, nodata -9999, of which the second lacks some pixels:
#            with bilinear, average, cubic, lanczos and rms that band gets values like -7401.5 beside the gap: not
#            nodata, not measured. For the default is that a pixel counts as missing only where all bands are. With
#            UNIFIED_SRC_NODATA="NO", or band by band: 20.0 or -9999 alone. Overviews in mode "mode" over NaN as nodata
#            give 0 for the gap.
# With       rasterio 1.4.4 (GDAL of its wheel), numpy 2.3.5; 2026-11-27
# Matters    bringing sensors to one grid is the first step in remote sensing; a band with clouds or stripes gets huge
#            values at every edge of a gap, which survive a comparison with nodata.
# Source     rasterio sets the warp option UNIFIED_SRC_NODATA=YES; GDAL's page on its warp options tells YES, NO and
#            PARTIAL apart.
# subsense   loaders of raster data must warp band by band or with NO; a test with a gap in one band.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "rasterio==1.4.4" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__)
NODATA, COARSE = -9999.0, from_origin(0, 80, 16, 16)
data = np.full((2, 8, 8), 10, np.float32)
data[1] = 20
data[1, 2:6, 2:6] = NODATA
profile = dict(
    driver="GTiff", height=8, width=8, dtype="float32", crs="EPSG:32633", transform=from_origin(0, 80, 10, 10)
)
with rasterio.open("two.tif", "w", count=2, nodata=NODATA, **profile) as file:
    file.write(data)


def warped(way, bands, **options):
    with rasterio.open("two.tif") as file:
        out = np.full((len(bands), 5, 5), -1, np.float32)
        reproject(
            rasterio.band(file, bands), out, dst_transform=COARSE, dst_crs=file.crs, resampling=way,
            src_nodata=NODATA, dst_nodata=NODATA, **options,
        )  # fmt: skip
    return sorted({round(float(v), 1) for v in out[-1].flatten()})


for way in (Resampling.bilinear, Resampling.average, Resampling.cubic, Resampling.lanczos, Resampling.rms):
    together, apart = warped(way, [1, 2]), warped(way, [2])
    print(f"{way.name:9} second band, warped with the first: {together}")
    assert set(together) - {NODATA, 20.0}
    assert apart == warped(way, [1, 2], UNIFIED_SRC_NODATA="NO") == [NODATA, 20.0]
print("band by band, or with UNIFIED_SRC_NODATA=NO:", [NODATA, 20.0])
assert -7401.5 in warped(Resampling.bilinear, [1, 2])
with (
    rasterio.open("two.tif") as file,
    WarpedVRT(file, transform=COARSE, width=5, height=5, resampling=Resampling.bilinear) as vrt,
):
    values = sorted({round(float(v), 1) for v in vrt.read(2).flatten()})
print("WarpedVRT, bilinear:", values)
assert -7401.5 in values

large = np.full((1, 64, 64), 10, np.float32)
large[0, :, 32:] = np.nan
with rasterio.open("one.tif", "w", count=1, nodata=np.nan, **{**profile, "height": 64, "width": 64}) as file:
    file.write(large)
with rasterio.open("one.tif", "r+") as file:
    file.build_overviews([2], Resampling.mode)
with rasterio.open("one.tif", overview_level=0) as file:
    values = np.unique(file.read()).tolist()
print("overview in mode 'mode' of 10 and NaN:", values)
assert values == [0.0, 10.0]
PY
