"""Adapter sets as the Hub keeps them: written, read, refused, downloaded, uploaded; all without a network."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import subsense as ss
from networks import draw, make, only, with_sets
from subsense.integrations.hub import from_pretrained, push_to_hub, save_pretrained

hub = pytest.importorskip("huggingface_hub")
AXES = {"left": "4", "right": "6"}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def adapted(**options: Any) -> ss.RobustModel:
    network, arguments = make("towers")
    return with_sets(ss.adapt(network, **arguments | options))


def answer(robust: ss.RobustModel) -> Tensor:
    with torch.no_grad():
        return robust(only(draw(AXES), ["left"]))


def results_of(robust: ss.RobustModel) -> ss.Results:
    batches = [(draw(AXES, rows=8), torch.randint(3, (8,), generator=torch.Generator().manual_seed(0)))]
    return ss.evaluate(robust, batches, metric="accuracy")


@pytest.mark.parametrize("read", [ss.load, from_pretrained])
def test_what_is_written_is_read(read: Callable[..., ss.RobustModel], tmp_path: Path) -> None:
    robust = adapted(fill="learned")
    expected, bits = answer(robust), {name: one.clone() for name, one in robust.adapter_state_dict().items()}
    folder = save_pretrained(robust, tmp_path / "sets", base_model="lab/towers")
    assert sorted(one.name for one in folder.iterdir()) == ["README.md", CONFIG, TENSORS]
    again = read(folder, robust.detach())
    assert all(torch.equal(one, bits[name]) for name, one in again.adapter_state_dict().items())
    assert torch.equal(answer(again), expected)


def test_the_hub_reads_the_card_and_the_configuration(tmp_path: Path) -> None:
    robust = adapted()
    results = results_of(robust)
    save_pretrained(robust, tmp_path, base_model="lab/towers", results=results, license="apache-2.0")
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict()["library_name"] == "subsense"
    assert (card.data.base_model, card.data.base_model_relation) == ("lab/towers", "adapter")
    assert (card.data.license, card.data.metrics) == ("apache-2.0", ["accuracy"])
    row = results["left"]
    assert f"| left | {results.cell(row, 'pretrained')} | {results.cell(row, 'adapted')} |" in card.text
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    assert (config["library_name"], config["base_model_name_or_path"]) == ("subsense", "lab/towers")


def test_the_card_of_sets_that_nobody_trained_says_so(tmp_path: Path) -> None:
    network, arguments = make("towers")
    robust = ss.adapt(network, **arguments)
    robust.mark_trained("left")
    save_pretrained(robust, tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "trained set: left\n" in text
    assert "not trained, answered by policy 'error': right\n" in text
    assert "Nothing was measured" in text


def test_the_example_of_the_card_runs(tmp_path: Path) -> None:
    robust = adapted()
    save_pretrained(robust, tmp_path)
    example = (tmp_path / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"network": robust.detach(), **draw(AXES)}
    exec(example.replace("owner/name", str(tmp_path)), names)
    assert names["y"].shape == (4, 3)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    robust = adapted()
    batches = [(draw(AXES), torch.zeros(4, dtype=torch.int64))]
    page = (Path(__file__).parents[2] / "docs" / "hub.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0].replace('"sets", network', '"sets", robust.detach()')
    names: dict[str, Any] = {"ss": ss, "robust": robust, "test_loader": batches}
    exec(code, names)
    assert names["robust"] is not robust


def test_results_of_another_network_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    results = results_of(adapted())
    network, arguments = make("towers")
    with torch.no_grad():
        next(network.parameters()).add_(1)
    with pytest.raises(ss.CheckpointError, match="results: measured on a network with fingerprint"):
        save_pretrained(ss.adapt(network, **arguments), tmp_path / "sets", results=results)
    assert not (tmp_path / "sets").exists()


def test_damage_and_other_libraries_files_are_told(tmp_path: Path) -> None:
    robust = adapted()
    save_pretrained(robust, tmp_path)
    network = robust.detach()
    whole = (tmp_path / TENSORS).read_bytes()
    (tmp_path / TENSORS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ss.DamagedFile, match=TENSORS):
        ss.load(tmp_path, network)
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    config["manifest"]["untrained"] = "pretrained"
    (tmp_path / CONFIG).write_text(json.dumps(config), "utf-8")
    with pytest.raises(ss.DamagedFile, match="checksum"):
        ss.load(tmp_path, network)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA"}), "utf-8")
    with pytest.raises(ss.CheckpointError, match=r"found LORA; .* read by subsense.integrations.peft.from_peft"):
        ss.load(tmp_path, network)


# ------------------------------------------------------------------------------------------------------ the Hub itself


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay sets into a cache as a download leaves it, links and all, and pull the plug."""
    robust = adapted()
    written = save_pretrained(robust, tmp_path / "written")
    repository = tmp_path / "cache" / "models--lab--sets"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, "utf-8")
    for file in (CONFIG, TENSORS):
        data = (written / file).read_bytes()
        blob = blobs / sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / file).symlink_to(f"../../blobs/{blob.name}")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return written


def test_a_repository_is_read_by_its_id(cached: Path) -> None:
    network, _ = make("towers")
    expected = answer(ss.load(cached, network))
    network, _ = make("towers")
    assert torch.equal(answer(from_pretrained("lab/sets", network, revision=COMMIT)), expected)


def test_errors_name_the_repository_and_not_a_temporary_folder(cached: Path) -> None:
    network, _ = make("cameras")
    with pytest.raises(ss.OtherNetwork, match=r"^lab/sets: made for"):
        from_pretrained("lab/sets", network)


@pytest.mark.parametrize("name", ["lab/unknown", "no such folder", "./sets"])
def test_what_is_neither_folder_nor_repository_is_told(name: str, cached: Path) -> None:
    network, _ = make("towers")
    with pytest.raises(ss.CheckpointError, match="is no folder here, and the Hub gave no adapter sets for it: "):
        from_pretrained(name, network)


def _names(folder: str) -> list[str]:
    return sorted(one.name for one in Path(folder).iterdir())


def test_an_upload_sends_the_three_files(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def fake(name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(hub.HfApi, name))

        def call(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options).arguments
            folder = bound.get("folder_path")
            calls.append((name, bound | {"files": _names(folder) if folder else []}))
            return SimpleNamespace(commit_url="there")

        return call

    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(hub.HfApi, name, fake(name))
    assert push_to_hub(adapted(), "lab/sets", base_model="lab/towers") == "there"
    (first, made), (second, sent) = calls
    assert (first, made["repo_id"], made["private"], made["exist_ok"]) == ("create_repo", "lab/sets", True, True)
    assert (second, sent["repo_id"], sent["files"]) == ("upload_folder", "lab/sets", ["README.md", CONFIG, TENSORS])
