"""A tiny language model with text, image and audio, random weights: transformers' Qwen2.5-Omni thinker."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subsense.integrations.transformers import LanguageModelCall

AUDIO, IMAGE, VIDEO = 60, 61, 62
AUDIO_START, AUDIO_END, IMAGE_START, IMAGE_END = 58, 59, 55, 56
PATCH = 3 * 2 * 4 * 4
MODALITIES = {
    "text": {"input_ids": "L:int64", "attention_mask": "L:int64"},
    "image": {"pixel_values": "16 96", "image_grid_thw": "1 3:int64"},
    "audio": {"input_features": "16 40", "feature_attention_mask": "40:int64"},
}
AUDIO_TOKENS, IMAGE_TOKENS = 10, 4
PROMPT = [1, IMAGE_START, *[IMAGE] * IMAGE_TOKENS, IMAGE_END, AUDIO_START, *[AUDIO] * AUDIO_TOKENS, AUDIO_END, 5, 6, 7]


def thinker() -> nn.Module:
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
                      "d_model": 16, "max_source_positions": 30, "n_window": 20, "output_dim": 16},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
                       "temporal_patch_size": 2, "window_size": 8, "out_hidden_size": 16, "fullatt_block_indexes": [0]},
        text_config={"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        audio_token_index=AUDIO, image_token_index=IMAGE, video_token_index=VIDEO,
        audio_start_token_id=AUDIO_START, audio_end_token_id=AUDIO_END, vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
    )  # fmt: skip
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


def call() -> LanguageModelCall:
    return LanguageModelCall(
        {"image": [IMAGE_START, IMAGE, IMAGE_END], "audio": [AUDIO_START, AUDIO, AUDIO_END]},
        prompt=PROMPT,
        packed=["pixel_values", "image_grid_thw"],
        length=24,
    )


def inputs(rows: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 50, (rows, 5), generator=generator)
    ids = torch.cat([torch.tensor(PROMPT[:-3]).expand(rows, -1), words], 1)
    return {
        "text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "image": {
            "pixel_values": torch.randn(rows, 16, PATCH, generator=generator),
            "image_grid_thw": torch.tensor([1, 4, 4]).expand(rows, 1, 3).contiguous(),
        },
        "audio": {
            "input_features": torch.randn(rows, 16, 40, generator=generator),
            "feature_attention_mask": torch.ones(rows, 40, dtype=torch.int64),
        },
    }


def last(output: Any) -> Tensor:
    logits: Tensor = output.logits[:, -1]
    return logits
