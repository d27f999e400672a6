"""Prediction with a trained network: the test part, folders and single files, and what cannot be predicted."""

import csv
import dataclasses
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import config as configuration
from config import Data, PipelineError
from predict.evaluate import evaluate
from predict.outputs import default_path, mark_of, named
from predict.predict import main, predict, sound_mark, with_length
from predict.runfile import compare, read_run_file
from predict.scores import find_run, load_run
from predict.species_filter import Filter
from preprocess.loadData import features_folder
from preprocess.metadata import read_truth
from preprocess.recordings import Recording, Reject, read_table
from preprocess.segments import SegmentReader, open_shards
from tests.conftest import PROJECT, run_script
from tests.predict.conftest import TRUTH
from train.run import MONITORS, Run

pytestmark = pytest.mark.slow

CLASSES = ["aaaaaa", "bbbbbb", "cccccc"]


def run_predict(run, source, output, monitor="val_map", jobs=1, **settings) -> dict[str, dict[str, float]]:
    inputs = [source] if source else []
    assert predict([run], inputs, output, monitor=monitor, jobs=jobs, **settings) == [output]
    return read_run_file(output)


@pytest.fixture(scope="module")
def expected(run_of_birds, tmp_path_factory) -> dict[str, dict[str, float]]:
    """The scores of the test part."""
    return run_predict(run_of_birds, None, tmp_path_factory.mktemp("test_part") / "run.csv")


@pytest.fixture(scope="module")
def folder(test_sounds, tmp_path_factory) -> Path:
    """The test recordings under names and in formats as users have them."""
    folder = tmp_path_factory.mktemp("recordings") / "My Birds"
    (folder / "a" / "b b").mkdir(parents=True)
    samples, rate = soundfile.read(test_sounds / "RN113.wav", dtype="int16")
    assert rate == 44_100
    soundfile.write(folder / "a" / "robin; song (1), ü.flac", samples, rate, subtype="PCM_16")
    shutil.copy(test_sounds / "RN112.wav", folder / "a" / "b b" / "deep.wav")
    shutil.copy(test_sounds / "RN114.wav", folder / "UPPER.WAV")
    (folder / "notes.txt").write_text("no sound")
    return folder


ORIGINAL = {"a/robin; song (1), ü.flac": "113", "a/b b/deep.wav": "112", "UPPER.WAV": "114"}


# The test part


def test_the_test_part_is_predicted_correctly(expected):
    assert {media_id: max(own, key=own.get) for media_id, own in expected.items()} == TRUTH
    for own in expected.values():
        assert sorted(own) == CLASSES
        assert sum(own.values()) == pytest.approx(1, abs=1e-6)


def test_the_figures_on_the_test_part(expected, trained):
    result = evaluate(compare(expected, read_truth(trained.corpus_dir / "truth.csv")))
    assert result["map_main"]["value"] == result["top1"]["value"] == 1
    assert result["missing_recordings"] == 0


def test_scores_are_the_mean_of_the_segments_soft_max(expected, trained, run_of_birds):
    config, model, _ = load_run(run_of_birds)
    shards = open_shards(features_folder(config), "test")
    reader = SegmentReader(shards, 310, config.features.mask, config.features.drop_columns)
    assert sorted(reader.media_id) == sorted(expected)
    for i, media_id in enumerate(reader.media_id):
        starts = reader.segment_starts(i)
        assert len(starts) > 1
        logits = np.concatenate([model.predict_on_batch(reader.read([i], [start])) for start in starts])
        powers = np.exp(logits.astype(np.float64))
        scores = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
        assert expected[media_id] == pytest.approx(dict(zip(CLASSES, scores, strict=True)), rel=1e-4, abs=1e-7)


def test_rows_are_in_the_order_of_the_manifest_and_best_first(run_of_birds, tmp_path):
    run_predict(run_of_birds, None, tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream, delimiter=";"))
    assert [row[0] for row in rows] == ["112"] * 3 + ["113"] * 3 + ["114"] * 3
    scores = np.array([float(row[2]) for row in rows]).reshape(3, 3)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(("top", "lines"), [(1, 3), (2, 6), (0, 9), (50, 9)])
def test_top(run_of_birds, expected, tmp_path, top, lines):
    found = run_predict(run_of_birds, None, tmp_path / "run.csv", top=top)
    assert len((tmp_path / "run.csv").read_text().splitlines()) == lines
    for media_id, own in found.items():
        best = sorted(expected[media_id].items(), key=lambda item: -item[1])[: top or None]
        assert list(own.items()) == best


