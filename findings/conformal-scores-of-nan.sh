#!/usr/bin/env bash
# Conformal prediction with scores of NaN: calibration takes them for the smallest or leaves them out.
#
# Expected   an error, as MAPIE's classifiers give (probabilities must sum to 1).
# Found      crepes' ConformalClassifier: a test object of NaN gets the smallest p-value for every class, so an empty
#            set; calibration scores of NaN count as smaller than all, so p-values shrink and the sets cover less than
#            promised (half of them NaN: 0.78 instead of 0.9). Its ConformalRegressor gives intervals of NaN, and
#            evaluate counts such rows as plain errors. MAPIE's SplitConformalRegressor leaves NaN out in silence: where
#            the predictions that failed were the bad ones, intervals shrink.
# With       crepes 0.9.1, mapie 1.6.0, scikit-learn 1.9.1, numpy 2.4.6; fixed seed; 2026-11-27
# Matters    one combination whose output is NaN (masked pooling, attention over nothing) changes the guarantee of all
#            combinations that are calibrated together with it.
# Source     crepes counts comparisons, which NaN never meets; mapie takes a quantile that skips NaN.
# subsense   calibrating confidence must refuse scores that aren't finite, naming combination and rows.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "crepes==0.9.1" "mapie==1.6.0" "scikit-learn==1.9.1" "numpy==2.4.6" "pandas==3.1.1" "scipy==1.17.1"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings
from importlib.metadata import version

import numpy as np
from crepes import ConformalClassifier, ConformalRegressor
from mapie.regression import SplitConformalRegressor
from sklearn.linear_model import LinearRegression

warnings.simplefilter("ignore")
print(", ".join(f"{name} {version(name)}" for name in ("crepes", "mapie", "scikit-learn", "numpy")))
random = np.random.RandomState(0)
scores = random.rand(200)
partly = scores.copy()
partly[::2] = np.nan
nan = np.nan


def classifier(calibration):
    made = ConformalClassifier()
    made.fit(calibration)
    return made


healthy, spoilt = classifier(scores), classifier(partly)
objects = np.array([[nan, nan]])
p = healthy.predict_p(objects, seed=0)[0].round(3).tolist()
sets = healthy.predict_set(objects, seed=0, confidence=0.9)[0].tolist()
print("crepes, object of NaN: p-values", p, "set", sets)
assert max(p) < 0.01 and sets == [0, 0]
fresh = random.rand(20000, 1)  # from where the calibration scores are
covered = [float((made.predict_p(fresh, seed=0) > 0.1).mean()) for made in (healthy, spoilt)]
print(f"crepes, covered of 0.9: {covered[0]:.3f}; with half of the calibration scores NaN: {covered[1]:.3f}")
assert covered[0] - covered[1] > 0.06

residuals = random.randn(200)
regressor, spoilt = ConformalRegressor(), ConformalRegressor()
regressor.fit(residuals)
spoilt.fit(np.where(np.isnan(partly), nan, residuals))
interval = spoilt.predict_int(np.array([0.0]))[0]
error = regressor.evaluate(np.array([0.0, nan]), np.array([0.0, 0.0]))["error"]
print("crepes, interval from residuals with NaN:", interval, "| error of one right and one NaN prediction:", error)
assert np.isnan(interval).all() and error == 0.5

x = random.randn(200, 1)
y = x[:, 0] + random.randn(200)
model = LinearRegression().fit(x, y)


class Partly(LinearRegression):
    """The same predictions, but NaN for x = 99."""

    def predict(self, X):
        return np.where(X[:, 0] == 99, nan, super().predict(np.where(X == 99, 0, X)))


model = Partly().fit(x, y)


def width(rows):
    made = SplitConformalRegressor(model, confidence_level=0.9, prefit=True)
    made.conformalize(rows, y)
    low, high = made.predict_interval(np.array([[0.0]]))[1][0, :, 0]
    return float(high - low)


gaps = x.copy()
gaps[np.argsort(-np.abs(y - model.predict(x)))[:20]] = 99
whole, left = width(x), width(gaps)
print(f"MAPIE, width of the 90 % interval: {whole:.2f}; where the 20 worst of 200 predictions are NaN: {left:.2f}")
assert left < 0.9 * whole
PY
