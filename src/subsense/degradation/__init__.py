"""What goes wrong with sensors, at severities of 1 to 5: seeded, composable changes by kind of modality."""

from __future__ import annotations

from subsense.degradation.catalogue import DEGRADATIONS, find
from subsense.degradation.degrader import Degrader, Kinds
from subsense.degradation.kinds import MOST, Degradation, composed, quality_of, severity_of
from subsense.degradation.layout import LAYOUTS

__all__ = [
    "DEGRADATIONS",
    "LAYOUTS",
    "MOST",
    "Degradation",
    "Degrader",
    "Kinds",
    "composed",
    "find",
    "quality_of",
    "severity_of",
]
