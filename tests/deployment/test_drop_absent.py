"""Without what is absent a folded network takes what is present, any number of rows, and gives what it gave before."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import ARCHITECTURES
from networks import CAMERAS, TOWERS, Towers, draw, make, only, snapshot, with_sets
from subsense import FoldError, Mean, RobustModel, adapt, fold, prepare, zoo
from test_architectures import difference, stir, without

ROWS = (1, 2, 3, 8)
TOLERANCE = 1e-5


def assert_same(robust: RobustModel, dropped: nn.Module, present: Mapping[str, Tensor]) -> None:
    """Compare with the adapted network, eager and not folded, on many numbers of rows and other values."""
    for rows in ROWS:
        generator = torch.Generator().manual_seed(rows)
        some = {name: torch.randn(rows, *x.shape[1:], generator=generator).to(x) for name, x in present.items()}
        args, kwargs = prepare(robust, some, drop_absent=True)
        with torch.no_grad():
            expected, found = robust(some), dropped(*args, **kwargs)
        assert found.shape == expected.shape
        assert difference(found, expected) < TOLERANCE


def image_only(name: str, modality: Mapping[str, Any], present: Tensor) -> Tensor:
    """Fill with what the modality's sizes say, not with zeros."""
    return torch.linspace(-1, 1, modality[name].shape[-1]).expand(modality[name].shape).contiguous()


FILLS: dict[str, Any] = {
    "zeros": "zeros",
    "learned": "learned",
    "mean": Mean([draw(TOWERS)]),
    "callable": image_only,
    "from what is present": {"right": lambda name, inputs, present: inputs["left"].repeat(1, 2)[:, :6]},
}


@pytest.mark.parametrize("fill", FILLS)
def test_gives_what_it_gave_with_every_fill(fill: str) -> None:
    network, options = make("towers")
    robust, left = with_sets(adapt(network, **options, fill=FILLS[fill])), only(draw(TOWERS), ["left"])
    dropped = fold(robust, "left", drop_absent=True)
    assert_same(robust, dropped, left)
    kept = [name for name, _ in dropped.named_parameters() if "right" in name]
    assert kept == (["network_right_weight", "network_right_bias"] if fill == "from what is present" else [])


NETWORKS_SLOW = {"sequences": "words", "cameras": "rgb+infrared"}


@pytest.mark.parametrize(
    ("name", "combination"),
    [
        ("cameras", "depth"),
        ("sequence-first", "sound"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in NETWORKS_SLOW.items()),
    ],
)
def test_gives_what_it_gave_in_every_network(name: str, combination: str) -> None:
    network, options = make(name)
    robust = with_sets(adapt(network, **options, method=["ssf", "lora"], sharing="additive", fill="learned"))
    present = only(draw(options["modalities"]), robust.modalities.combination(combination))
    assert_same(robust, fold(robust, combination, example=present, drop_absent=True), present)