def test_neither_batches_nor_blocks_change_the_scores(run_of_birds, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("predict.scores.SEGMENTS_AT_ONCE", 2)
    run = copied(run_of_birds, tmp_path)
    config = run.read_config()
    assert config.predict.batch_size == 8
    smaller = dataclasses.replace(config, predict=dataclasses.replace(config.predict, batch_size=3))
    (run.folder / "config.toml").write_text(configuration.to_toml(smaller))
    found = run_predict(run, None, tmp_path / "run.csv")
    for media_id, own in found.items():
        assert own == pytest.approx(expected[media_id], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_weights_are_those_asked_for(run_of_birds, tmp_path, monitor):
    """Each file of weights is used for its own name."""
    run = copied(run_of_birds, tmp_path)
    for other in set(MONITORS) - {monitor}:
        run.best_weights(other).unlink()
    run_predict(run, None, tmp_path / "run.csv", monitor=monitor)


def test_overlapping_segments(run_of_birds, tmp_path):
    config, model, _ = load_run(run_of_birds)
    shards = open_shards(features_folder(config), "test")
    reader = SegmentReader(shards, 310, config.features.mask, config.features.drop_columns)
    found = run_predict(run_of_birds, None, tmp_path / "run.csv", hop=0.608)
    for i, media_id in enumerate(reader.media_id):
        last = reader.frames_left[i] - 310
        starts = [*range(0, last, 38), last]
        assert len(starts) > len(reader.segment_starts(i))
        logits = model.predict(reader.read([i] * len(starts), starts), verbose=0)
        powers = np.exp(logits.astype(np.float64))
        scores = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
        assert found[media_id] == pytest.approx(dict(zip(CLASSES, scores, strict=True)), rel=1e-4, abs=1e-7)


# Ensembles


def test_the_scores_of_several_runs_are_averaged(run_of_birds, expected, tmp_path):
    other = copied(run_of_birds, tmp_path)
    _, model, _ = load_run(other)
    model.layers[-1].layers[-1].bias.assign([3.0, 0.0, -3.0])
    model.save_weights(other.best_weights())
    second = run_predict(other, None, tmp_path / "second.csv")
    options = ["--run", run_of_birds.folder, "--run", other.folder, "--output", tmp_path / "both.csv"]
    result = run_script("predict/predict.py", *options)
    assert result.returncode == 0, result.stderr
    assert "by birds+birds\n" in result.stdout
    found = read_run_file(tmp_path / "both.csv")
    assert list(found) == list(expected)
    for media_id, own in found.items():
        mean = {name: (expected[media_id][name] + second[media_id][name]) / 2 for name in CLASSES}
        assert own == pytest.approx(mean, abs=1e-6)
    assert any(second[m][name] != pytest.approx(expected[m][name], abs=0.01) for m in found for name in CLASSES)


def test_runs_of_other_species_have_no_common_ranking(run_of_birds, tmp_path, monkeypatch):
    """Which is found before the first one is scored."""
    monkeypatch.delattr("predict.predict.open_member")
    other = copied(run_of_birds, tmp_path)
    text = (other.folder / "classes.csv").read_text()
    (other.folder / "classes.csv").write_text(text.replace("bbbbbb", "dddddd"))
    with pytest.raises(PipelineError, match="know other species"):
        predict([run_of_birds, other], [], tmp_path / "refused.csv")
    assert not (tmp_path / "refused.csv").exists()


def test_runs_of_the_test_parts_of_other_corpora_are_not_averaged(run_of_birds, tmp_path, monkeypatch):
    parts = iter((["112", "113"], ["112", "114"]))
    monkeypatch.setattr("predict.predict.open_member", lambda *_: SimpleNamespace(media_ids=next(parts)))
    with pytest.raises(PipelineError, match="were made for the test parts of other corpora"):
        predict([run_of_birds, copied(run_of_birds, tmp_path)], [], tmp_path / "refused.csv")


def test_a_run_is_found_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("predict.scores.PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert find_run(Path("a")).folder == tmp_path / "runs" / "a"
    assert find_run(Path("runs/a")).folder == Path("runs/a")
    assert find_run(Path("b")).folder == Path("b")
    with pytest.raises(PipelineError, match="no finished run"):
        find_run(None)


# Folders and files


def test_a_table_is_no_recording(run_of_birds, tmp_path):
    (tmp_path / "list.csv").write_text("file\n")
    assert_refused(run_of_birds, tmp_path / "list.csv", tmp_path, r"list\.csv is a table, no recording")


def test_a_folder_of_files_gives_the_scores_of_the_test_part(run_of_birds, expected, folder, tmp_path):
    found = run_predict(run_of_birds, folder, tmp_path / "run.csv")
    assert set(found) == set(ORIGINAL)
    for name, original in ORIGINAL.items():
        assert found[name] == pytest.approx(expected[original], abs=1e-4)


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_single_file(run_of_birds, expected, folder, tmp_path, name):
    found = run_predict(run_of_birds, folder / name, tmp_path / "run.csv")
    assert list(found) == [Path(name).name]
    assert found[Path(name).name] == pytest.approx(expected[ORIGINAL[name]], abs=1e-4)


def test_bad_files_among_them_change_no_other_line(run_of_birds, folder, tmp_path, trained):
    run_predict(run_of_birds, folder, tmp_path / "good.csv")
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    whole = (folder / "UPPER.WAV").read_bytes()
    (mixed / "a" / "AAA cut.wav").write_bytes(whole[: len(whole) // 2])
    (mixed / "a" / "empty.flac").write_bytes(b"")
    (mixed / "b noise.ogg").write_bytes(np.random.default_rng(0).bytes(5000))
    (mixed / "c noise.wv").write_bytes(np.random.default_rng(1).bytes(5000))  # only stage 2 opens these
    run_predict(run_of_birds, mixed, tmp_path / "mixed.csv")
    assert (tmp_path / "mixed.csv").read_bytes() == (tmp_path / "good.csv").read_bytes()
    (corpus,) = Path(trained.data.folder).glob("predict-mixed-*")
    rejects = read_table(corpus / "rejected.csv", Reject)
    assert {row.file: (row.stage, row.reason) for row in rejects} == {
        "a/AAA cut.wav": ("fetch", "truncated"),
        "a/empty.flac": ("fetch", "empty"),
        "b noise.ogg": ("fetch", "unreadable"),
        "c noise.wv": ("resample", "unreadable"),
    }


def test_the_number_of_workers_changes_nothing(run_of_birds, folder, tmp_path):
    """In folders of their own, so that neither run finds the other's work."""
    for jobs in (1, 2, 3):
        shutil.copytree(folder, tmp_path / str(jobs) / "birds")
        run_predict(run_of_birds, tmp_path / str(jobs) / "birds", tmp_path / f"{jobs}.csv", jobs=jobs)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes() == (tmp_path / "3.csv").read_bytes()


def test_a_folder_that_has_changed_is_read_again(run_of_birds, folder, expected, test_sounds, tmp_path):
    birds = tmp_path / "birds"
    shutil.copytree(folder, birds)
    run_predict(run_of_birds, birds, tmp_path / "before.csv")
    shutil.copy(test_sounds / "RN112.wav", birds / "UPPER.WAV")
    (birds / "a" / "b b" / "deep.wav").unlink()
    shutil.copy(test_sounds / "RN113.wav", birds / "new.wav")
    found = run_predict(run_of_birds, birds, tmp_path / "after.csv")
    originals = {"UPPER.WAV": "112", "new.wav": "113", "a/robin; song (1), ü.flac": "113"}
    assert set(found) == set(originals)
    for name, original in originals.items():
        assert found[name] == pytest.approx(expected[original], abs=1e-4)


def test_folders_of_one_name_are_kept_apart(run_of_birds, test_sounds, tmp_path):
    for name, sound in (("x", "RN112.wav"), ("y", "RN114.wav")):
        (tmp_path / name / "birds").mkdir(parents=True)
        shutil.copy(test_sounds / sound, tmp_path / name / "birds" / "one.wav")
    found = [run_predict(run_of_birds, tmp_path / name / "birds", tmp_path / f"{name}.csv") for name in "xyx"]
    assert found[0] == found[2] != found[1]


def test_short_silent_and_stereo_recordings_get_scores(run_of_birds, expected, test_sounds, tmp_path):
    samples, rate = soundfile.read(test_sounds / "RN114.wav")
    birds = tmp_path / "odd"
    birds.mkdir()
    soundfile.write(birds / "short.wav", samples[:3000], rate)
    soundfile.write(birds / "silent.wav", np.zeros(5 * rate), rate)
    soundfile.write(birds / "stereo.wav", np.stack([samples, samples], axis=1), rate)
    found = run_predict(run_of_birds, birds, tmp_path / "run.csv")
    assert set(found) == {"short.wav", "silent.wav", "stereo.wav"}
    for own in found.values():
        assert sum(own.values()) == pytest.approx(1, abs=1e-6)
    assert max(found["stereo.wav"], key=found["stereo.wav"].get) == "cccccc"


def test_the_first_species_of_a_few_recordings_are_printed(run_of_birds, test_sounds, tmp_path, capsys):
    """As in the CSV, best first; of many recordings none."""
    run_predict(run_of_birds, test_sounds / "RN113.wav", tmp_path / "one.csv")
    out = capsys.readouterr().out
    assert "1 recordings taken, 0 rejected; 0.00 h" in out  # and nothing of training or tests
    (line,) = [line for line in out.splitlines() if "RN113.wav: " in line]
    rows = [row.split(";") for row in (tmp_path / "one.csv").read_text().splitlines()]
    names = {kind.class_id: kind.vernacular_name or kind.scientific_name for kind in run_of_birds.read_species()}
    assert line.partition("RN113.wav: ")[2] == ", ".join(f"{names[row[1]]} {float(row[2]):.3f}" for row in rows)
    predict([run_of_birds], [test_sounds, test_sounds.parents[1] / "TrainingSet"], tmp_path / "many.csv")
    assert "RN113.wav: " not in capsys.readouterr().out


def test_recordings_that_were_trained_on_are_announced(run_of_birds, test_sounds, tmp_path, capsys):
    """Whatever their files are called and however they are stored; without the run's corpus by their names."""
    sides = run_of_birds.read_split()
    trained = [media_id for media_id, side in sides.items() if side == "train"]
    (held,) = [media_id for media_id, side in sides.items() if side == "validation"][:1]
    sounds = test_sounds.parents[1] / "TrainingSet" / "wav"
    birds = tmp_path / "birds"
    birds.mkdir()
    for media_id, name in ((trained[0], "new name.wav"), (held, "held.wav")):
        shutil.copy(sounds / f"RN{media_id}.wav", birds / name)
    samples, rate = soundfile.read(sounds / f"RN{trained[1]}.wav", dtype="int16")
    soundfile.write(birds / "other.flac", samples, rate, subtype="PCM_16")
    shutil.copy(test_sounds / "RN112.wav", birds / f"{trained[2]}.wav")  # only called like one
    run_predict(run_of_birds, birds, tmp_path / "run.csv")
    assert "warning: birds was TRAINED on 2 of these 4 recordings, such as new name.wav:" in capsys.readouterr().out

    run = copied(run_of_birds, tmp_path)
    text = (run.folder / "config.toml").read_text()
    (run.folder / "config.toml").write_text(
        re.sub(r'(?m)^folder = ".*data"$', f'folder = "{tmp_path}/data"', text, count=1)
    )
    run_predict(run, birds, tmp_path / "run.csv")
    printed = capsys.readouterr().out
    assert f"warning: birds was TRAINED on 1 of these 4 recordings, such as {trained[2]}.wav:" in printed

    data = shutil.copytree(run_of_birds.read_config().corpus_dir, run.read_config().corpus_dir)  # of which
    for path in data.glob("wav_16khz/**/*.wav"):  # the resampled recordings were removed
        path.unlink()
    run_predict(run, birds, tmp_path / "run.csv")
    printed = capsys.readouterr().out
    assert f"warning: birds was TRAINED on 1 of these 4 recordings, such as {trained[2]}.wav:" in printed


def test_recordings_that_begin_alike_are_other_sounds(tmp_path):
    """As after a spoken announcement, or the same silence."""
    rng = np.random.default_rng(0)
    announcement, songs = rng.integers(-99, 99, 60_000), rng.integers(-99, 99, (2, 100_000))
    for name, song in zip("abc", (*songs, songs[0]), strict=True):
        soundfile.write(tmp_path / f"{name}.wav", np.concatenate([announcement, song]).astype(np.int16), 16_000)
    marks = [sound_mark(tmp_path / f"{name}.wav") for name in "abc"]
    assert marks[0] == marks[2] != marks[1]


def test_the_test_part_was_not_trained_on(run_of_birds, tmp_path, capsys):
    run_predict(run_of_birds, None, tmp_path / "run.csv")
    assert "TRAINED" not in capsys.readouterr().out


# Several inputs, several formats, detections


def test_files_and_folders_together(run_of_birds, expected, folder, test_sounds, tmp_path):
    inputs = [folder / "a", folder / "UPPER.WAV"]
    assert predict([run_of_birds], inputs, tmp_path / "run.csv") == [tmp_path / "run.csv"]
    found = read_run_file(tmp_path / "run.csv")
    assert set(found) == set(ORIGINAL)  # relative to what they have in common
    for name, original in ORIGINAL.items():
        assert found[name] == pytest.approx(expected[original], abs=1e-4)
    assert predict([run_of_birds], [folder, folder / "a"], tmp_path / "both.csv")
    assert set(read_run_file(tmp_path / "both.csv")) == set(ORIGINAL)
    predict([run_of_birds], inputs, tmp_path / "again.csv")  # the same inputs once more: nothing to do
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "run.csv").read_bytes()
    with pytest.raises(PipelineError, match=r"There is no file or folder .*gone"):
        predict([run_of_birds], [folder / "a", folder / "gone"], tmp_path / "refused.csv")


def test_another_sound_under_the_same_name_is_scored_anew(run_of_birds, expected, test_sounds, tmp_path):
    """Of the same length, with a time long ago, and two files that change places."""
    birds = tmp_path / "swapped"
    birds.mkdir()
    for i, (name, original) in enumerate((("a.wav", "RN112.wav"), ("b.wav", "RN114.wav"))):
        samples, rate = soundfile.read(test_sounds / original)
        soundfile.write(birds / name, np.resize(samples, 3 * rate), rate)
        os.utime(birds / name, (1e9, 1e9 + i))
    before = run_predict(run_of_birds, birds, tmp_path / "run.csv")
    (birds / "a.wav").rename(birds / "c")
    (birds / "b.wav").rename(birds / "a.wav")
    (birds / "c").rename(birds / "b.wav")
    after = run_predict(run_of_birds, birds, tmp_path / "run.csv")
    assert after == {"a.wav": before["b.wav"], "b.wav": before["a.wav"]} != before


def test_a_file_of_a_very_long_name(run_of_birds, test_sounds, tmp_path, monkeypatch):
    path = tmp_path / f"{'x' * 240}.wav"
    shutil.copy(next(iter(sorted(test_sounds.rglob("*.wav")))), path)
    monkeypatch.setattr("predict.outputs.PREDICTIONS", tmp_path)
    (written,) = predict([run_of_birds], [path])
    assert {line.split(";")[0] for line in written.read_text().splitlines()} == {path.name}


@pytest.mark.parametrize("name", ["a\udcffb", "a\udcffb.wav"])
def test_a_path_that_is_not_utf8(run_of_birds, tmp_path, name):
    path = tmp_path / name
    path.mkdir() if path.suffix == "" else path.write_bytes(b"RIFF")
    with pytest.raises(PipelineError, match=r"udcffb.* is not UTF-8. Rename it") as caught:
        predict([run_of_birds], [path], tmp_path / "out.csv")
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--place", "47", "19"], "--place and --date are for --occurrence"),
        (["--date", "2020-05-01"], "--place and --date are for --occurrence"),
        (["--rows", "rows.csv", "--format", "csv"], "--rows is for the formats kaggle20"),
        (["--thresholds", "species", "--minimum", "0.1"], "--minimum takes the place of all thresholds"),
    ],
)
def test_options_that_would_do_nothing(options, words):
    done = run_script("predict/predict.py", *options)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--place", "100", "19"], "a latitude from -90 to 90 and a longitude from -180 to 180"),
        (["--place", "-90.5", "19"], "a latitude from -90 to 90 and a longitude from -180 to 180"),
        (["--place", "47", "181"], "a latitude from -90 to 90 and a longitude from -180 to 180"),
        (["--place", "nan", "19"], "a latitude from -90 to 90 and a longitude from -180 to 180"),
        (["--date", "2020-13-01"], "--date is YYYY-MM-DD"),
    ],
)
def test_places_and_dates_that_do_not_exist(options, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["predict.py", "--occurrence", "soft", *options])
    with pytest.raises(SystemExit):
        main()
    assert words in capsys.readouterr().err


