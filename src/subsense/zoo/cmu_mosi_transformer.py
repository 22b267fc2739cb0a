"""One token per modality and a transformer layer between them, for `cmu-mosi`.

Idea: self-attention over one token per modality, as in the fusion stage of MISA, D. Hazarika, R. Zimmermann, S. Poria,
ACM Multimedia 2020 (arXiv 2005.03545); no cross-modal encoders as in MulT, for there is no sequence here.
Code: written for subsense, Apache-2.0. No published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = {"text": 100, "audio": 73, "video": 100}


class CMUMOSITransformer(nn.Module):
    """Tell negative from positive utterances from one feature vector per modality.

    Args:
        num_classes: number of classes.
        width: size of a token, a multiple of 4.
        num_layers: number of transformer layers.
        dropout: rate on the features, and inside the transformer.

    >>> CMUMOSITransformer()(torch.zeros(2, 100), torch.zeros(2, 73), torch.zeros(2, 100)).shape
    torch.Size([2, 2])
    """

    def __init__(self, num_classes: int = 2, width: int = 32, num_layers: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: _encoder(size, width, dropout) for name, size in FEATURES.items()})
        self.position = nn.Parameter(0.02 * torch.randn(len(FEATURES), width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.fusion = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, text: Tensor, audio: Tensor, video: Tensor) -> Tensor:
        """Score the classes: (batch, 100), (batch, 73), (batch, 100) -> (batch, num_classes)."""
        inputs = {"text": text, "audio": audio, "video": video}
        tokens = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()], dim=1)
        fused = self.fusion(tokens + self.position)
        scores: Tensor = self.head(self.norm(fused.mean(dim=1)))
        return scores


def _encoder(num_features: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, width), nn.LayerNorm(width), nn.GELU())
