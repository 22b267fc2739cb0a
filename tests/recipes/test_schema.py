"""Recipes: what a file may say, and what is said about a file that may not."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import subsense as ss
from subsense.degradation import DEGRADATIONS
from subsense.errors import RecipeError
from subsense.recipes.faults import part_in
from subsense.recipes.reading import load_recipe, parse_recipe, shipped_recipes
from subsense.recipes.run import fresh_network, make_layers, make_methods, plan_network
from subsense.recipes.run.resolve import load_adapters
from subsense.recipes.schema import Fit, Recipe
from subsense.recipes.values import Choice
from subsense.testing import CHANNEL_FIRST
from subsense.training import TrainOptions

GOOD = """
output: runs/try
network:
  name: digits-transformer
data:
  name: digits
adapt:
  method: ssf
pretrain: {epochs: 1, lr: 1e-3, batch_size: 8}
train:
  epochs: 2
  lr: 1e-2
  batch_size: 8
"""

THREE_FAULTS = """
output: runs/try
network:
  name: digits-transfomer
data:
  name: digits
adapt:
  method: ssf
  shraing: additive
pretrain: {epochs: 1, lr: 1e-3, batch_size: 8}
train:
  epochs: 2.5
  lr: 1e-2
  batch_size: 8
"""


def faults_of(*changes: str, text: str = GOOD) -> tuple[str, ...]:
    """Give the faults of a recipe that is good but for the changes."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "try.yaml", changes)
    return caught.value.faults


# ---- good recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.name == name.removesuffix("-small")
    assert shipped_recipes()[name].read_text("utf-8").startswith("# ")


def test_file_and_shipped_name_give_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(shipped_recipes()["digits"].read_text("utf-8"), "utf-8")
    assert load_recipe(copy) == load_recipe("digits")


def test_exponent_without_a_point_is_a_number() -> None:
    assert yaml.safe_load("1e-2") == "1e-2", "PyYAML reads numbers as YAML 1.2 does: our own rule can go"
    assert parse_recipe(GOOD).train.lr == 0.01


@pytest.mark.parametrize(
    ("written", "methods"),
    [
        ("ssf", [("ssf", {})]),
        ("{lora: {rank: 2}}", [("lora", {"rank": 2})]),
        ("[ssf, {lora: {rank: 2, alpha: 4}}]", [("ssf", {}), ("lora", {"rank": 2, "alpha": 4})]),
        ("[bitfit]", [("bitfit", {})]),
    ],
)
def test_method_is_a_name_or_one_with_options_or_a_list(written: str, methods: list[tuple[str, object]]) -> None:
    recipe = parse_recipe(GOOD, changes=[f"adapt.method={written}"])
    assert [(method.name, method.options) for method in recipe.adapt.method] == methods


def test_a_common_row_holds_a_method_with_options_of_its_own() -> None:
    written = "[shift, {common: {adapter: {lora: {rank: 8}}, include: ['encoders.*']}}]"
    recipe = parse_recipe(GOOD, changes=[f"adapt.method={written}", "adapt.sharing=additive"])
    assert make_methods(recipe) == [ss.Shift(), ss.Common(ss.LoRA(8), ["encoders.*"])]
    assert [method.words for method in recipe.adapt.method] == ["shift", "common lora (rank 8)"]
    kept = recipe.model_dump(mode="json")["adapt"]["method"][1]["options"]  # which says whether sets are made again
    assert kept == {"adapter": {"name": "lora", "options": {"rank": 8}}, "include": ["encoders.*"]}


@pytest.mark.parametrize(("written", "words"), [
    ("{common: {adapter: {lora: {rnk: 2}}}}", "unknown option 'rnk'; known: alpha, rank. Did you mean 'rank'"),
    ("{common: {adapter: {lora: {rank: 0}}}}", "expected rank to be an integer above 0"),
    ("{common: {adapter: lorra}}", "unknown method 'lorra'"),
    ("{common: {}}", "lacks the option 'adapter'"),
])  # fmt: skip
def test_what_a_common_row_cannot_hold_is_refused(written: str, words: str) -> None:
    with pytest.raises(ss.RecipeError, match=words):
        parse_recipe(GOOD, changes=[f"adapt.method={written}"])


