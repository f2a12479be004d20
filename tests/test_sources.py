"""Sources: the order they are tried in, verification, safe reading, and what goes wrong."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from unittest import mock

import numpy as np
import pytest
from fakes import MEMBERS, make_zip

from midas_lib import config, files, sources, standin
from midas_lib.__main__ import main
from midas_lib.config import UserError

NAME = "trainPart1.zip"


def flip_content(content):
    """Flip a bit in the first member's stored bytes."""
    return content.replace(b"zero", b"zerp", 1)


GOOD = make_zip(MEMBERS)
STORED = make_zip(MEMBERS, zipfile.ZIP_STORED)
OTHER = make_zip({"train/Sample001/img001-001.png": b"something else"})
DIGEST = hashlib.sha256(
    "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(MEMBERS.items())
    ).encode()
).hexdigest()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Make the tiny archive the known one, wait for nothing and ask no outside host."""
    for variable in ("DATA_DIR", "MIRROR", "STANDIN", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    archive = dataclasses.replace(sources.ARCHIVES["characters"], digest=DIGEST, urls=())
    monkeypatch.setitem(sources.ARCHIVES, "characters", archive)
    monkeypatch.setattr(sources, "PAUSE_SECONDS", 0)


class Server:
    """A local web server whose pages are functions of the request handler."""

    def __init__(self):
        self.pages, self.hits = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.hits.append(self.path)
                with contextlib.suppress(ConnectionError):
                    outer.pages.get(self.path.partition("?")[0], reply(404, b"no such page"))(self)

            def log_message(self, *args):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


def reply(status, content, length=None, pause=0.0, headers=()):
    def send(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        for header in headers:
            handler.send_header(*header)
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        time.sleep(pause)
        handler.wfile.write(content[len(content) // 2 :])

    return send


def fetch(folder, urls=(), name="characters", mirror=None, profile="standard"):
    known = dataclasses.replace(sources.ARCHIVES[name], urls=urls)
    given = {"DATA_DIR": str(folder)} | ({"MIRROR": mirror} if mirror else {})
    with mock.patch.dict(sources.ARCHIVES, {name: known}), mock.patch.dict(os.environ, given):
        return sources.fetch(name, profile)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- where an archive comes from ----


def test_local_archive_is_recognised_by_its_content(tmp_path):
    (tmp_path / NAME).write_bytes(GOOD)
    source = fetch(tmp_path, profile="full")
    assert source == sources.Source(
        name="characters", paths=(tmp_path / NAME,), source="original", digest=DIGEST
    )


def test_repacked_archive_with_system_files_has_the_same_digest(tmp_path):
    repacked = {f"./My copy/{name}": content for name, content in reversed(MEMBERS.items())}
    extra = ("__MACOSX/train/Sample001/img001-001.png", "train/.DS_Store", "train/Thumbs.db")
    (tmp_path / NAME).write_bytes(
        make_zip(repacked | dict.fromkeys(extra, b"x"), zipfile.ZIP_STORED)
    )
    assert fetch(tmp_path).source == "original"


def test_verified_once_until_the_file_changes(tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(GOOD)
    fetch(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "content_digest", lambda *_: pytest.fail("verified again"))
        assert fetch(tmp_path).digest == DIGEST
    (tmp_path / NAME).write_bytes(OTHER)
    with pytest.warns(UserWarning, match="not the known content"):
        assert fetch(tmp_path).source == "unrecognised"
    with pytest.warns(UserWarning, match="not the known content"):  # each time, not only once
        assert fetch(tmp_path).digest != DIGEST


def test_a_file_of_the_same_size_is_verified_anew(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(STORED)
    assert fetch(tmp_path).source == "original"
    other = make_zip({name: content[::-1] for name, content in MEMBERS.items()}, 0)
    assert len(other) == len(STORED)
    path.write_bytes(other)
    os.utime(path, (1, 1))  # a clock's tick later, or earlier
    with pytest.warns(UserWarning, match="not the known content"):
        assert fetch(tmp_path).source == "unrecognised"


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"files": 3}'])
def test_broken_note_is_ignored(tmp_path, note):
    (tmp_path / NAME).write_bytes(GOOD)
    (tmp_path / "characters.source.json").write_text(note)
    assert fetch(tmp_path).source == "original"
    assert json.loads((tmp_path / "characters.source.json").read_text())["digest"] == DIGEST


def test_mirror_folder_goes_before_urls_and_is_remembered(tmp_path, server):
    mirror, folder = tmp_path / "mirror", tmp_path / "data"
    mirror.mkdir()
    (mirror / NAME).write_bytes(GOOD)
    server.pages["/" + NAME] = reply(200, GOOD)
    urls = [("original", server.url + NAME)]
    assert fetch(folder, urls, mirror=str(mirror)).source == "mirror"
    assert fetch(folder, urls).source == "mirror"
    assert server.hits == []
    assert left_in(folder) == ["characters.source.json", NAME]


def test_mirror_from_the_environment_may_be_a_base_url(tmp_path, server, monkeypatch):
    server.pages["/base/" + NAME] = reply(200, GOOD)
    monkeypatch.setenv("MIRROR", server.url + "base")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    source = sources.fetch("characters")
    assert (source.source, source.paths) == ("mirror", (tmp_path / NAME,))


def test_mirror_without_the_archive_is_passed_over(tmp_path, server):
    server.pages["/" + NAME] = reply(200, GOOD)
    urls = [("original", server.url + NAME + "?dl=1")]
    assert fetch(tmp_path, urls, mirror=server.url + "none").source == "original"
    assert server.hits == ["/none/" + NAME, "/" + NAME + "?dl=1"]


def test_unknown_content_from_a_mirror_is_used_with_a_warning(tmp_path, server):
    server.pages["/" + NAME] = reply(200, OTHER)
    with pytest.warns(UserWarning, match=f"{NAME}: not the known content"):
        source = fetch(tmp_path, mirror=server.url)
    assert source.source == "unrecognised"
    assert (tmp_path / NAME).read_bytes() == OTHER


def test_a_mirror_that_is_not_there_or_holds_nothing_stops(tmp_path, server, monkeypatch):
    urls = [("original", server.url + NAME)]
    server.pages["/" + NAME] = reply(200, GOOD)
    (tmp_path / "empty").mkdir()
    for mirror, said in (
        (tmp_path / "typo", "there is no such folder; correct or unset it"),
        (tmp_path / "empty", "not in this folder, nor is any other archive"),
        ("ftp://localhost/", "no such folder"),
        (f"file://{tmp_path}/typo", "no such folder"),
        ("http://127.0.0.1:1/", "cannot be reached"),
    ):
        with pytest.raises(UserError, match=said) as failure:
            fetch(tmp_path / "data", urls, mirror=str(mirror))
        assert str(failure.value).startswith("MIRROR ")
        assert "\n" not in str(failure.value)
    assert server.hits == []
    monkeypatch.setattr(standin, "draw", lambda *_: pytest.fail("drew"))
    with pytest.raises(UserError, match=r"none: .*404.*STANDIN=1 asks for it"):
        fetch(tmp_path / "data", mirror=server.url + "none")


def test_a_mirror_with_another_archive_is_passed_over(tmp_path, server):
    server.pages["/" + NAME] = reply(200, GOOD)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "mnistTask3.zip").write_bytes(b"any")
    urls = [("original", server.url + NAME)]
    assert fetch(tmp_path, urls, mirror=str(tmp_path / "mirror")).source == "original"


def test_a_file_url_is_a_folder(tmp_path):
    mirror = tmp_path / "my mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(GOOD)
    assert fetch(tmp_path, mirror=mirror.as_uri()).source == "mirror"
    assert "%20" in mirror.as_uri()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for folder in ("data", "mirror"):
        (tmp_path / folder).mkdir()
        os.mkfifo(tmp_path / folder / NAME)
    with pytest.raises(UserError, match=rf"{NAME}: cannot be read .a folder, pipe .*delete it"):
        fetch(tmp_path / "data")
    with pytest.raises(UserError, match=f"no {NAME} there"):
        fetch(tmp_path, mirror=str(tmp_path / "mirror"))
    with open(tmp_path / "data" / "sparse", "wb") as file:
        file.truncate(30 * 10**9)
    (tmp_path / "data" / "sparse").rename(tmp_path / "mirror" / NAME)
    with pytest.raises(UserError, match="refused: over 1,073,741,824 bytes"):
        fetch(tmp_path, mirror=str(tmp_path / "mirror"))


def test_a_full_disk_is_named_and_not_what_is_copied(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(source), None, str(target))

    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(GOOD)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=rf"{tmp_path}/data/\.fetch-.*/{NAME}: No space left"):
        fetch(tmp_path / "data", mirror=str(tmp_path / "mirror"))


def test_unreadable_mirror_is_an_error_naming_it(tmp_path, server):
    server.pages["/" + NAME] = reply(200, b"<html>please log in</html>")
    with pytest.raises(UserError, match=f"MIRROR {server.url}: {NAME}: .* a web page"):
        fetch(tmp_path, mirror=server.url)
    assert left_in(tmp_path) == []


def silence(handler):
    """Take the question and answer nothing."""
    time.sleep(1)


def babble(handler):
    handler.wfile.write(b"220 this is no web server\r\n")


def endless(handler):
    """Send more than any archive holds, without having said how much there is."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(10**4):
        handler.wfile.write(bytes(10**4))


