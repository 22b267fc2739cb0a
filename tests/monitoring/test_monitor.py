"""`Monitor`: what it notices, and why; false alarms; ``present="auto"`` and streams; threads; saved with the model."""

from __future__ import annotations

import copy
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import subsense as ss
from subsense.degradation import Degrader
from subsense.model.watching.finding import examine
from subsense.model.watching.kept import keep, restored, shapes, tables
from subsense.model.watching.watch import Watch
from subsense.monitoring.learning import layout_for, learn

MIXED = np.random.default_rng(0).normal(size=(2, 6))
SENSORS = {"imu": "40 3", "camera": "1 12 12", "vector": "6"}


class Late(nn.Module):
    """(batch, 40, 3), (batch, 1, 12, 12), (batch, 6) -> (batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.imu, self.camera, self.vector = nn.Linear(120, 8), nn.Linear(144, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, imu: Tensor, camera: Tensor, vector: Tensor) -> Tensor:
        return self.head(torch.relu(self.imu(imu.flatten(1)) + self.camera(camera.flatten(1)) + self.vector(vector)))


def draw(rows: int, seed: int) -> dict[str, Tensor]:
    """Draw healthy rows: smooth series, smooth pictures, correlated numbers; in units of their own."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(rows, 40, 3)), 1)
    imu = 9.81 + 0.3 * (walk - walk.mean(1, keepdims=True))
    camera = 100 + 20 * rng.normal(size=(rows, 1, 3, 3)).repeat(4, 2).repeat(4, 3) + rng.normal(size=(rows, 1, 12, 12))
    vector = rng.normal(size=(rows, 2)) @ MIXED + rng.normal(size=(rows, 6))
    made = {"imu": imu, "camera": camera, "vector": vector}
    return {name: torch.from_numpy(values).float() for name, values in made.items()}


def make(**options: object) -> tuple[ss.RobustModel, ss.Monitor]:
    torch.manual_seed(0)
    robust = ss.adapt(Late(), SENSORS, sharing="additive").eval()
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.1)
    robust.mark_trained(robust.combinations)
    return robust, ss.Monitor(robust, [draw(400, 1)], **{"chosen_by": 16, **options})


@pytest.fixture(scope="module")
def made() -> tuple[ss.RobustModel, ss.Monitor]:
    return make()


def stuck(values: Tensor) -> Tensor:
    """Repeat one reading from the tenth on, of series and pictures."""
    values[:, 10:] = values[:, 10:11]
    return values


