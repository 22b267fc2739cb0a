"""What a folder of adapter sets says of itself: ``manifest.json``, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from subsense.adapters.layers.declare import AttentionClass, Declaration, LayerClass
from subsense.errors import CheckpointError, DamagedFile, MissingFile, OtherNetwork
from subsense.model.watching.kept import KeptWatch
from subsense.support.files import checksum, parse_object

FORMAT = 3
"""1; 2 where sites were merged; 3 where a monitor or confidence was learned: an older version refuses it."""
MANIFEST = "manifest.json"
HUB_CONFIG, HUB_TENSORS = "adapter_config.json", "adapter_model.safetensors"
"""What the Hub calls the two files; its configuration holds the manifest."""
MOST_MANIFEST = MOST_HEADER = 8 << 20
"""Bytes; a network of ten thousand sites stays below. Nothing larger is read into memory."""


class DeclaredLayer(BaseModel):
    """Describe a `LayerClass` without its class object."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cls: str
    kind: str
    axis: int
    weight: str
    bias: str | None
    out_axis: int


class DeclaredAttention(BaseModel):
    """Describe an `AttentionClass` without its class object."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cls: str
    weight: str | dict[str, str]
    bias: str | dict[str, str] | None
    parts: tuple[str, ...]


class Manifest(BaseModel):
    """Hold what a folder says of itself, beside its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int
    subsense: str
    torch: str
    network: str
    fingerprint: str
    modalities: dict[str, str | dict[str, str]]
    call: str | dict[str, list[str]]
    method: list[dict[str, Any]]
    sharing: str
    combinations: list[str]
    trained_rows: list[int]
    untrained: str
    fill: dict[str, str]
    sites: list[str]
    layers: list[DeclaredLayer | DeclaredAttention]
    merged: bool = False
    watch: KeptWatch | None = None
    confidence: dict[str, Any] | None = None
    tensors: Annotated[str, Field(pattern=r"^adapters-[0-9a-f]{16}\.safetensors$")]


def _read_manifest(folder: Path) -> Manifest:
    path = _file(folder, HUB_CONFIG if is_of_hub(folder) else MANIFEST, MOST_MANIFEST)
    try:
        data = parse_object(path.read_bytes())
    except ValueError as error:
        raise DamagedFile(f"{path}: expected JSON as `subsense.save` writes it, but found: {error}") from None
    if path.name == HUB_CONFIG:
        data = _of_config(path, data)
    found = data.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(
            f"{path}: format {found}, and this version of subsense reads up to {FORMAT}; install a newer one"
        )
    if data.pop("checksum", None) != checksum(data):
        raise DamagedFile(f"{path}: changed since `subsense.save` wrote it: its checksum doesn't fit; save it again")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DamagedFile(f"{path}: not a manifest of adapter sets: {faults}") from None


def is_of_hub(folder: Path) -> bool:
    """Say whether a folder holds adapter sets as the Hub keeps them, and not as `subsense.save` does."""
    return (folder / HUB_CONFIG).is_file() and not (folder / MANIFEST).is_file()


def _of_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(manifest := config.get("manifest"), dict):
        return manifest
    kind = config.get("peft_type") or config.get("library_name") or "nothing known"
    raise CheckpointError(
        f"{path}: expected what subsense.integrations.hub.save_pretrained writes, but found {kind}; a LoRA of peft's "
        "is read by subsense.integrations.peft.from_peft"
    )


def _file(folder: Path, name: str, most: int) -> Path:
    """Find a file of a folder, of at most so many bytes, and not a link that leads elsewhere."""
    path = folder / name
    if not folder.is_dir():
        raise MissingFile(f"{folder}: expected a folder that `subsense.save` wrote, but there is none")
    if not path.is_file():
        raise MissingFile(f"{path}: missing; {folder} holds {sorted(one.name for one in folder.iterdir())}")
    if path.resolve().parent != folder.resolve():
        raise CheckpointError(f"{path}: a link to {path.resolve()}, outside the folder; put the file itself there")
    if (size := path.stat().st_size) > most:
        raise DamagedFile(f"{path}: {size:,} bytes, more than adapter sets for this network can have ({most:,})")
    return path


def _declared(layer: Declaration) -> DeclaredLayer | DeclaredAttention:
    kind = DeclaredLayer if isinstance(layer, LayerClass) else DeclaredAttention
    own = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return kind(**own | {"cls": _class_name(layer.cls)})


def _layers(manifest: Manifest, network: nn.Module) -> list[Declaration]:
    modules = network.modules() if manifest.layers else ()
    classes = {_class_name(type(module)): type(module) for module in modules}
    for layer in manifest.layers:
        if layer.cls not in classes:
            raise OtherNetwork(
                f"the adapter sets were made with a declared layer class {layer.cls}; the network has none"
            )
    return [_declaration(layer, classes[layer.cls]) for layer in manifest.layers]


def _declaration(layer: DeclaredLayer | DeclaredAttention, cls: type[nn.Module]) -> Declaration:
    kind: type[Declaration] = LayerClass if isinstance(layer, DeclaredLayer) else AttentionClass
    return kind(cls, **layer.model_dump(exclude={"cls"}))


def seal(data: Mapping[str, Any]) -> bytes:
    """Give the text of a manifest, with the checksum of what it says."""
    return (json.dumps(sealed(data), indent=2) + "\n").encode()


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Give a manifest's data with their checksum."""
    return {**data, "checksum": checksum(data)}


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
