"""Image networks as timm ships them, as one would adapt them to a colour picture and a depth map, as cases.

They are the smallest of each family with random weights. timm itself needs torchvision; so do open_clip and
segmentation-models-pytorch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import nn

from architectures import CLASSES, IMAGE_TEXT, Architecture
from conformance.survey import Case

INSTALLED = all(find_spec(name) for name in ("timm", "torchvision", "open_clip", "segmentation_models_pytorch"))
SIZE = 64


@dataclass(frozen=True)
class Family:
    """Hold one network's name, the size of its pictures, and what else it is made with."""

    name: str
    size: int = SIZE
    options: Mapping[str, Any] = field(default_factory=dict)
    reads: bool = False

    def case(self) -> Case:
        """Give its case."""
        pictures = {"rgb": f"3 {self.size} {self.size}", "depth": f"1 {self.size} {self.size}"}
        told = {"refused": r"never calls [\w.]*qkv", "note": UNCALLED} if self.reads else {}
        return Case(Architecture(self._make, pictures, "channels"), tolerance=1e-4, **told)

    def _make(self) -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(self.name, in_chans=4, num_classes=CLASSES, **self.options)
        return network


UNCALLED = "it reads the weight of its `qkv` layers itself"
SMALL = {"img_size": SIZE}
FAMILIES = (
    Family("resnet18"),
    Family("resnext50_32x4d"),
    Family("seresnet18"),
    Family("resnetv2_50"),
    Family("resnetrs50"),
    Family("regnety_002"),
    Family("densenet121"),
    Family("vgg11_bn"),
    Family("mobilenetv2_050"),
    Family("mobilenetv3_small_050"),
    Family("mobilenetv4_conv_small"),
    Family("efficientnet_b0"),
    Family("tf_efficientnet_b0"),
    Family("tf_efficientnetv2_b0"),
    Family("inception_v3", size=96, options={"aux_logits": False}),
    Family("xception41"),
    Family("dpn48b"),
    Family("hrnet_w18_small"),
    Family("dla34"),
    Family("convnext_atto"),
    Family("convnextv2_atto"),
    Family("nfnet_l0"),
    Family("dm_nfnet_f0"),
    Family("vit_tiny_patch16_224", options=SMALL),
    Family("deit3_small_patch16_224", options=SMALL),
    Family("beit_base_patch16_224", options=SMALL | {"depth": 2}, reads=True),
    Family("eva02_tiny_patch14_224", size=56, options={"img_size": 56, "depth": 2}, reads=True),
    Family("swin_tiny_patch4_window7_224", size=224),
    Family("swinv2_tiny_window8_256", size=256, reads=True),
    Family("maxvit_tiny_tf_224", size=224),
    Family("mixer_s32_224", size=224),
    Family("poolformer_s12"),
    Family("pvt_v2_b0"),
    Family("cait_xxs24_224", options=SMALL),
    Family("levit_128s", options=SMALL),
    Family("efficientformer_l1", size=224),
    Family("fastvit_t8"),
    Family("edgenext_xx_small"),
    Family("mobilevit_xxs"),
    Family("davit_tiny"),
    Family("repvgg_a0"),
    Family("ghostnet_100"),
)


def _segmentation(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import segmentation_models_pytorch as library

        network: nn.Module = getattr(library, name)("resnet18", encoder_weights=None, in_channels=4, classes=CLASSES)
        return network

    return make


def _open_clip(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from open_clip.model import CLIP, CustomTextCLIP

        vision = {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32}
        text = {"context_length": 6, "vocab_size": 20, "width": 64, "heads": 2, "layers": 1}
        cls = {"CLIP": CLIP, "CustomTextCLIP": CustomTextCLIP}[name]
        return copy.deepcopy(cls(embed_dim=CLASSES, vision_cfg=vision, text_cfg=text))

    return make


_PICTURES = {"rgb": f"3 {SIZE} {SIZE}", "depth": f"1 {SIZE} {SIZE}"}
_WORDS = {"image": IMAGE_TEXT["image"], "text": "6:int64"}

_SHALLOW = {"refused": "never calls encoder.layer3.0.conv1", "note": "it leaves its encoder's last layers unused"}
TIMM: dict[str, Case] = {family.name: family.case() for family in FAMILIES} | {
    f"segmentation-models-pytorch: {name}": Case(
        Architecture(_segmentation(name), _PICTURES, "channels"), tolerance=1e-4, **told
    )
    for name, told in {
        "Unet": {},
        "FPN": {},
        "DeepLabV3Plus": {},
        "PSPNet": _SHALLOW,
        "Segformer": {},
        "MAnet": {},
    }.items()
}
for _name in ("CLIP", "CustomTextCLIP"):
    TIMM[f"open_clip: {_name}"] = Case(
        Architecture(_open_clip(_name), _WORDS, scores=lambda output: output[0] + output[1]), tolerance=1e-4
    )
