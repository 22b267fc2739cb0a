"""One ONNX graph whose adapters' parameters can be overridden, and a file of them for each combination."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor, nn
from torch.func import functional_call

from subsense.deployment.export import TRACED_ROWS, attempt, compare, first_of, take_rows, tensors_of, trace_inputs
from subsense.errors import FoldError
from subsense.injection.banks import start_banks
from subsense.modalities import Combination, Modalities
from subsense.modalities.inputs import Inputs, read
from subsense.model.robust import RobustModel
from subsense.routing.choice import Choice
from subsense.routing.route import Route
from subsense.support.torch_private import tree_map

PRESENT, WEIGHTS = "subsense.present", "subsense.weights"
OTHER_ROWS = 3  # a free batch size is checked with another one, too

Sets = Mapping[str, Any]


class _Run(nn.Module):
    """Run a model along a route that comes with the inputs; all rows lack the same."""

    def __init__(self, robust: RobustModel) -> None:
        super().__init__()
        self.robust = robust

    def forward(self, inputs: Inputs, present: Tensor, weights: Tensor | None) -> Any:
        """Give the network's output, for `present` (1, modality) and the weights of bank rows (1, bank row).

        Without weights there is one row, which is the set.
        """
        batch = read(self.robust.modalities, inputs, (present > 0).expand(first_of(inputs).shape[0], -1))
        choice = Choice(torch.ones(1, 1), row=0) if weights is None else Choice(weights)
        route = Route(choice, uniform=True)
        return self.robust.execution.along(self.robust.fill(batch), route, batch.present)


class _Graph(nn.Module):
    """Run a model with bank rows that come with the inputs, too."""

    def __init__(self, robust: RobustModel) -> None:
        super().__init__()
        self.run = _Run(robust)

    def forward(self, inputs: Inputs, sets: Sets) -> Any:
        """Give the network's output for ``banks`` (attribute -> bank), ``present``, ``weights``."""
        banks = {f"robust.banks.{attribute}": bank for attribute, bank in sets["banks"].items()}
        return functional_call(self.run, banks, (inputs, sets["present"], sets.get("weights")))


