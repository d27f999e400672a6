"""The energy mask, rule by rule on small arrays, and whole against loops in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.mask import MaskBuilder, band_edges, dilate, kept_columns
from tests.preprocess import naive

EDGES = np.array(naive.EDGES)


def mask(frames, edges=EDGES, cell_frames=30, loudest=10, factor=1.5, grow=True, block_cells=None) -> np.ndarray:
    builder = MaskBuilder(np.asarray(edges), cell_frames, loudest, factor, grow)
    frames = np.asarray(frames, np.float32)
    step = block_cells * cell_frames if block_cells else len(frames)
    for start in range(0, len(frames), step):
        builder.add(frames[start : start + step])
    return builder.cells()


class TestBandEdges:
    def test_of_200_bins(self):
        assert band_edges(200, 19).tolist() == list(naive.EDGES)
        assert set(np.diff(band_edges(200, 19)).tolist()) == {10, 11}

    @given(bins=st.integers(1, 3000), data=st.data())
    def test_cover_all_bins_with_bands_that_are_not_empty(self, bins, data):
        bands = data.draw(st.integers(1, bins))
        edges = band_edges(bins, bands)
        assert (edges[0], edges[-1], len(edges)) == (0, bins, bands + 1)
        assert np.diff(edges).min() >= 1
        assert np.diff(edges).max() - np.diff(edges).min() <= 1


class TestRules:
    def test_mean_below_zero_drops(self):
        """Four cells of two frames by two bins; their means are 0, -0.25, 1 and -1.5."""
        frames = [[-3, 1], [1, 1], [-4, 1], [1, 1], [1, 1], [1, 1], [-3, 0], [-3, 0]]
        kept = mask(frames, edges=[0, 2], cell_frames=2, loudest=2, factor=0, grow=False)
        assert kept.tolist() == [[1], [0], [1], [0]]

    @staticmethod
    def sixty(first: float) -> np.ndarray:
        """Return two cells of 3 frames x 10 bins: ten 3s, thirty 1s, twenty 0s; mean 1, deviation 1 if first is 3."""
        return np.array([first] + [3] * 9 + [1] * 10 + [0] * 10 + [1] * 20 + [0] * 10, float).reshape(6, 10)

    def test_loudest_ten_equal_to_the_threshold_are_kept(self):
        """1.5 * (1 + 1) = 3, exactly the mean of the ten loudest of the first cell; the second's is 1."""
        assert mask(self.sixty(3), edges=[0, 10], cell_frames=3, grow=False).tolist() == [[1], [0]]

    def test_loudest_ten_just_below_the_threshold_are_dropped(self):
        """With 2.99: peak 2.999, mean 59.99 / 60, mean square 119.9401 / 60, threshold 2.99925."""
        assert mask(self.sixty(2.99), edges=[0, 10], cell_frames=3, grow=False).tolist() == [[0], [0]]

    def test_mean_and_deviation_are_those_of_the_whole_band(self):
        """The same cell stays beside silence and goes beside something as loud; other bands do not matter."""
        loud = np.full((2, 2), 4.0)
        beside_quiet = np.vstack([loud, np.zeros((14, 2))])  # mean 0.5, deviation 1.32: threshold 2.73
        beside_loud = np.vstack([loud, np.full((14, 2), 4.0)])  # mean 4: threshold 6
        both = np.hstack([beside_quiet, beside_loud])
        kept = mask(both, edges=[0, 2, 4], cell_frames=2, loudest=2, grow=False)
        assert kept[0].tolist() == [1, 0]
        assert not kept[1:].any()

    def test_cell_with_fewer_values_than_loudest(self):
        """Five frames of one bin in cells of two: the last cell has one value, 9; the threshold is 8.1."""
        frames = [[0.0], [0], [0], [0], [9]]
        assert mask(frames, edges=[0, 1], cell_frames=2, grow=False).tolist() == [[0], [0], [1]]

    @pytest.mark.parametrize(("frames", "cells"), [(1, 1), (29, 1), (30, 1), (31, 2), (60, 2), (61, 3)])
    def test_number_of_cells(self, frames, cells):
        assert mask(np.ones((frames, 200))).shape == (cells, 19)

    def test_digital_silence_is_dropped(self):
        assert not mask(np.full((95, 200), naive.FLOOR)).any()

    def test_silence_around_a_song_is_dropped(self):
        frames = np.full((300, 200), naive.FLOOR)
        frames[120:150, 95:106] = 4.0  # the cell of frames 120-149 in band 9
        kept = mask(frames, grow=False)
        assert np.argwhere(kept).tolist() == [[4, 9]]