BAD_PAGES = {
    "silent": (silence, "ConnectionError|ReadTimeout"),
    "no web server": (babble, "download failed"),
    "endless": (endless, "refused: over 1,000,000 bytes"),
    "longer than it says": (reply(200, GOOD, length=len(GOOD) - 30), "cut short"),
    "length that is none": (reply(200, GOOD, length="many"), "download failed"),
    "redirect to nonsense": (reply(302, b"", headers=[("Location", "http://[/")]), "download fail"),
    "redirect to a file": (
        reply(302, b"", headers=[("Location", "file:///etc/passwd")]),
        "download failed",
    ),
    "compressed, it says": (reply(200, GOOD, headers=[("Content-Encoding", "gzip")]), "Decoding"),
    "missing": (reply(404, b"no"), "HTTPError 404"),
    "web page": (reply(200, b"<!doctype html>no"), "a web page"),
    "cut short": (reply(200, GOOD[:-30], length=len(GOOD)), "download failed"),
    "cut short unnoticed": (reply(200, GOOD[:-30]), "cut short"),
    "empty": (reply(200, b""), "but empty"),
    "stalling": (reply(200, GOOD, pause=1), "download failed"),
    "other content": (reply(200, OTHER), "other content"),
    "bit flipped": (reply(200, flip_content(STORED)), "Bad CRC-32"),
    "redirect loop": (reply(302, b"", headers=[("Location", "/bad")]), "TooManyRedirects"),
    "server error": (reply(500, b"oh"), "HTTPError 500"),
}


