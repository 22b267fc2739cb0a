"""The session of docs/write-your-adapter.md runs, and its adapter works wherever `ssf` does."""

import doctest
import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import draw, make, with_sets
from own_adapters import GroupScale, Halved
from subsense import SSF, CheckpointError, PlanError
from subsense.adapters import ByChannel, Norm
from subsense.injection.scaled_layer import Scaling
from subsense.injection.scaled_norm import Normalising
from subsense.model.manifest import seal
from subsense.routing.router import SHARINGS
from subsense.testing import LAYER_KINDS, check_adapter

PAGE = Path(__file__).parents[2] / "docs" / "write-your-adapter.md"
SERVED = [kind for kind in LAYER_KINDS if kind != "LayerNorm, two axes"]


def test_the_session_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    session = doctest.DocTestParser().get_doctest(blocks, {"__name__": "session"}, "page", str(PAGE), 0)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    runner = doctest.DocTestRunner(optionflags=options)
    runner.run(session)
    assert runner.summarize().failed == 0
    assert runner.summarize().attempted > 12


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", SERVED)
def test_it_keeps_the_contract_at_every_layer_it_claims(kind: str, sharing: str) -> None:
    check_adapter(GroupScale(2), kind, sharing=sharing, compiled=False)


@pytest.mark.parametrize("kind", ["Linear", "ConvTranspose2d", "BatchNorm2d"])
def test_compiled_and_exported(kind: str) -> None:
    check_adapter(GroupScale(2), kind)


@pytest.mark.parametrize("kind", ["Linear", "GroupNorm", "MultiheadAttention"])
def test_a_subclass_of_one_of_ours(kind: str) -> None:
    check_adapter(Halved(), kind, compiled=False)


class Scores(nn.Module):
    """A linear layer and a norm, large enough that both take their adapters in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.norm(self.layer(left + right))


@pytest.mark.parametrize("method", [GroupScale(2), Halved(), [GroupScale(2), "ssf"]], ids=str)
def test_the_fast_paths_are_open_to_it(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[type] = []
    for cls in (Scaling, Normalising):
        run = cls.__call__
        monkeypatch.setattr(cls, "__call__", lambda self, *args, run=run: taken.append(type(self)) or run(self, *args))
    robust = with_sets(ss.adapt(Scores(), {"left": "64 8", "right": "64 8"}, method=method))
    batch = {"left": torch.randn(32, 64, 8)}
    with torch.no_grad():
        found = robust(batch)
        assert taken == [Scaling, Normalising]
        robust.injection.folds = False
        torch.testing.assert_close(robust(batch), found)


@dataclass(frozen=True)
class Largest(Norm):
    """Train a norm's weight by the largest of the rows in use, not their sum: what `merge` says must be heeded."""

    name: ClassVar[str] = "largest"

    def serves(self, layer: Any, module: nn.Module) -> bool:
        return layer.class_name == "LayerNorm"

    def apply(self, layer: Any, module: nn.Module, bank: Any, mix: Any, x: Tensor, y: Tensor) -> Tensor:
        largest = {name: one.amax(0, keepdim=True) for name, one in bank.items()}
        return super().apply(layer, module, largest, Alone(mix), x, y)

    def merge(self, rows: Any, weights: Tensor) -> Any:
        return {name: one.amax(0) for name, one in rows.items()}


@dataclass
class Alone:
    """Give the only row of a bank, whatever the batch."""

    mix: Any

    def blend(self, bank: Tensor, like: Tensor, axis: int) -> Tensor:
        return self.mix.spread(bank, like, axis)


def test_a_norm_is_run_with_the_set_that_merge_makes() -> None:
    robust = with_sets(ss.adapt(Scores(), {"left": "4 8", "right": "4 8"}, method=Largest(), combinations=["left"]))
    batch = {"left": torch.randn(3, 4, 8)}
    with torch.no_grad():
        found = robust(batch)
        robust.injection.folds = False
        torch.testing.assert_close(robust(batch), found)
        torch.testing.assert_close(ss.fold(robust, "left")(batch["left"], torch.zeros(3, 4, 8)), found)


