"""`python -m benchmarks.speed`: its smallest part runs, keeps what it has, and judges by the goals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find benchmarks/, which is not installed."""
    monkeypatch.syspath_prepend(REPOSITORY)
    pytest.importorskip("transformers")
    pytest.importorskip("peft")


def measure(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    from benchmarks.speed.__main__ import main

    main(["--quick", "--threads", "1", "--out", str(folder), *arguments])
    return json.loads((folder / "speed.json").read_text()), (folder / "speed.md").read_text()


def test_a_quick_figure_gives_numbers_and_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, page = measure(tmp_path, "--networks", "segformer", "--figures", "inference / frozen", "size")
    assert [entry["figure"] for entry in result["measured"]] == ["inference / frozen", "size", "size"]
    ratios = {way: one["ratio"] for way, one in result["measured"][0]["numbers"].items()}
    assert ratios["frozen"] == 1.0
    assert all(ratio > 0 for ratio in ratios.values())
    assert "| forward of one combination / frozen | segformer | 1 | 1.04 |" in page
    assert "| size on disk, M = 3 / M = 2, additive | vilt | 1 | 1.50 | 1.4" in page
    assert capsys.readouterr().err.splitlines()[-1].lstrip("[ 0123456789").startswith("s] 3/3 size: vilt, 3, 1 thread")


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.speed import growth

    def size(number: int) -> dict[str, Any]:
        if number == 3:
            raise KeyboardInterrupt
        return {"modalities": number, "additive bytes": 1, "independent bytes": 1}

    monkeypatch.setattr(growth, "size", size)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, "--figures", "size")
    assert [entry["network"] for entry in json.loads((tmp_path / "speed.json").read_text())["measured"]] == ["vilt, 2"]
    assert "vilt" not in (tmp_path / "speed.md").read_text().split("###")[0]  # one size says nothing of growth


@pytest.mark.parametrize(("ratio", "reached"), [(1.04, "yes"), (1.0401, "no")])
def test_a_goal_is_reached_by_the_median(ratio: float, reached: str) -> None:
    from benchmarks.speed.table import markdown

    page = markdown(made("training step / floor", "vilt", {"subsense ssf": {"ratio": ratio, "spread": 0.5}}))
    row = next(line for line in page.splitlines() if line.startswith("| training step / floor | vilt"))
    assert row.split(" | ")[5] == reached


def test_every_goal_is_measured_by_some_job() -> None:
    from benchmarks.speed.jobs import jobs
    from benchmarks.speed.networks import CASES
    from benchmarks.speed.table import GOALS

    measured = {(job.figure, job.network) for job in jobs(list(CASES), [1, 2], "cpu", quick=False)}
    wanted = {(goal.figure, network) for goal in GOALS for network in goal.most}
    assert wanted <= measured


def made(figure: str, network: str, numbers: dict[str, Any]) -> dict[str, Any]:
    about = {
        "command": "",
        "seconds": 1.0,
        "versions": "",
        "machine": "",
        "device": "cpu",
        "load before": 0.0,
        "seed": 0,
    }
    ways = {"subsense ssf, mixed rows": {"ratio": 1.0, "spread": 0.0}} | numbers
    return about | {"measured": [{"figure": figure, "network": network, "threads": 1, "numbers": ways}]}


def test_a_page_is_filled_between_its_marks() -> None:
    from benchmarks.speed.page import fill
    from benchmarks.speed.table import parts

    found = parts(made("training step / floor", "vilt", {"subsense ssf": {"ratio": 1.0, "spread": 0.0}}))
    page = (REPOSITORY / "docs" / "performance.md").read_text()
    filled = fill(page, found)
    assert found["table"] in filled
    assert fill(filled, found) == filled
    assert filled.split("<!-- end -->", 1)[1] == page.split("<!-- end -->", 1)[1]


@pytest.mark.parametrize("name", ["digits", "lstm fusion"])
def test_a_step_of_a_small_network_trains_what_it_says(name: str) -> None:
    from benchmarks.speed.measuring import Effort
    from benchmarks.speed.small import training_step

    numbers = training_step(name, Effort(2, 0.0))
    assert numbers["all weights"]["ratio"] == 1.0
    assert all(numbers[way]["ratio"] > 0 for way in ("subsense ssf", "subsense lora 4"))
