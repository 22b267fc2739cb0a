"""MONAI's samples, windows, measures and bundles, on small volumes; the page runs."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from monai.networks.nets import SegResNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandCropByPosNegLabeld
from torch import Tensor, nn
from typer.testing import CliRunner

import subsense as ss
from subsense.cli import app
from subsense.data.base import FileSamples
from subsense.data.formats.patches import Patches
from subsense.evaluation import metrics
from subsense.evaluation.results import Results
from subsense.integrations.monai import DictCollate, read_bundle
from subsense.zoo.windowed import Windowed, monai_network
from test_architectures import difference, stir

PAGE = Path(__file__).parents[2] / "docs" / "monai.md"
NAMES = ("t1", "t1ce", "t2", "flair")
SEQUENCES = dict.fromkeys(NAMES, "1 D H W")
SMALL: dict[str, Any] = {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
SIDE = 12


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    return SegResNet(spatial_dims=3, in_channels=4, out_channels=3, **SMALL).eval()


def write_cases(folder: Path, lacking: dict[int, str], count: int = 4) -> list[dict[str, Path]]:
    """Write cases as BraTS 2021 has them: a bright cube in one corner or another; what is lacking has no file."""
    cases = []
    for number in range(count):
        draw, name = np.random.default_rng(number), f"BraTS2021_0000{number}"
        label = np.zeros((SIDE, SIDE - 1, SIDE + 1), np.uint8)
        first = 1 + number
        label[first : first + 5, 2:7, 3:8] = 2
        label[first + 1 : first + 4, 3:6, 4:7] = 1
        label[first + 2, 4:6, 5:7] = 4
        case = {"seg": folder / name / f"{name}_seg.nii.gz"}
        case["seg"].parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), case["seg"])
        for weight, kind in enumerate(NAMES, start=1):
            if kind != lacking.get(number):
                volume = (100 + weight * 30.0 * label + draw.normal(0, 5, label.shape)).astype(np.float32)
                case[kind] = folder / name / f"{name}_{kind}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), case[kind])
        cases.append(case)
    return cases


class AsRegions:
    """Turn the label into the challenge's regions, and bring volumes to zero mean."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        label = sample["seg"][0]
        masks = [(label == 1) | (label == 4), label > 0, label == 4]
        volumes = {name: (sample[name] - 130) / 50 for name in NAMES if name in sample}
        return {**sample, **volumes, "seg": torch.stack(masks).float()}


def transforms(*more: Any) -> Compose:
    keys = [*NAMES, "seg"]
    loaded = [LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)]
    return Compose([*loaded, *more, AsRegions()])


def cropping() -> RandCropByPosNegLabeld:
    return RandCropByPosNegLabeld([*NAMES, "seg"], "seg", (8, 8, 8), num_samples=2, allow_missing_keys=True)


@pytest.mark.filterwarnings("ignore")  # of MONAI's own transforms
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = write_cases(tmp_path / "brats", {0: "flair", 1: "t1"})
    write_bundle(tmp_path / "brats_mri_segmentation")
    own, bundle = (block.split("```")[0] for block in PAGE.read_text("utf-8").split("```python\n")[1:])
    names: dict[str, Any] = {"network": segmenter(), "train_cases": cases[:2], "test_cases": cases[1:]}
    names |= {"train_transforms": transforms(cropping()), "test_transforms": transforms()}
    exec(own.replace("(96, 96, 96)", "(8, 8, 8)"), names)
    assert (names["train_loader"].dataset[0][0].keys() & set(NAMES)) == {"t1", "t1ce", "t2"}
    assert len(ss.load("brats-sets", names["robust"].detach()).trained) == 14
    exec(bundle, names)
    assert tuple(names["robust"].modalities) == ("T1c", "T1", "T2", "FLAIR")


def windowed(window: tuple[int, ...] | None = (8, 8, 8)) -> ss.RobustModel:
    return stir(ss.adapt(Windowed(segmenter(), NAMES, window, overlap=0.5), SEQUENCES, sharing="additive"))


def draw(rows: int, *size: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(rows, 1, *size) for name in NAMES}


