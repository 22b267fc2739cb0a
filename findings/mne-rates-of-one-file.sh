#!/usr/bin/env bash
# EDF with channels of several rates: MNE brings the slow ones to the fastest, so a step rings and the end turns back.
#
# Expected   every channel at its own rate, or values that are held between measurements.
# Found      a temperature of 1 Hz beside acceleration of 64 Hz comes at 64 Hz, made by Fourier: where 10 and 20 were
#            measured, it goes from 8.6 to 21.4, and since the method takes the signal for periodic, the last second
#            falls from 20 to 10.1.
# With       mne 1.13.2, pyedflib 0.1.42, numpy 2.3.5, scipy 1.15.3; 2026-11-27
# Matters    wearables and sleep recordings: 63 of 64 values were never measured, a lost sensor (a step to zero) rings
#            for seconds into the healthy part, and the end of a recording looks like its beginning.
# Source     MNE's page of read_raw_edf on sampling frequencies that differ; resampling is scipy's by FFT.
# subsense   a reader of such files must keep each channel's rate (`include=` one rate at a time gives the values as
#            stored).

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "mne==1.13.2" "pyedflib==0.1.42" "numpy==2.3.5" "scipy==1.15.3"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import mne
import numpy as np
import pyedflib

mne.set_log_level("ERROR")
print("mne", mne.__version__, "pyedflib", pyedflib.__version__, "numpy", np.__version__)
seconds = np.arange(60)
signals = {"acceleration": (64, np.sin(np.arange(60 * 64) / 9)), "temperature": (1, np.where(seconds < 30, 10.0, 20.0))}
writer = pyedflib.EdfWriter("a.edf", 2, file_type=pyedflib.FILETYPE_EDFPLUS)
writer.setSignalHeaders(
    [
        {"label": name, "dimension": "uV", "sample_frequency": rate, "physical_min": -100, "physical_max": 100,
         "digital_min": -32768, "digital_max": 32767, "transducer": "", "prefilter": ""}
        for name, (rate, _) in signals.items()
    ]
)  # fmt: skip
writer.writeSamples([values for _, values in signals.values()])
writer.close()

raw = mne.io.read_raw_edf("a.edf", preload=True)
temperature = raw.get_data()[1] * 1e6
alone = mne.io.read_raw_edf("a.edf", preload=True, include=["temperature"])
stored = alone.get_data()[0] * 1e6
for name, rate, values in (("together", raw.info["sfreq"], temperature), ("alone", alone.info["sfreq"], stored)):
    print(f"{name:8} {rate:2.0f} Hz: from {values.min():.1f} to {values.max():.1f}, last value {values[-1]:.1f}")
assert raw.info["sfreq"] == 64 and temperature.shape == (60 * 64,)
assert temperature.min() < 8.7 and temperature.max() > 21.3
assert temperature[-1] < 10.5
assert alone.info["sfreq"] == 1 and np.allclose(stored, signals["temperature"][1], atol=0.004)
PY
