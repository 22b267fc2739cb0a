"""Files that an earlier version wrote, and what they were made from; `python tests/kept_files.py FOLDER` writes them.

Weights and data are whole multiples of powers of two, so that every machine has the same fingerprints.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import subsense as ss

KEPT = Path(__file__).parent / "kept"
VERSIONS = sorted(path.name for path in KEPT.iterdir() if path.is_dir())

SPEC = {"left": "4", "right": "6"}
METHOD = [ss.SSF(), ss.LoRA(rank=2)]


class Kept(nn.Module):
    """(batch, 4), (batch, 6) -> (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8, bias=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(steps(parameter.shape, number + 3))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.left(left) + self.right(right))))


def steps(shape: torch.Size | tuple[int, ...], period: int) -> Tensor:
    """Give sixteenths that go up and down, without a random number."""
    numbers = torch.arange(torch.Size(shape).numel())
    return ((numbers * 5 % (2 * period + 1) - period) / 16).reshape(shape)


def batches() -> list[tuple[dict[str, Tensor], Tensor]]:
    """Give data in a fixed order."""
    inputs = {"left": steps((16, 4), 6), "right": steps((16, 6), 9)}
    target = torch.arange(16) % 3
    return [({name: x[rows] for name, x in inputs.items()}, target[rows]) for rows in (slice(0, 8), slice(8, 16))]


def adapted() -> ss.RobustModel:
    """Adapt the network."""
    return ss.adapt(Kept(), SPEC, method=METHOD, fill={"left": "learned", "right": "zeros"})


def fit(robust: ss.RobustModel, folder: Path, stop_after: int = 1000, **options: Any) -> Any:
    """Train, and keep the state in a folder; a stop comes as if somebody had interrupted the run."""
    calls = 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target)

    return ss.train(robust, batches(), loss=loss, folder=folder, epochs=2, progress=False, schedule="constant",
                    **options)  # fmt: skip


def write(folder: Path) -> None:
    """Write the files of the version that is installed."""
    robust = adapted()
    with contextlib.suppress(KeyboardInterrupt):
        fit(robust, folder / "run", stop_after=3)
    with tempfile.TemporaryDirectory() as elsewhere:
        fit(robust, Path(elsewhere))
    ss.save(robust, folder / "adapters")
    ss.evaluate(robust, batches(), metric="accuracy", progress=False).save(folder / "results.json")
    outputs = {str(one): robust.eval()(only(one)).tolist() for one in robust.combinations}
    (folder / "outputs.json").write_text(json.dumps(outputs) + "\n")


def only(combination: Any) -> dict[str, Tensor]:
    """Give the first batch, as far as it is present."""
    return {name: batches()[0][0][name] for name in combination}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
