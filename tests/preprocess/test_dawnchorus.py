"""The synthetic corpus: the same bytes from the same seed, and species that cannot be told by pitch alone."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import xmltodict

from config import load
from preprocess.recordings import Recording
from preprocess.sources import open_source
from preprocess.sources.birdclef import check_layout, read_release
from preprocess.sources.dawnchorus import SAMPLE_RATE, SPECIES_PER_GROUP, Source, cast, class_id, grammar, names, song

SIZES = {"species": 12, "recordings": 24, "test_recordings": 8, "seconds": 1.0}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A small corpus of seed 0, made by one worker. Read only."""
    return Source(**SIZES).fetch(tmp_path_factory.mktemp("raw"), 0, 1)


@pytest.fixture(scope="module")
def rows(root) -> list[Recording]:
    return read_release(root).recordings


class TestLayout:
    def test_is_that_of_a_release(self, root, rows):
        check_layout(root)
        corpus = read_release(root)
        assert corpus.rejects == []
        assert Counter(row.part for row in rows) == {"train": 24, "test": 8}
        assert len({row.media_id for row in rows}) == 32
        assert Source().read(root) == corpus

    def test_audio_is_44_khz_16_bit_mono(self, root, rows):
        for row in rows:
            info = soundfile.info(root / row.file)
            assert (info.samplerate, info.channels, info.subtype, info.format) == (44_100, 1, "PCM_16", "WAV")
            assert 0.1 <= info.duration <= 6.0

    def test_metadata_of_both_parts(self, root):
        tags = {}
        for part, folder in (("train", "TrainingSet"), ("test", "test")):
            for path in (root / folder / "xml").iterdir():
                document = xmltodict.parse(path.read_bytes())["Audio"]
                assert path.stem == Path(document["FileName"]).stem
                tags.setdefault(part, set()).add(tuple(document))
        assert len(tags["train"]) == len(tags["test"]) == 1
        secret = {
            "ClassId",
            "BackgroundSpecies",
            "Order",
            "Family",
            "Genus",
            "Species",
            "Sub-species",
            "VernacularNames",
        }
        (train,), (test,) = tags["train"], tags["test"]
        assert secret <= set(train)
        assert set(test) < set(train)
        assert not secret & set(test)

    def test_ground_truth_names_every_test_recording(self, root, rows):
        with (root / "test_groundtruth.csv").open(newline="") as stream:
            truth = list(csv.DictReader(stream))
        assert [row["MediaId"] for row in truth] == [row.media_id for row in rows if row.part == "test"]
        classes = {class_id(k) for k in range(12)}
        assert {row["ClassId"] for row in truth} <= classes
        assert {name for row in truth for name in row["BackgroundClassIds"].split(",") if name} <= classes

    def test_every_species_is_in_the_training_part_and_named(self, root, rows):
        assert {row.class_id for row in rows if row.part == "train"} == {class_id(k) for k in range(12)}
        species = {row.class_id: row for row in read_release(root).species}
        assert species[class_id(5)].scientific_name == f"{names(5)['Genus']} {names(5)['Species']}"

    def test_background_species_are_other_classes(self, root, rows):
        with_background = [row for row in rows if row.background]
        assert len(with_background) >= 3
        classes = {class_id(k) for k in range(12)}
        assert all(set(row.background_ids) <= classes - {row.class_id} for row in with_background)
        for number in range(24):
            (row,) = [row for row in rows if row.media_id == str(number + 1)]
            expected = sorted(class_id(k) for k in cast(Source(**SIZES), "train", number).background)
            assert row.background_ids == expected

    def test_no_recordist_is_in_both_parts(self, rows):
        train, test = ({row.author for row in rows if row.part == part} for part in ("train", "test"))
        assert train
        assert test
        assert not train & test

    def test_recordists_have_several_recordings(self, rows):
        """Else a split by recordist would be a split by recording."""
        assert max(Counter(row.author for row in rows if row.part == "train").values()) > 2


class TestSizes:
    def test_defaults(self):
        source = open_source(load().data)
        assert source == Source()
        assert source.species >= 12

    @pytest.mark.parametrize(("species", "recordings", "test_recordings"), [(2, 5, 1), (3, 7, 2)])
    def test_are_options(self, tmp_path, species, recordings, test_recordings):
        data = load(
            None,
            [
                f"data.species={species}",
                f"data.recordings={recordings}",
                f"data.test_recordings={test_recordings}",
                "data.seconds=1",
            ],
        ).data
        corpus = read_release(open_source(data).fetch(tmp_path, 0, 1))
        assert Counter(row.part for row in corpus.recordings) == {"train": recordings, "test": test_recordings}
        assert len(corpus.species) == species

    def test_limit_makes_no_more_than_needed(self, tmp_path):
        corpus = read_release(Source(seconds=1).fetch(tmp_path, 8, 1))
        assert Counter(row.part for row in corpus.recordings) == {"train": 8, "test": 3}
        assert len(corpus.species) == 2

    def test_a_limit_beyond_it_changes_nothing(self, tmp_path):
        source = Source(species=2, recordings=4, test_recordings=2, seconds=1)
        assert source.fetch(tmp_path, 900, 1) == source.fetch(tmp_path, 0, 1)

    def test_corpora_of_two_sizes_lie_side_by_side(self, root):
        other = Source(**SIZES | {"recordings": 2, "test_recordings": 1}).fetch(root.parent, 0, 1)
        assert other != root
        assert len(contents(other)) == 7

    def test_odd_clips_have_their_shares(self):
        plan = Source()
        casts = [cast(plan, "train", number) for number in range(3000)]
        assert np.mean([who.seconds < 0.5 for who in casts]) == pytest.approx(0.02, abs=0.01)
        assert np.mean([who.silent for who in casts]) == pytest.approx(0.01, abs=0.007)
        assert np.mean([bool(who.background) for who in casts]) == pytest.approx(0.35, abs=0.03)
        assert np.median([who.seconds for who in casts]) == pytest.approx(9, rel=0.1)

    def test_background_can_be_switched_off(self):
        assert not any(cast(Source(background=0.0), "train", number).background for number in range(200))

    def test_names_and_classes_of_many_species_are_distinct(self):
        assert len({class_id(k) for k in range(5000)}) == 5000
        assert all(len(class_id(k)) == 6 and class_id(k).islower() for k in range(0, 5000, 97))
        scientific = Counter((names(k)["Genus"], names(k)["Species"]) for k in range(999))
        assert [name for name, count in scientific.items() if count > 1] == []


