"""Real xeno-canto recordings in the layout of a BirdCLEF release, where there are any (BIRDSONG_REAL_BIRDS)."""

from collections import Counter

import numpy as np
import scipy.io.wavfile
import scipy.signal

from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.recordings import Recording, Reject, read_table
from preprocess.resample import resample
from preprocess.segments import SegmentReader, open_shards
from preprocess.split import hold_back
from tests.conftest import small_config


def test_real_recordings_through_stages_1_to_3(real_birds, tmp_path):
    config = small_config(tmp_path, real_birds, "data.limit=24")
    for stage in (fetch, resample, load):
        stage(config, 2)
    rows = read_table(config.corpus_dir / "recordings.csv", Recording)
    assert Counter(row.part for row in rows) == {"train": 24, "test": 8}
    assert read_table(config.corpus_dir / "rejected.csv", Reject) == []
    shards = open_shards(features_folder(config), "train")
    view = SegmentReader(shards, 310, mask=True, drop_columns=True)
    kept = view.lengths.sum() / view.frame_count.sum()
    assert 0.3 < kept < 1  # the mask removes some of a recording, not all
    wav = config.corpus_dir / "wav_16khz" / rows[0].file
    rate, samples = scipy.io.wavfile.read(wav)
    _, _, psd = scipy.signal.spectrogram(
        samples.astype(float), rate, np.hanning(512), 512, 256, detrend=False, scaling="density", mode="psd"
    )
    expected = np.maximum(np.log10(np.maximum(psd[:200], 1e-30)), -4.5).T
    shard = shards[0]
    assert shard.media_id[0] == rows[0].media_id
    stored = shard.frames[: shard.frame_count[0]] * shard.scale_factor + shard.add_offset
    assert stored.shape == expected.shape
    # half a step of 0.05, and the rounding of a float32 transform: relative to the amplitude of a frame's strongest bin
    rounding = np.finfo(np.float32).eps * np.sqrt(psd.max(axis=0)[:, None] / 10**expected)
    assert (np.abs(stored - expected) < 0.0251 + 2 / np.log(10) * 2 * rounding).all()


def test_real_metadata_is_read_whole(real_birds):
    from preprocess.sources.birdclef import read_release

    corpus = read_release(real_birds)
    train = [row for row in corpus.recordings if row.part == "train"]
    assert (len(train), len(corpus.recordings) - len(train), len(corpus.species)) == (497, 135, 16)
    assert not corpus.rejects
    assert all(species.scientific_name and species.vernacular_name and species.order for species in corpus.species)
    assert {row.author for row in train}.isdisjoint(row.author for row in corpus.recordings if row.part == "test")
    held = hold_back(train, 0.1, 0, "observation")
    assert 40 <= len(held) <= 60
    groups = {row.group for row in train if row.media_id in held}
    assert all(row.media_id in held for row in train if row.group in groups)
