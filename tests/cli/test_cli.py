"""The command line: every verb, what it writes where, its exit codes, and its messages for a user's mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import subsense as ss
from command_line import OWN_RECIPE, fail, run, succeed
from subsense.degradation import DEGRADATIONS
from subsense.recipes import run as pipeline
from subsense.recipes.reading import load_recipe

VERBS = ["demo", "ls", "cp", "validate", "plan", "train", "calibrate", "evaluate", "compare", "report", "fold"]


@pytest.fixture
def trained(own: Path) -> Path:
    """Train the user's own recipe."""
    succeed("train", own)
    return own


# ---- the command line itself


def test_help_names_every_verb() -> None:
    text = succeed("--help")
    assert all(verb in text for verb in VERBS)
    for verb in VERBS:
        assert "Usage" in succeed(verb, "--help")


def test_no_verb_and_an_unknown_one_are_usage_mistakes() -> None:
    assert run().exit_code == 2
    assert "Did you mean 'train'?" in fail(2, "trian")
    assert "--outptu" in fail(2, "demo", "--outptu", "x")


def process(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line in a process of its own, by the script that a user calls."""
    command = [Path(sys.executable).with_name("subsense"), *arguments]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_process_keeps_streams_apart_and_finds_code_in_the_current_folder(own: Path) -> None:
    done = process(own.parent, "train", "own.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapters"] == "run/adapters"
    assert "training the adapter sets of 2 combinations" in done.stderr


def test_process_fails_without_a_traceback(own: Path) -> None:
    own.write_text(OWN_RECIPE.replace("additive", "addtive"), "utf-8")
    done = process(own.parent, "train", "own.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 10, adapt.sharing: expected 'independent' or 'additive'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_wait_for_anything_heavy() -> None:
    code = (
        "import sys; from subsense.cli import app; print(sorted({'yaml', 'matplotlib', 'sklearn'} & set(sys.modules)));"
        "sys.exit('subsense.recipes.run' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


# ---- ls, cp, validate, plan


def test_ls_lists_what_a_recipe_can_name() -> None:
    listing = json.loads(succeed("ls", "--json"))
    assert list(listing) == ["recipes", "data sets", "networks", "methods", "losses", "metrics", "degradations"]
    assert {"cmu-mosi", "cwfid", "digits", "utd-mhad"} <= set(listing["recipes"])
    assert {"cmu-mosi", "cwfid", "digits", "utd-mhad", "mfnet", "mcubes", "mosi", "mosei"} <= set(listing["data sets"])
    assert all(about for entries in listing.values() for about in entries.values())
    assert "digits-transformer" in succeed("ls")
    assert list(listing["degradations"]) == list(DEGRADATIONS)
    assert "a driver that hands out its last reading" in listing["degradations"]["stuck"]
    assert list(json.loads(succeed("ls", "data", "--json"))) == ["data sets"]


def test_ls_tells_of_a_data_set_without_its_files() -> None:
    text = succeed("ls", "data", "cwfid")
    assert "red '1 160 216', nir '1 160 216'" in text
    assert "label/001.png ... 060.png   0 soil, 1 crop, 2 weed" in text
    assert "names mirror images too" in succeed("ls", "data", "mfnet")
    assert json.loads(succeed("ls", "data", "utd-mhad", "--json"))["modalities"]["gyroscope"] == "100 3"
    assert "Did you mean 'cwfid'" in fail(1, "ls", "data", "cwfd")
    assert "Did you mean 'methods'" in fail(2, "ls", "method")
    assert "subsense ls data NAME" in fail(2, "ls", "networks", "cwfid-unet")


def test_cp_copies_and_does_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert succeed("cp", "digits") == "digits.yaml\n"
    assert load_recipe("digits.yaml") == load_recipe("digits")
    Path("digits.yaml").write_text("mine", "utf-8")
    assert "is there already" in fail(2, "cp", "digits")
    assert Path("digits.yaml").read_text("utf-8") == "mine"
    succeed("cp", "digits", "--force")
    assert Path("digits.yaml").read_text("utf-8") != "mine"
    Path("folder").mkdir()
    assert succeed("cp", "cwfid", "folder") == "folder/cwfid.yaml\n"
    assert succeed("cp", "cwfid", "new/other.yaml") == "new/other.yaml\n"


def test_unknown_recipe_names_the_nearest() -> None:
    for verb in ("cp", "plan", "train", "evaluate"):
        assert "Did you mean 'digits'?" in fail(2, verb, "digitts")


def test_validate_reports_all_faults_of_all_recipes(own: Path) -> None:
    assert succeed("validate", "digits", own) == f"digits: valid\n{own}: valid\n"
    own.write_text(
        OWN_RECIPE.replace("epochs: 2", "epochs: two").replace("lora", "lara").replace("seed", "sed"), "utf-8"
    )
    result = run("validate", "digits", own)
    assert (result.exit_code, result.stdout) == (2, "digits: valid\n")
    assert f"{own}: 2 faults" in result.stderr
    result = run("validate", "digits", own, "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert report["digits"] == {"valid": True, "faults": []}
    assert [fault.partition(":")[0] for fault in report[str(own)]["faults"]] == [
        "line 9, adapt.method.1.name", "line 14, train.epochs",
    ]  # fmt: skip


def test_plan_shows_sites_without_data() -> None:
    text = succeed("plan", "cwfid", "--set", "adapt.method=norm")
    assert "norm" in text
    assert "out of reach" in text
    planned = json.loads(succeed("plan", "digits", "--json"))
    assert planned["parameters_per_row"] == sum(site["parameters"] for site in planned["sites"])
    common = "adapt.method=[shift, {common: {adapter: {lora: {rank: 2}}}}]"
    planned = json.loads(succeed("plan", "digits", "--json", "--set", common, "--set", "adapt.sharing=additive"))
    assert planned["common_parameters"] == sum(site["common_parameters"] for site in planned["sites"]) > 0


def test_plan_names_a_pattern_that_matches_nothing() -> None:
    message = fail(1, "plan", "digits", "--set", "adapt.exclude=[haed]")
    assert "pattern 'haed' matches no layer" in message
    assert "Did you mean 'head'?" in message


# ---- train


def test_train_saves_network_and_sets_and_says_what_is_next(own: Path) -> None:
    text = succeed("train", own)
    assert "own_code:Network, " in text
    assert f"next      subsense evaluate {own}" in text
    assert {one.name for one in Path("run").iterdir()} == {"adapters", "network.safetensors", "trained.json"}


def test_train_twice_gives_the_same_bytes(own: Path) -> None:
    succeed("train", own, "--output", "one")
    succeed("train", own, "--output", "two")
    for file in ("network.safetensors", *(f"adapters/{one.name}" for one in Path("one/adapters").iterdir())):
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes(), file


def test_stopped_training_is_kept_and_goes_on_to_the_same_bytes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("train", own, "--output", "whole")
    monkeypatch.setattr("own_code.Loss.stop_after", 4)
    assert run("train", own).exit_code == 130
    monkeypatch.setattr("own_code.Loss.stop_after", None)
    assert Path("run/state/train/training.safetensors").is_file()
    assert "go on with --resume" in fail(1, "train", own)
    assert "first run: subsense train" in fail(1, "evaluate", own)
    succeed("train", own, "--resume")
    for file in Path("whole/adapters").iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == Path("run/adapters", file.name).read_bytes()
    assert not Path("run/state").exists()


def test_resume_keeps_a_trained_network_and_refuses_another_recipes(trained: Path) -> None:
    before = Path("run/network.safetensors").stat().st_mtime_ns
    succeed("train", trained, "--resume", "--set", "train.epochs=1")
    assert Path("run/network.safetensors").stat().st_mtime_ns == before
    assert "another seed, network, data or pretrain" in fail(1, "train", trained, "--resume", "--set", "seed=1")


def test_checkpoint_of_the_users_is_used_as_it_is(trained: Path) -> None:
    weights = load_file("run/network.safetensors")
    save_file(weights, "mine.safetensors")
    change = ("--set", "network.checkpoint=mine.safetensors", "--output", "other")
    succeed("train", trained, *change)
    assert not Path("other/network.safetensors").exists()
    save_file({name: tensor for name, tensor in weights.items() if name != "left.bias"} | {"lift.bias": torch.ones(4)},
              "mine.safetensors")  # fmt: skip
    message = fail(1, "train", trained, *change)
    assert "lacks left.bias; has lift.bias, which the network has not. Did you mean 'left.bias'?" in message
    Path("mine.safetensors").write_bytes(b"no safetensors")
    assert "expected the network's state_dict as safetensors" in fail(1, "train", trained, *change)
    Path("mine.safetensors").unlink()
    assert "no such file" in fail(1, "train", trained, *change)


@pytest.mark.parametrize(
    ("code", "change", "message"),
    [
        (2, "evaluate.dedicated=[lift]", "evaluate.dedicated: unknown modality 'lift'"),
        (2, "adapt.combinations=[left, wright]", "adapt.combinations: unknown modality 'wright'"),
        (
            1,
            "data.name=own_code:no_data",
            "own_code:no_data: expected it to return a subsense.data.Data, but found int",
        ),
        (
            1,
            "data.name=own_code:rooted",
            "own_code:rooted raised TypeError: rooted() missing 1 required positional argument: 'root'. No root was "
            "given: if it needs one, say data.root or --root.",
        ),
        (1, "data={name: own_code:rooted, root: here}", "own_code:rooted raised KeyError: 'here' (own_code.py, line "),
        (2, "network.name=own_code:no_data", "expected it to return a torch.nn.Module, but found int"),
        (1, "adapt.exclude=[heat]", "Did you mean 'head'?"),
        (2, "train.epochs=0", "train.epochs: expected it to be greater than 0"),
    ],
)
def test_mistake_is_found_before_anything_is_written(own: Path, code: int, change: str, message: str) -> None:
    assert message in " ".join(fail(code, "train", own, "--set", change).split())
    assert not Path("run").exists()


def test_mistake_leaves_an_earlier_run_as_it_was(trained: Path) -> None:
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    fail(2, "train", trained, "--set", "evaluate.dedicated=[lift]")
    fail(1, "train", trained, "--set", "data.name=own_code:no_data")
    assert before == {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}


def test_data_that_are_not_there() -> None:
    assert "cwfid: needs root=" in fail(1, "train", "cwfid", "--output", "/nonexistent/run")
    message = fail(1, "train", "cwfid", "--root", "/nonexistent", "--output", "/nonexistent/run")
    assert "/nonexistent/cwfid/train.txt" in message


# ---- evaluate, report, fold


def test_evaluate_prints_the_table_and_writes_every_form(trained: Path) -> None:
    text = succeed("evaluate", trained)
    for word in ("left", "right", "left+right", "pretrained", "adapted", "dedicated", "fine-tuned", "recovery"):
        assert word in text
    for suffix in ("json", "md", "png", "html"):
        assert Path(f"run/results.{suffix}").stat().st_size > 200
    page = Path("run/results.html").read_text("utf-8")
    assert "calibrated on 10 other rows of the test part" in page
    assert '"abstains": true' in page or '"abstains": false' in page
    results = ss.Results.load("run/results.json")
    assert results.rows[0].reliability is None
    assert results["left"].dedicated is not None
    assert set(results["left"].intervals) == {"pretrained", "adapted", "dedicated", "fine_tuned"}
    assert results["right"].dedicated is None
    assert results.seed == 0


def test_labels_that_the_data_leave_out_do_not_count(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("own_code.IGNORED", 1)
    assert json.loads(succeed("evaluate", trained, "--json"))["convention"] == "labels of 1 don't count"
    assert "counting  labels of 1 don't count" in succeed("evaluate", trained)


def test_evaluate_as_json_is_the_file(trained: Path) -> None:
    assert json.loads(succeed("evaluate", trained, "--json")) == json.loads(Path("run/results.json").read_text("utf-8"))


def test_evaluate_refuses_sets_of_another_recipe(trained: Path) -> None:
    message = fail(1, "evaluate", trained, "--set", "adapt.sharing=independent")
    assert "trained by a recipe with another seed, adapt or train" in message


def test_report_writes_what_the_ending_says(trained: Path) -> None:
    succeed("evaluate", trained, "--set", "evaluate.finetuned=null")
    files = [f"table.{suffix}" for suffix in ("md", "csv", "tex", "png", "html")]
    assert succeed("report", "run/results.json", *(word for file in files for word in ("-o", file))).split() == files
    assert all(Path(file).stat().st_size > 50 for file in files)
    assert "expected a file ending in" in fail(2, "report", "run/results.json", "-o", "table.xls")
    assert "no such file" in fail(1, "report", "nowhere.json", "-o", "table.md")


def test_folded_network_gives_what_the_set_gives(trained: Path) -> None:
    succeed("fold", trained, "left", "-o", "left.safetensors")
    succeed("fold", trained, "left", "-o", "left.pt2")
    job = pipeline.open_job(str(trained))
    robust = pipeline.load_sets(job, pipeline.pretrained(job))
    folded = pipeline.fresh_network(job.recipe)
    folded.load_state_dict(load_file("left.safetensors"))
    left = job.data.test[0][0]["left"][None]
    expected = robust.eval()({"left": left})
    torch.testing.assert_close(folded(left=left, right=torch.zeros(1, 2)), expected)
    exported = torch.export.load("left.pt2").module()
    torch.testing.assert_close(exported(left=left, right=torch.zeros(1, 2)), expected)
    succeed("fold", trained, "left", "--drop-absent", "-o", "left.pt2")
    rows = torch.stack([job.data.test[row][0]["left"] for row in range(3)])
    torch.testing.assert_close(torch.export.load("left.pt2").module()(left=rows), robust({"left": rows}))


@pytest.mark.slow
def test_folded_network_as_onnx(trained: Path) -> None:
    pytest.importorskip("onnxruntime")
    succeed("fold", trained, "right", "-o", "right.onnx")
    assert Path("right.onnx").stat().st_size > 100


def test_fold_refuses_what_it_cannot_do(trained: Path) -> None:
    message = fail(2, "fold", trained, "lift", "-o", "x.safetensors")
    assert "unknown modality 'lift'" in message
    assert "Did you mean 'left'?" in message
    assert "expected a file ending in" in fail(2, "fold", trained, "left", "-o", "x.pt")
    assert ".pt2 or .onnx" in fail(2, "fold", trained, "left", "--drop-absent", "-o", "x.safetensors")


# ---- demo and the shipped recipes


def test_demo_tells_its_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["train.epochs=1", "pretrain.epochs=1", "train.batch_size=256", "pretrain.batch_size=256"]
    monkeypatch.setattr(
        "subsense.recipes.run.job.load_recipe", lambda name, changes: load_recipe(name, [*changes, *quick])
    )
    text = succeed("demo", "--output", tmp_path / "demo", "--seed", "1")
    for line in text.splitlines()[:-12]:
        assert len(line) <= 100, line
    assert "outputs are equal" in text
    assert [line[0] for line in text.splitlines() if line[:1].isdigit() and line[1:3] == "  "] == list("123456")
    for name in ("network.safetensors", "adapters/manifest.json", "results.json", "results.png", "results.html"):
        assert (tmp_path / "demo" / name).is_file()
    assert ss.Results.load(tmp_path / "demo" / "results.json").seed == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "utd-mhad", "cwfid", "cmu-mosi"])
def test_shipped_recipe_runs_to_its_table(name: str, shared: Path, tmp_path: Path) -> None:
    where = ("--root", shared / "data", "--output", tmp_path / "run")
    succeed("train", name, *where)
    assert "recovery" in succeed("evaluate", name, *where)
