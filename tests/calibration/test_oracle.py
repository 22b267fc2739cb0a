"""Solved adapters against numpy: ridge least squares, and a reduced-rank regression written independently."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import draw, make, only

Array = np.ndarray
TWO = {"left": "5 T", "right": "5 T"}


class Two(nn.Module):
    """(batch, 5, T) twice -> (batch, ...): both pass `one`, the layer that is looked at."""

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        self.first, self.one = nn.Conv1d(10, 6, 1), one

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = torch.tanh(self.first(torch.cat([left, right], 1)))
        return self.one(x) if not isinstance(self.one, (nn.Linear, nn.LayerNorm)) else self.one(x.transpose(1, 2))


LAYERS = {
    "linear": lambda: nn.Linear(6, 7),
    "linear without bias": lambda: nn.Linear(6, 3, bias=False),
    "conv": lambda: nn.Conv1d(6, 8, 3, padding=1),
    "grouped conv": lambda: nn.Conv1d(6, 4, 3, padding=1, groups=2),
    "depthwise conv": lambda: nn.Conv1d(6, 6, 3, padding=1, groups=6),
    "transposed": lambda: nn.ConvTranspose1d(6, 4, 2, stride=2),
    "overlapping transposed": lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2),
    "layer norm": lambda: nn.LayerNorm(6),
    "batch norm": lambda: nn.BatchNorm1d(6),
    "group norm": lambda: nn.GroupNorm(2, 6),
}
AXES = {"linear": -1, "linear without bias": -1, "layer norm": -1}


def network(kind: str) -> nn.Module:
    torch.manual_seed(1)
    made = Two(LAYERS[kind]()).double().eval()
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.3)
    return made


def calibrated(
    net: nn.Module, method: object, site: str = "one", **options: object
) -> tuple[ss.RobustModel, dict[str, Tensor]]:
    inputs = {name: tensor.double() for name, tensor in draw({"left": "5 T", "right": "5 T"}, rows=9).items()}
    spec = {"left": "5 T:float64", "right": "5 T:float64"}
    robust = ss.adapt(net, spec, method=method, include=[site], sharing=options.pop("sharing", "independent"))
    ss.calibrate(robust, [inputs], held_out=0.0, positions=None, progress=False, **options)
    return robust, inputs


def site_rows(robust: ss.RobustModel, inputs: dict[str, Tensor], axis: int, adapted: bool, site: str = "one") -> Array:
    found = robust.features(inputs, adapted=adapted)[site]
    return torch.cat([one.movedim(axis, -1).flatten(0, -2) for one in found]).numpy()


def ridge_fit(z: Array, rest: Array, ridge: float, shift: bool = True) -> tuple[Array, Array]:
    """Regress by `numpy.linalg.lstsq` on rows augmented with the penalty: map, shift."""
    mean_z, mean_r = (z.mean(0), rest.mean(0)) if shift else (0 * z.mean(0), 0 * rest.mean(0))
    z, rest = z - mean_z, rest - mean_r
    penalty = np.sqrt(ridge * np.square(z).sum(0).mean())
    augmented = np.vstack([z, penalty * np.eye(z.shape[1])])
    theta = np.linalg.lstsq(augmented, np.vstack([rest, np.zeros((z.shape[1], rest.shape[1]))]), rcond=None)[0]
    return theta, mean_r - mean_z @ theta


def reduced_rank_fit(z: Array, rest: Array, ridge: float, rank: int, shift: bool = True) -> tuple[Array, Array]:
    """Project the fitted values on their main directions (the textbook's way): map, shift."""
    theta, _ = ridge_fit(z, rest, ridge, shift)
    mean_z, mean_r = (z.mean(0), rest.mean(0)) if shift else (0 * z.mean(0), 0 * rest.mean(0))
    centred = z - mean_z
    penalty = np.sqrt(ridge * np.square(centred).sum(0).mean())
    fitted = np.vstack([centred @ theta, penalty * theta])
    right = np.linalg.svd(fitted)[2][:rank]
    theta = theta @ right.T @ right
    return theta, mean_r - mean_z @ theta


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_scale_and_shift_are_the_least_squares_of_each_channel(kind: str, ridge: float) -> None:
    robust, inputs = calibrated(network(kind), "ssf", ridge=ridge)
    axis = AXES.get(kind, 1)
    goal, given = site_rows(robust, inputs, axis, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, axis, False), site_rows(robust, given, axis, True)
    centred, rest = own - own.mean(0), goal - own
    scale = (centred * rest).sum(0) / (np.square(centred).sum(0) + ridge * np.square(centred).sum(0).mean())
    np.testing.assert_allclose(found, own + centred * scale + rest.mean(0), atol=1e-9)


@pytest.mark.parametrize("method", ["shift", "bitfit"])
def test_a_shift_alone_is_the_difference_of_means(method: str) -> None:
    robust, inputs = calibrated(network("conv"), method)
    goal, given = site_rows(robust, inputs, 1, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, 1, False), site_rows(robust, given, 1, True)
    np.testing.assert_allclose(found, own + (goal - own).mean(0), atol=1e-9)


def test_a_scale_alone_has_no_shift() -> None:
    robust, inputs = calibrated(network("conv"), "scale", ridge=0.0)
    goal, given = site_rows(robust, inputs, 1, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, 1, False), site_rows(robust, given, 1, True)
    np.testing.assert_allclose(found, own * (goal * own).sum(0) / np.square(own).sum(0), atol=1e-9)


@pytest.mark.parametrize("kind", ["layer norm", "batch norm", "group norm"])
def test_norm_is_the_least_squares_on_normalised_inputs(kind: str) -> None:
    robust, inputs = calibrated(network(kind), "norm", ridge=0.0)
    axis = AXES.get(kind, 1)
    goal, given = site_rows(robust, inputs, axis, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, axis, False), site_rows(robust, given, axis, True)
    for channel in range(own.shape[1]):
        design = np.stack([own[:, channel], np.ones(len(own))], 1)
        expected = design @ np.linalg.lstsq(design, goal[:, channel], rcond=None)[0]
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv"])
@pytest.mark.parametrize("rank", [1, 2, 6])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_shift_and_low_rank_are_a_reduced_rank_regression(kind: str, rank: int, ridge: float) -> None:
    robust, inputs = calibrated(network(kind), [ss.LoRA(rank, alpha=3.0), "shift"], ridge=ridge)
    axis = AXES.get(kind, 1)
    goal, given = site_rows(robust, inputs, axis, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, axis, False), site_rows(robust, given, axis, True)
    theta, shift = reduced_rank_fit(own, goal - own, ridge, rank)
    np.testing.assert_allclose(found, own + own @ theta + shift, atol=1e-8)


def test_low_rank_alone_has_no_shift() -> None:
    net = network("linear")
    robust, inputs = calibrated(net, ss.LoRA(2), ridge=0.1)
    bias = net.one.bias.detach().numpy()
    goal, given = site_rows(robust, inputs, -1, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, -1, False), site_rows(robust, given, -1, True)
    theta, _ = reduced_rank_fit(own - bias, goal - own, 0.1, 2, shift=False)
    np.testing.assert_allclose(found, own + (own - bias) @ theta, atol=1e-8)


def test_low_rank_after_scale_and_shift_regresses_what_is_left() -> None:
    robust, inputs = calibrated(network("linear"), ["ssf", ss.LoRA(2)], ridge=0.1)
    scaled, _ = calibrated(network("linear"), "ssf", ridge=0.1)
    goal, given = site_rows(robust, inputs, -1, False), only(inputs, ["left"])
    own, found = site_rows(robust, given, -1, False), site_rows(robust, given, -1, True)
    first = site_rows(scaled, given, -1, True)
    theta, shift = reduced_rank_fit(own, goal - first, 0.1, 2)
    np.testing.assert_allclose(found, first + own @ theta + shift, atol=1e-8)


@pytest.mark.parametrize("kind", ["transposed", "depthwise conv", "grouped conv", "overlapping transposed"])
def test_full_rank_at_grouped_and_transposed_convolutions_is_the_best_weight(kind: str) -> None:
    """No other weight and bias of the layer does better: compared with a least squares over the whole weight."""
    net = network(kind)
    robust, inputs = calibrated(net, [ss.LoRA(18), "shift"], ridge=0.0)
    goal, given = site_rows(robust, inputs, 1, False), only(inputs, ["left"])
    found = site_rows(robust, given, 1, True)
    best = best_weight(net, given, goal)
    assert np.square(goal - found).sum() == pytest.approx(np.square(goal - best).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", ["transposed", "depthwise conv", "grouped conv", "overlapping transposed"])
def test_low_rank_at_grouped_and_transposed_convolutions_lies_between_shift_and_full(kind: str) -> None:
    errors = []
    for method in ("shift", [ss.LoRA(1), "shift"], [ss.LoRA(2), "shift"], [ss.LoRA(18), "shift"]):
        robust, inputs = calibrated(network(kind), method, ridge=0.0)
        goal = site_rows(robust, inputs, 1, False)
        errors.append(np.square(goal - site_rows(robust, only(inputs, ["left"]), 1, True)).sum())
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[0] * 0.999


def test_low_rank_at_a_convolution_leaves_the_shift_to_the_norm_behind_it() -> None:
    torch.manual_seed(1)
    stem = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8))
    net = Two(stem).double().eval()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.3)
    robust, inputs = calibrated(net, ["ssf", ss.LoRA(2)], site="one.*", ridge=0.0)
    assert robust.plan.merged == ("one.0",)
    bias = stem[0].bias.detach().numpy()
    given = only(inputs, ["left"])
    goal, own, found = (site_rows(robust, one, 1, adapted, "one.0")
                        for one, adapted in ((inputs, False), (given, False), (given, True)))  # fmt: skip
    theta, _ = reduced_rank_fit(own, goal - own, 0.0, 2)
    np.testing.assert_allclose(found, own + (own - bias) @ theta, atol=1e-8)
    goal, found = site_rows(robust, inputs, 1, False, "one.1"), site_rows(robust, given, 1, True, "one.1")
    np.testing.assert_allclose(found.mean(0), goal.mean(0), atol=1e-9)


