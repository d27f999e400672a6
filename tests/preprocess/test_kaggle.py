"""Kaggle's tables of 2020 to 2026, with what is wrong in them, and the kaggle command."""

import csv
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config as configuration
from config import ConfigError, PipelineError
from preprocess.fetchData import fetch
from preprocess.metadata import leading_number
from preprocess.recordings import Recording, read_table
from preprocess.sources.kaggle import Source

COLUMNS_2020 = [
    "rating",
    "playback_used",
    "ebird_code",
    "channels",
    "date",
    "pitch",
    "duration",
    "filename",
    "speed",
    "species",
    "number_of_notes",
    "title",
    "secondary_labels",
    "bird_seen",
    "sci_name",
    "location",
    "latitude",
    "sampling_rate",
    "type",
    "elevation",
    "description",
    "bitrate_of_mp3",
    "file_type",
    "volume",
    "background",
    "xc_id",
    "url",
    "country",
    "author",
    "primary_label",
    "longitude",
    "length",
    "time",
    "recordist",
    "license",
]
ROW_2020 = {
    "rating": "3.5",
    "ebird_code": "aldfly",
    "date": "2013-05-25",
    "duration": "2.5",
    "filename": "XC134874.mp3",
    "species": "Alder Flycatcher",
    "secondary_labels": "[]",
    "sci_name": "Empidonax alnorum",
    "latitude": "44.793",
    "sampling_rate": "48000 (Hz)",
    "type": "call",
    "elevation": "30 m",
    "background": "[]",
    "xc_id": "134874",
    "longitude": "-92.962",
    "length": "Not specified",
    "time": "8:00",
    "recordist": "Jonathon Jongsma",
    "license": "Creative Commons Attribution-ShareAlike 3.0",
}
ROW_2024 = {
    "primary_label": "asbfly",
    "secondary_labels": "[]",
    "type": "['call', 'song']",
    "latitude": "39.2297",
    "longitude": "118.1987",
    "scientific_name": "Muscicapa dauurica",
    "common_name": "Asian Brown Flycatcher",
    "author": "Matt Slaymaker",
    "license": "Creative Commons Attribution-NonCommercial-ShareAlike 3.0",
    "rating": "5.0",
    "url": "https://www.xeno-canto.org/134896",
    "filename": "asbfly/XC134896.ogg",
}


def sound(path: Path, seconds: float = 1.0, seed: int | None = None, rate: int = 16_000) -> None:
    """Write audio that differs from all other audio of the test, unless it has the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate))
    suffix = {".mp3": ("MP3", None), ".ogg": ("OGG", "VORBIS"), ".flac": ("FLAC", None)}[path.suffix]
    soundfile.write(path, samples, rate, format=suffix[0], subtype=suffix[1])


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


class Release:
    """A competition's folder."""

    def __init__(self, root: Path, year: int) -> None:
        self.root, self.year, self.rows = root, year, []
        self.example = ROW_2020 if year == 2020 else ROW_2024
        self.columns = COLUMNS_2020 if year == 2020 else [*ROW_2024, "date", "time"]
        self.table = root / ("train.csv" if year in (2020, 2025, 2026) else "train_metadata.csv")
        self.folder = root / ("train_short_audio" if year == 2021 else "train_audio")
        self.folder.mkdir(parents=True)

    def add(self, _seed: int | None = None, **cells: str) -> None:
        row = self.example | cells
        label = row.get("ebird_code") or row.get("primary_label")
        name = row["filename"]
        if ".." not in name:
            sound(self.folder / (name if "/" in name else f"{label}/{name}"), seed=_seed)
        self.rows.append(row)

    def read(self):
        write_csv(self.table, self.columns, self.rows)
        source = Source(root=str(self.root))
        return source.read(source.fetch(self.root / "raw", 0, 1))

    def only(self) -> Recording:
        corpus = self.read()
        assert corpus.rejects == []
        (row,) = corpus.recordings
        return row