class Forms(Towers):
    """Take its inputs as it is told to."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        match self.form:
            case "kwargs":
                return super().forward(kwargs["left_image"], kwargs["right_image"])
            case "dict":
                return super().forward(**args[0])
            case "list":
                return super().forward(*args[0])
            case "channels":
                return super().forward(*args[0].split([4, 6], 1))
        return super().forward(*args)


CALLS: dict[str, tuple[Any, Callable[[nn.Module, Tensor], Tensor]]] = {
    "kwargs": ({"left": "left_image", "right": "right_image"}, lambda dropped, x: dropped(right_image=x)),
    "positional": ("positional", lambda dropped, x: dropped(x)),
    "list": ("list", lambda dropped, x: dropped([x])),
    "dict": ("dict", lambda dropped, x: dropped({"right": x})),
    "channels": ("channels", lambda dropped, x: dropped(x)),
    "function": (lambda network, inputs: network(*inputs.values()), lambda dropped, x: dropped({"right": x})),
}


@pytest.mark.parametrize("form", CALLS)
def test_is_called_as_the_network_is_with_what_is_present(form: str) -> None:
    call, run = CALLS[form]
    torch.manual_seed(0)
    robust = with_sets(adapt(Forms(form), TOWERS, call=call))
    dropped, x = fold(robust, "right", drop_absent=True), torch.randn(3, 6)
    torch.testing.assert_close(run(dropped, x), robust({"right": x}))


def test_several_that_are_present_keep_their_places() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(9, 2, 3)
    spec = {"rgb": "3 H W", "depth": "1 H W", "infrared": {"near": "2 H W", "far": "3 H W"}}
    robust = with_sets(adapt(network, spec, call="channels"))
    near, far, rgb = torch.randn(2, 2, 5, 6), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    given = {"infrared": {"near": near, "far": far}, "rgb": rgb}
    dropped = fold(robust, "rgb+infrared", example=given, drop_absent=True)
    torch.testing.assert_close(dropped(torch.cat([rgb, near, far], 1)), robust(given))


def test_keywords_come_in_any_order() -> None:
    network, options = make("towers")
    robust, x = with_sets(adapt(network, **options)), draw(TOWERS)
    dropped = fold(robust, "left+right", example=x, drop_absent=True)
    torch.testing.assert_close(dropped(right=x["right"], left=x["left"]), robust(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_precision(dtype: torch.dtype) -> None:
    network, _ = make("towers")
    spec = {name: f"{axes}:{str(dtype).removeprefix('torch.')}" for name, axes in TOWERS.items()}
    robust, x = with_sets(adapt(network.to(dtype), spec)), torch.randn(3, 4, dtype=dtype)
    dropped = fold(robust, "left", drop_absent=True)
    assert {tensor.dtype for tensor in dropped.state_dict().values()} == {dtype}
    tolerance = 1e-12 if dtype is torch.float64 else 3e-2
    torch.testing.assert_close(dropped(left=x), robust({"left": x}), rtol=tolerance, atol=tolerance)


ZOO = {
    "digits-transformer": ({"nw": "1 4 4", "ne": "1 4 4", "sw": "1 4 4", "se": "1 4 4"}, "kwargs", "ne+se", {}),
    "utd-mhad-transformer": (
        {"skeleton": "50 60", "accelerometer": "100 3", "gyroscope": "100 3", "depth": "3 60 80"},
        "kwargs",
        "skeleton",
        {},
    ),
    "cwfid-unet": ({"red": "1 H W", "nir": "1 H W"}, "kwargs", "nir", {"H": 32, "W": 48}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_gives_what_it_gave_in_the_zoo(name: str) -> None:
    spec, call, combination, sizes = ZOO[name]
    torch.manual_seed(0)
    robust = with_sets(adapt(zoo.build(name), spec, call=call))
    names = robust.modalities.combination(combination)
    present = only(draw(spec, **sizes), names)
    dropped = fold(robust, combination, example=present, drop_absent=True)
    assert_same(robust, dropped, present)
    encoders = [name.removeprefix("network_encoders_") for name in dropped.state_dict() if "encoders" in name]
    assert {next(one for one in spec if name.startswith(one)) for name in encoders} == set(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("name", [name for name, architecture in ARCHITECTURES.items() if architecture.exports])
def test_gives_what_it_gave_in_real_networks(name: str) -> None:
    architecture = ARCHITECTURES[name]
    robust = stir(architecture.adapt())
    for combination in robust.combinations:
        given = without(architecture.inputs(), combination)
        dropped = fold(robust, combination, example=given, drop_absent=True)
        for rows in ROWS:
            some = without(architecture.inputs(rows, seed=rows), combination)
            args, kwargs = prepare(robust, some, drop_absent=True)
            with torch.no_grad():
                found, expected = architecture.scores(dropped(*args, **kwargs)), architecture.scores(robust(some))
            assert difference(found, expected) < TOLERANCE


@pytest.mark.slow
def test_what_cannot_be_exported_says_so() -> None:
    architecture = ARCHITECTURES["vilt-answering"]
    robust = stir(architecture.adapt())
    with pytest.raises(FoldError, match=r"torch\.export with a free batch size can't take this network"):
        fold(robust, "image", example=without(architecture.inputs(), ("image",)), drop_absent=True)


RUN = """
import sys
sys.modules["subsense"] = None
import torch
run = torch.export.load(sys.argv[1]).module()
for rows in (1, 5):
    print(run(left=torch.linspace(-1, 1, 4 * rows).view(rows, 4)).flatten().tolist())