class TestDeterminism:
    def test_the_seed_decides_every_byte_and_not_the_number_of_workers(self, root, tmp_path):
        assert contents(Source(**SIZES).fetch(tmp_path, 0, 2)) == contents(root)

    def test_another_seed_gives_other_sounds_under_the_same_names(self, root, tmp_path):
        other = Source(**SIZES, seed=1).fetch(tmp_path, 0, 1)
        mine, theirs = contents(root), contents(other)
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if name.endswith(".wav") and mine[name] == theirs[name]] == []

    @pytest.mark.parametrize("lost", ["xml", "wav", "both", "truth"])
    def test_what_was_lost_is_made_again(self, root, tmp_path, lost):
        sizes = SIZES | {"recordings": 6, "test_recordings": 2}
        again = Source(**sizes).fetch(tmp_path, 0, 1)
        before = contents(again)
        stems = ("TrainingSet/{0}/LIFECLEF2016_DAWNCHORUS_RN3.{0}", "test/{0}/LIFECLEF2016_DAWNCHORUS_RN500001.{0}")
        if lost == "truth":
            (again / "test_groundtruth.csv").unlink()
        for kind in {"both": ("wav", "xml"), "truth": ()}.get(lost, (lost,)):
            for stem in stems:
                (again / stem.format(kind)).unlink()
        assert len(contents(again)) < len(before)
        kept = {name: (again / name).stat().st_mtime_ns for name in contents(again)}
        assert Source(**sizes).fetch(tmp_path, 0, 1) == again
        assert contents(again) == before
        changed = {name for name, time in kept.items() if (again / name).stat().st_mtime_ns != time}
        assert all("RN3." in name or "RN500001." in name for name in changed)

    def test_a_recording_that_was_cut_is_made_again(self, tmp_path):
        source = Source(species=2, recordings=4, test_recordings=1, seconds=1.0)
        root = source.fetch(tmp_path, 0, 1)
        before = contents(root)
        wav = sorted((root / "TrainingSet" / "wav").iterdir())[2]
        for size in (wav.stat().st_size // 2, 30, 0):
            os.truncate(wav, size)
            source.fetch(tmp_path, 0, 1)
            assert contents(root) == before

    def test_nothing_to_do_changes_nothing(self, root):
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        Source(**SIZES).fetch(root.parent, 0, 1)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def mean_spectrum(seed: int, species: int) -> np.ndarray:
    """Return the mean power spectrum of some songs at nominal pitch, 1 to 8 kHz in steps of 86 Hz."""
    rng = np.random.default_rng(1)
    songs = np.concatenate([song(grammar(seed, species), rng, 1.0, 1.0) for _ in range(2)])
    frequency, power = scipy.signal.welch(songs, SAMPLE_RATE, nperseg=512)
    return power[(frequency > 1000) & (frequency < 8000)]


class TestSpecies:
    def test_members_of_a_group_share_their_spectrum_more_than_species_of_different_groups(self):
        inside, across = [], []
        for seed in range(2):
            spectra = np.array([mean_spectrum(seed, species) for species in range(3 * SPECIES_PER_GROUP)])
            likeness = np.corrcoef(spectra)
            group = np.arange(len(spectra)) // SPECIES_PER_GROUP
            same = group[:, None] == group[None]
            inside += likeness[same & ~np.eye(len(spectra), dtype=bool)].tolist()
            across += likeness[~same].tolist()
        assert np.mean(inside) > np.mean(across) + 0.1
        assert np.mean(inside) > 0.5

    def test_every_species_sings_its_own_song(self):
        grammars = [grammar(0, species) for species in range(12)]
        assert len(set(grammars)) == 12

    def test_song_is_within_the_band_that_the_front_end_keeps(self):
        for species in range(0, 12, 2):
            rng = np.random.default_rng(0)
            songs = np.concatenate([song(grammar(0, species), rng, 1.0, 1.0) for _ in range(3)])
            frequency, power = scipy.signal.welch(songs, SAMPLE_RATE, nperseg=1024)
            assert power[(frequency > 500) & (frequency < 6218)].sum() > 0.8 * power.sum()
            assert np.abs(songs).max() <= 1.5
