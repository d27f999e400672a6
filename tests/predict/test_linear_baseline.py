"""The linear baseline: its features by hand, and what it is fitted on."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from predict import linearBaseline
from predict.linearBaseline import mean_spectra, write_baseline
from predict.runfile import read_run_file
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table
from preprocess.segments import open_shards


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
@pytest.mark.parametrize("block", [2, 4096])
def test_mean_and_deviation_of_every_bin_and_channel(monkeypatch, shape, block):
    monkeypatch.setattr(linearBaseline, "BLOCK", block)
    frames = np.random.default_rng(0).integers(0, 256, (7, *shape)).astype(np.uint8)
    shard = SimpleNamespace(
        media_id=["a", "b"], frame_start=[0, 5], frame_count=[5, 2], frames=frames, scale_factor=0.5, add_offset=-100
    )
    media_ids, rows = mean_spectra([shard])
    assert media_ids == ["a", "b"]
    for row, part in zip(rows, (frames[:5], frames[5:]), strict=True):
        values = part.reshape(len(part), -1) * 0.5 - 100
        np.testing.assert_allclose(row, [*values.mean(axis=0), *values.std(axis=0)], rtol=1e-5)


@pytest.mark.slow
def test_it_is_fitted_on_what_the_network_was_trained_on(run_of_birds, tmp_path):
    """Not on what validates or is held back; every feature scaled to a mean of 0 and a deviation of 1."""
    config, sides = run_of_birds.read_config(), run_of_birds.read_split()
    class_of = {row.media_id: row.class_id for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
    spectra = dict(zip(*mean_spectra(open_shards(features_folder(config), "train")), strict=True))
    own = [media_id for media_id in spectra if sides[media_id] == "train"]
    assert len(own) < len(spectra)
    fitted = np.stack([spectra[media_id] for media_id in own])
    mean, deviation = fitted.mean(axis=0), np.where(fitted.std(axis=0) > 0, fitted.std(axis=0), 1)
    model = LogisticRegression(C=0.1, max_iter=500)
    model.fit((fitted - mean) / deviation, [class_of[media_id] for media_id in own])
    assert write_baseline(run_of_birds, tmp_path / "linear.csv")
    found = read_run_file(tmp_path / "linear.csv")
    for media_id, row in zip(*mean_spectra(open_shards(features_folder(config), "test")), strict=True):
        (expected,) = model.predict_proba((row[None] - mean) / deviation)
        assert found[media_id] == pytest.approx(dict(zip(model.classes_, expected, strict=True)), abs=1e-3)
