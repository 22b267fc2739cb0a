"""Masks among the arguments of a modality: found, filled so that something is read, asked about, named."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subsense as ss
from subsense.deployment.drop_absent import present_arguments
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import read
from subsense.modalities.masks import find_masks

WIDTH, CLASSES, LENGTH = 8, 3, 5
INF = float("inf")


class Reader(nn.Module):
    """Classify a text, by attention that a mask rules, and a picture's features."""

    def __init__(self, convention: str = "keep") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convention = convention
        self.words, self.query = nn.Embedding(11, WIDTH), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.image, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, image: Tensor, **masks: Tensor) -> Tensor:
        (mask,) = masks.values()
        read = {"keep": lambda: mask != 0, "ignore": lambda: ~mask, "add": lambda: mask}[self.convention]()
        words = self.words(input_ids)
        found = F.scaled_dot_product_attention(
            self.query.expand(words.shape[0], -1, -1), self.key(words), self.value(words), attn_mask=read[:, None]
        )
        return self.head(found[:, 0] + self.image(image))


CONVENTIONS = {
    "keep": ("attention_mask", "int64"),
    "ignore": ("key_padding_mask", "bool"),
    "add": ("attn_mask", "float32"),
}
GIVEN = {
    "keep": torch.tensor([1, 1, 1, 0, 0]),
    "ignore": torch.tensor([False, False, False, True, True]),
    "add": torch.tensor([0, 0, 0, -INF, -INF]),
}


