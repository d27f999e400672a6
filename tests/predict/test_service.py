"""The web service: what it answers, what it refuses, and its page in a real browser."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from config import PipelineError
from predict.predict import predict
from predict.serveModel import find_examples
from predict.service.app import create_app, links, own_scripts
from predict.service.guard import Gate, Refusal, client_of, read_body
from predict.service.listener import Limits, Listener, SoundError, _run, read_names
from predict.service.shapes import Answer, Problem, SpeciesFacts, Version
from preprocess.recordings import Species
from tests.browser import Browser, needs_chromium
from tests.conftest import PROJECT, run_script
from tests.predict.test_predict import copied
from tests.preprocess.disk import small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg"),
]
LIMITS = Limits(bytes=2_000_000, seconds=12)


@pytest.fixture(scope="module")
def listener(run_of_birds) -> Listener:
    return Listener(run_of_birds, LIMITS)


@pytest.mark.parametrize(("positives", "stated"), [(5, False), (29, False), (30, True)])
def test_a_probability_is_stated_from_enough_samples_only(run_of_birds, sound, tmp_path, positives, stated):
    target = copied(run_of_birds, tmp_path)
    rows = {kind.class_id: {"threshold": 0.1} for kind in target.read_species()}
    overall = {"threshold": 0.1, "n": 3 * positives, "positives": positives}
    facts = {"overall": overall, "species": rows, "calibration": {"slope": 1.0, "offset": 0.0}}
    (target.folder / "thresholds.json").write_text(json.dumps(facts))
    answer = Listener(target, LIMITS).listen(sound.read_bytes())
    assert all(("probability" in entry) == stated for entry in answer["ranking"])


def test_detections_are_by_the_thresholds_of_the_run(run_of_birds, sound, tmp_path):
    """The loudest species is never detected, the others always are."""
    target = copied(run_of_birds, tmp_path)
    rows = {"aaaaaa": {"threshold": 0.0}, "bbbbbb": {"threshold": 2.0}, "cccccc": {"threshold": 0.0}}
    facts = {"overall": {"threshold": 0.1}, "species": rows, "calibration": {"slope": 1.0, "offset": 0.0}}
    (target.folder / "thresholds.json").write_text(json.dumps(facts))
    answer = Listener(target, LIMITS).listen(sound.read_bytes())
    assert answer["ranking"][0]["class_id"] == "bbbbbb"
    assert {found["class_id"] for found in answer["detections"]} == {"aaaaaa", "cccccc"}


@pytest.fixture(scope="module")
def client(listener, run_of_birds) -> TestClient:
    examples = find_examples(run_of_birds, 6)
    app = create_app(listener, Gate(8, 10_000), examples=examples, runs=run_of_birds.folder.parent)
    return TestClient(app)


@pytest.fixture
def sound(test_sounds) -> Path:
    return test_sounds / "RN113.wav"


def detect(client, content, **options) -> dict:
    response = client.post("/api/detect", content=content, **options)
    assert response.status_code == 200, response.text
    Answer.model_validate(response.json())
    return response.json()


def refused(response) -> tuple[int, str]:
    problem = Problem.model_validate(response.json())
    assert problem.detail[0].isupper()
    return response.status_code, problem.error


# Answers


@pytest.mark.parametrize("number", ["112", "113", "114"])
def test_the_service_hears_what_prediction_hears(client, run_of_birds, test_sounds, tmp_path, number):
    """The same scores and times as ./predict.sh --format json, which reads the file with sox instead of ffmpeg."""
    path = test_sounds / f"RN{number}.wav"
    predict([run_of_birds], [path], tmp_path / "p.json", ("json",), discard=True)
    expected = json.loads((tmp_path / "p.json").read_text())["recordings"][0]
    found = detect(client, path.read_bytes())
    assert found["duration"] == pytest.approx(expected["duration"], abs=1e-3)
    for key in ("ranking", "detections"):
        assert [entry["class_id"] for entry in found[key]] == [entry["class_id"] for entry in expected[key]]
        for own, other in zip(found[key], expected[key], strict=True):
            assert own["score"] == pytest.approx(other["score"], abs=1e-5)
            assert own.get("start") == other.get("start")
            assert own.get("end") == other.get("end")
    assert found["detections"]
    assert "reason" not in found


def test_the_picture_shows_the_sound(client, tmp_path):
    """A tone of 2 kHz in the second half only."""
    time = np.arange(4 * 32_000) / 32_000
    soundfile.write(tmp_path / "x.wav", np.where(time > 2, 0.3 * np.sin(2 * np.pi * 2000 * time), 0), 32_000)
    found = detect(client, (tmp_path / "x.wav").read_bytes())
    header, _, data = found["picture"].partition(",")
    assert header == "data:image/png;base64"
    import base64

    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), float)
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (1 - (row + 0.5) / image.shape[0]) * found["highest"] == pytest.approx(2000, abs=60)
    assert column / image.shape[1] > 0.49
    assert image[:, : int(0.45 * image.shape[1])].max() < image.max() / 2


@pytest.mark.parametrize("ending", ["mp3", "ogg", "flac", "webm", "m4a", "aiff", "w64", "mp4"])
def test_any_format(client, sound, tmp_path, ending):
    """The best species is the same; m4a and mp4 have their index at the end, mp4 has a picture too."""
    picture = ["-f", "lavfi", "-i", "color=red:size=64x64:duration=2"] if ending == "mp4" else []
    made = tmp_path / f"sound.{ending}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(sound), *picture, str(made)], check=True)
    expected = detect(client, sound.read_bytes())
    found = detect(client, made.read_bytes())
    assert found["ranking"][0]["class_id"] == expected["ranking"][0]["class_id"]
    assert found["duration"] == pytest.approx(expected["duration"], abs=0.15)


def test_a_form_is_the_same_as_bytes(client, sound):
    form = client.post("/api/detect", files={"file": ("../../etc/passwd", sound.read_bytes(), "audio/wav")})
    assert form.status_code == 200
    assert form.json() == detect(client, sound.read_bytes())


def test_no_clear_bird(client, tmp_path, listener, monkeypatch):
    monkeypatch.setattr(
        listener, "facts", listener.facts.__class__(**vars(listener.facts) | {"minimum": np.full(3, 2)})
    )
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.01, 48_000), 16_000)
    found = detect(client, (tmp_path / "x.wav").read_bytes())
    assert found["detections"] == []
    assert found["reason"] == "no_clear_bird"
    assert len(found["ranking"]) == 3
    assert client.get("/api/species/aaaaaa").json()["minimum"] is None


# What is refused


def wav_of(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (400, "empty")),
        (wav_of(np.zeros(0)), (400, "empty")),
        (b"no sound at all", (415, "not_audio")),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", (415, "not_audio")),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", (415, "not_audio")),
        (wav_of(np.zeros(13 * 16_000)), (413, "too_long")),
        (b"\0" * 2_000_001, (413, "too_large")),
    ],
)
def test_refusals(client, content, expected):
    assert refused(client.post("/api/detect", content=content)) == expected


def test_a_very_short_sound_has_no_picture(client):
    found = detect(client, wav_of(np.full(200, 0.1)))
    assert found["picture"] == ""
    assert found["duration"] == pytest.approx(200 / 16_000, abs=1e-3)


def test_a_picture_is_no_sound(client):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, format="JPEG")
    assert refused(client.post("/api/detect", content=buffer.getvalue())) == (415, "not_audio")


def test_playlists_open_no_files_of_this_machine(client, sound, tmp_path):
    """Formats that name other files are not opened: the sound behind them would be heard."""
    shutil.copy(sound, tmp_path / "secret.wav")
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(sound), str(tmp_path / "secret.mp4")], check=True)
    length = '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"'
    kind = '<Representation mimeType="audio/mp4" codecs="mp4a.40.2" bandwidth="69000" audioSamplingRate="44100">'
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n",
        f"<?xml version='1.0'?>{length} profiles='urn:mpeg:dash:profile:isoff-live:2011'><Period duration='PT2S'>"
        f"<AdaptationSet contentType='audio'>{kind}<BaseURL>{tmp_path}/secret.mp4</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>",
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na=control:{tmp_path}\n",
    ):
        assert refused(client.post("/api/detect", content=text.encode())) == (415, "not_audio")


def test_samples_that_are_no_numbers(client):
    """NaN and infinite samples end in an answer or a refusal, never in a failure."""
    samples = np.full(32_000, np.nan, np.float32)
    response = client.post("/api/detect", content=wav_of(samples, subtype="FLOAT"))
    assert response.status_code in (200, 400, 415)


def test_a_body_without_length_is_read_no_further_than_allowed(listener):
    """1 GB of chunks is refused after 2 MB."""
    taken = 0

    def chunks():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"\0" * 1_000_000

    with serving(create_app(listener, Gate(8, 100))) as address, contextlib.suppress(httpx.HTTPError):
        response = httpx.post(f"{address}/api/detect", content=chunks(), timeout=30)
        assert refused(response) == (413, "too_large")
    assert taken < 100


def test_what_is_announced_to_be_too_large_is_not_read():
    """Nothing of it, not even the first piece."""

    async def receive():
        assert most == 100, "was read"
        return {"type": "http.request", "body": b"x" * 100}

    request = Request({"type": "http", "headers": [(b"content-length", b"100")]}, receive)
    for most in (99, 98):
        with pytest.raises(Refusal) as refusal:
            asyncio.run(read_body(request, most))
        assert refusal.value.reason == "too_large"
    most = 100
    assert asyncio.run(read_body(request, most)) == b"x" * 100


def test_forms_are_as_small_as_their_sound(client, sound):
    """One file and a few fields; the file may not be larger than a sound without a form."""
    for size in (2_000_001, 2_010_000):
        assert refused(client.post("/api/detect", files={"file": ("a", b"\0" * size)})) == (413, "too_large")
    assert refused(client.post("/api/detect", files={"file": ("a", b"\0" * 2_000_000)})) == (415, "not_audio")
    content = sound.read_bytes()
    two = [("file", ("a", content)), ("other", ("b", b"x"))]
    assert refused(client.post("/api/detect", files=two)) == (415, "not_audio")
    for count, status in ((4, 200), (5, 415)):
        fields = {f"field{i}": "x" for i in range(count)}
        assert client.post("/api/detect", files={"file": ("a", content)}, data=fields).status_code == status


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"--x\r\nnothing", "multipart/form-data; boundary=x", (400, "empty")),
        (b"abc", "multipart/form-data", (415, "not_audio")),
        (b"--x--\r\n", "multipart/form-data; boundary=x", (400, "empty")),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            (400, "empty"),
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            (400, "empty"),
        ),
    ],
)
def test_forms_that_hold_no_sound(client, body, kind, expected):
    assert refused(client.post("/api/detect", content=body, headers={"Content-Type": kind})) == expected


def test_a_refusal_says_when_to_come_back():
    gate = Gate(9, 2)
    gate.enter("a", 0.0)
    gate.enter("a", 30.0)
    with pytest.raises(Refusal) as refusal:
        gate.enter("a", 50.5)
    assert refusal.value.answer().headers["Retry-After"] == "10"


def test_the_gate_lets_so_many_wait():
    gate = Gate(2, 100)
    gate.enter("a", 0.0)
    gate.enter("b", 0.0)
    with pytest.raises(Refusal) as refusal:
        gate.enter("c", 0.0)
    assert refusal.value.reason == "busy"
    assert refusal.value.answer().status_code == 503
    assert refusal.value.answer().headers["retry-after"] == "5"
    gate.leave("a")
    gate.enter("c", 0.0)


def test_one_client_does_not_fill_the_queue():
    assert [Gate(queue, 1).most for queue in (1, 2, 8, 9, 64)] == [1, 1, 7, 7, 56]
    gate = Gate(3, 100)
    gate.enter("a", 0.0)
    gate.enter("a", 0.0)
    with pytest.raises(Refusal) as refusal:
        gate.enter("a", 0.0)
    assert refusal.value.answer().headers["connection"] == "close"  # so that a body is not waited for
    gate.enter("b", 0.0)
    gate.leave("a")
    gate.enter("a", 0.0)


def test_the_gate_counts_a_minute():
    """Three a minute: the fourth waits until the first is 60 s ago; others are not concerned."""
    gate = Gate(100, 3)
    for second in (0, 10, 20):
        gate.enter("a", second)
    for second in (20, 59.9):
        with pytest.raises(Refusal) as refusal:
            gate.enter("a", second)
        assert refusal.value.answer().status_code == 429
    gate.enter("b", 59.9)
    gate.enter("a", 60)
    with pytest.raises(Refusal):
        gate.enter("a", 69)
    gate.enter("a", 70)
    for number in range(1000):
        gate.enter(f"other {number}", 200 + 61 * number)
        gate.leave(f"other {number}")
    assert len(gate._times) == 1  # old clients are forgotten


def test_the_gate_forgets_all_who_have_left():
    """Also beside a client that keeps coming: of the others those of the last minute are known."""
    gate = Gate(100, 100)
    for second in range(0, 6000, 10):
        for name in ("regular", f"passing {second}"):
            gate.enter(name, second)
            gate.leave(name)
    assert set(gate._times) == {"regular", *(f"passing {second}" for second in range(5940, 6000, 10))}
    assert not gate._places
    assert gate.inside == 0


def test_a_full_service_says_so(listener, sound):
    client = TestClient(create_app(listener, Gate(1, 2)))
    content = sound.read_bytes()
    assert client.post("/api/detect", content=content).status_code == 200
    assert refused(client.post("/api/detect", content=b"")) == (400, "empty")
    assert refused(client.post("/api/detect", content=content)) == (429, "too_many")
    gate = Gate(1, 100)
    gate.enter("somebody")
    assert refused(TestClient(create_app(listener, gate)).post("/api/detect", content=content)) == (503, "busy")


def test_a_token(listener, sound):
    client = TestClient(create_app(listener, Gate(8, 100), token="open sesame"))
    for headers in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Bearer é".encode()}):
        assert refused(client.get("/api/species", headers=headers)) == (401, "token")
        assert refused(client.post("/api/detect", content=sound.read_bytes(), headers=headers)) == (401, "token")
    assert client.get("/").status_code == client.get("/api/health").status_code == 200
    assert client.get("/api/species", headers={"Authorization": "Bearer open sesame"}).status_code == 200


def test_nothing_stays(client, sound, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    detect(client, sound.read_bytes())
    refused(client.post("/api/detect", content=b"x"))
    assert list(tmp_path.iterdir()) == []


def test_sounds_are_kept_where_that_is_asked(listener, sound, tmp_path):
    client = TestClient(create_app(listener, Gate(8, 100), keep=tmp_path))
    assert client.get("/api/version").json()["keeps"] is True
    found = detect(client, sound.read_bytes())
    kept, answer = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert kept.read_bytes() == sound.read_bytes()
    assert json.loads(answer.read_text())["detections"] == found["detections"]
    assert kept.stem == answer.stem


# The rest of the interface


def test_species(client):
    kinds = [SpeciesFacts.model_validate(kind) for kind in client.get("/api/species").json()]
    assert [kind.class_id for kind in kinds] == ["aaaaaa", "bbbbbb", "cccccc"]
    assert kinds[0].vernacular_name == "<script>alert(1)</script>"
    assert client.get("/api/species/bbbbbb").json()["scientific_name"] == "Genus beta"
    assert refused(client.get("/api/species/zzz")) == (404, "unknown")
    assert refused(client.get("/api/species/..%2f..%2fetc")) == (404, "unknown")


def test_links():
    assert links("Erithacus rubecula") == {
        "xeno-canto": "https://xeno-canto.org/species/Erithacus-rubecula",
        "eBird": "https://ebird.org/explore?q=Erithacus%20rubecula",
        "Wikipedia": "https://en.wikipedia.org/wiki/Erithacus_rubecula",
    }
    assert links("noise") == links("javascript:alert(1)") == links("Genus") == {}


def test_health_and_version(client):
    assert client.get("/api/health").json() == {"status": "ok", "inside": 0}
    version = Version.model_validate(client.get("/api/version").json())
    assert (version.model, version.species, version.most_seconds, version.keeps) == ("birds", 3, 12, False)


def test_samples(client):
    samples = client.get("/api/samples").json()
    assert [sample["name"] for sample in samples] == ["112", "113", "114"]
    content = client.get(samples[1]["address"]).content
    assert detect(client, content)["ranking"][0]["class_id"] == "bbbbbb"
    for address in ("/api/samples/3", "/api/samples/-1", "/api/samples/x", f"/api/samples/{10**30}"):
        assert refused(client.get(address)) == (404, "unknown")


def test_every_answer_is_hardened(client):
    for address in ("/", "/listen.js", "/listen.css", "/runs", "/api/health", "/nowhere", "/api/species/x"):
        headers = client.get(address).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert refused(client.get("/../../config/demo.toml")) == (404, "unknown")
    assert client.put("/api/detect", content=b"x").json() == {"error": "unknown", "detail": "Method Not Allowed"}


def test_a_failure_tells_nothing(listener, sound, monkeypatch):
    def fail(_):
        raise ValueError("/secret/path")

    monkeypatch.setattr(listener, "listen", fail)
    client = TestClient(create_app(listener, Gate(8, 100)), raise_server_exceptions=False)
    response = client.post("/api/detect", content=sound.read_bytes())
    assert refused(response) == (500, "internal")
    assert "secret" not in response.text


def test_the_runs(client, run_of_birds):
    page = client.get("/runs")
    assert run_of_birds.folder.name in page.text
    assert page.headers["content-security-policy"] == own_scripts(page.text)
    assert "unsafe-inline" not in page.headers["content-security-policy"].split("style-src")[0]


def test_the_interface_is_described(client):
    """The description names every address, the body and the refusals of detect, and the shapes of the answers."""
    facts = client.get("/api/openapi.json").json()
    assert facts["openapi"].startswith("3.")
    assert set(facts["paths"]) == {
        "/api/health",
        "/api/version",
        "/api/species",
        "/api/species/{class_id}",
        "/api/samples",
        "/api/samples/{number}",
        "/api/detect",
    }
    post = facts["paths"]["/api/detect"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/octet-stream", "audio/*", "multipart/form-data"}
    assert set(post["responses"]) == {"200", "400", "401", "413", "415", "429", "503"}
    assert {"Answer", "Detection", "Problem", "SpeciesFacts"} <= set(facts["components"]["schemas"])


# Names


SPECIES = [Species("a1", "Erithacus rubecula"), Species("b2", "Turdus merula")]


@pytest.mark.parametrize("key", ["class_id,b2", "scientific_name,Turdus merula"])
def test_names_in_several_languages(tmp_path, key):
    column, value = key.split(",")
    (tmp_path / "n.csv").write_text(f"\ufeff{column},de,fr\n{value},Amsel,Merle noir\nx,Nichts,\n", encoding="utf-8")
    assert read_names(tmp_path / "n.csv", SPECIES) == [{}, {"de": "Amsel", "fr": "Merle noir"}]


def test_a_table_of_names_that_is_too_large(tmp_path, monkeypatch):
    (tmp_path / "n.csv").write_text("class_id,de\na1,Amsel\n")
    monkeypatch.setattr("predict.service.listener.NAMES_BYTES", 21)
    assert read_names(tmp_path / "n.csv", SPECIES)[0] == {"de": "Amsel"}
    monkeypatch.setattr("predict.service.listener.NAMES_BYTES", 20)
    with pytest.raises(PipelineError, match="is larger than 20 bytes: it cannot be a table of names"):
        read_names(tmp_path / "n.csv", SPECIES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a column class_id or scientific_name, and one per language .* no row"),
        ("id,de\na1,Amsel\n", "it has: 'id, de'"),
        ("class_id\na1\n", "it has: 'class_id'"),
        ("class_id,de\nzz,Amsel\n", "names none of the species of the run by class_id"),
        (None, "cannot be read"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, text, words):
    if text is not None:
        (tmp_path / "n.csv").write_text(text)
    with pytest.raises(PipelineError, match=words):
        read_names(tmp_path / "n.csv", SPECIES)


# The command, as its users have it


@contextlib.contextmanager
def serving(app):
    """Serve an application from a thread; give its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", port=0))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def service(run_of_birds, tmp_path_factory):
    """The command in a process of its own: the process and its address."""
    home = tmp_path_factory.mktemp("service")
    shutil.copytree(run_of_birds.folder, home / "runs" / "birds")
    (home / "runs" / "birds" / "names.csv").write_text("class_id,de\nbbbbbb,Mittelton\n", encoding="utf-8")
    command = [sys.executable, "predict/serveModel.py", "--run", home / "runs" / "birds", "--port", "0"]
    process = subprocess.Popen(
        [*map(str, command), "--seconds", "12", "--per-minute", "100000"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    said, address = [], None
    for line in process.stdout:  # on some processors TensorFlow says something first, whatever it is told
        said.append(line)
        address = re.search(r"birds listens on (http://127\.0\.0\.1:\d+) after [\d.]+ s", line)
        if address:
            break
    assert address, "".join(said)
    yield process, address[1]
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert "Traceback" not in said


def test_fifty_clients_at_once(service, sound, tmp_path):
    """50 clients send 5 s each, all at the same time, twice: each has its answer, and memory does not grow."""
    process, address = service
    samples, rate = soundfile.read(sound)
    soundfile.write(tmp_path / "five.wav", samples[: 5 * rate], rate)
    content = (tmp_path / "five.wav").read_bytes()

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{address}/api/detect", content=content, timeout=120)

    memory = []
    with ThreadPoolExecutor(50) as clients:
        for _ in range(3):
            answers = list(clients.map(ask, range(50)))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.text for answer in answers}) == 1
            memory.append(psutil.Process(process.pid).memory_info().rss)
    assert memory[2] < memory[0] + 60e6


