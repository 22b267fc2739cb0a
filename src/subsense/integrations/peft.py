"""LoRA sets to and from peft's files: one folder for each combination, for tools that read nothing else.

peft has one set where subsense has a bank for all combinations, so a folder holds the set of one combination. Nothing
of peft is needed to write or read it: ``adapter_config.json`` and ``adapter_model.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from subsense.adapters import Common, LoRA
from subsense.errors import CheckpointError, DamagedFile, ForeignTensor, MissingFile, PlanError
from subsense.injection.site import Site
from subsense.modalities import CombinationLike
from subsense.model.robust import RobustModel
from subsense.support.files import make_folder, parse_object, write_atomically

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
NEEDED = ("peft_type", "r", "lora_alpha")


def to_peft(robust: RobustModel, combination: CombinationLike, folder: str | Path, base_model: str = "") -> Path:
    """Write the LoRA set of one combination as peft keeps an adapter.

    ``peft.PeftModel.from_pretrained(network, folder)`` then computes, on inputs with the same stand-ins for what is
    missing (`subsense.prepare` makes them), what the adapted network computes.

    Args:
        robust: adapted by LoRA alone, or by a `Common` LoRA alone.
        combination: whose set; its rank there is that of all rows that it sums, with additive sharing.
        folder: made where it does not exist.
        base_model: what peft calls the network that the set belongs to.

    Returns:
        The folder.

    Raises:
        PlanError: another method, or a layer that peft's LoRA has no place for, which is named.
        UntrainedCombination: nothing was trained for it.
    """
    rows = robust.adapter_set(combination)
    if not rows:
        raise PlanError(f"to_peft: {robust.modalities.complete} has no adapter set; the network runs as it is")
    modules = dict(robust.network.named_modules())
    tensors: dict[str, Tensor] = {}
    rank, alpha = 0, 0.0
    for site, adapter, row in rows:
        if isinstance(adapter, Common) and len(robust.plan.adapters) == 1:
            adapter = adapter.adapter
        if not isinstance(adapter, LoRA):
            raise PlanError(
                f"to_peft: expected LoRA alone, but {site.key} has {adapter.name}, which peft's LoRA can't hold; adapt "
                "with method=LoRA(...), or give subsense.fold's plain network"
            )
        _check_place(site, modules[site.layer.path])
        for path in site.modules:
            tensors |= _pair(path, row, modules[path])
        rank, alpha = row["down"].shape[0], adapter.factor * row["down"].shape[0]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({path for site, _, _ in rows for path in site.modules}),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    folder = make_folder(folder)
    write_atomically(folder / WEIGHTS, to_bytes(tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return folder


def from_peft(robust: RobustModel, combination: CombinationLike, folder: str | Path) -> None:
    """Take a LoRA that peft trained for one combination into its bank row, and count it as trained.

    Args:
        robust: adapted by `LoRA` with independent sharing, with the rank and alpha of the folder, at its modules; any
            other site keeps a set that changes nothing.
        combination: whose row.
        folder: what peft's `save_pretrained` wrote.

    Raises:
        PlanError: the model was adapted in another way.
        MissingFile, DamagedFile, CheckpointError: files that aren't a LoRA of this rank and alpha, or hold more than
            LoRA.
        ForeignTensor: a module that is no site here, or one of another shape. Nothing was changed.
    """
    adapter = _only_lora(robust)
    config, tensors = _read(Path(folder))
    _check_config(Path(folder), config, adapter)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for site in robust.plan.sites:
        names = [f"{PREFIX}{site.layer.path}.lora_{half}.weight" for half in "AB"]
        if all(name in tensors for name in names):
            down, up = (tensors.pop(name) for name in names)
            found[site.key] = down, up.flatten(1).T
    if tensors:
        raise ForeignTensor(f"{folder}: {', '.join(sorted(tensors)[:3])} belongs to no site of this network; "
                            "nothing was taken")  # fmt: skip
    row = robust.router.row_names.index(str(robust.modalities.combination(combination)))
    targets = [(site, robust.banks.of(site, adapter)) for site in robust.plan.sites]
    for site, banks in targets:
        for name, value in zip(("down", "up"), found.get(site.key, ()), strict=False):
            if banks[name][row].shape != value.shape:
                raise ForeignTensor(f"{folder}: {site.key}: expected {name} of shape {tuple(banks[name][row].shape)}, "
                                    f"but found {tuple(value.shape)}; nothing was taken")  # fmt: skip
    with torch.no_grad():
        for site, banks in targets:
            down, up = found.get(site.key, (banks["down"][row], torch.zeros_like(banks["up"][row])))
            banks["down"][row], banks["up"][row] = down, up
    robust.mark_trained([combination])


def _check_place(site: Site, module: nn.Module) -> None:
    layer = site.layer
    plain = not layer.part and layer.kind.name in ("linear", "conv") and layer.out_axis == 0
    if plain and isinstance(module, _ConvNd):
        plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    if not plain:
        raise PlanError(
            f"to_peft: {site.key} ({layer.class_name}) has no place in peft's LoRA (attention projections, transposed, "
            f"grouped and dilated convolutions, declared layers); adapt with exclude=[{layer.path!r}]"
        )


def _pair(path: str, row: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    down, up = row["down"], row["up"].T
    if isinstance(module, _ConvNd):
        up = up.reshape(*up.shape, *[1] * len(module.kernel_size))
    return {
        f"{PREFIX}{path}.lora_{half}.weight": value.detach().cpu().contiguous()
        for half, value in (("A", down), ("B", up))
    }


def _only_lora(robust: RobustModel) -> LoRA:
    adapters = robust.plan.adapters
    if robust.sharing != "independent" or len(adapters) != 1 or not isinstance(adapters[0], LoRA):
        raise PlanError(
            "from_peft: expected a network adapted by LoRA alone with sharing='independent', whose rows are sets of "
            f"their own, but found {' + '.join(one.name for one in adapters)} with {robust.sharing} sharing"
        )
    return adapters[0]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingFile(f"{folder / name}: missing; expected a folder that peft's save_pretrained wrote")
    try:
        return parse_object((folder / CONFIG).read_bytes()), from_bytes((folder / WEIGHTS).read_bytes())
    except (ValueError, SafetensorError) as error:
        raise DamagedFile(f"{folder}: not an adapter of peft: {error}") from None


def _check_config(folder: Path, config: dict[str, Any], adapter: LoRA) -> None:
    alpha = adapter.rank if adapter.alpha is None else adapter.alpha
    wanted = {"peft_type": "LORA", "r": adapter.rank, "lora_alpha": alpha, "use_dora": False, "use_rslora": False,
              "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}  # fmt: skip
    for name, value in wanted.items():
        if config.get(name, None if name in NEEDED else value) != value:
            raise CheckpointError(
                f"{folder / CONFIG}: expected {name} to be {value!r}, but found {config.get(name)!r}; adapt with "
                "LoRA(rank=r, alpha=lora_alpha) of that file, where it is a plain LoRA"
            )
