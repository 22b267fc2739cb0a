#!/usr/bin/env bash
# Masked tokens use up the places of Switch Transformers' experts: what the fill holds changes valid tokens.
#
# Expected   tokens that the attention mask hides change nothing about the others, wherever they stand.
# Found      the router knows no mask. An expert takes its first `expert_capacity` tokens; tokens in front of the text
#            that stand for a missing picture fill it, and later tokens skip their expert. The output of valid tokens
#            changes by more than 1 with the value of the fill. Behind the text the same tokens change nothing.
#            Mixtral's auxiliary loss is NaN where no token is valid.
# With       transformers 5.23.0, torch 2.13.0; random weights, seed 0; 2026-11-27
# Matters    tokens of modalities are put in front of the text in many networks; left padding does the same.
# Source     SwitchTransformersTop1Router: a cumulative sum over the sequence against expert_capacity; no mask is passed
#            to it.
# subsense   rows with what is missing get other outputs by fill and order; a check of a network should change the fill
#            under a mask that hides it and compare (the audit of stand-ins). `drop_absent` removes such tokens.

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
from transformers import MixtralConfig, MixtralForCausalLM, SwitchTransformersConfig, SwitchTransformersEncoderModel

transformers.logging.set_verbosity_error()
print("torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
network = SwitchTransformersEncoderModel(
    SwitchTransformersConfig(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_sparse_encoder_layers=2, num_heads=2,
        num_experts=2, expert_capacity=4, num_decoder_layers=1, num_sparse_decoder_layers=1,
    )
).eval()  # fmt: skip
tokens = torch.randn(1, 8, 16)
front = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])


@torch.no_grad()
def valid(mask, fill):
    filled = torch.where(mask[..., None].bool(), tokens, torch.tensor(fill))
    return network(inputs_embeds=filled, attention_mask=mask).last_hidden_state[mask.bool()]


changes = {}
for name, mask in {"in front": front, "behind": 1 - front}.items():
    changes[name] = max((valid(mask, fill) - valid(mask, 0.0)).abs().max().item() for fill in (1.0, -3.0))
    print(f"masked tokens {name:8}: valid tokens change by {changes[name]:.2g} with the fill")
assert changes["in front"] > 0.5
assert changes["behind"] < 1e-5

mixtral = MixtralForCausalLM(
    MixtralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )
)  # fmt: skip
words = torch.randint(0, 50, (2, 6))
loss = mixtral(words, attention_mask=torch.zeros(2, 6, dtype=torch.long), output_router_logits=True).aux_loss.item()
print("Mixtral's auxiliary loss, no token valid:", loss)
assert loss != loss
PY
