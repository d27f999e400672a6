"""Annotations read from tables of several makers, and corpora of the pieces that they name."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import config as configuration
from config import ConfigError, PipelineError
from preprocess.annotations import (
    CONTAINED,
    COVERED,
    Event,
    bare_name,
    find_files,
    held_in_stretches,
    match_files,
    read_annotations,
    time_of,
)
from preprocess.fetchData import fetch
from preprocess.recordings import Recording, Reject, read_table
from preprocess.sources.annotated import Source
from preprocess.sources.table import PIECES, PROBLEM
from preprocess.sources.table import Source as Table

RATE = 8000
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def soundscape(path: Path, seconds: float = 30) -> Path:
    """Write a recording whose samples say when they are: the second, times 1000, in LSB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * RATE)) // RATE
    soundfile.write(path, (times * 1000).astype(np.int16), RATE, subtype="PCM_16")
    return path


def made(root: Path, text: str, name="annotations.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def read(root: Path, folder: Path, **options):
    source = Source(root=str(root), **{"annotations": "annotations.csv"} | options)
    return source.read(source.fetch(folder, 0, 1))


# Tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ours.csv", "file,start,end,class_id,score\na.flac,1.5,61.25,amecro,0.9\n"),
        (
            "zenodo.csv",
            "Filename,Start Time (s),End Time (s),Low Freq (Hz),High Freq (Hz),Species eBird Code\n"
            "a.flac,1.5,61.25,300,4000,amecro\n",
        ),
        ("competition.csv", "filename,start,end,primary_label\na.flac,00:00:01.5,00:01:01.25,amecro\n"),
        ("excel.csv", "Filename;Start Time (s);End Time (s);Species\na.flac;1.5;61.25;amecro\n"),
        ("a.flac.Table.1.selections.txt", f"{RAVEN}\tSpecies\n1\tS\t1\t1.5\t61.25\t0\t9\tamecro\n"),
        (
            "raven.txt",
            f"{RAVEN}\tBegin File\tFile Offset (s)\tSpecies Code\n1\tS\t1\t901.5\t961.25\t0\t9\ta.flac\t1.5\tamecro\n",
        ),
    ],
)
def test_tables_of_several_makers(tmp_path, name, text):
    assert read_annotations(made(tmp_path, text, name)) == [Event("a.flac", 1.5, 61.25, "amecro")]


def test_what_is_wrong_is_told_or_collected(tmp_path):
    """Without a list the first problem ends it; with one, only the lines and tables that have it are lost."""
    lines = ["a,0,5,x", "a,soon,5,x", ",0,5,x", "b,,,", "c,1e7,5,y", "a,5,9,x", "a,9,3,x", "a,-9,-3,x", "a,15"]
    path = made(tmp_path, "\n".join(["file,start,end,class_id", *lines, 'c,1,2,"x', "c,2,3,y"]))
    with pytest.raises(PipelineError, match=r"annotations\.csv, line 3: no time: 'soon'"):
        read_annotations(path)
    problems = []
    assert read_annotations(path, problems=problems) == [
        Event("a", 0, 5, "x"),
        Event("b", 0, 0, ""),
        Event("a", 5, 9, "x"),
    ]
    assert [where.partition(":")[2] for where, _ in problems] == ["3", "4", "6", "8", "9", "10", "12"]
    assert [what[:20] for _, what in problems[3:]] == [
        "it ends at 3 s, befo",
        "it ends at -3 s, bef",
        "the line is cut off",
        "a cell of several li",
    ]
    made(tmp_path, "no\ttable\n", "one.txt")
    made(tmp_path, f"{RAVEN}\tSpecies\n1\tS\t1\t1\t2\t0\t9\tx\n", "two.txt")
    (tmp_path / "three.txt").write_bytes(b"\xff\xfe\x00")
    problems = []
    assert [event.file for event in read_annotations(tmp_path, problems=problems)] == ["two"]
    assert [where for where, _ in problems] == ["one.txt", "three.txt"]


