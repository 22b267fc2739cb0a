"""A folder <-> adapter sets: ``manifest.json`` and one safetensors file, no pickle anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from subsense.adapters import Adapter, from_json
from subsense.adapters.common import num_rows_of
from subsense.errors import (
    CheckpointError,
    DamagedFile,
    ForeignTensor,
    ModalityError,
    OtherModalities,
    OtherNetwork,
    PlanError,
)
from subsense.injection.banks import bank_dtype, bank_names
from subsense.injection.hooks import check_unadapted
from subsense.injection.planning import Plan, plan
from subsense.injection.wrapped import check_materialised
from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.calling import CallSpec, parse_call, spread_arguments
from subsense.modalities.filling import KINDS, Constant, FillFunction, Filling, Mean
from subsense.model.adapt import inject
from subsense.model.described import as_data, describe
from subsense.model.fingerprint import fingerprint
from subsense.model.manifest import (
    HUB_TENSORS,
    MANIFEST,
    MOST_HEADER,
    Manifest,
    _file,
    _layers,
    _read_manifest,
    is_of_hub,
    seal,
)
from subsense.model.robust import RobustModel
from subsense.model.watching import kept as watching
from subsense.routing.router import Router
from subsense.support.files import checksum_of_bytes, make_folder, write_atomically
from subsense.support.torch_private import is_sharded

if TYPE_CHECKING:
    from subsense.model.confidence import Confidence

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
           torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
Expected = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor -> its shape and dtype."""


def save(robust: RobustModel, folder: str | Path) -> None:
    """Save adapter sets, constant, mean and learned fills, and the monitor: all but the network's own weights.

    The tensors are written first, under a name made from their content, then the manifest that names them is put in
    place in one step; a process killed at any moment leaves the older version readable.

    Args:
        robust: what to save.
        folder: made where it does not exist. Of a network that is split between processes, all have to ask, and the
            first one writes.

    Raises:
        WriteError: a file could not be written; what stood there before is whole.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.save(robust, folder)
    ...     robust = ss.load(folder, robust.detach())
    >>> [str(one) for one in robust.combinations]
    ['left', 'right']
    """
    manifest, data = files_of(robust)
    if is_sharded(robust.network):  # all processes have made the fingerprint; one writes
        if torch.distributed.get_rank() == 0:
            _write(manifest, data, folder)
        torch.distributed.barrier()
        return
    _write(manifest, data, folder)


def _write(manifest: dict[str, Any], data: bytes, folder: str | Path) -> None:
    name = manifest["tensors"]
    folder = make_folder(folder)
    write_atomically(folder / name, data)
    write_atomically(folder / MANIFEST, seal(manifest))
    for old in folder.glob("adapters-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def files_of(robust: RobustModel) -> tuple[dict[str, Any], bytes]:
    """Give what `save` writes: the manifest's data, and the file of tensors whose name the manifest has."""
    robust.injection.check_in_place()
    robust.trained_on.check()
    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(robust).items()})
    return as_data(describe(robust, _file_name(checksum_of_bytes(data)))), data


