"""What the user declares and passes: modalities, inputs, batches, fills, the way of calling."""

from subsense.modalities.declaration import (
    DTYPES,
    Axes,
    AxisSpec,
    Combination,
    CombinationLike,
    Modalities,
    Modality,
    Wanted,
)

__all__ = ["DTYPES", "Axes", "AxisSpec", "Combination", "CombinationLike", "Modalities", "Modality", "Wanted"]