FAULTS = {
    "nan": ("imu", lambda v: v.index_fill(1, torch.tensor([3]), float("nan")), r"not finite: 3 of 120 values"),
    "infinite": ("vector", lambda v: v * float("inf"), r"not finite: 6 of 6 values"),
    "never measured": ("vector", lambda v: v * 0 + 9.97e36, r"not finite: 6 of 6 values"),
    "stuck": ("imu", stuck, r"stuck for 30 samples"),
    "zeros": ("imu", torch.zeros_like, r"stuck for 40 samples"),
    "black": ("camera", torch.zeros_like, r"100% repeat their neighbour"),
    "dropped": ("imu", lambda v: v[:, torch.arange(40) // 4 * 4], r"\d\d% repeat their neighbour"),
    "times a million": ("imu", lambda v: v * 1e6, r"range: -?\S+e\+0[67] where \S+ to \S+ is usual"),
    "times a million, numbers": ("vector", lambda v: v * 1e6, r"range: "),
    "quiet": ("imu", lambda v: 9.81 + 0.1 * (v - 9.81), r"variance 0\.0\d+ of usual"),
    "noise": ("imu", lambda v: v + 3 * torch.randn(v.shape, generator=torch.Generator().manual_seed(0)), r"noise of "),
    "coarse": ("camera", lambda v: (v / 60).round() * 60, r"steps of "),
    "shift": ("camera", lambda v: v + 60, r"mean off by "),
    "loud": ("imu", lambda v: 9.81 + 4 * (v - 9.81), r"variance \S+ of usual|range"),
    "soft": ("camera", lambda v: v.mean((2, 3), keepdim=True) + 0.2 * torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(v, (2, 2, 2, 2), mode="replicate"), 5, 1), r"detail \S+ of usual|variance"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_its_reason(made: tuple[ss.RobustModel, ss.Monitor], fault: str) -> None:
    name, broken, reason = FAULTS[fault]
    rows = draw(20, 2)
    health = made[1]({**rows, name: broken(rows[name].clone())})
    column = list(SENSORS).index(name)
    assert health.doubted[:, column].all()
    assert (health.health[:, column] < 0.8).all()
    for found in health.reasons:
        assert re.search(reason, found[name])


def test_false_alarms_on_fresh_rows_are_as_asked() -> None:
    _, monitor = make(false_alarms=0.05, chosen_by=2)
    alarms = monitor(draw(4000, 7)).doubted.sum(0).tolist()
    for name, count in zip(SENSORS, alarms, strict=True):
        assert count > 0, name
        assert count < 200 or binomtest(count, 4000, 0.05).pvalue > 1e-4, name


def test_health_is_the_share_that_is_left(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    degrader = Degrader(made[0].modalities, [draw(400, 1)])
    rows = draw(200, 3)
    for kind in ("stuck", "dropped", "noise"):
        for severity in (2, 3, 4):
            worse = degrader.apply(rows, "imu", kind, severity, seed=0)
            found = made[1](worse).health[:, 0].mean()
            assert abs(float(found) - (1 - severity / 5)) < 0.12, (kind, severity, found)


def test_auto_gives_what_the_found_quality_gives(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    robust, monitor = made
    rows = draw(8, 4)
    rows["imu"] = torch.cat([rows["imu"][:4], stuck(rows["imu"][4:].clone())])
    rows["vector"][2, 1] = float("nan")
    quality = monitor(rows).quality
    assert quality[2, 2] == 0
    assert (quality[4:, 0] < 1).all()
    with torch.no_grad():
        found = robust(rows, present="auto")
        assert torch.equal(found, robust(rows, present=quality))
        assert torch.equal(robust.pretrained(rows, present="auto"), robust.pretrained(rows, present=quality))
    assert found.isfinite().all()


def test_what_the_caller_says_is_missing_stays_so(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    rows = draw(4, 5)
    said = torch.tensor([[True, False, True]]).expand(4, -1)
    rows["camera"][:] = float("nan")
    health = made[1](rows, said)
    assert torch.equal(health.quality > 0, said)
    assert not health.doubted[:, 1].any()
    with torch.no_grad():
        assert torch.equal(made[0]({**rows, "present": said}, present="auto"), made[0](rows, said))


def test_a_stream_sees_what_no_row_shows(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    robust, monitor = made
    healthy = draw(30, 6)
    frozen = {**healthy, "vector": torch.cat([healthy["vector"][:10], healthy["vector"][9:10].expand(20, -1)])}
    assert not monitor(frozen).doubted[10:, 2].any()
    stream = monitor.stream()
    for row in range(30):
        with torch.no_grad():
            robust({name: values[row : row + 1] for name, values in frozen.items()}, present=stream)
        assert stream.health is not None
        assert bool(stream.health.doubted[0, 2]) == (row >= 11), row
    assert stream.health.reasons[0]["vector"] == "stuck for 21 rows"
    assert stream.health.quality[0, 2] == 0


def test_a_stream_in_batches_is_the_stream_in_rows(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    rows = draw(24, 8)
    rows["vector"][7:15, :3] = rows["vector"][7, :3]
    one, many = made[1].stream(), made[1].stream()
    by_row = [one({name: values[row : row + 1] for name, values in rows.items()}) for row in range(24)]
    by_batch = [many({name: values[start : start + 5] for name, values in rows.items()}) for start in range(0, 24, 5)]
    assert torch.equal(torch.cat([one.quality for one in by_row]), torch.cat([one.quality for one in by_batch]))
    assert [why for one in by_row for why in one.reasons] == [why for one in by_batch for why in one.reasons]
    assert by_row[12].health[0, 2] == 0.5  # three of six channels


def test_two_threads_with_a_stream_each(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    def run(rows: dict[str, Tensor]) -> Tensor:
        stream = made[1].stream()
        return torch.cat(
            [stream({name: one[row : row + 1] for name, one in rows.items()}).quality for row in range(40)]
        )

    streams = [draw(40, seed) for seed in (11, 12)]
    streams[1]["vector"][5:] = streams[1]["vector"][5]
    alone = [run(rows) for rows in streams]
    found: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: run(streams[n])})) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], alone[1])


def test_a_long_stream_takes_no_more_memory(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    stream, rows = made[1].stream(), {"vector": draw(2000, 9)["vector"]}
    stream(rows)
    tracemalloc.start()
    kept = tracemalloc.get_traced_memory()[0]
    tensors = sum(one.row.numel() + one.copies.numel() for one in stream._last.values())
    for _ in range(50):
        stream(rows)
    grown = tracemalloc.get_traced_memory()[0] - kept
    tracemalloc.stop()
    assert stream.num_rows > 100_000
    assert grown < 1 << 20
    assert sum(one.row.numel() + one.copies.numel() for one in stream._last.values()) == tensors


def test_a_sensor_that_repeats_itself_when_healthy_may() -> None:
    healthy = draw(400, 1)
    healthy["vector"] = healthy["vector"][torch.arange(400) // 5 * 5]
    torch.manual_seed(0)
    robust = ss.adapt(Late(), SENSORS, sharing="additive").eval()
    robust.mark_trained(robust.combinations)
    stream = ss.Monitor(robust, [healthy], chosen_by=8).stream()
    rows = draw(40, 9)
    rows["vector"] = rows["vector"][torch.arange(40) // 5 * 5]
    assert sum("vector" in why and "stuck" in why["vector"] for why in stream(rows).reasons) == 0
    rows["vector"] = rows["vector"][:1].expand(40, -1)
    assert "stuck for" in stream(rows).reasons[-1]["vector"]


def test_it_is_saved_with_the_model(made: tuple[ss.RobustModel, ss.Monitor], tmp_path: Path) -> None:
    robust, monitor = made
    ss.save(robust, tmp_path / "robust")
    bare = copy.deepcopy(robust)
    bare.monitor = None
    ss.save(bare, tmp_path / "bare")
    sizes = {name: sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("robust", "bare")}
    assert sizes["robust"] - sizes["bare"] < 8 << 10
    loaded = ss.load(tmp_path / "robust", copy.deepcopy(robust).detach())
    rows = draw(30, 10)
    rows["imu"][3], rows["imu"][4, 20:] = 0, rows["imu"][4, 19]
    assert loaded.monitor is not None
    assert torch.equal(loaded.monitor(rows).health, monitor(rows).health)
    assert 0.3 < float(monitor(rows).health[4, 0]) < 0.7
    assert torch.equal(loaded.monitor(rows).quality, monitor(rows).quality)
    assert loaded.monitor(rows).reasons == monitor(rows).reasons
    with torch.no_grad():
        assert torch.equal(loaded(rows, present="auto"), robust(rows, present="auto"))


def test_a_manifest_with_a_foreign_sensor_is_refused(made: tuple[ss.RobustModel, ss.Monitor], tmp_path: Path) -> None:
    import json

    from subsense.model.manifest import seal

    ss.save(made[0], tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    del data["checksum"]
    data["watch"]["sensors"]["imu"]["layout"] = "no such"
    (tmp_path / "manifest.json").write_bytes(seal(data))
    with pytest.raises(ss.DamagedFile, match="watching 'imu' fits no modality"):
        ss.load(tmp_path, copy.deepcopy(made[0]).detach())


def test_the_best_is_kept_where_everything_is_doubted(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    rows = {name: values * 1e6 for name, values in draw(2, 3).items()}
    rows["vector"][:] = float("nan")
    health = made[1](rows)
    assert (health.quality.sum(1) == 1).all()
    assert (health.quality[:, 2] == 0).all()
    with pytest.raises(ss.InputError, match=r"rows 0, 1 have nothing .* \(imu: not finite"):
        made[0]({name: values * float("nan") for name, values in rows.items()}, present="auto")


def test_errors_say_what_to_do(made: tuple[ss.RobustModel, ss.Monitor]) -> None:
    rows = draw(2, 3)
    other, _ = make()
    bare = copy.deepcopy(made[0])
    bare.monitor = None
    for robust, present, words in (
        (bare, "auto", r"subsense\.Monitor\(robust, healthy_loader\)"),
        (made[0], "automatic", r"expected a bool tensor .*, but found 'automatic'"),
        (made[0], other.monitor.stream(), r"robust\.monitor\.stream\(\)"),
    ):
        with pytest.raises(ss.InputError, match=words):
            robust(rows, present=present)
    with pytest.raises(ss.InputError, match=r"at least 99 .* but found 60; pass more rows, or false_alarms=0\.017"):
        ss.Monitor(bare, [draw(60, 1)])
    ss.Monitor(bare, [draw(60, 1)], false_alarms=0.017, chosen_by=4)
    with pytest.raises(ss.InputError, match="between 0 and 1, but found 1"):
        ss.Monitor(bare, [draw(200, 1)], false_alarms=1)
    with pytest.raises(ss.InputError, match="unknown degradation 'nois'"):
        ss.Monitor(bare, [draw(200, 1)], kinds=["nois"])
    poisoned = draw(200, 1)
    poisoned["imu"][5] = float("nan")
    with pytest.raises(ss.InputError, match="1 rows of 'imu' hold NaN"):
        ss.Monitor(bare, [poisoned])
    with pytest.raises(ss.InputError, match="no row has 'camera'"):
        ss.Monitor(bare, [{name: one for name, one in draw(200, 1).items() if name != "camera"}])


def test_a_graph_says_how_to_find_out_before_it(
    made: tuple[ss.RobustModel, ss.Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ss.InputError, match=r"robust\.monitor\(inputs\)\.quality"):
        made[0](draw(2, 3), present="auto")


SHAPES = [
    "1 3",
    "2 3",
    "7 3",
    "1 2 2",
    "3 5 1",
    "3 9 9",
    "1 5 6 7",
    "2 2 2 2 2",
    "300",
    "1",
    "6:float16",
    "9 2:float64",
]


@pytest.mark.parametrize("axes", SHAPES)
def test_any_shape_can_be_watched(axes: str) -> None:
    modalities = {"x": axes, "y": "2"}
    shape, _, dtype = axes.partition(":")
    sizes = [int(size) for size in shape.split()]
    torch.manual_seed(0)
    rows = torch.randn(300, *sizes).to(getattr(torch, dtype or "float32"))
    part = ss.Modalities(modalities)["x"].parts["x"]
    sensor = learn(layout_for("x", part, None), rows[:200], 0.05)
    found = examine(sensor, rows[200:])
    assert found.health.isfinite().all()
    assert found.doubted.float().mean() < 0.3
    gone = examine(sensor, torch.full_like(rows[200:], 1e4))
    assert gone.doubted.all()
    assert all(gone.reason(row) for row in range(100))
    watch = Watch(ss.Modalities(modalities), {"x": sensor}, {"x": "x"}, 0.05)
    again = restored(keep(watch), watch.modalities, tables(watch))
    assert shapes(keep(watch)) == {"watch.x": tuple(sensor.table.shape)}
    assert torch.equal(examine(again.sensors["x"], rows[200:]).health, found.health)


def test_outliers_among_the_healthy_change_little() -> None:
    healthy = draw(400, 1)
    spoilt = {name: values.clone() for name, values in healthy.items()}
    spoilt["imu"][::100] *= 1e4
    torch.manual_seed(0)
    robust = ss.adapt(Late(), SENSORS, sharing="additive").eval()
    robust.mark_trained(robust.combinations)
    rows = draw(50, 2)
    rows["imu"] = stuck(rows["imu"])
    for loader in (healthy, spoilt):
        found = ss.Monitor(robust, [loader], chosen_by=8, false_alarms=0.02)(rows)
        assert found.doubted[:, 0].all()
        assert abs(float(found.health[:, 0].mean()) - 0.27) < 0.1
