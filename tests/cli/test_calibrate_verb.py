"""`subsense calibrate`: sets without labels, kept beside those that were trained."""

import json
from pathlib import Path

import subsense as ss
from command_line import OWN_RECIPE, run, succeed


def means(folder: str = "run", name: str = "results") -> dict[str, float | None]:
    results = ss.Results.load(Path(folder, f"{name}.json"))
    return {column: results.mean().value(column) for column in results.columns}


def test_calibrated_sets_are_the_adapted_column_where_nothing_was_trained(own: Path) -> None:
    text = succeed("calibrate", own)
    for word in ("2 combinations, fitted on 38 rows without labels", "verdict", "run/calibrated", "subsense evaluate"):
        assert word in text
    succeed("evaluate", own, "--set", "evaluate.dedicated=null", "--set", "evaluate.finetuned=null")
    assert set(means()) == {"pretrained", "adapted"}


def test_calibrated_sets_have_a_column_beside_trained_ones(own: Path) -> None:
    succeed("train", own)
    succeed("calibrate", own)  # the network that `train` made stays
    quick = ["--set", "evaluate.dedicated=null", "--set", "evaluate.finetuned=null"]
    assert "calibrated" in succeed("evaluate", own, *quick)
    assert set(means()) == {"pretrained", "adapted", "calibrated"}
    succeed("evaluate", own, *quick, "--set", "calibrate.ridge=0.5")  # other sets than those that are kept
    assert set(means()) == {"pretrained", "adapted"}


def test_the_recipe_says_how(own: Path) -> None:
    changes = "calibrate.method=ssf", "calibrate.sharing=independent", "calibrate.rows=20", "calibrate.held_out=0"
    done = succeed("calibrate", own, "--json", *(part for change in changes for part in ("--set", change)))
    report = json.loads(done)["calibration"]
    assert (report["method"], report["rows"], report["held_out"]) == ("ssf", 20, 0)


def test_a_fault_of_the_recipe_names_the_key(own: Path) -> None:
    result = run("calibrate", own, "--set", "calibrate.held_out=1")
    assert result.exit_code == 2
    assert "calibrate.held_out" in result.stderr


def test_a_comparison_may_hold_calibrated_methods(own: Path) -> None:
    own.write_text(OWN_RECIPE + "\ncompare: [ssf, {method: ssf, calibrated: true}]\n", "utf-8")
    text = succeed("compare", own)
    assert "ssf, calibrated" in text
    first = means(name="comparison")
    assert succeed("compare", own) == text
    assert means(name="comparison") == first