def best_weight(net: Two, given: dict[str, Tensor], goal: Array) -> Array:
    """Fit the layer's whole weight and bias to a goal: the layer's output is linear in them."""
    x = torch.tanh(net.first(torch.cat([given["left"], torch.zeros_like(given["left"])], 1)))
    layer, columns = net.one, []
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            for index in range(parameter.numel()):
                state = {name: torch.zeros_like(one) for name, one in layer.named_parameters()}
                name = "weight" if parameter is layer.weight else "bias"
                state[name].view(-1)[index] = 1.0
                y = torch.func.functional_call(layer, state, (x,))
                columns.append(y.movedim(1, -1).flatten(0, -2).numpy().ravel())
    design = np.stack(columns, 1)
    return (design @ np.linalg.lstsq(design, goal.ravel(), rcond=None)[0]).reshape(goal.shape)


def test_attention_projections_are_solved_in_turn() -> None:
    net, options = make("sequences")
    net = net.double()
    spec = {name: f"{axes}:float64" for name, axes in options["modalities"].items()}
    inputs = {name: one.double() for name, one in draw(options["modalities"], rows=8).items()}
    robust = ss.adapt(net, spec, method=["shift", ss.LoRA(2)], include=["encoder.layers.0.self_attn"])
    ss.calibrate(robust, [inputs], held_out=0.0, positions=None, ridge=0.1, progress=False)
    given = only(inputs, ["words"])
    for part in ("query", "key", "value"):  # the output projection sees calibrated heads, which nothing else shows
        site = f"encoder.layers.0.self_attn.{part}"
        goal, found = (site_rows(robust, one, -1, True, site) for one in (inputs, given))
        own = site_rows(robust, given, -1, False, site)
        theta, shift = reduced_rank_fit(own, goal - own, 0.1, 2)
        np.testing.assert_allclose(found, own + own @ theta + shift, atol=1e-8)