@pytest.mark.parametrize("kind", BAD_PAGES)
def test_bad_download_is_refused_and_the_next_source_tried(tmp_path, server, monkeypatch, kind):
    monkeypatch.setattr(files, "MAX_BYTES", 10**6)
    if kind in ("silent", "stalling"):
        monkeypatch.setattr(sources, "READ_SECONDS", 0.5)
    page, reason = BAD_PAGES[kind]
    server.pages = {"/bad": page, "/" + NAME: reply(200, GOOD)}
    urls = [("original", server.url + "bad"), ("original", server.url + NAME)]
    with pytest.raises(UserError) as failure:
        fetch(tmp_path, urls[:1], profile="full")
    assert re.search(reason, str(failure.value))
    assert server.url + "bad" in str(failure.value)
    assert left_in(tmp_path) == []
    assert fetch(tmp_path, urls).source == "original"
    assert (tmp_path / NAME).read_bytes() == GOOD


@pytest.mark.parametrize("kind", BAD_PAGES)
def test_a_bad_download_costs_the_user_a_line(tmp_path, server, monkeypatch, capsys, kind):
    monkeypatch.setattr(files, "MAX_BYTES", 10**6)
    if kind in ("silent", "stalling"):
        monkeypatch.setattr(sources, "READ_SECONDS", 0.5)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    archive = dataclasses.replace(
        sources.ARCHIVES["characters"], urls=(("original", server.url + "bad"),)
    )
    monkeypatch.setitem(sources.ARCHIVES, "characters", archive)
    server.pages["/bad"], _ = BAD_PAGES[kind]
    assert main(["fetch", "--profile", "full", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"midas_lib: {NAME} not found .*{server.url}bad: .*\n", err)


def drip_headers(handler):
    for _ in range(100):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.02)


