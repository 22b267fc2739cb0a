"""A robust model inside torch's machinery: compiled and exported graphs, autocast, networks of other precisions."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import subsense as ss
from architectures import ARCHITECTURES, Architecture, EarlyFusion
from subsense import RobustModel
from test_architectures import PRESENT, difference, gradient, seeded, stir, without

MASKS = {
    "mixed": PRESENT,
    "turned round": PRESENT.flip(0),
    "nothing missing": PRESENT[[0, 0, 0]],
    "the first alone": PRESENT[[1, 1, 1]],
    "the second alone": PRESENT[[2, 2, 2]],
}
SMALL = ["early-fusion", "encoder-sequence-first"]
SHARINGS = ["independent", "additive"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs() -> list[fx.GraphModule]:
    return []


@pytest.fixture
def counting(graphs: list[fx.GraphModule]) -> Any:
    """Give a backend that runs graphs as they are and keeps them to be counted."""

    def backend(graph: fx.GraphModule, example: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def stirred(architecture: Architecture, **options: Any) -> RobustModel:
    return stir(architecture.adapt(method=["ssf", "lora"], **options))


def _names(slow: set[str]) -> list[Any]:
    """Give the architectures that can be compiled; ViLT can't, for indices that depend on data."""
    names = [name for name in ARCHITECTURES if not name.startswith("vilt")]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", _names(slow=set(ARCHITECTURES) - set(SMALL)))
def test_one_graph_serves_all_combinations(name: str, sharing: str, counting: Any, graphs: list[Any]) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stirred(architecture, sharing=sharing), architecture.inputs()
    robust.locate(inputs)
    compiled = torch.compile(robust, backend=counting, fullgraph=True)
    with torch.no_grad():
        for mask in MASKS.values():  # an eager call in between must not make the graph invalid
            found = architecture.scores(compiled(inputs, mask))
            assert difference(found, architecture.scores(robust(inputs, mask))) < 1e-5
    assert len(graphs) == 1


@pytest.mark.parametrize("name", _names(slow=set(ARCHITECTURES) - {"early-fusion"}))
def test_one_graph_for_what_is_passed(name: str, counting: Any, graphs: list[Any]) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stirred(architecture), architecture.inputs()
    robust(inputs)  # transformers put hooks of their own on in the first forward, which no graph can hold
    compiled = torch.compile(robust, backend=counting, fullgraph=True)
    with torch.no_grad():
        for given in [without(inputs, combination) for combination in robust.combinations] * 2:
            expected = architecture.scores(robust(given))
            assert difference(architecture.scores(compiled(given)), expected) < 1e-5
    assert len(graphs) == len(robust.combinations)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_trains_through_a_graph(sharing: str) -> None:
    architecture = ARCHITECTURES["early-fusion"]
    robust, inputs = stirred(architecture, sharing=sharing).train(), architecture.inputs()
    robust.locate(inputs)
    compiled = torch.compile(robust, backend="aot_eager", fullgraph=True)
    parameters = list(robust.adapter_parameters().values())
    found, expected = (gradient(architecture.scores(run(inputs, PRESENT)), parameters) for run in (compiled, robust))
    assert difference(found, expected) < 1e-5


def test_a_graph_gives_no_number_for_what_was_not_trained(counting: Any) -> None:
    architecture = ARCHITECTURES["early-fusion"]
    robust, inputs = architecture.adapt(), architecture.inputs()
    robust.mark_trained(["rgb"])
    robust.eval().locate(inputs)
    compiled = torch.compile(robust, backend=counting, fullgraph=True)
    with torch.no_grad():
        output = compiled(inputs, PRESENT)
    assert output.isnan().flatten(1).all(1).tolist() == [False, False, True]


def test_a_graph_with_present_wants_rows_located_before(counting: Any) -> None:
    architecture = ARCHITECTURES["early-fusion"]
    robust = stirred(architecture)
    with pytest.raises(Exception, match=r"model\.locate\(inputs\), before compiling"):
        torch.compile(robust, backend=counting, fullgraph=True)(architecture.inputs(), PRESENT)


