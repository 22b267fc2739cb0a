"""What is saved comes back; what does not fit is refused by its own error, with the network untouched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from networks import METHODS, NETWORKS, SHARINGS, TOWERS, draw, make, only, snapshot, with_sets
from subsense import (
    CheckpointError,
    Constant,
    DamagedFile,
    ForeignTensor,
    LayerClass,
    LoRA,
    Mean,
    MissingFile,
    OtherModalities,
    OtherNetwork,
    PlanError,
    RobustModel,
    UntrainedCombination,
    adapt,
    load,
    save,
)
from subsense.model.fingerprint import fingerprint
from subsense.model.manifest import seal
from subsense.support.files import checksum_of_bytes

INPUTS = draw(TOWERS)


def saved(folder: Path, seed: int = 0, **options: Any) -> nn.Module:
    """Save the sets of a model of `Towers`, and give another copy of its network."""
    save(with_sets(adapt(make("towers")[0], TOWERS, **options), seed), folder)
    return make("towers")[0]


def outputs(robust: RobustModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [robust(only(inputs, one)) for one in robust.combinations]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_is_saved_comes_back(tmp_path: Path, sharing: str, method: Any) -> None:
    network, options = make("towers")
    robust = with_sets(adapt(network, **options, sharing=sharing, method=method, fill="learned"))
    save(robust, tmp_path / "new" / "folder")
    before = snapshot(robust.detach())
    robust = adapt(network, **options)  # another model of the same network must be detached first
    with pytest.raises(PlanError, match="adapted already"):
        load(tmp_path / "new" / "folder", network)
    assert snapshot(robust.detach()) == before
    again = load(tmp_path / "new" / "folder", network)
    expected = with_sets(adapt(make("towers")[0], **options, sharing=sharing, method=method, fill="learned"))
    for one, other in zip(outputs(again, INPUTS), outputs(expected, INPUTS), strict=True):
        assert torch.equal(one, other)
    assert again.trained == expected.trained
    assert again.plan == expected.plan
    assert again.modalities == expected.modalities


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back(tmp_path: Path, name: str) -> None:
    network, options = make(name)
    inputs = draw(options["modalities"])
    robust = with_sets(adapt(network, **options, method=["ssf", LoRA(rank=2, alpha=3)]))
    expected = outputs(robust, inputs)
    save(robust, tmp_path)
    with pytest.raises(PlanError, match="adapted already; call detach"):
        load(tmp_path, network)
    assert all(
        torch.equal(*pair) for pair in zip(outputs(load(tmp_path, make(name)[0]), inputs), expected, strict=True)
    )


def test_every_option_comes_back(tmp_path: Path) -> None:
    network, options = make("cameras")
    robust = adapt(
        network,
        **options,
        method=LoRA(rank=3, alpha=2),
        combinations=["depth", "rgb+infrared"],
        untrained="nearest",
        fill={"rgb": Mean([draw(options["modalities"])]), "depth": "learned", "infrared": Constant(0.7, "warm")},
        include=["stems.*", "up"],
        exclude=["stems.1"],
    )
    robust.mark_trained(["depth"])
    save(robust, tmp_path)
    again = load(tmp_path, make("cameras")[0])
    assert [str(one) for one in again.combinations] == ["depth", "rgb+infrared"]
    assert [str(one) for one in again.trained] == ["depth"]
    assert [site.key for site in again.plan.sites] == ["stems.0", "stems.2", "up"]
    assert again.plan.adapters == (LoRA(rank=3, alpha=2),)
    assert again.fill.kinds == {"rgb": "mean", "depth": "learned", "infrared": "warm"}
    for name in ("fill.rgb.rgb", "fill.infrared.infrared"):
        assert torch.equal(again.fill.stand_ins()[name], robust.fill.stand_ins()[name])
    assert bool((again.fill.stand_ins()["fill.infrared.infrared"] == 0.7).all())
    assert (again.call, again.router.untrained, again.sharing) == (robust.call, "nearest", "independent")
    strict = load(tmp_path, make("cameras")[0], untrained="error")
    with pytest.raises(UntrainedCombination):
        strict(only(draw(options["modalities"]), ["rgb"]))


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Tied(nn.Module):
    """Two layers with one weight, names with a slash, and a layer class of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({"a/1": nn.Linear(4, 5), "b/1": nn.Linear(4, 5)})
        self.encoders["b/1"].weight = self.encoders["a/1"].weight
        self.gain = Gain()

    def forward(self, ids: Tensor, types: Tensor, image: Tensor) -> Tensor:
        return self.gain(self.encoders["a/1"](ids + types) + self.encoders["b/1"](image))