def test_a_list_that_expects_none_of_the_species_is_warned_of(run_of_birds, tmp_path, capsys):
    """Instead of a minimum that is too high."""
    predict([run_of_birds], [], tmp_path / "run.csv", expected=Filter(np.zeros(3)))
    out = capsys.readouterr().out
    assert "warning: every score is 0: --species or --occurrence expects none of the species of the run there" in out
    assert "NOTHING was detected" not in out


def test_the_home_of_nobody():
    with pytest.raises(PipelineError, match="There is no ~nobody-of-that-name/x"):
        named(Path("~nobody-of-that-name/x"))


def test_outputs_are_named_after_whole_folders(tmp_path):
    """Those of folders that are called after years and months are different files."""
    for name in ("2023.05", "2023.06"):
        (tmp_path / name).mkdir()
    (tmp_path / "rec.1.wav").touch()
    names = [tmp_path / "2023.05", tmp_path / "2023.06", tmp_path / "rec.1.wav", Path("/")]
    assert [named(path) for path in names] == ["2023.05", "2023.06", "rec.1", "root"]


def test_a_length_is_that_of_the_sound_where_the_header_has_none():
    row = Recording("a", "a.wv", duration=0.0)
    assert with_length(row, 4.9872).duration == 4.987
    assert with_length(dataclasses.replace(row, duration=0.75), 5.0).duration == 5.0  # as of a variable-rate MP3
    assert with_length(dataclasses.replace(row, duration=5.9), 5.0).duration == 5.9  # frames may leave out the end


