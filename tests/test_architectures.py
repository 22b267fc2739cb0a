"""One `adapt` call serves real networks that know nothing of subsense: transformers' own, torch's own, anybody's."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

import subsense as ss
from architectures import ARCHITECTURES, ROWS, Architecture
from subsense import RobustModel
from subsense.injection.hooks import SiteHook

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning"),
]

PRESENT = torch.tensor([[True, True], [True, False], [False, True]])
DEFAULT = [("independent", ["ssf"]), ("additive", ["ssf", "lora"])]
SLOW = [
    pair for pair in product(("independent", "additive"), (["ssf"], ["lora"], ["ssf", "lora"])) if pair not in DEFAULT
]


def _rows() -> Iterator[Any]:
    for (sharing, methods), slow in [(pair, False) for pair in DEFAULT] + [(pair, True) for pair in SLOW]:
        for name, architecture in ARCHITECTURES.items():
            marks = [pytest.mark.slow] if slow else []
            options = {"sharing": sharing, "method": methods}
            yield pytest.param(architecture, options, id=f"{name}-{sharing}-{'+'.join(methods)}", marks=marks)


every_architecture = pytest.mark.parametrize(("architecture", "options"), list(_rows()))


def seeded(model: nn.Module, *args: Any) -> Any:
    """Run with the same random numbers every time: ViLT draws the order of its visual tokens, in eval mode too."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return model(*args)


def stir(robust: RobustModel) -> RobustModel:
    """Move every parameter away from its start, as training would, and call all of them trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    robust.mark_trained(robust.combinations)
    return robust.eval()


def take(inputs: Any, rows: slice) -> Any:
    return tree_map(lambda tensor: tensor[rows], inputs)


def without(inputs: dict[str, Any], combination: ss.Combination) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name in combination}


def difference(one: Tensor, other: Tensor) -> float:
    """Give the largest difference, relative to the largest number."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