TIED: dict[str, Any] = {
    "modalities": {"text": "4", "image": "4"},
    "call": {"text": ["ids", "types"], "image": "image"},
    "layers": [LayerClass(Gain, kind="norm", axis=-1, bias=None)],
}


def test_tied_weights_declared_layers_and_several_arguments_come_back(tmp_path: Path) -> None:
    robust = with_sets(adapt(Tied(), **TIED))
    inputs = {"text": {"ids": torch.randn(3, 4), "types": torch.randn(3, 4)}, "image": torch.randn(3, 4)}
    save(robust, tmp_path)
    again = load(tmp_path, Tied(), modalities=TIED["modalities"])
    assert again.plan == robust.plan
    assert again.plan.sites[0].modules == ("encoders.a/1", "encoders.b/1")
    for name in inputs:
        assert torch.equal(again({name: inputs[name]}), robust({name: inputs[name]}))


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    saved(tmp_path, seed=1)
    network = saved(tmp_path, seed=2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    expected = outputs(with_sets(adapt(make("towers")[0], TOWERS), seed=2), INPUTS)
    assert all(torch.equal(*pair) for pair in zip(outputs(load(tmp_path, network), INPUTS), expected, strict=True))


def test_files_hold_json_and_raw_numbers_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, fill="learned", method=["ssf", "lora"])
    manifest, tensors = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    assert manifest.name == "manifest.json"
    assert json.loads(manifest.read_text())["tensors"] == tensors.name
    data = tensors.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    spans = sorted(entry["data_offsets"] for entry in json.loads(data[8:start]).values())
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert start + spans[-1][1] == len(data)


# Killed while saving


class Killed(BaseException):
    """Stand for a signal: nothing catches it."""


