"""Adapter sets in closed form, site by site, without labels."""

from subsense.calibration.calibrate import calibrate
from subsense.calibration.recovery import Recovery
from subsense.calibration.report import CalibrationReport, OutputRecovery

__all__ = ["CalibrationReport", "OutputRecovery", "Recovery", "calibrate"]
