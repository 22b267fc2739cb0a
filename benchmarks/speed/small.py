"""Small networks, where Python counts for as much as numbers: whole training steps, optimiser included."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import subsense as ss
from benchmarks.speed.measuring import Effort, ratios
from subsense import zoo


class LSTMFusion(nn.Module):
    """Fuse words, sound and face of a speaker late, each read by an LSTM, as is common in sentiment work."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = {"text": 300, "audio": 74, "video": 35}
        self.readers = nn.ModuleDict({name: nn.LSTM(size, width, batch_first=True) for name, size in sizes.items()})
        self.head = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, text: Tensor, audio: Tensor, video: Tensor) -> Tensor:
        inputs = {"text": text, "audio": audio, "video": video}
        return self.head(torch.cat([reader(inputs[name])[1][0][-1] for name, reader in self.readers.items()], 1))


@dataclass(frozen=True)
class Small:
    """Hold a network, its modalities' axes, the rows of a batch and the number of classes."""

    make: Callable[[], nn.Module]
    modalities: dict[str, str]
    batch: int
    classes: int


SMALL = {
    "digits": Small(lambda: zoo.build("digits-transformer"), dict.fromkeys(("nw", "ne", "sw", "se"), "1 4 4"), 64, 10),
    "utd-mhad": Small(
        lambda: zoo.build("utd-mhad-transformer"),
        {"skeleton": "50 60", "accelerometer": "100 3", "gyroscope": "100 3", "depth": "3 60 80"},
        32,
        27,
    ),
    "lstm fusion": Small(LSTMFusion, {"text": "20 300", "audio": "20 74", "video": "20 35"}, 32, 2),
}
METHODS: dict[str, Any] = {"subsense ssf": "ssf", "subsense lora 4": ss.LoRA(4)}


def training_step(name: str, effort: Effort) -> dict[str, Any]:
    """Time a step of AdamW on a batch whose rows lack different things, as a ratio to training the whole network.

    The whole network sees the same rows, what they lack filled with zeros. Sharing is additive, as in the recipes.
    """
    case = SMALL[name]
    torch.manual_seed(0)
    network = case.make().eval()
    inputs = {one: torch.randn(case.batch, *map(int, axes.split())) for one, axes in case.modalities.items()}
    target = torch.randint(case.classes, (case.batch,))
    adapted = {way: ss.adapt(copy.deepcopy(network), case.modalities, method=method, sharing="additive")
               for way, method in METHODS.items()}  # fmt: skip
    modalities = next(iter(adapted.values())).modalities
    present = ss.draw_present(modalities, torch.ones(case.batch, len(modalities), dtype=torch.bool), seed=0)
    filled = {one: x * present[:, bit].view(-1, *[1] * (x.dim() - 1)) for bit, (one, x) in enumerate(inputs.items())}
    whole = copy.deepcopy(network)
    functions = {"all weights": _step(whole.parameters(), lambda: whole(**filled), target)}
    for way, robust in adapted.items():
        functions[way] = _step(robust.adapter_parameters().values(), _calling(robust.train(), inputs, present), target)
    return ratios(functions, "all weights", effort)


def _calling(robust: ss.RobustModel, inputs: dict[str, Tensor], present: Tensor) -> Callable[[], Tensor]:
    return lambda: robust(inputs, present)


def _step(parameters: Iterable[nn.Parameter], run: Callable[[], Tensor], target: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(list(parameters), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(run(), target).backward()
        optimizer.step()

    return step
