"""RobustModel: nothing missing changes nothing, what is missing chooses the set, and the network is left as it was."""

import copy
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import CAMERAS, METHODS, NETWORKS, SHARINGS, TOWERS, draw, make, only, row_by_row, snapshot, with_sets
from subsense import (
    InputError,
    LayerNeverCalled,
    ModalityError,
    PlanError,
    RobustModel,
    UnmatchedPattern,
    UnsupportedLayer,
    UntrainedCombination,
    adapt,
)


def adapted(name: str = "towers", **options: Any) -> tuple[RobustModel, dict[str, Tensor]]:
    network, needed = make(name)
    return with_sets(adapt(network, **needed, **options)), draw(needed["modalities"])


def every_combination(robust: RobustModel) -> Tensor:
    return torch.stack([robust.modalities.present(one) for one in robust.modalities.combinations()])


# With every modality present


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_with_everything_present_every_bit_is_the_untouched_networks(name: str, sharing: str, method: Any) -> None:
    network, options = make(name)
    if name in ("sequences", "sequence-first") and method == "shift":
        options = options | {"exclude": ["encoder.norm"]}  # an RMSNorm has no place for a shift
    inputs = draw(options["modalities"])
    call = {"list": lambda: network(list(inputs.values()))}.get(options.get("call"), lambda: network(**inputs))
    with torch.no_grad():
        quiet = call()
    expected = call().detach()
    robust = with_sets(adapt(network, **options, sharing=sharing, method=method))
    for training in (True, False):
        robust.train(training)
        assert torch.equal(robust(inputs), expected)
        with torch.no_grad():
            assert torch.equal(robust(inputs), quiet)
    with torch.no_grad():
        alone = next(iter(inputs))
        assert not torch.allclose(robust(only(inputs, [alone])), robust.pretrained(only(inputs, [alone])), rtol=1e-2)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_complete_rows_of_a_mixed_batch_are_the_networks_too(sharing: str) -> None:
    robust, inputs = adapted("cameras", sharing=sharing)
    present = torch.tensor([[True, True, True], [True, False, True], [True, True, True], [False, True, False]])
    complete = present.all(1)
    torch.testing.assert_close(robust(inputs, present)[complete], robust.pretrained(inputs)[complete])


def test_it_starts_at_the_identity() -> None:
    for method in METHODS:
        network, options = make("towers")
        robust = adapt(network, **options, method=method).train()
        left = only(draw(TOWERS), ["left"])
        torch.testing.assert_close(robust(left), robust.pretrained(left))


# The network is left as it was


@pytest.mark.parametrize("name", NETWORKS)
def test_adapting_and_training_leave_the_network_and_detaching_every_other_trace(name: str) -> None:
    network, options = make(name)
    network.train().get_submodule("head" if name != "cameras" else "up").eval()
    next(network.parameters()).requires_grad_(False)
    before = snapshot(network)
    inputs = draw(options["modalities"])
    robust = adapt(network, **options)
    assert robust.network is network
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    kept = {what: before[what] for what in ("bytes", "classes")}
    for part in (only(inputs, [next(iter(inputs))]), inputs):
        robust.train()(part).sum().backward() if part is not inputs else robust(part)
        assert {what: snapshot(network)[what] for what in kept} == kept
    assert all(parameter.grad is None for parameter in network.parameters())
    assert robust.detach() is network
    assert snapshot(network) == before


def test_gradients_reach_the_adapters_only() -> None:
    robust, inputs = adapted("sequences")
    robust(only(inputs, ["words"])).sum().backward()
    assert all(parameter.grad is not None for parameter in robust.adapter_parameters().values())
    assert {name for name, parameter in robust.named_parameters() if parameter.requires_grad} == {
        name for name, parameter in robust.named_parameters() if not name.startswith("network.")
    }


def test_a_complete_batch_records_no_graph_unless_its_inputs_ask_for_one() -> None:
    robust, inputs = adapted()
    assert not robust(inputs).requires_grad
    asking = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    robust(asking).sum().backward()
    assert all(tensor.grad is not None for tensor in asking.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in robust.network.parameters())


def test_the_network_called_by_itself_is_not_adapted() -> None:
    robust, inputs = adapted()
    before = robust.network(**inputs)
    robust(only(inputs, ["left"]))
    assert torch.equal(robust.network(**inputs), before)


