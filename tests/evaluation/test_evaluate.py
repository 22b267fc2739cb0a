import copy
import json
import math

import pytest
import torch
from torch import nn

from subsense.errors import InputError, MetricError, ModalityError, UntrainedCombination
from subsense.evaluation.evaluate import evaluate
from subsense.evaluation.metrics import build
from subsense.evaluation.results import Results
from subsense.model.adapt import adapt

MODALITIES = {"left": "4", "middle": "T 2", "right": "3"}


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.middle, self.right = nn.Linear(4, 5), nn.Linear(2, 5), nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, left, middle, right):
        return self.drop(self.left(left) + self.middle(middle).mean(1) + self.right(right))


@pytest.fixture
def robust():
    torch.manual_seed(0)
    robust = adapt(Sum(), MODALITIES)
    for parameter in robust.adapter_parameters().values():
        nn.init.normal_(parameter, std=0.5)
    robust.mark_trained(robust.combinations)
    return robust


@pytest.fixture
def batches():
    """Three batches of different sizes, complete."""
    generator = torch.Generator().manual_seed(1)

    def batch(size):
        shapes = {"left": (size, 4), "middle": (size, 3, 2), "right": (size, 3)}
        inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        return inputs, torch.randint(0, 5, (size,), generator=generator)

    return [batch(size) for size in (8, 5, 3)]


def accuracy(scores, target):
    return (scores.argmax(1) == target).float().mean().item()


def test_every_cell_is_what_one_finds_by_hand(robust, batches):
    torch.manual_seed(5)
    dedicated, finetuned = Sum().eval(), Sum().eval()
    results = evaluate(robust, batches, metric="accuracy", dedicated={"left": dedicated}, finetuned=finetuned)
    assert [row.combination for row in results.rows] == [str(one) for one in robust.modalities.combinations()]
    robust.eval()
    everything = {name: torch.cat([inputs[name] for inputs, _ in batches]) for name in MODALITIES}
    target = torch.cat([target for _, target in batches])
    for row in results.rows:
        inputs = {name: everything[name] if name in row.combination else torch.zeros_like(everything[name])
                  for name in MODALITIES}  # fmt: skip
        present = robust.modalities.present(row.combination).expand(len(target), -1)
        assert row.count == 16
        assert row.pretrained == pytest.approx(accuracy(robust.pretrained(inputs), target))
        assert row.adapted == pytest.approx(accuracy(robust(everything, present), target))
        assert row.fine_tuned == pytest.approx(accuracy(finetuned(**inputs), target))
        if row.combination == "left":
            assert row.dedicated == pytest.approx(accuracy(dedicated(**inputs), target))
        else:
            assert row.dedicated is None
    assert len({row.adapted for row in results.rows}) > 2


def test_the_facts(robust, batches):
    results = evaluate(robust, batches, metric="accuracy", seed=7, title="sums")
    assert (results.title, results.seed, results.metric, results.unit) == ("sums", 7, "accuracy", "fraction")
    assert results.modalities == MODALITIES
    assert results.network.name == "Sum"
    assert results.network.fingerprint == robust.network_fingerprint()
    assert results.network.num_parameters == sum(parameter.numel() for parameter in Sum().parameters())
    adapter = results.adapter
    assert (adapter.method, adapter.sharing, adapter.fill, adapter.num_rows) == ("ssf", "independent", "zeros", 6)
    assert adapter.num_per_row == 2 * 15
    assert adapter.num_total == sum(parameter.numel() for parameter in robust.adapter_parameters().values()) == 6 * 30
    assert results.versions["torch"] == torch.__version__


def test_the_facts_of_several_methods_and_a_mixed_fill(batches):
    from subsense.adapters import LoRA

    robust = adapt(Sum(), MODALITIES, method=["ssf", LoRA(rank=2)], sharing="additive", fill={"left": "learned"})
    adapter = evaluate(robust, batches, metric="accuracy", columns=["pretrained"]).adapter
    assert adapter.method == "ssf + lora (rank 2)"
    assert adapter.fill == "left: learned, middle: zeros, right: zeros"
    assert adapter.num_rows == 3
    assert adapter.num_total == 3 * adapter.num_per_row + 4


def test_rows_that_lack_modalities_count_only_where_they_have_all(robust, batches):
    inputs, target = batches[0]
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]] * 2, dtype=torch.bool)
    poisoned = {name: value.clone() for name, value in inputs.items()}
    for column, name in enumerate(MODALITIES):
        poisoned[name][~present[:, column]] = torch.nan
    results = evaluate(robust, [({**poisoned, "present": present}, target)], metric="accuracy")
    assert {row.combination: row.count for row in results.rows} == {
        "left": 6, "middle": 6, "right": 4, "left+middle": 4, "left+right": 2, "middle+right": 4, "left+middle+right": 2
    }  # fmt: skip
    rows = present[:, 0] & present[:, 1]
    scores = robust.eval()({name: inputs[name][rows] for name in ("left", "middle")} | {"right": None})
    assert results["left+middle"].adapted == pytest.approx(accuracy(scores, target[rows]))


