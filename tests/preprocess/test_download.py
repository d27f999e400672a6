"""Downloads from a server that misbehaves, and archives that are damaged or mean harm."""

import contextlib
import errno
import http.client
import http.server
import io
import shutil
import socket
import ssl
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from config import PipelineError
from preprocess import download
from tests.preprocess.disk import small_disk

CONTENT = np.random.default_rng(0).bytes(3 << 20)


class Server:
    """A web server on this machine; `script` holds what happens to the next GET requests, then all goes well.

    An int below 400: bytes after which the connection drops; from 400: the status of the answer;
    "whole": Range is ignored; "more": more bytes than HEAD announced.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[int | str] = []
        self.head: list[int] = []  # statuses of the next HEAD requests
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_) -> None:
                pass

            def refuse(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_HEAD(self) -> None:
                server.requests.append(("HEAD", None))
                if server.head:
                    return self.refuse(server.head.pop(0))
                if self.path not in server.files:
                    return self.refuse(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.files[self.path])))
                self.end_headers()

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.requests.append(("GET", wanted))
                event = server.script.pop(0) if server.script else None
                if self.path not in server.files:
                    return self.refuse(404)
                if isinstance(event, int) and 400 <= event < 600:
                    return self.refuse(event)
                content = server.files[self.path]
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and event != "whole" else 0
                if start >= len(content):
                    return self.refuse(416)
                body = content[start:] + (b"x" * 10 if event == "more" else b"")
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body[:event] if isinstance(event, int) else body)
                if isinstance(event, int):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every GET so far."""
        return [wanted for method, wanted in self.requests if method == "GET"]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(download, "BLOCK_BYTES", 1 << 16)
    server = Server()
    server.files["/a.bin"] = CONTENT
    yield server
    server.http.shutdown()
    server.http.server_close()


def drop(count: int) -> int:
    """Name the event of a connection that drops after count bytes (not a status: those are 400 to 599)."""
    assert not 400 <= count < 600
    return count