def test_several_formats_are_named_after_run_and_input(run_of_birds, folder, tmp_path, monkeypatch, capsys):
    predict([run_of_birds], [folder], tmp_path / "before.csv")
    capsys.readouterr()
    monkeypatch.setattr("train.scoring.segment_logits", None)  # everything is scored
    written = predict([run_of_birds], [folder], tmp_path / "out", ["birdclef2016", "csv", "audacity"], top=1)
    assert [path.name for path in written] == [
        "birds-My Birds.csv",
        "birds-My Birds-csv.csv",
        "birds-My Birds-audacity",
    ]
    out = capsys.readouterr().out
    assert f"{written[2]}: 3 recordings x 3 species by birds" in out  # however often they were written
    assert all(out.count(f"{name}: ") == 1 for name in ORIGINAL)
    assert len(read_run_file(written[0])) == 3
    with written[1].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["file"]: row["class_id"] for row in rows} == {name: TRUTH[own] for name, own in ORIGINAL.items()}
    assert sorted(path.relative_to(written[2]).as_posix() for path in written[2].rglob("*.txt")) == sorted(
        f"{name}.txt" for name in ORIGINAL
    )


def test_detections_are_in_the_time_of_the_recording(run_of_birds, test_sounds, tmp_path, capsys):
    """Sound between long silences, which the mask drops: a detection begins and ends with the sound."""
    samples, rate = soundfile.read(test_sounds / "RN112.wav")
    birds = tmp_path / "late"
    birds.mkdir()
    quiet = np.zeros(20 * rate)
    soundfile.write(birds / "late.wav", np.concatenate([quiet, samples, quiet]), rate)
    (path,) = predict([run_of_birds], [birds], tmp_path / "late.csv", ["csv"], top=1)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert max(rows, key=lambda row: float(row["score"]))["class_id"] == TRUTH["112"]
    assert min(float(row["start"]) for row in rows) == pytest.approx(20, abs=0.5)
    assert max(float(row["end"]) for row in rows) == pytest.approx(20 + len(samples) / rate, abs=0.5)
    predict([run_of_birds], [birds], tmp_path / "late.csv", ["csv"], minimum=1.0)
    assert "warning: NOTHING was detected: the best score of any segment is 0." in capsys.readouterr().out
    assert len((tmp_path / "late.csv").read_text().splitlines()) == 1


