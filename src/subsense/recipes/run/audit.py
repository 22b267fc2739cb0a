"""The audit of a recipe's network with its adapter sets, on its data."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.data import DataLoader

import subsense as ss
from subsense.evaluation.reporting.plain import plain_page
from subsense.recipes.progress import note
from subsense.recipes.run.calibrate import is_calibrated, load_calibrated
from subsense.recipes.run.job import Job
from subsense.recipes.run.resolve import fresh_network
from subsense.recipes.run.train import adapt_network, is_trained, load_sets, pretrained
from subsense.support.files import make_folder, write_atomically

PARTS = ("test", "train", "val")


def audit_recipe(job: Job, part: str = "test") -> ss.AuditReport:
    """Audit what was trained for a recipe; where nothing was, its network as it starts, with sets that do nothing.

    Raises:
        DataError: the data have no such part.
    """
    samples = getattr(job.data, part)
    if samples is None:
        raise ss.DataError(f"{job.recipe.data.name}: has no part {part!r}; audit --part train or test")
    loader = DataLoader(samples, job.recipe.evaluate.batch_size, collate_fn=ss.Collate(job.modalities))
    return ss.audit(_model(job), loader, seed=job.recipe.seed)


def write_audit(job: Job, report: ss.AuditReport) -> list[Path]:
    """Write a report as JSON and as a page into the job's folder."""
    folder = make_folder(job.folder)
    header, cells = report.table()
    counts = [[name, f"{count:,}"] for name, count in report.combinations.items()]
    tables = [
        ("How far the output moves", "In units of its spread between rows: the first must be 0, the others not.",
         header, cells),
        ("What rows have", "", ["combination", "rows"], counts),
    ]  # fmt: skip
    page = plain_page("Audit", job.recipe.data.name, report.sentences, tables, report.facts)
    contents = {"audit.json": json.dumps(report.as_dict(), indent=2) + "\n", "audit.html": page}
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


def _model(job: Job) -> ss.RobustModel:
    if is_trained(job):
        return load_sets(job, pretrained(job))
    if is_calibrated(job):
        return load_calibrated(job, pretrained(job))
    kept = job.recipe.network.checkpoint or job.network_file.exists()
    note(f"no adapter sets yet: auditing {'the network' if kept else 'the network before any training'} with sets "
         "that do nothing")  # fmt: skip
    adapt = job.recipe.adapt.model_copy(update={"untrained": "pretrained"})
    recipe = job.recipe.model_copy(update={"adapt": adapt})
    return adapt_network(job.variant(recipe), pretrained(job) if kept else fresh_network(recipe))