"""


def test_a_file_runs_without_subsense(tmp_path: Path) -> None:
    network, options = make("towers")
    robust, path = with_sets(adapt(network, **options)), tmp_path / "left.pt2"
    fold(robust, "left", export=path, example=draw(TOWERS), drop_absent=True)
    run = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, check=True)
    for rows, line in zip((1, 5), run.stdout.splitlines(), strict=True):
        expected = robust({"left": torch.linspace(-1, 1, 4 * rows).view(rows, 4)}).flatten()
        torch.testing.assert_close(torch.tensor(eval(line)), expected)


def test_a_file_holds_no_pickle_and_nothing_of_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = make("towers")
    robust, path = with_sets(adapt(network, **options)), tmp_path / "left.pt2"
    example = only(draw(TOWERS), ["left"])
    fold(robust, "left", export=path, example=example, drop_absent=True)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not any(content.startswith((b"\x80\x02", b"\x80\x04", b"PK")) for content in contents.values())
    assert not any(example["left"].numpy().tobytes() in content for content in contents.values())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", refuse)
    assert torch.export.load(path).module()(left=torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.slow
def test_onnx_takes_any_number_of_rows(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network, options = make("towers")
    robust, path = with_sets(adapt(network, **options)), tmp_path / "left.onnx"
    fold(robust, "left", onnx=path, example=draw(TOWERS), drop_absent=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["left"]
    for rows in ROWS:
        x = torch.randn(rows, 4)
        (found,) = session.run(None, {"left": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), robust({"left": x}), rtol=1e-4, atol=1e-5)


def test_is_a_module_of_its_own() -> None:
    network, options = make("towers")
    robust = with_sets(adapt(network, **options, fill="learned")).train()
    before = snapshot(robust)
    dropped = fold(robust, "left", drop_absent=True)
    assert snapshot(robust) == before
    assert not any(parameter.requires_grad for parameter in dropped.parameters())
    x = torch.randn(2, 4)
    expected = dropped(left=x)
    with torch.no_grad():
        for parameter in robust.parameters():
            parameter.add_(1.0)
    assert torch.equal(dropped.eval()(left=x), expected)
    assert not any(type(module).__module__.startswith("subsense") for module in dropped.modules())


def test_another_size_is_refused() -> None:
    network, options = make("cameras")
    robust = with_sets(adapt(network, **options))
    dropped = fold(robust, "rgb", example=draw(CAMERAS), drop_absent=True)
    with pytest.raises(AssertionError, match=r"input_0\[0\]: expected sizes \(rows, 3, 6, 6\).*\[4, 3, 8, 6\]"):
        dropped([torch.randn(4, 3, 8, 6)])


def test_a_file_refuses_another_size(tmp_path: Path) -> None:
    network, options = make("cameras")
    robust, path = with_sets(adapt(network, **options)), tmp_path / "rgb.pt2"
    fold(robust, "rgb", example=draw(CAMERAS), drop_absent=True, export=path)
    with pytest.raises(RuntimeError, match=r"to be equal to 6, but got 8"):
        torch.export.load(path).module()([torch.randn(4, 3, 8, 6)])


@pytest.mark.parametrize(
    ("name", "combination", "options", "message"),
    [
        ("cameras", "rgb", {}, "drop_absent needs `example`.*'rgb' is declared as '3 H W'"),
        ("towers", "left+right", {"example": only(draw(TOWERS), ["left"])}, "has 'right', but `example` lacks it"),
    ],
)
def test_refuses_what_it_cannot_know(name: str, combination: str, options: dict[str, Any], message: str) -> None:
    network, needed = make(name)
    robust = with_sets(adapt(network, **needed))
    with pytest.raises(FoldError, match=message):
        fold(robust, combination, drop_absent=True, **options)


class Tables(Towers):
    """Take for each row of a batch the entry of its number, of which there are 32."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(32, 6))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return super().forward(left, right + self.table[: len(right)])


