"""What subsense raises when it cannot do what was asked.

Every message says what was expected, what was found, where, and what to do::

    SubsenseError
    ├── ModalityError         (ValueError)    names, axis strings, combinations
    ├── InputError            (ValueError)    what was passed in a call: shapes, dtypes, `present`
    ├── PlanError             (ValueError)    what was asked of `adapt` or `plan`
    │   ├── UnmatchedPattern                  an include or exclude pattern that names no layer
    │   └── UnsupportedLayer                  a layer which a method cannot serve right
    ├── LayerNeverCalled      (RuntimeError)  a site that the network's forward does not reach
    ├── UntrainedCombination  (LookupError)   no adapter set was trained for what is present
    ├── TrainingError         (RuntimeError)
    │   └── NonFiniteLoss                     NaN or infinity, with step and combination
    ├── CalibrationError      (ValueError)    what was asked of `calibrate`
    ├── MetricError           (ValueError)
    ├── FoldError             (RuntimeError)  a set that cannot be folded or exported
    ├── CheckpointError       (ValueError)
    │   ├── MissingFile
    │   ├── DamagedFile
    │   ├── OtherNetwork
    │   ├── OtherModalities
    │   └── ForeignTensor
    ├── WriteError            (OSError)       a file that cannot be written: disk full, no permission
    ├── DataError             (ValueError)    a data set: unknown, absent, incomplete
    ├── FactoryError          (ValueError)    a network or data set by name that isn't there or refuses its options
    ├── ResultsError          (ValueError)    a results file that cannot be read
    └── RecipeError           (ValueError)    all faults of a recipe, together
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class SubsenseError(Exception):
    """Be the root of everything that subsense raises on purpose."""


class ModalityError(SubsenseError, ValueError):
    """Refuse a modality name, an axis string or a combination."""


class InputError(SubsenseError, ValueError):
    """Refuse what was passed in a call: a tensor, `present`, or nothing at all."""


class PlanError(SubsenseError, ValueError):
    """Refuse what was asked of `adapt` or `plan`; the network is untouched."""


class UnmatchedPattern(PlanError):
    """Refuse an include or exclude pattern that matches no layer."""


class UnsupportedLayer(PlanError):
    """Refuse a layer that a method cannot serve right."""


class LayerNeverCalled(SubsenseError, RuntimeError):
    """Report sites that the network's forward never reached."""


class UntrainedCombination(SubsenseError, LookupError):
    """Refuse a combination for which no adapter set was trained."""


class TrainingError(SubsenseError, RuntimeError):
    """Report that training cannot start or go on."""


class NonFiniteLoss(TrainingError):
    """Report a loss of NaN or infinity; the last good state was kept."""


class CalibrationError(SubsenseError, ValueError):
    """Refuse what was asked of `calibrate`; the adapter sets are as they were."""


class MetricError(SubsenseError, ValueError):
    """Refuse a metric that is unknown or does not fit the output."""


class FoldError(SubsenseError, RuntimeError):
    """Report an adapter set that cannot be folded or exported right."""


class CheckpointError(SubsenseError, ValueError):
    """Refuse a folder that does not hold what was asked for."""


class MissingFile(CheckpointError):
    """Report a file which the folder should hold and does not."""


class DamagedFile(CheckpointError):
    """Report a file that is truncated or cannot be parsed."""


class OtherNetwork(CheckpointError):
    """Report adapter sets which belong to a network with other weights or layers."""


class OtherModalities(CheckpointError):
    """Report adapter sets which belong to other modalities."""


class ForeignTensor(CheckpointError):
    """Report a tensor that does not belong, is missing, or has another shape."""


class WriteError(SubsenseError, OSError):
    """Report a file that could not be written; what stood there before is whole."""


class DataError(SubsenseError, ValueError):
    """Report a data set that is unknown, absent or incomplete."""


class FactoryError(SubsenseError, ValueError):
    """Report a name, a ``package.module:factory`` or an option that is unknown."""


class ResultsError(SubsenseError, ValueError):
    """Report a results file that cannot be read."""


class RecipeError(SubsenseError, ValueError):
    """Report all faults of a recipe together.

    Args:
        source: the recipe's file or name, for the first line of the message.
        faults: one sentence for each fault.
    """

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault" + "s" * (len(self.faults) != 1)
        super().__init__("\n".join([f"{source}: {count}", *(f"  - {fault}" for fault in self.faults)]))


def closest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word nearest to `word`, as a sentence to append; empty where none is near.

    >>> closest("termal", ["rgb", "thermal"])
    " Did you mean 'thermal'?"
    >>> closest("zzz", ["rgb", "thermal"])
    ''
    """
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
