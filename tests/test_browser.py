"""The pages in a real browser: what a reader sees, does and hears of them."""

import base64
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from fakes import NETWORKS, kind_of_network, trained
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Error, sync_playwright
from scipy import special

from midas_lib import analysis, config, data, images, inference, pad, pages, plots, show
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


def test_a_table_sorts_by_what_python_ranked_and_back(visit, write, monkeypatch):
    told = ("b", "900", "dropout 0.3"), ("c", "inf, n = 1", "dropout 0.25"), ("a", "−3", "all")
    told += (("d", None, "peak 10"), ("e", "10,000", "peak 9"))
    rows = [dict(zip(("who", "how many", "what"), row, strict=True)) for row in told]
    page = visit(write(shown(monkeypatch, show.table, rows, "Counts")))

    def order(name=None):
        if name:
            page.get_by_role("button", name=name).click()
        return "".join(page.locator("tbody th").all_inner_texts())

    assert order() == "bcade"
    assert order("how many") == "abecd"  # what has no value goes last, both ways
    assert page.locator("th[aria-sort='ascending']").inner_text().startswith("how many")
    assert order("how many") == "cebad"
    assert order("how many") == "bcade"
    assert page.locator("th[aria-sort]").count() == 0
    assert order("what") == "acbed"
    assert order("who") == "abcde"


def test_a_table_can_be_taken_along_as_csv(visit, write, monkeypatch):
    rows = [{"who": 'the "first", 5%', "how many": 14375}, {"who": "b", "how many": -3}]
    page = visit(write(shown(monkeypatch, show.table, rows, "Counts")))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download this table as CSV").click()
    table = pd.read_csv(download.value.path())
    assert download.value.suggested_filename == "A report, Table 1.csv"
    assert table["who"].tolist() == ['the "first", 5\u202f%', "b"]
    assert table["how many"].tolist() == ["14,375", "−3"]


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


def test_the_numbers_of_a_point_by_pointer_tap_and_keys(visit, write, monkeypatch):
    fig = Figure(figsize=(5, 3))
    ax = fig.subplots()
    (line,) = ax.plot([0, 1, 2], [5, 70, 6], label="ours")
    line.bounds = np.array([(9, 1), (75, 60), (np.nan, np.nan)])
    ax.plot([0, 2], [90, 80], label="_theirs")
    ax.set(ylim=(0, 100), xlim=(0, 2), xlabel="Step (log scale)", ylabel="Loss (nats)")
    html = shown(monkeypatch, show.figure, fig, "a line with three points", "A line")
    page = visit(write(html), has_touch=True)
    image, note = page.locator("figure svg").bounding_box(), page.locator(".note")
    left, bottom, width, height = ax.get_position().bounds
    box = fig.get_tightbbox().padded(0.1)

    def at(x, y):
        across = ((left + width * x / 2) * 5 - box.x0) / box.width
        down = 1 - ((bottom + height * y / 100) * 3 - box.y0) / box.height
        return image["x"] + across * image["width"], image["y"] + down * image["height"]

    page.mouse.move(*at(1, 70))
    assert note.inner_text() == "ours: Step 1, Loss (nats) 70 [60, 75]"
    page.mouse.move(*at(1, 40))
    assert not note.is_visible()
    page.touchscreen.tap(*at(2, 6))
    page.mouse.move(*at(1, 40))
    assert note.inner_text() == "ours: Step 2, Loss (nats) 6"  # it stays, and has no interval
    edge = note.bounding_box()
    assert edge["x"] + edge["width"] <= image["x"] + image["width"] + 1
    page.keyboard.press("ArrowLeft")
    assert note.inner_text() == "ours: Step 1, Loss (nats) 70 [60, 75]"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert note.inner_text() == "theirs: Step 0, Loss (nats) 90"
    page.keyboard.press("Escape")
    assert not note.is_visible()
    assert "arrow keys" in page.locator("figcaption").inner_text()


def test_a_figure_fits_a_phone_and_has_its_caption_beside_it_at_a_desk(visit, write, monkeypatch):
    layers = {"picture": ((28, 28, 1), 0), "scores": ((10,), 20490)}
    path = write(shown(monkeypatch, show.figure, plots.network_strip(layers), "layers", "Layers"))
    phone, desk = visit(path, PHONE), visit(path, DESKTOP)
    size = "t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a"
    assert min(phone.eval_on_selector_all("svg text", f"all => all.map({size})")) >= 10
    box = phone.locator("figure > .scroll")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert phone.locator("figcaption").bounding_box()["y"] > box.bounding_box()["y"] + 50
    drawing, caption = (desk.locator(one).bounding_box() for one in ("svg", "figcaption"))
    assert caption["x"] >= drawing["x"] + drawing["width"]
    assert caption["y"] == pytest.approx(drawing["y"], abs=16)