class Draws(Towers):
    """Add noise, in eval mode too."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return super().forward(left, right + torch.rand_like(right))


@pytest.mark.filterwarnings("ignore:adapters reach no layer:UserWarning")  # the table is most of it
@pytest.mark.parametrize(
    ("network", "message"),
    [(Tables, r"torch\.export with a free batch size can't take"), (Draws, "the folded network: differs")],
)
def test_refuses_a_network_whose_rows_are_not_alike(network: Callable[[], nn.Module], message: str) -> None:
    robust = with_sets(adapt(network(), TOWERS))
    with pytest.raises(FoldError, match=message):
        fold(robust, "left", drop_absent=True)


def test_a_constant_that_is_not_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = make("towers")
    robust = with_sets(adapt(network, **options))
    monkeypatch.setattr(
        "subsense.deployment.constants._is_row_repeated", lambda multiples, values: values[0].mul_(1.1) is not None
    )
    with pytest.raises(FoldError, match="the network without what is absent, on 1 rows: differs"):
        fold(robust, "left", drop_absent=True)


class Relative(nn.Module):
    """Add relative positions, and a wide map made by one number, to what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.thermal = nn.Parameter(torch.randn(199)), nn.Linear(1, 1)
        self.rgb = nn.Linear(100, 100)

    def forward(self, rgb: Tensor, thermal: Tensor) -> Tensor:
        places = torch.arange(100)
        relative = self.table[places[:, None] - places[None] + 99]
        return torch.softmax(self.rgb(rgb) + relative, -1) + self.thermal(thermal.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize(("largest", "is_kept"), [({}, False), ({"largest_constant": 60.0}, True)])
def test_a_constant_is_no_larger_than_asked_for(largest: dict[str, float], is_kept: bool) -> None:
    robust = adapt(Relative(), {"rgb": "100 100", "thermal": "100 100"})
    robust.mark_trained("all")
    inputs = {"rgb": torch.randn(2, 100, 100)}
    dropped = fold(robust, "rgb", example=inputs, drop_absent=True, **largest)
    torch.testing.assert_close(dropped(**inputs), robust.eval()(inputs))
    held = [one.numel() for one in [*dropped.parameters(), *dropped.buffers()]]
    assert held.count(10_000) == (3 if is_kept else 2)  # rgb.weight, what is absent, and the relative positions
    assert (199 in held) is not is_kept


def test_an_export_that_stops_names_the_networks_line() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) + self.b(b) if a.sum() > 0 else self.a(a)

    robust = adapt(Asking(), {"a": "4", "b": "4"})
    robust.mark_trained("all")
    with pytest.raises(FoldError, match=r"stopped by 'return .* if a.sum\(\) > 0 .*test_drop_absent.py, line \d+"):
        fold(robust, "a", example={"a": torch.ones(2, 4)}, drop_absent=True)


def test_an_export_that_binds_the_number_of_rows_names_the_networks_line(caplog: pytest.LogCaptureFixture) -> None:
    class RowByRow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            rows = [self.a(row) for row in a]
            return torch.stack(rows) + self.b(b)

    robust = adapt(RowByRow(), {"a": "4", "b": "4"})
    robust.mark_trained("all")
    with pytest.raises(FoldError, match=r"stopped by 'rows = .* for row in a\]' \(test_drop_absent.py, line \d+"):
        fold(robust, "a", example={"a": torch.ones(2, 4)}, drop_absent=True)
    assert "guard added" not in caplog.text