def test_layer_classes_are_declared_as_in_python() -> None:
    declared = (
        "{LayerClass: {cls: 'subsense.testing:ChannelFirstNorm', kind: norm, axis: 1, weight: gain, bias: offset}}"
    )
    [layer] = make_layers(parse_recipe(GOOD, changes=[f"adapt.layers=[{declared}]"]))
    assert layer == CHANNEL_FIRST


def test_an_adapter_of_ones_own_is_named_by_its_place(tmp_path: Path) -> None:
    recipe = parse_recipe(GOOD, changes=["adapt.method={own_adapters:GroupScale: {size: 1}}"])
    assert [method.words for method in recipe.adapt.method] == ["GroupScale (size 1)"]
    planned = plan_network(recipe)
    assert {adapter.name for site in planned.sites for adapter in site.adapters} == {"group-scale"}
    network = fresh_network(recipe)
    ss.save(
        ss.adapt(
            network, dict.fromkeys(("nw", "ne", "sw", "se"), "1 4 4"), method=make_methods(recipe), combinations=["nw"]
        ),
        tmp_path,
    )
    assert load_adapters(recipe, tmp_path, fresh_network(recipe)).plan.adapters == planned.adapters


def test_a_place_that_holds_no_adapter_is_a_fault() -> None:
    assert "Identity: expected a frozen dataclass" in " ".join(faults_of("adapt.method=[{torch.nn:Identity: {}}]"))


def test_a_recipe_with_chosen_combinations_is_written_as_json() -> None:
    recipe = parse_recipe(GOOD, changes=["adapt.combinations=[nw, nw+ne]"])
    assert recipe.adapt.combinations == ("nw", "nw+ne")
    assert '"combinations":["nw","nw+ne"]' in recipe.model_dump_json(include={"adapt"})


def test_distillation_mixes_with_a_task_loss() -> None:
    recipe = parse_recipe(
        GOOD, changes=["train.loss={distill: {temperature: 4, task: cross_entropy, task_weight: 0.5}}"]
    )
    assert recipe.train.loss.options["task"].name == "cross_entropy"


def test_changes_are_as_if_the_file_said_so() -> None:
    recipe = parse_recipe(GOOD, changes=["train.epochs=7", "seed=3", "evaluate.dedicated=[nw, ne]"])
    assert (recipe.train.epochs, recipe.seed, recipe.evaluate.dedicated) == (7, 3, ("nw", "ne"))


def test_a_recipe_can_be_written_as_json() -> None:
    recipe = parse_recipe(GOOD, changes=["adapt.combinations=[nw, nw+ne]", "adapt.call={nw: a, ne: [b, c]}"])
    assert recipe.model_dump(mode="json")["adapt"]["combinations"] == ["nw", "nw+ne"]


