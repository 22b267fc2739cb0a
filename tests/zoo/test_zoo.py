"""Networks by name, and what holds for every one of them."""

import pytest
import torch
from torch import nn

from subsense.data import load
from subsense.support.factories import FactoryError
from subsense.zoo import build

SHAPES = {
    "digits-transformer": dict.fromkeys(("nw", "ne", "sw", "se"), (1, 4, 4)),
    "utd-mhad-transformer": {
        "skeleton": (50, 60),
        "accelerometer": (100, 3),
        "gyroscope": (100, 3),
        "depth": (3, 60, 80),
    },
    "cwfid-unet": {"red": (1, 32, 48), "nir": (1, 32, 48)},
    "cmu-mosi-transformer": {"text": (100,), "audio": (73,), "video": (100,)},
    "mult": {"text": (6, 300), "audio": (7, 5), "vision": (5, 20)},
}
OUTPUTS = {"mult": ("num_outputs", 1)}
"""What the number of scores is called, and what it is unless chosen, where that isn't `num_classes` and the head's."""


@pytest.fixture(params=sorted(SHAPES))  # networks that need options have a file of their own
def name(request) -> str:
    return str(request.param)


@pytest.fixture
def inputs(name):
    draw = torch.Generator().manual_seed(0)
    return {key: torch.randn(3, *shape, generator=draw) for key, shape in SHAPES[name].items()}


@pytest.fixture
def network(name) -> nn.Module:
    torch.manual_seed(0)
    return build(name)


def test_scores_every_class_from_keyword_arguments(name, network, inputs):
    dense = (32, 48) if name == "cwfid-unet" else ()
    scores = OUTPUTS[name][1] if name in OUTPUTS else build(name).head.weight.shape[0]
    assert network(**inputs).shape == (3, scores, *dense)


def test_number_of_classes_is_a_choice(name, inputs):
    option, _ = OUTPUTS.get(name, ("num_classes", None))
    assert build(name, **{option: 7})(**inputs).shape[1] == 7


def test_rows_of_a_batch_do_not_meet(network, inputs):
    together = network.eval()(**inputs)
    alone = torch.cat([network(**{key: value[row : row + 1] for key, value in inputs.items()}) for row in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_every_modality_matters(network, inputs):
    complete = network.eval()(**inputs)
    for missing in inputs:
        without = network(**inputs | {missing: torch.zeros_like(inputs[missing])})
        assert not torch.allclose(without, complete, atol=1e-4), missing


def test_every_parameter_gets_a_gradient(network, inputs):
    network(**inputs).square().sum().backward()
    dead = [key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


def test_torchs_seed_decides_the_weights(name, network):
    torch.manual_seed(0)
    again = build(name).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in network.state_dict().items())


def test_is_plain_torch(network):
    files = {type(module).__module__ for module in network.modules()}
    assert {file for file in files if file.startswith("subsense")} == {type(network).__module__}


def test_number_of_parameters_is_as_documented(name, network):
    known = {
        "digits-transformer": 37_386,
        "utd-mhad-transformer": 234_219,
        "cwfid-unet": 419_859,
        "cmu-mosi-transformer": 17_794,
        "mult": 1_071_211,
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == known[name]


def test_unet_takes_odd_sizes():
    image = torch.zeros(1, 1, 37, 51)
    assert build("cwfid-unet")(red=image, nir=image).shape == (1, 3, 37, 51)


def test_unknown_name_is_refused_with_the_near_miss():
    with pytest.raises(FactoryError, match=r"network among cmnext.*Did you mean 'digits-transformer'\?"):
        build("digit-transformer")


def test_unknown_option_is_refused_with_the_near_miss():
    with pytest.raises(FactoryError, match=r"'cwfid-unet': unknown option 'widht'.*Did you mean 'width'\?"):
        build("cwfid-unet", widht=8)


def test_digits_are_learnt_and_lost_without_cameras():
    torch.manual_seed(0)
    data, network = load("digits"), build("digits-transformer")
    _train(network, data.train, epochs=8)
    missing = torch.zeros_like(data.test.inputs["nw"])
    assert _accuracy(network, data.test.inputs, data.test.targets) > 0.9
    assert _accuracy(network, data.test.inputs | {"nw": missing, "se": missing}, data.test.targets) < 0.7


def _train(network, samples, epochs):
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(samples)).split(64):
            optimizer.zero_grad()
            scores = network(**{name: tensor[rows] for name, tensor in samples.inputs.items()})
            nn.functional.cross_entropy(scores, samples.targets[rows]).backward()
            optimizer.step()


@torch.no_grad()
def _accuracy(network, inputs, targets):
    return (network.eval()(**inputs).argmax(1) == targets).float().mean().item()
