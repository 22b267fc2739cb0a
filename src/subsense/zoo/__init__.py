"""Multimodal networks, one file per architecture, made by name.

They are plain torch: nothing of subsense is inside, and each is called with one keyword argument per modality. They
come without weights. The small ones train from scratch in seconds to a few minutes on two cores.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from subsense.support.factories import check_options, find

__all__ = ["NETWORKS", "build"]

NETWORKS = {
    "digits-transformer": "subsense.zoo.digits_transformer:DigitsTransformer",
    "utd-mhad-transformer": "subsense.zoo.utd_mhad_transformer:UTDMHADTransformer",
    "cwfid-unet": "subsense.zoo.cwfid_unet:CWFIDUNet",
    "cmu-mosi-transformer": "subsense.zoo.cmu_mosi_transformer:CMUMOSITransformer",
    "cmnext": "subsense.zoo.cmnext:cmnext",
    "mult": "subsense.zoo.mult:MulT",
    "vilt-classifier": "subsense.zoo.vilt_classifier:ViltClassifier",
    "two-stream": "subsense.zoo.two_stream:TwoStream",
    "monai": "subsense.zoo.windowed:monai_network",
}


def build(name: str, **options: Any) -> nn.Module:
    """Make a network by name, with fresh weights drawn from torch's global generator.

    Args:
        name: a key of `NETWORKS`.
        options: the network's own, see its class.

    Raises:
        FactoryError: unknown name or option.

    >>> type(build("digits-transformer", width=16)).__name__
    'DigitsTransformer'
    """
    factory = find(name, NETWORKS, "network")
    check_options(f"network {name!r}", factory, options)
    network = factory(**options)
    assert isinstance(network, nn.Module)
    return network
