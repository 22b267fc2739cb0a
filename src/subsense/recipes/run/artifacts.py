"""Showing what came out, and writing it: descriptions, reports, folded networks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

import subsense as ss
from subsense.adapters import words_of
from subsense.evaluation import reporting
from subsense.recipes.run.job import Job
from subsense.recipes.run.network_file import write_weights
from subsense.recipes.run.train import load_sets, pretrained
from subsense.recipes.run.trusted import trusted

REPORTS = (".md", ".png", ".html")
COMPARISONS = (".md", ".csv", ".tex", ".png", ".html")
NUM_EXAMPLES, NUM_LOOKED_AT = 6, 48


def describe(job: Job, robust: ss.RobustModel) -> str:
    """Say what was adapted and how, in two lines."""
    planned = robust.plan
    common = f" and a common one of {planned.common_parameters:,}" if planned.common_parameters else ""
    methods = ", ".join(map(words_of, planned.adapters))
    return "\n".join([
        f"network   {job.recipe.network.name}, {planned.network_parameters:,} parameters, frozen",
        f"adapters  {methods} at {len(planned.sites)} sites, {robust.sharing} sharing: {len(robust.router.row_names)} "
        f"rows of {planned.parameters_per_row:,} parameters{common} serve {len(robust.combinations)} combinations",
    ])  # fmt: skip


def write_reports(job: Job, robust: ss.RobustModel, results: ss.Results) -> list[Path]:
    """Write results as JSON, Markdown, picture and page into the job's folder."""
    with trusted(job, robust) as (samples, words):
        examples = reporting.collect_examples(
            robust,
            _spread(samples),
            keep=NUM_EXAMPLES,
            class_names=job.data.class_names,
            combinations=job.recipe.evaluate.combinations,
        )
    examples = examples.model_copy(update={"note": f"{examples.note} {words}".strip()})
    files = [reporting.report(results, job.results_file.with_suffix(suffix), examples) for suffix in REPORTS]
    return [results.save(job.results_file), *files]


def write_comparison(job: Job, results: ss.Results) -> list[Path]:
    """Write a comparison in every form into the job's folder."""
    file = job.folder / "comparison.json"
    return [results.save(file), *(reporting.report(results, file.with_suffix(suffix)) for suffix in COMPARISONS)]


def _spread(samples: Any) -> list[Any]:
    """Choose some samples from all over a data set."""
    count = min(NUM_LOOKED_AT, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def write_folded(job: Job, robust: ss.RobustModel, combination: str, file: Path, drop_absent: bool = False) -> None:
    """Fold a combination's set and write the network in the form that the file's ending names."""
    with _quiet_exporters():
        match file.suffix:
            case ".onnx":
                ss.fold(robust, combination, onnx=file, example=_one_row(job), drop_absent=drop_absent)
            case ".pt2":
                ss.fold(robust, combination, export=file, example=_one_row(job), drop_absent=drop_absent)
            case _:
                write_weights(ss.fold(robust, combination), file, f"folded: {combination}")


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Keep torch from telling of its own deprecations, and of packages that nobody asked for."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _one_row(job: Job) -> Any:
    return default_collate([job.data.test[0]])[0]


def check_kept(job: Job, robust: ss.RobustModel) -> dict[str, str]:
    """Load everything back from the files and fold every set; say how the outputs on a test batch compare."""
    inputs = next(iter(job.test_batches()))[0]
    robust, loaded = robust.eval(), load_sets(job, pretrained(job)).eval()
    with torch.no_grad():
        same = all(
            torch.equal(*(_output(one, inputs, what) for one in (robust, loaded))) for what in robust.combinations
        )
        distance = max(_fold_distance(robust, inputs, what) for what in robust.combinations)
    return {
        "loaded": "outputs are equal" if same else "OUTPUTS DIFFER",
        "folded": f"outputs differ by at most {distance:.1e} of the greatest",
    }


def _output(robust: ss.RobustModel, inputs: Mapping[str, Any], combination: ss.Combination) -> Any:
    return robust({name: inputs[name] for name in combination})


def _fold_distance(robust: ss.RobustModel, inputs: Mapping[str, Any], combination: ss.Combination) -> float:
    args, kwargs = ss.prepare(robust, {name: inputs[name] for name in combination})
    expected = _output(robust, inputs, combination)
    found = ss.fold(robust, combination).eval()(*args, **kwargs)
    return float((found - expected).abs().max() / expected.abs().max())
