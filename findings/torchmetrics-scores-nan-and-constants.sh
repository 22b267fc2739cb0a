#!/usr/bin/env bash
# torchmetrics gives finite scores for predictions of NaN; two equal constant pictures score 0.
#
# Expected   NaN in, NaN out, as for mean squared error and Pearson's correlation; a perfect score for a perfect
#            picture.
# Found      eight predictions, one NaN: Spearman 0.76 (scipy: NaN), Kendall 0.75, AUROC 0.75, with thresholds=10 0.375.
#            All NaN: AUROC goes by the order of the rows, up to 1 where the positive ones come first, and is 0 with
#            thresholds=10. Constant predictions: Spearman 0.0, Pearson NaN. Two equal constant pictures:
#            UniversalImageQualityIndex 0.0 (its worst but opposites), SSIM with data_range given 1.0, without NaN.
# With       torchmetrics 1.9.0, torch 2.13.0, scipy 1.17.1; 2026-11-27
# Matters    a combination whose output is NaN appears in the table with a plausible number. A picture that is rightly
#            empty counts as wholly wrong.
# Source     torchmetrics ranks by torch.sort / argsort, for which NaN is the largest; the binned curves compare `preds
#            >= threshold`, which NaN never is; functional/image/uqi.py adds a small number to the denominator alone.
# subsense   counts non-finite outputs before any metric is updated, shows them and scores none; so must the user's own
#            metrics.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "torchmetrics==1.9.0" "scipy==1.17.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings

import scipy
import torch
import torchmetrics
from scipy.stats import spearmanr
from torchmetrics import KendallRankCorrCoef, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryAUROC
from torchmetrics.image import StructuralSimilarityIndexMeasure, UniversalImageQualityIndex

warnings.simplefilter("ignore")
print("torch", torch.__version__, "torchmetrics", torchmetrics.__version__, "scipy", scipy.__version__)
nan = float("nan")
target = torch.arange(8.0)
one = torch.where(target == 3, nan, target)
labels = torch.tensor([0, 1] * 4)
nothing = torch.full((8,), nan)


def score(metric, predictions, wanted):
    metric.update(predictions, wanted)
    return round(metric.compute().item(), 4)


found = {
    "one NaN: Spearman": score(SpearmanCorrCoef(), one, target),
    "one NaN: Spearman by scipy": float(spearmanr(one, target).statistic),
    "one NaN: Pearson": score(PearsonCorrCoef(), one, target),
    "one NaN: Kendall": score(KendallRankCorrCoef(), one, target),
    "one NaN: AUROC": score(BinaryAUROC(), one / 8, labels),
    "one NaN: AUROC, 10 thresholds": score(BinaryAUROC(thresholds=10), one / 8, labels),
    "all NaN: AUROC, positives first": score(BinaryAUROC(), nothing, torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])),
    "all NaN: AUROC, positives last": score(BinaryAUROC(), nothing, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])),
    "all NaN: AUROC, 10 thresholds": score(BinaryAUROC(thresholds=10), nothing, labels),
    "constant: Spearman": score(SpearmanCorrCoef(), torch.full((8,), 0.5), target),
    "constant: Pearson": score(PearsonCorrCoef(), torch.full((8,), 0.5), target),
}
picture = torch.full((1, 1, 32, 32), 0.5)
found["constant pictures: UniversalImageQualityIndex"] = score(UniversalImageQualityIndex(), picture, picture)
found["constant pictures: SSIM"] = score(StructuralSimilarityIndexMeasure(), picture, picture)
found["constant pictures: SSIM, data_range=1"] = score(
    StructuralSimilarityIndexMeasure(data_range=1.0), picture, picture
)
for name, value in found.items():
    print(f"{name:48}{value}")
not_a_number = {name for name, value in found.items() if value != value}
assert not_a_number == {
    "one NaN: Spearman by scipy",
    "one NaN: Pearson",
    "constant: Pearson",
    "constant pictures: SSIM",
}
assert found["one NaN: Spearman"] == 0.7619 and found["one NaN: Kendall"] == 0.75
assert found["one NaN: AUROC"] == 0.75 and found["one NaN: AUROC, 10 thresholds"] == 0.375
assert found["all NaN: AUROC, positives first"] != found["all NaN: AUROC, positives last"]
assert found["all NaN: AUROC, 10 thresholds"] == 0.0
assert found["constant: Spearman"] == 0.0
assert found["constant pictures: UniversalImageQualityIndex"] == 0.0
assert found["constant pictures: SSIM, data_range=1"] == 1.0
PY
