#!/usr/bin/env bash
# Point clouds in LAS: a height of NaN is written as -21,474,836.48 m; a stated no-data value isn't applied.
#
# Expected   an error on writing NaN into a scaled whole number; extra dimensions with `no_data` come back masked.
# Found      a coordinate of NaN becomes the smallest 32-bit number times the scale, without a word, and is the header's
#            new minimum. An extra dimension of uint8 with no_data=[255] and scale 0.01 gives 2.55 for what is missing.
#            Only unscaled float dimensions keep NaN.
# With       laspy 2.7.0, numpy 2.3.5; 2026-11-27
# Matters    lidar beside cameras: a missing return moves the cloud's bounding box by 21,000 km, so that voxels or a
#            scaling to [0, 1] put everything else in one cell.
# Source     laspy scales x, y, z to int32 by a cast of numpy; `no_data` is stored in the header's record and nothing
#            more.
# subsense   none of its loaders reads LAS; the page on data: drop missing returns before writing, look at the header's
#            bounds.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "laspy==2.7.0" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import laspy
import numpy as np

print("laspy", laspy.__version__, "numpy", np.__version__)
cloud = laspy.create(point_format=1, file_version="1.2")
cloud.header.scales = [0.01] * 3
cloud.add_extra_dims(
    [
        laspy.ExtraBytesParams("thermal", np.float32),
        laspy.ExtraBytesParams(
            "ndvi", np.uint8, scales=np.array([0.01]), offsets=np.array([0.0]), no_data=np.array([255])
        ),
    ]
)
cloud.x, cloud.y, cloud.z = [0.0, 1.0], [0.0, 1.0], [np.nan, 1.0]
cloud["thermal"], cloud["ndvi"] = [np.nan, 3.0], [2.55, 0.5]
cloud.write("a.las")
read = laspy.read("a.las")
heights, thermal, ndvi = (np.asarray(values).round(2) for values in (read.z, read["thermal"], read["ndvi"]))
print("heights", heights, "| header's minimum", read.header.mins[2].round(2), "| thermal", thermal, "| ndvi", ndvi)
assert heights.tolist() == [-21474836.48, 1.0]
assert read.header.mins[2] < -2e7
assert np.isnan(thermal[0]) and thermal[1] == 3.0
assert ndvi.tolist() == [2.55, 0.5]
PY