def drip_content(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(bytes(20))
        handler.wfile.flush()
        time.sleep(0.02)


@pytest.mark.parametrize("drip", [drip_headers, drip_content])
def test_a_server_that_drips_is_given_up_and_the_next_one_asked(
    tmp_path, server, monkeypatch, drip
):
    monkeypatch.setattr(sources, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(sources, "SLOWEST", 10**5)
    server.pages = {"/slow": drip, "/" + NAME: reply(200, GOOD)}
    urls = [("original", server.url + "slow"), ("mirror", server.url + NAME)]
    began = time.monotonic()
    with pytest.raises(UserError, match="slow: too slow: under 100,000 bytes/s"):
        fetch(tmp_path / "a", urls[:1], profile="full")
    assert time.monotonic() - began < 1.5  # it would go on for 2 s
    assert server.hits == ["/slow"]  # not again
    assert fetch(tmp_path / "b", urls).source == "mirror"
    assert (tmp_path / "b" / NAME).read_bytes() == GOOD


def test_a_server_that_is_not_fast_is_waited_for(tmp_path, server, monkeypatch):
    monkeypatch.setattr(sources, "SLOW_SECONDS", 0.1)
    content = make_zip(MEMBERS | {"other": os.urandom(200_000)})

    def slowly(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for start in range(0, len(content), 2**14):
            handler.wfile.write(content[start : start + 2**14])
            time.sleep(0.03)

    server.pages["/" + NAME] = slowly
    assert fetch(tmp_path, [("mirror", server.url + NAME)], profile="full").source == "mirror"


def test_waiting_for_another_process_is_said(tmp_path, capsys):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(GOOD)
    found = []
    wait = threading.Thread(
        target=lambda: found.append(fetch(tmp_path, mirror=str(tmp_path / "mirror")))
    )
    with files.lock(tmp_path / ".lock"):
        wait.start()
        deadline, said = time.monotonic() + 10, ""
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
            said = capsys.readouterr().err
        assert found == []
    wait.join()
    assert said == f"waiting for another process to fill {tmp_path}\n"
    assert found[0].source == "mirror"
    fetch(tmp_path / "b", mirror=str(tmp_path / "mirror"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("passing", [429, 503])
def test_passing_errors_are_retried_lasting_ones_not(tmp_path, server, passing):
    asked = []

    def busy(handler):
        asked.append(handler.headers["Accept-Encoding"])
        reply(passing if len(asked) < 3 else 200, GOOD)(handler)

    server.pages["/busy/" + NAME] = busy
    assert fetch(tmp_path, [("mirror", server.url + "busy/")]).source == "mirror"
    assert asked == ["identity"] * 3  # a .gz must arrive as it is
    server.hits.clear()
    with pytest.raises(UserError, match="404"):
        fetch(tmp_path / "b", [("mirror", server.url + "gone/")], profile="full")
    assert len(server.hits) == 1


def test_unreachable_host_is_tried_once(tmp_path, monkeypatch):
    calls = []

    def refuse(address, timeout):
        calls.append((*address, timeout))
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    urls = [("original", "http://nowhere.invalid/a/"), ("mirror", "http://nowhere.invalid/b/")]
    with pytest.raises(UserError, match=r"nowhere.invalid cannot be reached \(no route\)"):
        fetch(tmp_path, urls, profile="full")
    assert calls == [("nowhere.invalid", 80, 5)]


def test_silent_host_is_given_up_at_the_connect_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.1)
    given_up = threading.Event()

    def hang(address, timeout):
        given_up.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(UserError, match="no answer within 0.1 s"):
        fetch(tmp_path, [("original", "http://silent.invalid/")], profile="full")
    given_up.set()


@pytest.mark.parametrize("mirror", ["http://", "http://a:b/", "http://[::1/"])
def test_unusable_mirror_address_is_named(tmp_path, mirror):
    with pytest.raises(UserError, match="not a usable address"):
        fetch(tmp_path, mirror=mirror, profile="full")


def test_members_are_taken_from_a_whole_repository_archive(tmp_path, server):
    whole = {f"Modified-MNIST-main/{name}": content for name, content in MEMBERS.items()}
    whole |= {"Modified-MNIST-main/mnistTask/3/image_000007.jpg": b"no", "README.md": b"hello"}
    server.pages["/HEAD.zip"] = reply(200, make_zip(whole))
    assert fetch(tmp_path, [("mirror", server.url + "HEAD.zip")]).source == "mirror"
    assert dict(files.read_members(tmp_path / NAME)) == MEMBERS


# ---- when nothing is found ----


def test_full_refuses_the_stand_in_and_says_what_was_tried(tmp_path, server):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "mnistTask3.zip").touch()
    with pytest.raises(UserError) as failure:
        fetch(
            tmp_path,
            [("original", server.url + NAME), ("mirror", str(tmp_path / "none"))],
            mirror=str(tmp_path / "mirror"),
            profile="full",
        )
    message = str(failure.value)
    for part in (
        f"{tmp_path}: no {NAME}",
        f"{tmp_path / 'mirror'}: no {NAME} there",
        f"{server.url}{NAME}: download failed (HTTPError 404)",
        f"put it into {tmp_path}",
        "STANDIN=1",
    ):
        assert part in message
    assert "\n" not in message


def test_other_profiles_fall_back_to_the_stand_in_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="drawn stand-in, not the real data"):
        source = fetch(tmp_path, name="mislabelled", profile="smoke")
    assert source.source == "stand-in"
    assert source.paths == (tmp_path / "standin" / "smoke" / "mnistTask3.zip",)
    with pytest.warns(UserWarning, match="stand-in"):
        assert fetch(tmp_path, name="mislabelled", profile="smoke") == source


def test_stand_in_on_request_whatever_is_there(tmp_path, monkeypatch):
    (tmp_path / "mnistTask3.zip").write_bytes(b"anything")
    monkeypatch.setenv("STANDIN", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = fetch(tmp_path, name="mislabelled", profile="smoke")
    assert source.source == "stand-in"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*DATA_DIR"):
        fetch(tmp_path / "file" / "data")


def test_full_disk_is_not_taken_for_a_network_error(tmp_path, server, monkeypatch):
    server.pages["/" + NAME] = reply(200, GOOD)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources.pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        fetch(tmp_path, [("original", server.url + NAME)])
    assert left_in(tmp_path) == []


# ---- reading safely ----


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>Not found</html>", "web page"),
        (GOOD[:-30], "cut short"),
        (flip_content(STORED), "Bad CRC-32"),
        (make_zip({"holiday.png": b"x"}), "holds no train/ files"),
        (make_zip({f"{top}/Sample001/img001-001.png": b"x" for top in "ab"}), "twice"),
    ],
)
def test_unreadable_local_archive_is_an_error_naming_it(tmp_path, content, reason):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UserError, match=reason) as failure:
        fetch(tmp_path)
    assert str(failure.value).startswith(str(tmp_path / NAME))
    assert "delete it" in str(failure.value)
    assert (tmp_path / NAME).exists()


