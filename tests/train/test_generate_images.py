"""The pictures: where they lie, which way up they are, and how the script is started."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import config as configuration
from config import Model, PipelineError
from preprocess.loadData import features_folder
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, read_table
from preprocess.segments import SegmentReader, open_shards
from preprocess.shards import write_shard
from tests.conftest import PROJECT, run_script
from tests.train.conftest import open_reader
from train.generateImages import GAP, RANGE, SPREAD, STRIPE, draw, draw_beside_raw, draw_levelled, generate, to_levels
from train.network import Standardise

FREQUENCIES = {"aaaaaa": 900, "bbbbbb": 2400, "cccccc": 4800}  # Hz, see conftest; a bin has 31.25 Hz


@pytest.fixture
def experiment(corpus, tmp_path) -> Path:
    """The corpus as a configuration file."""
    path = tmp_path / "experiment.toml"
    path.write_text(configuration.to_toml(corpus))
    return path


def expected_names(reader: SegmentReader, class_of: dict[str, str]) -> set[str]:
    return {
        f"{class_of.get(media_id) or 'unknown'}/{media_id}_{k}.png"
        for i, media_id in enumerate(reader.media_id)
        for k in range(len(reader.segment_starts(i)))
    }


def found_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def classes(corpus) -> dict[str, str]:
    return {row.media_id: row.class_id for row in read_table(corpus.corpus_dir / "recordings.csv", Recording)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_picture_per_segment_in_the_folder_of_its_class(corpus, classes, reader, tmp_path, monkeypatch, jobs):
    monkeypatch.setattr("train.generateImages.SEGMENTS_PER_TASK", 7)
    count = generate(corpus, "train", tmp_path, 0, False, jobs)
    expected = expected_names(reader, classes)
    assert found_names(tmp_path) == expected
    assert count == len(expected) > 12
    for i in (0, 5):
        for k, start in enumerate(reader.segment_starts(i)):
            path = tmp_path / classes[reader.media_id[i]] / f"{reader.media_id[i]}_{k}.png"
            with Image.open(path) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (310, 200))
                np.testing.assert_array_equal(np.asarray(picture), draw(reader, i, start, corpus))


def test_low_frequencies_are_at_the_bottom(corpus, classes, tmp_path):
    """The brightest row of each species lies where its pitch says, counted from below."""
    generate(corpus, "train", tmp_path, 0, False, 1)
    for path in tmp_path.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(float)
        brightest = int(pixels.mean(axis=1).argmax())
        expected = FREQUENCIES[path.parent.name] / 31.25
        assert abs((199 - brightest) - expected) < 3, path
        lower, upper = pixels[100:].mean(), pixels[:100].mean()
        assert (lower > upper) == (expected < 100), path


def test_time_runs_from_left_to_right():
    values = np.full((3, 2), RANGE[0])
    values[:, 0] = [0, 1.5, 3]  # bin 0, the lowest
    picture = to_levels(values, RANGE)
    assert picture.shape == (2, 3)
    assert picture[1, 0] < picture[1, 1] < picture[1, 2]
    assert set(picture[0]) == {0}


def test_grey_levels_by_hand():
    """The ends of the range are black and white, its middle is grey, and what lies outside is clipped."""
    low, high = RANGE
    values = np.array([[low - 3, low, (low + high) / 2, high, high + 3]], np.float32)
    np.testing.assert_allclose(to_levels(values, RANGE)[::-1, 0], [0, 0, 127.5, 255, 255], atol=1)


def test_raw_shows_both(corpus, reader, tmp_path):
    generate(corpus, "train", tmp_path / "masked", 0, False, 1)
    generate(corpus, "train", tmp_path / "both", 0, True, 1)
    names = found_names(tmp_path / "masked")
    assert found_names(tmp_path / "both") == names
    shards = open_shards(features_folder(corpus), "train")
    plain = SegmentReader(shards, 310, False, False)
    dropped = int(to_levels(np.zeros((1, 1)), RANGE)[0, 0])  # the grey of the value 0
    index = {media_id: i for i, media_id in enumerate(reader.media_id)}
    for name in names:
        both = np.asarray(Image.open(tmp_path / "both" / name))
        assert both.shape == (200 + GAP + 200, 310)
        assert (both[200 : 200 + GAP] == 255).all()
        np.testing.assert_array_equal(both[200 + GAP :], np.asarray(Image.open(tmp_path / "masked" / name)))
        recording, first = index[Path(name).stem.split("_")[0]], name.endswith("_0.png")
        start = 0 if first else plain.segment_starts(recording)[-1]
        np.testing.assert_array_equal(both[:200], draw(plain, recording, start, corpus))
        above, below = ((part == dropped).mean() for part in (both[:200], both[200 + GAP :]))
        assert above < 0.1 < 0.3 < below  # the mask takes something away


def test_what_is_steady_stands_on_the_right():
    """By hand: a bin that never changes is one grey, and the stripe says how loud it is."""
    values = np.zeros((20, 3), np.float32)
    values[:, 1] = 30  # steady and loud
    values[5:10, 2] = 60  # sings: 15 on average
    moving = draw_levelled(values, Model(normalise="segment", dynamic_range=0))
    assert moving.shape == (3, 20)
    assert len(set(moving[2])) == len(set(moving[1])) == 1  # the lowest bin is at the bottom
    np.testing.assert_array_equal(moving[2], moving[1])
    np.testing.assert_array_equal(moving[0] == 255, (np.arange(20) >= 5) & (np.arange(20) < 10))
    both = draw_levelled(values, Model(normalise="both", dynamic_range=0))
    np.testing.assert_array_equal(both[:, :20], moving)
    assert (both[:, 20 : 20 + GAP] == 255).all()
    assert both.shape == (3, 20 + GAP + STRIPE)
    assert both[:, -1].tolist() == [127, 255, 0]  # of 15, 30 and 0


def test_pictures_are_those_of_the_model(corpus, reader):
    """As the layer of the model has it, but for its scale."""
    config = configuration.load(None, ["model.normalise=segment", "model.dynamic_range=3"])
    layer = Standardise((200,), "segment", 3)
    codes = reader.read([0], [0])
    seen = layer(codes.astype(np.float32) * reader.encoding.scale_factor + reader.encoding.add_offset)
    low, high = np.percentile(seen, SPREAD)
    expected = np.clip((np.asarray(seen)[0, ::-1, :, 0] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(draw(reader, 0, 0, config), expected, atol=1.01)


def test_raw_is_as_wide_as_what_is_seen(corpus, reader):
    config = configuration.load(None, ["model.normalise=both", "features.recipe=birdclef2016"])
    page = draw_beside_raw(reader, reader, 0, 0, config)
    assert page.shape == (200 + GAP + 200, 310 + GAP + STRIPE)
    assert (page[:200, 310:] == 255).all()
    np.testing.assert_array_equal(page[:200, :310], draw(reader, 0, 0, corpus))


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_limit(corpus, classes, reader, tmp_path, limit):
    assert generate(corpus, "train", tmp_path, limit, False, 1) == limit
    found = found_names(tmp_path)
    assert len(found) == limit
    assert found < expected_names(reader, classes)


def test_the_test_part_has_no_classes(corpus, classes, tmp_path):
    view = open_reader(corpus, "test")
    assert generate(corpus, "test", tmp_path, 0, False, 1) == len(found_names(tmp_path)) >= 3
    assert found_names(tmp_path) == expected_names(view, classes)
    assert {name.split("/")[0] for name in found_names(tmp_path)} == {"unknown"}


def test_a_part_of_nothing(corpus, tmp_path, monkeypatch):
    """All of its recordings were rejected."""
    recipe = open_recipe(corpus.features)
    write_shard(tmp_path / "test-00000-of-00001.h5", recipe, "{}", tmp_path, [], "x")
    monkeypatch.setattr("train.generateImages.features_folder", lambda config: tmp_path)
    with pytest.raises(PipelineError, match="holds no test recording"):
        generate(corpus, "test", tmp_path / "out", 0, False, 1)


def test_missing_features_are_named(corpus, tmp_path):
    config = configuration.load(None, ["data.source=birdclef", f'data.folder="{tmp_path}"', "data.corpus=none"])
    for part in ("train", "test"):
        with pytest.raises(PipelineError, match=f"no {part} part|0 {part} shards"):
            generate(config, part, tmp_path / "out", 0, False, 1)
    assert not (tmp_path / "out").exists()


def test_as_a_file_from_another_working_directory(experiment, classes, reader, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = PROJECT / "train" / "generateImages.py"
    command = [sys.executable, str(script), "--config", "../experiment.toml", "--out", "pictures", "--jobs", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = expected_names(reader, classes)
    assert found_names(elsewhere / "pictures") == expected
    assert f"{len(expected)} pictures in pictures" in done.stdout


def test_as_a_module_from_the_project(corpus, experiment, tmp_path):
    out = tmp_path / "pictures"
    arguments = ("--config", experiment, "--out", out, "--limit", "3", "--jobs", "1")
    done = run_script("-m", "train.generateImages", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(found_names(out)) == 3


def test_without_out_they_lie_in_the_folder_of_the_corpus(corpus, experiment):
    """images/<ClassId>/<MediaId>_<k>.png"""
    script = PROJECT / "train" / "generateImages.py"
    done = run_script(script, "--config", experiment, "--limit", "2", "--raw", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert found_names(corpus.corpus_dir / "images") == {"aaaaaa/100_0.png", "aaaaaa/100_1.png"}


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--limit", "-1"), "--limit is 0 or a number"), (("--part", "all"), "invalid choice")]
)
def test_bad_arguments(experiment, arguments, words):
    done = run_script(PROJECT / "train" / "generateImages.py", "--config", experiment, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