def test_a_modality_that_no_batch_has_gives_empty_rows(robust, batches):
    without = [
        ({"left": inputs["left"], "middle": inputs["middle"], "right": None}, target) for inputs, target in batches
    ]
    results = evaluate(robust, without, metric="accuracy")
    assert (results["right"].count, results["right"].adapted) == (0, None)
    assert results["left+middle"].count == 16


def test_what_is_withheld_is_not_read(robust, batches):
    before = evaluate(robust, batches, metric="accuracy", combinations=["left"])
    for inputs, _ in batches:
        inputs["middle"].fill_(torch.nan)
        inputs["right"].fill_(torch.nan)
    assert evaluate(robust, batches, metric="accuracy", combinations=["left"]) == before


def test_it_is_repeatable_and_reads_the_loader_once(robust, batches):
    results = evaluate(robust, iter(batches), metric="accuracy", finetuned=Sum().train())
    assert evaluate(robust, iter(batches), metric="accuracy", columns=["adapted", "pretrained"]).rows == tuple(
        row.model_copy(
            update={"fine_tuned": None, "intervals": {one: row.intervals[one] for one in ("pretrained", "adapted")}}
        )
        for row in results.rows
    )


def test_modes_gradients_and_weights_are_as_before(robust, batches):
    robust.train()
    finetuned = Sum().train()
    finetuned.drop.eval()
    modes = [part.training for module in (robust, finetuned) for part in module.modules()]
    state = copy.deepcopy(robust.state_dict())
    evaluate(robust, batches, metric="accuracy", finetuned=finetuned)
    assert [part.training for module in (robust, finetuned) for part in module.modules()] == modes
    assert all(torch.equal(value, robust.state_dict()[name]) for name, value in state.items())
    assert all(parameter.grad is None for parameter in robust.parameters())


def test_modes_are_restored_after_an_error(robust, batches):
    robust.train()
    with pytest.raises(MetricError):
        evaluate(robust, batches, metric="mae")
    assert robust.training


def test_given_values_stand_as_they_are(robust, batches):
    options = {"metric": "accuracy", "combinations": ["right", "right+left"], "columns": ["pretrained"]}
    results = evaluate(robust, batches, dedicated={("right", "left"): 0.75}, finetuned={"right": 0.5}, **options)
    assert [row.combination for row in results.rows] == ["right", "left+right"]
    assert (results["left+right"].dedicated, results["right"].fine_tuned) == (0.75, 0.5)
    assert results.columns == ("pretrained", "dedicated", "fine_tuned")


def test_a_network_that_robust_filled_is_not_filled_again(robust, batches):
    torch.manual_seed(5)
    plain = Sum()
    both = [evaluate(robust, batches, metric="accuracy", finetuned=one).rows for one in (plain, robust.filled(plain))]
    assert both[0] == both[1]


def test_scores_are_selected_from_the_output(batches):
    class Wrapped(Sum):
        def forward(self, left, middle, right):
            return super().forward(left, middle, right), "more"

    torch.manual_seed(0)
    robust = adapt(Wrapped(), MODALITIES, untrained="pretrained")
    with pytest.raises(MetricError, match="output is of class tuple"):
        evaluate(robust, batches, metric="accuracy")
    results = evaluate(robust, batches, metric=build("accuracy", 5), select=lambda output: output[0])
    assert results["left"].pretrained == results["left"].adapted


def test_nested_inputs(batches):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.image = nn.Embedding(9, 5), nn.Linear(4, 5)

        def forward(self, image, ids, mask):
            return self.image(image) + (self.embed(ids) * mask[..., None]).mean(1)

    spec = {"image": "4", "text": {"ids": "L:int64", "mask": "L:int64"}}
    robust = adapt(Text(), spec, untrained="pretrained")
    text = {"ids": torch.randint(0, 9, (6, 7)), "mask": torch.ones(6, 7, dtype=torch.int64)}
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [0, 1], [1, 1]], dtype=torch.bool)
    batch = ({"image": torch.randn(6, 4), "text": text, "present": present}, torch.randint(0, 5, (6,)))
    results = evaluate(robust, [batch], metric="accuracy")
    assert [row.count for row in results.rows] == [5, 5, 4]


