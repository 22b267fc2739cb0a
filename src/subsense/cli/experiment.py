"""`subsense experiment`: the paper's experiments, on any recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from subsense.cli.arguments import Changes, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import say

if TYPE_CHECKING:
    from subsense.evaluation.finding import Finding
    from subsense.recipes.run import Job

experiment = typer.Typer(
    no_args_is_help=True,
    help="Run an experiment of the paper on a recipe: one command, one table, one picture. The comparison of methods "
    "is `subsense compare`. What was trained for another experiment or comparison of the same recipe is used again.",
)

Ranks = Annotated[list[int] | None, typer.Option("--rank", min=1, help="A rank of LoRA. Repeatable; 1, 2, 4 and 8.")]
LeftOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", metavar="COMBINATION", help="Repeatable; by default every second incomplete one."),
]
TrainedOn = Annotated[
    list[str] | None,
    typer.Option("--train-on", metavar="KIND", help="Degradation to train with. Repeatable; the others are held out."),
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", metavar="KIND", help="Degradation to measure. Repeatable; by default all.")
]


@experiment.command()
def corruption(
    recipe: RecipeName,
    train_on: TrainedOn = None,
    kind: Kinds = None,
    root: Root = None,
    output: Output = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Let sensors fade, by kind and severity: kept as they are, declared missing, or with their quality given."""
    from subsense.recipes import experiments

    def check(job: Job) -> None:
        experiments.check_kinds([*(train_on or ()), *(kind or ())])

    _run(lambda job: experiments.corruption(job, train_on, kind), _open(recipe, root, output, changes, check), as_json)


Rows = Annotated[
    list[int] | None,
    typer.Option("--rows", min=2, help="A number of unlabelled rows. Repeatable; 16, 32, ... and all."),
]


@experiment.command()
def calibration(
    recipe: RecipeName,
    rows: Rows = None,
    root: Root = None,
    output: Output = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Plot sets solved in closed form against trained ones: what they reach over time, and over unlabelled rows."""
    from subsense.recipes import experiments

    _run(lambda job: experiments.calibration(job, rows or ()), _open(recipe, root, output, changes), as_json)


@experiment.command()
def confidence(
    recipe: RecipeName,
    coverage: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of sets that are to hold the truth.")
    ] = 0.9,
    risk: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="Wrong answers allowed; else abstain.")
    ] = None,
    root: Root = None,
    output: Output = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Calibrate confidence on half of the test part, and measure on the other half what it is worth."""
    from subsense.recipes import experiments

    def measure(job: Job) -> Finding:
        return experiments.confidence(job, coverage, risk)

    _run(measure, _open(recipe, root, output, changes), as_json)


@experiment.command()
def degradation(
    recipe: RecipeName, root: Root = None, output: Output = None, changes: Changes = None, as_json: Json = False
) -> None:
    """Plot every column over the number of available modalities, and mark where adapted falls below dedicated."""
    from subsense.recipes import experiments

    _run(experiments.degradation, _open(recipe, root, output, changes), as_json)


@experiment.command()
def ranks(
    recipe: RecipeName,
    rank: Ranks = None,
    root: Root = None,
    output: Output = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Plot SSF and LoRA of several ranks: what they reach against how many parameters a set has."""
    from subsense.recipes import experiments

    _run(lambda job: experiments.ranks(job, rank or (1, 2, 4, 8)), _open(recipe, root, output, changes), as_json)


@experiment.command()
def similarity(
    recipe: RecipeName, root: Root = None, output: Output = None, changes: Changes = None, as_json: Json = False
) -> None:
    """Plot, layer by layer, how near features with missing modalities are to those with all: frozen and adapted."""
    from subsense.recipes import experiments

    _run(experiments.similarity, _open(recipe, root, output, changes), as_json)


@experiment.command()
def unseen(
    recipe: RecipeName,
    leave_out: LeftOut = None,
    root: Root = None,
    output: Output = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Leave combinations out of training, and serve them by the nearest set or by summed rows."""
    from subsense.recipes import experiments

    def check(job: Job) -> None:
        from subsense.modalities import Modalities

        experiments.check_left_out(Modalities(job.modalities), leave_out)

    _run(lambda job: experiments.unseen(job, leave_out), _open(recipe, root, output, changes, check), as_json)


def _open(recipe: str, root: Root, output: Output, changes: Changes, check: Callable[[Job], None] | None = None) -> Job:
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    pipeline.check(job)
    if check:
        check(job)
    pipeline.ensure_network(job)
    return job


def _run(measure: Callable[[Job], Finding], job: Job, as_json: bool) -> None:
    from subsense.evaluation.reporting.finding import write_finding

    finding = measure(job)
    files = write_finding(finding, job.folder / "experiments" / finding.experiment)
    if as_json:
        say_json(finding.model_dump(mode="json"))
        return
    say(finding)
    say()
    say(f"written to {', '.join(map(str, files))}")
