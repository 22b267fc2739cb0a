"""LoRA sets to and from peft's files, held against peft itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import subsense as ss
from networks import draw, make, only, with_sets
from subsense.integrations.peft import from_peft, to_peft

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
INCLUDE = {"towers": ["left", "right", "head"], "cameras": ["stems.*", "fuse.2"]}


def adapted(name: str, sharing: str = "independent", include: Any = ("*",), **options: Any) -> ss.RobustModel:
    network, arguments = make(name)
    method = ss.LoRA(**{"rank": 2, "alpha": 3.0} | options)
    return ss.adapt(network, method=method, sharing=sharing, include=include, **arguments)


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_peft_computes_what_the_adapted_network_computes(sharing: str, tmp_path: Path) -> None:
    robust = with_sets(adapted("towers", sharing, INCLUDE["towers"]))
    inputs = only(draw({"left": "4", "right": "6"}), ["left"])
    with torch.no_grad():
        expected = robust(inputs)
    args, kwargs = ss.prepare(robust, inputs)
    to_peft(robust, "left", tmp_path / "left", base_model="towers")
    network = robust.detach()
    with torch.no_grad():
        before = network(*args, **kwargs)
        other = peft.PeftModel.from_pretrained(network, tmp_path / "left").eval()
        found = other(*args, **kwargs)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_convolutions_too(tmp_path: Path) -> None:
    robust = with_sets(adapted("cameras", include=["stems.*"]))
    inputs = only(draw({"rgb": "3 H W", "depth": "1 H W", "infrared": "1 H W"}), ["rgb"])
    with torch.no_grad():
        expected = robust(inputs)
    args, kwargs = ss.prepare(robust, inputs)
    to_peft(robust, "rgb", tmp_path)
    other = peft.PeftModel.from_pretrained(robust.detach(), tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(other(*args, **kwargs), expected, atol=1e-5)


def test_a_lora_that_peft_trained_is_taken_in(tmp_path: Path) -> None:
    network, _ = make("towers")
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["left", "head"])
    other = peft.get_peft_model(network, config).eval()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_" in name:
                parameter.normal_()
        inputs = draw({"left": "4", "right": "6"})
        expected = other(left=inputs["left"], right=torch.zeros(4, 6))
    other.save_pretrained(tmp_path)
    robust = adapted("towers", include=INCLUDE["towers"])
    from_peft(robust, "left", tmp_path)
    assert [str(one) for one in robust.trained] == ["left"]
    with torch.no_grad():
        assert torch.allclose(robust.eval()({"left": inputs["left"]}), expected, atol=1e-6)


def test_there_and_back_is_the_same(tmp_path: Path) -> None:
    one, other = with_sets(adapted("towers", include=INCLUDE["towers"])), adapted("towers", include=INCLUDE["towers"])
    for combination in one.combinations:
        from_peft(other, combination, to_peft(one, combination, tmp_path / str(combination)))
    inputs = draw({"left": "4", "right": "6"})
    for name in ("left", "right"):
        with torch.no_grad():
            assert torch.equal(one(only(inputs, [name])), other.eval()(only(inputs, [name])))


def test_what_peft_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ss.PlanError, match=r"has no place in peft's LoRA .* exclude=\['encoder.layers.0.self_attn"):
        to_peft(with_sets(adapted("sequences", include=["encoder.layers.0.self_attn*"])), "words", tmp_path / "a")
    with pytest.raises(ss.PlanError, match=r"up.*has no place in peft's LoRA"):
        to_peft(with_sets(adapted("cameras", include=["up"])), "rgb", tmp_path / "b")
    network, arguments = make("towers")
    with pytest.raises(ss.PlanError, match="expected LoRA alone, but left has ssf"):
        to_peft(with_sets(ss.adapt(network, **arguments)), "left", tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"r": 3}, ss.CheckpointError, "expected r to be 2, but found 3"),
        ({"use_dora": True}, ss.CheckpointError, "expected use_dora to be False"),
        ({"lora_alpha": 2}, ss.CheckpointError, "expected lora_alpha to be 3.0"),
    ],
)
def test_another_adapter_is_refused(change: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    folder = to_peft(with_sets(adapted("towers", include=INCLUDE["towers"])), "left", tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(error, match=said):
        from_peft(adapted("towers", include=INCLUDE["towers"]), "left", folder)


def test_a_module_that_is_no_site_is_named_and_nothing_is_taken(tmp_path: Path) -> None:
    folder = to_peft(with_sets(adapted("towers", include=INCLUDE["towers"])), "left", tmp_path)
    robust = adapted("towers", include=["left"])
    before = {name: value.clone() for name, value in robust.adapter_parameters().items()}
    with pytest.raises(ss.ForeignTensor, match=r"head\.lora_A\.weight"):
        from_peft(robust, "left", folder)
    assert all(torch.equal(value, before[name]) for name, value in robust.adapter_parameters().items())
    assert robust.trained == ()
    assert isinstance(robust.network, nn.Module)
