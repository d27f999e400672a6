"""Several corpora as one: classes that match, recordings that come twice, labels that contradict each other."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config as configuration
from config import ConfigError, PipelineError
from preprocess.fetchData import fetch
from preprocess.recordings import Recording, Reject, Species, read_table
from preprocess.resample import resample
from preprocess.sources.merged import Source, match_classes
from tests.conftest import three_species, write_release


def table(root: Path, rows: list[tuple[str, str, str, int]], **columns: str) -> dict:
    """Write a table of (file, label, scientific name, sound) and return it as a part."""
    root.mkdir(parents=True)
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "scientific_name", *columns])
        for file, label, name, seed in rows:
            (root / file).parent.mkdir(exist_ok=True)
            soundfile.write(root / file, np.random.default_rng(seed).uniform(-0.5, 0.5, 8000), 8000)
            writer.writerow([file, label, name, *columns.values()])
    return {"source": "table", "root": str(root)}


def merge(tmp_path: Path, *parts: dict):
    source = Source(parts=parts)
    root = source.fetch(tmp_path / "raw", 0, 1)
    return source.read(root)


def test_classes_match_by_scientific_name(tmp_path):
    a = table(tmp_path / "a", [("1.wav", "gretit", "Parus major", 1), ("2.wav", "eurmag", "Pica pica", 2)])
    b = table(tmp_path / "b", [("1.wav", "Parus_major", "parus  Major", 3), ("2.wav", "new", "Corvus corax", 4)])
    corpus = merge(tmp_path, a, b)
    assert [(row.media_id, row.file, row.class_id) for row in corpus.recordings] == [
        ("1.wav", "0-table/1.wav", "gretit"),
        ("2.wav", "0-table/2.wav", "eurmag"),
        ("1-table-1.wav", "1-table/1.wav", "gretit"),
        ("1-table-2.wav", "1-table/2.wav", "new"),
    ]
    assert {row.class_id: row.scientific_name for row in corpus.species} == {
        "gretit": "Parus major",
        "eurmag": "Pica pica",
        "new": "Corvus corax",
    }


def test_background_and_groups_follow_their_class(tmp_path):
    a = table(tmp_path / "a", [("1.wav", "gretit", "Parus major", 1)], author="Ann", date="2020-05-01")
    b = table(
        tmp_path / "b",
        [("2.wav", "pm", "Parus major", 2), ("3.wav", "x", "Corvus corax", 3)],
        author="Ann",
        date="2020-05-01",
        background="Parus major",
    )
    one, two, three = merge(tmp_path, a, b).recordings
    assert one.group == two.group == "gretit|Ann|2020-05-01"
    assert three.background == "gretit"


class TestMatch:
    def renamed(self, *species: Species) -> tuple[dict[str, str], list[str]]:
        taxa = {"a": Species("a", "Genus alpha"), "b": Species("b")}
        return match_classes(list(species), taxa), list(taxa)

    @pytest.mark.parametrize(
        ("species", "renamed", "ids"),
        [
            (Species("x", "Genus alpha"), {"x": "a"}, ["a", "b"]),
            (Species("a", "Genus beta"), {"a": "a-2"}, ["a", "b", "a-2"]),  # another species of that id
            (Species("a"), {}, ["a", "b"]),
            (Species("b", "Genus beta"), {}, ["a", "b"]),
            (Species("c", "Genus gamma"), {}, ["a", "b", "c"]),
        ],
    )
    def test_one(self, species, renamed, ids):
        assert self.renamed(species) == (renamed, ids)

    def test_names_are_completed(self):
        taxa = {"b": Species("b")}
        match_classes([Species("b", "Genus beta", "Beta bird")], taxa)
        assert taxa == {"b": Species("b", "Genus beta", "Beta bird")}


class TestCleaning:
    def test_the_first_part_has_the_label_of_a_xeno_canto_number(self, tmp_path):
        a = table(tmp_path / "a", [("XC1.wav", "a", "Genus alpha", 1), ("XC2.wav", "a", "Genus alpha", 2)])
        b = table(
            tmp_path / "b",
            [
                ("xc1_again.wav", "b", "Genus beta", 3),
                ("XC2.wav", "x", "Genus alpha", 4),
                ("XC3.wav", "b", "Genus beta", 5),
            ],
        )
        corpus = merge(tmp_path, a, b)
        assert {row.media_id: row.class_id for row in corpus.recordings} == {"XC1": "a", "XC2": "a", "XC3": "b"}
        assert {r.file: r.reason for r in corpus.rejects} == {
            "1-table/xc1_again.wav": "conflicting_label",
            "1-table/XC2.wav": "duplicate_recording",
        }

    def test_pieces_of_a_recording_are_kept_unless_an_earlier_part_has_it(self, tmp_path):
        a = table(tmp_path / "a", [(f"XC100_{k}.wav", "a", "Genus alpha", k) for k in range(3)])
        b = table(tmp_path / "b", [(f"XC{n}_{k}.wav", "a", "Genus alpha", n + k) for n in (100, 200) for k in (7, 8)])
        corpus = merge(tmp_path, a, b)
        assert [(row.media_id, row.file) for row in corpus.recordings] == [
            ("XC100", "0-table/XC100_0.wav"),
            ("XC100_1.wav", "0-table/XC100_1.wav"),
            ("XC100_2.wav", "0-table/XC100_2.wav"),
            ("XC200", "1-table/XC200_7.wav"),
            ("XC200_8.wav", "1-table/XC200_8.wav"),
        ]
        assert [(r.file, r.reason) for r in corpus.rejects] == [
            (f"1-table/XC100_{k}.wav", "duplicate_recording") for k in (7, 8)
        ]

    def test_same_bytes(self, tmp_path):
        a = table(tmp_path / "a", [("1.wav", "a", "Genus alpha", 1)])
        b = table(tmp_path / "b", [("7.wav", "x", "Genus alpha", 1), ("8.wav", "b", "Genus beta", 1)])
        corpus = merge(tmp_path, a, b)
        assert [row.file for row in corpus.recordings] == ["0-table/1.wav"]
        assert [r.reason for r in corpus.rejects] == ["duplicate_content", "conflicting_label"]
        assert [row.class_id for row in corpus.species] == ["a"]

    def test_rejects_of_the_parts_are_kept(self, tmp_path):
        a = table(tmp_path / "a", [("1.wav", "a", "", 1), ("2.wav", "a", "", 2)])
        (tmp_path / "a" / "2.wav").unlink()
        b = table(tmp_path / "b", [("3.wav", "a", "", 3)])
        assert [(r.file, r.reason) for r in merge(tmp_path, a, b).rejects] == [("0-table/labels.csv:3", "no_audio")]


class TestThroughTheStages:
    @pytest.fixture
    def config(self, tmp_path) -> configuration.Config:
        release = write_release(tmp_path / "release", three_species(6, 2))
        (release / "test_groundtruth.csv").write_text(
            "MediaId,ClassId,BackgroundClassIds\n106,aaaaaa,cccccc\n107,bbbbbb,\n"
        )
        extra = table(tmp_path / "extra", [("XC1.wav", "al", "Genus alpha", 1), ("sub/XC2.wav", "d", "Genus delta", 2)])
        path = tmp_path / "merged.toml"
        path.write_text(
            f'[data]\nsource = "merged"\ncorpus = "all"\nfolder = "{tmp_path / "data"}"\n'
            f'parts = [{{ source = "birdclef", root = "{release}" }}, '
            f'{{ source = "table", root = "{extra["root"]}" }}]\n'
        )
        return configuration.load(path)

    def test_manifest_truth_and_wav(self, config):
        fetch(config, 1)
        rows = read_table(config.corpus_dir / "recordings.csv", Recording)
        assert Counter((row.part, row.class_id) for row in rows) == {
            ("train", "aaaaaa"): 3,  # two of the release, one of the table
            ("train", "bbbbbb"): 2,
            ("train", "cccccc"): 2,
            ("train", "d"): 1,
            ("test", "aaaaaa"): 1,
            ("test", "bbbbbb"): 1,
        }
        truth = (config.corpus_dir / "truth.csv").read_text().splitlines()
        assert truth == ["MediaId,ClassId,BackgroundClassIds", "106,aaaaaa,cccccc", "107,bbbbbb,"]
        assert len(read_table(config.corpus_dir / "classes.csv", Species)) == 4
        resample(config, 1)
        assert len(list((config.corpus_dir / "wav_16khz").rglob("*.wav"))) == 10

    def test_again_nothing_changed_until_a_part_does(self, config, tmp_path, capsys):
        fetch(config, 1)
        fetch(config, 1)
        assert "nothing changed" in capsys.readouterr().out
        (tmp_path / "extra" / "XC1.wav").unlink()
        fetch(config, 1)
        assert "nothing changed" not in capsys.readouterr().out
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(r.file, r.reason) for r in rejects] == [("1-table/labels.csv:2", "no_audio")]

    def test_the_configuration_survives_a_round_trip(self, config, tmp_path):
        path = tmp_path / "again.toml"
        path.write_text(configuration.to_toml(config))
        assert configuration.load(path) == config

    def test_a_link_out_of_a_part_is_refused(self, config, tmp_path):
        (tmp_path / "extra" / "XC1.wav").rename(tmp_path / "private.wav")
        (tmp_path / "extra" / "XC1.wav").symlink_to(tmp_path / "private.wav")
        fetch(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(r.file, r.reason) for r in rejects] == [("1-table/XC1.wav", "outside_root")]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), r"data\.parts.*two or more"),
        (({"source": "table", "root": "x"},), r"data\.parts.*two or more"),
        (({"root": "x"}, {"source": "table"}), r"data\.parts\[0\]\.source.*None"),
        (({"source": "merged"}, {"source": "table"}), r"data\.parts\[0\]\.source.*'merged'"),
        (({"source": "tabel"}, {"source": "table"}), r"data\.parts\[0\]: Unknown data\.source.*'tabel'"),
        (({"source": "table", "rot": "x"}, {"source": "table"}), r"data\.parts\[0\]: Unknown key data\.rot"),
    ],
)
def test_mistakes(tmp_path, parts, words):
    with pytest.raises(ConfigError, match=words):
        Source(parts=parts).fetch(tmp_path / "raw", 0, 1)


def test_a_part_that_cannot_be_had(tmp_path):
    with pytest.raises(PipelineError, match=r"data\.root is no folder: '/nowhere'"):
        merge(tmp_path, {"source": "table", "root": "/nowhere"}, {"source": "table", "root": "/nowhere"})
