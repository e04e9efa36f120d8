"""The pages as text: well-formed, self-contained, deaf to what a model calls its nodes. Browsers: the next file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from report.handmade import (
    ANALYZED,
    ATTACK,
    CHECKED,
    DETAILED,
    HEAD,
    HOSTILE,
    LAYERS,
    PASSED,
    PICTURED,
    PRUNED,
    SOFTMAX,
    layer,
    with_details,
)

from pfa_onnx.recipe import Method, Reason
from pfa_onnx.report import html
from pfa_onnx.report.html.causes import COLOURS, Causes
from pfa_onnx.report.html.layers import parts_of
from pfa_onnx.report.html.page import POLICY, page
from pfa_onnx.report.html.parts import Card, cards

ALL = {
    "analyze": ANALYZED,
    "prune": PRUNED,
    "detailed": DETAILED,
    "check": CHECKED,
    "pictures": PICTURED,
    "attack": ATTACK,
    "attack, detailed": with_details(ATTACK),
}
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}
ASSETS = files("pfa_onnx.report") / "assets"


class Page(HTMLParser):
    """Fails on tags that do not match; collects what a browser would do."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def having(self, tag, kind=None):
        """Return the attributes of all elements of this name, or of those of one class."""
        found = [values for name, values in self.tags if name == tag]
        return [values for values in found if kind is None or kind in values.get("class", "").split(" ")]


def data_of(rendered):
    return json.loads(re.search(r'id="data">(.*?)</script>', rendered)[1])


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_well_formed_and_asks_nothing_of_the_network(name):
    found = Page(html.render(ALL[name]))
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}
    assert not [values for _, values in found.tags if {"href", "onerror", "onclick", "srcset"} & set(values)]
    assert all(values["src"].startswith("data:image/png;base64,") for _, values in found.tags if "src" in values)
    assert ("meta", {"charset": "utf-8"}) in found.tags
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in found.tags
    assert POLICY.startswith("default-src 'none';")


@pytest.mark.parametrize("name", ALL)
def test_headings_are_in_order_and_every_picture_and_table_has_a_name(name):
    found = Page(html.render(ALL[name]))
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert all(values.get("alt") for values in found.having("img"))
    assert len(found.having("table")) == sum(tag == "caption" for tag, _ in found.tags)
    assert all(values.get("aria-label") for values in found.having("div", "scroll"))


@pytest.mark.parametrize("name", ["analyze", "detailed", "attack"])
def test_every_layer_unfolds_and_has_something_to_draw(name):
    rendered = html.render(ALL[name])
    unfolding = Page(rendered).having("details", "layer")
    assert [values["data-layer"] for values in unfolding] == [str(k) for k in range(len(ALL[name].layers))]
    assert len(data_of(rendered)["layers"]) == len(unfolding)


def test_curves_end_with_all_of_the_energy_and_stay_small():
    curves = data_of(html.render(ANALYZED))["layers"]
    assert curves[4]["points"][-1] == [1000, 1.0]
    assert len(curves[4]["points"]) == 128
    assert curves[3]["points"][0] == [1, 1.0]
    assert (curves[0]["channels"], curves[0]["keep"], curves[0]["tau"], curves[0]["reached"]) == (64, 46, 0.95, 61)
    assert "kl" not in curves[0]
    assert "matrix" not in curves[0]


def test_the_energy_of_the_method_is_the_one_that_is_marked():
    curves = data_of(html.render(PRUNED))["layers"]
    assert (curves[0]["tau"], curves[0]["reached"]) == (0.97312, 63)


def test_details_are_drawn_where_there_are_any():
    data = data_of(html.render(DETAILED))
    first = data["layers"][0]
    assert first["order"] == [*range(46, 64), *range(46)]
    assert first["kl"] == 46
    assert first["matrix"]["side"] == 64
    assert len(base64.b64decode(first["matrix"]["cells"])) == 64 * 65 // 2
    assert data["layers"][4]["matrix"]["side"] == 128, "a layer of 1,000 channels is made smaller"
    assert data["costs"]["curve"][-1] == [1.0, 1.0, 1.0]
    assert data["costs"]["chosen"] == [0.67582, 0.66518]
    assert "Size against energy" in html.render(DETAILED)
    assert "Size against energy" not in html.render(ANALYZED), "it is not known"


def test_a_page_of_a_large_network_stays_below_five_megabytes():
    widths = [64, *[64, 64, 256] * 3, *[128, 128, 512] * 4, *[256, 256, 1024] * 6, *[512, 512, 2048] * 3, 1000]
    eigenvalues = {width: [1 / k for k in range(1, width + 1)] for width in widths}
    layers = tuple(
        layer(f"/layer{k}/conv/Conv", width, width // 2, eigenvalues=eigenvalues[width])
        for k, width in enumerate(widths)
    )
    rendered = html.render(with_details(replace(ANALYZED, layers=layers)))
    assert 1_000_000 < len(rendered.encode()) < 5_000_000


# --- what a model may call its nodes ---


@pytest.mark.parametrize("name", ["attack", "attack, detailed", "pictures"])
def test_hostile_names_are_text(name):
    rendered = html.render(ALL[name])
    assert HOSTILE not in rendered
    assert "<img src=x" not in rendered
    assert 'onerror="' not in rendered
    assert "\x1b" not in rendered
    assert "&lt;img src=x" in rendered
    found = Page(rendered)
    assert sum(tag == "script" for tag, _ in found.tags) == rendered.count("</script>")


def test_data_cannot_end_its_script():
    rendered = page("x", ["<h1>x</h1>"], {"name": HOSTILE}, "layers.js")
    assert data_of(rendered) == {"name": HOSTILE}
    assert rendered.count("</script>") == 1 + 3 + 1, "data, the library and base.js, layers.js"


# --- bars and their colours ---


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"keep": 46, "asked": 46}, [("asked", 46), ("gone", 18)]),
        ({"keep": 46, "asked": 40}, [("asked", 40), ("more", 6), ("gone", 18)]),
        ({"keep": 64, "asked": 40, "held": 64}, [("held", 64)]),
        ({"keep": 50, "asked": 40, "held": 10}, [("asked", 30), ("held", 10), ("more", 10), ("gone", 14)]),
        ({"keep": 50, "asked": 8, "held": 50}, [("held", 50), ("gone", 14)]),
        ({"keep": 64, "asked": 64}, [("asked", 64)]),
    ],
)
def test_the_parts_of_a_bar(fields, parts):
    given = dict(fields)
    assert list(parts_of(layer("x", 64, given.pop("keep"), **given))) == parts


