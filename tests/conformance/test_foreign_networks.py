"""Every network of the published table keeps every promise, or is refused with the words that are expected."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import subsense as ss
from conformance.compatibility import DOCUMENT, IMAGES, INSTALLED, SOURCES, table_names
from conformance.foreign_language_models import LANGUAGE_MODELS
from conformance.survey import CHECKS, RIGHT, Case, Survey, stir, survey

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's and transformers' own, while networks are made
]


def _cases() -> Iterator[Any]:
    for source, cases in SOURCES.items():
        for name, case in cases.items():
            marks = [] if case.fast else [pytest.mark.slow]
            if source == IMAGES:
                marks.append(pytest.mark.skipif(not INSTALLED, reason="timm and what it needs aren't installed"))
            yield pytest.param(case, id=f"{source}: {name}", marks=marks)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Some cases join a group of processes of their own."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("case", list(_cases()))
def test_a_foreign_network_is_right_or_refused(case: Case) -> None:
    row = survey(case)
    assert not row.wrong
    if case.refused:
        assert re.search(case.refused, row.error), row.error
    else:
        assert not row.error
        assert dict(row.checks) == dict.fromkeys(CHECKS, RIGHT)


BOTH = ("Gemma 3", "PaliGemma", "Florence-2", "Kosmos-2", "BLIP-2", "InstructBLIP", "Janus", "Whisper")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LANGUAGE_MODELS if name != "Llama 4"])
def test_a_language_model_is_folded_without_its_towers(name: str) -> None:
    it = Survey(LANGUAGE_MODELS[name])
    robust = stir(it.robust)
    others = [one for one in map(str, robust.combinations) if one != "text"] if name in BOTH else []
    for combination in ["text", *others]:
        dropped = ss.fold(robust, combination, example=it.inputs, drop_absent=True)  # it checks the numbers
        assert sum(map(torch.numel, dropped.state_dict().values())) < 1.1 * robust.plan.network_parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Qwen2.5-VL", r"grid_t, grid_h, grid_w = .*vision_utils"),
        ("Idefics3", r".*image_features.split\(.*modeling_idefics3"),
        ("Llama 4", r"out.add_\(routed_out.reshape.*modeling_llama4"),
    ],
)
def test_a_graph_that_reads_sizes_from_its_input_names_the_line(name: str, line: str) -> None:
    it = Survey(LANGUAGE_MODELS[name])
    with pytest.raises(ss.FoldError, match=rf"stopped by '{line}.py, line \d+"):
        ss.fold(stir(it.robust), "image", example=it.inputs, drop_absent=True)


def test_bare_parameters_are_named_as_out_of_reach() -> None:
    planned = Survey(SOURCES["torch"]["embeddings, nn.Bilinear"]).robust.plan
    lost = {name for name in planned.out_of_reach if name.startswith("both.")}
    assert lost == {"both.weight", "both.bias"}
    assert all(name in str(planned) for name in lost)


def test_a_network_without_values_can_be_planned() -> None:
    case = SOURCES["torch"]["meta device"]
    assert len(ss.plan(case.architecture.network()).sites) == 2


def test_the_published_table_has_every_case() -> None:
    assert table_names(DOCUMENT.read_text("utf-8")) == [name for cases in SOURCES.values() for name in cases]