def test_additive_rows_are_one_least_squares() -> None:
    """Three modalities, six combinations: one design of all of them, a scale and a shift for each modality."""
    net, options = make("cameras")
    net = net.double()
    spec = {name: f"{axes}:float64" for name, axes in options["modalities"].items()}
    inputs = {name: one.double() for name, one in draw(options["modalities"], rows=5).items()}
    site = "fuse.0"
    robust = ss.adapt(net, spec, call="list", method="ssf", sharing="additive", include=[site])
    ss.calibrate(robust, [inputs], held_out=0.0, positions=None, progress=False, ridge=0.0)
    goal, names = site_rows(robust, inputs, 1, False, site), list(spec)
    cases = []
    for combination in robust.combinations:
        given = only(inputs, combination)
        own, found = (site_rows(robust, given, 1, adapted, site) for adapted in (False, True))
        cases.append((own, found, [float(name not in combination) for name in names]))
    for channel in range(goal.shape[1]):
        design = np.vstack([
            np.hstack([own[:, channel : channel + 1] * missing, np.ones((len(own), 1)) * missing])
            for own, _, missing in cases
        ])  # fmt: skip
        rest = np.concatenate([goal[:, channel] - own[:, channel] for own, _, _ in cases])
        expected = design @ np.linalg.lstsq(design, rest, rcond=None)[0]
        found = np.concatenate([(found - own)[:, channel] for own, found, _ in cases])
        np.testing.assert_allclose(found, expected, atol=1e-8)