def test_a_cell_of_a_matrix_shows_what_is_behind_it(visit, write, monkeypatch):
    fig = Figure(figsize=(4, 3))
    ax = fig.subplots()
    ax.imshow(np.eye(4))
    cells = {(1, 3): ("b read as d", np.zeros((28, 56), np.uint8))}
    cells[3, 0] = ("d read as <a>", np.full((28, 28), 255, np.uint8))
    html = shown(monkeypatch, show.figure, fig, "a matrix of four classes", "A matrix", cells=cells)
    page = visit(write(html))
    image, behind = page.locator("figure .scroll img"), page.locator("img.behind")
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
    page.emulate_media(media="print")
    assert not behind.is_visible()


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


GUIDES = {"base line": 0.77, "top of capitals": 0.25, "top of small letters": 0.37}


def halved(reader):
    """A reader with its weights as the page has them, rounded to 16 bits but for the geometry's."""
    layers = [
        layer if layer.kernel is None or layer.kind == "geometry"
        else layer._replace(kernel=np.float32(np.float16(layer.kernel)),
                            bias=np.float32(np.float16(layer.bias)))
        for layer in reader.network.layers
    ]  # fmt: skip
    network = dataclasses.replace(reader.network, layers=tuple(layers))
    return dataclasses.replace(reader, network=network)


READ = """(network, input) => {
  return pad.answer(network, pad.logits(network, input.picture), input.geometry);
}"""


def test_the_page_reads_as_keras_does(visit, write, monkeypatch, reader, characters):
    html = shown(monkeypatch, show.drawing_pad, {"ours": pad.export(reader)}, GUIDES, "Draw")
    rows = np.random.default_rng(0).permutation(len(characters.labels))[:100]
    scans = characters.images[rows]
    expected = halved(reader).probabilities(scans)
    np.testing.assert_allclose(expected, reader.probabilities(scans), rtol=0, atol=5e-3)
    page = visit(write(html))
    read = f"""scans => {{
      const data = document.querySelector(".pad script[type='application/json']");
      const network = pad.unpack(JSON.parse(data.textContent));
      return scans.map((text) => {{
        const scan = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return ({READ})(network, pad.preprocess(scan, network.mode, network.margin));
      }});
    }}"""
    inks = [base64.b64encode(images.ink(scan).tobytes()).decode() for scan in scans]
    answers = np.array(page.evaluate(read, inks))
    assert answers.shape == (100, 62)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-3)


@pytest.fixture
def paper(visit, write, monkeypatch, reader):
    """A page's pad with two readers; `stroke` draws through points, in shares of the paper, `ink`
    counts its dark pixels, `said` waits for an answer."""
    digits = EXECUTED.parent / "checkpoints" / "part3" / "recovered-random.keras"
    readers = {"all": reader, "digits": inference.load_classifier(digits)}
    networks = {name: pad.export(one) for name, one in readers.items()}
    html = shown(monkeypatch, show.drawing_pad, networks, GUIDES, "Draw")
    page = visit(write(html), PHONE, has_touch=True)
    page.locator(".paper").scroll_into_view_if_needed()
    box = page.locator(".paper").bounding_box()

    def stroke(*points, button="left"):
        for i, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
            if i == 0:
                page.mouse.down(button=button)
        page.mouse.up(button=button)

    pixels = "c => c.getContext('2d').getImageData(0, 0, 1200, 900).data"
    pixels += ".filter((value, i) => i % 4 === 3 && value > 127).length"
    page.stroke, page.box = stroke, box
    page.said = lambda text: page.get_by_role("status").filter(has_text=text).wait_for()
    page.ink = lambda: page.locator(".paper canvas").evaluate(pixels)
    return page


def test_what_is_drawn_is_read_taken_back_and_wiped_out(paper):
    guesses = paper.locator(".guesses li")
    paper.stroke((0.35, 0.25), (0.65, 0.25))
    paper.said("percent")
    bar = guesses.first.inner_text()
    paper.stroke((0.5, 0.25), (0.5, 0.76))
    paper.said("capital T, ")
    assert guesses.count() == 5
    assert guesses.first.inner_text().startswith("T ")
    paper.get_by_role("button", name="Undo").click()
    assert guesses.first.inner_text() == bar
    paper.get_by_role("button", name="Clear").click()
    paper.said("Nothing is drawn.")
    paper.get_by_role("button", name="Undo").click()
    assert guesses.count() == paper.ink() == 0