def test_the_working_folder_can_be_discarded(run_of_birds, folder, trained, tmp_path):
    birds = tmp_path / "discarded"
    shutil.copytree(folder, birds)
    home = trained.corpus_dir.parent
    predict([run_of_birds], [birds], tmp_path / "run.csv", discard=True)
    assert len(read_run_file(tmp_path / "run.csv")) == 3
    assert not list(home.glob("predict-discarded-*"))


def test_what_was_rejected_is_told_before_its_list_is_discarded(run_of_birds, folder, tmp_path, capsys):
    birds = tmp_path / "discarded too"
    shutil.copytree(folder, birds)
    (birds / "broken.wav").write_bytes(b"RIFF")
    predict([run_of_birds], [birds], tmp_path / "run.csv", discard=True)
    out = capsys.readouterr().out
    assert "rejected: broken.wav: unreadable" in out
    assert "rejected.csv" not in out


def test_nothing_is_discarded_without_inputs(run_of_birds, trained, tmp_path, monkeypatch, capsys):
    """The corpus of the run stays, and so does its list of rejects."""
    monkeypatch.setattr("predict.predict.rejects_of", lambda _: [Reject("broken.wav", "resample", "unreadable", "")])
    predict([run_of_birds], [], tmp_path / "run.csv", discard=True)
    out = capsys.readouterr().out
    assert "rejected: broken.wav" not in out
    assert "what was rejected is listed in" in out
    assert trained.corpus_dir.is_dir()


