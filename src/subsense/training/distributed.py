"""One process or several, CPU or GPU: Hugging Face accelerate, behind the few things that the loop needs.

Gradients are summed here and not by `DistributedDataParallel`: a process whose rows were all left out has no backward
pass to join, and adapters are so small that one sum after it costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from subsense.errors import TrainingError
from subsense.training.options import TrainOptions

UNSUPPORTED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


class Processes:
    """Know this process among those of the run.

    Args:
        options: precision, folder and tracker are read.

    Raises:
        TrainingError: launched in a way that splits parameters between processes.

    Attributes:
        device: where this process computes.
        index: 0 for the main process.
        count: how many there are.
    """

    def __init__(self, options: TrainOptions) -> None:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        logs = None if options.folder is None else str(Path(options.folder) / "logs")
        project = ProjectConfiguration(logging_dir=logs)
        # Precision is not accelerate's, whose choice is one for the whole life of the Python process.
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(), log_with=options.log_with, project_config=project
        )
        if (kind := self._accelerator.distributed_type.name) in UNSUPPORTED:
            raise TrainingError(f"launched with {kind}, which splits parameters between processes; adapters are small: "
                                "launch plain processes (accelerate launch --multi_gpu)")  # fmt: skip
        self._check_count(int(os.environ.get("WORLD_SIZE", 1)))
        self.device: torch.device = self._accelerator.device
        self.index: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self._is_bf16 = options.precision == "bf16"

    def _check_count(self, launched: int) -> None:
        """Refuse processes that would each train alone, into the same folder."""
        if launched != (seen := self._accelerator.num_processes):
            raise TrainingError(f"launched as {launched} processes, but accelerate sees {seen}; an Accelerator was "
                                "made before: make it Accelerator(cpu=True) where there are CPUs alone")  # fmt: skip

    def share(self, loader: Any) -> Any:
        """Give a loader of this process's share of the batches."""
        if self.count == 1:
            return loader
        if not isinstance(loader, DataLoader) or (loader.batch_size is None and loader.batch_sampler is None):
            raise TrainingError(f"loader: expected a DataLoader that makes batches, since {self.count} processes share "
                                f"them, but found {type(loader).__name__}")  # fmt: skip
        sampler: Any = getattr(loader.batch_sampler, "sampler", None)
        before = getattr(sampler, "generator", None)
        shared: Any = self._accelerator.prepare_data_loader(loader)
        # The order of the data is to be a single process's: the sampler draws from the same generator as there, and
        # the seed for worker processes, which accelerate has drawn at another time, from another.
        if hasattr(sampler, "generator"):
            sampler.generator = before
        if shared.base_dataloader.generator is None:
            shared.base_dataloader.generator = torch.Generator()
        return shared

    def place(self, data: Any) -> Any:
        """Bring what a batch holds to this process's device."""
        from accelerate.utils import send_to_device

        return send_to_device(data, self.device)

    def compute(self, function: Any, *arguments: Any) -> Any:
        """Call a network in the run's precision; its output comes back in float32."""
        if not self._is_bf16:
            return function(*arguments)
        from accelerate.utils import convert_to_fp32

        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            output = function(*arguments)
        return convert_to_fp32(output)

    def total(self, *values: float) -> list[float]:
        """Sum numbers over processes."""
        if self.count == 1:
            return list(values)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        summed: Tensor = self._accelerator.reduce(torch.tensor(values, dtype=dtype, device=self.device), "sum")
        return [float(value) for value in summed]

    def join(self, rows: Tensor) -> tuple[Tensor, int]:
        """Put all processes' rows (row, ...) one after the other; give them, and where this one's begin."""
        if self.count == 1:
            return rows, 0
        counts = self._accelerator.gather(torch.tensor([len(rows)], device=self.device)).tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = self._accelerator.gather(padded.int().to(self.device)).to(rows)
        parts = [part[:count] for part, count in zip(everyone.split(max(counts)), counts, strict=True)]
        return torch.cat(parts), sum(counts[: self.index])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over processes; a parameter without any in all of them stays without."""
        if self.count == 1:
            return
        has = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device)
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat: Tensor = self._accelerator.reduce(torch.cat([has.float(), *(part.flatten() for part in parts)]), "sum")
        counts, *sums = flat.split([len(parameters), *(part.numel() for part in parts)])
        for parameter, count, total in zip(parameters, counts.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if count else None

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the main one's values, in place."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach().clone()))

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()

    def bar(self, total: int | None, initial: int, shown: bool) -> Any:
        """Make a progress bar on stderr; only the main process shows it."""
        from accelerate.utils import tqdm

        return tqdm(total=total, initial=initial, disable=not shown, unit="step", dynamic_ncols=True)

    def tracking(self) -> AbstractContextManager[None]:
        """Open the trackers, and close them at the end."""
        return _Tracking(self._accelerator) if self._accelerator.log_with else nullcontext()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write values to the trackers."""
        self._accelerator.log(dict(values), step=step)


class _Tracking(AbstractContextManager[None]):
    """Close trackers one by one: accelerate's own end of training ends the group of processes too."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __enter__(self) -> None:
        self._accelerator.init_trackers("subsense")

    def __exit__(self, *_: object) -> None:
        for tracker in self._accelerator.trackers:
            tracker.finish()
