"""`subsense experiment`: each of the paper's experiments, and ours, on a user's own recipe."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import subsense as ss
from command_line import fail, run, succeed
from subsense.evaluation.finding import Chart, Finding, Level, Mark, Series
from subsense.evaluation.reporting.finding import draw, write_finding
from subsense.model.watching.sensor import Choice
from subsense.recipes.experiments.calibration import doubled
from subsense.recipes.experiments.corrupted import Degraded, WithQuality, make_degrader
from subsense.recipes.experiments.corruption import _prepare
from subsense.recipes.experiments.degradation import crossing_of
from subsense.recipes.experiments.watched import alarms, watched
from subsense.recipes.run import ensure_network, open_job
from subsense.recipes.run.columns import Bench

THREE = """
import torch
from torch import nn
from subsense.data import Data, Samples

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, a, b, c):
        return self.head(torch.relu(self.a(a) + self.b(b) + self.c(c)))

def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(count, 3, generator=generator) for name in "abc"}
    target = (sum(inputs.values()).sum(1) > 0).long()
    return Samples(inputs, target, [str(row) for row in range(count)])

def data():
    return Data(name="three", modalities=dict.fromkeys("abc", "3"), train=samples(64, 0), test=samples(40, 1),
                task="classification", class_names=("minus", "plus"), metric="accuracy", source="", licence="",
                citation="")
"""

RECIPE = """
output: run
network: {name: three_code:Network}
data: {name: three_code:data}
adapt: {method: ssf, sharing: additive}
pretrain: {epochs: 4, lr: 1e-2, batch_size: 16}
train: {epochs: 2, lr: 1e-2, batch_size: 16}
evaluate: {dedicated: all}
"""


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a network of three modalities and its recipe; give the recipe."""
    (tmp_path / "three_code.py").write_text(THREE, "utf-8")
    (tmp_path / "three.yaml").write_text(RECIPE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "three.yaml"


def found(name: str) -> Finding:
    for suffix in ("md", "png"):
        assert Path(f"run/experiments/{name}.{suffix}").stat().st_size > 100
    return Finding.load(f"run/experiments/{name}.json")


def test_degradation_averages_by_number_and_marks_where_adapted_falls_below_dedicated(three: Path) -> None:
    text = succeed("experiment", "degradation", three)
    succeed("compare", three, "--set", "compare=ssf")
    results = ss.Results.load("run/comparison.json")
    finding = found("degradation")
    curves = {series.name: dict(zip(series.x, series.y, strict=True)) for series in finding.charts[0].series}
    for size, names in ((1, ["a", "b", "c"]), (2, ["a+b", "a+c", "b+c"])):
        rows = [results[name] for name in names]
        assert curves["adapted"][size] == pytest.approx(100 * sum(row.compared["ssf"] for row in rows) / 3)
        assert curves["dedicated"][size] == pytest.approx(100 * sum(row.dedicated for row in rows) / 3)
    below = [size for size in (1, 2) if curves["adapted"][size] < curves["dedicated"][size]]
    assert [mark.x for mark in finding.charts[0].marks] == below[-1:]
    assert ("is below the dedicated ones" in text) == bool(below)
    assert [row[0] for row in finding.rows] == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("adapted", "is_more_better", "found"),
    [
        ((0.5, 0.7, 0.9), True, 2),
        ((0.5, 0.8, 0.9), True, 1),
        ((0.6, 0.8, 0.9), True, None),
        ((0.6, 0.7, 0.9), False, 1),
        ((0.5, 0.7, 0.9), False, None),
    ],
)
def test_the_crossing_is_the_first_number_on_the_way_down(
    adapted: tuple[float, ...], is_more_better: bool, found: int | None
) -> None:
    bench = SimpleNamespace(metric=SimpleNamespace(higher_is_better=is_more_better))
    curves = {"adapted": dict(enumerate(adapted, 1)), "dedicated": {1: 0.55, 2: 0.75, 3: None}}
    assert crossing_of(bench, curves) == found


def test_ranks_set_means_against_parameters(three: Path) -> None:
    succeed("experiment", "ranks", three, "--rank", "1", "--rank", "3")
    finding = found("ranks")
    sizes = {row[0]: row[1] for row in finding.rows}
    assert sizes == {"pretrained": "0", "dedicated": "86", "ssf": "40", "lora (rank 1)": "35", "lora (rank 3)": "105"}
    lora, ssf = finding.charts[0].series
    assert (lora.x, ssf.x) == ((35, 105), (40,))
    assert [level.name for level in finding.charts[0].levels] == ["pretrained", "dedicated"]


def test_similarity_has_a_panel_for_each_number_and_a_point_for_each_site(three: Path) -> None:
    succeed("experiment", "similarity", three)
    finding = found("similarity")
    assert [chart.title for chart in finding.charts] == ["1 available", "2 available"]
    assert all(len(series.x) == 4 for chart in finding.charts for series in chart.series)
    assert [row[0] for row in finding.rows] == ["a", "b", "c", "a+b", "a+c", "b+c"]


