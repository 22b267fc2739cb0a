import json
import math

import pytest

from sample_results import make_results
from subsense.errors import ResultsError
from subsense.evaluation.results import AdapterFacts, Reliability, Results, Row


def test_the_table_as_printed():
    assert str(make_results()) == (
        "made by hand\n"
        "measure   mIoU in %, more is better\n"
        "network   Net, 1,000 parameters, 0123456789ab\n"
        "adapters  ssf, independent sharing: 2 rows of 7 parameters (0.700% of it), 14 in all\n"
        "missing   filled with zeros\n"
        "rows      40 for each combination\n"
        "seed      3\n"
        "\n"
        "combination        pretrained  adapted  dedicated  recovery\n"
        "-----------------  ----------  -------  ---------  --------\n"
        "rgb                      50.0     70.0       75.0       80%\n"
        "depth                    20.0     40.0       60.0       50%\n"
        "rgb+depth                80.0     80.0          –         –\n"
        "-----------------  ----------  -------  ---------  --------\n"
        "mean (incomplete)        35.0     55.0       67.5       62%"
    )


def test_the_convention_is_kept_and_told(tmp_path):
    results = make_results(convention="every pixel alike")
    assert str(results).splitlines()[1:3] == ["measure   mIoU in %, more is better", "counting  every pixel alike"]
    assert Results.load(results.save(tmp_path / "results.json")).convention == "every pixel alike"
    older = json.loads(make_results().model_dump_json())
    del older["convention"]
    assert Results.parse(older).convention == ""


def test_every_name_of_a_fact_is_apart_from_its_words():
    trusted = Reliability(coverage=0.9, set_size=1.2)
    rows = (
        Row(combination="rgb", count=40, adapted=0.5, reliability=trusted),
        Row(combination="depth", count=40, not_finite={"adapted": 40}, adapted=math.nan),
    )
    results = make_results(rows=rows)
    lines = str(results).split("\n\n")[0].splitlines()[1:]
    assert {"confidence", "not scored"} <= set(results.facts)
    shown = {name: words for name, words in results.facts.items() if name != "versions"}
    assert lines == [f"{name:12}{words}" for name, words in shown.items()]


def test_counts_stand_in_the_table_where_they_differ():
    rows = (Row(combination="rgb", count=1200, adapted=0.5), Row(combination="rgb+depth", count=7, adapted=0.6))
    header, cells = make_results(rows=rows).table()
    assert header == ["combination", "count", "adapted"]
    assert cells == [["rgb", "1,200", "50.0"], ["rgb+depth", "7", "60.0"]]


def test_fifteen_combinations_of_long_names_fit_80_columns():
    names = ("skeleton", "accelerometer", "gyroscope", "depth")
    values = {"+".join(names[:size]): (0.1, 0.2, 0.3) for size in (1, 2, 3, 4)}
    table = str(make_results(names, values)).split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 80


def test_recovery_is_oriented():
    up = make_results(values={"rgb": (0.5, 0.7, 0.75)})
    down = make_results(values={"rgb": (1.5, 1.3, 1.25)}, higher_is_better=False, unit="value")
    assert up.recovery(up["rgb"]) == pytest.approx(0.8)
    assert down.recovery(down["rgb"]) == pytest.approx(0.8)
    worse = make_results(values={"rgb": (1.5, 1.7, 1.25)}, higher_is_better=False, unit="value")
    assert worse.recovery(worse["rgb"]) == pytest.approx(-0.8)


@pytest.mark.parametrize(
    "row", [(0.5, 0.7, None), (0.5, None, 0.7), (0.5, 0.7, 0.5), (0.5, 0.7, 0.4), (None, 0.7, 0.9)]
)
def test_recovery_is_undefined_where_nothing_was_lost_or_measured(row):
    results = make_results(values={"rgb": row})
    assert results.recovery(results["rgb"]) is None


def test_a_mean_is_never_one_of_other_combinations_than_its_neighbours():
    values = {"rgb": (0.5, 0.7, 0.75), "depth": (0.2, 0.4, None), "rgb+depth": (0.8, 0.8, None)}
    results = make_results(values=values)
    assert (results.summary.pretrained, results.summary.dedicated) == (pytest.approx(0.35), None)
    assert results.mean(["rgb"]).dedicated == 0.75
    assert results.mean([]) is None


def test_rows_are_found_in_any_order_of_names():
    results = make_results()
    assert results["depth+rgb"] == results[("rgb", "depth")] == results["rgb+depth"]
    with pytest.raises(ResultsError, match=r"no row 'dept'.*Did you mean 'depth'"):
        results["dept"]