def test_bars_add_up():
    rendered = html.render(ANALYZED)
    bars = re.findall(r'<span class="bar"[^>]*>(.*?)</span>', rendered)
    totals = [sum(map(int, re.findall(r"flex-grow:(\d+)", found))) for found in bars]
    assert totals == [one.channels for one in LAYERS]
    assert '<i class="held-0" style="flex-grow:600"></i><i class="more" style="flex-grow:400"></i>' in rendered


def test_a_reason_has_one_colour_everywhere_and_the_most_expensive_comes_first():
    causes = Causes(LAYERS)
    assert [causes.of(one) for one in LAYERS if one.held] == ["held-1", "held-0"]
    assert 'held-0"' in causes.mark(HEAD.reason)
    assert 'held-1"' in causes.mark(SOFTMAX.reason)
    assert list(causes.legend()) == [("held-0", "is the graph output …"), ("held-1", "Softmax mixes all channels")]


def test_reasons_that_differ_in_numbers_only_are_one_kind_and_the_rarest_share_a_colour():
    few = [
        layer(f"{k}", 8, 8, held=8, frozen=(Reason(f"has {k} channels, which 8 samples cannot describe", f"{k}"),))
        for k in range(40)
    ]
    assert {Causes(few).of(one) for one in few} == {"held-0"}
    many = [layer(f"{k}", 8, 8, held=8, frozen=(Reason("x" * (k + 1), ""),)) for k in range(COLOURS + 3)]
    causes = Causes(many)
    assert [causes.of(one) for one in many] == [f"held-{min(k, COLOURS)}" for k in range(COLOURS + 3)]
    assert list(causes.legend())[-1] == (f"held-{COLOURS}", "3 other reasons")


def test_reports_of_any_shape_have_a_page():
    for report in (
        replace(ANALYZED, layers=()),
        replace(ANALYZED, after=None, data=None),
        replace(with_details(ATTACK), method=Method("uniform", ratio=0.5)),
        replace(PASSED, changed=(), metrics={}, outputs={}),
    ):
        Page(html.render(report))


# --- check ---


def test_limits_that_fail_stand_out_and_what_changed_is_shown():
    rendered = html.render(PICTURED)
    assert '<p class="verdict failed">FAILED: agreement' in rendered
    assert re.search(r'<tr class="failed"><td class="text">agreement \(top-1\)</td>', rendered)
    assert [values["class"] for values in Page(rendered).having("li")] == ["lost", "gained", "other", ""]
    assert "4 of them, evenly spread over the data." in rendered
    assert len(re.findall("data:image/png;base64,", rendered)) == 4
    assert "97.27&nbsp;%" not in rendered
    assert "97.27 %" in rendered
    assert "-0.39" in rendered


def test_a_page_without_charts_holds_no_chart_library():
    assert len(html.render(CHECKED)) < 50_000
    assert "d3js" in html.render(ANALYZED)


def test_the_many_rows_of_a_large_check_are_left_out_and_counted():
    changed = CHECKED.changed * 100
    rendered = html.render(replace(CHECKED, changed=changed))
    assert "... 900 more" in rendered


def test_a_number_does_not_part_from_its_unit():
    assert "from 116.68&nbsp;k" in cards([Card("params", "87.20 k", "-25.3 %", "116.68 k", 0.75)])


# --- assets ---


@pytest.mark.parametrize("name", [file.name for file in ASSETS.iterdir() if file.name.endswith((".js", ".css"))])
def test_assets_fit_inside_a_page(name):
    text = (ASSETS / name).read_text(encoding="utf-8")
    assert "</s" not in text
    assert "<!--" not in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|eval\(|new Function", text)


def test_the_chart_library_is_what_it_says_it_is():
    note = (ASSETS / "vendor" / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| (\S+\.js) .* ([0-9a-f]{64}) \|$", note, re.MULTILINE))
    held = {file.name: file for file in (ASSETS / "vendor").iterdir() if file.name.endswith(".js")}
    assert set(named) == set(held)
    for name, file in held.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == named[name]
        text = file.read_text(encoding="utf-8").lower()
        assert "</script" not in text
        assert "<!--" not in text
    licences = [file for file in (ASSETS / "vendor").iterdir() if file.name.startswith("LICENSE")]
    assert len(licences) == len(held)
    assert all("Permission to use, copy, modify" in file.read_text(encoding="utf-8") for file in licences)