# ---- MNIST ----


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Four tiny idx files in a folder "mirror", known by their digest; returns the arrays."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in [(6, 4, 5), 6, (2, 4, 5), 2]]
    folder = tmp_path / "mirror"
    folder.mkdir()
    names = sources.ARCHIVES["mnist"].files
    for file, array in zip(names, arrays, strict=True):
        files.write_idx(folder / file, array)
    archive = dataclasses.replace(
        sources.ARCHIVES["mnist"], digest=sources.content_digest("mnist", folder)
    )
    monkeypatch.setitem(sources.ARCHIVES, "mnist", archive)
    return dict(zip(names, arrays, strict=True))


def test_idx_layout_and_digest_by_hand(tmp_path, mnist):
    raw = gzip.decompress((tmp_path / "mirror" / "train-images-idx3-ubyte.gz").read_bytes())
    assert raw[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0, 5])
    lines = ""
    for file in sorted(mnist):
        content = gzip.decompress((tmp_path / "mirror" / file).read_bytes())
        lines += f"{hashlib.sha256(content).hexdigest()}  {file[:-3]}\n"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    # compressed anew, it is still the same
    (tmp_path / "mirror" / file).write_bytes(gzip.compress(content, 1, mtime=0))
    assert sources.content_digest("mnist", tmp_path / "mirror") == digest