def gradient(scores: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    parts = torch.autograd.grad(scores.square().sum(), parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def hooks(network: nn.Module) -> dict[str, int]:
    """Count hooks by module; transformers put some of their own on in the first forward."""
    return {name: len(layer._forward_hooks) for name, layer in network.named_modules()}


def assert_identical(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    leaves = zip(tree_flatten(one)[0], tree_flatten(other)[0], strict=True)
    assert all(torch.equal(*pair) if isinstance(pair[0], Tensor) else pair[0] == pair[1] for pair in leaves)


@every_architecture
def test_with_everything_present_not_a_bit_changes(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = stir(architecture.adapt(**options)), architecture.inputs()
    untouched = robust.filled(architecture.network())
    with torch.no_grad():
        expected = seeded(untouched, inputs)
        assert_identical(seeded(robust, inputs), expected)
        assert_identical(seeded(robust, inputs, torch.ones(ROWS, 2, dtype=torch.bool)), expected)


@every_architecture
def test_starts_as_the_network_on_filled_inputs(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = architecture.adapt(**options), architecture.inputs()
    for combination in robust.combinations:
        given = without(inputs, combination)
        started, frozen = (architecture.scores(seeded(run, given)) for run in (robust, robust.pretrained))
        assert difference(started, frozen) < 1e-5


@every_architecture
def test_each_combination_has_an_output_of_its_own(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = stir(architecture.adapt(**options)), architecture.inputs()
    with torch.no_grad():
        for combination in robust.combinations:
            given = without(inputs, combination)
            adapted, frozen = (architecture.scores(seeded(run, given)) for run in (robust, robust.pretrained))
            complete = architecture.scores(seeded(robust, inputs))
            assert difference(adapted, frozen) > 1e-2
            assert difference(adapted, complete) > 1e-2


@every_architecture
def test_a_mixed_batch_is_its_rows(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = stir(architecture.adapt(**options)), architecture.inputs()
    parameters = list(robust.adapter_parameters().values())
    mixed = architecture.scores(seeded(robust, inputs, PRESENT))
    rows = [slice(row, row + 1) for row in range(ROWS)]
    alone = torch.cat([architecture.scores(seeded(robust, take(inputs, row), PRESENT[row])) for row in rows])
    assert difference(mixed, alone) < 1e-5
    assert difference(gradient(mixed, parameters), gradient(alone, parameters)) < 1e-5
    sites = [site.key for site in robust.plan.sites]
    assert robust.located is not None
    assert not robust.located.unknown(sites), "one forward pass should do"


@every_architecture
def test_training_by_hand_moves_adapters_alone(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = architecture.adapt(**options).train(), architecture.inputs()
    before = robust.network_fingerprint()
    optimizer = torch.optim.AdamW(robust.adapter_parameters().values(), lr=0.02)
    goal = torch.randn(architecture.scores(seeded(robust, inputs, PRESENT)).shape)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (architecture.scores(seeded(robust, inputs, PRESENT)) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert robust.network_fingerprint() == before
    assert all(parameter.grad is None for parameter in robust.network.parameters())


@every_architecture
def test_the_training_loop_takes_it(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = architecture.adapt(**options), architecture.inputs()
    before = robust.network_fingerprint()
    target = torch.randn(architecture.scores(seeded(robust, inputs)).shape)

    def loss(output: Any, target: Tensor) -> Tensor:
        return (architecture.scores(output) - target).square().mean()

    report = ss.train(robust, [(inputs, target)] * 4, loss=loss, epochs=1, progress=False, safe=False)
    assert report.steps == 4
    assert set(robust.trained) == set(robust.combinations)
    assert robust.network_fingerprint() == before
    assert any(bool(parameter.any()) for name, parameter in robust.adapter_parameters().items() if "down" not in name)


@every_architecture
def test_folds(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs = stir(architecture.adapt(**options)), architecture.inputs()
    for combination in robust.combinations:
        folded = ss.fold(robust, combination)
        given = without(inputs, combination)
        with torch.no_grad():
            outputs = [architecture.scores(seeded(run, given)) for run in (robust.filled(folded), robust)]
        assert difference(*outputs) < 1e-5
        assert [type(layer) for layer in folded.modules()] == [type(layer) for layer in robust.network.modules()]
        assert not any(isinstance(hook, SiteHook) for one in folded.modules() for hook in one._forward_hooks.values())


@every_architecture
def test_saves_and_loads(architecture: Architecture, options: dict[str, Any], tmp_path: Path) -> None:
    robust, inputs = stir(architecture.adapt(**options)), architecture.inputs()
    ss.save(robust, tmp_path)
    again = ss.load(tmp_path, architecture.network(), call=architecture.call if callable(architecture.call) else None)
    with torch.no_grad():
        assert_identical(seeded(again, inputs, PRESENT), seeded(robust, inputs, PRESENT))
        for combination in robust.combinations:
            given = without(inputs, combination)
            assert_identical(seeded(again, given), seeded(robust, given))


@every_architecture
def test_detaching_leaves_no_trace(architecture: Architecture, options: dict[str, Any]) -> None:
    robust, inputs, fresh = stir(architecture.adapt(**options)), architecture.inputs(), architecture.network()
    seeded(robust, inputs, PRESENT)
    network = robust.detach()
    with torch.no_grad():
        assert_identical(seeded(robust.filled(network), inputs), seeded(robust.filled(fresh), inputs))
    assert hooks(network) == hooks(fresh)
    assert not any("forward" in vars(layer) for layer in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", [name for name, architecture in ARCHITECTURES.items() if architecture.exports])
def test_folded_networks_export_where_the_network_does(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stir(architecture.adapt(method=["ssf", "lora"])), architecture.inputs()
    combination = robust.combinations[0]
    ss.fold(robust, combination, export=tmp_path / "folded.pt2", example=without(inputs, combination))
    assert (tmp_path / "folded.pt2").stat().st_size > 0
