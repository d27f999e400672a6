"""Scores that are kept: made once, made again where something changed, and gone on with after an interruption."""

import dataclasses
import shutil
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from config import PipelineError, to_toml
from predict.scores import is_valid, load_run, make_scores, mark_shards, read_scores, scores_folder
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table
from preprocess.segments import SegmentReader, list_segments, open_shards
from preprocess.shards import open_shard
from tests.predict.test_predict import copied
from train.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def scored(run_of_birds, tmp_path):
    """A run's network with the shards of the training part of its corpus, of which there are several."""
    config, model, _ = load_run(run_of_birds)
    shards = open_shards(features_folder(config), "train")
    assert len(shards) > 1
    return config, model, shards, tmp_path / "scores"


@pytest.fixture
def score(scored, monkeypatch):
    """Score with a network that a function opens."""
    config, _, shards, folder = scored

    def make(open_model):
        monkeypatch.setattr("predict.scores.load_run", lambda target, monitor: (config, open_model(), None))
        return make_scores(folder, config, shards, Run(folder), "val_map")

    return make


def test_logits_are_those_of_the_network(scored, score):
    config, model, shards, folder = scored
    count, seconds = score(lambda: model)
    reader = SegmentReader(shards, 310, config.features.mask, config.features.drop_columns)
    owners, starts = list_segments(reader, range(len(reader)))
    assert count == len(owners)
    rows = [
        row for row in read_table(config.corpus_dir / "recordings.csv", Recording) if row.media_id in reader.media_id
    ]
    assert seconds == pytest.approx(sum(row.duration for row in rows), abs=0.05 * len(rows))
    logits = model.predict(reader.read(owners, starts), verbose=0)
    found = list(read_scores(folder, shards))
    assert [own.media_id for own in found] == reader.media_id
    np.testing.assert_allclose(np.concatenate([own.logits for own in found]), logits, rtol=1e-4, atol=1e-5)
    for i, own in enumerate(found):
        spans = reader.spans(i, reader.segment_starts(i))
        np.testing.assert_allclose(own.seconds, spans * 0.016)


def test_what_is_scored_is_not_scored_again(scored, score):
    _, model, shards, folder = scored
    score(lambda: model)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == len(shards)
    assert score(lambda: pytest.fail("opened the network")) == (0, 0.0)
    broken, stale = (folder / shard.path.name for shard in shards[:2])
    broken.write_bytes(broken.read_bytes()[:1000])
    with h5py.File(stale, "a") as file:
        file.attrs["inputs"] = "of another shard"
    (folder / "test-00099-of-00100.h5").write_bytes(b"of a corpus that was larger")
    (folder / "train-00000-of-00003.h5.part").write_bytes(b"left by a kill")
    marks = mark_shards(shards)
    assert not is_valid(broken, shards[0], marks[shards[0].path])
    assert not is_valid(stale, shards[1], marks[shards[1].path])
    score(lambda: model)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {broken.name, stale.name}


def test_scores_that_were_changed_are_not_valid(scored, score):
    """In one bit, as on a failing disk."""
    _, model, shards, folder = scored
    score(lambda: model)
    path, mark = folder / shards[0].path.name, mark_shards(shards)[shards[0].path]
    assert is_valid(path, shards[0], mark)
    with h5py.File(path, "a") as file:
        file["logits"][0, 0] = np.nextafter(file["logits"][0, 0], np.float32(np.inf))
    assert not is_valid(path, shards[0], mark)


def test_a_mark_says_what_a_shard_holds(scored, tmp_path):
    """By the checksum of stage 3, or of the file where there is no seal."""
    shards = scored[2]
    copy = open_shard(Path(shutil.copy(shards[0].path, tmp_path)))
    (mark,) = mark_shards([copy]).values()
    assert mark.endswith(f"-{zlib.crc32(copy.path.read_bytes()):08x}")
    assert mark_shards(shards)[shards[0].path] == mark
    with h5py.File(copy.path, "a") as file:
        file["frames"][0] = file["frames"][1]
    (other,) = mark_shards([copy]).values()
    assert other != mark
    assert other.rpartition("-")[0] == mark.rpartition("-")[0]  # of the same recordings


def test_times_are_those_of_each_recording(scored, score):
    """What was left out at the beginning of one is added to its times."""
    _, model, shards, folder = scored
    score(lambda: model)
    plain = list(read_scores(folder, shards))
    offsets = np.arange(len(plain)) * 1.5
    parts = np.split(offsets, np.cumsum([len(shard.media_id) for shard in shards])[:-1])
    trimmed = [dataclasses.replace(shard, offset=own) for shard, own in zip(shards, parts, strict=True)]
    for before, after, offset in zip(plain, read_scores(folder, trimmed), offsets, strict=True):
        np.testing.assert_allclose(after.seconds, before.seconds + offset)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_score_that_is_no_number_is_refused(scored, score, value):
    _, model, shards, folder = scored

    class Odd:
        output_shape = model.output_shape

        def predict_on_batch(self, codes):
            logits = np.zeros((len(codes), model.output_shape[1]), np.float32)
            logits[0, 1] = value
            return logits

    with pytest.raises(PipelineError, match="not finite: its training diverged"):
        score(Odd)
    assert not is_valid(folder / shards[0].path.name, shards[0], mark_shards(shards)[shards[0].path])


def test_an_interrupted_scoring_goes_on(scored, score):
    _, model, shards, folder = scored
    score(lambda: model)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)

    class Interrupted:
        output_shape, calls = model.output_shape, 0

        def predict_on_batch(self, codes):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return model.predict_on_batch(codes)

    with pytest.raises(KeyboardInterrupt):
        score(Interrupted)
    done = [path.name for path in folder.glob("*.h5")]
    assert len(done) < len(shards)
    score(lambda: model)
    assert {path.name for path in folder.iterdir()} == whole.keys()
    found = np.concatenate([own.logits for own in read_scores(folder, shards)])
    (folder / "again").mkdir()
    for name, content in whole.items():
        (folder / "again" / name).write_bytes(content)
    np.testing.assert_allclose(found, np.concatenate([own.logits for own in read_scores(folder / "again", shards)]))


def test_other_weights_and_another_hop_have_scores_of_their_own(run_of_birds):
    config = run_of_birds.read_config()
    names = {scores_folder(config, run_of_birds, "val_map")}
    names |= {scores_folder(config, run_of_birds, "last")}
    hop = dataclasses.replace(config, predict=dataclasses.replace(config.predict, hop=1.0))
    names |= {scores_folder(hop, run_of_birds, "val_map")}
    top = dataclasses.replace(config, predict=dataclasses.replace(config.predict, top=1, minimum=0.9))
    assert len(names) == 3
    assert scores_folder(top, run_of_birds, "val_map") in names


def test_other_features_outputs_and_parts_have_scores_of_their_own(run_of_birds, tmp_path):
    """As each scoring removes what it does not know from its folder."""
    config = run_of_birds.read_config()
    names = [
        scores_folder(config, run_of_birds, "val_map", output, part)
        for output in ("logits", "embeddings")
        for part in ("train", "test")
    ]
    other = copied(run_of_birds, tmp_path)
    changed = dataclasses.replace(config.features, drop_columns=not config.features.drop_columns)
    (other.folder / "config.toml").write_text(to_toml(dataclasses.replace(config, features=changed)))
    names.append(scores_folder(config, other, "val_map"))
    assert len(set(names)) == 5
    assert {name.parent for name in names} == {config.corpus_dir / "scores"}