class OnnxSets:
    """Write one ONNX graph, and a file for each set.

    Attributes:
        defaults: what the graph computes with when nothing is overridden: everything present.
    """

    def __init__(self, robust: RobustModel, path: Path, example: Inputs, free_batch: bool) -> None:
        self.robust, self.path, self.free_batch = robust, path, free_batch
        self.inputs = {name: example[name] for name in robust.modalities}
        self.attributes = dict(zip(robust.banks.named(), dict(robust.banks.named_parameters()), strict=True))
        self.defaults = self._set(robust.router.complete)

    def write(self, served: Mapping[Combination, int]) -> dict[Combination, Path]:
        """Write everything, and check it."""
        runtime = _onnxruntime()
        files = {one: self.path.with_suffix(f".{quote(str(one), safe='+ ')}.onnx_adapter") for one in served}
        self._write_graph({str(one): file.name for one, file in files.items()})
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # it warns of each initializer that can be overridden
        session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self._compare(session, self.robust.modalities.complete, None)
        for combination, file in files.items():
            _write_adapter(runtime, self._changes(combination, served[combination]), file)
            run = runtime.RunOptions()
            adapter = runtime.LoraAdapter()
            adapter.Load(str(file))
            run.add_active_adapter(adapter)
            self._compare(session, combination, run)
        return files

    def _set(self, code: int) -> dict[str, Tensor]:
        """Give what the graph takes beside the inputs for the set of a combination: name -> tensor."""
        present = self.robust.modalities.present(self.robust.modalities.from_code(code))[None].float()
        given = self._row(code) if self.robust.sharing == "independent" else self._rows(code)
        return {PRESENT: present} | {name: one.detach().cpu() for name, one in given.items()}

    def _row(self, code: int) -> Mapping[str, Tensor]:
        """Give the one row that the graph holds, the identity where everything is there."""
        robust, row = self.robust, self.robust.router.index.get(code)
        if row is None:
            return start_banks(robust.plan, 1, robust.network, torch.Generator().manual_seed(0))
        return {name: bank[row : row + 1] for name, bank in robust.banks.named().items()}

    def _rows(self, code: int) -> Mapping[str, Tensor]:
        """Give all rows, and how much of each counts."""
        weights = self.robust.router.uniform(code, torch.device("cpu")).weights
        return {WEIGHTS: weights, **self.robust.banks.named()}

    def _changes(self, combination: Combination, served: int) -> dict[str, Tensor]:
        """Give what of a combination's set differs from what the graph has."""
        present = self.robust.modalities.present(combination)[None].float()
        found = self._set(served) | {PRESENT: present}
        return {name: one for name, one in found.items() if not torch.equal(one, self.defaults[name])}

    def _write_graph(self, files: Mapping[str, str]) -> None:
        import onnx_ir

        inputs = take_rows(self.inputs, TRACED_ROWS) if self.free_batch else self.inputs
        banks = {attribute: self.defaults[name] for name, attribute in self.attributes.items()}
        sets = {"banks": banks, "present": self.defaults[PRESENT]}
        if WEIGHTS in self.defaults:
            sets["weights"] = self.defaults[WEIGHTS]
        sets = tree_map(lambda tensor: tensor.to(first_of(inputs).device), sets)
        program = trace_inputs(_Graph(self.robust), (inputs, sets), [0] if self.free_batch else [])
        written = attempt("ONNX export", lambda: torch.onnx.export(program, (inputs, sets), dynamo=True, verbose=False))
        assert written is not None  # it is where no file was named
        graph = written.model.graph
        names = [
            *self._input_names(),
            *self.attributes,
            *(name for name in (PRESENT, WEIGHTS) if name in self.defaults),
        ]
        for value, name in zip(graph.inputs, names, strict=True):
            value.name = name
            if name in self.defaults:
                value.const_value = onnx_ir.tensor(self.defaults[name].numpy(), name=name)
                graph.register_initializer(value)
        modalities = list(self.robust.modalities)
        facts = {"modalities": modalities, "rows": self.robust.router.row_names, "adapters": files}
        written.model.metadata_props["subsense"] = json.dumps(facts)
        written.save(str(self.path))

    def _input_names(self) -> list[str]:
        return input_names(self.robust.modalities)

    def _compare(self, session: Any, combination: Combination, options: Any) -> None:
        for count in (OTHER_ROWS, TRACED_ROWS) if self.free_batch else (len(first_of(self.inputs)),):
            inputs = take_rows(self.inputs, count)
            given = {
                name: tree_map(torch.zeros_like, one) if name not in combination else one
                for name, one in inputs.items()
            }
            numbers = [tensor.cpu().numpy() for tensor in tensors_of(given)]
            found = session.run(None, dict(zip(self._input_names(), numbers, strict=True)), options)
            expected = tensors_of(self.robust({name: inputs[name] for name in combination}))
            compare(f"{self.path.name}, {combination}", expected, [torch.from_numpy(one) for one in found])


def input_names(modalities: Modalities) -> list[str]:
    """Name the inputs of a graph, in its order: the modality, or the argument where several carry it."""
    parts = [(name, part) for name, modality in modalities.items() for part in modality.parts]
    single = [part for _, part in parts]
    return [part if single.count(part) == 1 else f"{name}.{part}" for name, part in parts]


def _write_adapter(runtime: Any, values: Mapping[str, Tensor], file: Path) -> None:
    adapter = runtime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(
        {name: runtime.OrtValue.ortvalue_from_numpy(one.contiguous().numpy()) for name, one in values.items()}
    )
    adapter.export_adapter(str(file))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise FoldError("writing ONNX needs more packages: pip install 'subsense[onnx]'") from error
    return onnxruntime
