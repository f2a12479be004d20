"""Files: written whole or not at all, locked, and read safely whatever they hold."""

import contextlib
import fractions
import io
import logging
import os
import resource
import socket
import stat
import struct
import subprocess
import threading
import time
import zipfile

import numpy as np
import pytest
from fakes import MEMBERS, make_zip

from midas_lib import files
from midas_lib.config import UserError

NAME = "trainPart1.zip"


GOOD = make_zip(MEMBERS)
STORED = make_zip(MEMBERS, zipfile.ZIP_STORED)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def far_zip():
    """A zip whose only member begins further on than a file can be long."""
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    entry = struct.pack("<4s12xIIIHH12xI", b"PK\1\2", 0, 1, 1, 5, len(extra), 2**32 - 1)
    end = struct.pack("<4s4xHHIIH", b"PK\5\6", 1, 1, len(entry) + 5 + len(extra), 0, 0)
    return entry + b"x.png" + extra + end


def unsafe_zip(name="train/a.png", content=b"x", mode=0o644 | stat.S_IFREG):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, content)
    return buffer.getvalue()


UNSAFE = {
    "parent": (unsafe_zip("train/../../a.png"), "leads out"),
    "absolute": (unsafe_zip("/etc/a.png"), "leads out"),
    "drive": (unsafe_zip("C:/a.png"), "leads out"),
    "backslash": (unsafe_zip("..\\a.png"), "leads out"),
    "link": (unsafe_zip(content=b"/etc/passwd", mode=0o777 | stat.S_IFLNK), "link"),
    "device": (unsafe_zip(mode=0o666 | stat.S_IFCHR), "link or device"),
    "nameless": (unsafe_zip(name="_").replace(b"_", b""), "not a zip|without a name"),
    "absolute, by backslash": (unsafe_zip("\\server\\share\\a.png"), "leads out"),
    "beyond its end": (far_zip(), "damaged"),
    # sizes understated in both headers: more comes out than announced
    "lying size": (
        unsafe_zip(content=bytes(90_000)).replace(
            (90_000).to_bytes(4, "little"), (7).to_bytes(4, "little")
        ),
        "damaged|Bad CRC",
    ),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_zip_is_refused(tmp_path, kind):
    content, reason = UNSAFE[kind]
    (tmp_path / "a.zip").write_bytes(content)
    for packed in (tmp_path / "a.zip", content):
        with pytest.raises(UserError, match=reason):
            list(files.read_members(packed))


def test_encrypted_and_oddly_compressed_members_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(MEMBERS, zipfile.ZIP_BZIP2))
    with pytest.raises(UserError, match="encrypted or oddly compressed"):
        list(files.read_members(path))
    content = bytearray(STORED)
    content[content.rindex(b"PK\1\2") + 8] |= 1  # the flag in the directory
    with pytest.raises(UserError, match="encrypted or oddly compressed"):
        list(files.read_members(bytes(content)))


