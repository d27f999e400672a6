"""Resumable downloads and safe unpacking, with the standard library."""

import errno
import http.client
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from config import PipelineError
from config.commandline import log, progress

RETRIES = 8
BACKOFF_SECONDS = 1.0  # doubled after every failure
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20
UNPACKED_PER_PACKED = 1.5  # disk that an archive of 16-bit WAV takes once unpacked, per byte of it; measured 1.1-1.3


class RefusedError(PipelineError):
    """A server refuses an address for good, with a status such as 403 or 404."""


class GaveUpError(PipelineError):
    """A server failed too often, with a status such as 503 or no answer at all."""


def fetch_archives(urls: Sequence[str], folder: Path, keep: bool) -> None:
    """Download tar archives into folder and unpack them there; what is done already is skipped.

    Raises:
        PipelineError: if the disk is too small, a server refuses, or an archive is damaged or unsafe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [url for url in urls if not _marker(folder, url).exists()]
    sizes = {url: remote_size(url) for url in todo}
    half_done = [url for url in todo if _begun(folder, url).exists() and (folder / Path(url).name).exists()]
    new = [url for url in todo if url not in half_done]  # of the others, unpacking looks for room
    present = sum(
        path.stat().st_size
        for url in new
        for path in (_partial(folder, url), folder / Path(url).name)
        if path.exists() and path.stat().st_size <= sizes[url]
    )
    need = int(sum(sizes[url] for url in new) * (1 + UNPACKED_PER_PACKED)) - present
    free = shutil.disk_usage(folder).free
    if need > free:
        raise PipelineError(
            f"Not enough disk for {', '.join(urls)}: {_amount(need)} needed in {folder}, {_amount(free)} free. "
            "Point data.folder at a larger disk, or data.root at a copy that you have."
        )
    for url in todo:
        archive = folder / Path(url).name
        if not archive.exists() or archive.stat().st_size != sizes[url]:
            download(url, archive, sizes[url], reached=True)
        _begun(folder, url).touch()
        unpack(archive, folder)
        _begun(folder, url).replace(_marker(folder, url))
        if not keep:
            archive.unlink()


def remote_size(url: str) -> int:
    """Return the Content-Length of url in bytes; 0 where the server is busy.

    Raises:
        PipelineError: if there is no way to the server, or it refuses.
    """
    try:
        with _open(urllib.request.Request(url, method="HEAD")) as answer:  # noqa: S310
            return int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise PipelineError(f"{url}: the server answered {error.code} {error.reason}.") from None
        return 0  # busy; the download itself retries
    except (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError) as error:
        _check_network(url, error)
        return 0


def download(url: str, destination: Path, size: int, reached: bool = False) -> None:
    """Download url to destination, going on where an interrupted download stopped.

    Args:
        url: of a file.
        destination: where it goes once it is whole.
        size: bytes; 0: not known.
        reached: whether the server has answered before, so that a network that is gone is waited for.

    Raises:
        RefusedError: at once for answers such as 404.
        GaveUpError: after `RETRIES` failures without progress.
        PipelineError: at once if there is no way to the server, or it sends more than it announced.
    """
    partial = destination.with_name(destination.name + ".part")
    failures, reason = 0, "the connection was cut"
    while True:
        start = partial.stat().st_size if partial.exists() else 0
        if size and start >= size:
            break
        try:
            received = _download_rest(url, partial, start, size)
            reached = True
            if not size or start + received >= size:
                break
            failures = 0 if received else failures + 1
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            code = getattr(error, "code", None)
            if code is not None and code < 500 and code != 429:
                raise RefusedError(f"{url}: the server answered {code} {error.reason}.") from None
            if not reached:
                _check_network(url, error)
            reason = str(error) or type(error).__name__
            now = partial.stat().st_size if partial.exists() else 0
            failures = 0 if now > start else failures + 1
            reached = reached or now > start or code is not None
        if failures > RETRIES:
            raise GaveUpError(
                f"{url}: gave up after {RETRIES} failures ({reason}); the same command resumes the download."
            )
        time.sleep(min(60.0, BACKOFF_SECONDS * 2**failures))
    if size and partial.stat().st_size != size:
        partial.unlink()
        raise PipelineError(f"{url}: received more than the {size} bytes announced. Run the command again.")
    partial.replace(destination)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; members that would leave the folder, links out of it and devices are refused.

    Raises:
        PipelineError: if the archive is damaged or holds an unsafe member.
    """
    log(f"unpacking {archive.name}")
    try:
        with tarfile.open(archive, "r|*", tarinfo=_StrictInfo) as tar:
            for member in progress(tar, 0, "files"):
                if member.isreg() and member.size > shutil.disk_usage(folder).free:
                    raise PipelineError(f"{archive}: no disk left for {member.name} ({member.size} bytes).")
                tar.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise PipelineError(f"{archive} holds an unsafe member: {error}. Nothing more was unpacked.") from None
    except (tarfile.TarError, EOFError, OSError, TypeError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PipelineError(f"{archive} is damaged: {error}. Remove it and run the command again.") from None


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack a zip archive; members that would leave the folder, links and devices are refused.

    Raises:
        PipelineError: if the archive is damaged, holds an unsafe member, or the disk is too small.
    """
    log(f"unpacking {archive.name}")
    folder.mkdir(parents=True, exist_ok=True)
    home = folder.resolve()
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            for member in members:
                kind = stat.S_IFMT(member.external_attr >> 16)
                unsafe = kind not in (0, stat.S_IFREG, stat.S_IFDIR) or "\\" in member.filename
                if unsafe or not (home / member.filename).resolve().is_relative_to(home):
                    raise PipelineError(f"{archive} holds an unsafe member: {member.filename[:200]!r}.")
            there = [home / member.filename for member in members if (home / member.filename).is_file()]
            need = sum(member.file_size for member in members) - sum(path.stat().st_size for path in there)
            free = shutil.disk_usage(folder).free
            if need > free:
                raise PipelineError(f"{archive}: {_amount(need)} needed in {folder}, {_amount(free)} free.")
            for member in progress(members, len(members), "files"):
                packed.extract(member, home)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # which a place before the file's beginning gives
            raise
        raise PipelineError(f"{archive} is damaged: {error}. Remove it and run the command again.") from None


class _StrictInfo(tarfile.TarInfo):
    """Takes a damaged header for an error, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _download_rest(url: str, partial: Path, start: int, size: int) -> int:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    with _open(request) as answer:
        resumed = answer.status == 206
        blocks = _blocks(answer)
        received = 0
        with partial.open("ab" if resumed else "wb") as stream:
            total = -(-max(0, size - (start if resumed else 0)) // BLOCK_BYTES)
            for block in progress(blocks, total, "MiB"):
                stream.write(block)
                received += len(block)
                if 0 < size < received + (start if resumed else 0):  # more than announced, perhaps without end
                    break
        if answer.length:  # read(n) does not say that the connection dropped
            raise http.client.IncompleteRead(b"", answer.length)
    return received if resumed else received - start


def _blocks(answer: http.client.HTTPResponse):
    try:
        while block := answer.read(BLOCK_BYTES):
            yield block
    except OSError as error:  # such as of TLS, or of a network that has gone; those of the disk come from elsewhere
        raise ConnectionError(str(error)) from None


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    if not request.full_url.startswith(("http://", "https://")):
        raise PipelineError(f"{request.full_url} is no web address.")
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310


def _check_network(url: str, error: Exception) -> None:
    """Raise a PipelineError unless a request failed on its way only, or at the server."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, OSError) and not isinstance(reason, ConnectionError | TimeoutError):
        raise PipelineError(
            f"{url} cannot be reached: {reason}. Check the network, or point data.root at a copy that you have."
        ) from None


def _amount(size: int) -> str:
    """Return a number of bytes as it is read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _partial(folder: Path, url: str) -> Path:
    return folder / (Path(url).name + ".part")


def _begun(folder: Path, url: str) -> Path:
    return folder / f".{Path(url).name}.unpacking"


def _marker(folder: Path, url: str) -> Path:
    return folder / f".{Path(url).name}.unpacked"