def test_a_tap_leaves_a_dot_and_the_right_button_nothing(paper):
    paper.stroke((0.5, 0.5), button="right")
    assert paper.ink() == 0
    paper.stroke((0.5, 0.5))
    assert paper.ink() == pytest.approx(np.pi * 30**2, rel=0.05)  # a disc as wide as the pen


def test_a_second_finger_draws_nothing(paper):
    touch = paper.context.new_cdp_session(paper)

    def fingers(kind, *points):
        box = paper.box
        at = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": i}
            for i, (x, y) in enumerate(points)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    fingers("touchStart", (0.3, 0.3))
    fingers("touchMove", (0.3, 0.4))
    one = paper.ink()
    fingers("touchStart", (0.3, 0.4), (0.8, 0.8))
    fingers("touchMove", (0.3, 0.4), (0.8, 0.5))
    assert paper.ink() == one
    fingers("touchMove", (0.3, 0.5), (0.8, 0.5))
    assert paper.ink() == pytest.approx(one + 60 * 90, rel=0.05)  # the first finger went on
    paper.get_by_role("button", name="Undo").evaluate("button => button.click()")
    fingers("touchMove", (0.3, 0.7), (0.8, 0.5))
    fingers("touchEnd")
    assert paper.ink() == 0


def test_strokes_on_the_lines_are_read_in_the_case_of_the_lines(paper, monkeypatch):
    tops = "all => all.map((line) => parseFloat(line.style.top) / 100)"
    lines = paper.locator(".paper i").evaluate_all(tops)
    names = "cosuvxzCOSUVXZ"
    monkeypatch.setattr(pad, "SAMPLES", names)
    read = ""
    for strokes in pad.samples(*lines).values():
        sample = paper.locator("[data-sample]").first
        sample.evaluate("(button, strokes) => { button.dataset.sample = strokes; }", str(strokes))
        sample.click()
        read += paper.locator(".guesses li").first.inner_text()[0]
    assert read == names


def test_a_sample_is_read_by_keyboard_and_digits_come_with_a_caveat(paper):
    paper.get_by_role("button", name="Draw a capital T").focus()
    paper.keyboard.press("Enter")
    paper.said("capital T, ")
    assert not paper.get_by_text("knows digits alone").is_visible()
    paper.get_by_label("digits").check()
    paper.said("digit ")
    assert paper.get_by_text("knows digits alone").is_visible()
    assert not paper.get_by_label("Learn my hand").is_visible()


def test_it_learns_a_hand_and_says_what_it_believes(paper):
    for name in "ATC":
        paper.get_by_role("button", name=f"Draw a capital {name}").click()
        paper.get_by_role("button", name="Keep it").click()
    assert paper.locator(".kept li").all_inner_texts() == ["A", "T", "C"]
    assert "your hand, from 3 characters" in paper.locator(".belief").inner_text()
    paper.get_by_role("button", name="Draw a small o").click()
    learned = paper.locator(".guesses").inner_text()
    paper.get_by_label("Learn my hand").uncheck()
    assert paper.locator(".guesses").inner_text() != learned
    assert paper.locator(".belief").inner_text() == ""
    paper.get_by_role("button", name="Forget my hand").click()
    assert paper.locator(".kept li").count() == 0


def test_the_page_estimates_one_hand_as_python_does(paper, reader):
    rng = np.random.default_rng(0)
    logs, geometry = rng.normal(0, 2, (7, 62)), rng.uniform(0.2, 0.8, (7, 2))
    known = dict(reader.hands)
    weight, hands = known.pop("weight"), analysis.Hands(**known)
    for count in (1, 7):
        expected = analysis.one_hand(logs[:count], geometry[:count], hands, weight)
        given = [logs[:count].tolist(), geometry[:count].tolist(), pad.export(reader)["hands"]]
        found = paper.evaluate("given => pad.oneHand(...given)", given)
        np.testing.assert_allclose(found["scores"], expected, rtol=1e-9)
    # Its offset is the posterior mean, given how far each lies from what it is read as.
    away = geometry[:, None] - hands.means
    mean = np.einsum("nc,nci->i", special.softmax(expected, 1), away) / 7
    noise = hands.within / 7
    offset = hands.between @ np.linalg.inv(hands.between + noise) @ mean
    np.testing.assert_allclose(found["offset"], offset, atol=1e-4)