class TestDownload:
    def fetch(self, server: Server, folder: Path, size: int = len(CONTENT)) -> Path:
        download.download(server.url("a.bin"), folder / "a.bin", size)
        assert not (folder / "a.bin.part").exists()
        return folder / "a.bin"

    def test_size_is_asked_for(self, server):
        assert download.remote_size(server.url("a.bin")) == len(CONTENT)

    def test_at_once(self, server, tmp_path):
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert server.ranges == [None]

    def test_resumes_where_the_connection_dropped(self, server, tmp_path):
        server.script = [drop(1_000_000), drop(7), drop(0), drop(500_000)]
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert len(server.ranges) == 5
        assert server.ranges[1:] == ["bytes=1000000-", "bytes=1000007-", "bytes=1000007-", "bytes=1500007-"]

    def test_resumes_what_an_earlier_run_left(self, server, tmp_path):
        (tmp_path / "a.bin.part").write_bytes(CONTENT[:123_456])
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert server.ranges == ["bytes=123456-"]

    def test_whole_part_needs_no_request(self, server, tmp_path):
        (tmp_path / "a.bin.part").write_bytes(CONTENT)
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert server.ranges == []

    def test_server_that_ignores_ranges(self, server, tmp_path):
        (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
        server.script = ["whole"]
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT

    def test_busy_server_is_asked_again(self, server, tmp_path):
        server.script = [503, 429, 500]
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert len(server.ranges) == 4

    @pytest.mark.parametrize("status", [403, 410])
    def test_refusal_ends_at_once(self, server, tmp_path, status):
        server.script = [status]
        with pytest.raises(PipelineError, match=f"answered {status}"):
            self.fetch(server, tmp_path)
        assert len(server.ranges) == 1

    def test_gives_up_without_progress_and_keeps_what_is_there(self, server, tmp_path):
        server.script = [drop(1000), *[503] * 50]
        with pytest.raises(PipelineError, match=r"gave up.*same command resumes"):
            self.fetch(server, tmp_path)
        assert len(server.ranges) == 1 + download.RETRIES + 1
        server.script = []
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert server.ranges[-1] == "bytes=1000-"

    def test_more_than_announced_is_refused(self, server, tmp_path):
        server.script = ["more"]
        with pytest.raises(PipelineError, match="more than the"):
            self.fetch(server, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_more_than_announced_is_not_read_to_its_end(self, tmp_path, monkeypatch):
        class Endless(io.BytesIO):
            status, length = 200, None

            def read(self, count):
                assert self.tell() < 100 * count
                self.seek(count, io.SEEK_CUR)
                return b"x" * count

        monkeypatch.setattr(download, "_open", lambda request: Endless())
        with pytest.raises(PipelineError, match="received more than the 5 bytes announced"):
            download.download("http://127.0.0.1/a.bin", tmp_path / "a.bin", 5)
        assert not list(tmp_path.iterdir())

    def test_part_that_is_longer_than_the_file_does_not_block_it_for_good(self, server, tmp_path):
        (tmp_path / "a.bin.part").write_bytes(CONTENT + b"x")
        with contextlib.suppress(PipelineError):
            self.fetch(server, tmp_path)
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT

    def test_unknown_size_and_a_connection_that_drops(self, server, tmp_path):
        """The answer itself says how long it is."""
        server.script = [drop(1_000_000)]
        assert self.fetch(server, tmp_path, size=0).read_bytes() == CONTENT

    def test_no_server(self, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        assert download.remote_size(url) == 0
        with pytest.raises(PipelineError, match="gave up"):
            download.download(url, tmp_path / "a.bin", 0)

    def test_unknown_host(self, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(PipelineError, match=r"cannot be reached.*Name or service.*data\.root"):
            download.download("http://birds.invalid/a.bin", tmp_path / "a.bin", 0)

    @pytest.mark.parametrize(
        "error",
        [
            urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution")),
            urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable")),
            urllib.error.URLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
        ],
    )
    @pytest.mark.parametrize("before", [None, drop(1000), 503])
    def test_a_network_that_is_gone_for_a_moment(self, server, tmp_path, monkeypatch, error, before):
        """It is waited for, but not before anything has been reached."""
        opened, answers = urllib.request.urlopen, [error] if before is None else [None, error]

        def open_or_fail(request, timeout):
            if answers and (failure := answers.pop(0)):
                raise failure
            return opened(request, timeout=timeout)

        monkeypatch.setattr(urllib.request, "urlopen", open_or_fail)
        if before is None:
            with pytest.raises(PipelineError, match="cannot be reached"):
                self.fetch(server, tmp_path)
            answers.append(error)
            download.download(server.url("a.bin"), tmp_path / "a.bin", len(CONTENT), reached=True)
        else:
            server.script = [before]
            assert self.fetch(server, tmp_path).read_bytes() == CONTENT
        assert answers == []

    def test_a_connection_that_breaks_while_it_is_read(self, server, tmp_path, monkeypatch):
        read, failures = http.client.HTTPResponse.read, [ssl.SSLError(1, "decryption failed or bad record mac")]

        def fail(answer, *count):
            if failures:
                raise failures.pop()
            return read(answer, *count)

        monkeypatch.setattr(http.client.HTTPResponse, "read", fail)
        assert self.fetch(server, tmp_path).read_bytes() == CONTENT

    def test_a_full_disk_is_no_network(self, server, tmp_path):
        with small_disk(tmp_path / "disk", 100) as disk, pytest.raises(OSError, match="No space left"):
            download.download(server.url("a.bin"), disk / "a.bin", len(CONTENT))
        assert len(server.ranges) == 1

    def test_other_schemes(self, tmp_path):
        for url in ("file:///etc/passwd", "ftp://127.0.0.1/a"):
            with pytest.raises(PipelineError, match="no web address"):
                download.download(url, tmp_path / "a.bin", 0)


def tar_bytes(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


RELEASE = {"TrainingSet/wav/a.wav": CONTENT[:200_000], "TrainingSet/xml/a.xml": b"<Audio/>", "README": b"hello"}


class TestArchives:
    @pytest.fixture
    def urls(self, server) -> list[str]:
        server.files["/one.tar.gz"] = tar_bytes(RELEASE)
        server.files["/two.tar"] = tar_bytes({"test/wav/b.wav": b"b"}, "w")
        return [server.url("one.tar.gz"), server.url("two.tar")]

    @staticmethod
    def files(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }

    EXPECTED = RELEASE | {"test/wav/b.wav": b"b"}

    def test_unpacks_and_removes_them(self, urls, tmp_path):
        download.fetch_archives(urls, tmp_path / "raw", keep=False)
        assert self.files(tmp_path / "raw") == self.EXPECTED

    def test_keeps_them_on_request(self, server, urls, tmp_path):
        download.fetch_archives(urls, tmp_path, keep=True)
        names = ("one.tar.gz", "two.tar")
        assert self.files(tmp_path) == self.EXPECTED | {name: server.files[f"/{name}"] for name in names}

    @pytest.mark.parametrize("keep", [True, False])
    def test_second_time_asks_the_server_nothing(self, server, urls, tmp_path, keep):
        download.fetch_archives(urls, tmp_path, keep)
        server.requests.clear()
        download.fetch_archives(urls, tmp_path, keep)
        assert server.requests == []

    def test_interrupted_between_two_archives(self, server, urls, tmp_path):
        server.script = ["whole", 403]
        with pytest.raises(PipelineError, match="403"):
            download.fetch_archives(urls, tmp_path, keep=False)
        server.requests.clear()
        download.fetch_archives(urls, tmp_path, keep=False)
        assert self.files(tmp_path) == self.EXPECTED
        assert len(server.ranges) == 1

    def test_archive_that_is_there_is_not_fetched_again(self, server, urls, tmp_path):
        (tmp_path / "one.tar.gz").write_bytes(server.files["/one.tar.gz"])
        download.fetch_archives(urls[:1], tmp_path, keep=False)
        assert server.ranges == []
        assert self.files(tmp_path) == RELEASE

    def test_missing_on_the_server(self, server, tmp_path):
        with pytest.raises(PipelineError, match=r"none\.tar.*404"):
            download.fetch_archives([server.url("none.tar")], tmp_path, keep=False)


Usage = namedtuple("Usage", "total used free")


class TestDiskSpace:
    """An archive of 1000 bytes takes 2500 with its contents."""

    @pytest.fixture
    def url(self, server, monkeypatch) -> str:
        server.files["/a.tar"] = b"\0" * 1024
        monkeypatch.setattr(download, "remote_size", lambda url: 1000)
        monkeypatch.setattr(download, "download", lambda url, path, *_, **__: path.write_bytes(server.files["/a.tar"]))
        return server.url("a.tar")

    @staticmethod
    def free(monkeypatch, count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, count))

    def test_too_little(self, url, tmp_path, monkeypatch):
        self.free(monkeypatch, 2499)
        with pytest.raises(PipelineError, match=r"Not enough disk.*data\.folder.*data\.root"):
            download.fetch_archives([url], tmp_path, keep=False)
        assert list(tmp_path.iterdir()) == []

    def test_enough(self, url, tmp_path, monkeypatch):
        self.free(monkeypatch, 2500)
        download.fetch_archives([url], tmp_path, keep=False)

    def test_what_is_downloaded_already_is_not_counted_again(self, url, tmp_path, monkeypatch):
        self.free(monkeypatch, 1900)
        with pytest.raises(PipelineError):
            download.fetch_archives([url], tmp_path, keep=False)
        (tmp_path / "a.tar.part").write_bytes(b"x" * 600)
        download.fetch_archives([url], tmp_path, keep=False)

    def test_whole_archive_is_not_counted_again(self, url, tmp_path, monkeypatch):
        self.free(monkeypatch, 1600)
        (tmp_path / "a.tar").write_bytes(b"\0" * 1000)
        download.fetch_archives([url], tmp_path, keep=False)

    def test_what_a_kill_left_unpacked_is_not_counted_again(self, url, tmp_path, monkeypatch):
        """The archive is there whole, and so is what most of the rest of the disk was for."""
        unpack = download.unpack

        def killed(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(download, "unpack", killed)
        self.free(monkeypatch, 2500)
        with pytest.raises(KeyboardInterrupt):
            download.fetch_archives([url], tmp_path, keep=True)
        monkeypatch.setattr(download, "unpack", unpack)
        self.free(monkeypatch, 10)
        for _ in range(2):
            download.fetch_archives([url], tmp_path, keep=True)
        assert not list(tmp_path.glob(".*.unpacking"))

    def test_member_larger_than_the_disk(self, tmp_path, monkeypatch):
        (tmp_path / "a.tar").write_bytes(tar_bytes({"big.wav": b"x" * 5000}, "w"))
        self.free(monkeypatch, 4999)
        with pytest.raises(PipelineError, match=r"no disk left for big\.wav"):
            download.unpack(tmp_path / "a.tar", tmp_path)
        assert not (tmp_path / "big.wav").exists()


class TestUnpack:
    @staticmethod
    def archive(folder: Path, *members: tarfile.TarInfo) -> Path:
        path = folder / "in" / "a.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as tar:
            for info in members:
                tar.addfile(info, io.BytesIO(b"evil") if info.isreg() else None)
        return path

    @staticmethod
    def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        info.size = 4 if kind == tarfile.REGTYPE else 0
        return info

    @pytest.mark.parametrize(
        ("name", "kind", "target"),
        [
            ("../evil", tarfile.REGTYPE, ""),
            ("a/../../evil", tarfile.REGTYPE, ""),
            ("evil", tarfile.SYMTYPE, "../../outside"),
            ("evil", tarfile.SYMTYPE, "/etc/passwd"),
            ("evil", tarfile.LNKTYPE, "../outside"),
            ("evil", tarfile.CHRTYPE, ""),
            ("evil", tarfile.BLKTYPE, ""),
            ("evil", tarfile.FIFOTYPE, ""),
        ],
        ids=[
            "..",
            "hidden ..",
            "link out",
            "absolute link",
            "hard link out",
            "character device",
            "block device",
            "fifo",
        ],
    )
    def test_unsafe_member_is_refused(self, tmp_path, name, kind, target):
        (tmp_path / "outside").write_text("mine")
        archive = self.archive(tmp_path, self.member("good"), self.member(name, kind, target), self.member("later"))
        folder = tmp_path / "out"
        folder.mkdir()
        with pytest.raises(PipelineError, match="unsafe member"):
            download.unpack(archive, folder)
        assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
            "in",
            "in/a.tar.gz",
            "out",
            "out/good",
            "outside",
        }
        assert (tmp_path / "outside").read_text() == "mine"

    def test_absolute_path_lands_inside(self, tmp_path):
        target = tmp_path / "outside" / "evil"
        folder = tmp_path / "out"
        folder.mkdir()
        with contextlib.suppress(PipelineError):
            download.unpack(self.archive(tmp_path, self.member(str(target))), folder)
        assert not target.exists()
        assert not target.parent.exists()

    def test_writing_through_a_link_is_refused(self, tmp_path):
        (tmp_path / "outside").mkdir()
        archive = self.archive(tmp_path, self.member("door", tarfile.SYMTYPE, "../outside"), self.member("door/evil"))
        (tmp_path / "out").mkdir()
        with pytest.raises(PipelineError, match="unsafe member"):
            download.unpack(archive, tmp_path / "out")
        assert list((tmp_path / "outside").iterdir()) == []

    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
    def test_all_compressions(self, tmp_path, mode):
        path = tmp_path / "a.tar"
        path.write_bytes(tar_bytes(RELEASE, mode))
        (tmp_path / "out").mkdir()
        download.unpack(path, tmp_path / "out")
        assert TestArchives.files(tmp_path / "out") == RELEASE

    def test_link_inside_is_fine(self, tmp_path):
        (tmp_path / "out").mkdir()
        archive = self.archive(tmp_path, self.member("a/one"), self.member("a/two", tarfile.SYMTYPE, "one"))
        download.unpack(archive, tmp_path / "out")
        assert (tmp_path / "out/a/two").read_bytes() == b"evil"

    @pytest.mark.parametrize("mode", ["w", "w:gz"])
    @pytest.mark.parametrize("damage", ["cut", "cut in a header", "empty", "text", "bits"])
    def test_damaged_archive(self, tmp_path, mode, damage):
        good = tar_bytes(RELEASE, mode)
        content = {
            "cut": good[: len(good) // 2],
            "cut in a header": good[:200] if mode == "w" else good[:20],
            "empty": b"",
            "text": b"<html>404 Not Found</html>" * 100,
            "bits": good[:300] + b"\xff" * 300 + good[600:],
        }[damage]
        (tmp_path / "a.tar").write_bytes(content)
        if (mode, damage) == ("w", "bits"):
            content = bytearray(good)
            content[150] ^= 0xFF  # in the checksum of the first header
            (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(PipelineError, match=r"a\.tar is damaged.*Remove it"):
            download.unpack(tmp_path / "a.tar", tmp_path)

    @pytest.mark.parametrize("damage", ["cut", "bits", "no end"])
    def test_damage_in_a_later_header(self, tmp_path, damage):
        """Two files of 512 bytes, each behind a header of 512: the second header starts at 1024."""
        good = tar_bytes({"a": b"x" * 512, "b": b"y" * 512}, "w")
        content = {
            "cut": good[: 1024 + 100],
            "bits": good[:1024] + bytes([good[1024] ^ 0xFF]) + good[1025:],
            "no end": good[:1024],
        }[damage]
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(PipelineError, match="is damaged"):
            download.unpack(tmp_path / "a.tar", tmp_path)


class TestUnpackZip:
    def archive(self, folder: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
        path = folder / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in members:
                packed.writestr(name, content)
        return path

    def test_files_and_folders(self, tmp_path):
        download.unpack_zip(self.archive(tmp_path, ("a/b.txt", b"1"), ("c.txt", b"2")), tmp_path / "out")
        assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"1"
        assert (tmp_path / "out" / "c.txt").read_bytes() == b"2"

    def test_a_link_is_refused_before_anything_is_written(self, tmp_path):
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        path = self.archive(tmp_path, ("first.txt", b"1"), (link, b"/etc/passwd"))
        with pytest.raises(PipelineError, match=r"unsafe member: 'link'"):
            download.unpack_zip(path, tmp_path / "out")
        assert not (tmp_path / "out" / "first.txt").exists()

    def test_more_than_the_disk_holds(self, tmp_path, monkeypatch):
        usage = namedtuple("Usage", "total used free")(10, 9, 999)
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(PipelineError, match="needed in"):
            download.unpack_zip(self.archive(tmp_path, ("zeros", bytes(1000))), tmp_path / "out")

    def test_what_a_kill_left_is_not_counted_again(self, tmp_path, monkeypatch):
        path = self.archive(tmp_path, *((f"{i}/x", bytes(1000)) for i in range(5)))
        download.unpack_zip(path, tmp_path / "out")
        (tmp_path / "out/4/x").unlink()
        (tmp_path / "out/3/x").write_bytes(bytes(400))
        for free, words in ((1600, ""), (1599, r"0\.0 MB needed in .*, 0\.0 MB free")):
            usage = namedtuple("Usage", "total used free")(10, 9, free)
            monkeypatch.setattr(download.shutil, "disk_usage", lambda _, usage=usage: usage)
            (tmp_path / "out/4/x").unlink(missing_ok=True)
            (tmp_path / "out/3/x").write_bytes(bytes(400))
            with pytest.raises(PipelineError, match=words) if words else contextlib.nullcontext():
                download.unpack_zip(path, tmp_path / "out")

    @pytest.mark.parametrize("keep", [0.5, 0.99])
    def test_cut(self, tmp_path, keep):
        path = self.archive(tmp_path, ("a", CONTENT[:10_000]))
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        with pytest.raises(PipelineError, match=r"a\.zip is damaged"):
            download.unpack_zip(path, tmp_path / "out")

    def test_damaged_content(self, tmp_path):
        path = self.archive(tmp_path, ("a", CONTENT[:10_000]))
        content = bytearray(path.read_bytes())
        content[5000] ^= 255
        path.write_bytes(content)
        with pytest.raises(PipelineError, match=r"a\.zip is damaged"):
            download.unpack_zip(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff", b"", b"\x1f\x8b"])
def test_an_archive_that_ends_in_its_header(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.tar\.gz is damaged"):
        download.unpack(tmp_path / "a.tar.gz", tmp_path)


def test_a_zip_whose_member_begins_before_the_file(tmp_path):
    """The offset of the central directory is 9 more than true, so that the member would begin at -9."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "x" * 100)
    content = bytearray(buffer.getvalue())
    end = content.rindex(b"PK\x05\x06")
    offset = int.from_bytes(content[end + 16 : end + 20], "little")
    content[end + 16 : end + 20] = (offset + 9).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.zip is damaged"):
        download.unpack_zip(tmp_path / "a.zip", tmp_path / "out")