def test_row_of_2020(tmp_path):
    release = Release(tmp_path, 2020)
    assert len(release.columns) == 35
    release.add()
    assert release.only() == Recording(
        media_id="XC134874",
        file="train_audio/aldfly/XC134874.mp3",
        class_id="aldfly",
        group="aldfly|Jonathon Jongsma|2013-05-25",
        duration=2.5,
        sample_rate=48_000,
        scientific_name="Empidonax alnorum",
        vernacular_name="Alder Flycatcher",
        date="2013-05-25",
        time="08:00",
        latitude="44.793",
        longitude="-92.962",
        elevation="30",
        author="Jonathon Jongsma",
        content="call",
        quality="2.5",
        licence="Creative Commons Attribution-ShareAlike 3.0",
    )


@pytest.mark.parametrize(
    ("year", "folder"), [(2021, "train_short_audio"), (2024, "train_audio"), (2025, "train_audio")]
)
def test_row_of_later_years(tmp_path, year, folder):
    release = Release(tmp_path, year)
    release.add(**({"filename": "XC134896.ogg"} if year == 2021 else {}))
    row = release.only()
    assert (row.file, row.media_id, row.class_id) == (f"{folder}/asbfly/XC134896.ogg", "XC134896", "asbfly")
    assert (row.scientific_name, row.vernacular_name) == ("Muscicapa dauurica", "Asian Brown Flycatcher")
    assert (row.author, row.quality, row.content) == ("Matt Slaymaker", "1", "call, song")


@pytest.mark.parametrize("label", ["1139490", "007", "1e5", "nan", "None"])
def test_labels_stay_text(tmp_path, label):
    release = Release(tmp_path, 2025)
    release.add(primary_label=label, filename=f"{label}/CSA36385.ogg")
    assert release.only().class_id == label


def test_the_header_of_the_file_wins_over_the_table(tmp_path):
    """`length` is a bucket, and `duration` and `sampling_rate` are only claims."""
    release = Release(tmp_path / "release", 2020)
    release.add(duration="99", length="3-6(s)", sampling_rate="44100 (Hz)")
    release.read()
    config = configuration.load(
        None, ["data.source=kaggle", f"data.root={release.root}", f"data.folder={tmp_path}", "data.corpus=c"]
    )
    fetch(config, 1)
    (row,) = read_table(config.corpus_dir / "recordings.csv", Recording)
    assert row.sample_rate == 16_000
    assert row.duration == pytest.approx(1.0, abs=0.15)  # MP3 pads to whole frames


@pytest.mark.parametrize(
    ("stars", "quality"),
    [
        ("5", "1"),
        ("5.0", "1"),
        ("1", "5"),
        ("4.5", "1.5"),
        ("0.5", "5"),
        ("-1", ""),
        ("0", ""),
        ("0.0", ""),
        ("", ""),
        ("6", ""),
    ],
)
def test_stars_become_quality(tmp_path, stars, quality):
    release = Release(tmp_path, 2024)
    release.add(rating=stars)
    assert release.only().quality == quality


