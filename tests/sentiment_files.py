"""Small files of CMU-MOSI and CMU-MOSEI in the layout of their releases."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = {"train": 24, "valid": 6, "test": 12}


def mult_release(shapes: dict[str, tuple[int, int]], *, texts: bool = False) -> dict[str, Any]:
    """Make what MulT's files hold; ids are bytes for CMU-MOSI, texts for CMU-MOSEI."""
    draw = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in COUNTS.items():
        features, labels = _drawn(draw, count, shapes)
        ids = [[f"{split}-{row // 3}", f"{row}.0", f"{row + 1}.5"] for row in range(count)]
        content[split] = {
            **features,
            "labels": labels[:, None, None],
            "id": np.array(ids if texts else [[one.encode() for one in row] for row in ids], object),
        }
    return content


def mmsa_release(shapes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Make what MMSA's files hold."""
    draw = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in COUNTS.items():
        features, labels = _drawn(draw, count, shapes)
        length = shapes["text"][0]
        content[split] = {
            "raw_text": np.array([f"UTTERANCE {row}" for row in range(count)]),
            **features,
            "text_bert": draw.integers(0, 30000, (count, 3, length)).astype(np.float32),
            "id": [f"{split}-{row // 3}$_${row}" for row in range(count)],
            "annotations": ["Positive" if label > 0 else "Negative" for label in labels],
            "classification_labels": (labels > 0).astype(np.int64),
            "regression_labels": labels,
            "audio_lengths": [shapes["audio"][0]] * count,
            "vision_lengths": [shapes["vision"][0]] * count,
        }
    return content


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """Write a release's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def _drawn(draw: Any, count: int, shapes: dict[str, tuple[int, int]]) -> tuple[dict[str, Any], Any]:
    labels = np.round(draw.uniform(-3, 3, count) * 5) / 5
    features = {name: draw.standard_normal((count, *shape)) for name, shape in shapes.items()}
    features["text"][:, :, 0] += labels[:, None]
    features["audio"] = features["audio"].astype(np.float32)
    features["audio"][0, 0, 0] = -np.inf
    return features, labels.astype(np.float32)