def test_without_scripts_there_is_no_dead_pad(visit, write, monkeypatch, reader):
    html = shown(monkeypatch, show.drawing_pad, {"ours": pad.export(reader)}, GUIDES, "Draw")
    page = visit(write(html), java_script_enabled=False)
    assert page.get_by_text("That needs scripts").is_visible()
    assert not any(one.is_visible() for one in page.locator(".pad canvas, .pad button").all())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_computes_every_kind_of_network(visit, write, monkeypatch, name):
    rng, network = np.random.default_rng(0), trained(kind_of_network(name))
    pictures = rng.integers(0, 256, (5, 28, 28, 1))
    geometry = rng.random((5, 2))
    reader = inference.Classifier(
        network=network, class_names=config.DIGIT_NAMES, preprocessing=Preprocessing()
    )
    expected = halved(reader).network(pictures, geometry)
    page = visit(
        write(shown(monkeypatch, show.drawing_pad, {"ours": pad.export(reader)}, GUIDES, "D"))
    )
    read = f"""([network, all]) => {{
      const unpacked = pad.unpack(network);
      return all.map(([picture, geometry]) => ({READ})(unpacked, {{ picture, geometry }}));
    }}"""
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


# -- the game


ASKED = {"A": "A", "b": "b", "3": "3", "T": "T", "O": "0", "c": "C", "x": "X", "1": "l"}
READ_AS = "AB3TOC0I"  # exactly 3 of the 4 that the network reads right and 1 of the others
WHOLE = {"images": 100, "accuracy": 0.8, "case_merged_accuracy": 0.9}


@pytest.fixture
def play(visit, write, monkeypatch):
    """Opens a page with a game of these characters, label -> the network's answer."""

    def play(width=DESKTOP, asked=ASKED, whole=WHOLE, **options):
        names = list(config.CLASS_NAMES)
        scans = np.random.default_rng(0).choice(np.uint8([0, 85, 170, 255]), (len(asked), 225, 300))
        indices = [[names.index(name) for name in row] for row in (asked, asked.values())]
        given = pad.game(scans, *indices, names, whole)
        page = visit(
            write(shown(monkeypatch, show.game, given, names, GUIDES, "Game")), width, **options
        )
        page.said = page.locator(".game [role='status']").inner_text
        return page

    return play


def table_of(page):
    """The score's rows, name -> the reader's and the network's cells, for each measure."""
    found, rows = {}, {}
    for row in page.locator(".score tbody tr").all():
        name, *cells = row.locator("th, td").all_inner_texts()
        if cells:
            plain = [cell.replace("\u202f", "").replace("\u00a0", " ") for cell in cells]
            rows[name] = tuple(plain)
        else:
            found[name] = rows = {}
    return found


def test_a_game_is_played_by_keyboard_and_scored(play):
    page = play()
    page.get_by_role("button", name="Start").focus()
    page.keyboard.press("Enter")
    picture = page.locator(".paper img")
    assert picture.get_attribute("alt") == "A handwritten character to be read, 1 of 8"
    first = picture.get_attribute("src")
    page.keyboard.press("a")
    assert page.said() == "You read small a. Now 2 of 8."
    assert picture.get_attribute("src") != first
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")  # there is no other
    assert page.said() == "Taken back: small a. Now 1 of 8."
    assert picture.get_attribute("src") == first
    for key in ("Control+a", "?", "Shift"):
        page.keyboard.press(key)
    assert page.said() == "Taken back: small a. Now 1 of 8."
    for _ in range(3):  # held down it is one answer
        page.keyboard.down("A")
    page.keyboard.up("A")
    assert page.said() == "You read capital A. Now 2 of 8."
    page.keyboard.insert_text("B")  # by no key, as an input method does
    assert page.said() == "You read capital B. Now 3 of 8."
    for name in READ_AS[2:]:
        page.keyboard.press(name)
    assert page.evaluate("document.activeElement.className") == "score"
    told = (
        "You read 4 of 8 right: 3 of 4 of those that the network reads right, and 1 of 4 of those"
    )
    assert page.locator(".told").inner_text() == f"{told} that it misreads."
    # Wilson's: 4 of 8 is 0.215 to 0.785, 3 of 4 0.301 to 0.954, 1 of 4 0.046 to 0.699, 2 of 4
    # 0.150 to 0.850, 4 of 4 from 0.510, 6 of 8 0.409 to 0.929, 80 of 100 0.711 to 0.867, and 90 of
    # 100 0.826 to 0.945. Weighed: 0.8 * 0.75 + 0.2 * 0.25, and below it the root of
    # (0.8 * 0.449)^2 + (0.2 * 0.204)^2 = 0.362^2.
    assert table_of(page) == {
        "Exactly": {
            "all 8": ("4: 50% [22, 78]", "4: 50%, by construction"),
            "4 it reads right": ("3: 75% [30, 95]", "4: 100%, by construction"),
            "4 it misreads": ("1: 25% [5, 70]", "0: 0%, by construction"),
            "weighed as in all 100": ("65% [29, 84]", "80% [71, 87]"),
        },
        "Upper and lower case as one": {
            "all 8": ("6: 75% [41, 93]", "6: 75% [58, 92]"),  # 4 of 8 are sure, 2 of 4 half of it
            "4 it reads right": ("4: 100% [51, 100]", "4: 100%, by construction"),
            "4 it misreads": ("2: 50% [15, 85]", "2: 50% [15, 85]"),
            "weighed as in all 100": ("90% [50, 97]", "90% [83, 94]"),
        },
    }
    assert "too close to call" in page.locator(".verdict").inner_text()


