"""`subsense serve`: an adapted network answers over HTTP."""

from __future__ import annotations

import signal
from functools import partial
from types import FrameType
from typing import Annotated, Literal

import typer

from subsense.cli.arguments import Changes, Output, RecipeName, Root
from subsense.errors import FactoryError
from subsense.recipes.progress import note

Host = Literal["127.0.0.1", "0.0.0.0", "::"]


def serve(
    recipe: RecipeName,
    root: Root = None,
    output: Output = None,
    host: Annotated[
        Host, typer.Option(help="Where to listen: this machine alone, or all its addresses.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1024, max=65535, help="The port.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Rows that run together, whatever each of them lacks.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes on each device.")] = 1,
    changes: Changes = None,
) -> None:
    """Serve what `subsense train` saved: POST /predict with the modalities that are there. Needs the extra `serve`."""
    from subsense.recipes import run as pipeline

    try:
        from subsense.integrations.serving.server import make_server
    except ImportError as error:
        raise FactoryError("serving needs more packages: pip install 'subsense[serve]'") from error
    job = pipeline.open_job(recipe, root, output, changes)
    make = partial(pipeline.open_model, recipe, root, output, changes)
    names = [str(one) for one in make().modalities.combinations()]
    server = make_server(make, names, job.adapters, max_batch_size=batch, workers=workers)
    note(f"serving {job.adapters} at http://{host}:{port}/predict; new adapter sets there are taken up")
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C does: LitServe's processes outlive a plain termination
    server.run(host=host, port=port, generate_client_file=False, log_level="warning")


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the processes that are being ended hand it on
    raise KeyboardInterrupt
