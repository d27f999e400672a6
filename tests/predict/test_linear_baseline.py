"""The linear baseline: its features by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from predict import linearBaseline
from predict.linearBaseline import mean_spectra


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
