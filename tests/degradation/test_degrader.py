"""Whole batches, made as bad as their qualities say."""

from typing import Any

import pytest
import torch
from torch import Tensor

from subsense import InputError, Modalities, ModalityError
from subsense.degradation import DEGRADATIONS, Degrader, find
from subsense.degradation.healthy import Scale, healthy
from subsense.degradation.layout import LAYOUTS, back, into

SPEC: dict[str, Any] = {
    "imu": "40 6", "rgb": "3 H W", "clip": "2 8 6 6",
    "text": {"input_ids": "L:int64", "attention_mask": "L:int64"},
}  # fmt: skip
MODALITIES = Modalities(SPEC)


def batch(rows: int = 16, seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 500, (rows, 12), generator=draw)
    ids[:, 0], ids[:, 9], ids[:, 10:] = 1, 2, 0
    return {
        "imu": 5 + 3 * torch.randn(rows, 40, 6, generator=draw),
        "rgb": torch.rand(rows, 3, 10, 12, generator=draw),
        "clip": torch.randn(rows, 2, 8, 6, 6, generator=draw),
        "text": {"input_ids": ids, "attention_mask": (ids != 0).long()},
    }


def quality(rows: int, **of: float) -> Tensor:
    return torch.tensor([[of.get(name, 1.0) for name in MODALITIES]]).expand(rows, -1)