def test_mnist_set_is_completed_from_the_mirror(tmp_path, mnist):
    source = fetch(tmp_path / "data", name="mnist", mirror=str(tmp_path / "mirror"))
    source.paths[2].unlink()
    source = fetch(tmp_path / "data", name="mnist", mirror=str(tmp_path / "mirror"))
    assert source.source == "mirror"
    for path in source.paths:
        np.testing.assert_array_equal(files.read_idx(path), mnist[path.name])


def test_keras_npz_becomes_the_four_files(tmp_path, server, mnist):
    npz = io.BytesIO()
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(npz, **dict(zip(keys, mnist.values(), strict=True)))
    server.pages = {"/mnist.npz": reply(200, npz.getvalue()), "/bad.npz": reply(200, GOOD)}
    urls = [("mirror", server.url + "bad.npz"), ("mirror", server.url + "mnist.npz")]
    source = fetch(tmp_path / "data", urls, name="mnist")
    assert source.source == "mirror"
    for path in source.paths:
        np.testing.assert_array_equal(files.read_idx(path), mnist[path.name])


def rename_unpacked(folder):
    for path in list(folder.iterdir()):
        content = gzip.decompress(path.read_bytes())
        (folder / path.stem.replace("-idx", ".idx")).write_bytes(content)
        path.unlink()


def rename_packed(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))


def put_into_folders(folder):
    rename_unpacked(folder)
    for path in list(folder.iterdir()):
        path.rename(folder / "moving")
        (folder / path.name.replace(".idx", "-idx")).mkdir()
        (folder / "moving").rename(folder / path.name.replace(".idx", "-idx") / path.name)


def pack_as_keras(folder):
    keys = ("x_train", "y_train", "x_test", "y_test")
    paths = [folder / file for file in sources.ARCHIVES["mnist"].files]
    arrays = [files.read_idx(path) for path in paths]
    np.savez_compressed(folder / "mnist.npz", **dict(zip(keys, arrays, strict=True)))
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(
    "rename", [rename_unpacked, rename_packed, put_into_folders, pack_as_keras]
)
def test_mnist_is_known_under_its_other_names(tmp_path, mnist, rename):
    rename(tmp_path / "mirror")
    shutil.copytree(tmp_path / "mirror", tmp_path / "data")
    by_hand = fetch(tmp_path / "data", name="mnist")
    mirrored = fetch(tmp_path / "other", name="mnist", mirror=str(tmp_path / "mirror"))
    assert (by_hand.source, mirrored.source) == ("original", "mirror")
    for path in by_hand.paths + mirrored.paths:
        np.testing.assert_array_equal(files.read_idx(path), mnist[path.name])