def test_nothing_of_a_recipe_can_be_changed() -> None:
    recipe = parse_recipe(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.epochs = 3


def test_options_of_training_are_those_of_the_library() -> None:
    ours = {name: field.default for name, field in Fit.model_fields.items() if not field.is_required()}
    theirs = {field.name: field.default for field in fields(TrainOptions)}
    del ours["loss"]
    assert ours == {name: theirs[name] for name in ours}
    assert set(theirs) - set(Fit.model_fields) == {
        "folder", "log_with", "patience", "progress", "resume", "save_every", "seed",
    }  # fmt: skip


# ---- faults


def test_three_faults_are_reported_at_once_each_with_its_place() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(THREE_FAULTS, "try.yaml")
    network, sharing, epochs = caught.value.faults
    assert network.startswith("line 4, network.name: unknown network 'digits-transfomer'")
    assert "Did you mean 'digits-transformer'?" in network
    assert sharing.startswith("line 9, adapt.shraing: unknown key 'shraing'")
    assert "Did you mean 'sharing'?" in sharing
    assert epochs == "line 12, train.epochs: expected it to be a valid integer, but found 2.5"
    assert str(caught.value).startswith("try.yaml: 3 faults\n  - line 4")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("seed=-1", "seed: expected it to be greater than or equal to 0, but found -1"),
        ("network.name=3", "network.name: expected it to be a valid string, but found 3"),
        ("network.options={wdth: 3}", "unknown option 'wdth'; known: "),
        ("network.name=subsense.nowhere:make", "cannot import 'subsense.nowhere:make'"),
        ("network.name=math:sqroot", "Did you mean 'sqrt'?"),
        ("network.name=copy:replace_nothing", "cannot import 'copy:replace_nothing'"),
        ("network.name=copy:deepcopy", "network.options: lacks the option 'x'"),
        ("data.name=digit", "unknown data set 'digit'"),
        ("data.options={sed: 3}", "Did you mean 'seed'?"),
        (
            "adapt.method=sff",
            "unknown method 'sff'; known: bitfit, common, embedding, lora, norm, scale, shift, ssf. "
            "Did you mean 'ssf'?",
        ),
        ("adapt.method={lora: {rnk: 2}}", "unknown option 'rnk'; known: alpha, rank. Did you mean 'rank'?"),
        ("adapt.method={lora: {rank: 0}}", "expected rank to be an integer above 0"),
        ("adapt.method={lora: 4}", "expected a name, or one `name: {option: value}`"),
        ("adapt.method=[]", "expected a name, or one `name: {option: value}`"),
        ("adapt.sharing=addtive", "'additive', but found 'addtive'. Did you mean 'additive'?"),
        ("adapt.fill=zero", "Did you mean 'zeros'?"),
        ("adapt.call=kwarg", "but found 'kwarg'. Did you mean 'kwargs'?"),
        ("adapt.combinations=nw", "expected 'all', or a list of combinations"),
        ("adapt.include=head", "adapt.include: "),
        ("adapt.layers=[LayrClass]", "unknown declaration 'LayrClass'"),
        ("adapt.layers=[LayerClass]", "lacks the option 'cls'"),
        (
            "adapt.layers=[{LayerClass: {cls: 'torch.nn:ReLU', kind: norm, axes: 1}}]",
            "Did you mean 'axis'?; lacks the option 'axis'",
        ),
        (
            "adapt.layers=[{LayerClass: {cls: ReLU, kind: norm, axis: 1}}]",
            "written 'package.module:name', but got 'ReLU'",
        ),
        ("adapt.layers=[{LayerClass: {cls: 'math:sqrt', kind: norm, axis: 1}}]", "expected package.module:Class"),
        ("adapt.modalities={rgb: 3 H W}", "expected at least two modalities"),
        ("train.epochs=true", "train.epochs: expected it to be a valid integer, but found True"),
        ("train.epochs='2'", "train.epochs: expected it to be a valid integer, but found '2'"),
        ("train.lr=.nan", "train.lr: "),
        ("train.lr=.inf", "train.lr: "),
        ("train.schedule=cosinus", "Did you mean 'cosine'?"),
        ("train.loss=cross_entrpy", "Did you mean 'cross_entropy'?"),
        ("train.loss={cross_entropy: {weight: heavy}}", "train.loss.options: "),
        ("train.loss={distill: {temperature: -1}}", "temperature: expected a number above 0"),
        ("evaluate.metric=acuracy", "Did you mean 'accuracy'?"),
        ("evaluate.dedicated=3", "but found 3"),
        ("pretrain=null", "network.checkpoint is not given, so say here how the network is trained"),
        ("train=null", "train: "),
    ],
)
def test_fault_is_explained(change: str, fault: str) -> None:
    [found] = faults_of(change)
    assert fault in found


def test_dedicated_networks_need_to_know_how_they_are_trained() -> None:
    [fault] = faults_of("pretrain=null", "network.checkpoint=mine.safetensors", "evaluate.dedicated=all")
    assert "the recipe has no pretrain" in fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected `key: value` lines, but found None"),
        ("- a\n- b", "expected `key: value` lines, but found ['a', 'b']"),
        ("seed: [1", "not YAML: "),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("seed: !!python/object:os.system 1", "not YAML: "),
    ],
)
def test_file_that_is_no_recipe(text: str, fault: str) -> None:
    [found] = faults_of(text=text)
    assert fault in found


