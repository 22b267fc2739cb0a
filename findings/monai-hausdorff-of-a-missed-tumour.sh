#!/usr/bin/env bash
# A network that misses a tumour altogether has a better mean Hausdorff distance than one that finds part of it.
#
# Expected   an empty prediction where the label is not empty: an infinite distance, or the image's diagonal.
# Found      NaN, with a warning; HausdorffDistanceMetric's mean leaves it out. Two cases, a block found exactly in the
#            first; in the second half is found (mean 1.0), or nothing (mean 0.0, the best there is).
# With       monai 1.6.1, torch 2.13.0; 2026-11-27
# Matters    without a sequence a network often finds nothing at all: by HD95 alone it looks better for it. Challenges
#            count such a case with the volume's diagonal (373.13 in BraTS).
# Source     monai/metrics/hausdorff_distance.py, utils.py (get_edge_surface_distance, ignore_background); as run.
# subsense   metric "hd95" counts the diagonal where one is empty, and 0 where both are.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "monai==1.6.1" "numpy==2.3.5" "scipy==1.16.3"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import monai
import torch
from monai.metrics import HausdorffDistanceMetric

print("monai", monai.__version__)
label = torch.zeros(2, 1, 8, 8, 8)
label[:, :, 2:6, 2:6, 2:6] = 1
part, nothing = label.clone(), label.clone()
part[1, :, 4:] = 0
nothing[1] = 0
means = {}
for name, prediction in {"a part": part, "nothing": nothing}.items():
    metric = HausdorffDistanceMetric(include_background=True, percentile=95)
    metric(prediction, label)
    means[name] = float(metric.aggregate())
    print(f"second case, {name} found: mean HD95 {means[name]}")
assert means["nothing"] < means["a part"], means
PY
echo "as stated"