class TestSecondaryLabels:
    def background(self, tmp_path: Path, year: int, **cells: str) -> str:
        release = Release(tmp_path, year)
        release.add(**cells)
        if year == 2020:
            release.add(
                ebird_code="amecro", filename="XC2.mp3", sci_name="Corvus brachyrhynchos", species="American Crow"
            )
            release.add(
                ebird_code="amerob", filename="XC3.mp3", sci_name="Turdus migratorius", species="American Robin"
            )
        else:
            release.add(primary_label="1139490", filename="1139490/XC2.ogg", scientific_name="Ragoniella pulchella")
        return next(r for r in release.read().recordings if r.media_id in ("XC134874", "XC134896")).background

    @pytest.mark.parametrize(
        ("text", "metres"),
        [("1,200 m", "1200"), ("1,234,567", ""), ("1,5 m", ""), ("12,34", ""), ("30, by the sea", "30")],
    )
    def test_heights(self, text, metres):
        assert leading_number(text, 9000) == metres

    def test_names_of_2020_and_their_background(self, tmp_path):
        text = "['Corvus brachyrhynchos_American Crow', 'Parus major_Great Tit']"
        background = "['American Robin (Turdus migratorius)', 'Turdus migratorius']"
        assert self.background(tmp_path, 2020, secondary_labels=text, background=background) == "amecro,amerob"

    def test_codes_since_2021(self, tmp_path):
        assert self.background(tmp_path, 2024, secondary_labels="['1139490', 'zzz', 'asbfly']") == "1139490"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "['1139490'",
            "__import__('os').system('touch HERE')",
            "[__import__('os').system('touch HERE')]",
            "{'1139490'}",
            "[" * 5000 + "]" * 5000,
            "[" + "'1139490'," * 3000 + "]",
            "[1139490]",
            "'1139490'",
        ],
        ids=lambda text: text[:24],
    )
    def test_what_is_no_list_of_texts_or_too_long_is_nothing(self, tmp_path, text, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert self.background(tmp_path, 2024, secondary_labels=text) == ""
        assert not (tmp_path / "HERE").exists()


class TestRejects:
    def reasons(self, release: Release) -> dict[str, str]:
        return {reject.file: reject.reason for reject in release.read().rejects}

    def test_a_missing_file_and_a_bad_row_cost_only_themselves(self, tmp_path):
        release = Release(tmp_path, 2024)
        release.add()
        release.add(filename="asbfly/XC2.ogg")
        (release.folder / "asbfly" / "XC2.ogg").unlink()
        release.add(filename="../../etc/XC3.ogg")
        release.add(primary_label="a;b", filename="asbfly/XC4.ogg")
        release.add(primary_label="", filename="asbfly/XC5.ogg")
        reasons = self.reasons(release)
        assert reasons == {
            "train_metadata.csv:3": "no_audio",
            "train_metadata.csv:4": "bad_filename",
            "train_metadata.csv:5": "bad_class_id",
            "train_metadata.csv:6": "bad_class_id",
        }

    def test_a_name_that_no_disk_holds(self, tmp_path):
        release = Release(tmp_path, 2023)
        release.add()
        (release.folder / "a").mkdir()
        release.rows.append(release.example | {"filename": f"a/{'x' * 300}.ogg"})
        assert list(self.reasons(release).values()) == ["unreadable"]

    def test_row_with_other_cells_than_columns(self, tmp_path):
        release = Release(tmp_path, 2024)
        release.add()
        write_csv(release.table, release.columns, release.rows)
        with release.table.open("a") as stream:
            stream.write("asbfly,oops\n")
        corpus = Source(root=str(tmp_path)).read(tmp_path)
        assert [(r.file, r.reason) for r in corpus.rejects] == [("train_metadata.csv:3", "metadata_malformed")]
        assert len(corpus.recordings) == 1

    def test_the_same_recording_under_two_labels_and_twice(self, tmp_path):
        release = Release(tmp_path, 2024)
        release.add()
        release.add(primary_label="other", filename="other/XC134896.ogg")
        release.add()
        corpus = release.read()
        assert [row.class_id for row in corpus.recordings] == ["asbfly"]
        assert [r.reason for r in corpus.rejects] == ["conflicting_label", "duplicate_recording"]

    def test_the_same_bytes_under_two_names(self, tmp_path):
        release = Release(tmp_path, 2024)
        release.add(_seed=5)
        release.add(_seed=6, filename="asbfly/XC2.ogg")
        for name in ("asbfly/XC3.ogg", "other/XC4.ogg"):
            release.add(primary_label=name.partition("/")[0], filename=name)
            (release.folder / name).write_bytes((release.folder / "asbfly" / "XC2.ogg").read_bytes())
        corpus = release.read()
        assert [row.media_id for row in corpus.recordings] == ["XC134896", "XC2"]
        assert {Path(r.file).stem: r.reason for r in corpus.rejects} == {
            "XC3": "duplicate_content",
            "XC4": "conflicting_label",
        }


class TestLayout:
    def test_neither_folder_nor_competition(self, tmp_path):
        with pytest.raises(PipelineError, match=r"data\.root=FOLDER.*data\.competition"):
            Source().fetch(tmp_path, 0, 1)

    def test_a_folder_that_is_something_else_names_what_is_missing(self, tmp_path):
        with pytest.raises(PipelineError, match=r"train_metadata\.csv or train\.csv, train_short_audio or train_audio"):
            Source(root=str(tmp_path)).fetch(tmp_path, 0, 1)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "lacks the column filename. Found: nothing"),
            (b"a,b\n1,2\n", "lacks the column filename. Found: a, b"),
            (b"filename\n\xff\n", "no CSV file in UTF-8"),
            (b'filename\n"' + b"x" * 200_000 + b'"\n', "no CSV file"),
        ],
        ids=["empty", "columns", "encoding", "cell"],
    )
    def test_unusable_table(self, tmp_path, content, words):
        release = Release(tmp_path, 2024)
        release.table.write_bytes(content)
        with pytest.raises(PipelineError, match=words):
            Source(root=str(tmp_path)).read(tmp_path)

    def test_names_of_the_taxonomy(self, tmp_path):
        release = Release(tmp_path, 2025)
        (tmp_path / "taxonomy.csv").write_text(
            "primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"
            "1139490,1139490,Ragoniella pulchella,Ragoniella pulchella,Insecta\n21211,21211,Xenohyla,Frog,Amphibia\n"
        )
        release.add(primary_label="1139490", filename="1139490/CSA1.ogg", scientific_name="", common_name="")
        (species,) = release.read().species  # only classes with recordings
        assert (species.class_id, species.scientific_name, species.order) == (
            "1139490",
            "Ragoniella pulchella",
            "Insecta",
        )


