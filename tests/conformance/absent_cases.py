"""The layers of the sweep: norms, pooling, attention, recurrence, convolutions of torch, timm, transformers, MONAI."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.absent_survey import Case

TOKENS, VECTOR, SERIES, MAP, VOLUME = (5, 8), (8,), (8, 12), (8, 16, 16), (8, 8, 8, 8)


class Function(nn.Module):
    """Be a function that people write between layers."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        return self.function(x, *more)


def function(call: Callable[..., Tensor], shape: tuple[int, ...] = VECTOR, masked: bool = False, **more: Any) -> Case:
    run = (lambda layer, x, mask: layer(x, mask)) if masked else (lambda layer, x, mask: layer(x))
    return Case(lambda: Function(call), shape, run, masked, **more)


def layer(
    make: Callable[..., nn.Module], *args: Any, shape: tuple[int, ...] = TOKENS, axis: Any = None, **more: Any
) -> Case:
    return Case(lambda: make(*args, **more), shape, axis=axis)


def attention(need_weights: bool, **more: Any) -> Case:
    def run(attend: nn.Module, x: Tensor, mask: Tensor | None) -> Any:
        assert mask is not None
        return attend(x, x, x, key_padding_mask=mask == 0, need_weights=need_weights)

    return Case(lambda: nn.MultiheadAttention(8, 2, batch_first=True, **more), TOKENS, run, True)


def encoder(make: Callable[[], nn.Module], argument: str = "src_key_padding_mask") -> Case:
    return Case(make, TOKENS, lambda one, x, mask: one(x, **{argument: None if mask is None else mask == 0}), True)


def decoder(one: nn.Module, x: Tensor, mask: Tensor | None) -> Any:
    assert mask is not None
    return one(x.new_ones(len(x), 2, 8), x, memory_key_padding_mask=mask == 0)


def packed(one: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    assert mask is not None
    lengths = mask.sum(1).cpu()
    ordered = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return one(ordered)[1][0][-1]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def clamped_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def masked_maximum(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)


def attention_pooling(x: Tensor, mask: Tensor) -> Tensor:
    return (x.mean(2).masked_fill(mask == 0, float("-inf")).softmax(1)[..., None] * x).sum(1)


def finite_attention_pooling(x: Tensor, mask: Tensor) -> Tensor:
    return (x.mean(2).masked_fill(mask == 0, torch.finfo(x.dtype).min).softmax(1)[..., None] * x).sum(1)


def scaled(x: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], (mask != 0)[:, None, None])[:, 0]


def stack(norm: Callable[[int], nn.Module], padding: str = "zeros", blocks: int = 6) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pairs = [(nn.Conv2d(8, 8, 3, padding=1, padding_mode=padding), norm(8)) for _ in range(blocks)]
        return nn.Sequential(*[one for pair in pairs for one in pair])

    return make


