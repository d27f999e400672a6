"""xeno-canto by its API, version 3: a query becomes a corpus.

A personal key is needed (account page of xeno-canto.org) and comes from the environment variable XENO_CANTO_KEY
alone; it is in no file, log line or error. Once all is downloaded, neither key nor network are needed.

    raw/pages/<query>/00001.json     answers, kept: remove the folder to ask again
    raw/audio/<Genus_species>/XC<number>.mp3
    raw/refused.csv                  recordings without a file that may be had: remove it to ask for them again

A folder in this layout from elsewhere is taken as it is with --set data.root=FOLDER: nothing is asked for.

A query is made of tags only: grp:birds cnt:germany q:A, gen:parus sp:major, box:50,5,55,15.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from config import Between, ConfigError, PipelineError, from_project
from config.commandline import log, progress
from preprocess import audio, download
from preprocess.audio import AudioError
from preprocess.metadata import Names, clean_date, clean_number, clean_time, complete, known, observation
from preprocess.recordings import Recording, Reject, Species, read_table, write_table
from preprocess.selection import licence_terms, limit_recordings
from preprocess.sources import Corpus, find_root
from preprocess.whole import whole_file

KEY_VARIABLE = "XENO_CANTO_KEY"
PAUSE_SECONDS = 1.0  # between two requests: the API's limit
MAX_PAGE_BYTES = 1 << 26  # 500 recordings take 1 MB
MAX_PAGES = 10_000
FAILURES_IN_A_ROW = 3  # files that cannot be had, one after the other, after which it is the server
_QUALITY = {"A": "1", "B": "2", "C": "3", "D": "4", "E": "5"}
_NO_SPECIES = frozenset(("mystery", "sonus", "soundscape"))  # genera that stand for no single species
_TAG = re.compile(r"[a-z-]+:(\"[^\"]*\"|[^\s\"]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """All recordings that a query finds, or those of a list of species."""

    root: str = ""  # folder with pages/ and audio/ that is already there; empty: ask and download
    query: str = ""  # tags; with `species` it narrows the search for each of them
    species: tuple[str, ...] = ()  # scientific names; one query each
    exclude_nd: bool = False  # licences without derivatives are not downloaded
    known: str = ""  # recordings.csv of another corpus, whose xeno-canto numbers are not fetched again
    per_page: Annotated[int, Between(50, 500)] = 500
    url: str = "https://xeno-canto.org/api/3/recordings"

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root, or raw after downloading what it lacks; an interrupted download goes on.

        With a limit, only the first page of each query is read and only that many recordings are downloaded.

        Raises:
            ConfigError: if the query or the address cannot be used.
            PipelineError: if there is no key, or xeno-canto refuses or cannot be reached.
        """
        if self.root:
            root = find_root(self.root, "a folder with pages/ and audio/")
            if not any(self._pages(root)):
                raise PipelineError(
                    f"{root} is no download of xeno-canto, or not one of this data.query and data.per_page. Missing: "
                    "answers in pages/*/*.json. Without data.query and data.species all that are there are taken."
                )
            return root
        client = Client(self.url)
        for query in self.queries():
            fetch_pages(client, query, self.per_page, raw / "pages" / _page_folder(query, self.per_page), bool(limit))
        corpus = self._listed(raw)
        wanted = limit_recordings(corpus, limit).recordings
        missing = {row.file for row in wanted if not (raw / row.file).is_file()}
        known = [row for row in _read_refused(raw) if row.reason == "not_available" and row.file in missing]
        missing -= {row.file for row in known}
        refused = self._download(client, [row for row in wanted if row.file in missing], raw)
        _write_refused(raw / "refused.csv", [*corpus.rejects, *known, *refused])
        return raw

    def _download(self, client: "Client", rows: list[Recording], raw: Path) -> list[Reject]:
        """Download recordings and return those that cannot be had.

        Raises:
            PipelineError: if the server fails for `FAILURES_IN_A_ROW` of them.
        """
        if not rows:
            return []
        wanted = {row.media_id.removeprefix("XC") for row in rows}
        answers = ((_text(answer, "id"), answer) for answer in self._answers(raw))
        addresses = {number: _address(answer, self.url) for number, answer in answers if number in wanted}
        refused, failures = [], 0
        for row in progress(rows, len(rows), "recordings"):
            try:
                client.download(addresses[row.media_id.removeprefix("XC")], raw / row.file)
                failures = 0
            except AudioError as error:
                refused.append(Reject(row.file, "fetch", error.reason, error.detail))
                failures = 0
            except download.GaveUpError as error:
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    raise
                refused.append(Reject(row.file, "fetch", "not_available", str(error).partition(";")[0]))
        return refused

    def read(self, root: Path) -> Corpus:
        """Return the recordings that were downloaded, and for the others the reason why they were not."""
        corpus = self._listed(root)
        rows = [row for row in corpus.recordings if (root / row.file).is_file()]
        present = {row.class_id for row in rows}
        rejects = _read_refused(root)
        if self.root:
            told = {reject.file for reject in rejects}
            rejects += [reject for reject in corpus.rejects if reject.file not in told]
            rejects += [
                Reject(row.file, "fetch", "no_audio", f"{row.file} is not there")
                for row in corpus.recordings
                if not (root / row.file).is_file() and row.file not in told
            ]
        return Corpus(rows, [kind for kind in corpus.species if kind.class_id in present], rejects)

    def others(self) -> list[Path]:
        """Return the manifest of the corpus whose recordings are left out."""
        path = from_project(self.known)
        return [path] if self.known and path.is_file() else []

    def queries(self) -> list[str]:
        """Return the queries to send.

        Raises:
            ConfigError: if there is none, or one is not made of tags.
        """
        words = self.query.split()
        if (not words and not self.species) or _TAG.sub("", self.query).strip():
            raise ConfigError(
                f"Invalid value for data.query. Received: {self.query!r}. "
                "Expected: tags such as grp:birds cnt:germany q:A, or names in data.species."
            )
        found = []
        for name in self.species:
            parts = name.split()
            if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[A-Za-z-]+", part) for part in parts):
                raise ConfigError(
                    f"Invalid value for data.species. Received: {name!r}. Expected: a name such as Parus major."
                )
            tags = zip(("gen", "sp", "ssp"), parts, strict=False)
            found.append(" ".join([*(f"{tag}:{part.lower()}" for tag, part in tags), *words]))
        return found or [" ".join(words)]

    def _answers(self, raw: Path) -> Iterator[dict[str, Any]]:
        """Yield every recording of the kept pages once."""
        seen = set()
        for path in self._pages(raw):
            for answer in read_page(path)["recordings"]:
                number = _text(answer, "id")
                if number not in seen:
                    seen.add(number)
                    yield answer

    def _pages(self, raw: Path) -> Iterator[Path]:
        """Yield the kept pages of the queries; of a root without a query all that are there."""
        everything = self.root and not self.query and not self.species
        folders = ["*"] if everything else [_page_folder(query, self.per_page) for query in self.queries()]
        return (path for folder in folders for path in sorted(raw.glob(f"pages/{folder}/*.json")))

    def _listed(self, raw: Path) -> Corpus:
        """Return what the kept pages list, whether downloaded or not, and what cannot be had."""
        already = _numbers(self.known)
        recordings, taxa, also, rejects = [], {}, {}, []
        for answer in self._answers(raw):
            name = f"XC{_text(answer, 'id')}"[:20]
            if name in already:
                continue
            try:
                row = _to_recording(answer)
                if self.exclude_nd and "nd" in licence_terms(row.licence):
                    raise AudioError("excluded_licence", row.licence)
                if not self.root:
                    _address(answer, self.url)
            except AudioError as error:
                rejects.append(Reject(name, "fetch", error.reason, error.detail))
                continue
            recordings.append(row)
            complete(taxa, Species(row.class_id, row.scientific_name, row.vernacular_name))
            also[row.media_id] = _texts(answer.get("also"))
        names = Names(taxa.values())
        recordings = [replace(row, background=names.background(also[row.media_id], row.class_id)) for row in recordings]
        return Corpus(recordings, [taxa[class_id] for class_id in sorted(taxa)], rejects)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for a refusal: the key goes to no other address."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class Client:
    """Sends requests, one per second at most, and keeps the key to itself."""

    def __init__(self, url: str) -> None:
        """Take the address of the API.

        Raises:
            ConfigError: if it is no web address, or would carry the key unencrypted over a network.
        """
        parts = urllib.parse.urlsplit(url)
        here = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and here)):
            raise ConfigError(f"Invalid value for data.url. Received: {url!r}. Expected: an https address.")
        self.url = url
        self.last = -PAUSE_SECONDS
        self.reached = False

    def ask(self, query: str, page: int, per_page: int) -> dict[str, Any]:
        """Return one page of an answer; waits and asks again where the server is busy or the answer is damaged.

        Raises:
            PipelineError: if there is no key, the server refuses, or nothing helped.
        """
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise PipelineError(
                "xeno-canto needs a key: get one on the account page of xeno-canto.org and set the environment "
                f"variable {KEY_VARIABLE}."
            )
        words = urllib.parse.urlencode({"query": query, "page": page, "per_page": per_page, "key": key})
        what = f"{self.url}, query {query!r}, page {page}"
        for attempt in range(download.RETRIES + 1):
            if attempt:
                time.sleep(min(60.0, download.BACKOFF_SECONDS * 2 ** (attempt - 1)))
            self._pause()
            try:
                with _OPENER.open(f"{self.url}?{words}", timeout=download.TIMEOUT_SECONDS) as answer:
                    content = answer.read(MAX_PAGE_BYTES + 1)
                    if len(content) > MAX_PAGE_BYTES:
                        raise PipelineError(f"{what}: an answer of more than {MAX_PAGE_BYTES} bytes.")
                    if answer.length:  # read(n) does not say that the connection dropped
                        raise http.client.IncompleteRead(b"", answer.length)
                self.reached = True
                return check_page(json.loads(content.replace(key.encode(), b"KEY")))
            except urllib.error.HTTPError as error:
                reason = f"the server answered {error.code}: {_message(error, key)}"
                if error.code in (401, 403):
                    raise PipelineError(f"{what}: {reason}. Is the key in {KEY_VARIABLE} right?") from None
                if error.code < 500 and error.code != 429:
                    raise PipelineError(f"{what}: {reason}.") from None
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {getattr(error, 'reason', '') or 'the connection was cut'}"
            except (ValueError, RecursionError) as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
                reason = f"the answer is damaged ({error})"
        raise PipelineError(
            f"{what}: gave up after {attempt + 1} attempts; {reason.replace(key, 'KEY')[:200]}. "
            "The same command goes on from here."
        ) from None

    def download(self, url: str, destination: Path) -> None:
        """Download a recording, going on where an interrupted download stopped.

        Raises:
            AudioError: reason not_available, if the server refuses this one for good.
            PipelineError: see `download.download`.
        """
        self._pause()
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            download.download(url, destination, 0, self.reached)
            self.reached = True
        except download.RefusedError as error:
            self.reached = True
            partial = destination.with_name(destination.name + ".part")
            if "answered 416" in str(error) and partial.exists():  # it was whole, or is another file by now
                partial.unlink()
                return self.download(url, destination)
            raise AudioError("not_available", str(error)) from None

    def _pause(self) -> None:
        time.sleep(max(0.0, self.last + PAUSE_SECONDS - time.monotonic()))
        self.last = time.monotonic()


