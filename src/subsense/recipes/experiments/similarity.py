"""Cosine similarity, layer by layer, between features with all modalities and features with missing ones."""

from __future__ import annotations

from collections.abc import Mapping

from subsense.evaluation.finding import Chart, Finding, Look, Series
from subsense.evaluation.similarity import Similarity, feature_similarity
from subsense.recipes.experiments.common import facts, own_column
from subsense.recipes.run.columns import Bench, load_or_train, shelf_of
from subsense.recipes.run.job import Job

MOST_PANELS = 4
WAYS: tuple[Look, ...] = ("pretrained", "adapted")


def similarity(job: Job) -> Finding:
    """Measure how near features are to those with everything present, by the frozen network and by the adapted one."""
    bench = Bench(job)
    column = own_column(bench)
    robust = load_or_train(job, shelf_of(bench, column), column.name)
    found = feature_similarity(robust, job.test_batches(), combinations=job.recipe.evaluate.combinations)
    means = {key: sum(values) / len(values) for key, values in found.values.items()}
    combinations = list(dict.fromkeys(combination for combination, _ in found.values))
    better = sum(means[one, "adapted"] > means[one, "pretrained"] for one in combinations)
    left_out = (
        f" Left out, since rows could not be told apart there: {', '.join(found.left_out)}." if found.left_out else ""
    )
    return Finding(
        experiment="similarity",
        title=f"{job.data.name}: features with missing modalities against those with all",
        facts=facts(
            bench,
            adapters=f"{column.name}, {job.recipe.adapt.sharing} sharing",
            similarity=f"cosine over all that a site gives for a row; mean over {found.count} rows of the test part",
            layers=f"the {len(found.sites)} sites of the adapters, in the order of their calls",
        ),
        header=("combination", "pretrained", "adapted", "pretrained, last site", "adapted, last site"),
        rows=tuple(
            (one, *(f"{means[one, way]:.3f}" for way in ("pretrained", "adapted")),
             *(f"{found.values[one, way][-1]:.3f}" for way in ("pretrained", "adapted")))
            for one in combinations
        ),
        says=(
            f"Averaged over sites, adapted features are nearer to those with all modalities for {better} of "
            f"{len(combinations)} combinations.{left_out}",
        ),
        charts=_charts(found, combinations),
    )  # fmt: skip


def _charts(found: Similarity, combinations: list[str]) -> tuple[Chart, ...]:
    """Draw a panel for each combination where they are few, otherwise one for each number of available modalities."""
    panels: dict[str, list[str]] = {}
    for combination in combinations:
        number = combination.count("+") + 1
        title = combination if len(combinations) <= MOST_PANELS else f"{number} available"
        panels.setdefault(title, []).append(combination)
    return tuple(_chart(title, members, found.values) for title, members in panels.items())


def _chart(title: str, members: list[str], values: Mapping[tuple[str, str], tuple[float, ...]]) -> Chart:
    series = []
    for way in WAYS:
        lines = zip(*(values[one, way] for one in members), strict=True)
        means = tuple(sum(line) / len(line) for line in lines)
        places = tuple(range(1, len(means) + 1))
        series.append(Series(name=way, look=way, x=places, y=means))
    return Chart(title=title, x_label="site", y_label="cosine similarity", series=tuple(series))
