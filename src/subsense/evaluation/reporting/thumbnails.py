"""Tensors as small pictures that stand in a page by themselves: PNG for images and masks, SVG for curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

# Okabe and Ito's palette, which people with any colour vision can tell apart; longer lists of classes repeat it.
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
LARGEST, SMALLEST = 240, 96
"""Pixels in the longer side of a picture: larger ones are shrunk, smaller ones enlarged by a whole factor."""
MAX_CURVES = 12
MASK_OPACITY = 160


def class_colour(index: int) -> str | None:
    """Give the colour of a class; None for class 0, most often the background, which is left clear."""
    return PALETTE[(index - 1) % len(PALETTE)] if index else None


def picture(value: Tensor) -> str:
    """Draw one sample of a modality, without a batch axis, as a data URI.

    (3, H, W) is drawn in colour, (C, H, W) as the mean of its channels in grey, (T, C, H, W) by its middle frame, (T,)
    and (T, F) as curves over T, of more than `MAX_CURVES` those that vary most. Values are stretched
    from their 1st to their 99th percentile.
    """
    value = value.detach().float().cpu()
    while value.ndim > 3:
        value = value[len(value) // 2]
    if value.ndim == 3:
        return image(_stretched(value if len(value) == 3 else value.mean(0, keepdim=True)))
    curves = value.reshape(len(value), -1) if value.ndim else value.reshape(1, 1)
    if curves.shape[1] > MAX_CURVES:
        varied = curves.nan_to_num(0).var(0, correction=0).topk(MAX_CURVES).indices
        curves = curves[:, varied.sort().values]
    return _curves(curves)


def image(values: Tensor) -> str:
    """Write an image (1 or 3, H, W) of values in 0..1 as a data URI."""
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    from PIL import Image

    return _png(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels), Image.Resampling.LANCZOS)


def mask(classes: Tensor, num_classes: int) -> str:
    """Write class indices (H, W) as a translucent picture; class 0, and indices that are no class, are left clear."""
    colours = np.zeros((num_classes + 1, 4), dtype=np.uint8)
    for index in range(1, num_classes):
        colours[index] = (*_rgb(class_colour(index) or ""), MASK_OPACITY)
    is_class = (classes >= 0) & (classes < num_classes)
    indices = torch.where(is_class, classes, num_classes).cpu().numpy()
    from PIL import Image

    return _png(Image.fromarray(colours[indices]), Image.Resampling.NEAREST)


def _stretched(values: Tensor) -> Tensor:
    finite = values[values.isfinite()].numpy()
    low, high = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 1.0)
    return ((values - low) / max(high - low, 1e-12)).nan_to_num(0)


def _png(drawn: Image.Image, shrink: Image.Resampling) -> str:
    from PIL import Image

    longest = max(drawn.size)
    if longest > LARGEST:
        drawn.thumbnail((LARGEST, LARGEST), shrink)
    elif longest < SMALLEST:
        factor = -(-SMALLEST // longest)
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _curves(values: Tensor) -> str:
    """Draw each column of (T, F) as a line, all on one scale."""
    width, height, margin = LARGEST, LARGEST // 2, 4
    low, high = float(values.nan_to_num(0).min()), float(values.nan_to_num(0).max())
    y = (height - margin - (values.nan_to_num(0) - low) / max(high - low, 1e-12) * (height - 2 * margin)).numpy()
    x = np.linspace(margin, width - margin, len(y))
    lines = "".join(_line(x, column, PALETTE[index % len(PALETTE)]) for index, column in enumerate(y.T))
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{lines}</svg>'
    return _data_uri("image/svg+xml", drawing.encode())


def _line(x: NDArray[np.float64], y: Sequence[float] | NDArray[np.float32], colour: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
