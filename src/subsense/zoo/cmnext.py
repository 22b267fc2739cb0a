"""CMNeXt: semantic segmentation from a colour image and any number of supplementary modalities.

Paper: J. Zhang et al., Delivering Arbitrary-Modal Semantic Segmentation, CVPR 2023 (arXiv 2303.01480).
Original: https://github.com/jamycheung/DELIVER under Apache-2.0; "for commercial use, please contact with the authors".
Its weights start from SegFormer's MiT, which NVIDIA licenses for research and evaluation only.
Code: written for subsense, Apache-2.0. The `state_dict` has the published names and shapes, so published weights load.
The authors publish B2, B4 and B5; B0, B1 and B3 follow SegFormer's table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.errors import FactoryError, InputError, closest
from subsense.zoo.cross_fusion import Fusion, Rectification
from subsense.zoo.mit_checkpoint import load_mit
from subsense.zoo.mix_transformer import DEPTHS, HEADS, WIDTHS, Block, PatchEmbedding, patch_convolution, to_map
from subsense.zoo.pooling_mixer import PoolingMixer
from subsense.zoo.segformer_head import SegFormerHead

DROP_PATH = 0.1
SMALLEST = 29
"""Height and width from which the first stage has the eight rows and columns that its attention reduces to one."""


def cmnext(
    modalities: Sequence[str], num_classes: int, variant: str = "B2", encoder: str | Path | None = None
) -> CMNeXt:
    """Make a CMNeXt, its colour encoder with the weights of a file where one is given.

    Args:
        modalities, num_classes, variant: see `CMNeXt`.
        encoder: a file of MiT weights trained on ImageNet (``mit_b2.pth``), see `subsense.zoo.mit_checkpoint.load_mit`.
            None: all weights are drawn.

    Raises:
        FactoryError: an unknown variant; modalities that repeat, or none.
        MissingFile, DamagedFile, ForeignTensor: the file isn't there, can't be read, or doesn't fit.

    >>> network = cmnext(["rgb", "thermal"], num_classes=9, variant="B0").eval()
    >>> image = torch.zeros(1, 3, 32, 48)
    >>> network(rgb=image, thermal=image).shape
    torch.Size([1, 9, 32, 48])
    """
    network = CMNeXt(modalities, num_classes, variant)
    if encoder is not None:
        load_mit(network.backbone, encoder)
    return network


class CMNeXt(nn.Module):
    """Label each pixel from several images of the same scene.

    The first modality passes SegFormer's encoder. The others meet before each of its stages in the *self-query hub*,
    which takes at each place the highest-scored of their features, and share a second encoder of pooling mixers. After
    each stage the two encoders correct each other and are fused for the head.

    Args:
        modalities: names; the first is the main one (colour), with one alone the network is a SegFormer.
        num_classes: number of classes.
        variant: size, ``"B0"`` to ``"B5"``.

    >>> CMNeXt(["rgb", "aolp", "dolp", "nir"], num_classes=20, variant="B0").modalities
    ('rgb', 'aolp', 'dolp', 'nir')
    """

    def __init__(self, modalities: Sequence[str], num_classes: int, variant: str = "B2") -> None:
        super().__init__()
        _check(modalities, variant)
        self.modalities = tuple(modalities)
        self.backbone = Encoders(WIDTHS[variant], DEPTHS[variant], num_extra=len(modalities) - 1)
        self.decode_head = SegFormerHead(WIDTHS[variant], 256 if variant in ("B0", "B1") else 512, num_classes)
        self.apply(_draw)

    def forward(self, images: Sequence[Tensor] | None = None, /, **named: Tensor) -> Tensor:
        """Score the classes of each pixel.

        Args:
            images: one (batch, 3, H, W) for each modality, in order; H and W from 29, any size.
            named: or the same by modality, as keywords.

        Returns:
            (batch, num_classes, H, W).

        Raises:
            InputError: other modalities than the network's, or images too small for it.
        """
        images = self._in_order(named) if images is None else self._all(images)
        height, width = images[0].shape[2:]
        if min(height, width) < SMALLEST:
            raise InputError(f"expected images of at least {SMALLEST} x {SMALLEST}, but found {height} x {width}")
        scores = self.decode_head(self.backbone(images))
        return F.interpolate(scores, (height, width), mode="bilinear")

    def _in_order(self, named: dict[str, Tensor]) -> list[Tensor]:
        if set(named) != set(self.modalities):
            raise InputError(f"expected the modalities {', '.join(self.modalities)}, but found {', '.join(named)}")
        return [named[name] for name in self.modalities]

    def _all(self, images: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(images) != len(self.modalities):
            raise InputError(f"expected {len(self.modalities)} images ({', '.join(self.modalities)}), "
                             f"but found {len(images)}")  # fmt: skip
        return images


class Encoders(nn.Module):
    """Encode the main modality and what the supplementary ones have in common, and fuse them after each stage.

    Args:
        widths: channels of the four stages.
        depths: number of blocks of the four stages.
        num_extra: number of supplementary modalities.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], num_extra: int) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        steps = list(enumerate(zip(inputs, widths, strict=True)))
        # Registered in the order of the published weights.
        for stage, (before, width) in steps:
            self.add_module(f"patch_embed{stage + 1}", PatchEmbedding(before, width, stage))
        if num_extra:
            self.extra_downsample_layers = nn.ModuleList(
                ParallelEmbedding(before, width, stage, num_extra) for stage, (before, width) in steps
            )
        if num_extra > 1:
            self.extra_score_predictor = nn.ModuleList(SelfQueryHub(width, num_extra) for width in widths)
        rates = (DROP_PATH * block / (sum(depths) - 1) for block in count())
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            self._add_stage(stage, width, [next(rates) for _ in range(depth)], bool(num_extra))
        if num_extra:
            self.FRMs = nn.ModuleList(map(Rectification, widths))
            self.FFMs = nn.ModuleList(map(Fusion, widths, HEADS))
        self.num_extra = num_extra

    def _add_stage(self, stage: int, width: int, rates: Sequence[float], has_extra: bool) -> None:
        self.add_module(f"block{stage + 1}", nn.ModuleList(Block(width, stage, rate) for rate in rates))
        self.add_module(f"norm{stage + 1}", nn.LayerNorm(width))
        if has_extra:
            mixers = nn.ModuleList(PoolingMixer(width, stage, rate) for rate in rates)
            self.add_module(f"extra_block{stage + 1}", mixers)
            self.add_module(f"extra_norm{stage + 1}", ConvLayerNorm(width))

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Encode: (batch, 3, H, W) for each modality -> (batch, width, h, w) of H / 4, ..., H / 32, rounded up."""
        main, extra = images[0], list(images[1:])
        outputs = []
        for stage in range(4):
            main = self._encode(stage, main)
            fused = main
            if extra:
                extra = self.extra_downsample_layers[stage](extra)
                common, extra = self._mix(stage, extra)
                main, common = self.FRMs[stage](main, common)
                fused = self.FFMs[stage](main, common)
                extra = [_restore(image, common) for image in extra] if self.num_extra > 1 else [common]
            outputs.append(fused)
        return outputs

    def _encode(self, stage: int, image: Tensor) -> Tensor:
        tokens, size = self._part("patch_embed", stage)(image)
        for block in self._blocks("block", stage):
            tokens = block(tokens, size)
        return to_map(self._part("norm", stage)(tokens), size)

    def _mix(self, stage: int, extra: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if self.num_extra > 1:
            extra = self.extra_score_predictor[stage](extra)
        common = reduce(torch.maximum, extra)
        for block in self._blocks("extra_block", stage):
            common = block(common)
        return self._part("extra_norm", stage)(common), extra

    def _part(self, name: str, stage: int) -> nn.Module:
        return self.get_submodule(f"{name}{stage + 1}")

    def _blocks(self, name: str, stage: int) -> nn.ModuleList:
        blocks = self._part(name, stage)
        assert isinstance(blocks, nn.ModuleList)
        return blocks


def _restore(image: Tensor, common: Tensor) -> Tensor:
    """Give a modality's own features back what all of them found.

    The published code reads the memory of (batch, C, H, W) as (batch, H, W, C) here. That shuffles the features within
    each row, but the published weights were trained with it.
    """
    batch, channels, height, width = image.shape
    return image.reshape(batch, height, width, channels).permute(0, 3, 1, 2) + common


class ConvLayerNorm(nn.Module):
    """Normalise over the channels of (batch, C, H, W): LayerNorm for maps.

    Adapters serve it where it is declared: `subsense.LayerClass(ConvLayerNorm, kind="norm", axis=1)`.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, image: Tensor) -> Tensor:
        """Normalise: (batch, C, H, W) -> the same shape."""
        centred = image - image.mean(1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


class ParallelEmbedding(nn.Module):
    """Cut patches of every supplementary modality with one convolution, normalised for each modality apart."""

    def __init__(self, num_inputs: int, width: int, stage: int, num_extra: int) -> None:
        super().__init__()
        self.proj = nn.ModuleDict({"module": patch_convolution(num_inputs, width, stage)})
        self.norm = nn.ModuleDict({f"ln_{index}": ConvLayerNorm(width) for index in range(num_extra)})

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Cut patches: (batch, num_inputs, H, W) each -> (batch, width, h, w) each."""
        norms = zip(self.norm.values(), images, strict=True)
        return [norm(self.proj["module"](image)) for norm, image in norms]


class SelfQueryHub(nn.Module):
    """Score each place of each supplementary modality by itself, and raise its features by the score."""

    def __init__(self, width: int, num_extra: int) -> None:
        super().__init__()
        self.score_nets = nn.ModuleList(_scorer(width) for _ in range(num_extra))

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Raise: (batch, width, H, W) each -> the same shapes."""
        return [score(image) * image + image for score, image in zip(self.score_nets, images, strict=True)]


def _scorer(width: int) -> nn.Sequential:
    depthwise = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
    return nn.Sequential(depthwise, nn.Conv2d(width, 1, kernel_size=1), nn.Sigmoid())


def _check(modalities: Sequence[str], variant: str) -> None:
    if variant not in DEPTHS:
        raise FactoryError(f"cmnext: expected variant to be one of {', '.join(DEPTHS)}, but got {variant!r}."
                           f"{closest(str(variant), DEPTHS)}")  # fmt: skip
    if isinstance(modalities, str) or not modalities or len(set(modalities)) < len(modalities):
        raise FactoryError(f"cmnext: expected modalities to be a list of different names, but got {modalities!r}.")


def _draw(module: nn.Module) -> None:
    """Draw a layer's weights as the published code does.

    For depthwise convolutions that is smaller than He's rule asks: their fan-out is counted over all channels.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
