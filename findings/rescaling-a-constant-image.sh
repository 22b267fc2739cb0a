#!/usr/bin/env bash
# "Scale to [-1, 1]" of a constant image: five answers, of which two lie far outside of the range.
#
# Expected   the lower end of the range (the rule (x - min) / (max - min), with 0 / 0 taken for 0), or an error.
# Found      a volume of 100 everywhere, asked into [-1, 1]: MONAI ScaleIntensity -100 (the value times the lower end),
#            ScaleIntensityRangePercentiles -1; torchio RescaleIntensity 100 (left alone, with a warning); scikit-image
#            rescale_intensity 1 (the upper end); SimpleITK RescaleIntensity -1. torchio HistogramStandardization gives
#            91.7 of 100 for a constant, even for a volume of zeros; its ZNormalization raises, but with its own mask by
#            mean it gives NaN.
# With       monai 1.6.1, torchio 1.2.1, scikit-image 0.26.0, SimpleITK 2.5.7, torch 2.13.0; 2026-11-27
# Matters    a sequence that is stored as a constant padding value (or faded to one) reaches the network at -100 where
#            it knows [-1, 1].
# Source     monai/transforms/utils.py rescale_array (`arr * minv` where min and max agree); torchio's rescale.py,
#            normalization.
# subsense   fills after the preprocessing, so a missing modality isn't touched by this; one that is stored as a
#            constant is "present". A check of inputs should tell a constant modality: the table "what absent looks like
#            after your preprocessing".

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "monai==1.6.1" "torchio==1.2.1" "scikit-image==0.26.0" "SimpleITK==2.5.7" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings

import monai
import monai.transforms as mt
import numpy as np
import SimpleITK
import skimage
import torch
import torchio

warnings.simplefilter("ignore")
print("monai", monai.__version__, "torchio", torchio.__version__, "scikit-image", skimage.__version__,
      "SimpleITK", SimpleITK.Version_VersionString(), "torch", torch.__version__)  # fmt: skip
volume = torch.full((1, 8, 8, 8), 100.0)


def by_torchio(transform, value=100.0):
    subject = torchio.Subject(scan=torchio.ScalarImage(tensor=torch.full((1, 8, 8, 8), value)))
    return transform(subject).scan.data


def by_itk(array):
    return SimpleITK.GetArrayFromImage(SimpleITK.RescaleIntensity(SimpleITK.GetImageFromArray(array), -1, 1))


landmarks = {"scan": np.linspace(0, 100, 13)}
found = {
    "MONAI ScaleIntensity": mt.ScaleIntensity(-1.0, 1.0)(volume.clone()),
    "MONAI ScaleIntensityRangePercentiles": mt.ScaleIntensityRangePercentiles(1, 99, -1, 1)(volume.clone()),
    "torchio RescaleIntensity": by_torchio(torchio.RescaleIntensity((-1, 1))),
    "scikit-image rescale_intensity": skimage.exposure.rescale_intensity(volume.numpy(), out_range=(-1.0, 1.0)),
    "SimpleITK RescaleIntensity": by_itk(volume[0].numpy()),
    "torchio HistogramStandardization of 0": by_torchio(torchio.HistogramStandardization(landmarks), 0.0),
    "torchio ZNormalization, mask by mean": by_torchio(
        torchio.ZNormalization(masking_method=torchio.ZNormalization.mean)
    ),
}
values = {}
for name, image in found.items():
    unique = np.unique(np.asarray(image))
    assert len(unique) == 1, name
    values[name] = round(float(unique[0]), 2)
    print(f"{name:40}{values[name]}")
assert values["MONAI ScaleIntensity"] == -100.0
assert values["MONAI ScaleIntensityRangePercentiles"] == values["SimpleITK RescaleIntensity"] == -1.0
assert values["torchio RescaleIntensity"] == 100.0
assert values["scikit-image rescale_intensity"] == 1.0
assert values["torchio HistogramStandardization of 0"] == 91.67
assert np.isnan(values["torchio ZNormalization, mask by mean"])
PY
