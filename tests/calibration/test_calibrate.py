"""`calibrate` as a user calls it: what it reads, what it changes, what comes of it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import subsense as ss
from networks import CAMERAS, METHODS, NETWORKS, SHARINGS, TOWERS, Towers, draw, make, only, row_by_row, snapshot

QUIET = {"progress": False}


def adapted(name: str, **options: Any) -> tuple[ss.RobustModel, dict[str, Tensor]]:
    network, own = make(name)
    robust = ss.adapt(network, **own, **options)
    return robust, draw(own["modalities"], rows=12)


def distance(robust: ss.RobustModel, inputs: dict[str, Tensor], how: str) -> float:
    """Give the mean squared distance to the output with everything present, over combinations."""
    robust.eval()
    with torch.no_grad():
        goal = robust(inputs)
        run = robust if how == "adapted" else robust.pretrained
        return sum(float((run(only(inputs, one)) - goal).square().mean()) for one in robust.combinations)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_calibrated_sets_come_nearer_to_the_output_with_everything(name: str, sharing: str, method: Any) -> None:
    robust, inputs = adapted(
        name,
        method=method,
        sharing=sharing,
        exclude=["encoder.norm"] if method == "shift" and "sequence" in name else [],
    )
    before = distance(robust, inputs, "pretrained")
    report = ss.calibrate(robust, [inputs], held_out=0.0, **QUIET)
    assert distance(robust, inputs, "adapted") < before
    assert report.combinations == tuple(map(str, robust.combinations)) == tuple(map(str, robust.trained))


def test_the_network_and_other_sets_stay_as_they_were() -> None:
    robust, inputs = adapted("towers", method=["ssf", "lora"])
    before, banks = snapshot(robust.network), {n: b.detach().clone() for n, b in robust.adapter_parameters().items()}
    ss.calibrate(robust, [inputs], combinations=["left"], **QUIET)
    assert snapshot(robust.network) == before
    assert [str(one) for one in robust.trained] == ["left"]
    other = robust.router.row_names.index("right")
    for name, bank in robust.adapter_parameters().items():
        assert torch.equal(bank[other], banks[name][other])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_with_everything_present_nothing_changes(sharing: str) -> None:
    robust, inputs = adapted("sequences", method=["ssf", "lora"], sharing=sharing)
    with torch.no_grad():
        before = robust(inputs)
        ss.calibrate(robust, [inputs], **QUIET)
        assert torch.equal(robust(inputs), before)


class Ignoring(Towers):
    """Towers that read the left modality alone."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return super().forward(left, 0 * right)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_modality_that_the_network_ignores_changes_nothing(sharing: str) -> None:
    network = Ignoring()
    robust = ss.adapt(network, TOWERS, method=["ssf", "lora"], sharing=sharing)
    inputs = draw(TOWERS, rows=12)
    with torch.no_grad():
        before = robust(inputs)
        report = ss.calibrate(robust, [inputs], **QUIET)
        assert torch.equal(robust.eval()({"left": inputs["left"]}), before)
    assert report.verdict("left") == "needs nothing"
    assert report.outputs["left"].lost == 0


def test_labels_are_not_read_and_incomplete_rows_are_left_out_and_counted() -> None:
    inputs = draw(TOWERS, rows=12)
    present = torch.ones(12, 2, dtype=torch.bool)
    present[:5, 1] = False
    some = {name: tensor[5:] for name, tensor in inputs.items()}
    sets = []
    for loader in ([inputs | {"present": present}], [(some, "no label")], [some], [{"left": inputs["left"]}, some]):
        robust, _ = adapted("towers")
        report = ss.calibrate(robust, loader, held_out=0.0, **QUIET)
        assert (report.rows, report.left_out) == (7, {0: 5, 3: 12}.get(len(sets), 0))
        sets.append(robust.adapter_parameters())
    for other in sets[1:]:
        assert all(torch.equal(one, other[name]) for name, one in sets[0].items())
    assert "left out: 5 rows" in str(ss.calibrate(robust, [inputs | {"present": present}], **QUIET))


