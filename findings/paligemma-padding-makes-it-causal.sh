#!/usr/bin/env bash
# Without token_type_ids, which may be left out, PaliGemma's scores depend on whether anything in the batch is padded.
#
# Expected   a row's scores are the same alone and beside a longer, padded row, with "sdpa" (the default), with "eager", and
#            in what torch.export makes of it.
# Found      without padding "sdpa" gets no mask, and the prompt attends in both directions; one padded position in any
#            row, "eager", or torch.export, and it is causal for all rows. Scores of the same unpadded row change by more
#            than 0.5 of the greatest score.
# With       transformers 5.23.0, torch 2.13.0; random weights, seed 0; 2026-11-27
# Matters    prompts with and without a picture are padded to one length; an answer then depends on what lies beside it.
# Source     PaliGemmaConfig sets use_bidirectional_attention, so its attention has is_causal = False; create_causal_mask
#            leaves the mask out where nothing is padded. The processor returns token_type_ids, whose mask is right.
# subsense   `LanguageModelCall(..., types={"token_type_ids": {}})` makes them, zeros, so that every row is computed in one
#            way; without, `fold(..., drop_absent=True)` is refused, since the graph gives other numbers.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

transformers.logging.set_verbosity_error()
print("torch", torch.__version__, "transformers", transformers.__version__)


def make(attention):
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
        },
        image_token_index=61, projection_dim=16, hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    network = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network


class Scores(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input_ids, attention_mask, pixel_values):
        return self.network(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, use_cache=False
        ).logits


row = torch.tensor([[61, 61, 61, 61, 1, 5, 6, 7, 8]])
beside = torch.cat([row, torch.tensor([[0, 61, 61, 61, 61, 1, 5, 6, 7]])])
pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
alone = {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": pixels}
padded = {"input_ids": beside, "attention_mask": (beside != 0).long(), "pixel_values": pixels.repeat(2, 1, 1, 1)}

found, later = {}, {}
with torch.no_grad():
    for attention in ("eager", "sdpa"):
        scores = Scores(make(attention))
        found[attention, "alone"] = scores(**alone)
        found[attention, "beside a padded row"] = scores(**padded)[:1]
        found[attention, "alone, exported"] = torch.export.export(scores, (), alone).module()(**alone)
        other = alone | {"input_ids": torch.tensor([[61, 61, 61, 61, 1, 5, 6, 7, 20]])}
        later[attention] = (found[attention, "alone"] - scores(**other))[:, 0].abs().max().item()
reference = found["eager", "alone"]
off = {key: ((one - reference).abs().max() / reference.abs().max()).item() for key, one in found.items()}
for (attention, how), by in off.items():
    print(f"{attention:5} {how:20} differs from eager, alone, by {by:.2g} of the greatest score")
for attention, by in later.items():
    print(f"{attention:5} the first token's scores change by {by:.2g} with the last token")
assert off.pop(("sdpa", "alone")) > 0.5
assert max(off.values()) < 1e-5
assert later["eager"] == 0 and later["sdpa"] > 0.1
PY