@pytest.mark.slow
def test_a_network_that_does_not_compile_runs_in_pieces() -> None:
    architecture = ARCHITECTURES["vilt-answering"]
    robust, inputs = stirred(architecture), architecture.inputs()
    robust.locate(inputs)
    compiled = torch.compile(robust, backend="eager")
    with torch.no_grad():
        expected = architecture.scores(seeded(robust, inputs, PRESENT))
        assert difference(architecture.scores(seeded(compiled, inputs, PRESENT)), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile's inductor needs a C++ compiler")
@pytest.mark.parametrize("name", SMALL)
def test_compiled_kernels_agree(name: str) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stirred(architecture), architecture.inputs()
    robust.locate(inputs)
    compiled = torch.compile(robust, fullgraph=True)
    with torch.no_grad():
        for mask in MASKS.values():
            expected = architecture.scores(robust(inputs, mask))
            assert difference(architecture.scores(compiled(inputs, mask)), expected) < 1e-5


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", SMALL)
def test_exports_with_every_combination_inside(name: str, sharing: str) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stirred(architecture, sharing=sharing), architecture.inputs()
    robust.locate(inputs)
    program = torch.export.export(robust, (inputs, PRESENT)).module()
    with torch.no_grad():
        for mask in MASKS.values():
            expected = architecture.scores(robust(inputs, mask))
            assert difference(architecture.scores(program(inputs, mask)), expected) < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_exports_one_combination(name: str) -> None:
    architecture = ARCHITECTURES[name]
    robust = stirred(architecture)
    given = without(architecture.inputs(), robust.combinations[0])
    program = torch.export.export(robust, (given,)).module()
    with torch.no_grad():
        assert difference(architecture.scores(program(given)), architecture.scores(robust(given))) < 1e-5


@pytest.mark.filterwarnings("ignore:adapters reach no layer that holds 10.54%:UserWarning")  # a toy Swin's tables
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_autocast_stays_near(name: str) -> None:
    architecture = ARCHITECTURES[name]
    robust, inputs = stirred(architecture).train(), architecture.inputs()
    expected = architecture.scores(seeded(robust, inputs, PRESENT)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        scores = architecture.scores(seeded(robust, inputs, PRESENT))
    assert difference(scores.float(), expected) < 0.1
    scores.float().square().mean().backward()
    gradients = [parameter.grad for parameter in robust.adapter_parameters().values() if parameter.grad is not None]
    assert gradients
    assert all(one.dtype == torch.float32 and bool(one.isfinite().all()) for one in gradients)


def _cast(architecture: Architecture, like: RobustModel, dtype: torch.dtype) -> tuple[RobustModel, dict[str, Any]]:
    """Adapt the network in another precision, with the same adapter sets."""
    suffix = f":{dtype}".replace("torch.", "")
    spec = {
        name: {part: text if ":" in text else text + suffix for part, text in axes.items()}
        if isinstance(axes, dict)
        else axes + suffix
        for name, axes in architecture.modalities.items()
    }
    network = architecture.network().to(dtype)
    robust = ss.adapt(network, spec, call=architecture.call, method=["ssf", "lora"], sharing="additive")
    with torch.no_grad():
        for name, parameter in robust.adapter_parameters().items():
            parameter.copy_(like.adapter_parameters()[name])
    robust.mark_trained(robust.combinations)
    return robust.eval(), {name: _to(value, dtype) for name, value in architecture.inputs().items()}


def _to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {part: _to(tensor, dtype) for part, tensor in value.items()}
    return value.to(dtype) if value.is_floating_point() else value


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.1), ("float16", 0.02)])
@pytest.mark.parametrize("name", ["early-fusion", "encoder-sequence-first", "segformer", "vilt-answering"])
def test_serves_networks_of_other_precisions(name: str, dtype: str, tolerance: float) -> None:
    architecture, wanted = ARCHITECTURES[name], getattr(torch, dtype)
    reference = stirred(architecture, sharing="additive")
    robust, inputs = _cast(architecture, reference, wanted)
    with torch.no_grad():
        expected = architecture.scores(seeded(reference, architecture.inputs(), PRESENT))
        scores = architecture.scores(seeded(robust, inputs, PRESENT))
        assert scores.dtype == wanted
        assert difference(scores.to(expected.dtype), expected) < tolerance
        folded = ss.fold(robust, robust.combinations[0])
        given = without(inputs, robust.combinations[0])
        outputs = [architecture.scores(seeded(run, given)) for run in (robust.filled(folded), robust)]
        assert outputs[0].dtype == wanted
        assert difference(outputs[0].double(), outputs[1].double()) < 2 * tolerance
    assert all(_is_wide(parameter) for parameter in robust.adapter_parameters().values())


def _is_wide(parameter: nn.Parameter | Tensor) -> bool:
    return parameter.dtype in (torch.float32, torch.float64)


BANDS = dict.fromkeys(("red", "green", "blue", "thermal"), "1 H W")


@torch._dynamo.config.patch(error_on_recompile=True)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_fifteen_combinations_share_one_graph_and_one_program(sharing: str, counting: Any, graphs: list[Any]) -> None:
    robust = stir(ss.adapt(EarlyFusion(4).eval(), BANDS, call="channels", sharing=sharing))
    inputs = {name: torch.randn(2, 1, 8, 12) for name in BANDS}
    robust.locate(inputs)
    compiled = torch.compile(robust, backend=counting, fullgraph=True)
    program = torch.export.export(robust, (inputs, torch.ones(2, 4, dtype=torch.bool))).module()
    with torch.no_grad():
        for combination in robust.modalities.combinations():
            present = robust.modalities.present(combination).expand(2, -1)
            expected = robust(inputs, present)
            assert difference(compiled(inputs, present), expected) < 1e-5
            assert difference(program(inputs, present), expected) < 1e-5
    assert len(graphs) == 1