def load(
    folder: str | Path,
    network: nn.Module,
    *,
    modalities: Mapping[str, AxisSpec] | None = None,
    call: CallSpec | None = None,
    fill: Mapping[str, FillFunction] | FillFunction | None = None,
    methods: Sequence[type[Any]] = (),
    untrained: str | None = None,
) -> RobustModel:
    """Load adapter sets for the network they were trained on.

    Args:
        folder: what `save` wrote, or `subsense.integrations.hub.save_pretrained`.
        network: the same network with the same weights; untouched where anything does not fit.
        modalities: what they are expected to be; None: whatever was saved.
        call: needed where the network is called by a function, which can't be saved.
        fill: needed where a modality is filled by a function: modality -> function, or one for all of those.
        methods: the classes of adapters of one's own that were saved; a file names them, but no code is imported
            because a file says so.
        untrained: another policy than the saved one.

    A folder that anybody else made can do no harm: nothing outside it is read, no code in it runs, and no more is read
    into memory than adapter sets for this network take.

    Raises:
        MissingFile, DamagedFile, OtherNetwork, OtherModalities, ForeignTensor, CheckpointError: what doesn't fit.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.save(robust, folder)
    ...     ss.load(folder, Sum())  # other weights
    Traceback (most recent call last):
    ...
    subsense.errors.OtherNetwork: ...
    """
    folder = Path(folder)
    check_unadapted(network)
    check_materialised(network)
    manifest = _read_manifest(folder)
    declared = _modalities(folder, manifest, modalities)
    _check_network(folder, manifest, network)
    method, layers = _method(folder, manifest, methods), _layers(manifest, network)
    fills = _fills(folder, manifest, fill)
    if manifest.watch is not None:
        watching.check(manifest.watch, declared, str(folder))
    planned = plan(network, method, include=manifest.sites, layers=layers, merge=manifest.merged)
    parsed = parse_call(_call(folder, manifest, call), declared)
    with torch.device("meta"):  # nothing of a declared size is made before the file is known to have it
        stand_ins = Filling(declared, fills, parsed.arguments).stand_ins()
    tensors = _read_tensors(folder, manifest, _expected(manifest, planned, stand_ins, bank_dtype(network)))
    filling = Filling(declared, fills, parsed.arguments)
    combinations = declared.select(manifest.combinations)
    router = Router(declared, combinations, manifest.sharing, untrained or manifest.untrained)
    router.trained_rows = frozenset(manifest.trained_rows)
    with torch.no_grad():
        for name, stand_in in filling.stand_ins().items():
            stand_in.copy_(tensors[name])
    trusted = _confidence(folder, manifest, declared)
    robust = inject(network, planned, tensors, filling, router, parsed)
    robust.trained_on.note(manifest.fingerprint if ":" in manifest.fingerprint else None)
    robust.confidence = trusted
    if manifest.watch is not None:
        robust.monitor = watching.restored(manifest.watch, declared, tensors)
    return robust


def _tensors(robust: RobustModel) -> dict[str, Tensor]:
    watched = {} if robust.monitor is None else watching.tables(robust.monitor)
    return {**robust.banks.named(), **robust.fill.stand_ins(), **watched}


def _read_tensors(folder: Path, manifest: Manifest, expected: Expected) -> dict[str, Tensor]:
    most = MOST_HEADER + sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected.values())
    path = _file(folder, HUB_TENSORS if is_of_hub(folder) else manifest.tensors, most)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    if header > MOST_HEADER or _file_name(checksum_of_bytes(data)) != manifest.tensors:
        raise DamagedFile(f"{path}: truncated or damaged (its checksum doesn't fit); save it again")
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


def _confidence(folder: Path, manifest: Manifest, modalities: Modalities) -> Confidence | None:
    if manifest.confidence is None:
        return None
    from subsense.model.confidence import Confidence

    try:
        found = Confidence.model_validate(manifest.confidence)
        for trust in found.trusts:
            modalities.combination(trust.combination)
    except (ValidationError, ModalityError) as error:
        raise DamagedFile(f"{folder / MANIFEST}: no confidence as `subsense.save` writes it: {error}") from None
    return found


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
    manifest: Manifest, planned: Plan, stand_ins: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Give the shape and dtype of each tensor."""
    num_rows = len(manifest.combinations) if manifest.sharing == "independent" else len(manifest.modalities)
    banks = {
        name: ((num_rows_of(adapter, num_rows), *site.adapters[adapter][parameter]), dtype)
        for name, (site, adapter, parameter) in bank_names(planned).items()
    }
    watched = {} if manifest.watch is None else watching.shapes(manifest.watch)
    return {
        **banks,
        **{name: (tuple(tensor.shape), tensor.dtype) for name, tensor in stand_ins.items()},
        **{name: (shape, torch.float32) for name, shape in watched.items()},
    }


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


def _method(folder: Path, manifest: Manifest, own: Sequence[type[Any]]) -> tuple[Adapter, ...]:
    try:
        return from_json(manifest.method, own)
    except PlanError as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error}") from None
    except (KeyError, TypeError):
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
    """Give a fill whose tensors are in the file; a word that says no kind is a constant's name.

    A file that calls zeros what has a mask was written before masks had a stand-in of their own.
    """
    if kind == "mean":
        return Mean(None)
    if kind == "zeros":
        return "literal-zeros"
    return kind if kind in KINDS else Constant(None, kind)


def _file_name(digest: str) -> str:
    return f"adapters-{digest}.safetensors"
