"""Checks of the contracts that everything in subsense keeps, for the user's own networks, layers and data too.

Each check raises `AssertionError` naming the promise that is broken.
"""

from subsense.testing.checks import check_adapter, check_network
from subsense.testing.datasets import check_dataset
from subsense.testing.layer_kinds import (
    CHANNEL_FIRST,
    LAYER_KINDS,
    PACKED,
    ChannelFirstNorm,
    LayerKind,
    PackedAttention,
)

__all__ = [
    "CHANNEL_FIRST",
    "LAYER_KINDS",
    "PACKED",
    "ChannelFirstNorm",
    "LayerKind",
    "PackedAttention",
    "check_adapter",
    "check_dataset",
    "check_network",
]
