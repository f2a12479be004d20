"""Files: written whole or not at all, locked, and read safely whatever they hold."""

import contextlib
import fractions
import io
import os
import stat
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
    "bomb": (unsafe_zip(content=bytes(10**6)), "zip bomb"),
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
    with pytest.raises(UserError, match=reason):
        list(files.read_members(tmp_path / "a.zip"))


def test_encrypted_and_oddly_compressed_members_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(MEMBERS, zipfile.ZIP_BZIP2))
    with pytest.raises(UserError, match="encrypted or oddly compressed"):
        list(files.read_members(path))
    content = bytearray(STORED)
    content[content.rindex(b"PK\1\2") + 8] |= 1  # the flag in the directory
    with pytest.raises(UserError, match="encrypted or oddly compressed"):
        list(files.read_members(bytes(content)))


def test_limits_allow_what_just_fits_and_refuse_one_more(monkeypatch):
    total = sum(map(len, MEMBERS.values()))
    ratio = fractions.Fraction(total, len(STORED))
    for limit, fits, one_less in (
        ("MAX_MEMBERS", 2, 1),
        ("MAX_BYTES", total, total - 1),
        ("MAX_RATIO", ratio, ratio - fractions.Fraction(1, len(STORED))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files, limit, fits)
            assert dict(files.read_members(STORED)) == MEMBERS
            patch.setattr(files, limit, one_less)
            with pytest.raises(UserError, match="refused"):
                list(files.read_members(STORED))


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
    (tmp_path / "c.zip").write_bytes(make_zip({"x/4.bmp": b"4", "__MACOSX/5.png": b"", "6": b""}))
    skipped = []
    found = list(files.walk(tmp_path, skipped))
    assert found == [("a/1.jpg", b"a/1.jpg"), ("b/2.PNG", b"b/2.PNG"), ("c.zip/x/4.bmp", b"4")]
    assert [one["file"] for one in skipped] == ["cut.zip", "gone.png"]
    assert skipped[1]["reason"] == "No such file or directory"
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