def test_an_untrained_combination_is_refused(batches):
    robust = adapt(Sum(), MODALITIES)
    with pytest.raises(UntrainedCombination):
        evaluate(robust, batches, metric="accuracy")
    evaluate(robust, batches, metric="accuracy", columns=["pretrained"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": ["adaptd"]}, InputError, "found 'adaptd'.*Did you mean 'adapted'"),
        ({"columns": ["dedicated"]}, InputError, "`dedicated=` and `finetuned=` add the others"),
        ({"combinations": []}, ModalityError, "at least one combination"),
        ({"combinations": ["lft"]}, ModalityError, "Did you mean 'left'"),
        ({"combinations": ["left"], "dedicated": {"right": 0.5}}, InputError, "dedicated: right is not among"),
        ({"metric": "acuracy"}, MetricError, "Did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_asked(robust, batches, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(robust, batches, **({"metric": "accuracy"} | options))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2), r"a batch of the loader: expected .*target\), but found Tensor"),
        (({"left": torch.zeros(2, 4)}, [0, 1]), r"expected a target that is a tensor \(batch, ...\), but found list"),
        (
            ({"left": torch.zeros(2, 4), "present": torch.ones(2, 2, dtype=torch.bool)}, torch.zeros(2)),
            r"`present`: expected shape \(2, 3\).*found \(2, 2\)",
        ),
        (
            ({"left": torch.zeros(2, 4), "present": torch.ones(2, 3).int()}, torch.zeros(2)),
            r"`present`: expected a bool tensor",
        ),
    ],
)
def test_batches_of_another_form(robust, batch, message):
    with pytest.raises(InputError, match=message):
        evaluate(robust, [batch], metric="accuracy")


def test_an_empty_loader(robust):
    with pytest.raises(InputError, match="at least one batch"):
        evaluate(robust, [], metric="accuracy")


def test_progress_is_written_to_a_terminal_only(robust, batches, capsys, monkeypatch):
    evaluate(robust, batches, metric="accuracy")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    evaluate(robust, batches, metric="accuracy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "measured 3/3 batches" in captured.err


def test_a_batch_of_two_rows_of_which_one_lacks_something():
    """A pair (inputs, target) is no list with an entry for each of two rows."""
    torch.manual_seed(0)
    robust = adapt(TwoSum(), {"rgb": "3", "thermal": "2"})
    robust.mark_trained("all")
    inputs = {"rgb": torch.randn(2, 3), "thermal": torch.randn(2, 2), "present": torch.tensor([[1, 0], [1, 1]]).bool()}
    target = torch.tensor([1, 0])
    results = evaluate(robust, [(inputs, target)], metric="accuracy")
    assert [row.count for row in results.rows] == [2, 1, 1]
    expected = robust.pretrained({"thermal": inputs["thermal"][1:]}).argmax(1) == target[1:]
    assert results["thermal"].pretrained == float(expected)


class TwoSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.thermal = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, rgb, thermal):
        return self.rgb(rgb) + self.thermal(thermal)


class Dividing(TwoSum):
    """Divide by the mean of what thermal holds, which zeros have not."""

    def forward(self, rgb, thermal):
        return self.rgb(rgb) + self.thermal(thermal / thermal.mean(1, keepdim=True))


def test_outputs_that_are_nan_are_counted_and_never_scored():
    torch.manual_seed(0)
    robust = adapt(Dividing(), {"rgb": "3", "thermal": "2"})
    robust.mark_trained("all")
    inputs = {"rgb": torch.randn(6, 3), "thermal": torch.rand(6, 2) + 1}
    for metric in ("accuracy", "f1", "miou"):
        results = evaluate(robust, [(inputs, torch.zeros(6, dtype=torch.int64))], metric=metric)
        row = results["rgb"]
        assert math.isnan(row.pretrained)
        assert math.isnan(row.adapted)
        assert row.not_finite == {"pretrained": 6, "adapted": 6}
        assert results["thermal"].not_finite == {}
        assert "NaN in 6 of 6" in str(results)
        assert "mean (1 of 2 incomplete)" in str(results)
        assert results.summary.pretrained == results["thermal"].pretrained
        assert results.facts["not scored"] == "no finite value, left out of the means: rgb (pretrained, adapted)"
        assert Results.parse(json.loads(results.model_dump_json())).rows[0].not_finite == row.not_finite


class Squeezing(TwoSum):
    def forward(self, rgb, thermal):
        return super().forward(rgb, thermal)[:, :, None].squeeze()


def test_a_single_row_is_scored_where_the_head_squeezes():
    torch.manual_seed(0)
    robust = adapt(Squeezing(), {"rgb": "3", "thermal": "2"})
    robust.mark_trained("all")
    present = torch.tensor([[True, False], [True, True], [True, False]])
    inputs = {"rgb": torch.randn(3, 3), "thermal": torch.randn(3, 2), "present": present}
    results = evaluate(robust, [(inputs, torch.zeros(3, dtype=torch.int64))], metric="accuracy")
    assert results["thermal"].count == 1