def flat(value: Any) -> list[Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def test_only_what_lies_between_0_and_1_is_changed() -> None:
    healthy_batch = batch()
    degrader = Degrader(MODALITIES, [healthy_batch])
    of = quality(16, imu=0.4, rgb=0.0, text=0.5).clone()
    of[3] = 1.0
    worse = degrader(healthy_batch, of, seed=1)
    for name in ("rgb", "clip"):
        assert worse[name] is healthy_batch[name]
    for name in ("imu", "text"):
        before, after = flat(healthy_batch[name])[0], flat(worse[name])[0]
        moved = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
        assert not moved[3]
        assert sum(moved) >= 14
    again = degrader(healthy_batch, of, seed=1)
    other = degrader(healthy_batch, of, seed=2)
    assert torch.equal(again["imu"], worse["imu"])
    assert not torch.equal(other["imu"], worse["imu"])


def test_units_are_the_healthy_deviations_of_each_channel() -> None:
    rows = torch.stack([torch.randn(64, 40) * 100 + 7, torch.randn(64, 40)], dim=-1)
    modalities = Modalities({"imu": "40 2", "other": "1"})
    degrader = Degrader(modalities, [{"imu": rows, "other": torch.randn(64, 1)}], kinds={"imu": "noise"})
    worse = degrader.apply({"imu": rows}, "imu", "noise", 4, seed=0)["imu"]
    errors = (worse - rows).std((0, 1))
    assert errors.tolist() == pytest.approx([2 * float(rows[..., 0].std()), 2 * float(rows[..., 1].std())], rel=0.05)


def test_what_a_degradation_leaves_alone_is_the_very_value() -> None:
    rows = batch()["imu"]
    degrader = Degrader(MODALITIES, [batch()])
    worse = degrader.apply({"imu": rows}, "imu", "gap", 2, seed=0)["imu"]
    same = worse == rows
    assert float(same.double().mean()) == pytest.approx(0.6, abs=0.01)
    scale = Scale.of(LAYOUTS["series"], rows)
    assert torch.allclose(worse[~same].view(16, -1, 6).double(), scale.mean.expand(16, 16, 6), atol=1e-4)


@pytest.mark.parametrize("name", ["series", "signal", "wave", "image", "video", "vector"])
@pytest.mark.parametrize("form", ["channels", "time", "space"])
def test_values_go_into_every_form_and_back(name: str, form: Any) -> None:
    layout = LAYOUTS[name]
    if not layout.has(form):
        return
    shape = {"vector": (5,), "wave": (7,), "series": (7, 3), "signal": (3, 7), "image": (3, 4, 6)}.get(
        name, (3, 7, 4, 6)
    )
    values = torch.randn(2, *shape)
    inside, order, sizes = into(form, layout, values)
    assert torch.equal(back(inside, order, sizes), values)
    axes = {"channels": layout.channel, "time": layout.time}
    if (axis := axes.get(form)) is not None:
        assert torch.equal(inside.select(-1 if form == "channels" else 1, 1).flatten().sort().values,
                           values.select(1 + axis, 1).flatten().sort().values)  # fmt: skip
    if form == "space":
        assert inside.shape[-2:] == values.shape[-2:]


def test_a_film_freezes_frame_by_frame() -> None:
    clip = batch()["clip"]
    worse = Degrader(MODALITIES, [batch()]).apply({"clip": clip}, "clip", "stuck", 2.5, seed=0)["clip"]
    assert torch.equal(worse[:, :, :4], clip[:, :, :4])
    assert torch.equal(worse[:, :, 4:], clip[:, :, 3:4].expand(-1, -1, 4, -1, -1))


def test_a_text_without_words_keeps_begin_and_end_and_hides_the_rest() -> None:
    text = batch()["text"]
    degrader = Degrader(MODALITIES, [batch()])
    empty = degrader.apply({"text": text}, "text", "lost-words", 5, seed=0)["text"]
    assert empty["input_ids"][0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]
    assert empty["attention_mask"][0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    wrong = degrader.apply({"text": text}, "text", "wrong-words", 5, seed=0)["text"]
    assert torch.equal(wrong["attention_mask"], text["attention_mask"])
    assert torch.isin(wrong["input_ids"][:, 1:9], text["input_ids"][:, 1:9]).all()
    assert (wrong["input_ids"][:, 1:9] != text["input_ids"][:, 1:9]).double().mean() > 0.9


def test_rows_that_lack_a_modality_have_no_say_in_what_is_healthy() -> None:
    rows = torch.cat([torch.randn(8, 40, 6), torch.full((8, 40, 6), float("nan"))])
    present = torch.ones(16, 4, dtype=torch.bool)
    present[8:, 0] = False
    degrader = Degrader(MODALITIES, [{**batch(), "imu": rows, "present": present}])
    worse = degrader.apply({"imu": rows[:8]}, "imu", "noise", 1, seed=0)["imu"]
    assert bool(worse.isfinite().all())
    with pytest.raises(InputError, match=r"8 rows of 'imu' hold NaN or infinity.*`present`"):
        Degrader(MODALITIES, [{**batch(), "imu": rows}])


def test_pictures_of_several_sizes_are_put_together() -> None:
    parts = [torch.rand(2, 3, 5, 6), torch.rand(3, 3, 8, 4)]
    pixels = torch.cat([one.movedim(1, -1).reshape(-1, 3) for one in parts])
    scale = healthy(LAYOUTS["image"], parts)
    assert isinstance(scale, Scale)
    assert torch.allclose(scale.std.flatten().float(), pixels.std(0, correction=0), atol=1e-6)
    assert scale.mean.shape == (1, 3, 1, 1)


def test_any_float_type_keeps_its_type() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        rows = torch.randn(4, 3, 8, 8).to(dtype)
        name = str(dtype).removeprefix("torch.")
        degrader = Degrader(Modalities({"rgb": f"3 8 8:{name}", "x": "1"}), [{"rgb": rows}], kinds={"rgb": "all"})
        for kind in degrader.fitting("rgb"):
            assert degrader.apply({"rgb": rows}, "rgb", kind, 3, seed=0)["rgb"].dtype == dtype


def test_kinds_are_used_where_they_fit_and_refused_where_they_were_named() -> None:
    degrader = Degrader(MODALITIES, [batch()], kinds=["noise", "blur", "wrong-words"])
    names = {name: [str(kind) for kind in kinds] for name, kinds in degrader.kinds.items()}
    assert names == {"imu": ["noise"], "rgb": ["noise", "blur"], "clip": ["noise", "blur"], "text": ["wrong-words"]}
    with pytest.raises(ModalityError, match=r"'blur' doesn't fit 'imu', which is taken for 'series'.*stuck"):
        Degrader(MODALITIES, [batch()], kinds={"imu": ["noise", "blur"]})
    with pytest.raises(ModalityError, match="'wrong-words' doesn't fit 'rgb'"):
        degrader.apply(batch(), "rgb", "wrong-words", 1, seed=0)


def test_another_layout_can_be_said() -> None:
    modalities = Modalities({"ecg": "3 50", "x": "1"})
    rows = torch.randn(4, 3, 50)
    degrader = Degrader(modalities, [{"ecg": rows}], kinds={"ecg": "all"}, layouts={"ecg": "signal"})
    worse = degrader.apply({"ecg": rows}, "ecg", "stuck", 2.5, seed=0)["ecg"]
    assert torch.equal(worse[:, :, 25:], rows[:, :, 24:25].expand(-1, -1, 25))
    with pytest.raises(ModalityError, match="'image' has 3 axes, but '3 50' has 2"):
        Degrader(modalities, [{"ecg": rows}], kinds={"ecg": "all"}, layouts={"ecg": "image"})
    with pytest.raises(ModalityError, match=r"expected one of vector, .*Did you mean 'signal'"):
        Degrader(modalities, [{"ecg": rows}], kinds={"ecg": "all"}, layouts={"ecg": "signals"})


def test_what_cannot_be_is_refused_in_words() -> None:
    degrader = Degrader(MODALITIES, [batch()], kinds={"imu": "noise"})
    with pytest.raises(InputError, match="expected a quality in"):
        degrader(batch(), quality(16, imu=1.5), seed=0)
    with pytest.raises(InputError, match=r"expected a number in \[0, 5\], but found 6"):
        degrader.apply(batch(), "imu", "noise", 6, seed=0)
    with pytest.raises(ModalityError, match="'rgb' never degrades here; the kinds are for imu"):
        degrader.apply(batch(), "rgb", "noise", 1, seed=0)
    with pytest.raises(InputError, match="no row of the first 1024 has 'imu'"):
        Degrader(MODALITIES, [{"rgb": batch()["rgb"]}], kinds={"imu": "noise"})
    with pytest.raises(InputError, match="at least one degradation"):
        Degrader(MODALITIES, [batch()], kinds=[])
    with pytest.raises(InputError, match="unknown modality 'audio'"):
        Degrader(MODALITIES, [batch()], kinds={"audio": "noise"})


def test_every_kind_fits_some_layout() -> None:
    assert all(any(layout.has(kind.form) for layout in LAYOUTS.values()) for kind in DEGRADATIONS.values())
    assert find("noise") in Degrader(MODALITIES, [batch()]).fitting("rgb")
