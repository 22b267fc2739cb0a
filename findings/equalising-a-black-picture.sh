#!/usr/bin/env bash
# Contrast equalisation turns a black picture white, grey or NaN.
#
# Expected   a picture without contrast stays as it is: black stays black.
# Found      a picture of zeros after CLAHE: scikit-image equalize_adapthist 1.0 (white), albumentations CLAHE 33 of 255
#            (uint8), 0.129 (float32), SimpleITK AdaptiveHistogramEqualization NaN. scikit-image equalize_hist: 0.5.
#            Matching its histogram to a picture that is there gives that picture's brightest value, in scikit-image and
#            in SimpleITK. albumentations' Normalize("image_per_channel") of a constant is 0 for uint8, NaN for float32.
# With       scikit-image 0.26.0, albumentations 2.0.8, SimpleITK 2.5.7; 2026-11-27
# Matters    CLAHE and histogram matching are common for thermal, X-ray and fundus pictures: a camera that gives black
#            looks saturated.
# Source     scikit-image exposure/_adapthist.py, exposure.py (cumulative distribution of a single bin is 1); outputs as
#            run.
# subsense   as for constants: fill after the transform, or drop the modality; a white stand-in is none that the network
#            was meant to see.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "scikit-image==0.26.0" "albumentations==2.0.8" "SimpleITK==2.5.7" "opencv-python-headless==5.0.0.93" \
  "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings

import albumentations as A
import numpy as np
import SimpleITK as sitk
import skimage
from skimage import exposure

warnings.simplefilter("ignore")
print("scikit-image", skimage.__version__, "albumentations", A.__version__, "SimpleITK", sitk.Version_VersionString())
black = np.zeros((32, 32), np.float32)
bytes_, floats = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.float32)
other = np.random.RandomState(0).rand(32, 32).astype(np.float32)
normalize = A.Normalize(normalization="image_per_channel", p=1)


def itk(way, *arrays):
    return sitk.GetArrayFromImage(way(*(sitk.GetImageFromArray(array) for array in arrays)))


found = {
    "scikit-image equalize_adapthist": exposure.equalize_adapthist(black),
    "albumentations CLAHE uint8": A.CLAHE(p=1)(image=bytes_)["image"],
    "albumentations CLAHE float32": A.CLAHE(p=1)(image=floats)["image"],
    "SimpleITK AdaptiveHistogramEqualization": itk(sitk.AdaptiveHistogramEqualization, black),
    "scikit-image equalize_hist": exposure.equalize_hist(black),
    "scikit-image match_histograms": exposure.match_histograms(black, other),
    "SimpleITK HistogramMatching": itk(sitk.HistogramMatching, black, other),
    "albumentations Normalize uint8": normalize(image=bytes_ + 80)["image"],
    "albumentations Normalize float32": normalize(image=floats + np.float32(0.3))["image"],
}
values = {}
for name, image in found.items():
    unique = np.unique(image)
    assert len(unique) == 1, name
    values[name] = round(float(unique[0]), 3)
    print(f"{name:42}{values[name]}")
assert values["scikit-image equalize_adapthist"] == 1.0
assert values["albumentations CLAHE uint8"] == 33
assert values["albumentations CLAHE float32"] == 0.129
assert np.isnan(values["SimpleITK AdaptiveHistogramEqualization"])
assert values["scikit-image equalize_hist"] == 0.5
assert values["scikit-image match_histograms"] > 0.99 and values["SimpleITK HistogramMatching"] > 0.99
assert values["albumentations Normalize uint8"] == 0.0
assert np.isnan(values["albumentations Normalize float32"])
PY
