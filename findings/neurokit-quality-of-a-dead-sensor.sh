#!/usr/bin/env bash
# NeuroKit gives a dead sensor a good quality and a heart rate.
#
# Expected   ten seconds in which the electrode is off (a flat line) get a quality near 0, and no rate.
# Found      of a minute of clean ECG with ten flat seconds: quality inside by "templatematch" 0.97 (beats: 1.00), by
#            "averageQRS" 0.78 (beats: 0.98), and one R peak is found in the flat part. ppg_process gives a flat stretch
#            a quality of 0.89. The rate inside is interpolated, 10 to 40 a minute, with no mark that nothing was
#            measured. A lead that is flat throughout: NaN.
# With       neurokit2 0.3.0, numpy 2.3.5, pandas 3.1.1, scipy 1.15.3; simulated signals, fixed seeds; 2026-11-27
# Matters    this quality is the number one would take to decide that a modality is missing.
# Source     neurokit2/ecg/ecg_quality.py, ppg_quality.py: beats are compared with the mean beat, and quality is
#            interpolated between them.
# subsense   a row's quality must come from the signal itself (its spread against healthy data), not from such an index
#            alone: a test of monitoring with a flat stretch.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "neurokit2==0.3.0" "numpy==2.3.5" "pandas==3.1.1" "scipy==1.15.3" "scikit-learn==1.9.1" "matplotlib==3.11.2"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import warnings

import neurokit2 as nk
import numpy as np

warnings.simplefilter("ignore")
print("neurokit2", nk.__version__, "numpy", np.__version__)
RATE = 200
ecg = nk.ecg_simulate(duration=60, sampling_rate=RATE, heart_rate=70, random_state=1, noise=0.01)
ecg[4000:6000] = 0.0
clean = nk.ecg_clean(ecg, sampling_rate=RATE)
flat, beats = slice(4200, 5800), slice(1000, 3800)
found = {}
for method in ("templatematch", "averageQRS"):
    quality = nk.ecg_quality(clean, sampling_rate=RATE, method=method)
    found[method] = quality[flat].mean(), quality[beats].mean()
signals, peaks = nk.ecg_process(ecg, sampling_rate=RATE)
inside = [int(peak) for peak in peaks["ECG_R_Peaks"] if 4000 < peak < 6000]
rates = signals["ECG_Rate"][flat]

ppg = nk.ppg_simulate(duration=60, sampling_rate=100, heart_rate=70, random_state=1)
ppg[2000:3000] = 0.0
pulse = nk.ppg_process(ppg, sampling_rate=100)[0]
found["ppg_process"] = pulse["PPG_Quality"][2100:2900].mean(), pulse["PPG_Quality"][500:1900].mean()
for name, (dead, alive) in found.items():
    print(f"{name:14} quality of the flat part {dead:.2f}, of the beats {alive:.2f}")
print(f"R peaks in the flat part: {len(inside)}; rate there {rates.min():.0f} to {rates.max():.0f}, none missing")
assert found["templatematch"][0] > 0.9
assert found["averageQRS"][0] > 0.6
assert found["ppg_process"][0] > 0.8
assert len(inside) >= 1 and rates.notna().all()
PY