def test_a_line_that_ends_before_its_times(tmp_path):
    """Where the species stands before them."""
    path = made(tmp_path, "class_id,file,start,end\nx,a,0,5\nx,a\nx,a,3\n")
    problems = []
    assert read_annotations(path, problems=problems) == [Event("a", 0, 5, "x")]
    assert problems == [("annotations.csv:3", "the line is cut off"), ("annotations.csv:4", "the line is cut off")]


def test_species_of_competitions_and_comments_of_raven(tmp_path):
    """Lists are taken apart, nocall is nothing; an empty species is not that of a comment beside it."""
    path = made(tmp_path, "filename,start,end,primary_label\na.ogg,0:00,0:05,22961;grekis\nb.ogg,0:00,0:05,nocall\n")
    assert read_annotations(path) == [
        Event("a.ogg", 0, 5, "22961"),
        Event("a.ogg", 0, 5, "grekis"),
        Event("b.ogg", 0, 0, ""),
    ]
    path = made(tmp_path, f"{RAVEN}\tSpecies\tAnnotation\n1\tS\t1\t1\t2\t0\t9\t\tloud rain\n", "a.txt")
    assert read_annotations(path) == [Event("a", 1, 2, "")]
    path = made(tmp_path, f"{RAVEN}\tBegin File\tSpecies\n1\tS\t1\t1\t2\t0\t9\t\tx\n", "a.txt")
    assert read_annotations(path) == [Event("a", 1, 2, "x")]


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("00:01:00", 60), ("1:00:00.5", 3600.5), ("-0.5", -0.5)])
def test_times(text, value):
    assert time_of(text) == value


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1e7", "1:2:3:4"])
def test_no_times(text):
    with pytest.raises(ValueError, match="no time"):
        time_of(text)


def test_files_that_annotations_can_mean():
    files = ["A/rec.wav", "B/rec.wav", "C/other.flac", "s/a.wav", "s/a.flac", "S.2020.05.wav"]
    found, unclear = find_files(
        ["rec.wav", "A/rec.wav", "/mnt/C/other.wav", "gone.wav", "a.wav", "x/B/gone.wav", "S.2020.05"], files
    )
    assert found == {
        "/mnt/C/other.wav": "C/other.flac",
        "a.wav": "s/a.wav",  # the one of the same ending
        "A/rec.wav": "A/rec.wav",
        "S.2020.05": "S.2020.05.wav",
    }
    assert unclear == {"rec.wav": "rec.wav could be any of A/rec.wav, B/rec.wav"}
    with pytest.raises(PipelineError, match="unclear: rec"):
        match_files(["rec.wav"], files)


def test_two_annotated_recordings_are_not_one_file():
    """Only one of two sites was copied: whose annotations are right nobody can say."""
    found, unclear = find_files(["A/rec.wav", "B/rec.wav", "A/one.wav", "one"], ["rec.wav", "one.wav"])
    assert found == {"A/one.wav": "one.wav", "one": "one.wav"}
    assert unclear.keys() == {"A/rec.wav", "B/rec.wav"}


@pytest.mark.parametrize(
    "name",
    [
        "S.1.wav",
        "S.1.FLAC",
        "S.1.Table.1.selections.txt",
        "S.1.selections.txt",
        "S.1.BirdNET.selection.table.txt",
        "S.1.txt",
    ],
)
def test_what_tables_are_named_by(name):
    assert bare_name(Path("x") / name) == "S.1"


spans = st.tuples(st.integers(0, 300), st.integers(1, 200)).map(lambda pair: (pair[0] / 10, (pair[0] + pair[1]) / 10))


