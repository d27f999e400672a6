"""xeno-canto's API as documented, played by a server on this machine, with all its errors."""

import contextlib
import http.server
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config as configuration
from config import ConfigError, PipelineError
from preprocess import download
from preprocess.fetchData import fetch
from preprocess.recordings import Recording, Reject, read_table, write_table
from preprocess.sources import xenocanto
from preprocess.sources.xenocanto import Source

KEY = "s3cret&key/of+mine"
EXAMPLE = {
    "id": "694038",
    "gen": "Parus",
    "sp": "major",
    "ssp": "",
    "grp": "birds",
    "en": "Great Tit",
    "rec": "Jane Doe",
    "cnt": "Germany",
    "loc": "Passau",
    "lat": "48.57",
    "lon": "13.46",
    "alt": "310",
    "type": "song",
    "sex": "male",
    "file-name": "XC694038-tit.mp3",
    "lic": "//creativecommons.org/licenses/by-nc-sa/4.0/",
    "q": "A",
    "length": "1:05",
    "time": "08:30",
    "date": "2021-04-02",
    "also": ["Pica pica"],
    "rmk": None,
    "temp": "",
}


def mp3(seed: int) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(seed).uniform(-0.5, 0.5, 8000), 16_000, format="FLAC")
    return stream.getvalue()


