#!/usr/bin/env bash
# A GNSS receiver without a fix stands at latitude 0, longitude 0.
#
# Expected   None, NaN or an error where the sentence's fields are empty.
# Found      pynmea2 gives latitude and longitude 0.0 for GGA, RMC and GLL sentences with empty fields, which receivers
#            send every second until they have a fix, and in tunnels. Altitude and speed are None in the same message.
#            is_valid is False.
# With       pynmea2 1.19.0; 2026-11-27
# Matters    the position modality of phones, cars and drones: "missing" is a place in the Gulf of Guinea, a finite
#            number, and the mean of a track with gaps lies between.
# Source     pynmea2/nmea_utils.py: dm_to_sd gives 0 for an empty text.
# subsense   no reader of NMEA; the page on data: `present` is `is_valid`, never a test for NaN.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "pynmea2==1.19.0"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import pynmea2

print("pynmea2", version("pynmea2"))
for body in (
    "GPGGA,120000.00,,,,,0,00,99.99,,,,,,",
    "GPRMC,120000.00,V,,,,,,,270926,,,N",
    "GPGLL,,,,,120000.00,V,N",
):
    checksum = 0
    for character in body:
        checksum ^= ord(character)
    fix = pynmea2.parse(f"${body}*{checksum:02X}")
    others = [getattr(fix, name) for name in ("altitude", "spd_over_grnd") if hasattr(fix, name)]
    print(
        f"{body[:5]} without a fix: {fix.latitude}, {fix.longitude}; altitude, speed {others}; is_valid {fix.is_valid}"
    )
    assert fix.latitude == fix.longitude == 0.0
    assert not fix.is_valid and all(value is None for value in others)
PY
