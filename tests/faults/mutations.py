"""Hostile input: valid files of every kind that the project reads, and random changes of them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import soundfile

from preprocess.recipes.birdclef2016 import Recipe
from preprocess.recordings import Recording, Species, write_table
from preprocess.seals import seal_content
from preprocess.shards import write_shard
from tests.conftest import tone

RATE = 16_000
VALID = -1  # the seed of what is not mutated
EDGES = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00\x00\x00\x80", b"\x00" * 64)
WORDS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "9" * 400,
    "../../etc/passwd",
    "/etc/passwd",
    "a\x00b",
    '"',
    "\r",
    "\ufeff",
    "<x>",
    "&e;",
)


def mutate(content: bytes, rng: np.random.Generator, header: int = 0) -> bytes:
    """Return bytes with one to four changes; most of them within the first `header` bytes where that is given."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        reach = min(len(data), header) if header and rng.random() < 0.7 else len(data)
        at = int(rng.integers(reach)) if reach else 0
        kind = rng.integers(6)
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            edge = EDGES[rng.integers(len(EDGES))]
            data[at : at + len(edge)] = edge
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 4:
            del data[at:]
        else:
            length = int(rng.integers(1, 256))
            data[at : at + length] = data[at : at + length] * 2
    return bytes(data)


def mutate_text(content: bytes, rng: np.random.Generator) -> bytes:
    """Return text with changed words, lines and separators, or bytes that are no text."""
    if rng.random() < 0.4:
        return mutate(content, rng)
    lines = content.decode().split("\n")
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(lines)))
        kind = rng.integers(5)
        word = WORDS[rng.integers(len(WORDS))]
        if kind == 0:
            cells = lines[at].split(",")
            cells[rng.integers(len(cells))] = word
            lines[at] = ",".join(cells)
        elif kind == 1:
            lines[at] = lines[at] * 2
        elif kind == 2:
            lines.insert(at, lines[int(rng.integers(len(lines)))])
        elif kind == 3:
            lines[at] = lines[at].replace(",", word or ";", 1).replace("=", word or ":", 1)
        else:
            lines[at] = lines[at].replace(">", word + ">", 1)[: int(rng.integers(1, 200))]
    return "\n".join(lines).encode(errors="surrogatepass")


def sound(form: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(2000, 1.5, RATE), RATE, format=form, subtype=subtype)
    return buffer.getvalue()


def shard(folder: Path) -> bytes:
    rows = []
    for k in range(3):
        soundfile.write(folder / f"{k}.wav", tone(1000 * (k + 1), 1, RATE), RATE, subtype="PCM_16")
        rows.append((Recording(str(k), f"{k}.wav", "aaaaaa", "train", duration=1.0, sample_rate=RATE), f"{k}.wav"))
    write_shard(folder / "s.h5", Recipe(), "{}", folder, rows, "x")
    return (folder / "s.h5").read_bytes()


def weights(folder: Path) -> bytes:
    with h5py.File(folder / "w.h5", "w") as file:
        for k in range(3):
            file[f"layers/dense_{k}/vars/0"] = np.random.default_rng(k).normal(size=(8, 4)).astype(np.float32)
            file[f"layers/dense_{k}"].attrs["name"] = f"dense_{k}"
        seal_content(file)
    return (folder / "w.h5").read_bytes()


def tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("TrainingSet/wav/RN1.wav", "TrainingSet/xml/RN1.xml"):
            info = tarfile.TarInfo(name)
            info.size = 2000
            archive.addfile(info, io.BytesIO(b"x" * 2000))
    return buffer.getvalue()


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train_audio/a/1.ogg", "train.csv"):
            archive.writestr(name, b"x" * 2000)
    return buffer.getvalue()


XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<Audio><MediaId>1</MediaId><FileName>RN1.wav</FileName><ClassId>aaaaaa</ClassId><Date>2016-05-01</Date>
<Time>06:30</Time><Latitude>47.5</Latitude><Longitude>19.0</Longitude><Quality>3</Quality>
<BackgroundSpecies>Genus beta,Genus gamma</BackgroundSpecies><Genus>Genus</Genus><Species>alpha</Species>
<Author>Recordist, 1 &amp; 2</Author><AuthorID>R1</AuthorID></Audio>
"""
TABLE = b"file,label,split\na.wav,robin,train\n'b.wav',wren,test\nc/d.wav,robin,train\n"
TRUTH = b'MediaId,ClassId,BackgroundClassIds\n1,aaaaaa,"bbbbbb cccccc"\n2,bbbbbb,\n'
RUN_FILE = b"1;aaaaaa;0.5\n1;bbbbbb;0.25\n2;aaaaaa;1\n"
ANNOTATIONS = b"Filename,Start Time (s),End Time (s),Species eBird Code\na.wav,0.5,2,aaaaaa\na.wav,0:05,0:07,bbbbbb\n"
SOUNDSCAPES = b"P1;00:00:00-00:00:05;aaaaaa;0.5\nP1;00:00:05-00:00:10;bbbbbb;0.25\n"
SUBMISSION = b"row_id,aaaaaa,bbbbbb\nsoundscape_1_5,0.25,0.5\nsoundscape_1_10,0,1\n"
DETECTIONS = b"file,start,end,class_id,score\na.wav,0,5,robin,0.5\na.wav,5.0,10.0,wren,0.25\n"
RAVEN = b"Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin File\tSpecies\n1\tS\t1\t0.5\t2\ta.wav\trobin\n"
NAMES = b"class_id,de,fr\naaaaaa,Amsel,Merle\nbbbbbb,Buchfink,Pinson\n"
TOML = b'[data]\nsource = "birdclef"\nroot = "/data"\n[features]\nrecipe = "logmel"\nbands = 64\n[train]\nepochs = 3\n'


def manifest(folder: Path) -> bytes:
    write_table(folder / "m.csv", Recording, [Recording(str(k), f"{k}.wav", "aaaaaa", "train") for k in range(5)])
    return (folder / "m.csv").read_bytes()


def classes(folder: Path) -> bytes:
    write_table(folder / "c.csv", Species, [Species("aaaaaa", "Genus alpha"), Species("bbbbbb", "Genus beta", "Beta")])
    return (folder / "c.csv").read_bytes()


def thresholds(folder: Path) -> bytes:
    kinds = {"aaaaaa": {"threshold": 0.5}, "bbbbbb": {"threshold": 0.25}}
    return json.dumps(
        {"species": kinds, "overall": {"threshold": 0.3}, "calibration": {"slope": 1.0, "offset": 0.1}}
    ).encode()


# reader -> ending of the file, its valid content, and how many bytes of it are a header (0: text)
KINDS: dict[str, tuple[str, Callable[[Path], bytes], int]] = {
    "wav": (".wav", lambda _: sound("WAV", "PCM_16"), 60),
    "float_wav": (".wav", lambda _: sound("WAV", "FLOAT"), 90),
    "flac": (".flac", lambda _: sound("FLAC"), 200),
    "ogg": (".ogg", lambda _: sound("OGG", "VORBIS"), 4000),
    "mp3": (".mp3", lambda _: sound("MP3"), 400),
    "stored_wav": (".wav", lambda _: sound("WAV", "PCM_16"), 60),
    "shard": (".h5", shard, 3000),
    "weights": (".h5", weights, 2000),
    "tar": (".tar.gz", tar, 1),
    "zip": (".zip", packed, 1),
    "xml": (".xml", lambda _: XML, 0),
    "table": (".csv", lambda _: TABLE, 0),
    "manifest": (".csv", manifest, 0),
    "classes": (".csv", classes, 0),
    "truth": (".csv", lambda _: TRUTH, 0),
    "run_file": (".csv", lambda _: RUN_FILE, 0),
    "detections": (".csv", lambda _: DETECTIONS, 0),
    "submission": (".csv", lambda _: SUBMISSION, 0),
    "soundscapes": (".csv", lambda _: SOUNDSCAPES, 0),
    "annotations": (".csv", lambda _: ANNOTATIONS, 0),
    "raven": (".txt", lambda _: RAVEN, 0),
    "names": (".csv", lambda _: NAMES, 0),
    "thresholds": (".json", thresholds, 0),
    "toml": (".toml", lambda _: TOML, 0),
}


def make(kind: str, folder: Path, seed: int) -> Path:
    """Write the mutation of a kind with a seed, or the valid content, into a folder and return its path."""
    ending, valid, header = KINDS[kind]
    content, path = valid(folder), folder / f"hostile{ending}"
    if seed != VALID:
        rng = np.random.default_rng([seed, sum(map(ord, kind))])
        content = mutate(content, rng, header) if header else mutate_text(content, rng)
    path.write_bytes(content)
    return path
