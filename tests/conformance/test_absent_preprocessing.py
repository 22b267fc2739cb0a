"""What preprocessing makes of silence and of black is what docs/absent-input.md says; subsense's own check tells it."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import subsense as ss
from subsense.modalities.filling import Filling
from subsense.modalities.stand_ins import compare_stand_ins

PAGE = (Path(__file__).parents[2] / "docs" / "absent-input.md").read_text("utf-8")
SILENCE = {
    "Wav2Vec2FeatureExtractor": "0",
    "WhisperFeatureExtractor": "-1.5",
    "ClapFeatureExtractor": "-100",
    "Speech2TextFeatureExtractor": "-inf",
    "UnivNetFeatureExtractor": "-11.5",
    "LasrFeatureExtractor": "-11.5",
    "SeamlessM4TFeatureExtractor": "-0.00302",
    "Phi4MultimodalFeatureExtractor": "0",
    "VoxtralRealtimeFeatureExtractor": "-0.625",
}
BLACK = {
    "ViTImageProcessor": "-1",
    "ViltImageProcessor": "-1",
    "CLIPImageProcessor": "-1.79, -1.75, -1.48",
    "SegformerImageProcessor": "-2.12, -2.04, -1.8",
    "VivitImageProcessor": "-3",
}


def made(name: str) -> Any:
    return getattr(import_module("transformers"), name)()


def said(name: str) -> str:
    found = re.search(rf"^\| `{name}` \|.*?\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert found, name
    return found.group(1)


def silent(name: str) -> np.ndarray:
    extractor = made(name)
    rate = extractor.sampling_rate
    output = extractor(np.zeros(rate, dtype=np.float32), sampling_rate=rate, return_tensors="np")
    return np.asarray(output[next(iter(output.keys()))])


@pytest.mark.parametrize("name", SILENCE)
@pytest.mark.filterwarnings("ignore")
def test_silence_is_a_number_of_the_extractors_own(name: str) -> None:
    values = silent(name)
    assert {f"{value:.3g}" for value in (values.min(), values.max())} == {SILENCE[name]}
    assert said(name) == SILENCE[name]


@pytest.mark.parametrize("name", BLACK)
@pytest.mark.filterwarnings("ignore")
def test_black_is_not_zero(name: str) -> None:
    from PIL import Image

    pictures = np.asarray(made(name)(Image.new("RGB", (32, 32)), return_tensors="np")["pixel_values"])
    channels = pictures.reshape(-1, *pictures.shape[-3:])[0]
    values = list(dict.fromkeys(f"{channel.mean():.3g}" for channel in channels))
    assert ", ".join(values) == BLACK[name] == said(name)


@pytest.mark.filterwarnings("ignore")
def test_infinity_of_silence_is_refused_and_its_absence_served() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sound, self.rgb = nn.Linear(80, 2), nn.Linear(3, 2)

        def forward(self, sound: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
            return self.sound(sound).mean(1) + self.rgb(rgb)

    robust = ss.adapt(Sum(), {"sound": "98 80", "rgb": "3"}, untrained="pretrained").eval()
    sound, rgb = torch.from_numpy(silent("Speech2TextFeatureExtractor")).float(), torch.ones(1, 3)
    with pytest.raises(ss.InputError, match=r"input 'sound': expected finite numbers, .* say in `present`"):
        robust({"sound": sound, "rgb": rgb})
    assert bool(robust({"sound": sound, "rgb": rgb}, torch.tensor([[False, True]])).isfinite().all())


@pytest.mark.filterwarnings("ignore")
def test_the_check_tells_silence_of_whisper_from_zeros() -> None:
    modalities = ss.Modalities({"sound": "80 3000", "rgb": "3"})
    generator = np.random.default_rng(0)
    noise = [0.1 * generator.normal(size=16000).astype(np.float32) for _ in range(2)]
    features = made("WhisperFeatureExtractor")(noise, sampling_rate=16000, return_tensors="np")["input_features"]
    sound = torch.from_numpy(np.concatenate([features, silent("WhisperFeatureExtractor")])).float()
    data = [{"sound": sound, "rgb": torch.randn(3, 3)}]
    (fault,) = [fault for one in compare_stand_ins(Filling(modalities), data) for fault in one.faults]
    assert "1 of 3 rows that are called present hold -1.5 in 'sound' and nothing else" in fault


def test_statistics_of_complete_training_make_zeros_an_outlier_and_the_mean_none() -> None:
    """Sensors far from zero (degrees, heart rate): the first BatchNorm gives zeros as -mean / spread."""
    generator = torch.Generator().manual_seed(0)
    data = [
        {"heat": 37 + 0.5 * torch.randn(16, 1, 32, generator=generator), "rgb": torch.randn(16, 3, generator=generator)}
        for _ in range(20)
    ]
    norm = nn.BatchNorm1d(1, momentum=None)
    for batch in data:
        norm(batch["heat"])
    norm.eval()
    modalities = ss.Modalities({"heat": "1 32", "rgb": "3"})
    without = {"rgb": data[0]["rgb"]}
    found = {}
    for name, fill in (("zeros", "zeros"), ("mean", {"heat": ss.Mean(data)})):
        filled = Filling(modalities, fill)
        (stand_in,) = filled(ss.modalities.inputs.read(modalities, without))["heat"]
        (one, _) = compare_stand_ins(filled, data)
        found[name] = float(norm(stand_in).detach().abs().max()), bool(one.faults)
    assert found["zeros"][0] == pytest.approx(37 / 0.5, rel=0.05)
    assert found["zeros"][1]
    assert found["mean"] == (pytest.approx(0, abs=0.3), False)