def fetch_pages(client: Client, query: str, per_page: int, folder: Path, only_first: bool) -> None:
    """Keep every page of a query's answer in a folder; pages that are there are not asked for again.

    Raises:
        PipelineError: see `Client.ask`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, pages, numbers, announced = 1, 1, set(), 0
    while page <= min(pages, MAX_PAGES):
        path = folder / f"{page:05d}.json"
        if not path.exists():
            answer = client.ask(query, page, per_page)
            with whole_file(path) as partial:
                partial.write_text(json.dumps(answer), encoding="utf-8")
        answer = read_page(path)
        numbers |= {_text(row, "id") for row in answer["recordings"]}
        pages, announced = int(answer["numPages"]), int(answer["numRecordings"])
        page += 1
        if only_first:
            return
    if len(numbers) != announced:
        log(f"warning: xeno-canto announced {announced} recordings for {query!r} and listed {len(numbers)}")


def read_page(path: Path) -> dict[str, Any]:
    """Return a kept page.

    Raises:
        PipelineError: if it is damaged.
    """
    try:
        if path.stat().st_size > MAX_PAGE_BYTES:
            raise ValueError(f"more than {MAX_PAGE_BYTES} bytes")
        return check_page(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is damaged: {error}. Remove it and run stage 1 again.") from None


def check_page(answer: Any) -> dict[str, Any]:
    """Return the answer if it is a page of recordings.

    Raises:
        ValueError: saying what it lacks.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("recordings"), list):
        raise ValueError("no list of recordings")
    if not all(isinstance(row, dict) for row in answer["recordings"]):
        raise ValueError("a recording that is no object")
    for name in ("numRecordings", "numPages"):
        if not re.fullmatch(r"\d{1,9}", str(answer.get(name, ""))):
            raise ValueError(f"{name} is no number")
    return answer