def test_a_games_answers_can_be_taken_along(play):
    page = play()
    page.get_by_role("button", name="Start").click()
    for name in READ_AS:
        page.keyboard.press(name)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the answers").click()
    assert download.value.suggested_filename == "A report, my answers.json"
    kept = json.loads(Path(download.value.path()).read_text())
    assert [tuple(one.values()) for one in kept["answers"]] == list(
        zip(ASKED, ASKED.values(), READ_AS, strict=True)
    )
    assert list(kept["answers"][0]) == ["label", "network", "reader"]
    for measure, counts in {"accuracy": (4, 3, 1), "case_merged_accuracy": (6, 4, 2)}.items():
        for kind, count in zip(("all", "right", "misread"), counts, strict=True):
            ours = kept["score"][measure][kind]["reader"]
            theirs = analysis.proportion_interval(count, 8 if kind == "all" else 4)
            assert (ours["count"], ours["n"]) == (count, theirs.n)
            assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize(
    ("answers", "accuracy", "verdict"),
    [("Ab3TOcx1", 0.2, "you are better"), ("00000000", 0.8, "the network is better")],
)
def test_a_game_says_who_is_better_where_that_can_be_told(play, answers, accuracy, verdict):
    page = play(whole=WHOLE | {"accuracy": accuracy})
    page.get_by_role("button", name="Start").click()
    for name in answers:
        page.keyboard.press(name)
    assert page.locator(".verdict").inner_text().endswith(f"{verdict}.")


def test_a_game_is_played_by_tapping_on_a_phone(play):
    page = play(PHONE, has_touch=True)
    page.get_by_role("button", name="Start").tap()
    keys = page.locator(".keys [data-name]")
    assert "".join(keys.all_inner_texts()) == "".join(config.CLASS_NAMES)
    boxes = [key.bounding_box() for key in keys.all()]
    assert min(min(box["width"], box["height"]) for box in boxes) >= 24
    page.get_by_role("button", name="small z", exact=True).tap()
    assert page.said() == "You read small z. Now 2 of 8."
    page.get_by_role("button", name="Undo").tap()
    kinds = {True: "digit", False: "small"}
    for name in READ_AS:
        kind = "capital" if name.isupper() else kinds[name.isdigit()]
        page.get_by_role("button", name=f"{kind} {name}", exact=True).tap()
    assert page.locator(".told").inner_text().startswith("You read 4 of 8 right")
    page.get_by_text("What they were").tap()
    assert page.locator(".kept li").all_inner_texts()[1] == "b: you B, it b"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_whoever_plays_can_reach_everything(play, scheme):
    page = play(color_scheme=scheme)

    def violations():
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found]

    assert violations() == []
    page.get_by_role("button", name="Start").click()
    page.keyboard.press("A")
    assert violations() == []
    for name in READ_AS[1:]:
        page.keyboard.press(name)
    page.get_by_text("What they were").click()
    assert violations() == []


def test_a_game_gives_no_label_away_and_is_there_neither_in_print_nor_without_scripts(play):
    page = play()
    source = page.locator(".game script[type='application/json']").text_content()
    assert json.loads(base64.b64decode(json.loads(source)["answers"]))[4] == ["O", "0"]
    assert '"O"' not in source
    assert page.locator(".game").is_visible()
    page.emulate_media(media="print")
    assert not page.locator(".game").is_visible()
    assert not play(java_script_enabled=False).locator(".game").is_visible()