def test_rows_are_the_first_complete_ones() -> None:
    inputs = draw(TOWERS, rows=12)
    batches = [{name: tensor[at : at + 4] for name, tensor in inputs.items()} for at in (0, 4, 8)]
    robust, other = adapted("towers")[0], adapted("towers")[0]
    assert ss.calibrate(robust, batches, rows=6, held_out=0.0, **QUIET).rows == 6
    ss.calibrate(other, [{name: tensor[:6] for name, tensor in inputs.items()}], held_out=0.0, **QUIET)
    assert all(torch.equal(one, other.adapter_parameters()[name]) for name, one in robust.adapter_parameters().items())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_give_what_one_batch_gives(name: str, sharing: str) -> None:
    sets = []
    for chunk in (None, 5):
        robust, inputs = adapted(name, method=["ssf", "lora"], sharing=sharing)
        ss.calibrate(robust, [inputs], chunk=chunk, positions=None, held_out=0.0, **QUIET)
        sets.append(robust.eval())
    given = only(inputs, list(inputs)[:1])
    with torch.no_grad():
        torch.testing.assert_close(sets[0](given), sets[1](given), rtol=1e-3, atol=1e-4)


def test_batches_of_several_sizes_are_chunks() -> None:
    robust, _ = adapted("cameras")
    batches = [draw(CAMERAS, rows=4, H=size, W=size) for size in (6, 8)]
    before = distance(robust, batches[1], "pretrained")
    assert ss.calibrate(robust, batches, held_out=0.0, **QUIET).rows == 8
    assert distance(robust, batches[1], "adapted") < before