def test_confidence_is_calibrated_on_one_half_and_measured_on_the_other(three: Path) -> None:
    text = succeed("experiment", "confidence", three, "--coverage", "0.8", "--risk", "0.4")
    finding = found("confidence")
    assert [row[0] for row in finding.rows] == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c", "mean"]
    assert "on 20 rows of the test part, measured on the other 20" in text
    assert "60.0% to 95.0%" in finding.facts["coverage"]  # binomial, 12 to 19 of 20
    assert "wrong" in finding.header
    assert [series.name for series in finding.charts[0].series] == ["rows like those", "calibrated on rows trained on"]
    assert "by groups" not in finding.header, "every row is its own group"
    [ends] = re.findall(r"mean of a combination is ([\d.]+)% to ([\d.]+)%", text)
    assert [float(end) for end in ends] == pytest.approx([100 * 17 / 21] * 2, abs=2.5)  # of 20 losses the 17th


def test_unseen_combinations_are_served_by_the_nearest_set_or_by_summed_rows(three: Path) -> None:
    succeed("experiment", "unseen", three)
    finding = found("unseen")
    assert [row[0] for row in finding.rows if row[1] == "no"] == ["b", "a+b", "b+c"]
    assert finding.header[2:5] == ("pretrained", "nearest", "additive")
    assert finding.header[5:] == ("independent, all trained", "additive, all trained")
    origins = {path.name.rsplit("-", 1)[0]: json.loads((path / "origin.json").read_text("utf-8"))["adapters"]
               for path in Path("run/columns").iterdir() if "pretrained" not in path.name}  # fmt: skip
    assert (
        origins["nearest"]["adapt"]["combinations"] == origins["additive"]["adapt"]["combinations"] == ["a", "c", "a+c"]
    )
    for way, policy in (("nearest", "nearest"), ("additive", "error")):
        assert origins[way]["adapt"]["combinations"] == ["a", "c", "a+c"]
        assert origins[way]["adapt"]["untrained"] == policy


def test_what_was_trained_for_one_experiment_is_used_by_the_next(three: Path) -> None:
    succeed("experiment", "similarity", three)
    error = run("experiment", "degradation", three).stderr
    assert "ssf: training" not in error
    assert "ssf: 7 of 7 combinations kept" in run("experiment", "degradation", three).stderr


def test_a_modality_that_would_never_be_missing_is_refused_before_anything_is_trained(three: Path) -> None:
    message = fail(1, "experiment", "unseen", three, "--leave-out", "b", "--leave-out", "c", "--leave-out", "b+c")
    assert "a would never be missing in training" in message
    assert "unknown modality 'd'" in fail(2, "experiment", "unseen", three, "--leave-out", "d")
    assert not Path("run").exists()


