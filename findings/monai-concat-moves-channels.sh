#!/usr/bin/env bash
# ConcatItemsd with allow_missing_keys: a missing sequence makes the image thinner, and the later ones take its channel.
#
# Expected   the missing channel is filled, or the option is refused for concatenating.
# Found      ["t1", "t2", "flair"] without t2 give an image of 2 channels with FLAIR where T2 belongs, without a word. A
#            network that takes any number of channels, or a batch of rows that all lack one, goes on with that.
# With       monai 1.6.1, torch 2.13.0; 2026-11-27
# Matters    brain scans without one of their sequences are the field's usual case, and the option's name invites to it.
# Source     monai/transforms/utility/dictionary.py: ConcatItemsd goes over the keys that are there and joins what it
#            found.
# subsense   `call="channels"` fills every declared modality, so channels never move: leave concatenating to it. The
#            plug for MONAI and the page on data should say so.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "monai==1.6.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import monai
import torch
from monai.transforms import ConcatItemsd

print("torch", torch.__version__, "monai", monai.__version__)
row = {name: torch.full((1, 2, 2, 2), value) for name, value in {"t1": 1.0, "flair": 3.0}.items()}
keys = ["t1", "t2", "flair"]
image = ConcatItemsd(keys, "image", allow_missing_keys=True)(row)["image"]
print("channels of t1, t2, flair where t2 is missing:", image[:, 0, 0, 0].tolist(), "(1 is t1, 3 is flair)")
assert image.shape == (2, 2, 2, 2)
assert image[1].unique().tolist() == [3.0]
try:
    ConcatItemsd(keys, "image")(row)
except KeyError:
    print("without the option: KeyError")
else:
    raise AssertionError("a missing key was taken")
PY
