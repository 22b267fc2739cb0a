"""The networks on which speed and memory are measured: as their libraries ship them, with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import subsense as ss


@dataclass(frozen=True)
class Case:
    """Hold a network and what is needed to run it.

    Attributes:
        make: gives the network.
        modalities, call, layers: arguments of `subsense.adapt`.
        batch: rows of a batch.
        tensor: the tensor of an output that the loss is computed from.
        kept: the combination that uniform batches have.
        ia3: the attention and feed-forward layers that IA3 scales, and those whose input it scales.
        first: the first layer of each path into the network, where the floor has its one parameter each.
    """

    make: Callable[[], nn.Module]
    modalities: Mapping[str, Any]
    call: Any
    batch: int
    tensor: Callable[[Any], Tensor]
    kept: str
    ia3: tuple[list[str], list[str]]
    first: list[str]
    sizes: Mapping[str, int]
    layers: Callable[[nn.Module], list[ss.LayerClass]] = lambda network: []
    compiles: bool = True

    def network(self) -> nn.Module:
        """Make the network, always with the same weights."""
        original = self._original
        torch.manual_seed(0)  # for what is drawn next: peft's factors, our sets
        return copy.deepcopy(original)

    @cached_property
    def _original(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def adapt(self, **options: Any) -> ss.RobustModel:
        """Adapt it."""
        network = self.network()
        return ss.adapt(network, self.modalities, call=self.call, layers=self.layers(network), **options)

    def inputs(self, rows: int | None = None, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
        """Draw a batch in which nothing is missing."""
        generator = torch.Generator().manual_seed(seed)
        return {name: self._draw(axes, rows or self.batch, self.sizes | sizes, generator)
                for name, axes in self.modalities.items()}  # fmt: skip

    def _draw(self, axes: str, rows: int, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        shape, _, dtype = axes.partition(":")
        full = (rows, *(sizes.get(word) or int(word) for word in shape.split()))
        if dtype:
            return torch.randint(1, 1000, full, generator=generator)
        return torch.randn(full, generator=generator)


BANDS = ("red", "green", "blue", "infrared", "thermal", "depth", "radar", "polarised")


def vilt(num_modalities: int = 4) -> Case:
    """ViLT on a text of 40 tokens and an image whose channels are modalities of their own."""
    bands = BANDS[: num_modalities - 1]
    return Case(
        make=lambda: _vilt(len(bands)),
        modalities=dict.fromkeys(bands, "1 192 192") | {"text": "40:int64"},
        call=_call_vilt,
        batch=8,
        tensor=lambda output: output.logits,
        kept="red",
        ia3=(["key", "value", "output.dense"], ["output.dense"]),
        first=["vilt.embeddings.text_embeddings.LayerNorm", "vilt.embeddings.patch_embeddings.projection"],
        sizes={},
        compiles=False,  # it chooses visual tokens by indices that depend on the data
    )


def _vilt(channels: int) -> nn.Module:
    from transformers import ViltConfig, ViltForQuestionAnswering

    config = ViltConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=192,
        patch_size=16,
        num_channels=channels,
        num_labels=101,
    )
    return ViltForQuestionAnswering(config)


def _call_vilt(network: nn.Module, inputs: dict[str, Tensor]) -> Any:
    pixels = torch.cat([tensor for name, tensor in inputs.items() if name != "text"], 1)
    return network(input_ids=inputs["text"], pixel_values=pixels)


def segformer(num_modalities: int = 4) -> Case:
    """SegFormer-B0 on an image whose channels are modalities of their own."""
    bands = BANDS[:num_modalities]
    return Case(
        make=lambda: _segformer(len(bands)),
        modalities=dict.fromkeys(bands, "1 H W"),
        call="channels",
        batch=2,
        tensor=lambda output: output.logits,
        kept="red",
        ia3=(["k_proj", "v_proj", "fc2"], ["fc2"]),
        first=["segformer.stages.0.patch_embeddings.proj"],
        sizes={"H": 256, "W": 256},
    )


def _segformer(channels: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(SegformerConfig(num_channels=channels, num_labels=40))


def cmnext() -> Case:
    """CMNeXt-B2 on colour and a second camera."""
    from subsense import zoo
    from subsense.zoo.cmnext import ConvLayerNorm

    return Case(
        make=lambda: zoo.build("cmnext", modalities=["rgb", "thermal"], num_classes=9, variant="B2"),
        modalities={"rgb": "3 H W", "thermal": "3 H W"},
        call="list",
        batch=2,
        tensor=lambda output: output,
        kept="rgb",
        ia3=(["attn.kv", "fc2"], ["fc2"]),
        first=["backbone.patch_embed1.proj", "backbone.extra_downsample_layers.0.proj.module"],
        sizes={"H": 128, "W": 128},
        layers=lambda network: [ss.LayerClass(ConvLayerNorm, kind="norm", axis=1)],
    )


CASES: dict[str, Callable[[], Case]] = {"vilt": vilt, "segformer": segformer, "cmnext": cmnext}
