"""Reports: what is in each form, and the page in a real browser."""

import base64
import csv
import io
import json
import math
import re

import pytest
import torch
from PIL import Image
from torch import nn

import subsense as ss
from browser import chromium
from sample_results import make_results
from subsense.degradation.degrader import Degrader
from subsense.errors import InputError, ResultsError
from subsense.evaluation.reporting import Examples, collect_examples, report
from subsense.evaluation.reporting import thumbnails as pictures
from subsense.evaluation.reporting.examples import MAX_TEXT
from subsense.evaluation.reporting.page import _round_step, page
from subsense.evaluation.reporting.text import latex, markdown
from subsense.evaluation.results import Row
from subsense.model.adapt import adapt

EVIL = "<script>alert(1)</script>&\"'"


class Views(nn.Module):
    """Give scores for classes from an image and a sequence."""

    def __init__(self):
        super().__init__()
        self.view, self.curve = nn.Linear(3 * 4 * 4, 3), nn.Linear(8 * 2, 3)

    def forward(self, view, curve):
        return self.view(view.flatten(1)) + self.curve(curve.flatten(1))


class Pixels(nn.Module):
    """Give scores for classes and pixels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)

    def forward(self, view, curve):
        return self.conv(torch.cat([view, curve], 1))


@pytest.fixture
def robust():
    torch.manual_seed(0)
    robust = adapt(Views(), {"view": "3 H W", "curve": "8 2"})
    for parameter in robust.adapter_parameters().values():
        nn.init.normal_(parameter)
    robust.mark_trained(robust.combinations)
    return robust


@pytest.fixture
def items():
    torch.manual_seed(1)
    return [({"view": torch.rand(3, 4, 4), "curve": torch.randn(8, 2)}, index) for index in range(3)]


@pytest.fixture
def segmented():
    torch.manual_seed(2)
    robust = adapt(Pixels(), {"view": "1 H W", "curve": "1 H W"}, untrained="pretrained")
    target = torch.randint(0, 4, (20, 30))
    target[0] = 255
    return robust, [({"view": torch.rand(1, 20, 30), "curve": torch.rand(1, 20, 30)}, target)]


# ---------------------------------------------------------------------------------------------------------- text forms


def test_markdown():
    lines = markdown(make_results(title="a_b")).splitlines()
    assert lines[:5] == [
        "## a\\_b",
        "",
        "| combination | pretrained | adapted | dedicated | recovery |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| rgb | 50.0 | 70.0 | 75.0 | 80% |",
    ]
    assert "| mean (incomplete) | 35.0 | 55.0 | 67.5 | 62% |" in lines
    assert "- seed: 3" in lines


def test_markdown_escapes_what_would_break_the_table():
    results = make_results(("a|b", "<i>"), {"a|b": (0.1, 0.2, 0.3), "a|b+<i>": (0.1, 0.2, None)})
    assert "| a\\|b+\\<i\\> |" in markdown(results)


def test_csv_holds_the_values_as_measured(tmp_path):
    rows = list(csv.DictReader(io.StringIO(report(make_results(), tmp_path / "table.csv").read_text())))
    assert rows[0] == {"combination": "rgb", "count": "40", "pretrained": "0.5", "adapted": "0.7", "dedicated": "0.75",
                       "fine_tuned": "", "recovery": "0.8"}  # fmt: skip
    assert (len(rows), rows[2]["dedicated"], rows[2]["recovery"]) == (3, "", "")


def test_latex_has_rules_and_the_best_in_bold():
    text = latex(make_results(("rgb_1", "50%"), {"rgb_1": (0.5, 0.7, 0.75), "50%": (0.4, 0.3, None)}))
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"rgb\_1 & 50.0 & 70.0 & \textbf{75.0} & 80\% \\" in text
    assert r"50\% & \textbf{40.0} & 30.0 & -- & -- \\" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]


def test_latex_bold_follows_the_direction_and_the_count_column():
    rows = (
        Row(combination="rgb", count=3, pretrained=1.5, adapted=1.2),
        Row(combination="depth", count=4, adapted=1.0),
    )
    text = latex(make_results(rows=rows, higher_is_better=False, unit="value"))
    assert r"rgb & 3 & 1.500 & \textbf{1.200} \\" in text


@pytest.mark.parametrize("suffix", [".md", ".csv", ".tex", ".png", ".html", ".HTML"])
def test_every_form_is_written_and_repeatable(tmp_path, suffix):
    first = report(make_results(), tmp_path / "new" / f"first{suffix}")
    second = report(make_results(), tmp_path / f"second{suffix}")
    assert first.read_bytes() == second.read_bytes() != b""


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(
        ResultsError, match=r"\.md, \.csv, \.tex, \.png, \.html, but found '.htm'.*Did you mean '.html'"
    ):
        report(make_results(), tmp_path / "page.htm")
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": "$\\frac{$", "metric": "$\\frac{$"},
        {"higher_is_better": False, "unit": "value"},
        {"rows": (Row(combination="rgb+depth", count=0, adapted=0.5),)},
        {"rows": (Row(combination="rgb", count=9, pretrained=math.nan, adapted=math.inf, dedicated=0.5),)},
    ],
)
def test_the_picture_can_be_drawn_of_all_results(tmp_path, changes):
    with Image.open(report(make_results(**changes), tmp_path / "figure.png")) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors(256)) > 50


def test_the_picture_touches_no_global_state(tmp_path):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    report(make_results(), tmp_path / "figure.png")
    assert (dict(plt.rcParams), plt.get_fignums()) == (before, [])


# ------------------------------------------------------------------------------------------------------------ examples


def test_predictions_are_those_of_the_network(robust, items):
    robust.train()
    examples = collect_examples(robust, items, class_names=["zero", "one", "two"])
    assert robust.training
    robust.eval()
    for item, (inputs, target) in zip(examples.items, items, strict=True):
        assert item.truth.label == ["zero", "one", "two"][target]
        assert list(item.predictions) == ["view", "curve", "view+curve"]
        for combination, said in item.predictions.items():
            present = robust.modalities.present(combination)[None]
            batch = {name: value[None] for name, value in inputs.items()}
            for column, run in (("pretrained", robust.pretrained), ("adapted", robust)):
                scores = run(batch, present).softmax(1)[0]
                prediction = getattr(said, column)
                assert prediction.label == ["zero", "one", "two"][scores.argmax()]
                assert prediction.confidence == pytest.approx(scores.max().item())
                assert prediction.right == (scores.argmax() == target)


def test_examples_are_plain_data(robust, items):
    examples = collect_examples(robust, items, combinations=["view"], names=["a", "b", "c"])
    assert Examples.model_validate_json(examples.model_dump_json()) == examples
    assert [(item.name, item.truth.label) for item in examples.items] == [
        ("a", "class 0"),
        ("b", "class 1"),
        ("c", "class 2"),
    ]
    assert examples.items[0].inputs["curve"].content.startswith("data:image/svg+xml")
    assert examples.items[0].inputs["view"].content.startswith("data:image/png")


def test_what_a_sample_lacks_is_left_out(robust, items):
    inputs, target = items[0]
    lacking = [
        ({"view": inputs["view"], "curve": None}, target),
        (inputs | {"present": torch.tensor([0, 1]).bool()}, target),
    ]
    examples = collect_examples(robust, lacking)
    assert [list(item.predictions) for item in examples.items] == [["view"], ["curve"]]
    assert list(examples.items[0].inputs) == ["view"]


def test_segmentation_has_masks_and_a_legend(segmented):
    robust, items = segmented
    examples = collect_examples(robust, items, class_names=["soil", "crop", "weed", "stone"])
    assert list(examples.legend.items())[:2] == [("soil", None), ("crop", pictures.PALETTE[0])]
    said = examples.items[0].predictions["view"]
    assert said.pretrained.mask == said.adapted.mask
    classes = robust.pretrained({"view": items[0][0]["view"][None], "curve": None}).argmax(1)[0]
    counts = items[0][1] != 255
    right = (classes == items[0][1])[counts].float().mean()
    assert said.pretrained.label == f"{right:.0%} of the pixels right"


def test_values_and_rendered_inputs(items):
    class Value(Views):
        def forward(self, view, curve):
            return super().forward(view, curve)[:, :1]

    robust = adapt(Value(), {"view": "3 H W", "curve": "T 2"}, untrained="pretrained")
    render = {"view": lambda value: "word " * 100, "curve": lambda value: torch.rand(3, 5, 5)}
    examples = collect_examples(robust, [(items[0][0], torch.tensor(-1.25))], render=render)
    assert examples.items[0].truth.label == "-1.25"
    value = robust.pretrained({name: tensor[None] for name, tensor in items[0][0].items()}).item()
    assert examples.items[0].predictions["view+curve"].pretrained.label == f"{value:+.2f}"
    assert len(examples.items[0].inputs["view"].content) == MAX_TEXT
    assert examples.items[0].inputs["curve"].content.startswith("data:image/png")


@pytest.mark.parametrize(("bad", "message"), [([], "at least one sample"), ([torch.zeros(2)], "found Tensor")])
def test_items_of_another_form(robust, bad, message):
    with pytest.raises(InputError, match=message):
        collect_examples(robust, bad)


def test_rows_that_adapters_put_right_come_first(robust, items):
    torch.manual_seed(3)
    many = [({"view": torch.rand(3, 4, 4), "curve": torch.randn(8, 2)}, row % 3) for row in range(30)]
    examples = collect_examples(robust.eval(), many, keep=5)
    counts = {}
    for name in ("view", "curve"):
        present = robust.modalities.present(name).expand(30, -1)
        batch = {one: torch.stack([inputs[one] for inputs, _ in many]) for one in robust.modalities}
        target = torch.tensor([label for _, label in many])
        before, after = (run(batch, present).argmax(1) == target for run in (robust.pretrained, robust))
        counts[name] = [(after & ~before).nonzero().flatten().tolist(), int((before & ~after).sum())]
    start = max(counts, key=lambda name: len(counts[name][0]))
    assert examples.start == start
    assert f"on {len(counts[start][0])}, which come first here, and the other way round on {counts[start][1]}." in (
        examples.note
    )
    first = [item.name for item in examples.items][: len(counts[start][0])]
    assert first == [f"example {row + 1}" for row in counts[start][0]][:5]
    assert len(examples.items) == 5
    assert not collect_examples(robust, many[:2]).note


def test_a_fading_modality_is_shown_with_its_quality_given(robust, items):
    examples = collect_examples(robust.eval(), items, qualities=[0.4])
    assert examples.fades == {"view": "noise", "curve": "noise"}
    assert examples.qualities == (40,)
    item, (inputs, _) = examples.items[1], items[1]
    assert list(item.faded) == ["view@40", "view@40+curve", "curve@40", "view+curve@40"]
    assert item.faded_inputs["view"]["40"].content != item.inputs["view"].content
    modalities = robust.modalities
    healthy = {name: value[None] for name, value in items[0][0].items()}
    faded = Degrader(modalities, [healthy]).apply({name: value[None] for name, value in inputs.items()}, "curve",
                                                  "noise", 3.0, seed=0)  # fmt: skip
    scores = robust(faded, torch.tensor([[1.0, 0.4]]))
    assert item.faded["view+curve@40"].adapted.label == f"class {scores.argmax()}"
    assert item.faded["view+curve@40"].adapted.confidence == pytest.approx(scores.softmax(1).max().item())
    nothing = collect_examples(robust, items, qualities=[])
    assert not nothing.items[0].faded
    lost = [({"view": torch.full((3, 4, 4), torch.nan), "curve": torch.randn(8, 2)}, 0)]
    robust.check_inputs = False
    assert not collect_examples(robust, lost).fades


def test_calibrated_confidence_stands_with_every_example(robust, items):
    torch.manual_seed(4)
    batch = {"view": torch.rand(60, 3, 4, 4), "curve": torch.randn(60, 8, 2)}, torch.randint(3, (60,))
    trusted = ss.confidence(robust, [batch], risk=0.9)
    examples = collect_examples(robust, items)
    inputs = {name: value[None] for name, value in items[0][0].items()}
    expected, said = robust.predict(inputs, torch.tensor([[False, True]])), examples.items[0].predictions["curve"]
    assert said.adapted.confidence == pytest.approx(float(expected.confidence))
    assert said.adapted.abstains == bool(expected.abstain)
    assert said.adapted.others == tuple(f"class {one}" for one in expected.set[0].nonzero().flatten().tolist())
    assert said.pretrained.abstains is None
    assert trusted.risk == 0.9


# ------------------------------------------------------------------------------------------------------------ pictures


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((3, 4, 4), (96, 96), "RGB"),
        ((1, 4, 4), (96, 96), "L"),
        ((6, 480, 960), (240, 120), "L"),
        ((7, 3, 48, 96), (96, 48), "RGB"),
    ],
)
def test_tensors_become_small_images(shape, size, mode):
    image = decoded(pictures.picture(torch.randn(shape)))
    assert (image.size, image.mode) == (size, mode)


def test_a_series_of_many_channels_is_drawn_as_those_that_vary_most():
    values = torch.zeros(50, 60)
    values[:, [3, 40]] = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    uri = pictures.picture(values)
    assert uri.startswith("data:image/svg+xml")
    drawing = base64.b64decode(uri.split(",", 1)[1]).decode()
    alone = base64.b64decode(pictures.picture(values[:, [3, 40]]).split(",", 1)[1]).decode()
    lines = re.findall('points="([^"]*)"', drawing)
    assert len(lines) == pictures.MAX_CURVES
    assert set(re.findall('points="([^"]*)"', alone)) <= set(lines)


def test_an_image_is_stretched_and_keeps_its_order():
    image = decoded(pictures.picture(torch.linspace(-3, 5, 100).view(1, 10, 10)))
    assert image.getpixel((0, 0)) == 0
    assert image.getpixel((99, 99)) == 255


@pytest.mark.parametrize(
    "value", [torch.zeros(3, 4, 4), torch.full((5, 5), torch.nan), torch.ones(9, 2), torch.tensor(1.0)]
)
def test_constants_and_nan_can_be_drawn(value):
    assert pictures.picture(value).startswith("data:image/")


def test_a_mask_is_clear_where_there_is_no_class():
    image = decoded(pictures.mask(torch.tensor([[0, 1], [2, 255]]), 3))
    corners = [image.getpixel(place) for place in ((0, 0), (95, 0), (0, 95), (95, 95))]
    assert [corner[3] for corner in corners] == [0, 160, 160, 0]
    assert corners[1][:3] == (0xE6, 0x9F, 0x00)


# ---------------------------------------------------------------------------------------------------------------- page


def test_ticks_are_round_and_inside():
    assert [_round_step(span) for span in (0.9, 0.35, 7.0, 0.0)] == [0.2, 0.05, 1.0, 1.0]


def test_the_page_refers_to_nothing_outside(robust, items):
    text = page(make_results(), collect_examples(robust, items))
    without_pictures = text.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_pictures.replace("http-equiv", "")
    assert "default-src 'none'" in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def clean(browser):
    """Give the browser; afterwards nothing may have been written to its console or asked of a network."""
    browser.messages.clear()
    browser.requests.clear()
    yield browser
    assert browser.messages == []
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}


def column(browser, index):
    return browser.run(
        f"[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[{index}].textContent)"
    )


def test_the_table_sorts_in_chromium(clean, tmp_path):
    clean.open(report(make_results(), tmp_path / "page.html"))
    names = ["rgb", "depth", "rgb+depth"]
    assert [name.replace("\u200b", "") for name in column(clean, 0)] == names
    click = "document.querySelectorAll('#results thead button')[{}].click()"
    clean.run(click.format(1))
    assert column(clean, 1) == ["80.0", "50.0", "20.0"]
    clean.run(click.format(1))
    assert column(clean, 1) == ["20.0", "50.0", "80.0"]
    orders = "[...document.querySelectorAll('#results thead th')].map(th => th.ariaSort)"
    assert clean.run(orders) == ["none", "ascending", "none", "none", "none"]
    clean.run(click.format(3))
    assert column(clean, 3) == ["75.0", "60.0", "–"]
    assert clean.run("document.querySelector('#results tfoot th').textContent") == "mean (incomplete)"


def test_switches_show_what_is_said_in_chromium(clean, tmp_path, robust, items):
    names = ["zero", EVIL, "two"]
    examples = collect_examples(robust, items, class_names=names)
    clean.open(report(make_results(("view", "curve"), {"view": (0.1, 0.2, None)}), tmp_path / "page.html", examples))

    def said():
        return clean.run("[...document.querySelectorAll('.card')].map(card => [...card.querySelectorAll('dd')]"
                         ".map(dd => dd.firstChild.textContent.replace(/^[✓✗] /, '')))")  # fmt: skip

    def expected(combination):
        both = [item.predictions[combination] for item in examples.items]
        return [[one.pretrained.label, one.adapted.label, item.truth.label]
                for one, item in zip(both, examples.items, strict=True)]  # fmt: skip

    assert said() == expected("view+curve")
    clean.run("document.querySelector('.switch[data-modality=view]').click()")
    assert said() == expected("curve")
    assert clean.run("document.getElementById('chosen').textContent") == "curve present, view missing."
    assert clean.run("[...document.querySelectorAll('.missing')].length") == len(items)
    clean.run("document.querySelector('.switch[data-modality=curve]').click()")  # the last one stays
    assert said() == expected("curve")
    pressed = "[...document.querySelectorAll('.switch')].map(button => [button.ariaPressed, button.ariaDisabled])"
    assert clean.run(pressed) == [["false", "false"], ["true", "true"]]
    clean.run("document.querySelector('.switch[data-modality=view]').click()")
    clean.run("document.querySelector('.switch[data-modality=curve]').click()")
    assert said() == expected("view")


def test_sliders_fade_one_modality_at_a_time_in_chromium(clean, tmp_path, robust, items):
    examples = collect_examples(robust, items).model_copy(update={"start": "view"})
    clean.open(report(make_results(("view", "curve"), {"view": (0.1, 0.2, None)}), tmp_path / "page.html", examples))
    pressed = "[...document.querySelectorAll('.switch')].map(button => button.ariaPressed)"
    values = "[...document.querySelectorAll('.quality')].map(slider => slider.value)"
    label = "document.querySelector('[data-answer=adapted] dd').firstChild.textContent.replace(/^[✓✗] /, '')"
    image = "document.querySelector('[data-input=curve] img').src"
    move = (
        "(slider => {{ slider.value = {}; slider.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('.quality[data-modality={}]'))"
    )
    assert clean.run(pressed) == ["true", "false"]
    assert clean.run(values) == ["4", "0"]
    clean.run(move.format(2, "curve"))
    item = examples.items[0]
    assert clean.run(pressed) == ["true", "true"]
    assert clean.run(label) == item.faded["view+curve@50"].adapted.label
    assert clean.run(image) == item.faded_inputs["curve"]["50"].content
    assert "curve has a quality of 50 % (noise)" in clean.run("document.getElementById('chosen').textContent")
    clean.run(move.format(1, "view"))
    assert clean.run(values) == ["1", "4"]
    assert clean.run(label) == item.faded["view@25+curve"].adapted.label
    assert clean.run(image) == item.inputs["curve"].content
    clean.run("document.querySelector('.switch[data-modality=curve]').click()")
    clean.run(move.format(0, "view"))  # the last one stays
    assert clean.run(values) == ["1", "0"]
    assert clean.run(label) == item.faded["view@25"].adapted.label


def test_every_number_has_its_interval(robust, items):
    batch = {name: torch.stack([inputs[name] for inputs, _ in items]) for name in robust.modalities}
    results = ss.evaluate(robust.eval(), [(batch, torch.tensor([0, 1, 2]))], metric="accuracy", progress=False)
    assert all(set(row.intervals) == {"pretrained", "adapted"} for row in results.rows)
    text = page(results)
    for row in (results["view"], results.summary):
        low, high = row.intervals["adapted"]
        assert 0 <= low <= row.adapted <= high <= 1
        assert f"<small>{100 * low:.1f}–{100 * high:.1f}</small>" in text
    assert text.count("<small>") == 2 * len(results.measured) + page(make_results()).count("<small>")
    assert "95 % bootstrap interval" in text
    assert "95 % bootstrap interval" not in page(make_results())


@pytest.mark.parametrize("shown", [True, False])
def test_recovery_is_hidden_where_nothing_was_trained_to_compare_with(shown):
    text = page(make_results(values={"rgb": (0.5, 0.7, 0.75 if shown else None), "depth": (0.2, 0.4, None)}))
    assert (">recovery<" in text) == shown
    assert ("evaluate.dedicated" in text) != shown


def test_the_first_column_stays_on_a_narrow_screen_in_chromium(clean, tmp_path):
    names = ("skeleton", "accelerometer")
    values = {"skeleton": (0.1, 0.2, 0.3), "skeleton+accelerometer": (0.3, 0.4, 0.5)}
    results = make_results(names, values, compared={})
    clean.open(report(results, tmp_path / "page.html"), width=300)
    clean.run("document.querySelector('.scroll').scrollLeft = 60")
    places = (
        "['thead th', 'tbody th', 'tbody td']"
        ".map(what => document.querySelector('#results ' + what).getBoundingClientRect().left)"
    )
    heading, name, value = clean.run(places)
    clean.run("document.querySelector('.scroll').scrollLeft = 0")
    before = clean.run(places)
    assert [heading, name] == pytest.approx(before[:2], abs=3)  # the gap between cells
    assert value < before[2]


@pytest.mark.parametrize("width", [360, 1280])
def test_pictures_keep_their_shape_and_have_no_margin_in_chromium(clean, tmp_path, robust, items, width):
    examples = collect_examples(robust, items)
    results = make_results(("view", "curve"), {"view": (0.1, 0.2, None)})
    clean.open(report(results, tmp_path / "page.html", examples), width=width)
    shapes = clean.run("[...document.querySelectorAll('[data-input=view] img')].map(image => "
                       "[image.width / image.height, image.naturalWidth / image.naturalHeight])")  # fmt: skip
    assert len(shapes) == len(items)
    for shown, natural in shapes:
        assert shown == pytest.approx(natural, rel=0.03)


@pytest.mark.parametrize(("confidence", "words"), [(0.9999, "> 99 % sure"), (0.99, "99 % sure"), (0.504, "50 % sure")])
def test_nothing_is_called_certain_in_chromium(clean, tmp_path, robust, items, confidence, words):
    examples = collect_examples(robust, items).model_dump()
    for both in examples["items"][0]["predictions"].values():
        both["adapted"]["confidence"] = confidence
    results = make_results(("view", "curve"), {"view": (0.1, 0.2, None)})
    clean.open(report(results, tmp_path / "page.html", Examples.model_validate(examples)))
    assert clean.run("document.querySelector('[data-answer=adapted] small').textContent") == words


def test_masks_lie_on_a_picture_of_what_is_present_in_chromium(clean, tmp_path, segmented):
    robust, items = segmented
    examples = collect_examples(robust, items)
    clean.open(report(make_results(("view", "curve"), {"view": (0.1, 0.2, None)}), tmp_path / "page.html", examples))
    clean.run("document.querySelector('.switch[data-modality=view]').click()")
    item = examples.items[0]
    sources = clean.run("[...document.querySelectorAll('.card .overlay img')].map(image => image.src)")
    said = item.predictions["curve"]
    ground = item.inputs["curve"].content
    assert sources == [ground, said.pretrained.mask, ground, said.adapted.mask, ground, item.truth.mask]
    assert clean.run("[...document.querySelectorAll('.card img')].every(image => image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [360, 1280])
def test_evil_names_and_any_width_in_chromium(clean, tmp_path, robust, items, width):
    results = make_results((EVIL, "view"), {EVIL: (0.1, math.nan, 0.3), f"{EVIL}+view": (0.4, 0.4, None)}, title=EVIL)
    examples = collect_examples(robust, items, class_names=[EVIL] * 3, names=[EVIL] * 3)
    clean.open(report(results, tmp_path / "page.html", examples), width=width)
    assert clean.run("document.querySelector('h1').textContent") == EVIL
    assert clean.run("document.querySelector('tbody th').textContent") == EVIL
    assert clean.run("document.documentElement.scrollWidth") <= width
    assert clean.run("document.querySelectorAll('script').length") == 2


def test_a_page_of_hand_made_data_survives_json(robust, items):
    examples = collect_examples(robust, items)
    again = Examples.model_validate(json.loads(examples.model_dump_json()))
    assert page(make_results(), again) == page(make_results(), examples)