class TestDilation:
    def test_four_neighbours_and_no_diagonals(self):
        kept = np.zeros((5, 5), bool)
        kept[2, 2] = True
        expected = [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
        assert dilate(kept).astype(int).tolist() == expected

    def test_does_not_wrap_around(self):
        kept = np.zeros((3, 4), bool)
        kept[0, 0] = kept[2, 3] = True
        assert dilate(kept).astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]

    def test_is_applied_once_and_on_request(self):
        frames = np.full((10, 7), -1.0)
        frames[4:6, 3] = 5.0
        options = {"edges": range(8), "cell_frames": 2, "loudest": 1}
        assert np.argwhere(mask(frames, **options, grow=False)).tolist() == [[2, 3]]
        assert np.argwhere(mask(frames, **options)).tolist() == [[1, 3], [2, 2], [2, 3], [2, 4], [3, 3]]


class TestColumns:
    @pytest.mark.parametrize(("zeros", "stays"), [(189, True), (190, True), (191, False), (200, False), (0, True)])
    def test_more_than_95_percent_dropped_goes(self, zeros, stays):
        """Two bands of which the lower is kept; 0 zeros: both."""
        edges = np.array([0, max(1, 200 - zeros), 200]) if zeros else np.array([0, 100, 200])
        cells = np.array([[0 if zeros == 200 else 1, 0 if zeros else 1]], np.uint8)
        assert kept_columns(cells, edges).tolist() == [stays]

    @given(seed=st.integers(0, 10**6), bins=st.integers(19, 300))
    def test_equals_counting_bins(self, seed, bins):
        edges = band_edges(bins, 19)
        cells = (np.random.default_rng(seed).random((40, 19)) < 0.06).astype(np.uint8)
        dropped = bins - np.repeat(cells, np.diff(edges), axis=1).sum(axis=1, dtype=int)
        assert kept_columns(cells, edges).tolist() == [int(count) * 100 <= 95 * bins for count in dropped]

    def test_one_band_of_the_recipe_is_enough(self):
        assert kept_columns(np.eye(19, dtype=np.uint8), EDGES).all()
        assert not kept_columns(np.zeros((3, 19), np.uint8), EDGES).any()


def song(seed: int, frames: int, level: float) -> np.ndarray:
    """Return a random spectrogram with a few louder rectangles and some silence, float32 [frames, 200]."""
    rng = np.random.default_rng(seed)
    out = rng.normal(level, 0.6, (frames, 200))
    for _ in range(rng.integers(0, 6)):
        t, f = rng.integers(frames), rng.integers(190)
        out[t : t + rng.integers(1, 40), f : f + rng.integers(1, 30)] += rng.uniform(1, 5)
    if rng.random() < 0.3:
        out[rng.integers(frames) :] = naive.FLOOR
    return out.clip(naive.FLOOR, 8.25).astype(np.float32)


class TestWhole:
    @given(
        seed=st.integers(0, 10**9),
        frames=st.integers(1, 150),
        level=st.floats(-2, 3),
        grow=st.booleans(),
        block_cells=st.integers(1, 4),
    )
    @settings(max_examples=25)
    def test_equals_the_loops(self, seed, frames, level, grow, block_cells):
        spectrogram = song(seed, frames, level)
        means, peaks, thresholds = map(np.array, naive.cell_facts(spectrogram))
        close = (abs(means) < 1e-9) | (abs(peaks - thresholds) < 1e-9)
        found = mask(spectrogram, grow=False, block_cells=block_cells)
        np.testing.assert_array_equal(found[~close], naive.mask(spectrogram, dilate=False)[~close])
        if grow and not close.any():
            grown = mask(spectrogram, block_cells=block_cells)
            np.testing.assert_array_equal(grown, naive.mask(spectrogram))

    @given(
        seed=st.integers(0, 10**9),
        frames=st.integers(1, 40),
        cell_frames=st.integers(1, 9),
        loudest=st.integers(1, 12),
        factor=st.sampled_from([0.0, 1.0, 1.25, 2.0]),
    )
    @settings(max_examples=25)
    def test_other_options_equal_the_loops(self, seed, frames, cell_frames, loudest, factor):
        spectrogram = song(seed, frames, 1.0)[:, 80:101]
        edges = (0, 3, 4, 11, 21)
        expected = naive.mask(spectrogram, edges, cell_frames, loudest, factor)
        np.testing.assert_array_equal(mask(spectrogram, edges, cell_frames, loudest, factor), expected)

    @given(seed=st.integers(0, 10**9), frames=st.integers(1, 400), block_cells=st.integers(1, 14))
    @settings(max_examples=40)
    def test_block_by_block_equals_at_once(self, seed, frames, block_cells):
        spectrogram = song(seed, frames, 0.5)
        np.testing.assert_array_equal(mask(spectrogram, block_cells=block_cells), mask(spectrogram))

    def test_keeps_some_and_drops_some(self):
        """The random spectrograms would prove little if the mask were all of one kind."""
        share = [mask(song(seed, 120, 0.5)).mean() for seed in range(40)]
        assert np.mean(np.array(share) > 0.02) > 0.5
        assert np.mean(np.array(share) < 0.98) > 0.5