def test_an_address_that_is_taken(service, run_of_birds):
    port = service[1].rpartition(":")[2]
    done = run_script("predict/serveModel.py", "--run", run_of_birds.folder, "--port", port)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: 127.0.0.1:{port} cannot be listened on: Address already in use. Choose another --port.\n"
    )


def test_a_weak_token_and_no_run(tmp_path):
    done = run_script("predict/serveModel.py", "--run", tmp_path, env={"BIRDSONG_TOKEN": "x"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "BIRDSONG_TOKEN has fewer than 8 characters" in done.stderr
    done = run_script("predict/serveModel.py", "--run", tmp_path, env={"BIRDSONG_TOKEN": "größe-des-vogels"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "BIRDSONG_TOKEN holds what no header can" in done.stderr
    done = run_script("predict/serveModel.py", "--run", tmp_path, "--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = run_script("predict/serveModel.py", "--seconds", "0")
    assert done.returncode == 2
    assert "--seconds is a number of more than 0" in done.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


HEARD = "!document.getElementById('result').hidden"


@needs_chromium
def test_uploading_in_a_browser(service, browser, sound):
    """Detections are drawn where they are, named in the language that is chosen, and play from their beginning."""
    expected = httpx.post(f"{service[1]}/api/detect", content=sound.read_bytes()).json()
    browser.open(service[1])
    browser.wait("document.querySelectorAll('#samples button').length === 3")
    browser.choose_files("#file", sound)
    browser.wait(HEARD)
    marks = browser.run(
        "(() => { const stage = document.getElementById('stage').getBoundingClientRect();"
        "return [...document.querySelectorAll('#marks button')].map(mark => { const box = mark.getBoundingClientRect();"
        "return [(box.left - stage.left) / stage.width, box.width / stage.width, mark.textContent]; }); })()"
    )
    found = sorted(expected["detections"], key=lambda own: (own["start"], own["end"], own["vernacular_name"]))
    assert len(marks) == len(found) >= 1
    for (left, width, name), own in zip(sorted(marks), found, strict=True):
        assert left == pytest.approx(own["start"] / expected["duration"], abs=0.01)
        assert width == pytest.approx((own["end"] - own["start"]) / expected["duration"], abs=0.01)
        assert name == own["vernacular_name"]
    title = "document.querySelector('#species h3').textContent"
    assert 'Tom & "Jerry"' in browser.run(title)
    browser.run("(() => { const s = document.getElementById('language'); s.value = 'de'; s.onchange(); })()")
    assert "Mittelton" in browser.run(title)
    assert browser.run("document.activeElement.id") == "result-title"  # where a screen reader goes on
    browser.run("document.querySelector('#marks button').click()")
    browser.wait("!audio.paused && audio.currentTime > 0.3")
    browser.wait("parseFloat(document.getElementById('cursor').style.left) > 1")
    assert browser.errors == []


@needs_chromium
def test_samples_and_keys_in_a_browser(service, browser):
    """A sample is chosen with the keyboard alone; names from metadata are shown, not run."""
    browser.open(service[1])
    browser.wait("document.querySelectorAll('#samples button').length === 3")
    for _ in range(10):
        browser.press("Tab", 9)
        if browser.run("document.activeElement.closest('#samples') !== null"):
            break
    assert browser.run("document.activeElement.textContent") == "<script>alert(1)</script>"
    browser.press("Enter", 13, "\r")
    browser.wait(HEARD)
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('#species h3').textContent")
    assert browser.errors == []


@needs_chromium
def test_recording_in_a_browser(service, browser):
    """A fake microphone beeps; the recording is heard at once and can be replayed and downloaded."""
    browser.open(service[1])
    browser.wait("document.querySelectorAll('#samples button').length === 3")
    browser.run(
        "window.opened = []; const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = async how => { opened.push(await open(how)); return opened.at(-1); }; 0"
    )
    browser.run("document.getElementById('record').click(); document.getElementById('record').click()")
    browser.wait("!document.getElementById('stop').hidden && document.getElementById('clock').textContent === '3 s'")
    browser.run("document.getElementById('stop').click()")
    browser.wait(HEARD)
    assert 0.5 < browser.run("answer.duration") < 6  # a busy machine loses some of what the microphone hears
    assert browser.run("document.getElementById('spectrogram').naturalWidth") > 100
    assert browser.run("document.getElementById('download').download").endswith(".webm")
    assert browser.run("opened.flatMap(stream => stream.getTracks()).map(track => track.readyState).join()") == "ended"
    browser.run("document.getElementById('replay').click()")
    browser.wait("!audio.paused")
    assert browser.errors == []


@needs_chromium
def test_errors_in_a_browser(service, browser, tmp_path):
    """What is refused is said, and the next sound is welcome."""
    browser.open(service[1])
    browser.wait("document.querySelectorAll('#samples button').length === 3")
    (tmp_path / "notes.txt").write_text("no sound")
    browser.choose_files("#file", tmp_path / "notes.txt")
    problem = "document.getElementById('problem')"
    browser.wait(f"!{problem}.hidden")
    assert browser.run(f"{problem}.textContent") == "This is no sound that ffmpeg can read."
    assert browser.run(f"{problem}.getAttribute('role')") == "alert"
    soundfile.write(tmp_path / "long.wav", np.zeros(13 * 16_000), 16_000)
    browser.choose_files("#file", tmp_path / "long.wav")
    browser.wait(f"{problem}.textContent === 'The sound is longer than 12 s.'")
    browser.run("document.querySelector('#samples button').click()")
    browser.wait(HEARD)
    assert browser.run(f"{problem}.hidden")
    browser.errors.clear()  # the console tells of every answer that is an error
    browser.open(f"{service[1]}/runs")
    browser.wait("document.getElementById('shown').textContent === '1'")
    assert browser.errors == []


@needs_chromium
def test_the_page_on_a_phone(service, tmp_path):
    """Nothing is wider than the screen, and what is to be touched is large enough."""
    with Browser(tmp_path, (412, 900)) as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        browser.open(service[1])
        browser.wait("document.querySelectorAll('#samples button').length === 3")
        browser.run("document.querySelector('#samples button').click()")
        browser.wait(HEARD)
        assert browser.run("document.documentElement.scrollWidth") <= 360
        heights = browser.run(
            "['record', 'drop', 'save'].map(id => document.getElementById(id).getBoundingClientRect().height)"
        )
        assert min(heights) >= 44


def test_a_sound_error_has_a_reason(listener):
    with pytest.raises(SoundError) as error:
        listener.listen(b"")
    assert (error.value.reason, error.value.detail) == ("empty", "The file is empty.")


def test_what_takes_too_long_ends_with_all_that_it_has_started(tmp_path, monkeypatch):
    """As the script that starts sox, which would go on alone."""
    monkeypatch.setattr("predict.service.listener.DECODE_SECONDS", 2.0)
    with pytest.raises(SoundError, match="took more than 2 s to decode"):
        _run("bash", ["bash", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"])
    child = int((tmp_path / "child").read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child)
        _, alive = psutil.wait_procs([process], 5)
        assert all(one.status() == psutil.STATUS_ZOMBIE for one in alive)


def test_a_small_file_that_unpacks_to_a_huge_one(client, tmp_path):
    """Silence in eight channels at 192 kHz is 56 kB of FLAC a minute and 6 MB a second of samples."""
    soundfile.write(tmp_path / "x.flac", np.zeros((192_000 * 11, 8), np.int16), 192_000)
    assert (tmp_path / "x.flac").stat().st_size < LIMITS.bytes
    assert refused(client.post("/api/detect", content=(tmp_path / "x.flac").read_bytes())) == (413, "too_large")


def test_a_full_disk_is_not_the_visitors_fault(client, sound, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    assert refused(client.post("/api/detect", content=sound.read_bytes())) == (503, "busy")


@pytest.mark.parametrize("form", [False, True])
def test_a_disk_that_is_really_full(client, sound, tmp_path, monkeypatch, form):
    with small_disk(tmp_path / "disk", 64) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        content = sound.read_bytes()
        large = content * (1 + (1 << 20) // len(content))  # what is larger than a megabyte is spooled to the disk
        given = {"files": {"file": ("x.wav", large)}} if form else {"content": content}
        assert refused(client.post("/api/detect", **given)) == (503, "busy")


def test_odd_forms(client):
    for kind in ("multipart/form-data; boundary=x; charset=undefined", "Multipart/Form-Data; boundary=x"):
        answer = client.post("/api/detect", content=b"--x\r\n", headers={"Content-Type": kind})
        assert answer.status_code in (400, 415)


def test_who_is_counted():
    """Addresses that anybody can write are not, those that the proxies wrote are; IPv6 by its network."""

    def who(proxies: int, *forwarded: str, peer: str = "192.0.2.1") -> str:
        headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
        return client_of(Request({"type": "http", "headers": headers, "client": (peer, 1)}), proxies)

    assert who(0, "198.51.100.7") == "192.0.2.1"
    assert who(1, "198.51.100.7, 203.0.113.9") == "203.0.113.9"
    assert who(2, "10.0.0.1, 198.51.100.7", "203.0.113.9") == "198.51.100.7"
    assert who(3, "203.0.113.9") == "192.0.2.1"
    assert who(1, "x" * 50_000) == "192.0.2.1"
    assert who(1, "203.0.113.9:4711") == "203.0.113.9"
    assert who(1, "[2001:db8:1:2:3::4]:4711") == who(1, "2001:db8:1:2::5") == "2001:db8:1:2::/64"
    assert who(0, peer="::ffff:192.0.2.1") == "192.0.2.1"
    assert who(0, peer="testclient") == ""


def test_waiting_ends(listener, sound, monkeypatch):
    """While one sound is listened to, the next waits for its turn so long and no longer; then all goes on."""
    monkeypatch.setattr("predict.service.app.WAIT_SECONDS", 0.3)
    going, done = threading.Event(), threading.Event()
    listen = listener.listen

    def slow(content):
        going.set()
        assert done.wait(20)
        return listen(content)

    monkeypatch.setattr(listener, "listen", slow)
    content = sound.read_bytes()
    with serving(create_app(listener, Gate(8, 100), workers=1)) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{address}/api/detect", content=content, timeout=60)
        assert going.wait(20)
        threads = threading.active_count()
        assert refused(httpx.post(f"{address}/api/detect", content=content, timeout=30)) == (503, "busy")
        assert threading.active_count() <= threads
        done.set()
        assert first.result().status_code == 200
        assert httpx.post(f"{address}/api/detect", content=content, timeout=30).status_code == 200


def test_a_sound_that_never_arrives(listener, monkeypatch):
    monkeypatch.setattr("predict.service.app.BODY_SECONDS", 0.3)
    gate = Gate(8, 100)
    with serving(create_app(listener, gate)) as address, socket.create_connection(address[7:].split(":")) as client:
        client.sendall(b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
        assert gate.inside == 0


def test_the_runs_ask_for_the_token_too(listener, run_of_birds):
    app = create_app(listener, Gate(8, 100), token="open sesame", runs=run_of_birds.folder.parent)
    assert refused(TestClient(app).get("/runs")) == (401, "token")


def test_a_failure_has_the_headers_too(listener, sound, monkeypatch):
    monkeypatch.setattr(listener, "listen", lambda _: 1 / 0)
    client = TestClient(create_app(listener, Gate(8, 100)), raise_server_exceptions=False)
    assert client.post("/api/detect", content=sound.read_bytes()).headers["x-content-type-options"] == "nosniff"


def test_a_port_that_is_none(run_of_birds):
    done = run_script("predict/serveModel.py", "--run", run_of_birds.folder, "--port", "70000")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:70000 cannot be listened on" in done.stderr
