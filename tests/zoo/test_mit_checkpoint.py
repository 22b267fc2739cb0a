"""SegFormer's encoders from files, against transformers' own SegFormer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from subsense.errors import DamagedFile, ForeignTensor, MissingFile
from subsense.zoo import build
from subsense.zoo.cmnext import CMNeXt
from subsense.zoo.mit_checkpoint import ENCODER, published_names

NAMES = ["rgb", "depth"]


def cmnext(seed: int, **options: object) -> CMNeXt:
    torch.manual_seed(seed)
    network = build("cmnext", modalities=NAMES, num_classes=3, variant="B0", **options)
    assert isinstance(network, CMNeXt)
    return network


def encoder(network: CMNeXt) -> dict[str, Tensor]:
    """Give the colour encoder's weights under the names of SegFormer's authors."""
    return {name: tensor for name, tensor in network.backbone.state_dict().items() if ENCODER.match(name)}


def rest(network: CMNeXt) -> dict[str, Tensor]:
    taken = {f"backbone.{name}" for name in encoder(network)}
    return {name: tensor for name, tensor in network.state_dict().items() if name not in taken}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_reads_the_authors_files_into_the_colour_encoder_alone(tmp_path: Path, nested: bool, prefix: str) -> None:
    weights = {f"{prefix}{name}": tensor for name, tensor in encoder(cmnext(1)).items()}
    weights |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save({"state_dict": weights} if nested else weights, tmp_path / "mit_b0.pth")
    loaded = cmnext(2, encoder=tmp_path / "mit_b0.pth")
    assert_equal(encoder(loaded), encoder(cmnext(1)))
    assert_equal(rest(loaded), rest(cmnext(2)))


@pytest.mark.parametrize("bare", [False, True])
def test_computes_what_transformers_segformer_does(tmp_path: Path, bare: bool) -> None:
    from transformers import SegformerConfig, SegformerForImageClassification, SegformerModel

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[32, 64, 160, 256], layer_norm_eps=1e-5, initializer_range=0.2
    )
    theirs = (SegformerModel if bare else SegformerForImageClassification)(config).eval()
    theirs.save_pretrained(tmp_path)
    network = cmnext(2, encoder=tmp_path / "model.safetensors").eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states[-4:]
        found = [image]
        for stage in range(4):
            found.append(network.backbone._encode(stage, found[-1]))
    for one, other in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_names_of_both_kinds_are_the_same_names(tmp_path: Path) -> None:
    own = encoder(cmnext(1))
    assert list(published_names(own)) == list(own)


def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    own = encoder(cmnext(1))
    lacking = {name: tensor for name, tensor in own.items() if name != "block3.1.attn.kv.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(ForeignTensor, match=r"the colour encoder: lacks block3.1.attn.kv.bias$"):
        cmnext(2, encoder=tmp_path / "lacking.safetensors")
    save_file(own | {"block3.2.attn.kv.bias": torch.zeros(320)}, tmp_path / "larger.safetensors")
    with pytest.raises(ForeignTensor, match=r"has block3.2.attn.kv.bias, which the network has not\."):
        cmnext(2, encoder=tmp_path / "larger.safetensors")
    save_file(own | {"norm4.bias": torch.zeros(512)}, tmp_path / "wider.safetensors")
    with pytest.raises(ForeignTensor, match=r"norm4.bias: expected \(256,\), but found \(512,\)"):
        cmnext(2, encoder=tmp_path / "wider.safetensors")


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"mit_b0.pth: no such file"):
        cmnext(2, encoder=tmp_path / "mit_b0.pth")
    (tmp_path / "mit_b0.pth").write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"mit_b0.pth"):
        cmnext(2, encoder=tmp_path / "mit_b0.pth")


def test_transformers_files_lacking_a_value_are_refused(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerModel

    SegformerModel(SegformerConfig(hidden_sizes=[32, 64, 160, 256])).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    [name] = [name for name in weights if name.endswith("block.0.0.attention.self.value.weight")]
    del weights[name]
    save_file(weights, tmp_path / "lacking.safetensors")
    with pytest.raises(ForeignTensor, match=r"block1.0.attn.kv.weight: expected \(64, 32\), but found \(32, 32\)"):
        cmnext(2, encoder=tmp_path / "lacking.safetensors")
