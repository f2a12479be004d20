"""Reading of any image, scanning it, and the preprocessing every network's input takes."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from midas_lib import images
from midas_lib.config import Preprocessing, UserError


@pytest.fixture
def page():
    """A scan, dark on light, with a bar from row 50 to 150 and column 100 to 120."""
    scan = np.full(images.SCAN_SHAPE, 255, np.uint8)
    scan[50:150, 100:120] = 0
    return scan


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_geometry_is_the_glyphs_edges(page):
    pictures, geometry = images.preprocess(page[None], Preprocessing(mode="crop"))
    np.testing.assert_allclose(geometry[0], [50 / 225, 150 / 225], rtol=1e-6)
    assert pictures.shape == (1, 28, 28, 1)
    # the bar is 100 high in a window of 120: 28 * 100 / 120 = 23.3 rows, and 4.7 columns wide
    rows = (pictures[0, ..., 0] > 127).any(1).sum()
    columns = (pictures[0, ..., 0] > 127).any(0).sum()
    assert (rows, columns) in {(23, 5), (24, 5), (23, 4), (24, 4)}
    assert pictures[0, ..., 0].sum() == pytest.approx(255 * 28**2 * 100 * 20 / 120**2, rel=0.02)


def test_a_crop_does_not_depend_on_place_and_the_canvas_does(page):
    moved = np.roll(page, (40, 60), axis=(0, 1))
    for mode, same in (("crop", True), ("scale", True), ("canvas", False)):
        pair, _ = images.preprocess(np.stack([page, moved]), Preprocessing(mode=mode))
        assert np.array_equal(pair[0], pair[1]) is same
    with pytest.raises(ValueError, match="tight"):
        Preprocessing(mode="tight")


def test_mnist_mode_gives_a_20_pixel_box_round_the_centre_of_mass(page):
    glyph = np.full_like(page, 255)
    glyph[50:170, 60:100] = 0  # an L, 120 high: an upright bar of 40 and a foot of 20 more rows
    glyph[150:170, 100:160] = 0
    pictures, _ = images.preprocess(glyph[None], Preprocessing(mode="mnist"))
    picture = pictures[0, ..., 0].astype(float)
    rows, columns = ((picture > 127).any(axis).sum() for axis in (1, 0))
    assert (rows, columns) == (20, round(20 * 100 / 120))
    along = np.arange(28) + 0.5
    for axis in (0, 1):
        assert picture.sum(axis) @ along / picture.sum() == pytest.approx(14, abs=0.1)


def test_light_on_dark_is_the_same_as_dark_on_light(page):
    for dark, light in ((page, 255 - page), (page, 100 + page // 4)):
        both = [images.preprocess(scan[None], Preprocessing()) for scan in (dark, light)]
        np.testing.assert_array_equal(both[0][0], both[1][0])
        np.testing.assert_array_equal(both[0][1], both[1][1])


def test_only_the_tablets_stray_dot_is_wiped_out(page):
    def geometry(dot):
        scan = page.copy()
        y, x = dot
        cv2.circle(scan, (x, y), 8, 0, -1)
        return images.preprocess(scan[None], Preprocessing())[1][0] * 225

    np.testing.assert_allclose(geometry((20, 210)), [50, 150], atol=0.01)
    assert geometry((30, 110))[0] < 30  # the dot of an i
    assert geometry((20, 290))[0] < 30
    alone = np.full(images.SCAN_SHAPE, 255, np.uint8)
    cv2.circle(alone, (210, 20), 8, 0, -1)
    assert images.ink(alone).max() == 255  # where there is nothing else, it is the character


def test_an_empty_page_is_a_mistake():
    with pytest.raises(UserError, match="no ink"):
        images.preprocess(np.full((1, 225, 300), 200, np.uint8), Preprocessing())


def test_a_small_or_narrow_picture_is_padded_with_its_own_paper():
    tall = np.full((90, 30), 200, np.uint8)
    tall[20:70, 10:20] = 30
    scan = images.scan(tall)
    assert scan.shape == images.SCAN_SHAPE
    assert (scan[:, :100] == 200).all()
    rows = np.flatnonzero((scan < 100).any(1))
    assert rows[0] == pytest.approx(20 / 90 * 225, abs=2)
    assert rows[-1] == pytest.approx(70 / 90 * 225, abs=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (900_000, 2), (2, 900_000), (900, 1200)])
def test_any_shape_can_be_scanned(shape):
    scan = images.scan(
        np.full(shape, 77, np.uint8)
    )  # padded to 4:3 first, it would take a terabyte
    assert scan.shape == images.SCAN_SHAPE
    assert (scan == 77).all()


def test_every_kind_of_file_reads_alike():
    gray = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
    colour = np.dstack([gray] * 3)
    palette = Image.fromarray(colour).quantize(256)
    files = {
        "gray": png(gray),
        "colour": png(colour),
        "opaque": png(np.dstack([colour, np.full_like(gray, 255)])),
        "16 bits": png(gray.astype(np.uint16) * 257),
    }
    for name, content in files.items():
        np.testing.assert_allclose(
            images.read_image(content).astype(int), gray, atol=1, err_msg=name
        )
    arrays = [gray, gray[..., None], colour, gray / 255, gray.astype(np.uint16) * 257, palette]
    arrays += [gray.astype(np.int64), Image.fromarray(gray), Image.fromarray(colour)]
    arrays += [Image.open(io.BytesIO(content)) for content in files.values()]
    for image in arrays:
        np.testing.assert_allclose(images.read_image(image).astype(int), gray, atol=2)
    np.testing.assert_array_equal(images.read_image(gray > 127), np.where(gray > 127, 255, 0))


def test_transparent_pixels_are_white_paper():
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[3:6, 3:6, 3] = 255
    gray = images.read_image(png(pixels))
    assert (gray[3:6, 3:6] == 0).all()
    assert gray.sum() == 255 * (100 - 9)
    pixels[..., :3] = 255  # white ink, which white paper would hide
    gray = images.read_image(png(pixels))
    assert (gray[3:6, 3:6] == 255).all()
    assert gray.sum() == 255 * 9


def test_colours_are_red_green_blue():
    red = np.zeros((5, 5, 3), np.uint8)
    red[..., 0] = 255
    assert images.read_image(red)[0, 0] == 76  # 0.299 of 255
    assert images.read_image(png(red[..., ::-1]))[0, 0] == 76  # OpenCV writes blue, green, red


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "x.png: not a readable image"),
        (b"<html>no image</html>", "x.png: not a readable image"),
        (np.zeros((3, 3, 7), np.uint8), "no image"),
        (np.zeros((0, 3), np.uint8), "no image"),
        (np.array([["a"]]), "no image"),
        (np.full((3, 3), np.nan), "between 0 and 1"),
        (np.full((3, 3), 2.0), "between 0 and 1"),
        (np.full((3, 3), -1), "between 0 and 65535"),
        ("no/such/file.png", "no/such/file.png: cannot be read .No such file"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(UserError, match=message):
        images.read_image(image, "x.png")


def test_a_truncated_file_is_no_image(page):
    content = png(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8))
    with pytest.raises(UserError, match="not a readable image"):
        images.read_image(content[: len(content) // 8])


def test_what_opencv_logs_of_a_damaged_file_is_not_shown(page):
    content = png(page)
    header = content[12:29] + b"\0"  # a byte too long
    spoilt = content[:8] + struct.pack(">I18sI", 14, header, zlib.crc32(header)) + content[33:]
    program = "from midas_lib import images; import sys; images.read_image(sys.stdin.buffer.read())"
    said = subprocess.run([sys.executable, "-c", program], input=spoilt, capture_output=True).stderr
    assert b"UserError: image: not a readable image" in said
    assert b"grfmt_png" not in said


def test_the_paper_is_the_borders_median(page):
    page[:, 140:240] = 100  # a bar that reaches both edges: a sixth of the border is ink
    bright = images.ink(page)
    assert (bright[:, :100] == 0).all()
    assert (bright[:, 140:240] == round(155 / 255 * 255)).all()
    assert bright[100, 110] == 255


def test_faint_ink_counts_from_a_contrast_of_32_levels():
    for contrast, seen in ((31, False), (32, True)):
        scan = np.full(images.SCAN_SHAPE, 200, np.uint8)
        scan[100:120, 100:120] -= contrast
        if seen:
            assert images.ink(scan)[110, 110] == 255
        else:
            with pytest.raises(UserError, match="no ink"):
                images.ink(scan)


@pytest.mark.parametrize(
    ("place", "side", "wiped"),
    [
        ((15, 205), 25, True),
        ((15, 205), 26, False),  # larger than the dot ever is
        ((24, 205), 8, True),
        ((30, 205), 8, False),  # below, above, left and right of where it lies
        ((7, 205), 8, False),
        ((15, 189), 8, False),
        ((15, 227), 8, False),
    ],
)
def test_the_stray_dot_has_its_place_and_size(page, place, side, wiped):
    top, left = (centre - side // 2 for centre in place)
    page[top : top + side, left : left + side] = 0
    assert (images.ink(page)[:40] == 0).all() == wiped


def test_a_scan_keeps_its_picture_in_the_middle_and_its_proportions():
    wide = np.full((50, 200), 255, np.uint8)
    wide[20:30, 50:150] = 0
    scan = images.scan(wide)  # 1.5 times, to 75 x 300
    rows, columns = (np.flatnonzero((scan < 128).any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1) == (75 + 30, 75 + 45)
    assert (columns[0], columns[-1] + 1) == (75, 225)


@pytest.mark.parametrize(
    ("mode", "shares"),  # from the left and top edge of the bar to its right and bottom, of 1
    [
        ("crop", (0.5 - 10 / 120, 10 / 120, 0.5 + 10 / 120, 110 / 120)),
        ("scale", (0.5 - 10 / 190, 0.5 - 50 / 190, 0.5 + 10 / 190, 0.5 + 50 / 190)),
        ("canvas", (100 / 300, (50 + 37.5) / 300, 120 / 300, (150 + 37.5) / 300)),
    ],
)
def test_each_mode_puts_the_glyph_where_it_says(page, mode, shares):
    pictures, _ = images.preprocess(page[None], Preprocessing(mode=mode, size=100))
    rows, columns = (np.flatnonzero((pictures[0, ..., 0] > 127).any(a)) for a in (1, 0))
    found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    np.testing.assert_allclose(found, 100 * np.array(shares), atol=1)


def test_the_stray_dot_goes_with_its_soft_rim(page):
    page[10:20, 200:210] = 200  # too light for ink
    page[11:19, 201:209] = 0
    assert (images.ink(page)[:40] == 0).all()


def test_dark_16_bit_pictures_stay_dark():
    assert images.read_image(np.array([[0, 255]], np.uint16)).tolist() == [[0, 1]]
    assert images.read_image(np.array([[0, 255]])).tolist() == [[0, 255]]
    assert images.read_image(np.array([[0, 65535]])).tolist() == [[0, 255]]


def test_a_path_names_itself_in_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "blank.png"
    path.write_bytes(png(np.full((9, 9), 255, np.uint8)))
    with pytest.raises(UserError, match="^image 3: no ink"):
        images.read_scan(path.read_bytes(), "image 3")
    with pytest.raises(UserError, match=f"^{path}: no ink"):
        images.read_scan(path, "image 3")


def test_a_picture_beyond_the_pixel_budget_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 20)
    assert images.read_image(np.zeros((4, 5, 3), np.uint8)).shape == (4, 5)
    for image in (np.zeros((3, 7), np.uint8), Image.new("L", (3, 7)), png(np.zeros((3, 7)))):
        with pytest.raises(UserError, match="pixels; make it smaller"):
            images.read_image(image)


def gif(width, height):
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + size + b"\0\2\2\x4c\1\0;"


def large_png(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def bmp(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


def webp(width, height):
    bits = struct.pack("<I", width - 1 | (height - 1) << 14)
    return (
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + bits * 3
    )


def test_a_chunk_that_claims_more_than_there_is_is_given_no_room():
    picture = cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()
    assert images.read_image(picture + b"\xff" * 99).shape == (9, 9)  # what follows is no chunk
    start = picture.index(b"IDAT") - 4
    claims = picture[:start] + b"\x7f\xff\xff\xff" + picture[start + 4 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not a readable image"):
        images.read_image(claims)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


@pytest.mark.parametrize(
    ("file", "sides"), [(gif, 65535), (large_png, 30000), (bmp, 30000), (webp, 16383)]
)
def test_a_size_beyond_the_budget_is_read_off_the_header(file, sides):
    with pytest.raises(UserError, match="x: over 50 million pixels"):
        images.read_image(file(sides, sides), "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_tag_says(kind, orientation):
    pixels = np.full((48, 64), 255, np.uint8)
    pixels[8:16, 8:56] = pixels[16:40, 8:16] = 0
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).save(file, kind, exif=exif, **lossless)
    turned = np.rot90(pixels, {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0))
    if orientation in (2, 4, 5, 7):
        turned = turned[:, ::-1]
    for image in (file.getvalue(), Image.open(file)):
        found = images.read_image(image)
        if kind == "TIFF":
            assert found.shape == turned.shape
        else:
            np.testing.assert_allclose(found.astype(int), turned, atol=40)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "."):
        with pytest.raises(UserError, match="folder, pipe or device.*; give the path of an image"):
            images.read_image(tmp_path / name)
