"""Multimodal language models as the transformers library ships them, random weights and toy sizes: cases of the survey.

What is missing is left out: no argument, no tower, no tokens in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import omni
from architectures import Architecture
from conformance.survey import Case
from subsense.integrations.transformers import LanguageModelCall

IMAGE, AUDIO, VIDEO, IMAGE_START, IMAGE_END, AUDIO_START, AUDIO_END = 61, 60, 62, 55, 56, 58, 59
WORDS = 5
LANGUAGE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = LANGUAGE | {"model_type": "llama"}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "initializer_range": 0.02,
}
FINE = VISION | {"patch_size": 4}


@dataclass(frozen=True)
class Talker(Architecture):
    """Hold a language model, and the prompt that its rows begin with.

    Attributes:
        prompt: the placeholders of its modalities; random words follow.
        whole: parts of modalities that are no random numbers.
    """

    prompt: tuple[int, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self, num_rows: int = 3, seed: int = 1) -> dict[str, Any]:
        """Draw a batch in which nothing is missing."""
        values = super().inputs(num_rows, seed)
        for parts in values.values():
            for name in parts.keys() & self.whole.keys():
                parts[name] = torch.tensor(self.whole[name]).expand_as(parts[name]).contiguous()
        words = values["text"]
        for name in words:
            if "mask" not in name:
                words[name][:, : len(self.prompt)] = torch.tensor(self.prompt)
        return values


def talker(
    make: Callable[[], nn.Module],
    modalities: Mapping[str, Mapping[str, str]],
    tokens: Mapping[str, list[int]],
    prompt: list[int],
    *,
    fill: Any = "omit",
    whole: Mapping[str, Any] | None = None,
    note: str = "",
    refused: str = "",
    options: Mapping[str, Any] | None = None,
    **call: Any,
) -> Case:
    """Give a case: a text is the prompt and five words, and without one the prompt and 5, 6, 7, 8, 9."""
    length = len(prompt) + WORDS
    text = {call.get("ids", "input_ids"): f"{length}:int64"}
    caller = LanguageModelCall(tokens, prompt=[*prompt, 5, 6, 7, 8, 9], **call)
    architecture = Talker(
        make, {"text": text} | dict(modalities), caller, scores=last, prompt=tuple(prompt), whole=whole or {}
    )
    return Case(architecture, {"fill": fill} | dict(options or {}), note=note, refused=refused, tolerance=1e-4)


def last(output: Any) -> Tensor:
    """Give the scores at the last words."""
    logits: Tensor = output.logits[:, -3:]
    return logits


def library(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """Say how to make a model of the library: its class, its config's, and what that is given."""

    def make() -> nn.Module:
        import transformers

        network: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.any():  # zeros at the start would hide what comes before
                nn.init.normal_(parameter, std=0.1)
        return network

    return make


MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
INTERLEAVED = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
WINDOWS = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "window_size": 8,
    "out_hidden_size": 16,
    "fullatt_block_indexes": [0],
}
DEEP = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "out_hidden_size": 16,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
VISION_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": IMAGE_START,
    "vision_end_token_id": IMAGE_END,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
CAPTIONS = {
    "text_config": {
        "model_type": "opt",
        "vocab_size": 64,
        "hidden_size": 16,
        "ffn_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 16,
    },
    "qformer_config": {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "encoder_hidden_size": 16,
        "cross_attention_frequency": 1,
    },
    "vision_config": VISION,
    "num_query_tokens": 4,
    "image_token_index": IMAGE,
}


def qwen(make: Callable[[], nn.Module], **options: Any) -> Case:
    """Give a case with packed patches: 4 x 4 patches of a picture in 4 tokens."""
    return talker(
        make,
        {"image": {"pixel_values": "16 96", "image_grid_thw": "1 3:int64"}},
        {"image": [IMAGE_START, IMAGE, IMAGE_END]},
        [1, IMAGE_START, *[IMAGE] * 4, IMAGE_END],
        whole={"image_grid_thw": [1, 4, 4]},
        packed=["pixel_values", "image_grid_thw"],
        types={"mm_token_type_ids": {IMAGE: 1}},
        **options,
    )


def seeing(make: Callable[[], nn.Module], places: int, pixels: str = "3 16 16", **options: Any) -> Case:
    """Give a case with one picture of so many tokens."""
    return talker(make, {"image": {"pixel_values": pixels}}, {"image": [IMAGE]}, [1, *[IMAGE] * places], **options)


