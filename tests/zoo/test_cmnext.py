"""CMNeXt: the published names, shapes and numbers; any modalities and sizes; adapted by subsense."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense.errors import FactoryError, InputError
from subsense.testing import check_network
from subsense.zoo import build
from subsense.zoo.cmnext import CMNeXt, ConvLayerNorm

MCUBES = ("rgb", "aolp", "dolp", "nir")
CHANNEL_FIRST = [ss.LayerClass(ConvLayerNorm, kind="norm", axis=1)]


def images(names: tuple[str, ...], rows: int = 3, height: int = 32, width: int = 48) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(rows, 3, height, width, generator=draw) for name in names}


def cmnext(*modalities: str, num_classes: int = 4, variant: str = "B0") -> CMNeXt:
    """Make a network as if it were trained: the second encoder counts, statistics are not all alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build("cmnext", modalities=modalities, num_classes=num_classes, variant=variant)
        assert isinstance(network, CMNeXt)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if "layer_scale" in name or name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.dim() == 1:
                    tensor.add_(0.1 * torch.randn(tensor.shape))
        return network.eval()


def difference(one: Tensor, other: Tensor) -> float:
    """Give the largest difference, relative to the largest number."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


def layout(num_modalities: int, num_classes: int, variant: str) -> nn.Module:
    """Make a network of shapes without numbers."""
    with torch.device("meta"):
        return build("cmnext", modalities=list("abcd")[:num_modalities], num_classes=num_classes, variant=variant)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---- as published


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((shared / "reference" / "cmnext_b2_4modalities.json").read_text())
    return content


def test_names_and_shapes_are_the_published_ones_in_their_order(reference):
    network = layout(4, num_classes=20, variant="B2")
    assert [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()] == list(
        reference["state_dict"].items()
    )
    assert num_parameters(network) == reference["parameters"]


@torch.no_grad()
def test_output_is_the_published_one(reference):
    network = build("cmnext", modalities=MCUBES, num_classes=20, variant="B2").eval()
    fill_as_the_reference(network)
    given = [
        torch.from_numpy(np.random.RandomState(1000 + index).standard_normal((1, 3, 64, 96)).astype(np.float32))
        for index in range(4)
    ]
    scores = network(given)
    assert list(scores.shape) == reference["output_shape"]
    sample = scores[0, [0, 19]][:, [0, 31, 63]][:, :, [0, 47, 95]]
    torch.testing.assert_close(sample.flatten(), torch.tensor(reference["output_sample"]), atol=1e-4, rtol=0)
    assert scores.mean().item() == pytest.approx(reference["output_mean"], abs=1e-5)
    assert scores.std().item() == pytest.approx(reference["output_std"], abs=1e-5)
    assert torch.bincount(scores.argmax(1).flatten(), minlength=20).tolist() == reference["argmax_hist"]


def fill_as_the_reference(network: nn.Module) -> None:
    """Give every tensor numbers by its place in the order, as the reference's README says."""
    buffers = [(name, tensor) for name, tensor in network.named_buffers() if tensor.is_floating_point()]
    for index, (name, tensor) in enumerate([*network.named_parameters(), *buffers]):
        drawn = np.random.RandomState(index).standard_normal(tensor.numel()).reshape(tensor.shape)
        if name.endswith("running_var"):
            drawn = 1 + 0.2 * np.abs(drawn)
        elif tensor.dim() >= 2:
            drawn = drawn / np.sqrt(tensor[0].numel())
        elif name.endswith("weight") or "layer_scale" in name:
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.1 * drawn
        tensor.copy_(torch.from_numpy(drawn.astype(np.float32)))


@pytest.mark.parametrize(
    ("num_modalities", "num_classes", "variant", "millions"),
    [
        # the authors' table for their own data set, 25 classes
        (1, 25, "B2", "25.79"),
        (2, 25, "B2", "58.69"),
        (3, 25, "B2", "58.72"),
        (4, 25, "B2", "58.73"),
        # MCubeS and MFNet
        (4, 20, "B2", "58.73"),
        (2, 9, "B4", "116.56"),
    ],
)
def test_number_of_parameters_is_as_published(num_modalities, num_classes, variant, millions):
    assert f"{num_parameters(layout(num_modalities, num_classes, variant)) / 1e6:.2f}" == millions


