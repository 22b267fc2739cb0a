"""A folded transformers network comes back from its files as it was folded, or `save_pretrained` says no."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense import FoldError

transformers = pytest.importorskip("transformers")

SPEC = {"text": "5 16", "image": "3 16"}
INPUTS = {"text": torch.randn(2, 5, 16)}


def llama(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=20, num_key_value_heads=2, **sizes, **options)
    network: nn.Module = transformers.LlamaForCausalLM(config).eval()
    return network


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    network: nn.Module = transformers.T5EncoderModel(config).eval()
    return network


def call(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = network(inputs_embeds=torch.cat([inputs["text"], inputs["image"]], 1))
    result: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return result


def folded(network: nn.Module, **options: Any) -> nn.Module:
    robust = ss.adapt(network, SPEC, call=call, **options)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.3)
    robust.mark_trained("all")
    return ss.fold(robust, "text", example=INPUTS)


def answer(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return call(network, {**INPUTS, "image": torch.zeros(2, 3, 16)})


@pytest.mark.parametrize("make", [llama, t5])
def test_a_fold_with_biases_that_its_class_lacks_is_not_kept(make: Any, tmp_path: Path) -> None:
    plain = folded(make())
    for network in (plain, copy.deepcopy(plain)):
        with pytest.raises(FoldError, match=r"from_pretrained would drop them: .*bias.*scale.*bitfit"):
            network.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (llama, "scale"),
        (t5, "lora"),
        (lambda: llama(attention_bias=True), ["scale", "bitfit"]),
        (lambda: llama(attention_bias=True, mlp_bias=True), "lora"),
    ],
)
def test_what_needs_no_bias_comes_back(make: Any, method: Any, tmp_path: Path) -> None:
    plain = folded(make(), method=method)
    plain.save_pretrained(tmp_path)
    back = type(plain).from_pretrained(tmp_path)
    torch.testing.assert_close(answer(back), answer(plain), rtol=1e-6, atol=1e-6)


def test_the_fold_itself_takes_its_tensors_back(tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    plain = folded(llama())
    again = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    save_model(plain, str(tmp_path / "plain.safetensors"))
    load_model(again, tmp_path / "plain.safetensors")
    assert torch.equal(answer(again), answer(plain))


def test_tied_weights_that_were_folded_apart_are_not_kept(tmp_path: Path) -> None:
    plain = folded(llama(tie_word_embeddings=True), method="scale")
    with pytest.raises(FoldError, match=r"tie them again: .*lm_head\.weight.*exclude"):
        plain.save_pretrained(tmp_path)
    plain = folded(llama(tie_word_embeddings=True), method="scale", exclude=["lm_head"])
    plain.save_pretrained(tmp_path)
    back = type(plain).from_pretrained(tmp_path)
    torch.testing.assert_close(answer(back), answer(plain), rtol=1e-6, atol=1e-6)