TORCH: Mapping[str, Case] = {
    "LayerNorm": layer(nn.LayerNorm, 8),
    "LayerNorm without weights": layer(nn.LayerNorm, 8, elementwise_affine=False),
    "RMSNorm, epsilon of float32": layer(nn.RMSNorm, 8),
    "RMSNorm, epsilon 1e-5": layer(nn.RMSNorm, 8, eps=1e-5),
    "GroupNorm": layer(nn.GroupNorm, 2, 8, shape=MAP),
    "GroupNorm, a channel a group": layer(nn.GroupNorm, 8, 8, shape=MAP),
    "InstanceNorm1d": layer(nn.InstanceNorm1d, 8, shape=SERIES, axis=1),
    "InstanceNorm2d": layer(nn.InstanceNorm2d, 8, shape=MAP),
    "InstanceNorm2d with weights": layer(nn.InstanceNorm2d, 8, shape=MAP, affine=True),
    "InstanceNorm3d": layer(nn.InstanceNorm3d, 8, shape=VOLUME),
    "6 x (Conv2d, InstanceNorm2d)": Case(stack(nn.InstanceNorm2d), MAP),
    "6 x (Conv2d, InstanceNorm2d), reflect": Case(stack(nn.InstanceNorm2d, "reflect"), MAP),
    "6 x (Conv2d, GroupNorm, a channel a group)": Case(stack(lambda size: nn.GroupNorm(size, size)), MAP),
    "6 x (Conv2d, GroupNorm)": Case(stack(lambda size: nn.GroupNorm(2, size)), MAP),
    "6 x (Conv2d, BatchNorm2d)": Case(stack(nn.BatchNorm2d), MAP),
    "BatchNorm1d": layer(nn.BatchNorm1d, 8, shape=VECTOR),
    "BatchNorm2d": layer(nn.BatchNorm2d, 8, shape=MAP),
    "BatchNorm2d without statistics": layer(nn.BatchNorm2d, 8, shape=MAP, track_running_stats=False),
    "LocalResponseNorm": layer(nn.LocalResponseNorm, 2, shape=MAP),
    "F.normalize": function(F.normalize),
    "cosine similarity": function(lambda x: F.cosine_similarity(x, torch.ones_like(x)).unsqueeze(1)),
    "x / x.norm()": function(lambda x: x / x.norm(dim=1, keepdim=True)),
    "PairwiseDistance to itself": function(lambda x: F.pairwise_distance(x, x.flip(0)).unsqueeze(1)),
    "mean and std pooling": function(lambda x: torch.cat([x.mean(1), x.std(1)], 1), TOKENS),
    "log of power": function(lambda x: (x.square() + 1e-10).log()),
    "log of power, no floor": function(lambda x: x.square().log()),
    "sqrt of power": function(lambda x: x.square().sum(1, keepdim=True).sqrt()),
    "weight_norm(Linear)": Case(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), VECTOR),
    "MaxPool2d": layer(nn.MaxPool2d, 2, shape=MAP),
    "AvgPool2d": layer(nn.AvgPool2d, 2, shape=MAP),
    "AdaptiveAvgPool2d": layer(nn.AdaptiveAvgPool2d, 1, shape=MAP),
    "AdaptiveMaxPool1d": layer(nn.AdaptiveMaxPool1d, 1, shape=SERIES, axis=1),
    "AdaptiveMaxPool2d": layer(nn.AdaptiveMaxPool2d, 1, shape=MAP),
    "LPPool1d": layer(nn.LPPool1d, 2, 2, shape=SERIES, axis=1),
    "LPPool2d": layer(nn.LPPool2d, 2, 2, shape=MAP),
    "generalised mean pooling": function(lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3), MAP),
    "mean over tokens": function(lambda x: x.mean(1), TOKENS),
    "maximum over tokens": function(lambda x: x.amax(1), TOKENS),
    "masked mean": function(masked_mean, TOKENS, True),
    "masked mean, clamped": function(clamped_mean, TOKENS, True),
    "masked maximum": function(masked_maximum, TOKENS, True),
    "attention pooling, -inf": function(attention_pooling, TOKENS, True),
    "attention pooling, finite minimum": function(finite_attention_pooling, TOKENS, True),
    "Softmax": layer(nn.Softmax, -1),
    "Softmax2d": layer(nn.Softmax2d, shape=MAP),
    "MultiheadAttention with weights": attention(True),
    "MultiheadAttention without weights": attention(False),
    "MultiheadAttention, add_zero_attn": attention(True, add_zero_attn=True),
    "MultiheadAttention, add_bias_kv": attention(True, add_bias_kv=True),
    "scaled_dot_product_attention": function(scaled, TOKENS, True),
    "TransformerEncoderLayer": encoder(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "TransformerEncoder": encoder(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    ),
    "TransformerEncoder, not nested": encoder(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )
    ),
    "TransformerDecoderLayer, memory": Case(
        lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), TOKENS, decoder, True
    ),
    "LSTM": layer(nn.LSTM, 8, 8, batch_first=True),
    "GRU": layer(nn.GRU, 8, 8, batch_first=True),
    "RNN": layer(nn.RNN, 8, 8, batch_first=True),
    "LSTM, packed": Case(lambda: nn.LSTM(8, 8, batch_first=True), TOKENS, packed, True),
    "Conv1d": layer(nn.Conv1d, 8, 8, 3, shape=SERIES, axis=1),
    "Conv2d": layer(nn.Conv2d, 8, 8, 3, padding=1, shape=MAP),
    "ConvTranspose2d": layer(nn.ConvTranspose2d, 8, 8, 2, stride=2, shape=MAP),
    "Upsample": layer(nn.Upsample, scale_factor=2, mode="bilinear", shape=MAP),
    "GLU": layer(nn.GLU),
    "Bilinear": Case(lambda: nn.Bilinear(8, 8, 4), VECTOR, lambda one, x, mask: one(x, x)),
}


def of(module: str, name: str, *args: Any, shape: tuple[int, ...] = TOKENS, run: Any = None, **more: Any) -> Case:
    """Take a layer from a library when it is made."""

    def make() -> nn.Module:
        made = getattr(importlib.import_module(module), name)
        return made(*(one() if callable(one) and not isinstance(one, type) else one for one in args), **more)

    return Case(make, shape) if run is None else Case(make, shape, run, run is bert)


def config(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module("transformers"), name)(**more)


SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
MODELS = "transformers.models"