def test_the_network_stays_in_eval_mode() -> None:
    robust, _ = adapted("cameras")
    assert robust.train().training
    assert not any(module.training for module in robust.network.modules())


def test_after_detach_adapters_cannot_act_unnoticed() -> None:
    robust, inputs = adapted()
    complete = robust(inputs)
    robust.detach()
    robust.detach()
    with pytest.raises(PlanError, match="Towers was detached, so no adapter can act; adapt it again"):
        robust(only(inputs, ["left"]))
    assert torch.equal(robust(inputs), complete)


@pytest.mark.parametrize("name", ["towers", "sequences"])
def test_a_network_is_adapted_once_at_a_time(name: str) -> None:
    network, options = make(name)
    robust = adapt(network, **options)
    with pytest.raises(PlanError, match="adapted already; call detach"):
        adapt(network, **options)
    with pytest.raises(PlanError, match="adapted already"):
        adapt(nn.Sequential(network), **options)
    robust.detach()
    adapt(network, **options)


@pytest.mark.parametrize("name", ["towers", "sequences"])
def test_without_adapters_for_a_while_it_can_be_copied(name: str) -> None:
    network, options = make(name)
    before = snapshot(network)
    robust = with_sets(adapt(network, **options))
    part = only(draw(options["modalities"]), list(options["modalities"])[:1])
    expected = robust(part)
    with robust.no_adapters():
        assert snapshot(copy.deepcopy(network))["attributes"] == before["attributes"]
        with pytest.raises(PlanError, match="detached"):
            robust(part)
    assert torch.equal(robust(part), expected)


@pytest.mark.parametrize("name", ["towers", "sequences"])
def test_a_copy_is_independent_and_right(name: str) -> None:
    network, options = make(name)
    robust = with_sets(adapt(network, **options, fill="learned"))
    inputs = draw(options["modalities"])
    part = only(inputs, [next(iter(inputs))])
    expected, complete = robust(part), robust(inputs)
    other = copy.deepcopy(robust)
    assert torch.equal(other(part), expected)
    with_sets(other, seed=1)
    assert not torch.allclose(other(part), expected)
    assert torch.equal(robust(part), expected)
    bare = other.detach()
    assert bare is not network
    assert torch.equal(robust(part), expected)
    assert torch.equal(robust(inputs), complete)


def test_nothing_keeps_a_dropped_model_alive() -> None:
    robust, _ = adapted()
    network, model = robust.detach(), weakref.ref(robust)
    del robust
    gc.collect()
    assert model() is None
    assert isinstance(network, nn.Module)


