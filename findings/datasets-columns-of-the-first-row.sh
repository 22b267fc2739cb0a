#!/usr/bin/env bash
# A table made of rows has the columns of its first row; what only later rows have is gone.
#
# Expected   the union of the columns, None where a row lacks one (as pandas does).
# Found      datasets' Dataset.from_list and from_generator, its map, and pyarrow's Table.from_pylist keep the first
#            row's columns and drop the rest in silence. In map, the opposite order raises KeyError.
# With       datasets 5.2.0, pyarrow 26.0.1; 2026-11-27
# Matters    if the first recording has no thermal camera, the whole data set has none.
# Source     datasets/arrow_dataset.py (`from_list` reads `mapping[0]`); pyarrow's documentation says that the schema
#            comes from the first row.
# subsense   nothing to mend; the page on preparing data should say: give all columns in every row, or pass `features=`
#            / `schema=`.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "datasets==5.2.0" "pyarrow==26.0.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import datasets
import pyarrow
from datasets import Dataset

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__)
rows = [{"rgb": 1.0}, {"rgb": 2.0, "thermal": 3.0}]


def generate():
    yield from rows


def read(row):
    return {"rgb": 1.0} if row["i"] == 0 else {"rgb": 2.0, "thermal": 3.0}


found = {
    "Dataset.from_list": Dataset.from_list(rows).column_names,
    "Dataset.from_generator": Dataset.from_generator(generate).column_names,
    "Dataset.map": Dataset.from_dict({"i": [0, 1]}).map(read).column_names,
    "Table.from_pylist": pyarrow.Table.from_pylist(rows).column_names,
    "Dataset.from_list, reversed": Dataset.from_list(rows[::-1]).column_names,
}
for name, columns in found.items():
    print(f"{name:28} {columns}")
assert found["Dataset.from_list"] == found["Dataset.from_generator"] == found["Table.from_pylist"] == ["rgb"]
assert found["Dataset.map"] == ["i", "rgb"]
assert found["Dataset.from_list, reversed"] == ["rgb", "thermal"]
try:
    Dataset.from_dict({"i": [1, 0]}).map(read)
except KeyError as error:
    print("Dataset.map, reversed        KeyError", error)
else:
    raise AssertionError("map took rows with fewer columns")
PY