def kill(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, count: int) -> None:
    """Let the call number `count` of a function be the last thing that happens."""
    real, calls = getattr(module, name), iter(range(count))

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_kill_while_saving_leaves_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    network = saved(tmp_path, seed=1)
    with monkeypatch.context() as patched:
        kill(patched, os, name, count)
        with pytest.raises(Killed):
            saved(tmp_path, seed=2)
    expected = outputs(with_sets(adapt(make("towers")[0], TOWERS), seed=1), INPUTS)
    assert all(torch.equal(*pair) for pair in zip(outputs(load(tmp_path, network), INPUTS), expected, strict=True))
    saved(tmp_path, seed=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_after_the_last_step_leaves_the_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = saved(tmp_path, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            saved(tmp_path, seed=2)
    expected = outputs(with_sets(adapt(make("towers")[0], TOWERS), seed=2), INPUTS)
    assert all(torch.equal(*pair) for pair in zip(outputs(load(tmp_path, network), INPUTS), expected, strict=True))


# What does not fit


def edit(**entries: Any) -> Callable[[Path], None]:
    """Change a manifest as somebody would who knows how to make it fit."""

    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        data = json.loads(path.read_text()) | entries
        del data["checksum"]
        path.write_bytes(seal(data))

    return change


def rewrite(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        tensors = load_file(path)
        change(tensors)
        data = to_bytes(tensors)
        path.unlink()
        name = f"adapters-{checksum_of_bytes(data)}.safetensors"
        (folder / name).write_bytes(data)
        edit(tensors=name)(folder)

    return apply


def swap(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace(old, new))

    return change


def truncate(pattern: str, part: float) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])

    return apply


def remove(pattern: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return apply


FAULTS: dict[str, tuple[Callable[[Path], Any], type[CheckpointError], str]] = {
    "no manifest": (remove("*.json"), MissingFile, r"manifest.json: missing; .* holds \['adapters-"),
    "no tensors": (remove("*.safetensors"), MissingFile, r"adapters-.*: missing; .* holds \['manifest.json'\]"),
    "empty manifest": (truncate("*.json", 0), DamagedFile, "manifest.json: expected JSON"),
    "half a manifest": (truncate("*.json", 0.5), DamagedFile, "manifest.json: expected JSON"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), DamagedFile, "expected JSON as"),
    "binary": (lambda folder: (folder / "manifest.json").write_bytes(b"\x80\x04\xff"), DamagedFile, "expected JSON as"),
    "an entry too many": (edit(extra=1), DamagedFile, "not a manifest of adapter sets: extra: Extra inputs"),
    "an entry of another kind": (edit(sites=3, sharing=[]), DamagedFile, "sharing: .*sites: "),
    "no tensor at all": (truncate("*.safetensors", 0), DamagedFile, "truncated or damaged"),
    "half of the tensors": (truncate("*.safetensors", 0.5), DamagedFile, "truncated or damaged"),
    "all but the last byte": (truncate("*.safetensors", 0.9999), DamagedFile, "truncated or damaged"),
    "a later format": (
        edit(format=4),
        CheckpointError,
        "format 4, and this version .* up to 3; install",
    ),
    "an unknown method": (
        edit(method=[{"name": "dora"}]),
        CheckpointError,
        "'dora'.* is none that this version",
    ),
    "unknown options": (edit(method=[{"name": "ssf", "rank": 1}]), CheckpointError, "is none that this version"),
    "a foreign tensor": (
        rewrite(lambda t: t.update(other=torch.zeros(1))),
        ForeignTensor,
        "'other' belongs to no",
    ),
    "a tensor less": (
        rewrite(lambda t: t.pop("left:ssf:scale")),
        ForeignTensor,
        r"left:ssf:scale' \(2, 8\) is missing",
    ),
    "another shape": (
        rewrite(lambda t: t.update({"head:ssf:scale": torch.zeros(2, 4)})),
        ForeignTensor,
        r"'head:ssf:scale': expected shape \(2, 3\) of F32, but found \(2, 4\)",
    ),
    "another number of rows": (
        edit(combinations=["left"]),
        ForeignTensor,
        r"\(1, 8\) of F32, but found \(2, 8\)",
    ),
    "another dtype": (
        rewrite(lambda t: t.update({"head:ssf:scale": torch.zeros(2, 3, dtype=torch.float64)})),
        ForeignTensor,
        r"'head:ssf:scale': expected shape \(2, 3\) of F32, but found \(2, 3\) of F64",
    ),
    "a number changed by hand": (
        swap('"error"', '"nearest"'),
        DamagedFile,
        "changed since .* wrote it",
    ),
    "a key twice": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 1, "format": 1}'),
        DamagedFile,
        "the key 'format' stands twice",
    ),
    "another network": (edit(fingerprint="0" * 32), OtherNetwork, "made for Towers with fingerprint 0000"),
    "a fingerprint of an unknown kind": (
        edit(fingerprint="sha9:0123"),
        CheckpointError,
        "the fingerprint 'sha9:0123' is made by 'sha9', which isn't known to this version",
    ),
    "a layer class that is not there": (
        edit(layers=[{"cls": "a.B", "kind": "norm", "axis": 1, "weight": "w", "bias": None, "out_axis": 0}]),
        OtherNetwork,
        "declared layer class a.B; the network has none",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_and_the_network_untouched(tmp_path: Path, fault: str) -> None:
    damage, error, message = FAULTS[fault]
    network = saved(tmp_path)
    damage(tmp_path)
    before = snapshot(network.train())
    with pytest.raises(error, match=message) as caught:
        load(tmp_path, network)
    assert caught.type is error
    assert str(tmp_path) in str(caught.value) or fault == "a layer class that is not there"
    assert snapshot(network) == before


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"nowhere: expected a folder that `subsense\.save` wrote, but there is none"):
        load(tmp_path / "nowhere", make("towers")[0])