def test_inputs_of_one_name_have_results_of_their_own(run_of_birds, tmp_path, monkeypatch):
    """As of two cards of recorders; the same inputs have the same name again."""
    monkeypatch.setattr("predict.outputs.PREDICTIONS", tmp_path / "predict")
    cards = [tmp_path / name / "DATA" for name in ("one", "two")]
    for card in cards:
        card.mkdir(parents=True)
    first = default_path(None, [run_of_birds], cards[:1], "-csv.csv")
    first.touch()
    assert first.name == "birds-DATA-csv.csv"
    second = default_path(None, [run_of_birds], cards[1:], "-csv.csv")
    second.touch()
    assert second.name == f"birds-DATA-{mark_of(cards[1:])}-csv.csv"
    assert (
        mark_of(cards) == mark_of([cards[1], cards[0], tmp_path / "one" / ".." / "two" / "DATA"]) != mark_of(cards[1:])
    )
    assert default_path(None, [run_of_birds], cards[:1], "-csv.csv") == first
    assert default_path(None, [run_of_birds], cards[1:], "-csv.csv") == second
    assert default_path(tmp_path / "out", [run_of_birds], cards[1:], ".csv") == tmp_path / "out" / "birds-DATA.csv"
    first.unlink()
    assert default_path(None, [run_of_birds], cards[1:], "-csv.csv") == first
    (tmp_path / "predict" / ".inputs.json").write_text("damaged")
    assert default_path(None, [run_of_birds], cards[1:], "-csv.csv") == first


