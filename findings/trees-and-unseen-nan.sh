#!/usr/bin/env bash
# Boosted trees that never saw NaN, asked with NaN: as zero, as large, as small or as most rows, by library.
#
# Expected   an error, or in all libraries the side of each split that more training rows took.
# Found      a sensor between 20 and 40, there in every training row; the target is 1 above a threshold. Asked with NaN:
#            LightGBM answers as for 0 (a value that the sensor never gives), XGBoost as for large values, even where
#            few rows were large, CatBoost as for the smallest; scikit-learn's HistGradientBoosting and random forest
#            take the commoner side. No error, no warning. A single row with NaN among 2000 in training turns LightGBM's
#            answer from 0 to 1.
# With       lightgbm 4.7.0, xgboost 3.2.0, catboost 1.2.10, scikit-learn 1.9.1, numpy 2.3.5; fixed seed; 2026-11-27
# Matters    "trees handle missing values" is the usual baseline for missing sensors; trained on complete rows they
#            handle them by accident, and the comparison with adapters goes by the library.
# Source     LightGBM's parameters page (use_missing, zero_as_missing) and its missing type by feature, XGBoost's
#            default direction, scikit-learn's user guide on missing values, CatBoost's nan_mode.
# subsense   no code; where docs compare with trees on features, train them on rows with the same gaps.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "lightgbm==4.7.0" "xgboost-cpu==3.2.0" "catboost==1.2.10" "scikit-learn==1.9.1" "numpy==2.3.5" "pandas==3.1.1" \
  "scipy==1.15.3"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings

import catboost
import lightgbm
import numpy as np
import sklearn
import xgboost
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

warnings.simplefilter("error", UserWarning)
print("lightgbm", lightgbm.__version__, "xgboost", xgboost.__version__, "catboost", catboost.__version__,
      "scikit-learn", sklearn.__version__)  # fmt: skip
random = np.random.RandomState(0)
x = np.stack([random.rand(2000), random.uniform(20, 40, 2000)], 1)
gone = np.array([[0.5, np.nan]])
libraries = {
    "LightGBM": lambda: lightgbm.LGBMRegressor(verbose=-1, n_jobs=1),
    "XGBoost": lambda: xgboost.XGBRegressor(n_jobs=1),
    "CatBoost": lambda: catboost.CatBoostRegressor(
        iterations=100, verbose=0, allow_writing_files=False, thread_count=1
    ),
    "HistGradientBoosting": lambda: HistGradientBoostingRegressor(),
    "RandomForest": lambda: RandomForestRegressor(20, random_state=0),
}
found = {}
for name, make in libraries.items():
    found[name] = [round(float(make().fit(x, x[:, 1] > bound).predict(gone)[0]), 1) for bound in (35, 25)]
    print(f"{name:22} few rows above: {abs(found[name][0])}, most rows above: {abs(found[name][1])}")
below = x - [0, 60]  # a sensor between -40 and -20: now 0 is a large value
moved = {
    n: round(float(libraries[n]().fit(below, below[:, 1] > -25).predict(gone)[0]), 1) for n in ("LightGBM", "CatBoost")
}
print("a sensor between -40 and -20, few rows above:", {name: abs(value) for name, value in moved.items()})
one = x.copy()
one[0, 1] = np.nan
after = round(float(libraries["LightGBM"]().fit(one, x[:, 1] > 25).predict(gone)[0]), 1)
print(f"{'LightGBM, one NaN seen':22} most rows above: {after}")
assert found["LightGBM"] == found["CatBoost"] == [0, 0]
assert found["XGBoost"] == [1, 1]
assert found["HistGradientBoosting"] == found["RandomForest"] == [0, 1]
assert moved == {"LightGBM": 1, "CatBoost": 0}
assert after == 1
PY