def adapted(convention: str, **options: Any) -> ss.RobustModel:
    argument, dtype = CONVENTIONS[convention]
    parts = {"input_ids": f"{LENGTH}:int64", argument: f"{LENGTH}:{dtype}"}
    robust = ss.adapt(Reader(convention), {"image": "4", "text": parts}, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    robust.mark_trained("all")
    return robust.eval()


def batch(convention: str, rows: int = 4) -> dict[str, Any]:
    torch.manual_seed(2)
    text = {
        "input_ids": torch.randint(11, (rows, LENGTH)),
        CONVENTIONS[convention][0]: GIVEN[convention].expand(rows, -1).clone(),
    }
    return {"image": torch.randn(rows, 4), "text": text}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_absent_text_keeps_its_first_token_in_the_model_the_fold_and_without_the_absent(convention: str) -> None:
    robust, inputs = adapted(convention), batch(convention)
    only = {"image": inputs["image"]}
    argument, _ = CONVENTIONS[convention]
    kept = GIVEN[convention][[0, 4, 4, 4, 4]]
    empty = {"input_ids": torch.zeros(4, LENGTH).long(), argument: kept.expand(4, -1)}
    with torch.no_grad():
        found = robust(only)
        assert bool(found.isfinite().all())
        same = robust({**inputs, "text": empty}, present=torch.tensor([[True, False]]).expand(4, -1))
        assert torch.equal(same, found)
        folded = ss.fold(robust, "image", example=only)
        args, kwargs = ss.prepare(robust, only)
        assert torch.equal(kwargs[argument], kept.expand(4, -1))
        torch.testing.assert_close(folded(*args, **kwargs), found)
        plain = ss.fold(robust, "image", example=only, drop_absent=True)
        assert set(present_arguments(robust.filled(robust.network), only)[1]) == {"image"}
        torch.testing.assert_close(plain(**only), found)
        mixed = robust(inputs, present=torch.tensor([[True, False], [True, True]] * 2))
        torch.testing.assert_close(mixed[::2], found[::2])
    assert f"where text is missing, {argument} keeps the first token" in str(robust.plan)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_literal_zeros_are_zero_in_masks_too(convention: str) -> None:
    robust, argument = adapted(convention, fill="literal-zeros"), CONVENTIONS[convention][0]
    assert not ss.prepare(robust, {"image": torch.zeros(2, 4)})[1][argument].any()
    assert robust.fill.kinds == {"image": "zeros", "text": "literal-zeros"}
    assert robust.plan.notes == ()


def test_all_of_a_missing_picture_is_read() -> None:
    modalities = ss.Modalities({"image": {"pixel_values": "3 H W", "pixel_mask": "H W:int64"}, "text": "H W"})
    fill = Filling(modalities)
    pixels, mask = fill(read(modalities, {"text": torch.ones(2, 4, 6)}))["image"]
    assert not pixels.any()
    assert torch.equal(mask, torch.ones(2, 4, 6, dtype=torch.long))
    assert fill.describe_masks() == ["where image is missing, pixel_mask keeps everything (1 is read, 0 hidden)"]


def test_a_mask_keeps_its_own_stand_in_beside_a_mean_and_a_learned_one() -> None:
    modalities = ss.Modalities({"image": "4", "sound": {"sound": "5 2", "attention_mask": "5:bool"}})
    data = [
        {"image": torch.zeros(3, 4), "sound": {"sound": torch.ones(3, 5, 2), "attention_mask": torch.ones(3, 5) > 0}}
    ]
    for spec, value in ((ss.Mean(data), 1.0), ("learned", 0.0)):
        sound, mask = Filling(modalities, {"sound": spec})(read(modalities, {"image": torch.zeros(2, 4)}))["sound"]
        assert bool((sound == value).all())
        assert mask.tolist() == [[True, False, False, False, False]] * 2


@pytest.mark.parametrize(
    ("argument", "axes", "expected"),
    [
        ("attention_mask", "L:int64", (1, 0)),
        ("decoder_attention_mask", "L:bool", (1, 0)),
        ("attention_mask", "L", (1, 0)),  # transformers takes it as 1 and 0
        ("attention_mask", "1 L L", (0, -INF)),  # and adds this one
        ("pixel_attention_mask", "H W", (1, 0)),
        ("src_key_padding_mask", "L:bool", (0, 1)),
        ("key_padding_mask", "L", (0, -INF)),
        ("src_mask", "L L", (0, -INF)),
        ("padding_mask", "L:bool", None),  # fairseq: True is padding; transformers' Encodec: False is
        ("attn_mask", "L L:bool", None),  # scaled_dot_product_attention: True is read; MultiheadAttention: hidden
        ("text_mask", "L:int64", (1, 0)),  # what ignores is bool, in torch
        ("text_mask", "L:bool", None),
        ("padding_mask", "L:int64", None),
        ("mask", "L", None),
    ],
)
def test_what_a_masks_values_mean(argument: str, axes: str, expected: tuple[float, float] | None) -> None:
    modalities = ss.Modalities({"text": {"ids": "L:int64", argument: axes}, "image": "H W"})
    masks, doubtful = find_masks(modalities)
    if expected is None:
        assert (masks, doubtful) == ({}, {("text", argument): argument})
    else:
        assert (masks["text", argument].read, masks["text", argument].hidden) == expected
        assert not doubtful


def test_torch_agrees_on_what_hides() -> None:
    """The conventions, by torch itself: what is hidden doesn't change the output."""
    attention, rows = nn.MultiheadAttention(4, 1, batch_first=True), torch.randn(1, 3, 4)
    other = rows.clone()
    other[:, 1:] += 1
    for mask in (torch.tensor([[False, True, True]]), torch.tensor([[0, -INF, -INF]])):
        found, same = (attention(rows[:, :1], one, one, key_padding_mask=mask)[0] for one in (rows, other))
        assert torch.equal(found, same)
    keep = torch.tensor([[[True, False, False]]])
    found, same = (F.scaled_dot_product_attention(rows[:, :1], one, one, attn_mask=keep) for one in (rows, other))
    assert torch.equal(found, same)


def test_what_is_no_mask_of_tokens_is_left_alone() -> None:
    masks, doubtful = find_masks(
        ss.Modalities({"text": {"ids": "L:int64", "head_mask": "2"}, "attention_mask": "L:int64", "masked": "L"})
    )
    assert (masks, doubtful) == ({}, {})


def test_the_networks_own_name_of_an_argument_counts() -> None:
    modalities = ss.Modalities({"text": {"ids": "L:int64", "known": "L:int64"}, "image": "L"})
    masks, _ = find_masks(modalities, {("text", "known"): "attention_mask"})
    assert list(masks) == [("text", "known")]


def test_a_mask_that_could_mean_either_is_asked_about_and_the_advice_settles_it() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
            return self.head(image) + (ids * mask).sum(1, keepdim=True)

    spec = {"text": {"ids": "5", "mask": "5:bool"}, "image": "4"}
    with pytest.warns(
        UserWarning, match=r"'mask' is called a mask, but .* Say which: fill=\{'text': subsense.Constant"
    ) as told:
        robust = ss.adapt(Masked(), spec)
    assert "where text is missing, mask is zero: say whether 1 is read or hidden" in str(robust.plan)
    advice = re.findall(r"subsense\.Constant\(.*?\)", str(told[0].message))
    for one, value in zip(advice, (1, 0), strict=True):
        fill = {"text": eval(one, {"subsense": ss})}  # what the message says, followed
        robust = ss.adapt(Masked(), spec, fill=fill)
        assert bool((ss.prepare(robust, {"image": torch.zeros(2, 4)})[1]["mask"] == value).all())
    assert ss.adapt(Masked(), spec, fill="literal-zeros").fill.kinds["text"] == "literal-zeros"


def test_saved_sets_come_back_with_the_stand_ins_they_were_trained_with(tmp_path: Any) -> None:
    robust, only = adapted("keep"), {"image": batch("keep")["image"]}
    ss.save(robust, tmp_path)
    again = ss.load(tmp_path, Reader())
    assert again.fill.kinds == {"image": "zeros", "text": "zeros-but-masks"}
    assert torch.equal(again(only), robust(only))
    manifest = tmp_path / "manifest.json"
    assert '"zeros-but-masks"' in manifest.read_text()


class MeanReader(Reader):
    """Divide by how many words there are, as mean pooling does without a clamp."""

    def forward(self, input_ids: Tensor, image: Tensor, **mask: Tensor) -> Tensor:
        (known,) = mask.values()
        words = self.value(self.key(self.words(input_ids))) * known[..., None]
        return self.head(words.sum(1) / known.sum(1, keepdim=True) + self.image(image))


def test_a_mask_that_hides_all_is_named_where_training_meets_nan() -> None:
    parts = {"input_ids": f"{LENGTH}:int64", "attention_mask": f"{LENGTH}:int64"}
    robust = ss.adapt(MeanReader(), {"image": "4", "text": parts}, fill="literal-zeros")
    data = [(batch("keep"), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(ss.NonFiniteLoss, match=r"rows with image\. .*every token of text is masked \(attention_mask\)"):
        ss.train(robust, data, loss=F.cross_entropy, epochs=1, progress=False)
    ss.train(
        ss.adapt(MeanReader(), {"image": "4", "text": parts}), data, loss=F.cross_entropy, epochs=1, progress=False
    )


def test_a_mask_that_hides_all_is_named_by_fold() -> None:
    parts = {"input_ids": f"{LENGTH}:int64", "attention_mask": f"{LENGTH}:int64"}
    robust = ss.adapt(MeanReader(), {"image": "4", "text": parts}, fill="literal-zeros")
    robust.mark_trained("all")
    says = r"gives NaN for image: every token of text is masked \(attention_mask\)"
    with pytest.raises(ss.FoldError, match=says):
        ss.fold(robust, "image", example={"image": torch.randn(2, 4)})


@pytest.mark.parametrize(
    "fill", ["literal-zeros", {"text": ss.Constant({"input_ids": 0, "attention_mask": 0})}], ids=["zeros", "constant"]
)
def test_a_fold_that_nobody_tried_warns_of_a_mask_that_hides_all(fill: Any) -> None:
    parts = {"input_ids": f"{LENGTH}:int64", "attention_mask": f"{LENGTH}:int64"}
    robust = ss.adapt(MeanReader(), {"image": "4", "text": parts}, fill=fill)
    robust.mark_trained("all")
    with pytest.warns(UserWarning, match=r"where text is missing every token of it is masked \(attention_mask, fill"):
        ss.fold(robust, "image")
    ss.fold(robust, "text")
    for right in ("zeros", {"text": ss.Constant({"input_ids": 0, "attention_mask": 1})}):
        other = ss.adapt(MeanReader(), {"image": "4", "text": parts}, fill=right)
        other.mark_trained("all")
        ss.fold(other, "image")


def test_a_row_that_masks_all_of_what_it_has_is_named() -> None:
    robust = adapted("keep", check_inputs=True)
    inputs = batch("keep")
    inputs["text"]["attention_mask"][2] = 0
    with pytest.raises(ss.InputError, match=r"every token of text is masked \(attention_mask in row 2\)"):
        robust(inputs)
    present = torch.tensor([[True, True]] * 2 + [[True, False]] + [[True, True]])
    assert bool(robust(inputs, present=present).isfinite().all())
