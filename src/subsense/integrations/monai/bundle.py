"""A network out of a MONAI bundle, with the modalities that its metadata name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from subsense.errors import DamagedFile, MissingFile, ModalityError
from subsense.zoo.weights import check_fit, read_weights

CONFIGS = ("inference", "evaluate", "train")
ENDINGS = (".json", ".yaml", ".yml")
LETTERS = {1: "L", 2: "H W", 3: "D H W"}


@dataclass(frozen=True)
class Bundle:
    """Hold what a bundle gives for `subsense.adapt`.

    Attributes:
        network: with the bundle's weights where it has them.
        modalities: name -> axis string, in the order of the channels; the argument of `adapt`, with
            ``call="channels"``.
        has_weights: whether the bundle held weights.
    """

    network: nn.Module
    modalities: Mapping[str, str]
    has_weights: bool


def read_bundle(folder: str | Path, *, weights: str | Path | None = None) -> Bundle:
    """Read a MONAI bundle's network, weights and modalities.

    The modalities are the channels of the input ``image`` in ``configs/metadata.json`` (`channel_def`); the network is
    ``network_def`` of ``configs/inference.json`` (or ``evaluate``, ``train``; ``.yaml``). **A bundle's configuration
    can run any code: read only those whose source you trust.**

    Args:
        folder: the bundle's.
        weights: the file with the state dict; None: ``models/model.pt``, where there is one.

    Raises:
        MissingFile: no metadata, no configuration with a ``network_def``, or no such weights.
        DamagedFile, CheckpointError: metadata that are no JSON; weights that don't fit the network.
        ModalityError: channels without names, or two of one name.

    ::

        bundle = read_bundle("brats_mri_segmentation")
        robust = ss.adapt(bundle.network, bundle.modalities, call="channels")
    """
    folder = Path(folder)
    modalities = _modalities(folder / "configs" / "metadata.json")
    network = _network(folder)
    file = folder / "models" / "model.pt" if weights is None else Path(weights)
    if weights is not None and not file.is_file():
        raise MissingFile(f"{file}: expected the bundle's weights, but there is no such file")
    if file.is_file():
        _load_weights(network, file)
    return Bundle(network.eval(), modalities, file.is_file())


def _modalities(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise MissingFile(f"{path}: expected a bundle's metadata, but there is no such file")
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path}: expected JSON, but {error}") from error
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        channels = {int(number): str(name) for number, name in image["channel_def"].items()}
        axes = LETTERS[len(image["spatial_shape"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModalityError(
            f"{path}: expected network_data_format.inputs.image with channel_def and spatial_shape of 1 to 3 axes, "
            f"but {type(error).__name__}: {error}; declare the modalities yourself"
        ) from error
    names = [channels[number] for number in sorted(channels)]
    if len(set(names)) < len(names) or sorted(channels) != list(range(len(names))):
        raise ModalityError(f"{path}: expected a name of its own for each channel from 0 on, but found {channels}")
    return dict.fromkeys(names, f"1 {axes}")


def _network(folder: Path) -> nn.Module:
    from monai.bundle.config_parser import ConfigParser

    files = [folder / "configs" / f"{name}{ending}" for name in CONFIGS for ending in ENDINGS]
    for file in files:
        if file.is_file():
            parser = ConfigParser()
            parser.read_config(str(file))
            parser.read_meta(str(folder / "configs" / "metadata.json"))
            if "network_def" in parser:
                network: Any = parser.get_parsed_content("network_def")
                assert isinstance(network, nn.Module)
                return network
    names = ", ".join(f"{name}.json" for name in CONFIGS)
    raise MissingFile(f"{folder / 'configs'}: expected {names} or .yaml with a 'network_def', but found none")


def _load_weights(network: nn.Module, file: Path) -> None:
    weights, _ = read_weights(file)
    check_fit(weights, network.state_dict(), file, type(network).__name__)
    network.load_state_dict(weights)