@pytest.mark.parametrize("method", [GroupScale(2), Halved()], ids=str)
def test_what_cannot_be_solved_in_closed_form_says_so(method: Any) -> None:
    robust = ss.adapt(Scores(), {"left": "4 8", "right": "4 8"}, method=method)
    before = {name: bank.clone() for name, bank in robust.banks.named().items()}
    rows = {name: torch.randn(16, 4, 8) for name in ("left", "right")}
    with pytest.raises(PlanError, match="can't be calibrated, since its pair isn't 1"):
        ss.calibrate(robust, [rows], progress=False)
    assert all(torch.equal(bank, before[name]) for name, bank in robust.banks.named().items())


def saved(folder: Path) -> nn.Module:
    network, options = make("towers")
    robust = with_sets(ss.adapt(network, **options, method=["ssf", GroupScale(1)]))
    ss.save(robust, folder)
    return robust.detach()


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    network = saved(tmp_path)
    batch = {"left": draw({"left": "4"})["left"]}
    loaded = ss.load(tmp_path, network, methods=[GroupScale])
    assert loaded.plan.adapters == (SSF(), GroupScale(1))
    expected = with_sets(ss.adapt(make("towers")[0], **make("towers")[1], method=["ssf", GroupScale(1)]))
    assert torch.equal(loaded.eval()(batch), expected(batch))


def test_no_code_is_imported_because_a_file_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = saved(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["method"][1]["class"] = "antigravity.Anything"
    (tmp_path / "manifest.json").write_bytes(seal(manifest))
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imports {name}"))
    with pytest.raises(CheckpointError, match=r"load\(..., methods=\[Anything\]\)"):
        ss.load(tmp_path, network)


def own(**body: Any) -> Any:
    """Make a class of an adapter with something else about it."""
    functions = {"serves": lambda *_: True, "parameters": lambda *_: {}, "pair": lambda *_: (None, None)}
    return type("Own", (ByChannel,), {"name": "own", **functions} | body)


FAULTS = {
    "no dataclass": (lambda: own()(), "write @dataclass"),
    "not frozen": (lambda: dataclass(own())(), "write @dataclass"),
    "a subclass that isn't decorated": (lambda: type("Mine", (SSF,), {"name": "mine"})(), "write @dataclass"),
    "the name of ours": (lambda: dataclass(frozen=True)(type("Mine", (SSF,), {}))(), "its name 'ssf' is that of"),
    "a name with a colon": (lambda: dataclass(frozen=True)(own(name="a:b"))(), "text without a colon"),
    "nothing but a name": (
        lambda: dataclass(frozen=True)(type("Few", (), {"name": "few", "serves": lambda *_: True}))(),
        "lacks parameters, pair, start, apply, merge, fold",
    ),
    "an option that can't be saved": (
        lambda: dataclass(frozen=True)(own(__annotations__={"sizes": tuple}, sizes=(1, 2)))(),
        "option sizes: expected a number, a word or None",
    ),
    "a name that is an option": (
        lambda: dataclass(frozen=True)(own(__annotations__={"name": str}))(),
        "none called name",
    ),
    "a class": (lambda: GroupScale, "expected a name .* or an object"),
    "gamma of another shape": (
        lambda: dataclass(frozen=True)(
            own(parameters=lambda *_: {"a": (5,)}, pair=lambda self, layer, row: (row["a"], None))
        )(),
        r"gave a gamma or beta of shape \(5,\) in pair\(\), but the layer's features are \(8,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_adapter_is_refused(name: str) -> None:
    make_method, message = FAULTS[name]
    network, options = make("towers")
    with pytest.raises(PlanError, match=message):
        ss.adapt(network, **options, method=make_method())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