def change_a_bit(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        network.head.bias[0] = torch.nextafter(network.head.bias[0], torch.tensor(9.0))
    return network


@pytest.mark.parametrize("other", [lambda: make("towers", 1)[0], lambda: change_a_bit(make("towers")[0]), Tied])
def test_a_checkpoint_of_another_network(tmp_path: Path, other: Callable[[], nn.Module]) -> None:
    saved(tmp_path)
    network = other()
    before = snapshot(network)
    with pytest.raises(OtherNetwork, match=f"for Towers with fingerprint .*, but this {type(network).__name__} has"):
        load(tmp_path, network)
    assert snapshot(network) == before


def test_a_fingerprint_of_the_first_kind_is_compared_in_its_own_way(tmp_path: Path) -> None:
    network = saved(tmp_path)
    edit(fingerprint=fingerprint(network, like="0" * 32))(tmp_path)
    load(tmp_path, network).detach()
    with pytest.raises(OtherNetwork, match=r"with fingerprint [0-9a-f]{32}, but this Towers has [0-9a-f]{32};"):
        load(tmp_path, change_a_bit(network))


def test_loaded_sets_do_not_live_in_their_file(tmp_path: Path) -> None:
    again = load(tmp_path, saved(tmp_path))
    before = outputs(again, INPUTS)
    (path,) = tmp_path.glob("*.safetensors")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(*pair) for pair in zip(outputs(again, INPUTS), before, strict=True))


def test_a_network_without_values_is_refused(tmp_path: Path) -> None:
    network = saved(tmp_path).to("meta")
    with pytest.raises(PlanError, match="is on the meta device and has no values yet"):
        load(tmp_path, network)


@pytest.mark.parametrize("other", [{"left": "4", "up": "6"}, {"right": "6", "left": "4"}, {"left": "4", "right": "N"}])
def test_a_checkpoint_of_other_modalities(tmp_path: Path, other: dict[str, str]) -> None:
    network = saved(tmp_path)
    load(tmp_path, network, modalities=TOWERS).detach()
    before = snapshot(network)
    with pytest.raises(OtherModalities, match=r"made for modalities \{'left': '4', 'right': '6'\}, but "):
        load(tmp_path, network, modalities=other)
    assert snapshot(network) == before


def call(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return network(**inputs)


def ones(name: str, inputs: dict[str, Tensor], present: Tensor) -> Tensor:
    return torch.ones_like(inputs[name])


def test_functions_need_to_be_passed_again(tmp_path: Path) -> None:
    network = saved(tmp_path, call=call, fill={"right": ones})
    before = snapshot(network)
    with pytest.raises(CheckpointError, match=r"by a function, which is not saved; pass it: load\(..., call=...\)"):
        load(tmp_path, network, fill=ones)
    with pytest.raises(CheckpointError, match=r"'right' was filled by a function.*load\(..., fill=\{'right': ...\}\)"):
        load(tmp_path, network, call=call)
    with pytest.raises(CheckpointError, match="'right' was filled by a function"):
        load(tmp_path, network, call=call, fill={"left": ones})
    assert snapshot(network) == before
    expected = outputs(with_sets(adapt(make("towers")[0], TOWERS, call=call, fill={"right": ones})), INPUTS)
    for fill in (ones, {"right": ones}):
        again = load(tmp_path, network, call=call, fill=fill)
        assert again.fill.kinds == {"left": "zeros", "right": "callable"}
        assert all(torch.equal(*pair) for pair in zip(outputs(again, INPUTS), expected, strict=True))
        again.detach()