def _message(error: urllib.error.HTTPError, key: str) -> str:
    """Return what the body {"error", "message"} of a refusal says, in one short line without the key."""
    text = error.reason
    try:
        body = json.loads(error.read(1 << 16))
        text = body.get("message") or body.get("error") or text
    except (ValueError, AttributeError, OSError, http.client.HTTPException, RecursionError):
        pass
    text = str(text).replace(key, "KEY").replace(urllib.parse.quote_plus(key), "KEY")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200].rstrip(". ")


def _page_folder(query: str, per_page: int) -> str:
    return hashlib.sha256(f"{per_page}:{query}".encode()).hexdigest()[:16]


def _text(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).encode(errors="replace").decode().split())  # JSON can spell half a character


def _texts(values: Any) -> list[str]:
    """Return the texts of a list, as far as it is one."""
    return [_text({"": value}, "") for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _to_recording(answer: dict[str, Any]) -> Recording:
    number, genus, epithet = _text(answer, "id"), _text(answer, "gen"), _text(answer, "sp")
    if not re.fullmatch(r"\d{1,9}", number):
        raise AudioError("bad_media_id", ascii(number[:40]))
    if not all(re.fullmatch(r"[A-Za-z-]{1,40}", word) for word in (genus, epithet)) or genus.casefold() in _NO_SPECIES:
        raise AudioError("no_species", f"{genus} {epithet}"[:80])
    suffix = Path(_text(answer, "file-name")).suffix.lower()
    suffix = suffix if suffix in audio.SUFFIXES else ".mp3"
    class_id = f"{genus}_{epithet}".lower().capitalize()
    recordist, date = known(_text(answer, "rec")), clean_date(_text(answer, "date"))
    return Recording(
        f"XC{number}",
        f"audio/{class_id}/XC{number}{suffix}",
        class_id=class_id,
        group=observation(class_id, recordist, date, f"XC{number}"),
        scientific_name=class_id.replace("_", " "),
        vernacular_name=_text(answer, "en"),
        date=date,
        time=clean_time(_text(answer, "time")),
        latitude=clean_number(_text(answer, "lat"), 90),
        longitude=clean_number(_text(answer, "lon"), 180),
        elevation=clean_number(_text(answer, "alt"), 9000),
        locality=known(_text(answer, "loc")),
        author=recordist,
        content=known(_text(answer, "type")),
        quality=_QUALITY.get(_text(answer, "q"), ""),
        licence=_text(answer, "lic"),
    )


def _address(answer: dict[str, Any], api: str) -> str:
    """Return the web address of a recording's file, on the server of the API.

    Raises:
        AudioError: reason restricted, if there is no file, or foreign_address.
    """
    file = _text(answer, "file")
    if not file:
        raise AudioError("restricted", "xeno-canto gives no file for this recording")
    home = urllib.parse.urlsplit(api)
    address = urllib.parse.urljoin(api, file)  # //xeno-canto.org/123/download has no scheme
    parts = urllib.parse.urlsplit(address)
    own = parts.hostname == home.hostname and parts.port == home.port
    if parts.scheme not in ("http", "https") or not (own or (parts.hostname or "").endswith(f".{home.hostname}")):
        raise AudioError("foreign_address", ascii(file[:100]))
    return address


def _numbers(manifest: str) -> set[str]:
    """Return the media ids of another corpus."""
    if not manifest:
        return set()
    path = from_project(manifest)
    try:
        return {row.media_id for row in read_table(path, Recording)}
    except PipelineError as error:
        raise PipelineError(f"data.known: {error}") from None


def _read_refused(raw: Path) -> list[Reject]:
    """Return what earlier downloads could not have."""
    return read_table(raw / "refused.csv", Reject) if (raw / "refused.csv").exists() else []


def _write_refused(path: Path, refused: list[Reject]) -> None:
    """Write refused.csv, unless it says the same: its time is part of the corpus's fingerprint."""
    if not path.exists() or _read_refused(path.parent) != refused:
        write_table(path, Reject, refused)
