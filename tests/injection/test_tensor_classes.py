"""Tensors of a class of the user's own, and attention over padded tokens, run adapted as they did before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import draw, with_sets

SIZES = {"left": "1 6 6", "right": "1 6 6"}


class Tagged(torch.Tensor):
    """Be a tensor that carries something, as MetaTensor does."""


class InPlace(nn.Module):
    """Work in place after a convolution, norms and a linear layer."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.group = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.act, self.hidden, self.head = nn.ReLU(inplace), nn.Linear(4, 5), nn.Linear(5, 3)
        self.last = nn.LayerNorm(5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = self.act(self.group(self.act(self.norm(self.act(self.conv(torch.cat([left, right], 1)))))))
        return self.head(self.act(self.last(self.act(self.hidden(x.mean((2, 3)))))))


def _gradients(
    method: str,
    memory: Any,
    tagged: bool,
    inplace: bool,
    mixed: bool,
    tag: Callable[[Tensor], Tensor] = lambda tensor: tensor.as_subclass(Tagged),
) -> list[Tensor]:
    torch.manual_seed(0)
    robust = with_sets(ss.adapt(InPlace(inplace), SIZES, method=method, memory=memory)).train()
    batch = {name: tag(tensor) if tagged else tensor for name, tensor in draw(SIZES).items()}
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]]) if mixed else None
    found = []
    for _ in range(3):
        robust(batch if mixed else {"left": batch["left"]}, present).square().sum().backward()
        found += [one.grad.as_subclass(Tensor) for one in robust.adapter_parameters().values() if one.grad is not None]
        robust.zero_grad()
    return found


@pytest.mark.parametrize("method", ["ssf", "scale", "shift", "bitfit", "norm", "lora"])
@pytest.mark.parametrize("memory", ["normal", "low"])
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "alike"])
def test_gradients_of_a_tensor_class_are_those_of_tensors(method: str, memory: str, mixed: bool) -> None:
    found, expected = _gradients(method, memory, True, True, mixed), _gradients(method, memory, False, False, mixed)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "alike"])
def test_gradients_of_monais_tensors_are_those_of_tensors(mixed: bool) -> None:
    monai = pytest.importorskip("monai.data", reason="needs the extra subsense[monai]")
    found = _gradients(
        "ssf", "normal", True, True, mixed, lambda tensor: monai.MetaTensor(tensor, meta={"space": "RAS"})
    )
    expected = _gradients("ssf", "normal", False, False, mixed)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Padded(nn.Module):
    """Read padded tokens by torch's encoder with its defaults."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        tokens = torch.cat([left, right], 1)
        padded = torch.arange(tokens.shape[1]).expand(len(tokens), -1) > 4
        return self.head(self.encoder(tokens, src_key_padding_mask=padded)[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # the pretrained encoder makes one
def test_an_adapted_network_called_directly_reads_padded_tokens() -> None:
    torch.manual_seed(0)
    network, sizes = Padded().eval(), {"left": "3 8", "right": "3 8"}
    batch = draw(sizes)
    with torch.no_grad():
        expected = network(**batch)
        robust = ss.adapt(network, sizes)
        torch.testing.assert_close(network(**batch), expected)
        assert torch.backends.mha.get_fastpath_enabled()
        robust.detach()
        assert "forward" not in vars(network.encoder)
        assert torch.equal(network(**batch), expected)