class TestSoundscapes:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        root = tmp_path / "release"
        sound(root / "train_soundscapes" / "S1.ogg", seconds=20)
        (root / "taxonomy.csv").write_text(
            "primary_label,scientific_name,common_name\na1,Genus alpha,Alpha\nb2,Genus beta,Beta\n"
        )
        return root

    def pieces(self, root: Path, text: str):
        (root / "train_soundscapes_labels.csv").write_text(text)
        source = Source(root=str(root), soundscapes=True)
        folder = source.fetch(root.parent / "raw", 0, 1)
        return folder, source.read(folder)

    def test_pieces_are_cut_and_labelled(self, root):
        folder, corpus = self.pieces(
            root,
            "filename,start,end,primary_label\nS1.ogg,00:00:00,00:00:05,a1;b2\nS1.ogg,5,10,nocall\nS1.ogg,10,15,b2\n",
        )
        first, second = corpus.recordings
        assert (first.class_id, first.background, second.class_id) == ("a1", "b2", "b2")
        assert first.group == second.group  # of one soundscape
        assert first.scientific_name == "Genus alpha"
        whole, rate = soundfile.read(root / "train_soundscapes" / "S1.ogg", dtype="int16")
        piece, _ = soundfile.read(folder / second.file, dtype="int16")
        np.testing.assert_array_equal(piece, whole[10 * rate : 15 * rate])

    def test_nothing_is_cut_twice_and_the_table_keeps_its_time(self, root):
        text = "filename,start,end,primary_label\nS1.ogg,0,5,a1\n"
        folder, _ = self.pieces(root, text)
        times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        self.pieces(root, text)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    def test_a_soundscape_that_is_replaced_is_cut_again(self, root):
        text = "filename,start,end,primary_label\nS1.ogg,0,5,a1\n"
        folder, corpus = self.pieces(root, text)
        before = (folder / corpus.recordings[0].file).read_bytes()
        sound(root / "train_soundscapes" / "S1.ogg", seconds=20, seed=9)
        os.utime(root / "train_soundscapes" / "S1.ogg", (1e9, 1e9))  # with an older time too
        self.pieces(root, text)
        assert (folder / corpus.recordings[0].file).read_bytes() != before

    def test_a_link_out_of_the_corpus_is_not_cut(self, root, tmp_path):
        sound(tmp_path / "private.ogg", seconds=20)
        (root / "train_soundscapes" / "S2.ogg").symlink_to(tmp_path / "private.ogg")
        folder, corpus = self.pieces(root, "filename,start,end,primary_label\nS2.ogg,0,5,a1\nS1.ogg,0,5,a1\n")
        assert [row.file for row in corpus.recordings] == ["S1_0_5.flac"]
        assert not (folder / "S2_0_5.flac").exists()

    def test_a_soundscape_that_is_missing_or_too_short(self, root):
        _, corpus = self.pieces(
            root, "filename,start,end,primary_label\nS9.ogg,0,5,a1\nS1.ogg,30,35,a1\nS1.ogg,0,5,a1\n"
        )
        assert len(corpus.recordings) == 1
        assert [reject.reason for reject in corpus.rejects] == ["no_audio", "no_audio"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("filename,start,primary_label\nS1.ogg,0,a1\n", "no column for the end"),
            ("filename,start,end,primary_label\n../x.ogg,0,5,a1\n", "line 2.*bad_filename"),
            ("filename,start,end,primary_label\nS1.ogg,5,5,a1\n", "line 2.*from 5 to 5"),
            ("filename,start,end,primary_label\nS1.ogg,soon,5,a1\n", "line 2"),
            ("filename,start,end,primary_label\nS1.ogg,0,inf,a1\n", "line 2"),
        ],
    )
    def test_table_that_is_not_understood(self, root, text, words):
        with pytest.raises(PipelineError, match=words):
            self.pieces(root, text)


