"""A folder <-> adapter sets: ``manifest.json`` and one safetensors file, no pickle anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from subsense.adapters import Adapter, from_json, to_json
from subsense.atomic import make_folder, write_atomically
from subsense.calling import CallSpec, parse_call, spread_arguments
from subsense.declarations import AttentionClass, Declaration, LayerClass
from subsense.errors import (
    CheckpointError,
    DamagedFile,
    ForeignTensor,
    MissingFile,
    OtherModalities,
    OtherNetwork,
    PlanError,
)
from subsense.filling import KINDS, Constant, FillFunction, Filling, Mean
from subsense.injection import bank_dtype, bank_names, check_unadapted
from subsense.integrity import checksum, checksum_of_bytes, fingerprint, parse_object
from subsense.machinery import check_materialised
from subsense.modalities import AxisSpec, Modalities
from subsense.model import RobustModel, inject
from subsense.plan import Plan, plan
from subsense.routing import Router

FORMAT = 1
MANIFEST = "manifest.json"
MOST_MANIFEST = MOST_HEADER = 8 << 20
"""Bytes; a network of ten thousand sites stays below. Nothing larger is read into memory."""
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
           torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip

Expected = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor -> its shape and dtype."""


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
    tensors: Annotated[str, Field(pattern=r"^adapters-[0-9a-f]{16}\.safetensors$")]


def save(robust: RobustModel, folder: str | Path) -> None:
    """Save adapter sets, constant, mean and learned fills: all but the network's own weights.

    The tensors are written first, under a name made from their content, then the manifest that names them is put in
    place in one step; a process killed at any moment leaves the older version readable.

    Args:
        robust: what to save.
        folder: made where it does not exist.
    """
    folder = make_folder(folder)
    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(robust).items()})
    name = _file_name(checksum_of_bytes(data))
    write_atomically(folder / name, data)
    write_atomically(folder / MANIFEST, seal(_manifest(robust, name).model_dump(mode="json")))
    for old in folder.glob("adapters-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(
    folder: str | Path,
    network: nn.Module,
    *,
    modalities: Mapping[str, AxisSpec] | None = None,
    call: CallSpec | None = None,
    fill: Mapping[str, FillFunction] | FillFunction | None = None,
    untrained: str | None = None,
) -> RobustModel:
    """Load adapter sets for the network they were trained on.

    Args:
        folder: what `save` wrote.
        network: the same network with the same weights; untouched where anything does not fit.
        modalities: what they are expected to be; None: whatever was saved.
        call: needed where the network is called by a function, which can't be saved.
        fill: needed where a modality is filled by a function: modality -> function, or one for all of those.
        untrained: another policy than the saved one.

    A folder that anybody else made can do no harm: nothing outside it is read, no code in it runs, and no more is read
    into memory than adapter sets for this network take.

    Raises:
        MissingFile, DamagedFile, OtherNetwork, OtherModalities, ForeignTensor, CheckpointError: what doesn't fit.
    """
    folder = Path(folder)
    check_unadapted(network)
    check_materialised(network)
    manifest = _read_manifest(folder)
    declared = _modalities(folder, manifest, modalities)
    _check_network(folder, manifest, network)
    method, layers = _method(folder, manifest), _layers(manifest, network)
    fills = _fills(folder, manifest, fill)
    planned = plan(network, method, include=manifest.sites, layers=layers)
    tensors = _read_tensors(folder, manifest, _expected(manifest, planned, declared, fills, bank_dtype(network)))
    parsed, filling = parse_call(_call(folder, manifest, call), declared), Filling(declared, fills)
    combinations = declared.select(manifest.combinations)
    router = Router(declared, combinations, manifest.sharing, untrained or manifest.untrained)
    router.trained_rows = frozenset(manifest.trained_rows)
    with torch.no_grad():
        for name, stand_in in filling.stand_ins().items():
            stand_in.copy_(tensors[f"fill.{name}"])
    return inject(network, planned, tensors, filling, router, parsed)


def _manifest(robust: RobustModel, tensors: str) -> Manifest:
    return Manifest(
        format=FORMAT,
        subsense=version("subsense"),
        torch=torch.__version__,
        network=type(robust.network).__name__,
        fingerprint=robust.network_fingerprint(),
        modalities=robust.modalities.spec,
        call=robust.call.spec,
        method=to_json(robust.plan.adapters),
        sharing=robust.sharing,
        combinations=[str(one) for one in robust.combinations],
        trained_rows=sorted(robust.router.trained_rows),
        untrained=robust.router.untrained,
        fill=robust.fill.kinds,
        sites=list(dict.fromkeys(path for site in robust.plan.sites for path in site.modules)),
        layers=[_declared(layer) for layer in robust.plan.declared],
        tensors=tensors,
    )


def _tensors(robust: RobustModel) -> dict[str, Tensor]:
    fills = {f"fill.{name}": tensor for name, tensor in robust.fill.stand_ins().items()}
    return {**robust.banks.named(), **fills}