# What is missing chooses the set


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_mixed_batch_equals_row_by_row_under_training_too(sharing: str, method: Any) -> None:
    network, needed = make("cameras")  # in float64: the norms hide some sets, whose gradients are nothing but rounding
    needed = needed | {"modalities": {name: f"{axes}:float64" for name, axes in CAMERAS.items()}}
    robust = with_sets(adapt(network.double(), **needed, sharing=sharing, method=method, fill="learned"))
    present = every_combination(robust)
    inputs = {name: tensor.double() for name, tensor in draw(CAMERAS, len(present)).items()}
    with torch.no_grad():
        torch.testing.assert_close(robust(inputs, present), row_by_row(robust, inputs, present), rtol=1e-10, atol=1e-10)
    robust.train()
    mixed, alone = robust(inputs, present), row_by_row(robust, inputs, present)
    torch.testing.assert_close(mixed, alone, rtol=1e-10, atol=1e-10)
    parameters = robust.adapter_parameters()
    gradients = [torch.autograd.grad(output.square().mean(), parameters.values()) for output in (mixed, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_set_acts_on_its_combination_only(sharing: str) -> None:
    robust, inputs = adapted("cameras", sharing=sharing)
    combinations = robust.modalities.incomplete()
    before = [robust(only(inputs, one)) for one in combinations]
    row = robust.router.row_names.index("depth")
    with torch.no_grad():
        for bank in robust.adapter_parameters().values():
            bank[row] += 0.1
    changed = [not torch.equal(robust(only(inputs, one)), old) for one, old in zip(combinations, before, strict=True)]
    uses = [str(one) == "depth" if sharing == "independent" else "depth" not in one for one in combinations]
    assert changed == uses


def test_present_in_the_batch_is_used_and_a_column_is_its_modality() -> None:
    robust, inputs = adapted()
    present = torch.tensor([[True, False]] * 4)
    assert torch.equal(robust(inputs | {"present": present}), robust(only(inputs, ["left"])))
    assert torch.equal(robust.pretrained(inputs, present), robust.pretrained({"left": inputs["left"], "right": None}))


def test_bank_rows_are_those_that_combinations_use() -> None:
    independent, _ = adapted("cameras", combinations=["rgb", "depth+infrared"])
    assert independent.bank_rows(["depth+infrared"]).tolist() == [False, True]
    assert [str(one) for one in independent.combinations] == ["rgb", "depth+infrared"]
    additive, _ = adapted("cameras", sharing="additive")
    assert additive.bank_rows(["depth+infrared", "rgb+infrared"]).tolist() == [True, True, False]


def test_a_pass_in_training_marks_what_it_trained() -> None:
    network, options = make("cameras")
    robust, inputs = adapt(network, **options).train(), draw(CAMERAS)
    robust(inputs)
    with torch.no_grad():
        robust(only(inputs, ["depth"]))
    robust.eval()
    assert not robust.trained
    robust.train()
    present = torch.stack([robust.modalities.present(one) for one in ("rgb", "rgb+depth", "rgb", "rgb+depth+infrared")])
    robust(inputs, present)
    robust(only(inputs, ["infrared"]))
    assert [str(one) for one in robust.trained] == ["rgb", "infrared", "rgb+depth"]


# Combinations that were not trained


def some_trained(sharing: str, untrained: str) -> tuple[RobustModel, dict[str, Tensor]]:
    network, options = make("cameras")
    robust = with_sets(adapt(network, **options, sharing=sharing, untrained=untrained))
    trained = ["rgb+depth", "infrared"] if sharing == "independent" else ["rgb+depth"]
    robust.router.trained_rows = robust.router.rows(trained)
    return robust, draw(CAMERAS)


PRESENT = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [False, True, False]])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_an_untrained_combination_is_refused_by_default(sharing: str) -> None:
    robust, inputs = some_trained(sharing, "error")
    assert robust(only(inputs, ["rgb", "depth"])).isfinite().all()
    with pytest.raises(UntrainedCombination, match="no adapter set was trained for rgb; trained: "):
        robust(only(inputs, ["rgb"]))
    with pytest.raises(UntrainedCombination, match=r"no adapter set was trained for (rgb|depth); "):
        robust(inputs, PRESENT)
    robust.train()(only(inputs, ["rgb"]))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_pretrained_runs_the_frozen_network(sharing: str) -> None:
    robust, inputs = some_trained(sharing, "pretrained")
    depth = only(inputs, ["depth"])
    assert torch.equal(robust(depth), robust.pretrained(depth))
    mixed = robust(inputs, PRESENT)
    torch.testing.assert_close(mixed[1:], robust.pretrained(inputs, PRESENT)[1:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[0], robust.pretrained(inputs, PRESENT)[0])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_nearest_takes_the_nearest_trained_set_and_fills_what_is_missing_all_the_same(sharing: str) -> None:
    robust, inputs = some_trained(sharing, "nearest")
    rgb = only(inputs, ["rgb"])
    found, mixed = robust(rgb), robust(inputs, PRESENT)
    filled = {"rgb": inputs["rgb"], "depth": torch.zeros_like(inputs["depth"])}  # rgb+depth differs least from rgb
    torch.testing.assert_close(found, robust(filled))
    torch.testing.assert_close(mixed[1], found[1], rtol=1e-5, atol=1e-5)


# Layers that are never called


class Bypass(nn.Module):
    """Use one layer's weight without calling it, and another not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.spare = nn.Linear(4, 3), nn.Linear(6, 3), nn.MultiheadAttention(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return nn.functional.linear(left, self.left.weight) + self.right(right)


@pytest.mark.parametrize("present", [None, torch.tensor([[True, False], [True, True], [False, True], [True, True]])])
def test_a_layer_that_is_never_called_is_named(present: Tensor | None) -> None:
    network = Bypass()
    before = snapshot(network)
    robust, inputs = adapt(network, TOWERS).train(), draw(TOWERS)
    given = inputs if present is not None else only(inputs, ["left"])
    for _ in range(2):
        with pytest.raises(LayerNeverCalled, match=r"never calls left, spare, so .*exclude=\['left', 'spare'\]"):
            robust(given, present)
    robust.detach()
    assert snapshot(network) == before
    adapt(network, TOWERS, exclude=["left", "spare"]).train()(given, present)


# Bad input: each by its own message, and nothing has changed

FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"modalities": {"left": "4", "right+": "6"}}, ModalityError, "can't contain"),
    ({"modalities": [("left", "4"), ("left", "6")]}, ModalityError, "declared twice"),
    ({"modalities": {"left": "4 ?", "right": "6"}}, ModalityError, "modality 'left': axis string '4 .'"),
    ({"combinations": ["lef"]}, ModalityError, "unknown modality 'lef' .* Did you mean 'left'?"),
    ({"combinations": ["left+right"]}, ModalityError, "lacks nothing"),
    ({"call": {"left": ["x"], "rihgt": ["y"]}}, ModalityError, "Did you mean 'right'?"),
    ({"fill": "zero"}, ModalityError, "Did you mean 'zeros'?"),
    ({"method": "lroa"}, PlanError, "Did you mean 'lora'?"),
    ({"sharing": "both"}, PlanError, "sharing: expected one of independent, additive"),
    ({"untrained": "ignore"}, PlanError, "untrained: expected one of error, nearest, pretrained"),
    ({"include": ["heads"]}, UnmatchedPattern, "Did you mean 'head'?"),
    ({"include": ["norm"], "method": "lora"}, UnsupportedLayer, "include: norm is no site for lora"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), FAULTS, ids=lambda value: str(value)[:30])
def test_a_fault_in_adapt_leaves_the_network_as_it_was(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    network, options = make("towers")
    before = snapshot(network.train())
    with pytest.raises(error, match=message):
        adapt(network, **options | wrong)
    assert snapshot(network) == before


LEFT, RIGHT = torch.randn(2, 4), torch.randn(2, 6)
CALLS: list[tuple[Any, Any, str]] = [
    ({}, None, "all modalities are missing"),
    ({"lefty": LEFT}, None, "unknown modality 'lefty'"),
    ({"left": LEFT[:, :3]}, None, "expected size 4 on axis 1"),
    ({"left": LEFT[None]}, None, "expected 2 axes"),
    ({"left": LEFT.int()}, None, "expected dtype float32, but found int32"),
    ({"left": LEFT, "right": RIGHT}, torch.tensor([[True, True], [False, False]]), "row 1 has no modality present"),
    ({"left": LEFT, "right": RIGHT}, torch.ones(2, 3, dtype=torch.bool), r"expected shape \(2, 2\)"),
    ({"left": LEFT}, torch.ones(2, 2, dtype=torch.bool), "no 'right' was passed"),
]


@pytest.mark.parametrize(("inputs", "present", "message"), CALLS, ids=[message for *_, message in CALLS])
def test_a_fault_in_a_call_leaves_the_model_as_it_was(inputs: Any, present: Any, message: str) -> None:
    robust, good = adapted()
    expected, trained, before = robust(only(good, ["left"])), robust.trained, snapshot(robust)
    for call in (robust, robust.pretrained, robust.filled(robust.network)):
        with pytest.raises(InputError, match=message):
            call(inputs, present)
    assert snapshot(robust) == before
    assert robust.trained == trained
    assert torch.equal(robust(only(good, ["left"])), expected)


def test_an_unresolved_letter_is_named() -> None:
    robust, inputs = adapted("cameras")
    network, _ = make("sequences")
    words_only = adapt(network, {"words": "T 5", "sound": "S 7"}).train()
    with pytest.raises(InputError, match="'sound' is missing and axis 'S' of 'S 7' can't be resolved"):
        words_only({"words": torch.randn(2, 3, 5)})
    with pytest.raises(InputError, match=r"'depth': expected size 6 on axis 2 \(H\), as in 'rgb', but found 5"):
        robust(inputs | {"depth": inputs["depth"][:, :, :5]})


def test_an_error_inside_the_network_leaves_the_model_usable() -> None:
    robust, inputs = adapted("sequences")
    words = only(inputs, ["words"])
    expected = robust(words)

    def fail(*_: Any) -> None:
        raise RuntimeError("inside")

    for given in (words, inputs):
        handle = robust.network.head.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="inside"):
            robust(given)
        handle.remove()
    assert torch.equal(robust(words), expected)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(parameter.requires_grad for parameter in robust.network.parameters())


# Several threads


def test_threads_do_not_mix_up_their_combinations() -> None:
    models = [adapted("sequences"), adapted("sequences")]
    parts = (["words", "sound"], ["words"], ["sound"])
    jobs = [(robust, only(inputs, names)) for robust, inputs in models for names in parts]
    with torch.no_grad():
        expected = [robust(given) for robust, given in jobs]
    wrong: list[Any] = []

    def work(index: int) -> None:
        robust, given = jobs[index]
        with torch.no_grad():
            wrong.extend(index for _ in range(15) if not torch.allclose(robust(given), expected[index], atol=1e-6))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.backends.mha.get_fastpath_enabled()


# Baselines and names


def test_another_network_behind_the_same_fill_and_call() -> None:
    robust, inputs = adapted()
    other, _ = make("towers", seed=1)
    filled = robust.filled(other)
    assert filled.network is other
    assert filled.modalities is robust.modalities
    expected = other(inputs["left"], torch.zeros(4, 6))
    assert torch.equal(filled(only(inputs, ["left"])), expected)
    assert torch.equal(filled(inputs, torch.tensor([[True, False]] * 4)), expected)
    assert filled.train().network.training


def test_adapter_parameters_are_named_by_site_method_and_parameter() -> None:
    network = nn.ModuleDict({"a/b": nn.Linear(4, 2), "c": nn.Sequential(nn.Linear(6, 2))})
    options = {"call": "positional", "fill": {"left": "learned"}, "sharing": "additive"}
    robust = adapt(network, TOWERS, method=["ssf", "lora"], **options)
    shapes = {name: tuple(parameter.shape) for name, parameter in robust.adapter_parameters().items()}
    assert shapes == {
        "a/b:ssf:scale": (2, 2),
        "a/b:ssf:shift": (2, 2),
        "a/b:lora:down": (2, 4, 4),
        "a/b:lora:up": (2, 4, 2),
        "c.0:ssf:scale": (2, 2),
        "c.0:ssf:shift": (2, 2),
        "c.0:lora:down": (2, 4, 6),
        "c.0:lora:up": (2, 4, 2),
        "fill.left.left": (4,),
    }


def test_the_seed_decides_the_start() -> None:
    def start(seed: int) -> Tensor:
        network, options = make("towers")
        return adapt(network, **options, method="lora", seed=seed).adapter_parameters()["left:lora:down"]

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert not torch.equal(start(1)[0], start(1)[1])


def test_bank_rows_are_drawn_one_after_the_other() -> None:
    network, options = make("towers")
    bank = adapt(network, **options, method="lora", seed=1).adapter_parameters()["left:lora:down"]
    generator = torch.Generator().manual_seed(1)
    rows = [torch.empty(bank.shape[1:]).uniform_(-0.5, 0.5, generator=generator) for _ in bank]  # 4 inputs: 1 / sqrt(4)
    assert torch.equal(bank, torch.stack(rows))


def test_the_fingerprint_sees_every_byte_and_name() -> None:
    robust, _ = adapted("cameras")
    first = robust.network_fingerprint()
    assert first == robust.network_fingerprint()
    with torch.no_grad():
        robust.network.up.bias[0] = torch.nextafter(robust.network.up.bias[0], torch.tensor(9.0))
    second = robust.network_fingerprint()
    robust.network.fuse[0].num_batches_tracked += 1
    assert len({first, second, robust.network_fingerprint()}) == 3
    with_sets(robust, seed=5)
    assert adapted("cameras")[0].network_fingerprint() == first


def test_float64_networks_have_float64_banks() -> None:
    network, _ = make("towers")
    robust = adapt(network.double(), {"left": "4:float64", "right": "6:float64"}).train()
    assert {parameter.dtype for parameter in robust.adapter_parameters().values()} == {torch.float64}
    assert robust({"left": torch.randn(2, 4).double()}).dtype == torch.float64


def test_bfloat16_networks_have_float32_banks() -> None:
    network, _ = make("towers")
    robust = adapt(network.bfloat16(), {"left": "4:bfloat16", "right": "6:bfloat16"}).train()
    assert {parameter.dtype for parameter in robust.adapter_parameters().values()} == {torch.float32}
    assert robust({"left": torch.randn(2, 4).bfloat16()}).dtype == torch.bfloat16