class Api:
    """The server. `script` holds what happens to the next requests for a page, then all goes well.

    An int: a status; "cut": half of the answer; "broken": JSON that ends early, with its length; "odd": JSON of
    something else. `gone` maps recordings to the status of their download.
    """

    def __init__(self) -> None:
        self.recordings: list[dict] = []
        self.script: list[int | str] = []
        self.gone: dict[str, int] = {}
        self.pages: list[dict[str, str]] = []
        self.downloads: list[str] = []
        self.times: list[float] = []
        self.headers: list[str] = []
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_) -> None:
                pass

            def reply(self, status: int, body: bytes, length: int | None = None, headers: tuple = ()) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def do_GET(self) -> None:
                api.times.append(time.monotonic())
                path, _, words = self.path.partition("?")
                if path != "/api/3/recordings":
                    number = path.strip("/").partition("/")[0]
                    api.downloads.append(number)
                    assert KEY not in urllib.parse.unquote_plus(self.path)
                    if number in api.gone:
                        return self.reply(api.gone[number], b"")
                    return self.reply(200, mp3(int(number)))
                asked = dict(urllib.parse.parse_qsl(words))
                api.pages.append(asked)
                event = api.script.pop(0) if api.script else None
                if event == 302:
                    return self.reply(302, b"", headers=(("Location", f"/elsewhere?key={asked['key']}"),))
                if isinstance(event, int):
                    text = {"error": "trouble", "message": f"No\nwith {asked['key']}."}
                    return self.reply(event, json.dumps(text).encode())
                if asked.get("key") != KEY:
                    return self.reply(401, b'{"error": "unauthorized", "message": "Missing or invalid key"}')
                body = json.dumps(api.page(asked)).encode()
                if event == "odd":
                    return self.reply(200, b'{"recordings": 3}')
                if event == "broken":
                    return self.reply(200, body[: len(body) // 2])
                if event == "cut":
                    self.reply(200, body[: len(body) // 2], len(body))
                    return self.connection.shutdown(socket.SHUT_RDWR)
                return self.reply(200, body)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def page(self, asked: dict[str, str]) -> dict:
        size, page = int(asked["per_page"]), int(asked["page"])
        found = [
            row
            for row in self.recordings
            if "sp:" not in asked["query"] or f"gen:{row['gen'].lower()} sp:{row['sp'].lower()}" in asked["query"]
        ]
        return {
            "numRecordings": str(len(found)),
            "numSpecies": "1",
            "page": page,
            "numPages": -(-len(found) // size) or 1,
            "recordings": found[(page - 1) * size : page * size],
            "key": asked["key"],  # an echo that must not reach the disk
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/api/3/recordings"

    def add(self, number: int, **changes) -> None:
        home = self.url.removesuffix("/api/3/recordings").removeprefix("http:")  # protocol-relative, as documented
        row = EXAMPLE | {"id": str(number), "file": f"{home}/{number}/download"} | changes
        self.recordings.append({name: value for name, value in row.items() if value != "ABSENT"})


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(xenocanto, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("XENO_CANTO_KEY", KEY)
    api = Api()
    yield api
    api.http.shutdown()
    api.http.server_close()


def run(api: Api, raw: Path, limit: int = 0, **options):
    options.setdefault("query", "grp:birds")
    source = Source(url=api.url, **options)
    return source.read(source.fetch(raw, limit, 1))


def test_a_recording(api, tmp_path):
    api.add(694038)
    api.add(2, gen="Pica", sp="pica", en="Magpie", also=[""])
    corpus = run(api, tmp_path)
    assert corpus.rejects == []
    assert corpus.recordings[0] == Recording(
        media_id="XC694038",
        file="audio/Parus_major/XC694038.mp3",
        class_id="Parus_major",
        background="Pica_pica",
        group="Parus_major|Jane Doe|2021-04-02",
        scientific_name="Parus major",
        vernacular_name="Great Tit",
        date="2021-04-02",
        time="08:30",
        latitude="48.57",
        longitude="13.46",
        elevation="310",
        locality="Passau",
        author="Jane Doe",
        content="song",
        quality="1",
        licence="//creativecommons.org/licenses/by-nc-sa/4.0/",
    )
    assert (tmp_path / corpus.recordings[0].file).read_bytes() == mp3(694038)
    assert [(row.class_id, row.vernacular_name) for row in corpus.species] == [
        ("Parus_major", "Great Tit"),
        ("Pica_pica", "Magpie"),
    ]


def test_the_request_is_as_documented(api, tmp_path):
    api.add(1)
    run(api, tmp_path, query='grp:birds  cnt:"United Kingdom" q:A', per_page=50)
    assert api.pages == [{"query": 'grp:birds cnt:"United Kingdom" q:A', "page": "1", "per_page": "50", "key": KEY}]


def test_all_pages_and_every_species(api, tmp_path):
    for number in range(1, 121):
        api.add(number)
    for number in range(200, 203):
        api.add(number, gen="Pica", sp="pica")
    corpus = run(api, tmp_path, query="q:A", species=("Parus major", "Pica pica"), per_page=50)
    assert [(asked["query"], asked["page"]) for asked in api.pages] == [
        ("gen:parus sp:major q:A", "1"),
        ("gen:parus sp:major q:A", "2"),
        ("gen:parus sp:major q:A", "3"),
        ("gen:pica sp:pica q:A", "1"),
    ]
    assert Counter(row.class_id for row in corpus.recordings) == {"Parus_major": 120, "Pica_pica": 3}


class TestRoot:
    """A download from elsewhere: nothing is asked for, and nothing is written into it."""

    def test_is_taken_as_it_is(self, api, tmp_path):
        for number in (1, 2, 3):
            api.add(number)
        first = run(api, tmp_path / "made", query="q:A")
        (tmp_path / "made" / first.recordings[1].file).unlink()
        asked = len(api.pages), len(api.downloads)
        source = Source(root=str(tmp_path / "made"))
        corpus = source.read(source.fetch(tmp_path / "raw", 0, 1))
        assert corpus.recordings == [first.recordings[0], first.recordings[2]]
        assert [(row.file, row.reason) for row in corpus.rejects] == [(first.recordings[1].file, "no_audio")]
        assert (len(api.pages), len(api.downloads)) == asked
        assert not (tmp_path / "raw").exists()

    def test_what_cannot_be_used_is_listed(self, api, tmp_path):
        """Also without the list that a download of ours leaves; an id may be a number."""
        for number, facts in ((1, {}), (2, {"gen": "Mystery", "sp": "mystery"}), (3, {})):
            api.add(number, **facts)
        run(api, tmp_path / "made", query="q:A")
        (tmp_path / "made" / "refused.csv").unlink()
        for path in (tmp_path / "made" / "pages").rglob("*.json"):
            path.write_text(path.read_text().replace('"id": "3"', '"id": 3'))
        source = Source(root=str(tmp_path / "made"))
        corpus = source.read(source.fetch(tmp_path / "raw", 0, 1))
        assert [row.media_id for row in corpus.recordings] == ["XC1", "XC3"]
        assert [row.file for row in corpus.rejects] == ["XC2"]

    def test_a_query_chooses_among_its_answers(self, api, tmp_path):
        api.add(1)
        run(api, tmp_path, query="q:A")
        assert Source(root=str(tmp_path), query="q:A").fetch(tmp_path, 0, 1) == tmp_path
        with pytest.raises(PipelineError, match=r"not one of this data\.query"):
            Source(root=str(tmp_path), query="q:B").fetch(tmp_path, 0, 1)

    def test_what_is_no_download(self, tmp_path):
        with pytest.raises(PipelineError, match=r"no download of xeno-canto.*pages"):
            Source(root=str(tmp_path)).fetch(tmp_path, 0, 1)
        (tmp_path / "pages" / "x").mkdir(parents=True)
        (tmp_path / "pages" / "x" / "1.json").write_text("[]")
        with pytest.raises(PipelineError, match=r"1\.json is damaged: no list of recordings"):
            Source(root=str(tmp_path)).read(tmp_path)


class TestResuming:
    def test_what_is_there_is_not_asked_for_again_and_needs_no_key(self, api, tmp_path, monkeypatch):
        for number in (1, 2, 3):
            api.add(number)
        first = run(api, tmp_path)
        monkeypatch.delenv("XENO_CANTO_KEY")
        (tmp_path / first.recordings[1].file).unlink()
        times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert run(api, tmp_path) == first
        assert len(api.pages) == 1
        assert api.downloads == ["1", "2", "3", "2"]
        assert all(path.stat().st_mtime_ns == was for path, was in times.items())

    def test_a_failure_in_the_middle_keeps_the_pages_before(self, api, tmp_path):
        for number in range(1, 101):
            api.add(number)
        with pytest.raises(PipelineError):
            api.script = [None, *[500] * 20]
            run(api, tmp_path, per_page=50)
        api.script, api.pages = [], []
        assert len(run(api, tmp_path, per_page=50).recordings) == 100
        assert [asked["page"] for asked in api.pages] == ["2"]

    def test_a_partial_file_that_is_already_whole(self, api, tmp_path):
        api.add(1)
        api.gone = {"1": 416}
        partial = tmp_path / "audio" / "Parus_major" / "XC1.mp3.part"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(mp3(1))
        corpus = run(api, tmp_path)
        assert [reject.reason for reject in corpus.rejects] == ["not_available"]  # the server insists
        partial.write_bytes(b"x")
        api.gone = {}
        (tmp_path / "refused.csv").unlink()
        assert len(run(api, tmp_path).recordings) == 1

    def test_known_numbers_are_skipped(self, api, tmp_path):
        for number in (1, 2, 3):
            api.add(number)
        write_table(tmp_path / "known.csv", Recording, [Recording("XC2", "x.ogg"), Recording("3", "y.ogg")])
        corpus = run(api, tmp_path / "raw", known=str(tmp_path / "known.csv"))
        assert [row.media_id for row in corpus.recordings] == ["XC1", "XC3"]
        assert api.downloads == ["1", "3"]
        assert corpus.rejects == []
        with pytest.raises(PipelineError, match=r"data\.known.*gone\.csv"):
            run(api, tmp_path / "raw", known=str(tmp_path / "gone.csv"))

    @pytest.mark.parametrize("merged", [False, True])
    def test_another_list_of_known_numbers_is_noticed(self, api, tmp_path, capsys, merged):
        for number in (1, 2, 3):
            api.add(number)
        known, birds = tmp_path / "known.csv", tmp_path / "birds" / "Pica_pica"
        birds.mkdir(parents=True)
        soundfile.write(birds / "a.wav", np.zeros(800), 8000)
        part = f'url = "{api.url}", query = "grp:birds", known = "{known}"'
        parts = f'[{{source = "classfolders", root = "{birds.parent}"}}, {{source = "xenocanto", {part}}}]'
        options = [f"data.parts={parts}"] if merged else [f"data.{text}" for text in part.split(", ")]
        source = "merged" if merged else "xenocanto"
        config = configuration.load(None, [f"data.source={source}", f"data.folder={tmp_path / 'data'}", *options])
        for numbers in (["XC2"], ["XC2", "XC3"]):
            write_table(known, Recording, [Recording(number, "x.ogg") for number in numbers])
            fetch(config, 1)
            rows = read_table(config.corpus_dir / "recordings.csv", Recording)
            assert {row.media_id for row in rows} & {"XC1", "XC2", "XC3"} == {"XC1", "XC2", "XC3"} - {*numbers}
            fetch(config, 1)
            assert "nothing changed" in capsys.readouterr().out

    def test_limit_takes_one_page_and_few_files(self, api, tmp_path):
        for number in range(1, 201):
            api.add(number, gen="Genus", sp="abcd"[number % 4] * 3)
        corpus = run(api, tmp_path, limit=8, per_page=50)
        assert len(api.pages) == 1
        assert len(api.downloads) == len(corpus.recordings) == 8
        assert Counter(row.class_id for row in corpus.recordings).most_common(1)[0][1] == 4


class TestTrouble:
    @pytest.mark.parametrize("event", [429, 500, 502, 503, "cut", "broken", "odd"])
    def test_passing_trouble_is_sat_out(self, api, tmp_path, event):
        api.add(1)
        api.script = [event, event]
        assert len(run(api, tmp_path).recordings) == 1
        assert len(api.pages) == 3

    @pytest.mark.parametrize("event", [429, 503, "cut", "broken"])
    def test_lasting_trouble_ends_in_one_line(self, api, tmp_path, event):
        api.script = [event] * 50
        with pytest.raises(PipelineError, match=r"gave up after 9 attempts.*The same command goes on") as caught:
            run(api, tmp_path)
        assert len(api.pages) == 9
        assert "\n" not in str(caught.value)
        assert list(tmp_path.rglob("*.json")) == []

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
    def test_refusal_is_final_clear_and_without_the_key(self, api, tmp_path, status):
        api.script = [status]
        with pytest.raises(PipelineError, match=rf"page 1: the server answered {status}") as caught:
            run(api, tmp_path)
        assert len(api.pages) == 1
        assert ("XENO_CANTO_KEY" in str(caught.value)) == (status in (401, 403))
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert api.downloads == []  # the redirection is not followed

    def test_wait_grows(self, api, tmp_path, monkeypatch):
        waits = []
        monkeypatch.setattr(download, "BACKOFF_SECONDS", 1.0)
        monkeypatch.setattr(xenocanto.time, "sleep", waits.append)
        api.add(1)
        api.script = [503] * 8
        run(api, tmp_path)
        assert [wait for wait in waits if wait] == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_one_request_per_second(self, api, tmp_path, monkeypatch):
        monkeypatch.setattr(xenocanto, "PAUSE_SECONDS", 0.2)
        for number in (1, 2, 3):
            api.add(number)
        run(api, tmp_path)
        assert len(api.times) == 4
        assert min(np.diff(api.times)) > 0.19

    def test_the_limit_is_a_second(self):
        assert xenocanto.PAUSE_SECONDS == 1.0

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_file_that_is_gone_costs_only_itself(self, api, tmp_path, status):
        for number in (1, 2, 3):
            api.add(number)
        api.gone = {"2": status}
        corpus = run(api, tmp_path)
        assert [row.media_id for row in corpus.recordings] == ["XC1", "XC3"]
        assert [(r.file, r.reason) for r in corpus.rejects] == [("audio/Parus_major/XC2.mp3", "not_available")]
        assert str(status) in corpus.rejects[0].detail

    @pytest.mark.parametrize("status", [404, 500])
    def test_a_file_that_cannot_be_had_is_not_asked_for_again(self, api, tmp_path, status):
        for number in (1, 2, 3):
            api.add(number)
        api.gone = {"3": status}
        first = run(api, tmp_path)
        assert [row.media_id for row in first.recordings] == ["XC1", "XC2"]
        (reject,) = first.rejects
        assert (reject.file, reject.reason) == ("audio/Parus_major/XC3.mp3", "not_available")
        assert str(status) in reject.detail
        asked, time_of_list = len(api.downloads), (tmp_path / "refused.csv").stat().st_mtime_ns
        assert run(api, tmp_path) == first
        assert len(api.downloads) == asked
        assert (tmp_path / "refused.csv").stat().st_mtime_ns == time_of_list

    def test_several_in_a_row_that_cannot_be_had_stop(self, api, tmp_path):
        for number in range(1, 7):
            api.add(number)
        api.gone = dict.fromkeys("3456", 503)
        with pytest.raises(PipelineError, match=r"gave up.*503.*resumes"):
            run(api, tmp_path)
        assert set(api.downloads) == set("12345")
        api.gone = {}
        assert len(run(api, tmp_path).recordings) == 6

    def test_a_network_that_is_gone_for_a_moment(self, api, tmp_path, monkeypatch):
        api.add(1)
        opened, failures = urllib.request.urlopen, [socket.gaierror(-3, "Temporary failure in name resolution")]

        def fails_first(request, timeout):
            if failures:
                raise urllib.error.URLError(failures.pop())
            return opened(request, timeout=timeout)

        monkeypatch.setattr(urllib.request, "urlopen", fails_first)
        assert len(run(api, tmp_path).recordings) == 1

    def test_fewer_recordings_than_announced_is_said(self, api, tmp_path, capsys, monkeypatch):
        api.add(1)
        api.add(1)
        run(api, tmp_path)
        assert "announced 2 recordings for 'grp:birds' and listed 1" in capsys.readouterr().out

    def test_a_damaged_page_in_the_cache(self, api, tmp_path):
        api.add(1)
        run(api, tmp_path)
        (page,) = tmp_path.rglob("*.json")
        page.write_text("{")
        with pytest.raises(PipelineError, match=r"is damaged.*Remove it"):
            run(api, tmp_path)


class TestKey:
    def test_missing(self, api, tmp_path, monkeypatch):
        monkeypatch.delenv("XENO_CANTO_KEY")
        with pytest.raises(PipelineError, match="environment variable XENO_CANTO_KEY"):
            run(api, tmp_path)
        assert api.pages == []

    def test_is_in_no_file_and_no_line(self, api, tmp_path, capsys):
        api.add(1, rmk=f"my key is {KEY}")
        api.script = [503]
        config = configuration.load(
            None, ["data.source=xenocanto", f"data.url={api.url}", "data.query=grp:birds", f"data.folder={tmp_path}"]
        )
        fetch(config, 1)
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        out = capsys.readouterr()
        for form in (KEY, urllib.parse.quote_plus(KEY), urllib.parse.quote(KEY), json.dumps(KEY)):
            assert form.encode() not in written
            assert form not in out.out + out.err
        assert len(read_table(config.corpus_dir / "recordings.csv", Recording)) == 1

    @pytest.mark.parametrize("url", ["http://xeno-canto.org/api/3/recordings", "ftp://127.0.0.1/x", "x", "file:///etc"])
    def test_goes_nowhere_unencrypted(self, tmp_path, url):
        with pytest.raises(ConfigError, match=r"data\.url.*https"):
            Source(query="grp:birds", url=url).fetch(tmp_path, 0, 1)


class TestAnswers:
    """What is in an answer is not trusted."""

    def reasons(self, api: Api, tmp_path: Path, **options) -> list[str]:
        api.add(77)
        corpus = run(api, tmp_path, **options)
        assert [row.media_id for row in corpus.recordings] == ["XC77"]
        assert len(list((tmp_path / "audio").rglob("*.*"))) == 1
        return [reject.reason for reject in corpus.rejects]

    @pytest.mark.parametrize("file", ["", None, "ABSENT"])
    def test_restricted(self, api, tmp_path, file):
        api.add(1, file=file)
        assert self.reasons(api, tmp_path) == ["restricted"]

    @pytest.mark.parametrize(
        "file", ["https://elsewhere.org/1", "//127.0.0.2/1", "file:///etc/passwd", "http://127.0.0.1:1/1"]
    )
    def test_files_elsewhere(self, api, tmp_path, file):
        api.add(1, file=file)
        assert self.reasons(api, tmp_path) == ["foreign_address"]

    @pytest.mark.parametrize("number", ["../../1", "", "1e3", "9" * 40])
    def test_numbers(self, api, tmp_path, number):
        api.add(1, id=number)
        assert self.reasons(api, tmp_path) == ["bad_media_id"]

    @pytest.mark.parametrize(
        ("genus", "epithet"),
        [("", ""), ("Mystery", "mystery"), ("..", "major"), ("a/b", "c"), (None, "major"), ({}, [])],
    )
    def test_species(self, api, tmp_path, genus, epithet):
        api.recordings.append(EXAMPLE | {"id": "1", "gen": genus, "sp": epithet, "file": "/1/download"})
        assert self.reasons(api, tmp_path) == ["no_species"]

    def test_nd_on_request(self, api, tmp_path):
        api.add(1, lic="//creativecommons.org/licenses/by-nc-nd/2.5/")
        assert self.reasons(api, tmp_path, exclude_nd=True) == ["excluded_licence"]
        assert api.downloads == ["77"]

    @pytest.mark.parametrize(
        ("name", "suffix"), [("a.WAV", ".wav"), ("../../x.py", ".mp3"), ("", ".mp3"), (None, ".mp3")]
    )
    def test_suffixes(self, api, tmp_path, name, suffix):
        api.add(1, **{"file-name": name})
        (row,) = run(api, tmp_path).recordings
        assert row.file == f"audio/Parus_major/XC1{suffix}"

    def test_values_that_are_null_or_odd(self, api, tmp_path):
        empty = dict.fromkeys(set(EXAMPLE) - {"id", "gen", "sp"})
        api.add(1, **empty)
        api.add(2, q="no score", lat="95", lon="x", date="0000-00-00", also=None, rec=["x"])
        api.add(3, also=True, rec="half a \ud800 letter")
        api.add(4, also=["Turdus merula", 5], en={})
        one, two, three, four = run(api, tmp_path).recordings
        assert (three.author, three.background, four.vernacular_name) == ("half a ? letter", "", "")
        assert (one.quality, one.author, one.group) == ("", "", "Parus_major|XC1")
        assert (two.quality, two.latitude, two.longitude, two.date, two.author) == ("", "", "", "", "")


class TestQueries:
    @pytest.mark.parametrize("query", ["", "great tit", "grp:birds tit", "grp:", "cnt:united kingdom"])
    def test_made_of_tags_only(self, tmp_path, query):
        with pytest.raises(ConfigError, match=r"data\.query.*grp:birds"):
            Source(query=query).fetch(tmp_path, 0, 1)

    @pytest.mark.parametrize("query", ["grp:birds", 'en:"=great tit"', "box:50,5,55,15 q:A", 'q:">B" nr:1,2,3'])
    def test_accepted(self, query):
        assert Source(query=query).queries() == [query]

    @pytest.mark.parametrize("name", ["Parus", "Parus major key:x", "", "a b c d"])
    def test_species_names(self, name):
        with pytest.raises(ConfigError, match=r"data\.species"):
            Source(species=(name,)).queries()


def test_through_stage_1(api, tmp_path):
    api.add(1)
    api.add(2, file="")
    config = configuration.load(
        None, ["data.source=xenocanto", f"data.url={api.url}", "data.query=grp:birds", f"data.folder={tmp_path}"]
    )
    fetch(config, 1)
    (row,) = read_table(config.corpus_dir / "recordings.csv", Recording)
    assert (row.media_id, row.sample_rate, row.licence) == ("XC1", 16_000, EXAMPLE["lic"])
    assert [(r.file, r.reason) for r in read_table(config.corpus_dir / "rejected.csv", Reject)] == [
        ("XC2", "restricted")
    ]
