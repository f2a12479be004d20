"""What a notebook shows, as HTML."""

import base64
import html.parser
import io
import json
import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from midas_lib import config, plots, results, show
from midas_lib.analysis import Interval


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, as HTML."""
    outputs = []
    monkeypatch.setattr(show, "display", lambda output: outputs.append(output.data))
    return outputs


class Page(html.parser.HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def line_figure():
    fig = Figure(figsize=(3, 2))
    ax = fig.subplots()
    (line,) = ax.plot([0, 1, 2], [5, 70, 6], label="it's <ours>")
    ax.plot([0, 1], [1, 2])
    ax.set_ylabel("Loss (log scale)")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    line.bounds = np.array([(9, 1), (60, 75), (np.nan, np.nan)])  # as errors, turned round
    return fig


def test_a_figure_carries_its_alt_text_caption_and_width(shown):
    show.figure(line_figure(), 'a "line" rises 5%', "Rising & <rising> 5%")
    page = Page(shown[0])
    (drawing,) = page.all("svg")
    assert (drawing["role"], drawing["aria-label"]) == ("img", 'a "line" rises 5\u202f%')
    width = round(float(drawing["viewbox"].split()[2]) / 0.75)  # points are pixels' 4 thirds
    assert drawing["style"] == f"width: {width}px; min-width: {int(0.76 * width)}px"
    assert ">40 %</text>" in shown[0]  # a tick's label; text is text
    assert "<figcaption>Rising &amp; &lt;rising&gt; 5\u202f%</figcaption>" in shown[0]


def test_a_figure_of_pictures_is_a_png_of_few_colours_at_twice_the_resolution(shown):
    fig = Figure(figsize=(3, 2))
    fig.subplots().imshow(np.random.default_rng(0).random((9, 9)), cmap="magma")
    show.figure(fig, "noise", "Noise")
    (image,) = Page(shown[0]).all("img")
    png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "P"
        assert len(picture.getcolors()) <= 64
        assert abs(picture.width / 2 - int(re.match(r"width: (\d+)px", image["style"])[1])) <= 1


def test_no_two_drawings_of_a_page_share_a_name(shown):
    for name in ("one", "other"):
        fig = line_figure()
        fig.axes[0].set_title(name)
        show.figure(fig, name, name)
    names = [re.findall(r' id="([^"]+)"', page) for page in shown]
    assert len(names[0]) == len(set(names[0])) > 20
    assert not set(names[0]) & set(names[1])
    for page, known in zip(shown, names, strict=True):
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
        assert used
        assert set(used) <= set(known)


def test_the_points_of_named_lines_lie_where_they_are_drawn(shown):
    show.figure(line_figure(), "a line", "A line")
    (line,) = json.loads(Page(shown[0]).all("figure")[0]["data-lines"])
    assert [text for _, _, text in line] == [
        "it's <ours>: 0, Loss 5 % [1 %, 9 %]",
        "it's <ours>: 1, Loss 70 % [60 %, 75 %]",
        "it's <ours>: 2, Loss 6 %",
    ]
    (left, low, _), (middle, top, _), (right, _, _) = line
    assert 0 < left < middle < right < 1
    assert 0 < top < 0.2
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', shown[0]).groups())
    x, y = map(float, re.search(r'<path d="M (\S+) (\S+)\s[^"]+" clip', shown[0]).groups())
    assert (left, low) == pytest.approx((x / width, y / height), abs=0.003)  # from the top


def test_dots_with_intervals_tell_their_row_and_what_is_not_drawn_is_not_told(shown):
    spread = SimpleNamespace(mean=0.5, low=0.4, high=0.6)
    endless = SimpleNamespace(mean=0.7, low=np.nan, high=np.nan)
    rows = {("blur", "a"): spread, ("noise", "b"): endless}
    show.figure(plots.dot_rows(rows, "percent", "Accuracy"), "a", "b")
    lines = json.loads(Page(shown[0]).all("figure")[0]["data-lines"])
    assert [text for line in lines for _, _, text in line] == [
        "a: Accuracy 50 % [40 %, 60 %], blur",
        "b: Accuracy 70 %, noise",
    ]


def test_a_size_between_ticks_is_told_as_a_number(shown):
    spread = SimpleNamespace(mean=0.5, low=0.4, high=0.6)
    accuracy = {"a": dict.fromkeys((10, 30, 100, 300, 1000), spread)}
    show.figure(plots.label_efficiency(accuracy), "a", "b")
    (line,) = json.loads(Page(shown[0]).all("figure")[0]["data-lines"])
    assert line[1][2].startswith("a: Labelled training images 30, Test error 50 %")
    assert line[4][2].startswith("a: Labelled training images 1,000, ")


def test_a_figure_looks_the_same_whatever_the_users_settings(shown):
    accuracy = {5: plots.np.float64(0.5)}
    spread = SimpleNamespace(mean=0.5, low=0.4, high=0.6)
    for settings in ({}, {"savefig.pad_inches": 2, "savefig.facecolor": "red", "font.size": 40}):
        with matplotlib.rc_context(settings):
            show.figure(plots.size_curve(dict.fromkeys(accuracy, spread)), "a", "b")
    assert shown[0] == shown[1]


def test_what_is_behind_a_matrix_is_data_that_ends_no_script(shown):
    fig = Figure(figsize=(4, 3))
    fig.subplots().imshow(np.zeros((2, 4)))
    cells = {(1, 3): ("</script>", np.zeros((2, 3), np.uint8)), (0, 1): ("a", np.ones((2, 2)))}
    show.figure(fig, "a matrix", "A matrix", cells=cells)
    data = json.loads(shown[0].split('<script type="application/json">')[1].split("</script>")[0])
    assert (data["rows"], data["columns"]) == (2, 4)
    assert [(c["row"], c["column"], c["text"]) for c in data["cells"]] == [
        (0, 1, "a"),
        (1, 3, "</script>"),
    ]
    left, top, right, bottom = data["box"]
    assert 0 < left < right < 1
    assert 0 < top < bottom < 1
    assert base64.b64decode(data["cells"][0]["png"]).startswith(b"\x89PNG")


def test_a_table_is_escaped_aligned_and_rounded(shown):
    rows = [
        {"name": "<a> 5%", "gain": -0.12345, "n": 5},
        {"name": "b", "gain": float("nan"), "n": 2},
    ]
    show.table(rows, "Gains <all>")
    text = shown[0]
    assert '<th scope="row" data-rank="0">&lt;a&gt; 5\u202f%</th>' in text
    assert '<td class="number" data-rank="0">−0.1235</td>' in text
    assert '<td class="number">–</td>' in text
    assert '<th scope="col" class="number">n</th>' in text
    assert '<th scope="col">name</th>' in text
    assert '<td class="number" data-rank="1">5</td>' in text
    assert "<figcaption>Gains &lt;all&gt;</figcaption>" in text


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([0.5, 0.0625], ["0.5000", "0.0625"]),
        ([1.0, 20.5], ["1.00", "20.50"]),
        ([12345.6, 1.5], ["12,346", "2"]),
        ([0.0, None], ["0.000", "–"]),
        ([999.0, -3.0], ["999.0", "−3.0"]),
        ([1, 14375], ["1", "14,375"]),
        (["a", None], ["a", "–"]),
    ],
)
def test_a_column_shows_four_digits_of_its_largest(values, cells, shown):
    assert show._cells(values) == cells


def test_p_values_are_never_zero():
    assert show._cells([1e-9, 0.0123, 1.0], True) == ["< 0.001", "0.012", "1.000"]


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ([0.5, None, -2, 0.5], [1, None, 0, 1]),
        (["inf, n = 1", "10,000", "−3 %", "< 0.1", "+2.5 [1, 4]"], [4, 3, 0, 1, 2]),
        (["dropout 0.3", "dropout 0.25", "Adam", "peak 10", "9 peaks"], [3, 2, 1, 4, 0]),
    ],
)
def test_cells_are_ranked_by_number_or_as_words(values, ranks):
    assert show._ranks(values) == ranks


def test_a_table_takes_a_data_frame_as_well(shown):
    show.table(pd.DataFrame({"a": [1.0, 20.5]}, index=["x", "y"]), "Frame")
    show.table([{"a": 1.0}, {"a": 20.5}], "Frame")
    assert shown[0] == shown[1]
    assert "20.50" in shown[0]


def test_a_finding_is_markdown_in_a_box(shown):
    show.finding("Reads **90 %**")
    assert '<div class="finding">' in shown[0]
    assert "<strong>90\u202f%</strong>" in shown[0]
    show.finding("Reads", "[1 %, 2 %] <n>")
    assert "<p><small>[1\u202f%, 2\u202f%] &lt;n&gt;</small></p></div>" in shown[1]


def test_an_interval_in_brief_is_without_its_n():
    assert show.brief(Interval(0.5, 0.25, 0.75, 2480).percent()) == "50.0 % [25.0, 75.0]"
    assert show.brief("1.7 [1.2, 2.0], n = 1,000 draws") == "1.7 [1.2, 2.0] draws"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90 % of 5%.", "90\u202f% of 5\u202f%."),
        ("(95 %)", "(95\u202f%)"),
        ("[two](https://example.org/v1%20two)", "[two](https://example.org/v1%20two)"),
        ("<https://example.org/1%2Fa?b=2%c3%a4>", "<https://example.org/1%2Fa?b=2%c3%a4>"),
        ("a % sign", "a % sign"),
        ("5 %, n = 2480", "5\u202f%, n\u00a0=\u00a02,480"),
    ],
)
def test_percent_signs_stay_by_their_numbers_and_addresses_whole(text, expected, shown):
    assert show.typeset(text) == expected
    show.markdown(f"Text: {text}")
    assert shown == [f"Text: {expected}".replace("<", "&lt;").replace(">", "&gt;")]


def test_tags_in_computed_text_are_text(shown):
    show.markdown("**1** <script>alert(1)</script> & more")
    assert shown == ["**1** &lt;script&gt;alert(1)&lt;/script&gt; &amp; more"]
    show.finding("**1** <img src=x onerror=alert(1)>")
    assert "<strong>1</strong> &lt;img src=x onerror=alert(1)&gt;" in shown[1]


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    source = SimpleNamespace(source="original", digest="ab")
    table = pd.DataFrame({"arm": ["a"], "seed": [0], "digest": ["x"]})
    path = results.write(results.provenance("smoke", {"mnist": source}), 2, table)
    return results.read_file(path)


def test_a_notebook_ends_with_its_finding_picture_and_note(found, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(
        show, "publish_display_data", lambda data, metadata: notes.append((data, metadata))
    )
    assert "finding" not in results.read(2, "smoke").info
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.facecolor": "red"}):
        show.finish(found, "It <works>.", line_figure())
    assert results.read(2, "smoke").info["finding"] == "It <works>."
    picture = (tmp_path / "executed" / "smoke" / "part2.png").read_bytes()
    assert [int.from_bytes(picture[i : i + 4], "big") for i in (16, 20)] == [3 * 144, 2 * 144]
    show.finish(found, "Again.", line_figure())
    assert (tmp_path / "executed" / "smoke" / "part2.png").read_bytes() == picture
    text, metadata = notes[0]
    assert text == {"text/plain": "Results: executed/smoke/results/part2.json"}
    assert metadata == {show.NOTE: str(found.path)}


def test_a_notebook_without_a_key_figure_ends_too(found, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "publish_display_data", lambda data, metadata: None)
    show.finish(found, "", None)
    assert results.read(2, "smoke").info["finding"] == ""
    assert not (tmp_path / "executed" / "smoke" / "part2.png").exists()