class Three(nn.Module):
    """(batch, 3) three times -> (batch, 5): a layer that sees all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one = nn.Linear(9, 6), nn.Linear(6, 5)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.one(torch.tanh(self.first(torch.cat([a, b, c], 1))))


def additive(method: object) -> tuple[Array, list[tuple[Array, Array, list[float]]]]:
    """Give the goal, and for each combination the layer's own output, the adapted one, and what is missing."""
    torch.manual_seed(0)
    names = "abc"
    net = Three().double()
    inputs = {name: torch.randn(40, 3, dtype=torch.float64) for name in names}
    robust = ss.adapt(net, dict.fromkeys(names, "3:float64"), method=method, sharing="additive", include=["one"])
    ss.calibrate(robust, [inputs], held_out=0.0, positions=None, ridge=0.0, progress=False)
    cases = []
    for combination in robust.combinations:
        given = only(inputs, combination)
        own, found = (site_rows(robust, given, -1, adapted) for adapted in (False, True))
        cases.append((own, found, [float(name not in combination) for name in names]))
    return site_rows(robust, inputs, -1, False), cases


def test_additive_rows_of_full_rank_meet_the_normal_equations() -> None:
    """What is left is orthogonal, for each row, to all that the row can do where it counts."""
    goal, cases = additive([ss.LoRA(5), "shift"])
    for row in range(3):
        left = [np.vstack([own.T, np.ones(len(own))]) @ (goal - found) for own, found, missing in cases if missing[row]]
        np.testing.assert_allclose(sum(left), 0, atol=1e-7)


def test_additive_rows_of_low_rank_lie_between_shift_and_full() -> None:
    errors = []
    for method in ("shift", [ss.LoRA(1), "shift"], [ss.LoRA(2), "shift"], [ss.LoRA(5), "shift"]):
        goal, cases = additive(method)
        errors.append(sum(np.square(goal - found).sum() for _, found, _ in cases))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.99 * errors[0]
