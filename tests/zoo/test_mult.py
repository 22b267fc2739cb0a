"""MulT: the published network, and adapted with nothing out of reach."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import references
from networks import row_by_row, with_sets
from subsense import LayerNeverCalled, adapt, plan
from subsense.adapters import METHODS
from subsense.adapters.layers.declare import AttentionClass
from subsense.testing import check_network
from subsense.zoo.mult import MulT, PackedAttention, Positions

SPEC = {"text": "6 7", "audio": "5 5", "vision": "3 6"}
DECLARED = [AttentionClass(PackedAttention)]


def made(**options: Any) -> MulT:
    torch.manual_seed(0)
    network = MulT(7, 5, 6, **{"width": 8, "num_heads": 2, "num_layers": 1} | options)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    return network.eval()


def drawn(rows: int = 4, text: int = 6, audio: int = 5, vision: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"text": (text, 7), "audio": (audio, 5), "vision": (vision, 6)}
    return {name: torch.randn(rows, *size, generator=generator) for name, size in sizes.items()}


def test_names_shapes_and_output_are_the_published_networks(shared: Path) -> None:
    expected = references.reference(shared, "mult_mosi")
    network = references.set_weights(MulT(300, 5, 20).eval())
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == [(name, list(shape)) for name, shape in expected["state_dict"].items()]
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["parameters"]
    inputs = references.inputs((2, 50, 300), (2, 40, 5), (2, 30, 20))
    with torch.no_grad():
        found, features = network(*inputs).flatten(), network.features(*inputs)
    torch.testing.assert_close(found, torch.tensor(expected["output"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(features[0, :6], torch.tensor(expected["hidden_sample"]), rtol=0, atol=1e-4)


def test_nothing_is_out_of_reach_once_its_attention_is_declared() -> None:
    found = plan(MulT(), layers=DECLARED)
    assert not found.out_of_reach
    assert "trans_l_with_a.layers.0.self_attn.query" in [site.key for site in found.sites]
    undeclared = plan(MulT()).out_of_reach
    assert {name.rpartition(".")[2] for name in undeclared} == {"in_proj_weight", "in_proj_bias"}
    assert len(undeclared) == 2 * 9 * 5


SERVED = [method for method in METHODS if method != "embedding"]


@pytest.mark.parametrize(
    ("method", "sharing"),
    [*((method, "additive") for method in SERVED), ("ssf", "independent")],
)
def test_rows_of_a_mixed_batch_keep_their_own_sets(method: str, sharing: str) -> None:
    present = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]).bool()
    for lengths in ((4, 4, 4), (3, 4, 5)):  # a time as long as the batch, or as the rows that locate
        inputs = drawn(4, *lengths)
        spec = {name: " ".join(map(str, x.shape[1:])) for name, x in inputs.items()}
        robust = with_sets(adapt(made(), spec, method=method, sharing=sharing, layers=DECLARED))
        with torch.no_grad():
            torch.testing.assert_close(robust(inputs, present), row_by_row(robust, inputs, present))
        assert not robust.located.unknown([site.key for site in robust.plan.sites])  # so all was one pass


def test_all_promises_are_kept() -> None:
    options = {"method": ["ssf", "lora"], "sharing": "additive", "combinations": ["text", "audio+vision"]}
    check_network(made(), SPEC, drawn(), layers=DECLARED, compiled=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("method", SERVED)
def test_all_promises_are_kept_compiled_and_exported(method: str) -> None:
    spec = {name: f"{axes}:float64" for name, axes in SPEC.items()}  # one number a row, in which float32 may cancel
    inputs = {name: x.double() for name, x in drawn().items()}
    check_network(made().double(), spec, inputs, method=method, sharing="additive", layers=DECLARED)


def test_padding_has_no_position() -> None:
    x = torch.randn(5, 2, 8)
    x[3:, 0] = 0
    x[2, 1, 0] = 0  # the first feature decides
    waves = Positions(8)(x)
    assert not waves[3:, 0].any()
    assert not waves[2, 1].any()
    rates = torch.tensor([1e4 ** (-step / 3) for step in range(4)])
    torch.testing.assert_close(waves[1, 0], torch.cat([(2 * rates).sin(), (2 * rates).cos()]))
    assert torch.equal(Positions(9)(torch.ones(5, 2, 9))[..., 8:], torch.zeros(5, 2, 1))


def test_a_modality_filled_with_zeros_has_positions_once_its_projection_is_shifted() -> None:
    network = made()
    robust = adapt(network, SPEC, method="shift", layers=DECLARED).train()
    seen = []
    network.trans_l_with_a.embed_positions.register_forward_hook(lambda module, args, output: seen.append(output))
    missing = {name: x for name, x in drawn().items() if name != "audio"}
    with torch.no_grad():
        robust(missing)
        for parameter in robust.adapter_parameters().values():
            parameter.fill_(0.1)
        robust(missing)
    text, key, value, text_again, key_again, _ = (bool(one.any()) for one in seen)
    assert (text, key, value) == (True, False, False)
    assert (text_again, key_again) == (True, True)


def test_a_width_that_a_modality_has_already_leaves_its_projection_uncalled() -> None:
    network = made(width=6)
    inputs = drawn()
    robust = adapt(network, SPEC, layers=DECLARED).train()
    with pytest.raises(LayerNeverCalled, match="proj_v"):
        robust({"text": inputs["text"]})
    robust.detach()
    adapt(network, SPEC, layers=DECLARED, exclude=["proj_v"]).train()({"text": inputs["text"]})


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 5 heads, but found 32"):
        MulT(width=32)
