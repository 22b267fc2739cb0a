#!/usr/bin/env bash
# Whole numbers become floats in those batches alone in which one is missing, 8-bit pictures too.
#
# Expected   the declared type in every batch, or an error at None.
# Found      with the numpy format (torch's is the same) a batch with a None is float32, NaN where it is missing, and
#            whole numbers above 2**24 beside it are rounded; a batch without one is int64. Pictures declared
#            Array2D(uint8) are int64 where they are read alone, a missing one is a picture of NaN, and every picture
#            read together with it becomes float32.
# With       datasets 5.2.0, pyarrow 26.0.1; 2026-11-27
# Matters    token numbers that reach an embedding as floats raise in some batches only; a transform that scales whole
#            numbers and leaves floats alone scales in some batches and not in others.
# Source     datasets/formatting/np_formatter.py (whole numbers to int64, floats to float32; a null in Arrow makes the
#            array float).
# subsense   refuses such a batch: "expected dtype int64, but found float32" (InputError), so training stops in the
#            batch with the first missing row, not before. Read such columns without a format, or fill None before they
#            are made.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "datasets==5.2.0" "pyarrow==26.0.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import datasets
import numpy as np
from datasets import Array2D, Dataset, Features

print("datasets", datasets.__version__)
tokens = Dataset.from_dict({"token": [1, None, 2**24 + 1, 3]}).with_format("numpy")
first, second = tokens[:2]["token"], tokens[2:]["token"]
print("batch with a None:", first, first.dtype, "| batch without:", second, second.dtype)
assert first.dtype == np.float32 and np.isnan(first[1]) and second.dtype == np.int64
whole = tokens[:]["token"]
print("2**24 + 1 beside a None:", int(whole[2]))
assert int(whole[2]) == 2**24, "float32 holds no more than 24 bits"

pictures = Dataset.from_dict(
    {"thermal": [[[7, 255]], None, [[1, 2]]]}, features=Features({"thermal": Array2D((1, 2), "uint8")})
).with_format("numpy")
row, there, batch = pictures[1]["thermal"], pictures[2]["thermal"], pictures[:]["thermal"]
print("missing picture:", row, row.dtype, "| a picture alone:", there, there.dtype, "| all three:", batch.dtype)
assert np.isnan(row).all() and row.dtype == np.float32
assert batch.dtype == np.float32
PY
