"""Two-stream video network: the sizes of the papers, late fusion, and rows that don't meet."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsense.errors import FactoryError
from subsense.testing import check_network
from subsense.zoo import build
from subsense.zoo.two_stream import Block, TwoStream

MODALITIES = {"rgb": "3 T H W", "depth": "1 T H W"}


def network(**options: Any) -> TwoStream:
    torch.manual_seed(0)
    return TwoStream(**{"num_classes": 5, "width": 4, "blocks": (1, 1)} | options).eval()


def clips(rows: int = 3, frames: int = 4, side: int = 12) -> dict[str, Tensor]:
    draw, shape = torch.Generator().manual_seed(0), (frames, side, side)
    return {name: torch.randn(rows, int(axes[0]), *shape, generator=draw) for name, axes in MODALITIES.items()}


def number(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_r2plus1d_18() -> None:
    with torch.device("meta"):
        full = build("two-stream")
    assert number(full) == 66_388_368
    blocks = [module for module in full.streams["rgb"].modules() if isinstance(module, Block)]
    assert len(blocks) == 8  # with two convolutions each, the stem and the last layer: 18
    assert full.streams["rgb"][0][0].out_channels == 45
    for block in blocks:
        convolutions = [layer for layer in block.branch if isinstance(layer, nn.Conv3d)]
        for space, time in zip(convolutions[::2], convolutions[1::2], strict=True):
            whole = 27 * space.in_channels * time.out_channels
            assert 0.98 * whole < space.weight.numel() + time.weight.numel() <= whole


def test_each_stage_after_the_first_halves_time_and_space() -> None:
    stream = network(blocks=(1, 1, 1)).streams["rgb"]
    x, shapes = clips(1, frames=8, side=32)["rgb"], []
    for layer in list(stream)[:-2]:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 8, 16, 16), (4, 8, 16, 16), (8, 4, 8, 8), (16, 2, 4, 4)]


def test_streams_may_see_clips_of_different_size() -> None:
    inputs = clips() | {"depth": torch.zeros(3, 1, 2, 7, 9)}
    assert network()(**inputs).shape == (3, 5)


@pytest.mark.parametrize("fusion", ["features", "scores"])
def test_rows_do_not_meet_and_every_modality_matters(fusion: str) -> None:
    net, inputs = network(fusion=fusion), clips()
    together = net(**inputs)
    alone = torch.cat([net(**{name: clip[row : row + 1] for name, clip in inputs.items()}) for row in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    for name, clip in inputs.items():
        assert not torch.allclose(net(**inputs | {name: torch.zeros_like(clip)}), together, atol=1e-4)


def test_scores_fused_are_the_mean_of_streams() -> None:
    net, inputs = network(fusion="scores"), clips()
    own = [head(stream(inputs[name])) for (name, stream), head in zip(net.streams.items(), net.heads, strict=True)]
    torch.testing.assert_close(net(**inputs), (own[0] + own[1]) / 2)


@pytest.mark.parametrize("fusion", ["features", "scores"])
def test_every_parameter_gets_a_gradient(fusion: str) -> None:
    net = network(fusion=fusion).train()
    net(**clips()).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in net.parameters() if parameter.grad is not None)
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_more_streams_are_a_matter_of_channels() -> None:
    net = network(channels={"rgb": 3, "depth": 1, "infrared": 1})
    assert net(**clips(), infrared=torch.zeros(3, 1, 4, 12, 12)).shape == (3, 5)


def test_keeps_the_promises_of_an_adapted_network() -> None:
    check_network(network(), MODALITIES, clips(), compiled=False)


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    check_network(network(), MODALITIES, clips())


@pytest.mark.parametrize("given", [{}, {"rgb": 0}, {"rgb": 0, "depth": 0, "sound": 0}])
def test_other_modalities_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"expected clips of rgb, depth, but got {', '.join(given) or 'none'}"):
        network()(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "early"}, "expected fusion 'features' or 'scores', but got 'early'"),
        ({"channels": {}}, "at least one modality"),
        ({"blocks": ()}, "at least one modality and one stage"),
        ({"width": 0}, "width=0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FactoryError, match=message):
        network(**options)
