"""The command line: one file per verb; nothing heavy is imported before a verb runs.

Output goes to stdout, progress to stderr. Exit code 0 is success; 2 says that the command line or the recipe is wrong,
and nothing was started; 1 says that what was started failed. A mistake of the user's never shows a traceback.
"""

from __future__ import annotations

import errno
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from subsense.cli.audit import audit
from subsense.cli.calibrate import calibrate
from subsense.cli.compare import compare
from subsense.cli.console import complain
from subsense.cli.cp import cp
from subsense.cli.demo import demo
from subsense.cli.evaluate import evaluate
from subsense.cli.experiment import experiment
from subsense.cli.fold import fold
from subsense.cli.ls import ls
from subsense.cli.new import new
from subsense.cli.plan import plan
from subsense.cli.report import report
from subsense.cli.serve import serve
from subsense.cli.train import train
from subsense.cli.validate import validate
from subsense.errors import ModalityError, RecipeError, SubsenseError
from subsense.recipes.progress import say

__all__ = ["app", "main"]

WRONGLY_ASKED = (RecipeError, ModalityError)


class _Verbs(TyperGroup):
    """Turn what subsense raises on purpose into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SubsenseError as error:
            complain(error)
            raise typer.Exit(2 if isinstance(error, WRONGLY_ASKED) else 1) from None
        except OSError as error:
            if error.errno in (None, errno.EPIPE):
                raise
            complain(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a pretrained multimodal network work with any subset of its modalities.",
    epilog="Exit codes: 0 success, 1 what was started failed, 2 the command line or the recipe is wrong.",
)
for verb in (demo, new, ls, cp, validate, plan, audit, train, calibrate, evaluate, compare, report, fold, serve):
    app.command()(verb)
app.add_typer(experiment, name="experiment")


def _show_version(asked: bool) -> None:
    if asked:
        say(f"subsense {version('subsense')}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Make a pretrained multimodal network work with any subset of its modalities."""


def main() -> None:
    """Run the command line; code in the current folder can be named in a recipe as `package.module:factory`."""
    if not sys.flags.safe_path:
        sys.path.append("")
    app()