def test_names_of_results_are_no_longer_than_a_file_s_may_be(run_of_birds, tmp_path):
    inputs = [tmp_path / (letter * 120) for letter in "äbc"]
    path = default_path(tmp_path, [run_of_birds], inputs, "-birdclef2018-soundscapes.csv")
    assert len(os.fsencode(path.name)) < 255
    path.touch()


def test_a_run_from_another_machine(run_of_birds, folder, tmp_path, monkeypatch):
    """Its folder of corpora is not here; what is predicted works in the default one."""
    target = copied(run_of_birds, tmp_path)
    monkeypatch.setattr(Data, "folder", str(tmp_path / "here"))
    text = (target.folder / "config.toml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^folder = .*$", 'folder = "/proc/big"', text, count=1)
    (target.folder / "config.toml").write_text(text, encoding="utf-8")
    assert target.read_config().data.folder == "/proc/big"
    predict([target], [folder], tmp_path / "run.csv")
    assert len(read_run_file(tmp_path / "run.csv")) == 3
    assert list((tmp_path / "here").glob("predict-My Birds-*"))


@pytest.mark.parametrize(
    ("output", "names", "words"),
    [
        ("folder", ["csv"], "folder is a folder. For the format csv --output is a file"),
        ("file.csv", ["activity"], "is a file. For the format activity --output is a folder"),
        ("file.csv", ["csv", "raven"], "is a file. For several formats --output is a folder"),
    ],
)
def test_outputs_of_the_wrong_kind_are_told_before_anything_is_scored(
    run_of_birds, tmp_path, monkeypatch, output, names, words
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").touch()
    monkeypatch.setattr("predict.predict.open_member", lambda *_: pytest.fail("was scored"))
    with pytest.raises(PipelineError, match=words):
        predict([run_of_birds], [], tmp_path / output, names)
    with pytest.raises(PipelineError, match=r"--rows .*gone\.csv is no file"):
        predict([run_of_birds], [], tmp_path / "new.csv", ["kaggle2023"], rows=tmp_path / "gone.csv")


def test_thresholds_that_are_not_there(run_of_birds, tmp_path):
    target = copied(run_of_birds, tmp_path)
    (target.folder / "thresholds.json").unlink(missing_ok=True)
    with pytest.raises(PipelineError, match="--thresholds overall is for one run that has some"):
        predict([target], [], tmp_path / "run.csv", thresholds="overall")


@pytest.mark.parametrize(("name", "value"), [("minimum", 2.0), ("hop", -1.0), ("top", -1), ("pool", "median")])
def test_settings_out_of_their_limits(run_of_birds, tmp_path, name, value):
    with pytest.raises(PipelineError, match=rf"predict\.{name}.*Received: '?{value}"):
        predict([run_of_birds], [], tmp_path / "refused.csv", **{name: value})


# What cannot be predicted


def copied(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder / "runs" / run.folder.name)
    return Run(folder / "runs" / run.folder.name)


def assert_refused(run, source, tmp_path, words) -> None:
    """One clear line, and no file that would look like a result."""
    with pytest.raises(PipelineError, match=words) as error:
        predict([run], [source] if source else [], tmp_path / "refused.csv")
    assert str(error.value).isprintable()
    assert not (tmp_path / "refused.csv").exists()


def test_an_empty_folder(run_of_birds, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("no sound")
    assert_refused(run_of_birds, tmp_path / "nothing", tmp_path, "nothing holds no usable recording")


def test_a_folder_of_bad_files_only(run_of_birds, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"RIFF")
    assert_refused(run_of_birds, tmp_path / "bad", tmp_path, "bad holds no usable recording.*1 rejected")


def test_a_folder_that_is_not_there(run_of_birds, tmp_path):
    assert_refused(run_of_birds, tmp_path / "gone", tmp_path, "no file or folder .*gone")


def test_no_run(tmp_path):
    assert_refused(Run(tmp_path / "gone"), None, tmp_path, "gone is no run directory. Train first")


def test_missing_weights(run_of_birds, tmp_path):
    run = copied(run_of_birds, tmp_path)
    run.best_weights().unlink()
    assert_refused(run, None, tmp_path, r"best_val_map\.weights\.h5 is missing")


@pytest.mark.parametrize("content", ["cut", "text", "empty", "other"])
def test_damaged_weights(run_of_birds, tmp_path, content):
    run = copied(run_of_birds, tmp_path)
    path = run.best_weights()
    whole = path.read_bytes()
    path.unlink()
    if content == "other":
        import keras

        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        other.save_weights(path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[content])
    assert_refused(run, None, tmp_path, r"best_val_map\.weights\.h5 is damaged or of another network")


def test_damaged_features_file(run_of_birds, tmp_path):
    run = copied(run_of_birds, tmp_path)
    (run.folder / "features.json").write_text("{")
    assert_refused(run, None, tmp_path, r"features\.json is missing or damaged")


def test_features_of_another_recipe(run_of_birds, tmp_path):
    """A run whose stamp names another front end than its features have."""
    run = copied(run_of_birds, tmp_path)
    path = run.folder / "features.json"
    text = path.read_text()
    changed = text.replace(r"\"dilate\": true", r"\"dilate\": false")
    assert changed != text
    path.write_text(changed)
    assert_refused(run, None, tmp_path, "made by another recipe")


def test_a_network_that_diverged(run_of_birds, tmp_path):
    run = copied(run_of_birds, tmp_path)
    _, model, _ = load_run(run)
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, np.nan))
    run.best_weights().unlink()
    model.save_weights(run.best_weights())
    assert_refused(run, None, tmp_path, "not finite: its training diverged")


