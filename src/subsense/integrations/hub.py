"""Adapter sets as the Hub keeps models: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card.

`subsense.load` reads such a folder as it reads its own. Needs huggingface_hub for the card, for downloads and for
`push_to_hub`: ``pip install 'subsense[hub]'``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from subsense.adapters import words_of
from subsense.errors import CheckpointError, SubsenseError
from subsense.evaluation.reporting import text
from subsense.evaluation.results import Results
from subsense.model.checkpoint import files_of, load
from subsense.model.manifest import HUB_CONFIG, HUB_TENSORS, sealed
from subsense.model.robust import RobustModel
from subsense.support.files import make_folder, write_atomically

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
TAGS = ("missing-modalities", "multimodal", "adapters", "pytorch")


def save_pretrained(
    robust: RobustModel,
    folder: str | Path,
    *,
    base_model: str = "",
    results: Results | None = None,
    license: str | None = None,
) -> Path:
    """Write adapter sets, and a card that says what they are and how good, as the Hub keeps an adapter.

    The network's own weights are not written. The tensors come first, then the configuration that holds their checksum:
    a process killed between leaves a folder that `subsense.load` refuses, never one that it misreads.

    Args:
        robust: whose sets.
        folder: made where it does not exist.
        base_model: id on the Hub of the network that the sets belong to.
        results: what `subsense.evaluate` measured; its table is the card's, and its means are the card's metrics.
        license: of the sets, by the Hub's names: ``"apache-2.0"``, ``"mit"``, ...

    Returns:
        The folder.

    Raises:
        CheckpointError: huggingface_hub is not installed; results of another network.
        WriteError: a file could not be written.
    """
    _needs_hub("save_pretrained")
    if results is not None and results.network.fingerprint != robust.network_fingerprint():
        raise CheckpointError(
            f"results: measured on a network with fingerprint {results.network.fingerprint}, but this one has "
            f"{robust.network_fingerprint()}; pass the results of this model"
        )
    manifest, tensors = files_of(robust)
    config = {"library_name": "subsense", "base_model_name_or_path": base_model, "manifest": sealed(manifest)}
    card = _card(robust, base_model, results, license)
    folder = make_folder(folder)
    write_atomically(folder / HUB_TENSORS, tensors)
    write_atomically(folder / HUB_CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(folder / CARD, card.encode())
    return folder


def from_pretrained(
    folder_or_id: str | Path, network: nn.Module, *, revision: str | None = None, **options: Any
) -> RobustModel:
    """Load adapter sets from a folder, or else from a repository of the Hub.

    Args:
        folder_or_id: what `save_pretrained` or `subsense.save` wrote; where there is no such folder, an id as
            ``"owner/name"``.
        network: the network that they were made for, with the same weights.
        revision: branch, tag or commit of the repository.
        options: those of `subsense.load`.

    Raises:
        CheckpointError: neither a folder nor a repository that can be had; and what `subsense.load` raises.
    """
    if Path(folder_or_id).is_dir():
        return load(folder_or_id, network, **options)
    with TemporaryDirectory() as folder:
        _download(str(folder_or_id), revision, Path(folder))
        try:
            return load(folder, network, **options)
        except SubsenseError as error:
            raise type(error)(str(error).replace(folder, str(folder_or_id))) from None


def push_to_hub(
    robust: RobustModel, repo_id: str, *, private: bool = True, message: str = "Adapter sets", **card: Any
) -> str:
    """Upload what `save_pretrained` writes; nothing else of this library ever sends anything.

    Args:
        robust: whose sets.
        repo_id: ``"owner/name"``; made where it does not exist.
        private: whether a repository that is made is private.
        message: of the commit.
        card: `base_model`, `results`, `license` for `save_pretrained`.

    Returns:
        The commit's address.
    """
    _needs_hub("push_to_hub")
    from huggingface_hub import HfApi

    api = HfApi()
    with TemporaryDirectory() as folder:
        save_pretrained(robust, folder, **card)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url)


def _download(repo_id: str, revision: str | None, folder: Path) -> None:
    """Copy the two files out of the Hub's cache, where they are links to elsewhere."""
    _needs_hub(f"from_pretrained({repo_id!r}): no such folder, and for the Hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for name in (HUB_CONFIG, HUB_TENSORS):
            copyfile(hf_hub_download(repo_id, name, revision=revision), folder / name)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"from_pretrained: {repo_id!r} is no folder here, and the Hub gave no adapter sets for it: {reason}"
        ) from None


def _needs_hub(what: str) -> None:
    if find_spec("huggingface_hub") is None:
        raise CheckpointError(f"{what}: huggingface_hub is not installed: pip install 'subsense[hub]'")


def _card(robust: RobustModel, base_model: str, results: Results | None, license_name: str | None) -> str:
    data = _card_data(robust, base_model, results, license_name)
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_sections(robust, base_model, results))


def _card_data(
    robust: RobustModel, base_model: str, results: Results | None, license_name: str | None
) -> ModelCardData:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        library_name="subsense",
        base_model=base_model or None,
        base_model_relation="adapter" if base_model else None,
        license=license_name,
        tags=list(TAGS),
        metrics=[results.metric] if results else None,
    )


def _sections(robust: RobustModel, base_model: str, results: Results | None) -> Iterator[str]:
    served = [str(one) for one in robust.trained]
    untrained = [str(one) for one in robust.combinations if one not in robust.trained]
    yield f"# Adapter sets for {base_model or type(robust.network).__name__}\n"
    yield (
        f"They make {type(robust.network).__name__} work with any subset of {', '.join(robust.modalities)} that is "
        "listed here; its own weights stay as they are, and are not in this repository.\n"
    )
    yield _example(robust)
    yield "## What is in it\n"
    methods = ", ".join(words_of(one) for one in robust.plan.adapters)
    number = sum(one.numel() for one in robust.adapter_parameters().values())
    yield f"- {methods} at {len(robust.plan.sites)} sites, {robust.sharing} sharing, {number:,} parameters in all"
    yield f"- combinations with a trained set: {_listed(served)}"
    if untrained:
        yield f"- not trained, answered by policy {robust.router.untrained!r}: {_listed(untrained)}"
    yield f"- what stands in for a missing input: {_listed(sorted(set(robust.fill.kinds.values())))}"
    yield f"- the network's fingerprint, which loading checks: `{robust.network_fingerprint()}`\n"
    yield "## How good\n"
    yield text.markdown(results) if results else "Nothing was measured for this card.\n"
    yield "## Limits\n"
    yield (
        "The sets serve inputs that are missing, not inputs that are wrong: a broken sensor has to be passed as "
        "missing. The numbers above hold for data like those that they were measured on.\n"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _example(robust: RobustModel) -> str:
    present = max(robust.combinations, key=len, default=robust.modalities.complete)
    given = ", ".join(f'"{name}": {name}' for name in present)
    return f"""```python
import subsense as ss
from subsense.integrations.hub import from_pretrained

robust = from_pretrained("owner/name", network)  # the very network that the sets were made for
y = robust({{{given}}})
```
"""