def _read_manifest(folder: Path) -> Manifest:
    path = _file(folder, MANIFEST, MOST_MANIFEST)
    try:
        data = parse_object(path.read_bytes())
    except ValueError as error:
        raise DamagedFile(f"{path}: expected JSON as `subsense.save` writes it, but found: {error}") from None
    found = data.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(
            f"{folder / MANIFEST}: format {found}, and this version of subsense reads up to {FORMAT}; "
            "install a newer one"
        )
    if data.pop("checksum", None) != checksum(data):
        raise DamagedFile(f"{path}: changed since `subsense.save` wrote it: its checksum doesn't fit; save it again")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DamagedFile(f"{path}: not a manifest of adapter sets: {faults}") from None


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


def _read_tensors(folder: Path, manifest: Manifest, expected: Expected) -> dict[str, Tensor]:
    most = MOST_HEADER + sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected.values())
    path = _file(folder, manifest.tensors, most)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    if header > MOST_HEADER or _file_name(checksum_of_bytes(data)) != path.name:
        raise DamagedFile(f"{path}: truncated or damaged (its checksum doesn't fit its name); save it again")
    try:
        found = {name: (tuple(one["shape"]), one["dtype"]) for name, one in deserialize(data)}
    except SafetensorError as error:
        raise DamagedFile(f"{path}: truncated or damaged ({error}); save it again") from None
    _check_tensors(folder, found, expected)
    return from_bytes(data)


def _modalities(folder: Path, manifest: Manifest, expected: Mapping[str, AxisSpec] | None) -> Modalities:
    saved = Modalities(manifest.modalities)
    if expected is not None:
        wanted = Modalities(spread_arguments(Modalities(expected).spec, manifest.call))
        if wanted != saved:
            raise OtherModalities(f"{folder}: made for modalities {saved.spec}, but {wanted.spec} were expected")
    return saved


def _check_network(folder: Path, manifest: Manifest, network: nn.Module) -> None:
    try:
        found = fingerprint(network, like=manifest.fingerprint)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: {error} to this version of subsense; it was written by {manifest.subsense}: install "
            "that, or save it again"
        ) from None
    if found != manifest.fingerprint:
        raise OtherNetwork(
            f"{folder}: made for a {manifest.network} with fingerprint {manifest.fingerprint}, but this "
            f"{type(network).__name__} has {found}; load the very weights on which the sets were trained"
        )


def _expected(
    manifest: Manifest, planned: Plan, modalities: Modalities, fills: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Give the shape and dtype of each tensor; nothing of a declared size is made."""
    num_rows = len(manifest.combinations) if manifest.sharing == "independent" else len(manifest.modalities)
    banks = {
        name: ((num_rows, *site.adapters[adapter][parameter]), dtype)
        for name, (site, adapter, parameter) in bank_names(planned).items()
    }
    with torch.device("meta"):
        stand_ins = Filling(modalities, fills).stand_ins()
    return banks | {f"fill.{name}": (tuple(tensor.shape), tensor.dtype) for name, tensor in stand_ins.items()}


def _check_tensors(folder: Path, found: Mapping[str, tuple[tuple[int, ...], str]], expected: Expected) -> None:
    for name in (*expected, *found):
        if name not in expected:
            raise ForeignTensor(f"{folder}: tensor {name!r} belongs to no site of this network")
        shape, dtype = expected[name]
        if name not in found:
            raise ForeignTensor(f"{folder}: tensor {name!r} {shape} is missing")
        if found[name] != (shape, _DTYPES[dtype]):
            raise ForeignTensor(
                f"{folder}: tensor {name!r}: expected shape {shape} of {_DTYPES[dtype]}, "
                f"but found {found[name][0]} of {found[name][1]}"
            )


def _method(folder: Path, manifest: Manifest) -> tuple[Adapter, ...]:
    try:
        return from_json(manifest.method)
    except (KeyError, TypeError, PlanError):
        raise CheckpointError(
            f"{folder / MANIFEST}: method {manifest.method} is none that this version of subsense knows; "
            f"it was written by {manifest.subsense}"
        ) from None


def _call(folder: Path, manifest: Manifest, call: CallSpec | None) -> CallSpec:
    if call is not None:
        return call
    if manifest.call == "function":
        raise CheckpointError(
            f"{folder}: the network was called by a function, which is not saved; pass it: load(..., call=...)"
        )
    return manifest.call


def _fills(folder: Path, manifest: Manifest, fill: Any) -> dict[str, Any]:
    given = fill if isinstance(fill, Mapping) else dict.fromkeys(manifest.fill, fill)
    fills: dict[str, Any] = {}
    for name, kind in manifest.fill.items():
        if kind == "callable" and given.get(name) is None:
            raise CheckpointError(
                f"{folder}: {name!r} was filled by a function, which is not saved; "
                f"pass it: load(..., fill={{{name!r}: ...}})"
            )
        fills[name] = given[name] if kind == "callable" else _kept_fill(kind)
    return fills


def _kept_fill(kind: str) -> str | Mean | Constant:
    """Give a fill whose tensors are in the file; a word that says no kind is a constant's name."""
    if kind == "mean":
        return Mean(None)
    return kind if kind in KINDS else Constant(None, kind)


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
    return (json.dumps({**data, "checksum": checksum(data)}, indent=2) + "\n").encode()


def _file_name(digest: str) -> str:
    return f"adapters-{digest}.safetensors"


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
