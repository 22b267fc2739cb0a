"""`subsense demo`: a network loses its modalities one by one, and gets them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from subsense.cli.arguments import Json
from subsense.cli.console import say_json, say_results
from subsense.recipes.progress import ERR, OUT, say

if TYPE_CHECKING:
    from subsense.recipes.run import Job

INTRODUCTION = """Handwritten digits, seen by four cameras, each of which sees one quadrant: nw, ne, sw, se.
A network learns to read them from all four. Then cameras fail."""
QUICK = ["pretrain.epochs=16", "pretrain.lr=5e-3", "train.epochs=16", "train.lr=2e-2"]
"""Half of the recipe's epochs; chosen by training rows that were held out."""


def demo(
    output: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Break and mend a network that reads digits by four cameras. Under a minute, no download.

    It runs the shipped recipe `digits`, which `subsense cp digits` copies for you to change, with half of its epochs.
    """
    to = ERR if as_json else OUT
    say(INTRODUCTION, to=to)
    from subsense.recipes import run as pipeline

    job = pipeline.open_job("digits", output=output, changes=[f"seed={seed}", *QUICK])
    for kept in (job.state, job.columns):
        rmtree(kept, ignore_errors=True)
    pipeline.start(job)
    facts = _Demo(job, to).run()
    if as_json:
        say_json(facts)


@dataclass
class _Demo:
    """Run the recipe step by step, and say what happens."""

    job: Job
    to: Console

    def run(self) -> dict[str, Any]:
        """Run all steps and give what a machine wants to know."""
        from subsense.recipes import run as pipeline

        job, to = self.job, self.to
        with self._step("1  The network is trained on all four cameras"):
            robust = pipeline.adapt_network(job, pipeline.pretrain(job))
        with self._step("2  It was never told how to go without: percent right with the cameras that are left"):
            say_results(pipeline.measure(job, robust, columns=["pretrained"], compare=False), to)
        with self._step("3  All adapter sets are trained together; the network itself stays as it is"):
            pipeline.train_sets(job, robust)
            say(pipeline.describe(job, robust), to=to)
        with self._step("4  For comparison: a network trained for each single camera alone"):
            results = pipeline.measure(job, robust)
            say_results(results, to)
        with self._step("5  Saved, loaded and folded again"):
            checks = pipeline.check_kept(job, robust)
            say("\n".join(f"{what}: {found}" for what, found in checks.items()), to=to)
        with self._step("6  Written"):
            files = [job.network_file, job.adapters, *pipeline.write_reports(job, robust, results)]
            say("\n".join(map(str, files)), to=to)
        return {"results": results.model_dump(mode="json"), "checks": checks, "files": [str(file) for file in files]}

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        say(to=self.to)
        say(title, "bold", self.to)
        started = monotonic()
        yield
        say(f"({monotonic() - started:.1f} s)", "dim", self.to)