@pytest.mark.parametrize("change", ["train.epochs", "=3", "train.=3"])
def test_change_of_another_form(change: str) -> None:
    [fault] = faults_of(change)
    assert fault == f"--set {change}: expected key.path=value, such as train.epochs=2"


def test_change_that_is_no_yaml_or_goes_into_a_value() -> None:
    assert "not YAML" in faults_of("train.epochs=[1")[0]
    assert "output is no group of keys, but 'runs/try'" in faults_of("output.folder=3")[0]


def test_every_missing_key_is_named() -> None:
    faults = faults_of(text="seed: 0")
    assert [fault.partition(":")[0] for fault in faults] == ["network", "data", "adapt", "train", "output"]


def test_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such file, and unknown shipped recipe 'digit'.*Did you mean 'digits'"):
        load_recipe("digit")
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(broken)


# ---- the user's own code


def test_own_factories_are_checked_without_being_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_things.py").write_text("def network(width): 1 / 0\ndef data(root, size=3): 1 / 0\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["network.name=own_things:network", "data.name=own_things:data"]
    assert isinstance(parse_recipe(GOOD, changes=[*own, "network.options={width: 3}"]), Recipe)
    assert faults_of(*own)[0] == "line 3, network.options: lacks the option 'width'"
    assert "unknown option 'sise'" in faults_of(*own, "network.options={width: 3}", "data.options={sise: 3}")[0]


# ---- degradations


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("noise", ("noise",)),
        ("[noise, stuck]", ("noise", "stuck")),
        ("all", tuple(DEGRADATIONS)),
        ("{nw: all, se: [blur, fog]}", {"nw": tuple(DEGRADATIONS), "se": ("blur", "fog")}),
    ],
)
def test_degradations_are_named_for_all_modalities_or_for_each(said: str, read: object) -> None:
    assert parse_recipe(GOOD, changes=[f"train.degrade={said}"]).train.degrade == read


def test_an_unknown_degradation_is_a_fault_with_the_near_miss() -> None:
    assert "Did you mean 'noise'" in faults_of("train.degrade=[nois]")[0]
    assert "unknown degradation 'blurr'" in faults_of("train.degrade={nw: [blurr]}")[0]


def test_what_was_trained_before_there_were_degradations_is_still_known() -> None:
    assert "degrade" not in parse_recipe(GOOD).model_dump_json(include={"train"})
    text = parse_recipe(GOOD, changes=["train.degrade=noise"]).model_dump_json(include={"train"})
    assert json.loads(text)["train"]["degrade"] == ["noise"]


# ---- the page of all keys

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def keys_of(part: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Give every key of the schema with its field; shared groups stand once, under `train`."""
    keys: dict[str, FieldInfo] = {}
    for name, field in part.model_fields.items():
        inner = part_in(field.annotation)
        keys[prefix + name] = field
        if inner is not None and inner is not Fit and not issubclass(inner, Choice):
            keys |= keys_of(inner, f"{prefix}{name}.")
    return keys


def told() -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {key: default for key, default, _ in rows}


def test_the_page_has_every_key_of_the_schema_and_no_other() -> None:
    assert set(told()) == set(keys_of(Recipe))


@pytest.mark.parametrize("key", sorted(keys_of(Recipe)))
def test_the_page_tells_the_default(key: str) -> None:
    field, default = keys_of(Recipe)[key], told()[key]
    if field.is_required():
        assert default == "needed"
    elif default != "see below":
        value = field.get_default(call_default_factory=True)
        plain = value.name if isinstance(value, Choice) else list(value) if isinstance(value, tuple) else value
        assert yaml.safe_load(default.strip("`")) == plain


def test_the_example_of_the_page_is_a_comparison() -> None:
    [text] = re.findall(r"```yaml\n(compare:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    recipe = parse_recipe(GOOD + text)
    assert [one.heading for one in recipe.compare] == ["ssf", "ssf, independent", "LoRA"]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_has_a_plan(name: str) -> None:
    assert plan_network(load_recipe(name)).sites