def test_a_finding_is_drawn_and_written_from_its_data_alone(tmp_path: Path) -> None:
    series = Series(name="one", look="adapted", x=(10, 100), y=(1, 2), labels=("a", "$b"))
    flat, here = Level(name="flat", look="pretrained", y=1.5), Mark(x=10, y=1, text="here")
    chart = Chart(title="t", x_label="x", y_label="y", series=(series,), log_x=True, levels=(flat,), marks=(here,))
    pair = series.model_copy(update={"x": (0, 1)})
    bars = Chart(x_label="x", y_label="y", series=(pair,), kind="bars", ticks=("l", "r"))
    finding = Finding(experiment="e", title="T", facts={"seed": "0"}, header=("h", "v"), rows=(("r", "1"),),
                      says=("It is so.",), charts=(chart, bars))  # fmt: skip
    json_file, text, picture = write_finding(finding, tmp_path / "e.png")
    assert Finding.load(json_file) == finding
    assert "![T](e.png)\n\nIt is so.\n\n| h | v |" in text.read_text("utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    first, second = draw(finding).axes
    assert [text.get_text() for text in first.texts] == ["a", r"\$b", "here"]
    assert [bar.get_height() for bar in second.patches] == [1, 2]
    assert "It is so." in str(finding)


def test_corruption_measures_every_kind_at_every_severity_between_both_ends(three: Path) -> None:
    asked = ("--kind", "noise", "--kind", "bias", "--train-on", "noise")
    text = succeed("experiment", "corruption", three, *asked)
    finding = found("corruption")
    with Path("run/experiments/corruption.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 3 * 2 * 5 * 3  # modalities x kinds x severities x combinations of several that have it
    succeed("compare", three, "--set", "compare=ssf")
    results = ss.Results.load("run/comparison.json")
    for cell in cells:
        rest = results["+".join(one for one in cell["combination"].split("+") if one != cell["modality"])]
        assert float(cell["missing"]) == pytest.approx(rest.compared["ssf"], abs=1e-5)
        assert float(cell["better"]) == max(float(cell["kept"]), float(cell["missing"]))
        if cell["severity"] == "5":
            assert cell["quality"] == cell["missing"]
    assert len({cell["kept"] for cell in cells}) > 5
    rows = {row[0]: row[1:] for row in finding.rows}
    assert list(rows) == ["noise (trained)", "bias", *(f"severity {level}" for level in range(1, 6)),
                          "a+b", "a+c", "a+b+c", "b+c", "held-out kinds", "all kinds"]  # fmt: skip
    bias = [cell for cell in cells if cell["kind"] == "bias"]
    ways = ("kept", "missing", "better", "quality", "trained", "auto", "auto-trained")
    for column, way in enumerate(ways, start=1):
        mean = sum(float(cell[way]) for cell in bias) / len(bias)
        assert rows["bias"][column] == rows["held-out kinds"][column] == f"{100 * mean:.1f}"
    assert [chart.title for chart in finding.charts] == ["held-out kinds", "kinds trained on"]
    assert "On kinds that no training saw: kept as they are" in text
    assert finding.facts["false alarms"].startswith("1.5 % asked; ")  # 64 training rows can tell no fewer
    again = run("experiment", "corruption", three, *asked)
    assert "training" not in again.stderr
    origins = [json.loads(path.read_text("utf-8")) for path in Path("run/columns").glob("ssf-degraded-*/origin.json")]
    assert origins[0]["adapters"]["train"]["degrade"] == {name: ["noise"] for name in "abc"}


def test_corruption_gives_the_very_quality_to_a_degraded_batch(three: Path) -> None:
    job = open_job(str(three))
    ensure_network(job)
    bench = Bench(job)
    batches = WithQuality(Degraded(bench, make_degrader(bench, ["bias"]), "b", "bias", 2))
    [(given, _)] = list(batches)
    [(healthy, _)] = list(job.test_batches())
    assert torch.equal(given["present"], torch.tensor([1.0, 0.6, 1.0]).expand(40, -1))
    assert torch.equal(given["a"], healthy["a"])
    spread = torch.stack([job.data.train[row][0]["b"] for row in range(64)]).std(0, correction=0)
    assert torch.allclose((given["b"] - healthy["b"]).abs(), 0.82 * spread.expand(40, -1), atol=1e-4)


def test_corruption_measures_what_the_monitors_find(three: Path) -> None:
    job = open_job(str(three), changes=["train.epochs=1", "evaluate.batch_size=16"])
    ensure_network(job)
    work = _prepare(Bench(job), ["bias"])
    for robust in (work.plain, work.faded):
        sensors = {
            name: replace(one, limits=dict.fromkeys(one.limits, -1.0 if name == "b" else 2.0), choice=Choice(2.0, 2.0))
            for name, one in robust.monitor.sensors.items()
        }
        robust.monitor = replace(robust.monitor, sensors=sensors)  # it doubts every b, and drops what it doubts
    modalities = work.plain.modalities
    found = watched(work, job.test_batches(), [modalities.combination(name) for name in ("a+b", "a+c")])
    results = ss.evaluate(
        work.plain, job.test_batches(), metric="accuracy", combinations=["a", "a+c"], compared={"faded": work.faded}
    )
    for combination, served in (("a+b", "a"), ("a+c", "a+c")):
        row = results[served]
        assert found[combination] == pytest.approx({"plain": row.adapted, "faded": row.compared["faded"]})
    assert alarms(work.plain, job.test_batches()) == (40, 120)


def test_corruption_refuses_what_it_cannot_measure(three: Path) -> None:
    assert "Did you mean 'noise'" in fail(1, "experiment", "corruption", three, "--kind", "nois")
    assert not Path("run").exists()
    message = fail(1, "experiment", "corruption", three, "--kind", "blur")
    assert "none of blur fits a modality of a, b, c" in message


def test_calibration_sets_what_is_reached_against_time_and_rows(three: Path) -> None:
    succeed("experiment", "calibration", three, "--rows", "16", "--rows", "64")
    finding = found("calibration")
    rows = {row[0]: row for row in finding.rows}
    assert [row[1] for row in rows.values()] == ["", *["no"] * 4, "yes", "yes", "no", "no"]
    assert all(float(row[2]) >= 0 for row in rows.values())
    over_time, over_rows, by_site = finding.charts
    assert [series.name for series in over_time.series] == ["without labels", "with labels"]
    assert over_rows.series[0].x == (16, 64)
    assert rows["calibrated: rank 4, 64 rows"][3] == rows["calibrated: rank 4"][3]  # all rows: the same sets
    assert [f"{value:.1f}" for value in over_rows.series[0].y] == [
        rows[f"calibrated: rank 4, {number} rows"][3] for number in (16, 64)
    ]
    results = {series.name: series.y for series in by_site.series}
    assert len(results["any linear map"]) == len(results["rank 4"]) == 4
    assert max(max(values) for values in results.values()) <= 100
    succeed("experiment", "calibration", three, "--rows", "16")
    assert found("calibration").rows[1:7] == finding.rows[1:7]  # nothing is made again, and the time it took is kept
    assert doubled(64) == [16, 32]
