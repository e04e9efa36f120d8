"""The pages in a real browser: nothing fetched, nothing complained of, keys and phones and paper served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report.chromium import BROWSER, Chromium
from report.handmade import ANALYZED, ATTACK, CHECKED, DETAILED, PICTURED, PRUNED, with_details

from pfa_onnx.report import html

pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")

PAGES = {
    "analyze": ANALYZED,
    "prune": replace(DETAILED, output=PRUNED.output, proof=PRUNED.proof, method=PRUNED.method),
    "detailed": DETAILED,
    "check": CHECKED,
    "pictures": PICTURED,
    "attack": with_details(ATTACK),
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, report in PAGES.items():
        (folder / f"{name}.html").write_text(html.render(report), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_requests_and_without_complaints(browser, files, name):
    page = browser.open(files[name])
    page.ask("document.querySelectorAll('details').forEach((node) => { node.open = true })")
    if page.ask("document.querySelectorAll('details.layer').length"):
        page.wait("document.querySelectorAll('.figures svg').length")
    assert page.complaints() == []
    assert page.requests() == []


def test_what_the_policy_forbids_is_noticed_here(browser, tmp_path):
    text = html.render(CHECKED).replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    page = browser.open(tmp_path / "bad.html")
    page.wait("document.images.length && document.images[0].complete")
    assert "Content Security Policy" in str(page.complaints())


def test_a_click_on_a_layer_shows_its_spectrum(browser, files):
    page = browser.open(files["detailed"])
    assert page.ask("document.querySelectorAll('.figures svg').length") == 0
    page.click("details.layer summary")
    page.wait("document.querySelector('details.layer .spectrum svg')")
    label = page.ask("document.querySelector('.spectrum svg').getAttribute('aria-label')")
    assert label == "Cumulative energy over 64 channels; 46 stay, KL asks for 46, 95 % of the energy in 61"
    shown = page.ask("document.querySelector('.spectrum svg').getBoundingClientRect().width")
    assert shown > 200
    assert (
        page.ask("document.querySelector('.matrix svg image').getAttribute('href').slice(0, 22)")
        == "data:image/png;base64,"
    )
    page.click("details.layer summary")
    page.wait("!document.querySelector('details.layer').open")


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_reach_every_layer_and_open_it(browser, files, key):
    page = browser.open(files["analyze"])
    seen = []
    for _ in range(40):
        page.press("Tab")
        at = page.ask("document.activeElement.closest('details.layer')?.dataset.layer ?? null")
        seen += [at] if at is not None and at not in seen else []
        if at == "1" and not page.ask("document.activeElement.closest('details').open"):
            style = page.ask("getComputedStyle(document.activeElement).outlineStyle")
            assert style == "solid", "the focus can be seen"
            page.press(key)
            page.wait("document.querySelectorAll('details.layer')[1].querySelector('.spectrum svg')")
    assert seen == [str(index) for index in range(len(ANALYZED.layers))]


def test_all_layers_open_and_close_at_once(browser, files):
    page = browser.open(files["detailed"])
    page.click("#all")
    page.wait("document.querySelectorAll('.spectrum svg').length === 5")
    assert page.ask("document.getElementById('all').textContent") == "Close all"
    page.click("#all")
    page.wait("!document.querySelector('details.layer[open]')")


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_does_not_scroll_sideways(browser, files, name):
    page = browser.open(files[name], width=380, height=800)
    page.ask("document.querySelectorAll('details').forEach((node) => { node.open = true })")
    if name in ("detailed", "prune"):
        page.wait("document.querySelectorAll('.matrix svg').length === 5")
    assert page.ask(OVERFLOW) <= 0
    assert page.complaints() == []


def test_figures_follow_the_width_of_the_page(browser, files):
    page = browser.open(files["detailed"], width=1200)
    page.click("details.layer summary")
    page.wait("document.querySelector('.spectrum svg')")
    drawn = "document.querySelector('.spectrum svg').viewBox.baseVal.width"
    assert page.ask(drawn) > 400
    page.call("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=True)
    page.wait(f"{drawn} <= 380")  # drawn anew: text keeps its size


def lightness(colour):
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])


def test_dark_is_dark_and_paper_is_white(browser, files):
    page = browser.open(files["detailed"], dark=True)
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.body).color"
    assert lightness(page.ask(background)) < 150 < 600 < lightness(page.ask(ink))
    page.click("details.layer summary")
    page.wait("document.querySelector('.matrix image')")
    dark = page.ask("document.querySelector('.matrix image').getAttribute('href')")
    page.media(dark=False)
    page.wait(f"document.querySelector('.matrix image').getAttribute('href') !== {dark!r}")
    assert lightness(page.ask(background)) == 765
    page.media(kind="print", dark=True)
    assert lightness(page.ask(background)) == 765
    assert lightness(page.ask(ink)) < 150


def test_paper_holds_all_sections(browser, files):
    page = browser.open(files["detailed"])
    assert page.pdf().startswith(b"%PDF-")
    page.media(kind="print")
    heights = page.ask("[...document.querySelectorAll('section')].map((node) => node.getBoundingClientRect().height)")
    assert len(heights) == 5
    assert min(heights) > 40
    rows = "document.querySelectorAll('.printed td.name')"
    assert page.ask(f"{rows}[0].getBoundingClientRect().height") > 0, "a folded table is unfolded on paper"


def test_tables_and_facts_are_there_without_scripts(browser, files):
    page = browser.open(files["detailed"], scripts=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)  # to ask; the page was loaded without
    assert page.ask("typeof pfa") == "undefined"
    assert "is the graph output 'logits'" in page.ask("document.body.innerText")
    assert page.ask("document.querySelector('.buttons').hidden"), "a button that does nothing is not shown"
    page.click("details.layer summary")
    page.wait("document.body.innerText.includes('goes together with 1 other layer')")


def test_the_matrix_tells_which_channels_are_under_the_pointer(browser, files):
    page = browser.open(files["detailed"])
    page.click("details.layer summary")
    page.wait("document.querySelector('.matrix svg')")
    box = page.ask(
        "(() => { const b = document.querySelector('.matrix svg').getBoundingClientRect(); return [b.x, b.y, b.width] })()"
    )
    where = {"x": box[0] + 36 + 1, "y": box[1] + 20 + 1}  # the first cell, inside the margins
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
    order = DETAILED.details.layers[DETAILED.layers[0].output].order
    page.wait("document.querySelector('.matrix figcaption').innerText.startsWith('channels')")
    assert (
        page.ask("document.querySelector('.matrix figcaption').innerText")
        == f"channels {order[0]} and {order[0]}: 1.00"
    )


def test_unpacking_a_matrix_gives_what_was_packed(browser, files):
    page = browser.open(files["detailed"])
    packed = DETAILED.details.layers[DETAILED.layers[0].output].correlations
    found = np.array(page.ask("[...pfa.unpack(pfa.data.layers[0].matrix)]"), np.uint8).reshape(packed.side, packed.side)
    assert np.array_equal(found, found.T)
    assert found[np.triu_indices(packed.side)].tobytes() == packed.cells