def test_windows_are_monais() -> None:
    robust, volumes = windowed(), draw(1, 12, 11, 9)
    whole = stir(ss.adapt(segmenter(), SEQUENCES, call="channels", sharing="additive"))

    def predict(window: Tensor) -> Any:
        return whole({"t1": window[:, :1], "flair": window[:, 3:]})

    with torch.no_grad():
        stacked = torch.cat(list(volumes.values()), 1)
        expected = sliding_window_inference(stacked, (8, 8, 8), 1, predict, overlap=0.5, mode="gaussian")
        found = robust({"t1": volumes["t1"], "flair": volumes["flair"]})
    assert difference(found, expected) < 1e-5


def test_patches_and_volumes_of_rows_that_differ() -> None:
    robust = windowed()
    present = torch.tensor([[True, True, True, True], [True, False, True, False], [False, True, False, False]])
    with torch.no_grad():
        for size in ((8, 8, 8), (12, 10, 9), (8, 8, 8)):  # located on patches, again on volumes, again on patches
            inputs = draw(3, *size)
            mixed = robust(inputs, present)
            for row in range(3):
                alone = robust({name: one[row : row + 1] for name, one in inputs.items()}, present[row : row + 1])
                assert difference(mixed[row : row + 1], alone) < 1e-5


def test_monais_metadata_stay_outside() -> None:
    sample = {name: MetaTensor(torch.ones(1, 4, 4, 4)) for name in NAMES}
    inputs, target = DictCollate(SEQUENCES)([{**sample, "label": MetaTensor(torch.ones(3, 4, 4, 4)), "case": "A"}])
    assert {type(one) for one in (*inputs.values(), target)} == {Tensor}


def test_channels_of_one_entry() -> None:
    stacked = torch.arange(8.0).reshape(4, 2, 1, 1)
    inputs = DictCollate(SEQUENCES, label=None, image="image")(
        [{"image": stacked, "present": [True, True, False, True]}]
    )
    assert {name: one.flatten().tolist() for name, one in inputs.items() if name != "present"} == {
        "t1": [0.0, 1.0],
        "t1ce": [2.0, 3.0],
        "flair": [6.0, 7.0],
    }
    with pytest.raises(
        ss.InputError, match=r"sample 0: expected 'image' with 1 \+ 1 \+ 1 \+ 1 channels .*found shape \(3"
    ):
        DictCollate(SEQUENCES, label=None, image="image")([{"image": stacked[:3]}])
    with pytest.raises(ss.InputError, match="sample 0: expected a target in 'label', but found t1"):
        DictCollate(SEQUENCES)([{"t1": stacked[:1]}])
    with pytest.raises(ss.InputError, match="sample 0: expected a dictionary, or a list of them, but found int"):
        DictCollate(SEQUENCES)([3])


# ---------------------------------------------------------------------------------------------------------- measures


def masks(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 2, 7, 6, 5, generator=generator)
    return scores, (scores + torch.randn(scores.shape, generator=generator) > 0.3).float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("dice", DiceMetric(ignore_empty=False, num_classes=2)),
        ("hd95", HausdorffDistanceMetric(include_background=True, percentile=95)),
    ],
)
def test_measures_are_monais_where_nothing_is_empty(name: str, reference: Any) -> None:
    measure = metrics.build(name)
    for seed in range(2):
        scores, target = masks(seed)
        measure.update(scores, target)
        reference((scores > 0).float(), target)
    assert measure.compute() == pytest.approx(float(reference.aggregate()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("dice", [1.0, 0.0, 0.0, 1.0]), ("hd95", [0.0, 3 * 2**0.5, 3 * 2**0.5, 0.0])]
)
def test_what_is_empty_counts_as_in_the_challenge(name: str, expected: list[float]) -> None:
    empty, full = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
    for (found, wanted), value in zip(
        [(full, full), (full, empty), (empty, full), (empty, empty)], expected, strict=True
    ):
        measure = metrics.build(name)
        measure.update(found - 0.5, wanted)
        assert measure.compute() == pytest.approx(value)
    classes = metrics.build(name, ignore_index=255)
    classes.update(torch.tensor([[[0.0, 0, 9, 9], [1, 1, 0, 0]]])[..., None], torch.tensor([[1, 1, 0, 255]])[..., None])
    assert classes.compute() == {"dice": 1.0, "hd95": 0.0}[name]


# ------------------------------------------------------------------------------------------------------------ patches


