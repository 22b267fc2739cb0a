"""Draw every degradation at every severity, for docs/degraded-input.md.

    python benchmarks/degradation_pictures.py docs/degradations

The signal is made up; the photograph is scikit-learn's flower.jpg (by danielteo, CC BY 2.0).
"""

import io
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

import subsense as ss
from subsense.degradation import MOST, Degrader, find
from subsense.degradation.images import OF_IMAGES
from subsense.degradation.series import OF_SERIES
from subsense.degradation.values import OF_VALUES
from subsense.degradation.words import OF_WORDS
from subsense.evaluation.reporting.figure import to_png

SEVERITIES = range(1, MOST + 1)
PICTURES = {
    "values": OF_VALUES,
    "series": OF_SERIES,
    "images": (*OF_IMAGES, find("noise"), find("saturation")),
    "words": OF_WORDS,
}
"""File -> the kinds that it shows."""
SENTENCE = "the battery lasts all day but the screen is far too dark to read outside"
OTHERS = "good bad phone price camera slow quick never service buy light heavy sound"


def signal() -> Tensor:
    """Make a row of 120 instants of two channels, as of someone who walks."""
    time = torch.linspace(0, 6, 120)
    step = torch.sin(4 * time) + 0.5 * torch.sin(9 * time + 1)
    return torch.stack([step, 0.6 * torch.cos(4 * time) + 0.4 * torch.sin(13 * time)], dim=1)[None]


def photograph() -> Tensor:
    """Give a square of the photograph, 3 x 96 x 96 in [0, 1]."""
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).float() / 255
    return torch.nn.functional.interpolate(image[None, :, 20:404, 130:514], (96, 96), mode="area")


def draw_signal(kinds: list[str]) -> Figure:
    """Draw one row of panels for each kind, the healthy signal in grey behind it."""
    row = signal()
    degrader = Degrader(ss.Modalities({"imu": "120 2", "other": "1"}), [{"imu": row}], kinds={"imu": "all"})
    figure, panels = _figure(kinds, columns=len(SEVERITIES), height=0.85)
    for line, kind in zip(panels, kinds, strict=True):
        for axes, severity in zip(line, SEVERITIES, strict=True):
            worse = degrader.apply({"imu": row}, "imu", kind, severity, seed=3)["imu"]
            axes.plot(row[0, :, 0], color="#c9ced6", linewidth=1.0)
            axes.plot(worse[0, :, 1] - 3.5, color="#E69F00", linewidth=0.8)
            axes.plot(worse[0, :, 0], color="#0072B2", linewidth=0.8)
            axes.set_ylim(-7, 4)
    return figure


def draw_photograph(kinds: list[str]) -> Figure:
    """Draw one row of pictures for each kind."""
    row = photograph()
    degrader = Degrader(ss.Modalities({"rgb": "3 H W", "other": "1"}), [{"rgb": row}], kinds={"rgb": "all"})
    figure, panels = _figure(kinds, columns=len(SEVERITIES), height=1.5)
    for line, kind in zip(panels, kinds, strict=True):
        for axes, severity in zip(line, SEVERITIES, strict=True):
            worse = degrader.apply({"rgb": row}, "rgb", kind, severity, seed=3)["rgb"]
            axes.imshow(worse[0].permute(1, 2, 0).clamp(0, 1))
    return figure


def draw_words(kinds: list[str]) -> Figure:
    """Write one line for each kind and severity."""
    sentence, others = SENTENCE.split(), OTHERS.split()
    words = [*sentence, *others]
    known = list(dict.fromkeys(words))
    numbers = {word: index + 1 for index, word in enumerate(known)}
    tokens = torch.tensor([[numbers[word] for word in sentence] + [0]])
    rest = torch.tensor([[numbers[word] for word in others] + [0] * (tokens.shape[1] - len(others))])
    texts = torch.cat([tokens, rest, rest.roll(1, 1).index_fill(1, torch.tensor([0, tokens.shape[1] - 1]), 0)])
    modalities = ss.Modalities({"text": "L:int64", "other": "1"})
    degrader = Degrader(modalities, [{"text": texts}], kinds={"text": "all"})
    figure = Figure(figsize=(9.5, 0.24 * len(kinds) * len(SEVERITIES) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    count = len(kinds) * len(SEVERITIES)
    for number, (kind, severity) in enumerate((kind, severity) for kind in kinds for severity in SEVERITIES):
        worse = degrader.apply({"text": tokens}, "text", kind, severity, seed=3)["text"][0, :-1].tolist()
        text = " ".join(known[token - 1] if token else "·" for token in worse)
        height = 1 - (number + 0.7) / count
        if severity == 1:
            axes.text(0.01, height, kind, fontsize=9, fontweight="bold")
        axes.text(0.13, height, f"{severity}   {text}", fontsize=9, family="monospace")
    return figure


def _figure(kinds: list[str], columns: int, height: float) -> tuple[Figure, list[list]]:
    figure = Figure(figsize=(1.7 * columns + 0.9, height * len(kinds) + 0.3))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    panels = figure.subplots(len(kinds), columns, squeeze=False)
    for line, kind in zip(panels, kinds, strict=True):
        line[0].set_ylabel(kind, rotation=0, ha="right", va="center", fontsize=9)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for axes, severity in zip(panels[0], SEVERITIES, strict=False):
        axes.set_title(f"severity {severity}", fontsize=9)
    return figure, panels.tolist()


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ways = {"values": draw_signal, "series": draw_signal, "images": draw_photograph, "words": draw_words}
    for name, kinds in PICTURES.items():
        figure = ways[name]([kind.name for kind in kinds])
        picture = Image.open(io.BytesIO(to_png(figure, 80))).convert("RGB")
        picture.quantize(128).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
