"""Pictures: any image file or array to gray, to a scan, and to the network's input.

A character is first *scanned*: brought to gray at 225 x 300 pixels, a quarter of the archive's
1200x900 each way, whatever the picture was. From the scan come the network's two inputs, the
cropped glyph and where it stood. Training, evaluation and prediction all call these functions.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from midas_lib import files
from midas_lib.config import Preprocessing, UserError

SCAN_SHAPE = (225, 300)
INK = 127  # a pixel above this, ink bright, is ink
# The archive's tablet left a pen dot at one spot of some scans: between which places, (x, y), its
# centre lies, and the largest such dot's side, all in pixels.
STRAY_DOT = (195, 13.5), (225, 29.25), 25
MAX_PIXELS = 50_000_000  # height x width
# How other people's pictures are brought to what the archive's are. Lengths are in a scan's pixels,
# where the archive's pen is 16 to 35 wide and its characters are 39 to 210 long.
THUMBNAIL = 64  # no longer picture, such as MNIST's, is a photo: it is only scanned
LOOKS = 5  # how often a picture is cropped, to a sheet or to a small character, and looked at again
DESK = 0.56  # what is round a sheet is darker than this share of its paper; shadows are lighter
SMALLEST, SMALLEST_PHOTO, LARGEST = 36, 60, 212  # characters; the others are brought between these
PEN, THINNEST, PEN_SHARE = 16.5, 14, 0.2  # a thinner pen is widened, up to a share of the character
RULING = 5  # the widest line of ruled paper or a frame
WIDEST = 121  # wider than any stroke: what is dark over more than this is paper in shadow
SOFT = 0.12  # a shadow's edge rises by less of its darkness within 3 pixels, no pen's does
UNREADABLE = "not a readable image; give a PNG, JPEG, BMP or TIFF file"
NO_INK = "no ink in the image: give a picture of a character"


def read_scan(image, name: str = "image") -> np.ndarray:
    """The scan, uint8 (225, 300), of an image, see `read_image`; of a photo, of its character only,
    see `_tidy`. Raises `UserError`, naming it, when it cannot be read, holds no ink, or more than
    one character."""
    name = str(image) if isinstance(image, str | Path) else name
    gray = read_image(image, name)
    try:
        scanned = _tidy(gray)
        ink(scanned)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return scanned


def read_image(image, name: str = "image") -> np.ndarray:
    """A picture as gray uint8 (height, width). image: a path, the bytes of an image file, a PIL
    image, or an array (h, w) or (h, w, 1, 3 or 4) of integers, floats in 0-1, or booleans; colours
    in RGB order. Palette and 16-bit files are read too; transparent pixels count as white paper, or
    as black where the ink would not show on white. name: what an error calls it. Raises `UserError`
    when it cannot be read."""
    if isinstance(image, str | Path):
        try:
            image, name = files.read(image), str(image)
        except files.UnreadableError as error:
            raise UserError(f"{error}; give the path of an image file") from None
    if isinstance(image, bytes):
        orientation = _orientation(image, name)
        try:
            pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
        if pixels is None:
            raise UserError(f"{name}: {UNREADABLE}")
        upright = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
        upright = upright[:: -1 if orientation in (3, 4, 7, 8) else 1]
        upright = upright[:, :: -1 if orientation in (2, 3, 6, 7) else 1]
        return _gray(upright, name, cv2.COLOR_BGR2GRAY)
    if isinstance(image, Image.Image):
        _check_size(*image.size, name)
        image = ImageOps.exif_transpose(image)
        if not image.mode.startswith("I"):  # 16 bits would be clipped
            image = image.convert("RGBA")
    return _gray(np.asarray(image), name, cv2.COLOR_RGB2GRAY)


def _orientation(content: bytes, name: str) -> int:
    """The EXIF orientation, 1 to 8, that an image file's header tells, 1 if none. Raises
    `UserError` for a size over MAX_PIXELS, which the header tells too, and for a PNG's chunk that
    claims more than there is, which OpenCV would make room for: nothing is decoded."""
    at = 8 if content.startswith(b"\x89PNG") else len(content)
    while at < len(content) and content[at - 8 : at - 4] != b"IEND":
        at += 12 + int.from_bytes(content[at : at + 4])
    if at > len(content):
        raise UserError(f"{name}: {UNREADABLE}")
    try:
        with Image.open(io.BytesIO(content)) as header:
            size, exif, tiff = header.size, Image.Exif(), header.format == "TIFF"
            exif.load(header.info.get("exif", b""))
    except Image.DecompressionBombError:  # Pillow's own limit, which is higher
        size = MAX_PIXELS, 2
    except Exception:  # Pillow raises whatever its parts happen to raise
        raise UserError(f"{name}: {UNREADABLE}") from None
    _check_size(*size, name)
    found = exif.get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) and not tiff else 1  # OpenCV turns TIFF files itself


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{name}: over {MAX_PIXELS // 10**6} million pixels; make it smaller")


def _gray(pixels: np.ndarray, name: str, conversion: int) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    colours = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (colours or pixels.ndim == 2) or not pixels.size or pixels.dtype.kind not in "uifb":
        raise UserError(f"{name}: shape {pixels.shape} is no image; give (h, w[, 1|3|4])")
    _check_size(*pixels.shape[:2], name)
    full = 255
    if pixels.dtype != np.uint8:
        kind, full = ("floating-point", 1) if pixels.dtype.kind in "fb" else ("integer", 65535)
        if not (pixels.min() >= 0 and pixels.max() <= full):  # nan is neither
            raise UserError(f"{name}: {kind} pixels must lie between 0 and {full}")
        if pixels.dtype != np.uint16:  # OpenCV knows these, bytes and float32
            full = 255 if kind == "integer" and pixels.max() <= 255 else full
            pixels = pixels.astype(np.float32)
    gray = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), conversion) if colours else pixels
    if gray.dtype != np.uint8:
        gray = np.rint(gray * (255 / full)).astype(np.uint8)
    if colours and pixels.shape[2] == 4:
        opacity = pixels[..., 3] / full
        on_white = gray * opacity + 255 * (1 - opacity)
        gray = np.rint(on_white if np.ptp(on_white) > 32 else gray * opacity).astype(np.uint8)
    return gray


def scan(image: np.ndarray) -> np.ndarray:
    """Gray uint8 (h, w) of any size to the scan's uint8 (225, 300): resized, by area (down) or
    linearly (up), until it fits, and padded with its own paper, the picture in the middle."""
    return _pad(_fit(image), _paper(image))


def _pad(fitted: np.ndarray, paper: int) -> np.ndarray:
    high, wide = np.subtract(SCAN_SHAPE, fitted.shape)
    sides = high // 2, high - high // 2, wide // 2, wide - wide // 2
    return cv2.copyMakeBorder(fitted, *sides, cv2.BORDER_CONSTANT, value=paper)


def _fit(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    scale = min(SCAN_SHAPE[0] / height, SCAN_SHAPE[1] / width)
    fitted = [max(1, round(side * scale)) for side in (width, height)]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, fitted, interpolation=interpolation)


def _paper(image: np.ndarray) -> int:
    border = np.sort(_border(image))  # faster than a median, of bytes
    return int(border[len(border) // 2 - 1 :][:2].mean())


def _border(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def ink(scanned: np.ndarray) -> np.ndarray:
    """A scan, dark on light or light on dark, as uint8 with black paper and the ink at up to 255.
    The border's median is the paper; the stray pen dot of the archive's tablet is wiped out where
    there is other ink. Raises `UserError` for an image without ink."""
    strength = cv2.absdiff(scanned, np.full_like(scanned, _paper(scanned)))
    if (most := strength.max()) < 32:
        raise UserError(NO_INK)
    stretched = np.rint(np.arange(256) * (255.0 / most)).clip(max=255).astype(np.uint8)
    bright = cv2.LUT(strength, stretched)
    inked = (bright > INK).astype(np.uint8)
    (left, top), (right, bottom), side = low, high, side = STRAY_DOT
    if not inked[int(top) : int(bottom) + 1, left - side : right + side].any():
        return bright  # no dot: nothing need be taken apart
    count, parts, boxes, centres = cv2.connectedComponentsWithStats(inked, connectivity=8)
    for part in range(1, count if count > 2 else 0):
        at = centres[part]
        if (low < at).all() and (at < high).all() and boxes[part, 2:4].max() <= side:
            bright[cv2.dilate((parts == part).astype(np.uint8), np.ones((3, 3))) > 0] = 0
    return bright


def _tidy(gray: np.ndarray) -> np.ndarray:
    """The scan of a picture, gray uint8 (h, w), that may be a photo: of its character alone, on
    even white paper, in a pen as wide as the archive's. A picture that is so is only scanned.
    Raises `UserError` when there is no character, or more than one."""
    if max(gray.shape) <= THUMBNAIL or max(gray.shape) > 8 * min(gray.shape):
        return scan(gray)
    picture = gray
    for look in range(LOOKS):
        fitted = _fit(picture)
        if look < 2 and (corners := _sheet(fitted)) is not None:
            picture = _inside(picture, fitted, corners)
            continue
        strength, even = _strength(fitted)
        character, width = _character(strength)
        left, top, wide, high = cv2.boundingRect(character)
        longest = max(wide, high)
        if longest >= (SMALLEST_PHOTO if np.ptp(_border(fitted)) else SMALLEST):
            break
        x, y = left + wide / 2, top + high / 2
        box = np.array([[x - longest * 4 / 3, y - longest], [x + longest * 4 / 3, y + longest]])
        box *= np.divide(picture.shape[::-1], fitted.shape[::-1])
        (left, top), (right, bottom) = np.maximum(box.round(), 0).astype(int)
        picture = picture[top:bottom, left:right]
    else:
        raise UserError("no character found in the image; crop to the character")
    full = np.percentile(strength[character > 0], 90)
    if np.ptp(_border(fitted)) and _rise(strength, character) < SOFT * full:
        raise UserError("uneven light, or out of focus: crop to the character")
    spare = longest // 2 if max(high, wide) > LARGEST else 0
    shrink = min(np.divide(SCAN_SHAPE, np.add(fitted.shape, 2 * spare))) if spare else 1
    width, longest = width * shrink, longest * shrink
    thin = width < THINNEST  # after the shrinking
    alone = (character == (strength > strength.max() / 2)).all()
    if even and alone and not thin and not spare and picture is gray:
        return _pad(fitted, _paper(gray))
    around = cv2.dilate(character, np.ones((5, 5)))
    bright = np.minimum(strength * (255 / full), 255) * around
    bright = cv2.copyMakeBorder(bright, *[spare] * 4, cv2.BORDER_CONSTANT)
    scanned = scan(255 - np.rint(bright).astype(np.uint8))
    if thin:
        pen = max(1, round(min(PEN, PEN_SHARE * longest) - width) + 1)
        scanned = cv2.erode(scanned, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pen, pen)))
    return scanned


def _sheet(fitted: np.ndarray) -> np.ndarray | None:
    """The corners, float32 (4, 2), of the inside of a sheet, frame or form box in gray uint8 (h,
    w): of the largest light quadrangle on dark with something in it, or over half the picture."""
    _, light = cv2.threshold(fitted, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    contours, tree = cv2.findContours(light, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rims = cv2.erode(fitted, np.ones((3, 3)))  # a thin line is darkest in its middle
    found, largest = None, 0.03 * fitted.size
    for i, contour in enumerate(contours):
        area = cv2.contourArea(contour)
        if tree[0, i, 3] >= 0 or area <= largest or len(cv2.convexHull(contour)) < 4:
            continue
        corners = cv2.approxPolyN(contour, 4)[0]
        content = sum(cv2.contourArea(contours[k]) for k in np.flatnonzero(tree[0, :, 3] == i))
        within = cv2.fillConvexPoly(np.zeros_like(fitted), corners, 1) > 0
        rim = (cv2.dilate(within.astype(np.uint8), np.ones((3, 3))) > 0) & ~within
        if (
            area > 0.96 * cv2.contourArea(corners)
            and (content > 0.01 * area or area > 0.5 * fitted.size)
            and within.mean() < 0.98
            and np.median(rims[rim]) < DESK * np.median(fitted[within])
        ):
            found, largest = corners.astype(np.float32), area
    return found


def _inside(picture: np.ndarray, fitted: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A picture, gray uint8 (h, w), without what is outside of `corners`, (4, 2) in `fitted`."""
    within = cv2.fillConvexPoly(np.zeros_like(fitted), corners.astype(np.int32), 1) > 0
    paper = np.median(fitted[within])
    corners = corners + 2 * np.sign(corners.mean(0) - corners)  # off its blurred edge
    corners *= np.divide(picture.shape[::-1], fitted.shape[::-1])
    if np.median(fitted[~within]) > DESK * paper:  # a box on the same paper
        within = cv2.fillConvexPoly(np.zeros_like(picture), corners.astype(np.int32), 1)
        return np.where(within > 0, picture, np.uint8(paper))
    # clockwise from the top left
    corners = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T[::-1]))]
    wide, high = (
        round(max(np.hypot(*(corners[a] - corners[b])), np.hypot(*(corners[c] - corners[d]))))
        for a, b, c, d in ((0, 1, 2, 3), (1, 2, 3, 0))
    )
    wanted = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), wanted)
    return cv2.warpPerspective(picture, matrix, (wide, high), flags=cv2.INTER_LINEAR)


