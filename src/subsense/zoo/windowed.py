"""Networks for volumes that take all sequences as channels of one tensor, as MONAI's do; whole volumes in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import FactoryError, InputError, closest

SEQUENCES = ("t1", "t1ce", "t2", "flair")


class Windowed(nn.Module):
    """Call a network by sequence, and give it what is larger than its window in windows that overlap.

    Inputs of the window's size, such as patches in training, go through in one piece.

    Args:
        network: takes (batch, channel, ...), all modalities as channels; gives (batch, class, ...) of the same size.
        modalities: their names, in the order of the channels.
        window: the sizes that it is given; None: whatever comes, in one piece.
        overlap: share by which neighbouring windows overlap.
        mode: how they are joined: ``"gaussian"``, centres count more, or ``"constant"``.

    >>> windowed = Windowed(nn.Conv3d(2, 3, 1), ["t1", "t2"])
    >>> windowed(t1=torch.zeros(1, 1, 4, 4, 4), t2=torch.zeros(1, 1, 4, 4, 4)).shape
    torch.Size([1, 3, 4, 4, 4])
    """

    def __init__(
        self,
        network: nn.Module,
        modalities: Sequence[str],
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        mode: str = "gaussian",
    ) -> None:
        super().__init__()
        self.network, self.modalities = network, tuple(modalities)
        self.window, self.overlap, self.mode = None if window is None else tuple(window), overlap, mode
        if self.window is not None:
            _monai()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Score the classes of each place: (batch, class, ...).

        Args:
            inputs: one (batch, channel, ...) for each modality, by its name.

        Raises:
            InputError: other modalities than the network's.
        """
        if set(inputs) != set(self.modalities):
            raise InputError(f"expected {', '.join(self.modalities)}, but found {', '.join(inputs) or 'nothing'}")
        stacked = torch.cat([inputs[name] for name in self.modalities], 1)
        if self.window is None or tuple(stacked.shape[2:]) == self.window:
            return self._score(stacked)
        return self._in_windows(stacked)

    def _score(self, stacked: Tensor) -> Tensor:
        scores: Tensor = self.network(stacked)
        return scores

    def _in_windows(self, stacked: Tensor) -> Tensor:
        infer = _monai().inferers.sliding_window_inference
        scores: Tensor = infer(stacked, self.window, 1, self._score, overlap=self.overlap, mode=self.mode)
        return scores


def monai_network(
    network: str = "SegResNet",
    modalities: Sequence[str] = SEQUENCES,
    num_classes: int = 3,
    window: Sequence[int] | None = None,
    overlap: float = 0.25,
    options: Mapping[str, Any] | None = None,
) -> Windowed:
    """Make one of MONAI's networks for volumes, such as SegResNet, DynUNet or SwinUNETR.

    Args:
        network: a class of `monai.networks.nets`.
        modalities: the names of its channels, one each.
        num_classes: channels of its output; regions that overlap count as classes.
        window: see `Windowed`.
        overlap: see `Windowed`.
        options: the class's own.

    Raises:
        FactoryError: MONAI is not installed; it has no such network, or the network another option.
    """
    nets = _monai().networks.nets
    found = getattr(nets, network, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise FactoryError(
            f"Expected a network of monai.networks.nets, but got {network!r}.{closest(network, dir(nets))}"
        )
    sizes: dict[str, Any] = {"spatial_dims": 3, "in_channels": len(modalities), "out_channels": num_classes}
    try:
        made = found(**sizes | dict(options or {}))
    except (TypeError, ValueError) as error:
        raise FactoryError(f"monai.networks.nets.{network}: {error}.") from error
    return Windowed(made, modalities, window, overlap)


def _monai() -> Any:
    try:
        import monai.inferers
        import monai.networks.nets
    except ImportError as error:
        raise FactoryError(
            f"MONAI's networks and windows need more packages: pip install 'subsense[monai]' ({error})."
        ) from error
    return monai
