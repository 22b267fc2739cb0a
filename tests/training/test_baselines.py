from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from subsense.errors import ModalityError, TrainingError
from subsense.model.robust import RobustModel
from subsense.training.baselines import finetune, pretrain, train_dedicated
from training_examples import SPEC, Small, adapters, equal, make_loader, make_network, make_robust, whole_batch

OPTIONS: dict[str, Any] = {"loss": cross_entropy, "epochs": 2, "progress": False}


def loss_of(robust: RobustModel, network: nn.Module, names: list[str]) -> float:
    """Give the loss on filled inputs."""
    inputs, target = whole_batch()
    with torch.no_grad():
        return float(cross_entropy(robust.filled(network)({name: inputs[name] for name in names}), target))


def random_network() -> Small:
    """Make a network that knows nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return Small()


def test_a_dedicated_network_learns_its_combination() -> None:
    robust = make_robust()
    before = robust.network.state_dict(), adapters(robust)
    network = train_dedicated(robust, random_network, make_loader(), "rgb+imu", **{**OPTIONS, "epochs": 20, "lr": 1e-2})
    assert type(network) is Small
    assert not network.training
    assert loss_of(robust, network, ["rgb", "imu"]) < 0.5 * loss_of(robust, random_network(), ["rgb", "imu"])
    assert equal(before[0], robust.network.state_dict())
    assert equal(before[1], adapters(robust))
    assert robust.trained == ()


def test_a_dedicated_network_sees_its_combination_alone_through_the_same_fill() -> None:
    seen: list[Tensor] = []

    class Watched(Small):
        def forward(self, rgb: Tensor, depth: Tensor, imu: Tensor) -> Tensor:
            seen.append(torch.stack([rgb.abs().sum(), depth.abs().sum(), imu.abs().sum()]))
            assert self.training
            return super().forward(rgb, depth, imu)

    train_dedicated(make_robust(), Watched, make_loader(), "depth", **OPTIONS)
    assert all(one[1] > 0 and not one[[0, 2]].any() for one in seen)


def test_a_dedicated_network_may_have_everything() -> None:
    robust = make_robust()
    network = train_dedicated(robust, random_network, make_loader(), robust.modalities.complete, **OPTIONS)
    assert not equal(network.state_dict(), random_network().state_dict())


def test_finetuning_trains_a_copy_with_every_combination() -> None:
    robust = make_robust()
    before = {name: value.clone() for name, value in robust.network.state_dict().items()}
    seen: list[Tensor] = []
    handle = robust.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(torch.stack([value.abs().sum(1) > 0 for value in kwargs.values()], 1)),
        with_kwargs=True,
    )
    network = finetune(robust, make_loader(), **{**OPTIONS, "epochs": 20, "lr": 1e-2})
    handle.remove()
    assert equal(before, robust.network.state_dict())
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in robust.network.parameters())
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before)  # BatchNorm's statistics included
    alone = [[sum(loss_of(robust, one, [name]) for name in SPEC)] for one in (network, make_network())]
    assert alone[0] < alone[1]
    assert set(torch.cat(seen).int().mul(torch.tensor([1, 2, 4])).sum(1).tolist()) == set(range(1, 8))


def test_the_copy_has_no_trace_of_adapters() -> None:
    robust = make_robust()
    network = finetune(robust, make_loader(), **OPTIONS)
    assert not any(module._forward_hooks for module in network.modules())
    assert type(network) is Small


def test_pretraining_trains_the_network_itself_on_complete_rows() -> None:
    network = random_network()
    inputs, target = whole_batch(12)
    present = torch.ones(12, 3, dtype=torch.bool)
    present[3, 1] = False
    counted: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        counted.append(len(target))
        return cross_entropy(output, target)

    batch = ({**inputs, "present": present}, target)
    assert pretrain(network, SPEC, [batch], **{**OPTIONS, "loss": loss}) is network
    assert counted == [11, 11]
    assert not equal(network.state_dict(), random_network().state_dict())
    assert not network.training


def test_pretraining_calls_the_network_as_it_is_called_later() -> None:
    class Listed(Small):
        def forward(self, inputs: list[Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(*inputs)

    pretrain(Listed(), SPEC, make_loader(), call="list", **OPTIONS)


@pytest.mark.parametrize("baseline", ["fine-tuned", "dedicated"])
def test_baselines_are_functions_of_their_seed(baseline: str) -> None:
    robust, networks = make_robust(), []
    for state, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        if baseline == "dedicated":
            networks.append(train_dedicated(robust, Small, make_loader(), "rgb", seed=seed, **OPTIONS))
        else:
            networks.append(finetune(robust, make_loader(), seed=seed, **OPTIONS))
        assert torch.equal(before, torch.get_rng_state())
    first, again, other = (network.state_dict() for network in networks)
    assert equal(first, again)
    assert not equal(first, other)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 9])
def test_a_stopped_baseline_ends_in_the_same_bits(stop: int, tmp_path: Path) -> None:
    calls = 0

    def stopping(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Stop
        return cross_entropy(output, target)

    stopping.__qualname__ = "cross_entropy"
    robust = make_robust()
    whole = finetune(robust, make_loader(), **OPTIONS)
    kept: dict[str, Any] = {"folder": tmp_path, "save_every": 1}
    with pytest.raises(Stop):
        finetune(robust, make_loader(), **{**OPTIONS, **kept, "loss": stopping})
    resumed = finetune(robust, make_loader(), resume=True, **{**OPTIONS, **kept})
    assert equal(whole.state_dict(), resumed.state_dict())


def test_baselines_are_measured_in_eval_mode() -> None:
    modes: list[tuple[bool, bool]] = []

    class Watched(Small):
        def forward(self, rgb: Tensor, depth: Tensor, imu: Tensor) -> Tensor:
            modes.append((torch.is_grad_enabled(), self.training))
            return super().forward(rgb, depth, imu)

    train_dedicated(
        make_robust(), Watched, make_loader(), "rgb", val_loader=make_loader(), metric="accuracy", **OPTIONS
    )
    assert set(modes) == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": 3}, TrainingError, "unknown option 'epoch'. Did you mean 'epochs'"),
        ({"lr": -1}, TrainingError, "lr: expected a number above 0"),
        ({"loss": "distil"}, TrainingError, "Did you mean 'distill'"),
        ({"combinations": ["rbg"]}, ModalityError, "Did you mean 'rgb'"),
        ({"combinations": []}, ModalityError, "combinations: expected .all. or at least one"),
        ({"weights": {"rgb": -1}}, TrainingError, "weights: expected a number, 0 or more"),
        ({"metric": "accuracy"}, TrainingError, "metric: needs val_loader"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        finetune(make_robust(), make_loader(), **{**OPTIONS, **options})


@pytest.mark.parametrize("made", [3, None])
def test_a_factory_must_make_a_new_network(made: Any) -> None:
    robust = make_robust()
    factory: Any = (lambda: robust.network) if made is None else lambda: made
    with pytest.raises(TrainingError, match="factory: expected it to make a new network"):
        train_dedicated(robust, factory, make_loader(), "rgb", **OPTIONS)
    assert not any(parameter.requires_grad for parameter in robust.network.parameters())


def test_pretraining_cannot_distil() -> None:
    with pytest.raises(TrainingError, match="'distill' needs a trained network"):
        pretrain(random_network(), SPEC, make_loader(), **{**OPTIONS, "loss": "distill"})


def test_a_dedicated_network_can_learn_from_the_network_alone() -> None:
    robust = make_robust()
    batches = [whole_batch()[0]]
    network = train_dedicated(robust, random_network, batches, "rgb", **{**OPTIONS, "loss": "distill", "epochs": 30})
    assert loss_of(robust, network, ["rgb"]) < loss_of(robust, random_network(), ["rgb"])