class TestCommand:
    """The kaggle command is played by a script that copies an archive."""

    @pytest.fixture
    def kaggle(self, tmp_path, monkeypatch):
        def install(script: str) -> None:
            path = tmp_path / "bin" / "kaggle"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "settings"))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin")
        return install

    def test_missing_and_not_configured(self, tmp_path, kaggle):
        with pytest.raises(PipelineError, match=r"not installed.*data\.root=FOLDER"):
            Source(competition="birdclef-2024").fetch(tmp_path / "raw", 0, 1)
        kaggle("exit 0")
        with pytest.raises(PipelineError, match=r"not configured.*kaggle\.json"):
            Source(competition="birdclef-2024").fetch(tmp_path / "raw", 0, 1)

    @pytest.mark.parametrize("name", ["../x", "-h", "A", "a b"])
    def test_name_that_cannot_be_one(self, tmp_path, name):
        with pytest.raises(ConfigError, match=r"data\.competition"):
            Source(competition=name).fetch(tmp_path / "raw", 0, 1)

    def archive(self, tmp_path: Path, extra: str = "") -> Path:
        release = Release(tmp_path / "release", 2024)
        release.add()
        release.read()
        path = tmp_path / "packed.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for file in release.root.rglob("*.*"):
                packed.write(file, file.relative_to(release.root))
            if extra:
                packed.writestr(extra, "x")
        return path

    def test_download_once(self, tmp_path, kaggle, monkeypatch):
        monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cret")
        packed = self.archive(tmp_path)
        kaggle(f'[ "$1 $2 $3 $4" = "competitions download -c birdclef-2024" ] && cp {packed} "$6/birdclef-2024.zip"')
        source = Source(competition="birdclef-2024")
        root = source.fetch(tmp_path / "raw", 0, 1)
        assert [row.media_id for row in source.read(root).recordings] == ["XC134896"]
        assert not (root / "birdclef-2024.zip").exists()
        kaggle("exit 1")
        assert source.fetch(tmp_path / "raw", 0, 1) == root

    def test_refusal_is_one_line(self, tmp_path, kaggle, monkeypatch):
        monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cret")
        kaggle("echo first >&2; echo 403 - Forbidden >&2; exit 1")
        with pytest.raises(PipelineError, match=r"403 - Forbidden.*rules") as caught:
            Source(competition="birdclef-2024").fetch(tmp_path / "raw", 0, 1)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a\\..\\b"])
    def test_archive_that_means_harm(self, tmp_path, kaggle, monkeypatch, name):
        monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cret")
        packed = self.archive(tmp_path, name)
        kaggle(f'cp {packed} "$6/birdclef-2024.zip"')
        with pytest.raises(PipelineError, match="unsafe member"):
            Source(competition="birdclef-2024").fetch(tmp_path / "raw", 0, 1)
        assert not (tmp_path / "raw" / "birdclef-2024" / "train_metadata.csv").exists()