@given(st.lists(st.tuples(spans, st.sampled_from("xyz")), max_size=8), st.sampled_from([1.0, 3.0, 5.0]))
def test_stretches_are_those_of_a_count_by_tenths_of_a_second(drawn, length):
    """A stretch holds a species if any of its events fills a tenth of it, or has more than half of itself in it."""
    held = held_in_stretches([Event("f", start, end, label) for (start, end), label in drawn], length)
    expected: dict[int, dict[str, set[int]]] = {}
    size = round(10 * length)
    for (start, end), label in drawn:
        moments = range(round(10 * start), round(10 * end))
        for k in {moment // size for moment in moments}:
            inside = {moment for moment in moments if moment // size == k}
            if 10 * len(inside) >= round(10 * COVERED) * size or len(inside) > CONTAINED * len(moments):
                expected.setdefault(k, {}).setdefault(label, set()).update(inside)
    assert held.keys() == expected.keys()
    for k, own in expected.items():
        assert held[k] == pytest.approx({label: len(tenths) / 10 for label, tenths in own.items()})


def test_moments_and_what_lies_before_the_beginning():
    """A moment lies in one stretch; seconds that two events cover count once."""
    events = [Event("f", 2, 2, "x"), Event("f", -1, 1, "y"), Event("f", 5, 8, "z"), Event("f", 6, 9, "z")]
    assert held_in_stretches(events, 5.0) == {0: {"x": 0, "y": 1}, 1: {"z": 4}}


# Corpora


def test_pieces_hold_what_was_annotated(tmp_path):
    """Sound, main species (heard longest), background, group and part of every piece, by hand."""
    root = tmp_path / "site"
    soundscape(root / "day1" / "S1_20200501_060000.wav")
    soundscape(root / "S2_20200501_060000.flac", 12)
    made(
        root,
        "Filename,Start Time (s),End Time (s),Species eBird Code\n"
        "S1_20200501_060000.wav,5.5,7,Parus major\nS1_20200501_060000.wav,6,9.9,amecro\n"
        "S1_20200501_060000.wav,14.8,20.1,amecro\nS1_20200501_060000.wav,21,22,????\n"
        "S1_20200501_060000.wav,25,27,Parus major\n"
        "S2_20200501_060000.flac,10.5,11,amecro\n",
    )
    corpus = read(root, tmp_path / "raw", group_pattern="(.*?)_[0-9]{8}", test_pattern="^S2", exclude=("????",))
    assert [(row.file, row.class_id, row.background, row.group, row.part) for row in corpus.recordings] == [
        ("day1/S1_20200501_060000.wav_5000_10000.flac", "amecro", "Parus major", "S1", "train"),
        ("day1/S1_20200501_060000.wav_15000_20000.flac", "amecro", "", "S1", "train"),
        ("day1/S1_20200501_060000.wav_25000_30000.flac", "Parus major", "", "S1", "train"),
        ("S2_20200501_060000.flac_10000_15000.flac", "amecro", "", "S2", "test"),
    ]
    assert [kind.class_id for kind in corpus.species] == ["amecro", "Parus major"]
    assert corpus.rejects == []
    samples, rate = soundfile.read(tmp_path / "raw/pieces/day1/S1_20200501_060000.wav_5000_10000.flac", dtype="int16")
    np.testing.assert_array_equal(samples, np.repeat(np.arange(5, 10) * 1000, RATE))
    assert len(soundfile.read(tmp_path / "raw/pieces" / corpus.recordings[3].file)[0]) == 2 * rate  # up to its end


def test_length_of_pieces_and_scientific_names(tmp_path):
    """Names are those of the table: what looks like one may be none."""
    soundscape(tmp_path / "r" / "a.wav")
    made(tmp_path / "r", "file,start,end,class_id,scientific_name\na.wav,2,14,House sparrow,Passer domesticus\n")
    corpus = read(tmp_path / "r", tmp_path / "raw", seconds=10)
    assert [row.file for row in corpus.recordings] == ["a.wav_0_10000.flac", "a.wav_10000_20000.flac"]
    assert [(kind.class_id, kind.scientific_name) for kind in corpus.species] == [
        ("House sparrow", "Passer domesticus")
    ]
    made(tmp_path / "r", "file,start,end,class_id\na.wav,2,14,House sparrow\n")
    assert read(tmp_path / "r", tmp_path / "raw").species[0].scientific_name == ""


@pytest.mark.parametrize("seconds", [0.7, 1.1, 2.3, 3.3])
def test_neighbours_are_no_background(tmp_path, seconds):
    """Whatever the rounding of times does."""
    soundscape(tmp_path / "r" / "a.wav")
    middle = [(k + 0.5) * seconds for k in range(int(30 / seconds))]
    lines = [f"a.wav,{m - 0.2 * seconds},{m + 0.2 * seconds},{'xy'[k % 2]}" for k, m in enumerate(middle)]
    made(tmp_path / "r", "\n".join(["file,start,end,class_id", *lines]))
    corpus = read(tmp_path / "r", tmp_path / "raw", seconds=seconds)
    assert [(row.class_id, row.background) for row in corpus.recordings] == [
        ("xy"[k % 2], "") for k in range(len(middle))
    ]


def test_annotations_that_go_beyond_the_recording(tmp_path):
    """They are cut at its end, and those behind it are listed, once each."""
    soundscape(tmp_path / "r" / "a.wav", 12)
    made(tmp_path / "r", "file,start,end,class_id\na.wav,9,900000,x\na.wav,12,17,x\n")
    corpus = read(tmp_path / "r", tmp_path / "raw")
    assert [row.file for row in corpus.recordings] == ["a.wav_5000_10000.flac", "a.wav_10000_15000.flac"]
    assert [(row.file, row.reason, row.detail) for row in corpus.rejects] == [
        ("a.wav, 12 s", "metadata_malformed", "the recording ends at 12 s")
    ]


def test_names_that_are_no_text(tmp_path):
    """Of tables, of recordings, and in tables; what is beside them is taken."""
    root = tmp_path / "r"
    soundscape(root / "a.wav")
    table = f"{RAVEN}\tSpecies\n1\tS\t1\t1\t2\t0\t9\tx\n".encode()
    for name in (b"a.Table.1.selections.txt", b"b\xff.Table.1.selections.txt", b"b\xff.txt"):
        (root / os.fsdecode(name)).write_bytes(table if b"Table" in name else b"junk\n")
    shutil.copy(root / "a.wav", os.fsencode(root) + b"/b\xff.wav")
    corpus = read(root, tmp_path / "raw", annotations="")
    assert [row.file for row in corpus.recordings] == ["a.wav_0_5000.flac"]
    assert [row.reason for row in corpus.rejects] == ["metadata_malformed"] * 2
    assert all(row.file.isprintable() for row in corpus.rejects)


def test_raven_tables_beside_the_recordings(tmp_path):
    """Of two species one is background; a label column can be named."""
    soundscape(tmp_path / "r" / "x" / "a.wav")
    rows = ["1\tS\t1\t1.5\t4.0\t0\t9\tamecro\tb", "2\tS\t1\t2.0\t3\t0\t9\tbrnowl\tc"]
    made(tmp_path / "r" / "x", "\n".join([f"{RAVEN}\tSpecies\tTag", *rows]), "a.Table.1.selections.txt")
    corpus = read(tmp_path / "r", tmp_path / "raw", annotations="")
    assert [(row.class_id, row.background) for row in corpus.recordings] == [("amecro", "")]  # brnowl is no class
    corpus = read(tmp_path / "r", tmp_path / "raw", annotations="", label_column="Tag")
    assert [row.class_id for row in corpus.recordings] == ["b"]


def test_bad_input_costs_only_itself(tmp_path):
    """Through stage 1: what could not be used is listed with a reason."""
    root = tmp_path / "r"
    for name in ("good.wav", "x/twice.wav", "y/twice.wav"):
        soundscape(root / name)
    (root / "broken.wav").write_bytes(b"RIFF, or not")
    made(
        root,
        "file,start,end,class_id\ngood.wav,0,5,amecro\ngood.wav,5,never,amecro\ntwice.wav,0,5,amecro\n"
        "gone.wav,0,5,amecro\ngone.wav,5,10,amecro\nbroken.wav,0,5,amecro\ngood.wav,10,15,a/b\n"
        "../../etc/good.wav,0,5,amecro\ngood.wav,100,105,amecro\n",
    )
    keys = ["data.source=annotated", f"data.root={root}", "data.annotations=annotations.csv", "data.corpus=c"]
    settings = configuration.load(None, [*keys, f"data.folder={tmp_path / 'd'}"])
    fetch(settings, 1)
    rows = read_table(settings.corpus_dir / "recordings.csv", Recording)
    assert [row.file for row in rows] == ["good.wav_0_5000.flac"]
    rejects = {row.file: row.reason for row in read_table(settings.corpus_dir / "rejected.csv", Reject)}
    assert rejects == {
        "annotations.csv:3": "metadata_malformed",
        "twice.wav": "duplicate_name",
        "gone.wav": "no_audio",
        "broken.wav": "unreadable",
        "good.wav, 10 s": "bad_class_id",
        "good.wav, 100 s": "metadata_malformed",
    }


def test_detections_are_annotations(tmp_path):
    """What one network is sure of, another one can learn from."""
    soundscape(tmp_path / "r" / "a.wav")
    with made(tmp_path / "r", "").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [("file", "start", "end", "class_id", "scientific_name", "score"), ("a.wav", 5, 15, "b", "", 1)]
        )
    assert [row.file for row in read(tmp_path / "r", tmp_path / "raw").recordings] == [
        "a.wav_5000_10000.flac",
        "a.wav_10000_15000.flac",
    ]


def test_what_cannot_be_a_corpus(tmp_path):
    made(tmp_path / "r", "file,start\n")
    for options, kind, words in (
        ({}, PipelineError, "holds no annotation that can be used .*no column with the end"),
        ({"annotations": "none.csv"}, PipelineError, "holds no annotation that can be used .*Cannot read"),
        ({"annotations": ""}, PipelineError, "holds no selection table"),
        ({"annotations": "~nobody-here/x.csv"}, PipelineError, "Cannot read"),
        ({"group_pattern": "("}, ConfigError, "data.group_pattern"),
        ({"test_pattern": "("}, ConfigError, "data.test_pattern"),
    ):
        with pytest.raises(kind, match=words):
            read(tmp_path / "r", tmp_path / "raw", **options)
    with pytest.raises(PipelineError, match=r"data\.root is no folder"):
        read(tmp_path / "nowhere", tmp_path / "raw")


def test_recordings_that_are_not_there_are_listed(tmp_path):
    """The commonest mistake, another root: stage 1 says that there is nothing, and rejected.csv why."""
    made(tmp_path / "r", "file,start,end,class_id\ngone.wav,0,5,x\n")
    keys = ["data.source=annotated", f"data.root={tmp_path / 'r'}", "data.annotations=annotations.csv"]
    settings = configuration.load(None, [*keys, "data.corpus=c", f"data.folder={tmp_path / 'd'}"])
    with pytest.raises(PipelineError, match="no_audio"):
        fetch(settings, 1)


def test_pieces_of_a_table_are_listed_as_before(tmp_path):
    """The order of columns stays, so that what was made before stays what it is."""
    root = tmp_path / "t"
    soundscape(root / "a.wav")
    made(root, "file,label,start,end\na.wav,x,0,5\n", "labels.csv")
    Table(root=str(root)).fetch(tmp_path / "raw", 0, 1)
    header, row = (tmp_path / "raw" / "pieces" / PIECES).read_text().splitlines()
    assert header == f"file,label,{PROBLEM},background,group"
    assert row == "a.wav_0_5000.flac,x,,,a.wav"