def bert(one: nn.Module, x: Tensor, mask: Tensor | None) -> Any:
    assert mask is not None
    return one(x, (1.0 - mask[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min)


TRANSFORMERS: Mapping[str, Case] = {
    "LlamaRMSNorm": of(f"{MODELS}.llama.modeling_llama", "LlamaRMSNorm", 8),
    "GemmaRMSNorm": of(f"{MODELS}.gemma.modeling_gemma", "GemmaRMSNorm", 8),
    "T5LayerNorm": of(f"{MODELS}.t5.modeling_t5", "T5LayerNorm", 8),
    "BertLayer": of(f"{MODELS}.bert.modeling_bert", "BertLayer", config("BertConfig", **SMALL), run=bert),
    "ViTLayer": of(f"{MODELS}.vit.modeling_vit", "ViTLayer", config("ViTConfig", **SMALL)),
    "ConvNextLayerNorm": of(
        f"{MODELS}.convnext.modeling_convnext", "ConvNextLayerNorm", 8, shape=MAP, data_format="channels_first"
    ),
    "Wav2Vec2GroupNormConvLayer": of(
        f"{MODELS}.wav2vec2.modeling_wav2vec2",
        "Wav2Vec2GroupNormConvLayer",
        config("Wav2Vec2Config", conv_dim=(8,) * 7),
        shape=(1, 64),
        run=lambda one, x, mask: one(x),
    ),
    "Wav2Vec2LayerNormConvLayer": of(
        f"{MODELS}.wav2vec2.modeling_wav2vec2",
        "Wav2Vec2LayerNormConvLayer",
        config("Wav2Vec2Config", conv_dim=(8,) * 7),
        shape=(1, 64),
    ),
}

TIMM: Mapping[str, Case] = {
    "LayerNorm2d": of("timm.layers", "LayerNorm2d", 8, shape=MAP),
    "GroupNorm1": of("timm.layers", "GroupNorm1", 8, shape=MAP),
    "RmsNorm": of("timm.layers", "RmsNorm", 8),
    "RmsNorm2d": of("timm.layers", "RmsNorm2d", 8, shape=MAP),
    "SimpleNorm2d": of("timm.layers", "SimpleNorm2d", 8, shape=MAP),
    "BatchNormAct2d": of("timm.layers", "BatchNormAct2d", 8, shape=MAP),
    "EvoNorm2dB0": of("timm.layers", "EvoNorm2dB0", 8, shape=MAP),
    "EvoNorm2dS0": of("timm.layers", "EvoNorm2dS0", 8, groups=4, shape=MAP),
    "FilterResponseNormTlu2d": of("timm.layers", "FilterResponseNormTlu2d", 8, shape=MAP),
    "GlobalResponseNormMlp": of("timm.layers", "GlobalResponseNormMlp", 8, shape=MAP, use_conv=True),
    "SqueezeExcite": of("timm.layers", "SqueezeExcite", 8, shape=MAP),
    "EcaModule": of("timm.layers", "EcaModule", 8, shape=MAP),
    "EffectiveSEModule": of("timm.layers", "EffectiveSEModule", 8, shape=MAP),
    "SelectAdaptivePool2d, average and maximum": of(
        "timm.layers", "SelectAdaptivePool2d", pool_type="catavgmax", shape=MAP
    ),
    "LsePlus2d": of("timm.layers", "LsePlus2d", shape=MAP),
    "SimPool2d": of("timm.layers", "SimPool2d", 8, num_heads=2, shape=MAP),
    "AttentionPoolLatent": of("timm.layers", "AttentionPoolLatent", 8, num_heads=2),
    "BlurPool2d": of("timm.layers", "BlurPool2d", 8, shape=MAP),
    "StdConv2d": of("timm.layers", "StdConv2d", 8, 8, 3, padding=1, shape=MAP),
}

BLOCKS, NETS = "monai.networks.blocks", "monai.networks.nets"
MONAI: Mapping[str, Case] = {
    "Convolution (instance norm)": of(BLOCKS, "Convolution", 3, 8, 8, norm="instance", shape=VOLUME),
    "ResidualUnit": of(BLOCKS, "ResidualUnit", 3, 8, 8, subunits=2, norm="instance", shape=VOLUME),
    "UnetResBlock": of(BLOCKS, "UnetResBlock", 3, 8, 8, 3, 1, "instance", shape=VOLUME),
    "SABlock": of(BLOCKS, "SABlock", 8, 2),
    "ChannelSELayer": of(BLOCKS, "ChannelSELayer", 2, 8, shape=MAP),
    "MaxAvgPool": of(BLOCKS, "MaxAvgPool", 2, 2, shape=MAP),
    "SubpixelUpsample": of(BLOCKS, "SubpixelUpsample", 2, 8, shape=MAP),
    "BasicUNet": of(NETS, "BasicUNet", 3, 1, 2, features=(8, 8, 16, 16, 16, 8), shape=(1, 32, 32, 32)),
}

LIBRARIES: Mapping[str, Mapping[str, Case]] = {
    "torch": TORCH,
    "transformers": TRANSFORMERS,
    "timm": TIMM,
    "monai": MONAI,
}


def is_there(package: str) -> bool:
    """Say whether a package can be imported. timm wants torchvision, which may be built for other devices."""
    if find_spec("torchvision"):
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(f"torchvision::{name}", arguments)
    return find_spec(package) is not None
