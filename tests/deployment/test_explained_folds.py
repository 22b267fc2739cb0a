"""A fold that gives other numbers says why, where the cause is known, and the advice helps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss

SPEC = {"rgb": "3", "text": {"x": "5 8", "attention_mask": "5:int64"}}


class Reads(nn.Module):
    """Read what a default encoder gives for every token, masked ones too."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.rgb = nn.TransformerEncoder(layer, 1, **options), nn.Linear(3, 4)
        self.head = nn.Linear(40, 4)

    def forward(self, rgb: Tensor, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.rgb(rgb) + self.head(self.encoder(x, src_key_padding_mask=attention_mask == 0).flatten(1))


def stirred(network: nn.Module) -> ss.RobustModel:
    robust = ss.adapt(network, SPEC, call={"text": ["x", "attention_mask"]})
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter += 0.1
    robust.mark_trained(robust.combinations)
    return robust.eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_zeros_for_masked_tokens_are_named() -> None:
    with pytest.raises(ss.FoldError, match=r"hooks encoder \(TransformerEncoder\) .* enable_nested_tensor=False"):
        ss.fold(stirred(Reads()), "rgb", example={"rgb": torch.ones(2, 3)})


def test_an_encoder_built_as_advised_folds() -> None:
    ss.fold(stirred(Reads(enable_nested_tensor=False)), "rgb", example={"rgb": torch.ones(2, 3)})