def test_patches_are_drawn_anew_and_around_what_is_labelled() -> None:
    label = torch.zeros(20, 20, 20, dtype=torch.int64)
    label[15, 3, 18] = 1
    label[0, 0, 0] = 255
    place = torch.arange(20.0**3).reshape(1, 20, 20, 20)
    volumes = FileSamples(lambda index: ({"t1": place}, label), groups=["a"] * 40)
    for share in (0.0, 0.5, 1.0):
        patches = Patches(volumes, (4, 4, 24), foreground=share)
        found = sum(bool((patches[index][1] == 1).any()) for index in range(40))
        assert abs(found - 40 * share) <= {0.0: 4, 0.5: 10, 1.0: 0}[share]
    inputs, cut = patches[3]
    assert (inputs["t1"].shape, cut.shape) == ((1, 4, 4, 24), (4, 4, 24))
    assert torch.equal((inputs["t1"] == place[0, 15, 3, 18])[0], cut == 1)
    assert not inputs["t1"][..., 20:].any()
    again = Patches(volumes, (4, 4, 24), foreground=0.0)
    first = again[3][0]["t1"]
    again.set_epoch(1)
    assert not torch.equal(again[3][0]["t1"], first)
    again.set_epoch(0)
    assert torch.equal(again[3][0]["t1"], first)


# ------------------------------------------------------------------------------------------------------------- bundles


def write_bundle(folder: Path, channels: tuple[str, ...] = ("T1c", "T1", "T2", "FLAIR")) -> nn.Module:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    image = {"channel_def": dict(enumerate(channels)), "spatial_shape": ["8*n"] * 3, "num_channels": len(channels)}
    metadata = {"network_data_format": {"inputs": {"image": image}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), "utf-8")
    definition = {"_target_": "SegResNet", "spatial_dims": 3, "in_channels": 4, "out_channels": 3, **SMALL}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}), "utf-8")
    network = segmenter()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network


def test_a_bundle_gives_network_weights_and_modalities(tmp_path: Path) -> None:
    network = write_bundle(tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.has_weights
    assert bundle.modalities == {"T1c": "1 D H W", "T1": "1 D H W", "T2": "1 D H W", "FLAIR": "1 D H W"}
    x = torch.randn(1, 4, 8, 8, 8)
    assert torch.equal(bundle.network(x), network(x))


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ss.MissingFile, match=r"metadata.json: expected a bundle's metadata"):
        read_bundle(tmp_path)
    write_bundle(tmp_path / "twice", ("T1", "T1", "T2", "FLAIR"))
    with pytest.raises(ss.ModalityError, match="a name of its own for each channel"):
        read_bundle(tmp_path / "twice")
    write_bundle(tmp_path / "other")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other" / "models" / "model.pt")
    with pytest.raises(ss.CheckpointError, match=r"model.pt"):
        read_bundle(tmp_path / "other")
    with pytest.raises(ss.MissingFile, match=r"none.pt: expected the bundle's weights"):
        read_bundle(tmp_path / "other", weights=tmp_path / "none.pt")
    (tmp_path / "other" / "configs" / "inference.json").unlink()
    with pytest.raises(ss.MissingFile, match="with a 'network_def', but found none"):
        read_bundle(tmp_path / "other", weights=None)


def test_unknown_networks_and_options_are_told() -> None:
    with pytest.raises(ss.FactoryError, match=r"of monai.networks.nets, but got 'SegResnet'. Did you mean"):
        monai_network("SegResnet")
    with pytest.raises(ss.FactoryError, match=r"monai.networks.nets.SegResNet: .*init_filter"):
        monai_network(options={"init_filter": 8})
    with pytest.raises(ss.InputError, match="expected t1, t1ce, t2, flair, but found t1"):
        Windowed(segmenter(), NAMES)(t1=torch.zeros(1, 1, 8, 8, 8))


# ---------------------------------------------------------------------------------------------------------- the recipe


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_runs_to_a_table_of_fifteen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cases(tmp_path / "data" / "brats", {0: "flair", 3: "t2"}, count=6)
    changes = {
        "network.options.window": [8, 8, 8],
        "network.options.options": dict(SMALL),
        "data.options.patch": [8, 8, 8],
        "pretrain.epochs": 1,
        "train.epochs": 6,
        "data.options.test_share": 0.5,
    }
    arguments = [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    for verb in ("train", "evaluate"):
        done = CliRunner().invoke(app, [verb, "brats", "--root", str(tmp_path / "data"), *arguments])
        assert done.exit_code == 0, f"{done.stderr}\n{done.exception!r}"
    results = Results.load(next((tmp_path / "runs").rglob("results.json")))
    assert len(results.rows) == 15
    assert results.metric == "Dice"