def test_what_only_begins_like_an_idx_file_is_passed_over_or_named(tmp_path, mnist):
    rename_unpacked(tmp_path / "mirror")
    (tmp_path / "mirror" / "train-images-look.png").write_bytes(b"a picture")
    (tmp_path / "mirror" / "train-images-here").mkdir()
    assert fetch(tmp_path / "data", name="mnist", mirror=str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "train-images.idx3-ubyte").unlink()
    with pytest.raises(UserError, match="MIRROR .* not an idx file, or damaged"):
        fetch(tmp_path / "other", name="mnist", mirror=str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"look\.png: not an idx file, .*; replace or delete it"):
        fetch(tmp_path / "mirror", name="mnist")


def npy(shape, content):
    """An array's file that says to be of a shape."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + content


def test_an_npz_that_is_none_is_named(tmp_path, mnist):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "mnist.npz"
    whole = dict.fromkeys(("y_train.npy", "x_test.npy", "y_test.npy"), npy((2,), b"12"))
    for content, said in (
        (b"", "but empty"),
        (make_zip(whole), "holds no readable x_train"),
        (make_zip(whole | {"x_train.npy": npy((2**50,), b"12")}), "holds no readable x_train"),
        (make_zip(whole | {"x_train.npy": npy((2**31,), b"12")}), "holds no readable x_train"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"mnist\.npz: .*{said}.*; replace or delete it"):
            fetch(tmp_path / "data", name="mnist")
    np.savez(path, x_train=np.array([print], object))  # code, as a pickle
    with pytest.raises(UserError, match="holds no readable x_train"):
        fetch(tmp_path / "data", name="mnist")
    np.savez(path, x_train=np.zeros((2, 3, 3)))
    with pytest.raises(UserError, match="holds no readable x_train, of unsigned bytes"):
        fetch(tmp_path / "data", name="mnist")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\x1f\x8b\x08 cut",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\0\0\x08\x03\0", mtime=0),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x09123", mtime=0),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x00", mtime=0),
    ],
)
def test_unreadable_idx_is_an_error_naming_it(tmp_path, mnist, content):
    path = tmp_path / "mirror" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        fetch(tmp_path / "mirror", name="mnist")


def test_images_and_labels_must_go_together(tmp_path, mnist):
    path = tmp_path / "mirror" / "t10k-labels-idx1-ubyte.gz"
    files.write_idx(path, np.zeros(3, np.uint8))
    with pytest.raises(UserError, match="does not go with t10k-labels"):
        fetch(tmp_path / "mirror", name="mnist")


# ---- processes ----

SCRIPT = """
import dataclasses, os, sys
from midas_lib import sources
os.environ["DATA_DIR"], url, digest = sys.argv[1:]
urls = [("mirror", url)]
known = dataclasses.replace(sources.ARCHIVES["characters"], digest=digest, urls=urls)
sources.ARCHIVES["characters"] = known
print(sources.fetch("characters"))
"""


def start_fetch(folder, url):
    command = [sys.executable, "-c", SCRIPT, str(folder), url, DIGEST]
    return subprocess.Popen(
        command, cwd=config.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_processes_at_once_fetch_it_once(tmp_path, server):
    server.pages["/" + NAME] = reply(200, GOOD, pause=0.5)
    both = [start_fetch(tmp_path, server.url + NAME) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert "source='mirror'" in outputs[0][0]
    assert server.hits == ["/" + NAME]
    assert left_in(tmp_path) == ["characters.source.json", NAME]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_download_leaves_nothing_taken_for_whole(tmp_path, server, how):
    server.pages["/" + NAME] = reply(200, GOOD, pause=10)
    process = start_fetch(tmp_path, server.url + NAME)
    deadline = time.monotonic() + 300
    while not server.hits and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(process.pid, how)
    process.communicate(timeout=300)
    assert process.returncode != 0
    left = left_in(tmp_path)
    assert NAME not in left
    assert left == [] if how == signal.SIGINT else left[0].startswith(".fetch-")
    server.pages["/" + NAME] = reply(200, GOOD)
    assert fetch(tmp_path, [("mirror", server.url + NAME)]).source == "mirror"
    assert left_in(tmp_path) == ["characters.source.json", NAME]