@pytest.mark.parametrize("variant", ["B0", "B1", "B2", "B3", "B4", "B5"])
def test_variants_have_the_layers_of_segformers(variant):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    blocks = {"B0": (2, 2, 2, 2), "B1": (2, 2, 2, 2), "B2": (3, 4, 6, 3), "B3": (3, 4, 18, 3), "B4": (3, 8, 27, 3)}
    config = SegformerConfig(
        depths=blocks.get(variant, (3, 6, 40, 3)),
        hidden_sizes=(32, 64, 160, 256) if variant == "B0" else (64, 128, 320, 512),
        decoder_hidden_size=256 if variant in ("B0", "B1") else 512,
        num_labels=9,
    )
    with torch.device("meta"):
        segformer = SegformerForSemanticSegmentation(config)
    assert num_parameters(layout(1, 9, variant)) == num_parameters(segformer)


# ---- a network like the others


def test_takes_keywords_in_any_order_or_a_list():
    network, given = cmnext(*MCUBES), images(MCUBES)
    expected = network(list(given.values()))
    assert expected.shape == (3, 4, 32, 48)
    assert torch.equal(network(**dict(reversed(given.items()))), expected)


def test_rows_of_a_batch_do_not_meet():
    network, given = cmnext("rgb", "depth", "nir"), images(("rgb", "depth", "nir"))
    alone = [network(**{name: image[row : row + 1] for name, image in given.items()}) for row in range(3)]
    assert difference(network(**given), torch.cat(alone)) < 1e-5


def test_every_modality_matters_and_every_parameter_gets_a_gradient():
    network, given = cmnext(*MCUBES), images(MCUBES)
    complete = network(**given)
    for name in MCUBES:
        assert not torch.allclose(network(**given | {name: torch.zeros(3, 3, 32, 48)}), complete, atol=1e-3), name
    complete.square().sum().backward()
    assert not [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()]


def test_torchs_seed_decides_the_weights():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build("cmnext", modalities=["a", "b"], num_classes=3, variant="B0").state_dict())
    first, again, other = (state["backbone.FFMs.0.cross.end_proj1.weight"] for state in states)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("height", "width"), [(29, 29), (33, 70), (64, 31)])
def test_takes_sizes_that_are_no_multiple_of_32(height, width):
    given = images(("rgb", "thermal", "nir"), 1, height, width)
    assert cmnext(*given)(**given).shape == (1, 4, height, width)


def test_takes_one_modality_and_many():
    assert cmnext("rgb")(**images(("rgb",), 1)).shape == (1, 4, 32, 48)
    many = tuple(f"view{number}" for number in range(9))
    assert cmnext(*many)(**images(many, 1)).shape == (1, 4, 32, 48)


def test_deeper_blocks_are_dropped_more_often_in_both_encoders():
    backbone = cmnext("rgb", "thermal").backbone
    for name in ("block", "extra_block"):
        blocks = [block for stage in range(1, 5) for block in backbone.get_submodule(f"{name}{stage}")]
        assert [block.drop_path.rate for block in blocks] == pytest.approx([0.1 * index / 7 for index in range(8)])


def test_drops_in_training_alone():
    network, given = cmnext("rgb", "thermal"), images(("rgb", "thermal"))
    assert torch.equal(network(**given), network(**given))
    for norm in (one for one in network.modules() if isinstance(one, nn.BatchNorm2d)):
        norm.momentum = 0.0
    network.train()
    assert not torch.equal(network(**given), network(**given))


def test_refuses_what_it_cannot_label():
    network, given = cmnext("rgb", "thermal"), images(("rgb", "thermal"))
    with pytest.raises(InputError, match="expected the modalities rgb, thermal, but found rgb, depth"):
        network(rgb=given["rgb"], depth=given["thermal"])
    with pytest.raises(InputError, match=r"expected 2 images \(rgb, thermal\), but found 1"):
        network([given["rgb"]])
    with pytest.raises(InputError, match="at least 29 x 29, but found 28 x 48"):
        network(**images(("rgb", "thermal"), 1, height=28))


def test_refuses_options_that_make_no_network():
    with pytest.raises(FactoryError, match="variant to be one of B0, B1, B2, B3, B4, B5, but got 'b4'"):
        build("cmnext", modalities=["rgb", "thermal"], num_classes=9, variant="b4")
    for modalities in ([], ["rgb", "rgb"], "rgb"):
        with pytest.raises(FactoryError, match="list of different names"):
            build("cmnext", modalities=modalities, num_classes=9)


# ---- adapted