class Twice(nn.Module):
    """(batch, 4), (batch, 4) -> (batch, 3): one layer reads both, and then its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.tanh(self.shared(left)) + torch.tanh(self.shared(right))
        return self.head(torch.tanh(self.shared(both)))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_layer_that_is_called_several_times_is_one_problem(sharing: str) -> None:
    torch.manual_seed(0)
    spec = {"left": "4", "right": "4"}
    robust = ss.adapt(Twice(), spec, method=["ssf", "lora"], sharing=sharing)
    inputs = draw(spec, rows=40)
    before = distance(robust, inputs, "pretrained")
    ss.calibrate(robust, [inputs], held_out=0.0, **QUIET)
    assert distance(robust, inputs, "adapted") < before


@pytest.mark.parametrize("sharing", SHARINGS)
def test_sets_save_load_fold_and_serve_rows_as_trained_ones(sharing: str, tmp_path: Any) -> None:
    robust, inputs = adapted("cameras", method=["ssf", "lora"], sharing=sharing)
    ss.calibrate(robust, [inputs], **QUIET)
    robust.eval()
    given = only(inputs, ["rgb", "depth"])
    with torch.no_grad():
        expected = robust(given)
        plain = ss.fold(robust, "rgb+depth", example=given)
        args, kwargs = ss.prepare(robust, given)
        torch.testing.assert_close(plain(*args, **kwargs), expected, rtol=1e-4, atol=1e-5)
        ss.fold(robust, "rgb+depth", example=given, drop_absent=True)
        ss.save(robust, tmp_path / "sets")
        loaded = ss.load(tmp_path / "sets", make("cameras")[0]).eval()
        assert torch.equal(loaded(given), expected)
        present = torch.tensor([[True, row % 2 == 0, row % 3 == 0] for row in range(12)])
        torch.testing.assert_close(
            robust(inputs, present=present), row_by_row(robust, inputs, present), rtol=1e-4, atol=1e-5
        )


def test_training_goes_on_from_calibrated_sets() -> None:
    robust, inputs = adapted("towers", method=["ssf", "lora"])
    ss.calibrate(robust, [inputs], **QUIET)
    before = distance(robust, inputs, "adapted")
    ss.train(robust, [(inputs, torch.zeros(12))], loss="distill", epochs=30, lr=1e-3, **QUIET)
    assert distance(robust, inputs, "adapted") < before


def test_the_same_call_gives_the_same_bits_whatever_the_callers_generator() -> None:
    inputs = draw(TOWERS, rows=12)
    data = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(12)]
    sets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        robust, _ = adapted("towers", method=["ssf", "lora"])
        ss.calibrate(robust, DataLoader(data, batch_size=4, shuffle=True), positions=5, **QUIET)
        assert torch.equal(torch.get_rng_state(), state)
        sets.append(robust.adapter_parameters())
    assert all(torch.equal(one, sets[1][name]) for name, one in sets[0].items())


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_failure_leaves_what_was_solved_and_the_rest_goes_on_from_there(sharing: str) -> None:
    robust, inputs = adapted("towers", method=["ssf", "lora"], sharing=sharing)
    before = {name: bank.detach().clone() for name, bank in robust.adapter_parameters().items()}
    calls = []

    def fail(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("in the middle")

    handle = robust.network.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        ss.calibrate(robust, [inputs], **QUIET)
    handle.remove()
    whole, _ = adapted("towers", method=["ssf", "lora"], sharing=sharing)
    ss.calibrate(whole, [inputs], **QUIET)
    expected = whole.adapter_parameters()
    assert list(map(str, robust.trained)) == (["left"] if sharing == "independent" else [])
    for name, bank in robust.adapter_parameters().items():
        assert torch.equal(bank[0], (expected[name] if robust.trained else before[name])[0])
        assert torch.equal(bank[1], before[name][1])
    ss.calibrate(
        robust, [inputs], combinations=[one for one in robust.combinations if one not in robust.trained], **QUIET
    )
    assert all(torch.equal(bank, expected[name]) for name, bank in robust.adapter_parameters().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows: expected an integer above 0, or None, but found 0"),
        ({"rank": 1.5}, "rank: expected an integer"),
        ({"ridge": -1}, "ridge: expected a number from 0 to below inf, but found -1"),
        ({"held_out": 1.0}, "held_out: expected a number from 0 to below 1"),
        ({"combinations": []}, "combinations: expected 'all' or at least one"),
        ({"combinations": ["left+right"]}, r"left\+right lacks nothing"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    robust, inputs = adapted("towers")
    with pytest.raises((ss.CalibrationError, ss.ModalityError), match=message):
        ss.calibrate(robust, [inputs], **options, **QUIET)


def test_a_loader_without_a_complete_row_is_refused() -> None:
    robust, inputs = adapted("towers")
    with pytest.raises(ss.InputError, match="all 12 rows lack a modality"):
        ss.calibrate(robust, [{"left": inputs["left"]}], **QUIET)
    with pytest.raises(ss.InputError, match="it has no row"):
        ss.calibrate(robust, [], **QUIET)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    constant=st.sets(st.sampled_from(["left", "right"])),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
    ridge=st.sampled_from([0.0, 0.1]),
    method=st.sampled_from(["ssf", "lora", "scale", ["ssf", "lora"], ["lora", "shift"]]),
    sharing=st.sampled_from(SHARINGS),
    seed=st.integers(0, 5),
)
def test_degenerate_data_gives_finite_sets(
    rows: int, constant: set[str], scale: float, ridge: float, method: Any, sharing: str, seed: int
) -> None:
    """Fewer rows than channels, constant inputs, tiny and huge ones: never NaN, and with a ridge never far off."""
    torch.manual_seed(seed)
    robust = ss.adapt(Towers(), TOWERS, method=method, sharing=sharing)
    inputs = {name: scale * tensor for name, tensor in draw(TOWERS, rows=rows, seed=seed).items()}
    for name in constant:
        inputs[name] = inputs[name][:1].expand(rows, -1).clone()
    report = ss.calibrate(robust, [inputs], ridge=ridge, **QUIET)
    assert all(bank.isfinite().all() for bank in robust.adapter_parameters().values())
    assert "nan" not in str(report)
    if ridge:  # without a penalty, and with fewer rows than channels, it goes through the rows and anywhere beside them
        assert distance(robust, inputs, "adapted") <= 3 * distance(robust, inputs, "pretrained") + 1e-3


def test_positions_that_are_no_number_are_left_out_and_said() -> None:
    class Dividing(Towers):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return super().forward(left / right[:, :4], right)

    torch.manual_seed(0)
    robust = ss.adapt(Dividing(), TOWERS, method="ssf")
    report = ss.calibrate(robust, [draw(TOWERS, rows=12)], held_out=0.0, combinations=["left"], **QUIET)
    assert all(bank.isfinite().all() for bank in robust.adapter_parameters().values())
    assert report.not_finite["left", "left"] == 12
    assert "left: 12 positions of left are no finite number and were left out" in str(report)


def test_evaluate_gives_other_sets_a_column_of_their_own() -> None:
    robust, inputs = adapted("towers", method="ssf")
    other, _ = adapted("towers", method=["ssf", "lora"])
    for model in (robust, other):
        ss.calibrate(model, [inputs], **QUIET)
    batch = inputs, torch.arange(12) % 3
    results = ss.evaluate(robust, [batch], metric="accuracy", compared={"with rank": other}, **QUIET)
    assert results.columns == ("pretrained", "adapted", "with rank")
    assert results.compared["with rank"].method == "ssf + lora (rank 4)"
    with pytest.raises(ss.InputError, match="adapt a copy"):
        ss.evaluate(robust, [batch], metric="accuracy", compared={"same": robust}, **QUIET)
    another = ss.adapt(Towers(), TOWERS)
    with pytest.raises(ss.InputError, match="other weights"):
        ss.evaluate(robust, [batch], metric="accuracy", compared={"another": another}, **QUIET)