def test_limits_allow_what_just_fits_and_refuse_one_more(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(STORED)
    packed = make_zip({"a.png": bytes(10**6)})
    (tmp_path / "bomb.zip").write_bytes(packed)
    ratio = fractions.Fraction(10**6, len(packed)) - 1  # what is packed is no growth
    monkeypatch.setattr(files, "HARMLESS", 0)
    for name, limit, fits, one_less in (
        ("a.zip", "MAX_MEMBERS", 2, 1),
        ("a.zip", "MAX_BYTES", 200, 199),  # of the larger member
        ("bomb.zip", "MAX_RATIO", ratio, ratio - fractions.Fraction(1, len(packed))),
        ("bomb.zip", "MAX_GROWTH", 10**6 - len(packed), 10**6 - len(packed) - 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files, "MAX_RATIO", 2000)
            patch.setattr(files, limit, fits)
            assert list(files.read_members(tmp_path / name))
            patch.setattr(files, limit, one_less)
            with pytest.raises(UserError, match="refused"):
                list(files.read_members(tmp_path / name))


def test_pictures_of_one_colour_are_no_bomb_and_two_hundred_megabytes_of_nothing_are(tmp_path):
    bmp = b"BM" + bytes(3 * 10**6)
    (tmp_path / "a.zip").write_bytes(make_zip({f"{i}.bmp": bmp for i in range(10)}))
    assert sum(len(content) for _, content in files.walk(tmp_path / "a.zip", [])) == 10 * len(bmp)
    (tmp_path / "b.zip").write_bytes(make_zip({f"{i}.bmp": bmp for i in range(68)}))
    with pytest.raises(UserError, match="204,000,136 bytes, like a zip bomb"):
        list(files.walk(tmp_path / "b.zip", []))


def test_stored_pictures_do_not_grow(tmp_path, monkeypatch):
    for limit in ("HARMLESS", "MAX_GROWTH"):
        monkeypatch.setattr(files, limit, 0)
    (tmp_path / "a.zip").write_bytes(STORED)
    assert dict(files.read_members(tmp_path / "a.zip")) == MEMBERS


def test_missing_zip_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.zip: cannot be read"):
        list(files.read_members(tmp_path / "none.zip"))


def test_members_come_sorted_without_system_files(tmp_path):
    content = {"b.png": b"B", "a/c.png": b"C", "d/": b""}
    system = (".x", "a/._c.png", "__MACOSX/c.png", "a/Thumbs.db", "DESKTOP.INI")
    (tmp_path / "a.zip").write_bytes(make_zip(content | dict.fromkeys(system, b"system")))
    wanted = [("a/c.png", b"C"), ("b.png", b"B")]
    assert list(files.read_members(tmp_path / "a.zip")) == wanted
    assert list(files.read_members((tmp_path / "a.zip").read_bytes())) == wanted


def test_a_zip_packed_with_backslashes_has_the_same_members(tmp_path):
    # as Windows' own tools pack: Python's would turn a backslash around on Windows alone
    packed = make_zip({"set\\0\\": b"", "set\\0\\a.png": b"0", "set\\1\\b.png": b"1"})
    assert list(files.read_members(packed)) == [("set/0/a.png", b"0"), ("set/1/b.png", b"1")]
    assert list(files.read_members(packed, r"\d/.*")) == [("0/a.png", b"0"), ("1/b.png", b"1")]


def test_members_by_pattern_have_their_names_from_where_it_matches():
    packed = make_zip(
        {"my/in/1/a.png": b"1", "in/2/b.png": b"2", "in/no.txt": b"", "xin/3.png": b""}
    )
    found = files.read_members(packed, r"in/\d/.*\.png$", "top/")
    assert list(found) == [("top/in/1/a.png", b"1"), ("top/in/2/b.png", b"2")]
    with pytest.raises(UserError, match="holds no top/ files"):
        list(files.read_members(packed, "out/", "top/"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    with pytest.raises(UserError, match="holds a.png twice"):
        list(files.read_members(buffer.getvalue()))


def test_a_damaged_member_is_refused_after_the_whole_ones():
    found = files.read_members(STORED.replace(b"small z", b"small y"))
    assert next(found)[1] == b"zero" * 50
    with pytest.raises(UserError, match="damaged or cut short .Bad CRC-32"):
        next(found)


def test_a_member_that_holds_less_than_it_says_is_damaged():
    content = bytearray(make_zip({"a.png": b"x" * 100}))
    size = content.rindex(b"PK\1\2") + 24  # of the unpacked member, in the directory
    assert content[size] == 100
    content[size] += 1
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        list(files.read_members(bytes(content)))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "but empty"), (b"  <html>", "but a web page"), (b"x", "damaged")]
)
def test_what_is_no_zip_is_said_in_a_few_words(content, reason):
    with pytest.raises(files.UnreadableError, match=f"not a zip archive, .*{reason}") as failure:
        list(files.read_members(content))
    assert failure.value.reason in str(failure.value)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_idx_files_come_back_as_they_were(tmp_path, monkeypatch, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    files.write_idx(tmp_path / "a.gz", array)
    np.testing.assert_array_equal(files.read_idx(tmp_path / "a.gz"), array)
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4)  # no time stamp
    size = 4 + 4 * array.ndim + array.size
    monkeypatch.setattr(files, "MAX_BYTES", size)
    assert files.read_idx(tmp_path / "a.gz").shape == shape
    monkeypatch.setattr(files, "MAX_BYTES", size - 1)
    with pytest.raises(UserError, match="refused: unpacks to more than"):
        files.read_idx(tmp_path / "a.gz")


def test_written_zips_are_the_same_again(tmp_path):
    for name in ("a.zip", "b.zip"):
        files.write_zip(tmp_path / name, MEMBERS.items())
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert dict(files.read_members(tmp_path / "a.zip")) == MEMBERS


# ---- the images below a folder ----


def test_walking_a_folder_gives_its_images_sorted_and_says_what_it_skipped(tmp_path):
    for name in ("b/2.PNG", "a/1.jpg", "notes.txt", ".hidden/3.png", "b/Thumbs.db", "a/._1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "cut.zip").write_bytes(b"PK")
    (tmp_path / "c.zip").write_bytes(
        make_zip({"x/4.bmp": b"4", "__MACOSX/5.png": b"", "6.md": b""})
    )
    skipped = []
    found = list(files.walk(tmp_path, skipped))
    assert found == [("a/1.jpg", b"a/1.jpg"), ("b/2.PNG", b"b/2.PNG"), ("c.zip/x/4.bmp", b"4")]
    assert [one["file"] for one in skipped] == ["cut.zip", "gone.png"]
    assert skipped[1]["reason"] == "cannot be read (No such file or directory)"
    with pytest.raises(UserError, match="no such folder or zip"):
        list(files.walk(tmp_path / "nowhere", []))


def test_zips_are_opened_three_deep_and_no_deeper(tmp_path):
    packed = make_zip({"x.png": b"x"})
    for _ in range(3):
        packed = make_zip({"z.zip": packed})
    (tmp_path / "a.zip").write_bytes(packed)
    skipped = []
    assert list(files.walk(tmp_path / "a.zip", skipped)) == [("z.zip/z.zip/z.zip/x.png", b"x")]
    assert skipped == []
    (tmp_path / "a.zip").write_bytes(make_zip({"z.zip": packed}))
    assert list(files.walk(tmp_path / "a.zip", skipped)) == []
    assert skipped == [{"file": "z.zip/z.zip/z.zip/z.zip", "reason": "more than 3 zips deep"}]


def bomb(depth, width, leaf):
    """A zip of `width` zips, and so on, `depth` deep, with `width` times the leaf in the last."""
    name = "x.png"
    for _ in range(depth + 1):
        leaf = make_zip({f"{i}{name}": leaf for i in range(width)})
        name = ".zip"
    return leaf


def test_zips_within_zips_share_one_budget_of_members(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(bomb(3, 3, b"x"))  # 3 + 9 + 27 + 81 members
    assert len(list(files.walk(tmp_path / "a.zip", []))) == 81
    monkeypatch.setattr(files, "MAX_MEMBERS", 119)
    skipped = []
    assert len(list(files.walk(tmp_path / "a.zip", skipped))) == 78
    reason = "refused: more than 119 members"
    assert skipped == [{"file": "2.zip/2.zip/2.zip", "reason": reason}]
    monkeypatch.setattr(files, "MAX_MEMBERS", 120)
    assert len(list(files.walk(tmp_path / "a.zip", []))) == 81
    (tmp_path / "a.zip").write_bytes(bomb(0, 70, b"x"))
    (tmp_path / "b.zip").write_bytes(bomb(0, 51, b"x"))
    assert len(list(files.walk(tmp_path, skipped))) == 70  # of a folder, all zips together
    assert skipped[-1] == {"file": "b.zip", "reason": "refused: more than 120 members"}


def test_zips_within_zips_share_one_budget_of_bytes(tmp_path, monkeypatch):
    content = bomb(1, 4, bytes(10**5))
    (tmp_path / "a.zip").write_bytes(content)
    monkeypatch.setattr(files, "HARMLESS", 350_000)
    monkeypatch.setattr(files, "MAX_RATIO", 1)
    skipped = []
    assert [name for name, _ in files.walk(tmp_path / "a.zip", skipped)] == []
    assert len(skipped) == 4
    monkeypatch.setattr(files, "HARMLESS", 850_000)  # for the zips, and two of them unpacked
    skipped = []
    assert len(list(files.walk(tmp_path / "a.zip", skipped))) == 8
    assert [one["file"] for one in skipped] == ["2.zip", "3.zip"]
    assert "unpacks to 400,000 bytes, like a zip bomb" in skipped[0]["reason"]


def test_what_may_grow_is_what_lies_on_the_disk(tmp_path, monkeypatch):
    inner = make_zip({"x.png": bytes(10**5), "y.png": os.urandom(10**5)})  # grows by 100 KB
    (tmp_path / "a.zip").write_bytes(make_zip({"inner.zip": inner}))  # 100 KB, not 200
    monkeypatch.setattr(files, "HARMLESS", 0)
    for ratio, count in ((0.7, 0), (1.1, 2)):
        monkeypatch.setattr(files, "MAX_RATIO", ratio)
        assert len(list(files.walk(tmp_path / "a.zip", []))) == count


def test_a_directory_of_too_many_members_is_not_even_parsed(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(make_zip({"inner.zip": make_zip(dict.fromkeys("abc", b""))}))
    monkeypatch.setattr(files, "MAX_MEMBERS", 3)
    opened, zip_file = [], zipfile.ZipFile
    monkeypatch.setattr(files.zipfile, "ZipFile", lambda file: opened.append(1) or zip_file(file))
    skipped = []
    assert list(files.walk(tmp_path / "a.zip", skipped)) == []
    assert skipped[0]["reason"] == "refused: more than 3 members"
    assert len(opened) == 1


def test_what_is_no_file_is_skipped_and_nothing_waits_for_it(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "fifo.zip")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # such a path may only be short
        listener.bind("socket")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(30 * 10**9)
    (tmp_path / "a.png").write_bytes(b"a")
    skipped = []
    assert list(files.walk(tmp_path, skipped)) == [("a.png", b"a")]
    reasons = {one["file"]: one["reason"] for one in skipped}
    assert list(reasons) == ["fifo.png", "fifo.zip", "socket", "sparse.png", "zero.png"]
    assert "pipe or device" in reasons["fifo.png"]
    assert "pipe or device" in reasons["fifo.zip"]
    assert "pipe or device" in reasons["zero.png"]
    assert reasons["sparse.png"] == "too large: over 1,073,741,824 bytes"
    for read in (files.read_idx, lambda path: list(files.walk(path, []))):
        with pytest.raises(UserError, match=r"fifo\.zip: cannot be read .a folder, pipe or device"):
            read(tmp_path / "fifo.zip")


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/2.png", "b/c/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listdir = os.listdir

    def forbidden(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(files.os, "listdir", forbidden)
    skipped = []
    assert [name for name, _ in files.walk(tmp_path, skipped)] == ["a/1.png"]
    assert skipped == [{"file": "b", "reason": "Permission denied"}]
    with pytest.raises(UserError, match=r"b: cannot be read .Permission denied"):
        list(files.walk(tmp_path / "b", []))


def test_links_to_folders_are_followed_to_each_once(tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "1.png").write_bytes(b"1")
    folder = tmp_path / "set"
    (folder / "z").mkdir(parents=True)
    (folder / "z" / "2.png").write_bytes(b"2")
    for name, target in {
        "a": "z",
        "b": "../elsewhere",
        "c": "../elsewhere/deep",
        "z/loop": "..",
        "whole": "/",
    }.items():
        (folder / name).symlink_to(target)
    skipped = []
    assert list(files.walk(folder, skipped)) == [("b/deep/1.png", b"1"), ("z/2.png", b"2")]
    assert sorted(one["file"] for one in skipped) == ["a", "c", "whole", "z/loop"]
    assert all("a link to a folder that is read already" in one["reason"] for one in skipped)


@pytest.mark.parametrize("name", ["f", "long!"])
def test_more_folders_within_folders_than_python_or_linux_take(tmp_path, name):
    (tmp_path / "a.png").write_bytes(b"a")
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(name, dir_fd=at)
        outer, at = at, os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(outer)
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    skipped = []
    found = [found for found, _ in files.walk(tmp_path, skipped)]
    if name == "f":
        assert found == ["a.png", "f/" * 1200 + "x.png"]
    else:  # longer than a path may be
        assert found == ["a.png"]
        assert [one["reason"] for one in skipped] == ["cannot be read (File name too long)"]
    subprocess.run(["rm", "-r", tmp_path / name], check=True)  # Python's own would not get there
    packed = make_zip({f"{name}/" * 1200 + "x.png": b"x"})
    (tmp_path / "a.zip").write_bytes(packed)
    assert [found for found, _ in files.walk(tmp_path / "a.zip", [])] == [
        f"{name}/" * 1200 + "x.png"
    ]


def test_files_are_closed_as_soon_as_they_are_read(tmp_path):
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(b"x")
        (tmp_path / f"{i}.zip").write_bytes(make_zip({"x.png": b"x"}) if i % 2 else b"no zip")
        (tmp_path / f"folder{i}").mkdir()
        os.mkfifo(tmp_path / f"folder{i}" / "fifo.png")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(next_one := os.open(tmp_path, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + 6, limits[1]))
    try:
        skipped = []
        assert len(list(files.walk(tmp_path, skipped))) == 60 + 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not [one for one in skipped if "Too many open files" in one["reason"]]


TEXT = ("txt", "csv", "json", "md", "xml", "html", "py", "db")
PNG, JPEG = b"\x89PNG\r\n", b"\xff\xd8\xff\xe0"


def test_pictures_are_told_by_their_content_and_the_others_listed(tmp_path):
    read = {
        "a.jfif": JPEG,
        "b": PNG,
        "c.heic": JPEG,
        "d.jp2": b"\0\0\0\x0cjP  ",
        "e.avif": b"\0\0\0 ftypavif",
        "f.png": b"damaged",
    }
    listed = {
        "g.HEIC": b"?",
        "h.jpg": b"\0\0\0\x18ftypheic",
        "i.avif": b"?",
        "j.ico": b"\0\0\1\0",
        "k.tga": b"?",
        "l.pdf": b"%PDF",
        "m.svg": b"<svg>",
        "n": b"text",
    }
    silent = dict.fromkeys((f"o.{ending}" for ending in TEXT), PNG)
    (tmp_path / "set").mkdir()
    for name, content in (read | listed | silent).items():
        (tmp_path / "set" / name).write_bytes(content)
    (tmp_path / "set.zip").write_bytes(make_zip(read | listed | silent))
    for path in (tmp_path / "set", tmp_path / "set.zip"):
        skipped = []
        assert dict(files.walk(path, skipped)) == read
        reasons = {one["file"]: one["reason"] for one in skipped}
        assert list(reasons) == list(listed)
        assert reasons["g.HEIC"] == "HEIC is not read here; save it as JPEG or PNG"
        assert reasons["h.jpg"] == reasons["g.HEIC"]
        assert reasons["l.pdf"] == "PDF is not read here; save it as JPEG or PNG"
        assert reasons["n"].startswith("not an image")


def test_names_are_printable_where_they_are_reported(tmp_path):
    (tmp_path / "set").mkdir()
    for name in (b"\xff.png", b"a\n.png", b"\x1b]0;me\x07.zip"):
        with open(os.fsencode(tmp_path / "set") + b"/" + name, "wb") as file:
            file.write(PNG)
    (tmp_path / "set" / "c.zip").write_bytes(make_zip({"a\nb.png": PNG, "\x1b.heic": b""}))
    skipped = []
    found = [name for name, _ in files.walk(tmp_path / "set", skipped)]
    assert found == ["a\\n.png", "c.zip/a\\nb.png", "\\udcff.png"]
    assert [one["file"] for one in skipped] == ["\\x1b]0;me\\x07.zip", "c.zip/\\x1b.heic"]


def test_what_a_library_says_to_standard_error_is_only_heard_where_it_fails(capfd):
    with files.quiet():
        os.write(2, b"I0000 greetings\n")

    def fail():
        with files.quiet():
            os.write(2, b"E0000 no such symbol\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    os.write(2, b"our own\n")
    assert capfd.readouterr().err == "E0000 no such symbol\nour own\n"


def test_of_tensorflows_log_only_errors_are_heard(caplog):
    tensorflow = logging.getLogger("tensorflow")
    tensorflow.setLevel(logging.INFO)  # as it does itself in a notebook
    tensorflow.warning("retracing")
    tensorflow.error("out of memory")
    assert caplog.messages == ["out of memory"]


# ---- writing and locking ----


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    files.write(path, b"old")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert left_in(path.parent) == ["file.json"]


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_half_way():
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            assert temporary.parent == path.parent  # else it could not be renamed at once
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    monkeypatch.setattr(files.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def note_fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def note_replace(*paths):
        events.append("replace")
        replace(*paths)

    monkeypatch.setattr(files.os, "fsync", note_fsync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    files.write(tmp_path / "file", b"12345")
    assert events == [("fsync", 5), "replace"]


def test_one_at_a_time_holds_a_lock_and_removes_it_while_it_does(tmp_path, monkeypatch):
    path, unlink, removed = tmp_path / "folder" / "a.lock", files.Path.unlink, []

    def refused():
        with pytest.raises(BlockingIOError), files.lock(path, wait=False):
            pytest.fail("two hold it")

    def unlink_held(path, **options):
        refused()
        removed.append(path)
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "unlink", unlink_held)
        with contextlib.suppress(ZeroDivisionError), files.lock(path):
            refused()
            raise ZeroDivisionError
    assert removed == [path]
    assert not path.exists()
    with files.lock(path, wait=False):
        assert path.exists()


def test_many_threads_take_turns(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(30):
            with files.lock(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 180
    assert left_in(tmp_path) == []
