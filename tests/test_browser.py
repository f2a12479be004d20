"""The pages in a real browser: what a reader sees, does and hears of them."""

import base64
import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from fakes import NETWORKS, kind_of_network, trained
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Error, sync_playwright

from midas_lib import config, data, images, inference, pad, pages, show
from midas_lib.config import Preprocessing

EXECUTED = Path(pages.__file__).parent.parent / "executed"
PUBLISHED = sorted(EXECUTED.glob("*.html"))
PHONE, DESKTOP = 360, 1440
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            reason = error.message.splitlines()[0]
            pytest.skip(f"no browser to look at the pages with: {reason}")
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens a page of this width; afterwards nothing must have gone wrong or out to the network."""
    pages, faults = [], []

    def visit(path, width=DESKTOP, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        asked = []
        page.goto(path.as_uri())
        faults.extend(url for url in asked if not url.startswith(("data:", path.as_uri())))
        return page

    yield visit
    for page in pages:
        page.close()
    assert faults == []


@pytest.fixture(params=["stand-in", "mirror"])
def characters(request, standin, monkeypatch):
    """Characters that the program drew; and, where the tests are given MIRROR, real ones."""
    if request.param == "mirror":
        if MIRROR is None:
            pytest.skip("no real characters: give MIRROR, a folder or URL with trainPart1.zip")
        monkeypatch.delenv("STANDIN")
        monkeypatch.setenv("MIRROR", MIRROR)
    return data.load_characters("smoke")


MIRROR = os.environ.get("MIRROR")  # before `standin` takes it away


@pytest.fixture(scope="module")
def reader():
    return inference.load_classifier(EXECUTED.parent / "checkpoints" / "part1" / "model.keras")


def shown(monkeypatch, tell, *args, **kwargs):
    """What a notebook would show, as HTML."""
    outputs = []
    monkeypatch.setattr(show, "display", lambda output: outputs.append(output.data))
    tell(*args, **kwargs)
    return outputs[0]


@pytest.fixture
def write(tmp_path):
    """Writes a report with these outputs, each in a cell of its own under a heading."""

    def write(*outputs):
        cells = [new_markdown_cell("# A report")]
        for i, output in enumerate(outputs):
            cells.append(new_markdown_cell(f"## Section {i}"))
            output = new_output("display_data", {"text/html": output})
            cells.append(new_code_cell(f"show({i})", outputs=[output]))
        path = tmp_path / "page.html"
        path.write_text(pages._render(new_notebook(cells=cells)))
        return path

    return write


# -- the published pages


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
class TestPublished:
    @pytest.mark.parametrize("width", [PHONE, DESKTOP])
    def test_nothing_has_to_be_scrolled_sideways(self, visit, path, width):
        page = visit(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_whoever_reads_it_can_reach_everything(self, visit, path, scheme):
        page = visit(path, color_scheme=scheme)
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in serious] == []

    def test_every_picture_is_told_in_words(self, visit, path):
        page = visit(path)
        told = page.eval_on_selector_all("img:not([hidden])", "all => all.map(i => i.alt)")
        assert all(len(words) > 20 for words in told)

    def test_every_link_within_the_reports_leads_somewhere(self, visit, path):
        page = visit(path)
        links = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
        for link in links:
            file, _, anchor = link.partition("#")
            if anchor and not file:
                assert page.locator(f"[id='{anchor}']").count() == 1
            elif not file.startswith("http"):
                assert (EXECUTED / file).exists()

    def test_it_reads_without_scripts(self, visit, path):
        page = visit(path, java_script_enabled=False)
        assert page.locator("h1").inner_text()
        assert not any(button.is_visible() for button in page.locator("header button").all())


# -- what the script adds


def test_the_contents_are_open_where_there_is_room(visit, write):
    path = write("<p>one</p>", "<p>two</p>")
    for width, there in ((DESKTOP, True), (PHONE, False)):
        page = visit(path, width)
        assert page.locator(".contents a").first.is_visible() == there
    page.locator(".contents summary").click()
    page.get_by_role("link", name="Section 1").click()
    assert page.url.endswith("#section-1")


def test_code_unfolds_one_by_one_and_all_at_once(visit, write):
    page = visit(write("<p>one</p>", "<p>two</p>"))
    code = page.locator("details.code pre")
    page.locator("details.code summary").first.click()
    assert [code.nth(i).is_visible() for i in (0, 1)] == [True, False]
    page.get_by_role("button", name="Show all code").click()
    assert [code.nth(i).is_visible() for i in (0, 1)] == [True, True]
    page.get_by_role("button", name="Hide all code").click()
    assert [code.nth(i).is_visible() for i in (0, 1)] == [False, False]


def test_a_table_sorts_by_number_and_by_name(visit, write, monkeypatch):
    rows = [
        {"who": who, "how many": much} for who, much in (("b", "900"), ("c", "10,000"), ("a", "−3"))
    ]
    page = visit(write(shown(monkeypatch, show.table, rows, "Counts")))

    def order():
        return "".join(page.locator("tbody th").all_inner_texts())

    assert order() == "bca"
    page.get_by_role("button", name="how many").click()
    assert order() == "abc"
    assert page.locator("th[aria-sort='ascending']").inner_text().startswith("how many")
    page.get_by_role("button", name="how many").click()
    assert order() == "cba"
    page.get_by_role("button", name="who").click()
    assert order() == "abc"


def test_a_folded_table_opens_by_its_words_and_is_printed(visit, write, monkeypatch):
    rows = [{"who": "a", "how many": 1}]
    html = shown(monkeypatch, show.table, rows, "Counts", folded="The same in numbers, 5%")
    page = visit(write(html))
    table, words = page.locator("table"), page.get_by_text("The same in numbers, 5\u202f%")
    assert not table.is_visible()
    page.emulate_media(media="print")
    assert table.is_visible()
    assert not words.is_visible()
    page.emulate_media(media="screen")
    words.click()
    assert table.is_visible()


def test_the_pointer_is_told_the_numbers_of_the_point_it_is_on(visit, write, monkeypatch):
    fig = Figure(figsize=(5, 3))
    ax = fig.subplots()
    (line,) = ax.plot([0, 1, 2], [5, 70, 6], label="ours")
    line.bounds = np.array([(1, 9), (60, 75), (2, 8)])
    ax.set(ylim=(0, 100), xlim=(0, 2))
    page = visit(write(shown(monkeypatch, show.figure, fig, "a line with three points", "A line")))
    image = page.locator("figure img").bounding_box()
    left, bottom, width, height = ax.get_position().bounds
    box = fig.get_tightbbox().padded(0.1)
    x = ((left + width / 2) * 5 - box.x0) / box.width
    y = 1 - ((bottom + 0.7 * height) * 3 - box.y0) / box.height
    page.mouse.move(image["x"] + x * image["width"], image["y"] + y * image["height"])
    assert page.locator(".note").inner_text() == "ours: 1, 70 [60, 75]"
    page.mouse.move(image["x"] + x * image["width"], image["y"] + image["height"] - 3)
    assert not page.locator(".note").is_visible()


def test_a_cell_of_a_matrix_shows_what_is_behind_it(visit, write, monkeypatch):
    fig = Figure(figsize=(4, 3))
    ax = fig.subplots()
    ax.imshow(np.eye(4))
    cells = {(1, 3): ("b read as d", np.zeros((28, 56), np.uint8))}
    cells[3, 0] = ("d read as <a>", np.full((28, 28), 255, np.uint8))
    html = shown(monkeypatch, show.figure, fig, "a matrix of four classes", "A matrix", cells=cells)
    page = visit(write(html))
    image, behind = page.locator("figure > img").first, page.locator("img.behind")
    box = fig.get_tightbbox().padded(0.1)

    def click(row, column):
        x, y = ax.transData.transform((column, row)) / fig.dpi
        frame = image.bounding_box()
        across, up = (x - box.x0) / box.width, (y - box.y0) / box.height
        page.mouse.click(
            frame["x"] + across * frame["width"], frame["y"] + (1 - up) * frame["height"]
        )

    click(1, 3)
    assert behind.get_attribute("alt") == "b read as d"
    assert behind.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [56, 28]
    click(0, 0)
    assert not behind.is_visible()
    page.get_by_label("See the images behind a cell").select_option("d read as <a>")
    assert behind.get_attribute("alt") == "d read as <a>"


def test_a_failed_report_says_so_first(visit, tmp_path):
    traceback = new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    cells = [new_markdown_cell("# A report"), new_code_cell("1 / 0", outputs=[traceback])]
    path = tmp_path / "failed.html"
    path.write_text(pages._render(new_notebook(cells=cells), error="ValueError: no"))
    page = visit(path)
    assert page.get_by_role("alert").bounding_box()["y"] < page.locator("h1").bounding_box()["y"]
    page.get_by_role("link", name="Go to the cell that failed").click()
    assert page.url.endswith("#failure")


def test_a_script_that_is_not_ours_does_not_run(browser, write):
    page = browser.new_page()
    foreign = "document.title = 'changed'"
    path = write(f'<script>{foreign}</script><p onclick="{foreign}">Click</p>')
    page.goto(path.as_uri())
    page.get_by_text("Click", exact=True).click()
    assert page.title() == "A report"
    assert page.evaluate("document.querySelector('.fold').hidden") is False  # ours has run
    page.close()


# -- the pad


def test_the_page_reads_as_keras_does(visit, write, monkeypatch, reader, characters):
    html = shown(monkeypatch, show.drawing_pad, {"ours": pad.export(reader)}, {}, "Draw")
    rows = np.random.default_rng(0).permutation(len(characters.labels))[:100]
    scans = characters.images[rows]
    expected = reader.probabilities(scans)
    page = visit(write(html))
    read = """scans => {
      const data = document.querySelector(".pad script[type='application/json']");
      const network = pad.unpack(JSON.parse(data.textContent));
      return scans.map((text) => {
        const scan = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return pad.answer(network, pad.preprocess(scan, network.mode, network.margin));
      });
    }"""
    inks = [base64.b64encode(images.ink(scan).tobytes()).decode() for scan in scans]
    answers = np.array(page.evaluate(read, inks))
    assert answers.shape == (100, 62)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-3)


def test_what_is_drawn_is_read_and_wiped_out(visit, write, monkeypatch, reader):
    networks = {"first": pad.export(reader), "second": pad.export(reader)}
    guides = {"base line": 0.76}
    page = visit(write(shown(monkeypatch, show.drawing_pad, networks, guides, "Draw")), PHONE)
    paper, guesses = page.locator(".paper canvas"), page.locator(".reading li")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()

    def stroke(*points):
        for i, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
            if i == 0:
                page.mouse.down()
        page.mouse.up()

    stroke((0.35, 0.25), (0.65, 0.25))
    stroke((0.5, 0.25), (0.5, 0.76))
    assert guesses.count() == 5
    assert guesses.first.inner_text().startswith("T ")
    page.get_by_label("second").check()
    assert guesses.first.inner_text().startswith("T ")
    page.get_by_role("button", name="Clear").click()
    assert guesses.count() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_computes_every_kind_of_network(visit, write, monkeypatch, name):
    rng, network = np.random.default_rng(0), kind_of_network(name)
    pictures = rng.integers(0, 256, (5, 28, 28, 1))
    geometry = rng.random((5, 2))
    expected = network.predict_on_batch([pictures.astype(np.float32), geometry])
    reader = inference.Classifier(
        network=trained(network), class_names=config.DIGIT_NAMES, preprocessing=Preprocessing()
    )
    page = visit(write(shown(monkeypatch, show.drawing_pad, {"ours": pad.export(reader)}, {}, "D")))
    read = """([network, all]) => {
      const unpacked = pad.unpack(network);
      return all.map(([picture, geometry]) => pad.answer(unpacked, { picture, geometry }));
    }"""
    inputs = [[p.ravel().tolist(), g.tolist()] for p, g in zip(pictures, geometry, strict=True)]
    answers = page.evaluate(read, [pad.export(reader), inputs])
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.01  # the picture is heard


def test_a_network_the_page_does_not_know_is_refused(reader):
    wider = dataclasses.replace(reader.preprocessing, size=36)
    with pytest.raises(ValueError, match="28 pixels"):
        pad.export(dataclasses.replace(reader, preprocessing=wider))
    with pytest.raises(ValueError, match="of this project's family alone"):
        pad.export(dataclasses.replace(reader, network=print))
