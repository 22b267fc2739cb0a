"""`AdaptedAttention` against torch's own attention: with nothing adapted, the same output and weights."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import SHARINGS, with_sets
from subsense import adapt
from subsense.injection.attention import AdaptedAttention

BATCH, TARGET, SOURCE, HEADS, WIDTH = 2, 4, 5, 2, 6

MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "bool": {"attn_mask": torch.rand(TARGET, SOURCE, generator=torch.Generator().manual_seed(1)) > 0.7},
    "float": {"attn_mask": torch.randn(TARGET, SOURCE)},
    "for each head": {"attn_mask": torch.randn(BATCH * HEADS, TARGET, SOURCE)},
    "padding": {"key_padding_mask": torch.tensor([[False] * SOURCE, [False] * 3 + [True] * 2])},
    "float padding": {"key_padding_mask": torch.randn(BATCH, SOURCE)},
    "both": {
        "attn_mask": torch.ones(TARGET, SOURCE).triu(2).bool(),
        "key_padding_mask": torch.tensor([[False] * SOURCE, [False] * 4 + [True]]),
    },
}
LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without bias": {"bias": False},
    "learned entry": {"add_bias_kv": True},
    "zero entry": {"add_zero_attn": True},
    "both entries": {"add_bias_kv": True, "add_zero_attn": True},
    "other widths": {"kdim": 3, "vdim": 7},
    "other widths without bias": {"kdim": 3, "vdim": 7, "bias": False},
}


def layer(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, HEADS, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made


def tensors(made: nn.MultiheadAttention, batched: bool = True) -> list[Tensor]:
    sizes = [(TARGET, WIDTH), (SOURCE, made.kdim), (SOURCE, made.vdim)]
    if not batched:
        return [torch.randn(size) for size in sizes]
    shapes = [(BATCH, *size) if made.batch_first else (size[0], BATCH, size[1]) for size in sizes]
    return [torch.randn(shape) for shape in shapes]


def assert_same(made: nn.MultiheadAttention, inputs: list[Tensor], **options: Any) -> None:
    calls = []

    def note(part: str, x: Tensor, y: Tensor) -> Tensor:
        calls.append(part)
        return y

    expected, found = made(*inputs, **options), AdaptedAttention(made, note)(*inputs, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert calls == ["query", "key", "value", "output"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", LAYERS)
def test_is_torchs_attention(options: str, mask: str) -> None:
    for batch_first, need, average in itertools.product([True, False], repeat=3):
        made = layer(batch_first=batch_first, **LAYERS[options])
        assert_same(made, tensors(made), **MASKS[mask], need_weights=need, average_attn_weights=average)


UNBATCHED: dict[str, dict[str, Tensor]] = {
    "none": {},
    "bool": MASKS["bool"],
    "for each head": {"attn_mask": torch.randn(HEADS, TARGET, SOURCE)},
    "padding": {"key_padding_mask": torch.tensor([False] * 3 + [True] * 2)},
}


@pytest.mark.parametrize("mask", UNBATCHED)
@pytest.mark.parametrize("options", LAYERS)
def test_is_torchs_attention_without_a_batch(options: str, mask: str) -> None:
    for batch_first, need, average in itertools.product([True, False], repeat=3):
        made = layer(batch_first=batch_first, **LAYERS[options])
        assert_same(made, tensors(made, False), **UNBATCHED[mask], need_weights=need, average_attn_weights=average)


@pytest.mark.parametrize("need", [True, False])
def test_causal(need: bool) -> None:
    made = layer(batch_first=True)
    x = torch.randn(BATCH, TARGET, WIDTH)
    causal = nn.Transformer.generate_square_subsequent_mask(TARGET)
    assert_same(made, [x, x, x], attn_mask=causal, is_causal=True, need_weights=need)
    for attend in (made, AdaptedAttention(made, lambda part, x, y: y)):
        with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
            attend(x, x, x, is_causal=True)


def test_dropout_acts_in_training() -> None:
    made = layer(dropout=0.5, batch_first=True).train()
    inputs = tensors(made)
    for need in (True, False):
        torch.manual_seed(1)
        expected = made(*inputs, need_weights=need)
        torch.manual_seed(1)
        torch.testing.assert_close(AdaptedAttention(made, lambda part, x, y: y)(*inputs, need_weights=need), expected)


def test_gradients_are_torchs() -> None:
    made = layer(batch_first=True)
    inputs = tensors(made)
    parameters = list(made.parameters())
    expected = torch.autograd.grad(made(*inputs)[0].square().sum(), parameters)
    found = torch.autograd.grad(AdaptedAttention(made, lambda p, x, y: y)(*inputs)[0].square().sum(), parameters)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("part", ["query", "key", "value", "output"])
def test_each_projection_has_a_place_for_an_adapter(part: str) -> None:
    made = layer(kdim=3, vdim=7, batch_first=True)
    inputs = tensors(made)
    scaled = AdaptedAttention(made, lambda which, x, y: y * 2 if which == part else y)(*inputs)[0]
    with torch.no_grad():
        weight = made.out_proj.weight if part == "output" else getattr(made, f"{part[0]}_proj_weight")
        weight *= 2
        index = ("query", "key", "value", "output").index(part)
        bias = made.out_proj.bias if part == "output" else made.in_proj_bias[index * WIDTH : (index + 1) * WIDTH]
        bias *= 2
    torch.testing.assert_close(scaled, made(*inputs)[0])


class Padded(nn.Module):
    """An encoder that turns padded batches into nested tensors in eval mode, for torch's fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)

    def forward(self, tokens: Tensor, padding: Tensor, more: Tensor) -> Tensor:
        return self.encoder(tokens + more[:, None], src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("gradients", [False, True])
def test_the_nested_tensor_trap_of_an_encoder_with_padding(sharing: str, gradients: bool) -> None:
    torch.manual_seed(0)
    network = Padded().eval()
    padding = torch.tensor([[False] * 4, [False] * 3 + [True]])
    inputs = {"tokens": {"tokens": torch.randn(2, 4, WIDTH), "padding": padding}, "more": torch.randn(2, WIDTH)}
    spec = {"tokens": {"tokens": f"T {WIDTH}", "padding": "T:bool"}, "more": str(WIDTH)}
    with torch.set_grad_enabled(gradients):
        expected = network(**inputs["tokens"], more=inputs["more"])
        robust = adapt(network, spec, sharing=sharing).eval()
        assert torch.equal(robust(inputs), expected)
        robust.mark_trained(["tokens"])
        given = {"tokens": inputs["tokens"]}
        valid = ~padding
        untouched = network.requires_grad_(True).encoder.train(False)
        torch.testing.assert_close(robust(given)[valid], robust.pretrained(given)[valid], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(with_sets(robust)(given)[valid], robust.pretrained(given)[valid], atol=0.1)
    assert untouched is network.encoder
    assert torch.backends.mha.get_fastpath_enabled()
