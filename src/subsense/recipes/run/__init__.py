"""A recipe at work: what the verbs share."""

from subsense.recipes.run.artifacts import check_kept, describe, write_comparison, write_folded, write_reports
from subsense.recipes.run.audit import audit_recipe, write_audit
from subsense.recipes.run.calibrate import calibrate_sets, is_calibrated, load_calibrated
from subsense.recipes.run.compare import check_comparison, compare, forget, measure
from subsense.recipes.run.job import Job, open_job
from subsense.recipes.run.resolve import fresh_network, make_call, make_layers, make_loss, make_methods
from subsense.recipes.run.train import (
    adapt_network,
    check,
    ensure_network,
    is_trained,
    load_sets,
    open_model,
    plan_network,
    pretrain,
    pretrained,
    start,
    train_sets,
)

__all__ = [
    "Job",
    "adapt_network",
    "audit_recipe",
    "calibrate_sets",
    "check",
    "check_comparison",
    "check_kept",
    "compare",
    "describe",
    "ensure_network",
    "forget",
    "fresh_network",
    "is_calibrated",
    "is_trained",
    "load_calibrated",
    "load_sets",
    "make_call",
    "make_layers",
    "make_loss",
    "make_methods",
    "measure",
    "open_job",
    "open_model",
    "plan_network",
    "pretrain",
    "pretrained",
    "start",
    "train_sets",
    "write_audit",
    "write_comparison",
    "write_folded",
    "write_reports",
]