LANGUAGE_MODELS = {
    "Qwen2.5-VL": qwen(
        library("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig",
                text_config=LANGUAGE | {"rope_parameters": MROPE}, vision_config=WINDOWS, **VISION_TOKENS),
    ),
    "Qwen3-VL": qwen(
        library("Qwen3VLForConditionalGeneration", "Qwen3VLConfig",
                text_config=LANGUAGE | {"head_dim": 8, "rope_parameters": INTERLEAVED}, vision_config=DEEP,
                **VISION_TOKENS),
    ),
    "Qwen3-VL, mixture of experts": qwen(
        library("Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeConfig",
                text_config=LANGUAGE | {"head_dim": 8, "rope_parameters": INTERLEAVED} | EXPERTS, vision_config=DEEP,
                **VISION_TOKENS),
        note="its experts' weights are packed; adapted as a whole",
    ),
    "Qwen2.5-Omni, thinker": talker(
        omni.thinker,
        {"image": {"pixel_values": "16 96", "image_grid_thw": "1 3:int64"},
         "audio": {"input_features": "16 40", "feature_attention_mask": "40:int64"}},
        {"image": [IMAGE_START, IMAGE, IMAGE_END], "audio": [AUDIO_START, AUDIO, AUDIO_END]},
        omni.PROMPT[:-3],
        whole={"image_grid_thw": [1, 4, 4], "feature_attention_mask": [1] * 40},
        packed=["pixel_values", "image_grid_thw"],
    ),
    "Gemma 3": seeing(
        library("Gemma3ForConditionalGeneration", "Gemma3Config",
                text_config=LANGUAGE | {"head_dim": 8, "sliding_window": 8}, vision_config=FINE,
                mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=IMAGE_START, eoi_token_index=IMAGE_END),
        4, types={"token_type_ids": {IMAGE: 1}},
    ),
    "PaliGemma": seeing(
        library("PaliGemmaForConditionalGeneration", "PaliGemmaConfig",
                text_config=LANGUAGE | {"model_type": "gemma", "head_dim": 8},
                vision_config=VISION | {"model_type": "siglip_vision_model"}, image_token_index=IMAGE,
                projection_dim=16, hidden_size=16),
        4, types={"token_type_ids": {}}, note="with `token_type_ids`: without, it depends on padding what a token sees",
    ),
    "LLaVA-NeXT": talker(
        library("LlavaNextForConditionalGeneration", "LlavaNextConfig", text_config=LLAMA,
                vision_config=VISION | {"projection_dim": 16, "model_type": "clip_vision_model"},
                image_token_index=IMAGE, image_grid_pinpoints=[[16, 16]], vision_feature_layer=-1),
        {"image": {"pixel_values": "2 3 16 16", "image_sizes": "2:int64"}},
        {"image": [IMAGE]}, [1, *[IMAGE] * 10], whole={"image_sizes": [16, 16]},
    ),
    "Idefics3": seeing(
        library("Idefics3ForConditionalGeneration", "Idefics3Config", text_config=LLAMA, vision_config=FINE,
                image_token_id=IMAGE, scale_factor=2, pad_token_id=0),
        4, "1 3 16 16",
    ),
    "SmolVLM": seeing(
        library("SmolVLMForConditionalGeneration", "SmolVLMConfig", text_config=LLAMA, vision_config=FINE,
                image_token_id=IMAGE, scale_factor=2, pad_token_id=0),
        4, "1 3 16 16", outputs=["logits"],
    ),
    "Florence-2": seeing(
        library("Florence2ForConditionalGeneration", "Florence2Config",
                text_config={"model_type": "bart", "vocab_size": 64, "d_model": 16, "encoder_layers": 1,
                             "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                             "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64},
                vision_config={"depths": [1], "embed_dim": [16], "num_heads": [2], "num_groups": [2],
                               "patch_size": [7], "patch_stride": [4], "patch_padding": [3], "patch_prenorm": [False],
                               "window_size": 4, "projection_dim": 16},
                image_token_id=IMAGE),
        17, fixed={"decoder_input_ids": [1, 5, 6]},
    ),
    "Kosmos-2": seeing(
        library("Kosmos2ForConditionalGeneration", "Kosmos2Config",
                text_config={"vocab_size": 64, "embed_dim": 16, "layers": 1, "ffn_dim": 16, "attention_heads": 2,
                             "max_position_embeddings": 64},
                vision_config=VISION, latent_query_num=4),
        4, types={"image_embeds_position_mask": {IMAGE: 1}}, fill={"text": "omit"}, note="as BLIP-2",
    ),
    "BLIP-2": seeing(
        library("Blip2ForConditionalGeneration", "Blip2Config", **CAPTIONS), 4, fill={"text": "omit"},
        note="it can't be called without a picture, which is filled with zeros",
    ),
    "InstructBLIP": seeing(
        library("InstructBlipForConditionalGeneration", "InstructBlipConfig", **CAPTIONS), 4, fill={"text": "omit"},
        fixed={"qformer_input_ids": [5, 6, 7]}, note="as BLIP-2; its instruction is the same in every row",
    ),
    "Granite-speech": talker(
        library("GraniteSpeechForConditionalGeneration", "GraniteSpeechConfig",
                text_config=LANGUAGE | {"model_type": "granite"},
                encoder_config={"input_dim": 16, "num_layers": 2, "hidden_dim": 16, "feedforward_mult": 2,
                                "num_heads": 2, "dim_head": 8, "output_dim": 8, "context_size": 8, "max_pos_emb": 8},
                projector_config={"model_type": "blip_2_qformer", "hidden_size": 16, "intermediate_size": 16,
                                  "num_hidden_layers": 1, "num_attention_heads": 2, "encoder_hidden_size": 16,
                                  "cross_attention_frequency": 1, "vocab_size": 8, "max_position_embeddings": 8},
                audio_token_index=AUDIO, window_size=8, downsample_rate=4, has_lora_adapter=False),
        {"audio": {"input_features": "16 16"}}, {"audio": [AUDIO]}, [1, *[AUDIO] * 4],
    ),
    "Phi-4-multimodal": talker(
        library("Phi4MultimodalForCausalLM", "Phi4MultimodalConfig", **LANGUAGE,
                vision_config=VISION | {"crop_size": 16, "image_token_id": IMAGE, "feature_layer": -1},
                audio_config={"hidden_size": 16, "intermediate_size": 16, "num_blocks": 1, "num_attention_heads": 2,
                              "input_size": 16, "nemo_conv_channels": 8, "ext_pw_out_channel": 16,
                              "depthwise_separable_out_channel": 16, "audio_token_id": AUDIO, "time_reduction": 8,
                              "bias_max_distance": 8}),
        {"audio": {"audio_input_features": "32 16", "audio_embed_sizes": ":int64"}},
        {"audio": [AUDIO]}, [1, *[AUDIO] * 4], whole={"audio_embed_sizes": 4},
        options={"exclude": ["model.embed_tokens_extend.image_embed.*", "*_for_vision_speech"]},
        note="text and sound, without its picture tower",
    ),
    "Whisper": talker(
        library("WhisperForConditionalGeneration", "WhisperConfig", vocab_size=64, d_model=16, encoder_layers=1,
                decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
                decoder_ffn_dim=16, num_mel_bins=16, max_source_positions=20, max_target_positions=32,
                pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
        {"audio": {"input_features": "16 40"}}, {}, [1], fill={"text": "omit"},
        ids="decoder_input_ids", mask="decoder_attention_mask",
        note="it can't be called without sound, which is filled with zeros",
    ),
    "Janus": seeing(
        library("JanusForConditionalGeneration", "JanusConfig", text_config=LLAMA,
                vision_config=VISION | {"projection_dim": 16, "num_image_tokens": 4, "depth": 1, "mlp_ratio": 1},
                vq_config={"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1],
                           "num_res_blocks": 1, "num_patches": 4, "latent_channels": 8, "image_token_embed_dim": 16,
                           "projection_dim": 16},
                image_token_id=IMAGE),
        4, options={"include": ["model.vision_model.*", "model.aligner.*", "model.language_model.*", "lm_head"]},
        note="without its generator of pictures, which reading one doesn't call",
    ),
    "Llama 4": seeing(
        library("Llama4ForConditionalGeneration", "Llama4Config",
                text_config=LANGUAGE | {"head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 2,
                                        "attention_chunk_size": 16,
                                        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
                vision_config={"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1,
                               "num_attention_heads": 2, "image_size": 16, "patch_size": 4, "projector_input_dim": 16,
                               "projector_output_dim": 16, "vision_output_dim": 16,
                               "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
                image_token_index=IMAGE),
        4, note="its experts' weights are packed; adapted as a whole",
    ),
}  # fmt: skip

WITH_TIMM = {
    "transformers: Gemma 3n": talker(
        library("Gemma3nForConditionalGeneration", "Gemma3nConfig",
                text_config=LANGUAGE | {"vocab_size": 80, "vocab_size_per_layer_input": 64, "head_dim": 8,
                                        "hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 4,
                                        "num_kv_shared_layers": 0, "sliding_window": 8,
                                        "layer_types": ["sliding_attention", "full_attention"],
                                        "activation_sparsity_pattern": [0.0, 0.0]},
                vision_config={"architecture": "test_convnext", "hidden_size": 64, "vocab_size": 8,
                               "vocab_offset": 64},
                audio_config={"vocab_size": 8, "vocab_offset": 72, "input_feat_size": 16, "hidden_size": 16,
                              "conf_attention_chunk_size": 4, "conf_attention_context_left": 5,
                              "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1,
                              "sscp_conv_channel_size": [8, 4]},
                audio_soft_tokens_per_image=2, vision_soft_tokens_per_image=4, image_token_id=65, audio_token_id=73,
                boi_token_id=55, eoi_token_id=56, boa_token_id=58, eoa_token_id=59),
        {"image": {"pixel_values": "3 64 64"}, "audio": {"input_features": "32 16", "input_features_mask": "32:bool"}},
        {"image": [65], "audio": [73]}, [1, *[65] * 4, *[73] * 2], whole={"input_features_mask": True},
        options={"exclude": ["model.vision_tower.timm_model.head.norm"]},
        note="a small ConvNeXt of timm's in the place of its MobileNet-v5; its last norm is never called, and left out",
    ),
}  # fmt: skip
"""What needs timm, too: the tower for pictures is one of its networks."""