def test_plan_has_the_papers_number_of_parameters():
    plan = ss.plan(layout(2, num_classes=9, variant="B4"), layers=CHANNEL_FIRST, merge=False)
    assert plan.parameters_per_row == 766_580
    assert f"{plan.share:.3%}" == "0.658%"
    assert {name.rpartition(".")[2] for name in plan.out_of_reach} == {"layer_scale_1", "layer_scale_2"}
    parts = {
        "colour encoder": ["backbone.patch_embed*", "backbone.block*", "backbone.norm?"],
        "second encoder": ["backbone.extra_*"],
        "fusion": ["backbone.FRMs.*", "backbone.FFMs.*"],
    }
    planned = {
        name: ss.plan(
            layout(2, 9, "B4"), include=paths, layers=CHANNEL_FIRST if name == "second encoder" else [], merge=False
        )
        for name, paths in parts.items()
    }
    assert {name: f"{part.parameters_per_row / 1e6:.4f}" for name, part in planned.items()} == {
        "colour encoder": "0.3873",
        "second encoder": "0.3219",
        "fusion": "0.0512",
    }


def test_plan_for_four_modalities():
    assert (
        ss.plan(layout(4, num_classes=20, variant="B2"), layers=CHANNEL_FIRST, merge=False).parameters_per_row
        == 334_704
    )


def test_undeclared_norms_are_known_by_what_they_compute():
    network = cmnext("rgb", "thermal", num_classes=9, variant="B0")
    found, declared = ss.plan(network), ss.plan(network, layers=CHANNEL_FIRST)
    assert [site.key for site in found.sites] == [site.key for site in declared.sites]
    assert [site.layer.axis for site in found.sites] == [site.layer.axis for site in declared.sites]


def test_keeps_every_promise_when_adapted():
    names = ("rgb", "thermal")
    inputs = images(names)
    check_network(cmnext(*names), dict.fromkeys(names, "3 H W"), inputs, layers=CHANNEL_FIRST, compiled=False)


# In float64, for at this random point the rounding of float32 alone reaches 1.3e-5 of the greatest output.
@pytest.mark.slow
@pytest.mark.parametrize(("sharing", "dtype"), [("additive", "float32"), ("independent", "float64")])
def test_keeps_every_promise_when_adapted_for_four_modalities(sharing, dtype):
    network, inputs = cmnext(*MCUBES).to(getattr(torch, dtype)), images(MCUBES)
    given = {name: image.to(getattr(torch, dtype)) for name, image in inputs.items()}
    check_network(network, dict.fromkeys(MCUBES, f"3 H W:{dtype}"), given, layers=CHANNEL_FIRST, sharing=sharing)


def test_folding_is_exact_but_for_rounding():
    robust = ss.adapt(cmnext(*MCUBES).double(), dict.fromkeys(MCUBES, "3 H W:float64"), layers=CHANNEL_FIRST)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    robust.mark_trained(robust.combinations)
    robust.eval()
    for combination in ("nir", "rgb+dolp"):
        inputs = {name: image.double() for name, image in images(tuple(combination.split("+")), rows=1).items()}
        with torch.no_grad():
            folded, unfolded = robust.filled(ss.fold(robust, combination))(inputs), robust(inputs)
            assert difference(folded, unfolded) < 1e-12
            assert difference(robust.pretrained(inputs), unfolded) > 1e-2


def test_trains_for_several_missing_modalities_at_once():
    robust = ss.adapt(
        cmnext(*MCUBES), dict.fromkeys(MCUBES, "3 H W"), sharing="additive", layers=CHANNEL_FIRST, untrained="error"
    )
    before = robust.network_fingerprint()
    inputs, target = images(MCUBES), torch.randint(4, (3, 32, 48), generator=torch.Generator().manual_seed(1))
    report = ss.train(
        robust, [(inputs, target)] * 3, loss=nn.functional.cross_entropy, epochs=1, lr=0.01, progress=False, safe=False
    )
    assert report.steps == 3
    assert robust.network_fingerprint() == before
    mixed = torch.tensor([[True, False, False, False], [False, True, False, True], [True] * 4])
    with torch.no_grad():
        together = robust(inputs, present=mixed)
        alone = [
            robust({name: inputs[name][row : row + 1] for name in robust.modalities.from_present(mixed[row])})
            for row in range(3)
        ]
        assert difference(together, torch.cat(alone)) < 1e-5
        frozen = robust.pretrained({"rgb": inputs["rgb"][:1]})
        assert not torch.allclose(alone[0], frozen, atol=1e-4)