# The command


def test_command(run_of_birds, folder, expected, tmp_path):
    output = tmp_path / "out.csv"
    script = PROJECT / "predict" / "predict.py"
    done = run_script(script, folder, "--run", run_of_birds.folder, "--output", output, "--top", "1", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert {name: max(own, key=own.get) for name, own in read_run_file(output).items()} == {
        name: TRUTH[original] for name, original in ORIGINAL.items()
    }
    assert f"{output}: 3 recordings x 3 species by birds" in done.stdout
    assert "3 recordings taken, 0 rejected; 3 detections of 3 species, least score 0.25" in done.stdout


def test_command_with_nothing_to_predict_ends_in_one_line(run_of_birds, tmp_path):
    script = PROJECT / "predict" / "predict.py"
    done = run_script(script, tmp_path / "gone", "--run", run_of_birds.folder, "--output", tmp_path / "out.csv")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out.csv").exists()


def test_a_finished_run_notices_what_was_changed(run_of_birds, tmp_path, capsys):
    """What can be made again is; without the state, or for what cannot, there is one clear error."""
    shutil.copytree(run_of_birds.folder, tmp_path / "birds")
    target = Run(tmp_path / "birds")
    config = target.read_config()
    assert target.is_finished(config)
    metrics = target.folder / "metrics.json"
    metrics.write_text(metrics.read_text().replace("1", "2"))
    assert not target.is_finished(config)
    assert f"made again, as they are not what was written: {metrics}" in capsys.readouterr().out
    (target.folder / "state.h5").rename(tmp_path / "aside")
    with pytest.raises(PipelineError, match=r"metrics\.json was changed or removed since the run was finished"):
        target.is_finished(config)
    (target.folder / "config.toml").rename(tmp_path / "config.toml")
    with pytest.raises(PipelineError, match=r"was changed or removed since the run was finished"):
        target.is_finished(config)
    (tmp_path / "config.toml").rename(target.folder / "config.toml")
    (tmp_path / "aside").rename(target.folder / "state.h5")
    weights = target.best_weights("last")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PipelineError, match=rf"{weights.name} was changed or removed since .* to train again"):
        target.is_finished(config)
