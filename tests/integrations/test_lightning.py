"""Lightning's Trainer: a whole run, its checkpoint, resuming, prediction; frozen is frozen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from training_examples import Noisy, adapters, equal, make_network, make_robust

pl = pytest.importorskip("lightning.pytorch", reason="needs the extra subsense[lightning]")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Let Lightning advise what it likes about workers and devices."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def trainer(folder: Path, epochs: int, **options: Any) -> Any:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def module(robust: ss.RobustModel, **options: Any) -> Any:
    from subsense.integrations.lightning import AdapterModule

    return AdapterModule(robust, cross_entropy, **options)


def loader() -> DataLoader[Any]:
    return DataLoader(Noisy(noise=0.0), batch_size=16)


def test_a_run_trains_the_sets_and_leaves_the_network(tmp_path: Path) -> None:
    robust = make_robust()
    before = {name: x.clone() for name, x in robust.network.state_dict().items()}
    start = ss.evaluate(robust_with_all(robust), loader(), metric="accuracy", progress=False)
    fit = trainer(tmp_path, 8)
    fit.fit(module(robust), loader(), loader())
    end = ss.evaluate(robust, loader(), metric="accuracy", progress=False)
    assert end.summary.adapted > start.summary.pretrained + 0.1
    assert equal(before, robust.network.state_dict())
    assert not any(layer.training for layer in robust.network.modules())
    assert {f"val_loss/{one}" for one in robust.combinations} <= set(fit.callback_metrics)


def robust_with_all(robust: ss.RobustModel) -> ss.RobustModel:
    robust.mark_trained(robust.combinations)
    return robust


def test_sets_that_are_not_asked_for_stay(tmp_path: Path) -> None:
    robust = make_robust()
    before = adapters(robust)
    trainer(tmp_path, 2).fit(module(robust, combinations=["rgb"], weight_decay=0.1), loader())
    row = robust.router.row_names.index("rgb")
    for name, bank in adapters(robust).items():
        kept = [other for other in range(len(bank)) if other != row]
        assert torch.equal(bank[kept], before[name][kept])
    assert [str(one) for one in robust.trained] == ["rgb"]


def test_a_checkpoint_holds_the_adapters_alone_and_goes_on(tmp_path: Path) -> None:
    whole, resumed = make_robust(), make_robust()
    every = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(tmp_path, 4, callbacks=[every]).fit(module(whole), loader())
    kept = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    assert not any(name.startswith("robust.network.") for name in kept["state_dict"])
    trainer(tmp_path / "rest", 4).fit(module(resumed), loader(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert set(resumed.trained) == set(whole.trained)
    with torch.no_grad():
        inputs, _ = next(iter(loader()))
        del inputs["depth"]
        assert torch.allclose(resumed.eval()(inputs), whole.eval()(inputs), atol=1e-6)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    fit = trainer(tmp_path, 1)
    fit.fit(module(make_robust()), loader())
    fit.save_checkpoint(tmp_path / "one.ckpt")
    network = make_network()
    with torch.no_grad():
        network.head.bias.add_(1.0)
    other = ss.adapt(network, {"rgb": "4", "depth": "6", "imu": "3"})
    with pytest.raises(ss.OtherNetwork, match="belong to a network with fingerprint"):
        trainer(tmp_path, 1).fit(module(other), loader(), ckpt_path=tmp_path / "one.ckpt")


def test_prediction_answers_for_what_a_batch_has(tmp_path: Path) -> None:
    robust = robust_with_all(make_robust())
    rows = [({"rgb": x["rgb"][0]}, y[0]) for x, y in DataLoader(Noisy(noise=0.0), batch_size=1)]
    found = torch.cat(trainer(tmp_path, 1).predict(module(robust), DataLoader(rows, batch_size=12)))
    with torch.no_grad():
        expected = torch.cat([robust.eval()({"rgb": x["rgb"][None]}) for x, _ in rows])
    assert torch.allclose(found, expected, atol=1e-6)
