"""Small networks on which the core is tested, batches for them, and adapter sets that do something."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subsense import RobustModel

SHARINGS = ("independent", "additive")
METHODS: tuple[Any, ...] = ("ssf", "scale", "shift", "bitfit", "norm", "lora", ["ssf", "lora"])

TOWERS = {"left": "4", "right": "6"}
CAMERAS = {"rgb": "3 H W", "depth": "1 H W", "infrared": "1 H W"}
SEQUENCES = {"words": "T 5", "sound": "T 7"}


class Towers(nn.Module):
    """(batch, 4), (batch, 6) -> (batch, 3): a linear layer for each, then a norm and a head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8, bias=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.left(left) + self.right(right))))


class Cameras(nn.Module):
    """List of (batch, channel, height, width) -> class scores per pixel: convolutions and norms of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=1) for channels in (3, 1, 1))
        self.fuse = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, stride=2, padding=1, groups=2))
        self.norms = nn.Sequential(nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm2d(8, affine=True), nn.GELU())
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)

    def forward(self, images: list[Tensor]) -> Tensor:
        features = [stem(image) for stem, image in zip(self.stems, images, strict=True)]
        return self.up(self.norms(self.fuse(torch.cat(features, 1))))


class Sequences(nn.Module):
    """(batch, T, 5), (batch, T, 7) -> (batch, 4): a transformer over the tokens of both."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.words, self.sound = nn.Linear(5, 8), nn.Linear(7, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.RMSNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, words: Tensor, sound: Tensor) -> Tensor:
        tokens = torch.cat([self.words(words), self.sound(sound)], 1)
        mixed = self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)
        return self.head(mixed.mean(1))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "towers": (Towers, {"modalities": TOWERS}),
    "cameras": (Cameras, {"modalities": CAMERAS, "call": "list"}),
    "sequences": (Sequences, {"modalities": SEQUENCES}),
    "sequence-first": (lambda: Sequences(batch_first=False), {"modalities": SEQUENCES}),
}
"""Name -> how to make a network, and the arguments that `adapt` needs for it."""


def make(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
    """Make a network in eval mode, its norms as if it had been trained, and give `adapt`'s arguments for it."""
    factory, options = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = factory().eval()
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor), alpha=0.3)
    return network, options


def draw(modalities: Mapping[str, str], rows: int = 4, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Draw a batch in which nothing is missing: letters are 6, or as given."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            rows, *(int(size) if size.isdigit() else sizes.get(size, 6) for size in axes.split()), generator=generator
        )
        for name, axes in modalities.items()
    }


def with_sets(robust: RobustModel, seed: int = 0) -> RobustModel:
    """Give every bank row something to do, as training would, and put the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    robust.mark_trained(robust.combinations)
    return robust.eval()


def only(inputs: Mapping[str, Tensor], names: Any) -> dict[str, Tensor]:
    """Leave out what is missing."""
    return {name: tensor for name, tensor in inputs.items() if name in names}


def row_by_row(robust: RobustModel, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
    """Run every row alone, with what it has."""
    outputs = [
        robust({name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)})
        for row, has in enumerate(present)
    ]
    return torch.cat(outputs)


def snapshot(network: nn.Module) -> dict[str, Any]:
    """Take down all that `adapt` must leave as it was."""
    modules = dict(network.named_modules())
    return {
        "bytes": {name: tensor.clone().numpy().tobytes() for name, tensor in network.state_dict().items()},
        "classes": {path: type(module) for path, module in modules.items()},
        "attributes": {path: sorted(vars(module)) for path, module in modules.items()},
        "hooks": {
            path: (len(module._forward_hooks), len(module._forward_pre_hooks)) for path, module in modules.items()
        },
        "requires_grad": {name: parameter.requires_grad for name, parameter in network.named_parameters()},
        "training": {path: module.training for path, module in modules.items()},
    }
