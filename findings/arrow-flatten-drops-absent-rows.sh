#!/usr/bin/env bash
# flatten() of a column of embeddings leaves out the rows that are null, so every later row moves up.
#
# Expected   n * d numbers for n rows of d, null or NaN where a row is missing: that is what "fixed size" says.
# Found      FixedSizeListArray.flatten() and compute.list_flatten skip null rows; reshape(-1, d) succeeds with fewer
#            rows. `.values` keeps the d slots. min_max skips NaN where mean does not.
# With       pyarrow 26.0.1; 2026-11-27
# Matters    embeddings of a modality that some rows lack, stored in Parquet: features are paired with the wrong labels
#            from the first missing row on, if a label column is cut to the same length by a later zip, or another row
#            lacks something too.
# Source     pyarrow's API page of FixedSizeListArray.flatten ("discarding items in null slots") against `.values`.
# subsense   nothing to mend; the page on data should show `.values` with `is_valid()` as `present`.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "pyarrow==26.0.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

print("pyarrow", pa.__version__)
column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
flat = column.flatten().to_numpy().reshape(-1, 2)
kept = column.values.to_numpy(zero_copy_only=False).reshape(-1, 2)
print(
    "rows:",
    len(column),
    "| flatten:",
    flat.tolist(),
    "| values:",
    kept.tolist(),
    "| valid:",
    column.is_valid().to_pylist(),
)
assert flat.tolist() == [[1.0, 2.0], [3.0, 4.0]], "row 2 is now row 1"
assert pc.list_flatten(column).to_pylist() == [1.0, 2.0, 3.0, 4.0]
assert len(kept) == 3 and np.isnan(kept[1]).all()

numbers = pa.array([1.0, float("nan"), None])
mean, ends = pc.mean(numbers).as_py(), pc.min_max(numbers).as_py()
print("mean:", mean, "| min_max:", ends)
assert np.isnan(mean) and ends == {"min": 1.0, "max": 1.0}
PY