def test_saved_and_loaded_results_are_equal(tmp_path):
    results = make_results()
    path = results.save(tmp_path / "runs" / "results.json")
    assert Results.load(path) == results
    assert list(path.parent.iterdir()) == [path]
    assert json.loads(path.read_text())["format"] == 4


def test_nan_and_infinity_survive(tmp_path):
    loaded = Results.load(make_results(values={"rgb": (math.nan, math.inf, None)}).save(tmp_path / "results.json"))
    assert math.isnan(loaded["rgb"].pretrained)
    assert loaded["rgb"].adapted == math.inf
    assert "nan" in str(loaded)


def test_a_failing_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = make_results().save(tmp_path / "results.json")
    before = path.read_bytes()
    monkeypatch.setattr("subsense.evaluation.results.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_results(title="another").save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        make_results().metric = "accuracy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"format": 5}, "written by a newer subsense, as format 5.*upgrade subsense"),
        (lambda data: {key: value for key, value in data.items() if key != "format"}, "expected results of subsense"),
        (lambda data: data | {"metric": None}, "metric: Input should be a valid string"),
        (lambda data: data | {"colour": "red"}, "colour: Extra inputs"),
        (lambda data: [data], "expected results of subsense"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, change, message):
    path = make_results().save(tmp_path / "results.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ResultsError, match=message) as error:
        Results.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_absent_or_no_json(tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        Results.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"format": 1, "rows": [')
    with pytest.raises(ResultsError, match="can't be read"):
        Results.load(tmp_path / "half.json")


def test_a_file_of_format_1_is_read():
    data = json.loads(make_results().model_dump_json())
    old = {key: value for key, value in data.items() if key != "compared"} | {
        "format": 1,
        "rows": [{key: value for key, value in row.items() if key != "compared"} for row in data["rows"]],
    }
    assert Results.parse(old) == make_results()


# ---- a comparison of methods


def make_comparison(**changes):
    values = {"rgb": (0.5, 0.75, 0.6, 0.7), "depth": (0.2, 0.6, 0.3, None), "rgb+depth": (0.8, None, 0.8, 0.8)}
    facts = {"sharing": "independent", "fill": "zeros", "num_rows": 2}
    return make_results(
        adapter=None,
        compared={
            "scale": AdapterFacts(method="scale", num_per_row=7, num_total=14, **facts),
            "lora (rank 4)": AdapterFacts(method="lora (rank 4)", num_per_row=30, num_total=60, **facts),
        },
        rows=tuple(
            Row(combination=name, count=40, pretrained=pretrained, dedicated=dedicated,
                compared={"scale": scale, "lora (rank 4)": lora})
            for name, (pretrained, dedicated, scale, lora) in values.items()
        ),
        **changes,
    )  # fmt: skip


def test_a_comparison_has_a_column_for_each_method_and_ends_with_what_they_cost():
    table = str(make_comparison()).split("\n\n")[1]
    assert table == (
        "combination        pretrained  dedicated  scale  lora (rank 4)\n"
        "-----------------  ----------  ---------  -----  -------------\n"
        "rgb                      50.0       75.0   60.0           70.0\n"
        "depth                    20.0       60.0   30.0              –\n"
        "rgb+depth                80.0          –   80.0           80.0\n"
        "-----------------  ----------  ---------  -----  -------------\n"
        "mean (incomplete)        35.0       67.5   45.0              –\n"
        "recovery (mean)             –          –    31%              –\n"
        "parameters (set)            –      1,000      7             30\n"
        "parameters (all)            –      2,000     14             60"
    )


def test_a_comparison_survives_saving_and_names_each_method_among_the_facts(tmp_path):
    comparison = make_comparison()
    assert Results.load(comparison.save(tmp_path / "results.json")) == comparison
    assert comparison.facts["scale"] == "scale, independent sharing: 2 rows of 7 parameters (0.700% of it), 14 in all"
    assert "adapters" not in comparison.facts
    assert comparison.recovery(comparison["rgb"], "scale") == pytest.approx(0.4)


def test_an_older_format_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("subsense.evaluation.results.FORMAT", 6)
    monkeypatch.setattr(
        "subsense.evaluation.results._UPGRADES",
        {
            4: lambda data: data | {"title": data["name"]},
            5: lambda data: {k: data[k] for k in data if k != "name"} | {"format": 4},
        },
    )
    data = json.loads(make_results().model_dump_json()) | {"name": "old"}
    assert Results.parse(data | {"format": 4}).title == "old"