def _strength(fitted: np.ndarray) -> tuple[np.ndarray, bool]:
    """How much darker than the paper round it each pixel is, or lighter where the ink is light,
    float32 (h, w), 0-255, of gray uint8 (h, w); and whether the paper is the same all over."""
    smooth = cv2.medianBlur(fitted, 5)
    most = np.median(fitted)
    known = not np.ptp(_border(fitted)) and fitted[0, 0] == most  # drawn on a screen
    # the border may be a frame
    if max(_paper(fitted), most) < (int(smooth.min()) + int(smooth.max())) / 2:
        fitted = 255 - fitted
    if known:
        paper, even = np.float32(fitted[0, 0]), True
    else:
        # replicated, so that a slanting shadow's edge is followed to the picture's corners
        padded = cv2.copyMakeBorder(fitted, *[WIDEST // 2] * 4, cv2.BORDER_REPLICATE)
        paper = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((WIDEST, WIDEST)))
        paper = paper[WIDEST // 2 : -(WIDEST // 2), WIDEST // 2 : -(WIDEST // 2)].astype(np.float32)
        even = np.ptp(paper) < 0.1 * paper.max() and abs(_paper(fitted) - np.median(paper)) < 16
    strength = (paper - fitted) * (255 / np.maximum(paper, 0.4 * paper.max() + 1))
    low, floor = np.percentile(strength, (5, 25))  # both of paper, one standard deviation apart
    if strength.max() - floor < max(32, 12 * (floor - low)):
        raise UserError(NO_INK)
    return np.maximum(strength - floor, 0), even


def _character(strength: np.ndarray) -> tuple[np.ndarray, float]:
    """The pixels of the character, uint8 mask (h, w), and the width of its pen, of the `_strength`
    of each pixel. Raises `UserError` when there is no character, or more than one."""
    inked = (strength > strength.max() / 2).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inked, connectivity=8)
    depth = cv2.distanceTransform(np.pad(inked, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    _, _, widths, heights, areas = stats.T
    high, wide = inked.shape
    spans = (widths == wide) | (heights == high)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    contact = np.max([np.bincount(e, minlength=count) / len(e) for e in edges], 0)
    thickness = np.zeros(count, np.float32)
    np.maximum.at(thickness, labels[inked > 0], 2 * depth[inked > 0])
    sides = np.maximum(widths, heights)
    kept = ~(spans & (thickness <= RULING))  # frames, ruled lines and grids
    kept[0] = False  # the paper
    inside = kept & (contact == 0)
    if inside.any():
        # a piece of a neighbour is no larger than the character; a desk or a scanner's edge is long
        largest = areas[inside].max()
        strip = (contact > 0.5) & (sides[inside].max() > 0.15 * min(inked.shape))
        kept &= (contact == 0) | ~(strip | (areas <= largest))
    if not kept.any() or sides[kept].max() < 6:
        raise UserError(NO_INK)
    largest = np.argmax(np.where(kept, areas, 0))
    ridge = (labels == largest) & (depth >= cv2.dilate(depth, np.ones((3, 3))))
    width = 2 * float(np.median(depth[ridge]))
    kept &= sides >= 0.75 * width  # no pen leaves a mark smaller than itself: specks
    _check_one(stats[kept])
    return kept[labels].astype(np.uint8), width


def _rise(strength: np.ndarray, character: np.ndarray) -> float:
    """By how much the strength rises within three pixels at the character's edge."""
    smooth, square = cv2.GaussianBlur(strength, (0, 0), 1), np.ones((3, 3))
    rises, edge = (cv2.morphologyEx(a, cv2.MORPH_GRADIENT, square) for a in (smooth, character))
    return float(np.median(rises[edge > 0]))


def _check_one(stats: np.ndarray) -> None:
    """Raise `UserError` when components, rows of OpenCV's left, top, width, height and area, are
    several characters: side by side, alike in size, and together wider than any is long, or all of
    them narrow. One character's own strokes may lie apart, as a K's do."""
    sides = stats[:, 2:4].max(1)
    stats = stats[sides >= 0.5 * sides.max()]
    lefts, rights = stats[:, 0], stats[:, 0] + stats[:, 2]
    order = np.argsort(lefts)
    apart = lefts[order][1:] > np.maximum.accumulate(rights[order])[:-1]
    narrow = (stats[:, 2] < stats[:, 3] / 3).all()
    if apart.any() and (narrow or rights.max() - lefts.min() > 1.2 * sides.max()):
        several = f"{1 + apart.sum()} characters in one picture"
        raise UserError(f"{several}: crop to one")


def preprocess(scans: np.ndarray, settings: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Scans uint8 (n, 225, 300) to the network's inputs: the pictures, uint8 (n, size, size, 1),
    bright ink on black, and the geometry, float32 (n, 2), the glyph's top and bottom edge as shares
    of the scan's height, from the top. Raises `UserError` for a scan without ink."""
    pictures = np.empty((len(scans), settings.size, settings.size, 1), np.uint8)
    geometry = np.empty((len(scans), 2), np.float32)
    for i, scanned in enumerate(scans):
        bright = ink(scanned)
        left, top, wide, high = cv2.boundingRect((bright > INK).astype(np.uint8))
        geometry[i] = top / SCAN_SHAPE[0], (top + high) / SCAN_SHAPE[0]
        centre, side = (left + wide / 2, top + high / 2), float(SCAN_SHAPE[1])
        longest = max(wide, high)
        if settings.mode == "crop":
            side = longest * (1 + 2 * settings.margin)
        elif settings.mode == "mnist":
            mass = cv2.moments(bright[top : top + high, left : left + wide])
            x, y = ((mass[key] + mass["m00"] / 2) / mass["m00"] for key in ("m10", "m01"))
            centre, side = (left + x, top + y), longest * 28 / 20
        elif settings.mode == "scale":
            side = 190.0  # the largest glyph still fits, all but its outermost pixels
        else:
            centre = (SCAN_SHAPE[1] / 2, SCAN_SHAPE[0] / 2)
        pictures[i, ..., 0] = _window(bright, centre, side, settings.size)
    return pictures, geometry


def _window(image: np.ndarray, centre, side: float, size: int) -> np.ndarray:
    """The square of `side` pixels round `centre`, resized to `size` without aliasing."""
    fine = 4 * size
    scale = fine / side
    shift = [fine / 2 - c * scale for c in centre]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    window = cv2.warpAffine(image, matrix, (fine, fine), flags=cv2.INTER_LINEAR)
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)
