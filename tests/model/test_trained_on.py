"""Weights that are changed after the sets were trained are told wherever sets are kept, folded or measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import subsense as ss
from networks import TOWERS, draw, make, with_sets

LOADER = [(draw(TOWERS, rows=6), torch.zeros(6, dtype=torch.int64))]
USES: dict[str, Callable[[ss.RobustModel, Path], Any]] = {
    "save": lambda robust, folder: ss.save(robust, folder / "sets"),
    "fold": lambda robust, folder: ss.fold(robust, "left"),
    "evaluate": lambda robust, folder: ss.evaluate(robust, LOADER, metric="accuracy", progress=False),
    "export": lambda robust, folder: ss.export(robust, folder / "sets.pt2", LOADER[0][0]),
}


def trained() -> ss.RobustModel:
    network, arguments = make("towers")
    return with_sets(ss.adapt(network, **arguments))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("loaded", [False, True])
def test_other_weights_under_the_same_sets_are_told(use: str, loaded: bool, tmp_path: Path) -> None:
    robust = trained()
    if loaded:
        ss.save(robust, tmp_path)
        robust = ss.load(tmp_path, robust.detach())
    own = {name: one.clone() for name, one in robust.network.state_dict().items()}
    robust.network.load_state_dict({name: one + 1 for name, one in own.items()})
    with pytest.raises(ss.OtherNetwork, match=r"weights were changed after .* \(7 parameters, .*load the weights back"):
        USES[use](robust, tmp_path)
    assert not (tmp_path / "sets").exists()
    robust.network.load_state_dict(own)
    USES[use](robust, tmp_path)


def test_said_to_belong_together_they_do(tmp_path: Path) -> None:
    robust = trained()
    with torch.no_grad():
        robust.network.head.bias.add_(1)
    robust.mark_trained(robust.trained)
    ss.save(robust, tmp_path)
    ss.load(tmp_path, robust.detach())


def test_weights_loaded_before_training_cast_or_copied_are_right(tmp_path: Path) -> None:
    network, arguments = make("towers")
    robust = ss.adapt(network, **arguments)
    robust.network.load_state_dict({name: one + 1 for name, one in network.state_dict().items()})
    with_sets(robust)
    ss.save(robust.double(), tmp_path)
    with torch.no_grad():
        for parameter in robust.network.parameters():
            parameter.copy_(parameter.clone())  # as DistributedDataParallel does at its start
    ss.evaluate(robust.float(), LOADER, metric="accuracy", progress=False)
