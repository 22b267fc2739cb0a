"""Results made by hand, for tests of what is done with results."""

from subsense.evaluation.results import AdapterFacts, NetworkFacts, Results, Row


def make_results(modalities=("rgb", "depth"), values=None, **changes):
    """Make results by hand: combination -> pretrained, adapted, dedicated."""
    values = values or {"rgb": (0.5, 0.7, 0.75), "depth": (0.2, 0.4, 0.6), "rgb+depth": (0.8, 0.8, None)}
    columns = ("pretrained", "adapted", "dedicated")
    data = {
        "title": "made by hand",
        "metric": "mIoU",
        "higher_is_better": True,
        "unit": "fraction",
        "modalities": dict.fromkeys(modalities, "3 H W"),
        "network": NetworkFacts(name="Net", fingerprint="0123456789abcdef", num_parameters=1000),
        "adapter": AdapterFacts(
            method="ssf", sharing="independent", fill="zeros", num_per_row=7, num_rows=2, num_total=14
        ),
        "seed": 3,
        "versions": {"python": "3.11", "torch": "2.13", "subsense": "0.1"},
        "rows": tuple(
            Row(combination=name, count=40, **dict(zip(columns, row, strict=True))) for name, row in values.items()
        ),
    }
    return Results(**(data | changes))
