"""The views of the shards against loops that follow the definition."""

import dataclasses
import mmap
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import PipelineError
from preprocess import segments
from preprocess.loadData import features_folder
from preprocess.mask import band_edges
from preprocess.segments import SegmentReader, list_segments, open_shards
from preprocess.shards import Shard
from tests.preprocess import naive

STORES = {"uint8": (0.05, naive.FLOOR), "float32": (1.0, 0.0)}


def make_shard(rng: np.random.Generator, counts: list[int], dtype: str, edges, cell_frames: int, names: str) -> Shard:
    """Return a shard in memory: recordings of random frames, some of them dropped entirely."""
    edges = np.array(edges)
    shape = (sum(counts), edges[-1])
    frames = rng.integers(0, 256, shape).astype(np.uint8) if dtype == "uint8" else rng.normal(0, 3, shape).astype(dtype)
    cell_counts = [-(-count // cell_frames) for count in counts]
    share = rng.choice([0.0, 0.05, 0.5], len(counts))
    cells = np.concatenate(
        [rng.random((n, len(edges) - 1)) < p for n, p in zip(cell_counts, share, strict=True)]
    ).astype(np.uint8)
    scale, offset = STORES[dtype]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    cell_starts = np.concatenate([[0], np.cumsum(cell_counts)[:-1]]).astype(np.int64)
    return Shard(
        path=Path("x"),
        mapping=mmap.mmap(-1, 1),
        frames=frames,
        cells=cells,
        media_id=[f"{names}{i}" for i in range(len(counts))],
        frame_start=starts,
        frame_count=np.array(counts),
        cell_start=cell_starts,
        cell_frames=cell_frames,
        edges=edges,
        scale_factor=scale,
        add_offset=offset,
        fill_value=0.0,
        recipe="{}",
        frame_rate=10.0,
    )


def recordings(shards: list[Shard]):
    """Yield the decoded frames and the cells of every recording in turn."""
    for shard in shards:
        for i in range(len(shard.media_id)):
            t, n, c = shard.frame_start[i], shard.frame_count[i], shard.cell_start[i]
            codes = shard.frames[t : t + n]
            yield codes * shard.scale_factor + shard.add_offset, shard.cells[c : c - (-n // shard.cell_frames)]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", STORES)
class TestView:
    @given(data=st.data(), seed=st.integers(0, 10**9), size=st.integers(1, 70), cell_frames=st.integers(1, 12))
    @settings(max_examples=20)
    def test_equals_the_loops(self, dtype, masked, drop, data, seed, size, cell_frames):
        rng = np.random.default_rng(seed)
        edges = data.draw(st.sampled_from([(0, 1, 5, 6, 20), (0, 20), (0, 2, 21, 40)]))
        shards = [
            make_shard(rng, [int(n) for n in rng.integers(1, 150, k)], dtype, edges, cell_frames, name)
            for k, name in ((3, "a"), (2, "b"))
        ]
        self.compare(shards, size, masked, drop, rng)

    def test_equals_the_loops_in_the_size_of_the_recipe(self, dtype, masked, drop):
        rng = np.random.default_rng(1)
        shards = [make_shard(rng, [1, 29, 310, 311, 620, 999], dtype, band_edges(200, 19), 30, "a")]
        self.compare(shards, 310, masked, drop, rng)

    @staticmethod
    def compare(shards, size, masked, drop, rng):
        reader = SegmentReader(shards, size, masked, drop)
        for i, (frames, cells) in enumerate(recordings(shards)):
            shard = shards[reader.shard_of[i]]
            view = naive.view(frames, cells, shard.edges, shard.cell_frames, masked, drop)
            expected = naive.segments(view, size)
            assert reader.frames_left[i] == len(view)
            starts = reader.segment_starts(i)
            found = reader.read([i] * len(starts), starts)
            assert found.dtype == shard.frames.dtype
            decoded = found * shard.scale_factor + shard.add_offset
            np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-9)
            for start in rng.integers(0, len(view), 3):
                padded = np.concatenate([view, np.zeros((size, view.shape[1]))])[start : start + size]
                one = reader.read([i], [start])[0] * shard.scale_factor + shard.add_offset
                np.testing.assert_allclose(one, padded, rtol=0, atol=1e-9)

    def test_one_read_serves_many_recordings(self, dtype, masked, drop):
        rng = np.random.default_rng(2)
        shards = [make_shard(rng, [40, 50, 60], dtype, (0, 5, 10), 7, name) for name in "ab"]
        reader = SegmentReader(shards, 16, masked, drop)
        owners, starts = list_segments(reader, [5, 0, 3, 3])
        together = reader.read(owners, starts)
        single = [reader.read([owner], [start])[0] for owner, start in zip(owners, starts, strict=True)]
        np.testing.assert_array_equal(together, single)
        assert owners.tolist() == [i for i in (5, 0, 3, 3) for _ in reader.segment_starts(i)]


def test_recording_that_is_dropped_entirely_stays_whole_as_zeros():
    shard = make_shard(np.random.default_rng(0), [100], "uint8", (0, 10), 30, "a")
    shard.cells[:] = 0
    reader = SegmentReader([shard], 40, True, True)
    assert reader.frames_left[0] == 100
    assert reader.segment_starts(0) == [0, 40, 60]
    assert set(reader.read([0, 0, 0], [0, 40, 60]).ravel()) == {90}  # (0 - -4.5) / 0.05


def test_nothing_dropped_leaves_all_frames_and_values():
    shard = make_shard(np.random.default_rng(0), [95], "uint8", (0, 10), 30, "a")
    shard.cells[:] = 1
    reader = SegmentReader([shard], 95, True, True)
    np.testing.assert_array_equal(reader.read([0], [0])[0], shard.frames)


class TestStarts:
    @pytest.mark.parametrize(
        ("frames", "starts"),
        [
            (1, [0]),
            (309, [0]),
            (310, [0]),
            (311, [0, 1]),
            (620, [0, 310]),
            (621, [0, 310, 311]),
            (1000, [0, 310, 620, 690]),
        ],
    )
    def test_by_hand(self, frames, starts):
        reader = SegmentReader(
            [make_shard(np.random.default_rng(0), [frames], "uint8", (0, 2), 30, "a")], 310, False, False
        )
        assert reader.segment_starts(0) == starts

    @given(frames=st.integers(1, 500), size=st.integers(1, 200))
    def test_as_many_as_needed_and_every_frame_is_covered(self, frames, size):
        reader = SegmentReader(
            [make_shard(np.random.default_rng(0), [frames], "uint8", (0, 2), 30, "a")], size, False, False
        )
        starts = reader.segment_starts(0)
        assert len(starts) == -(-frames // size)
        assert {t for start in starts for t in range(start, min(start + size, frames))} == set(range(frames))
        assert all(0 <= start <= max(0, frames - size) for start in starts)
        assert starts == sorted(set(starts))

    @pytest.mark.parametrize(
        ("frames", "hop", "starts"),
        [
            (1000, 15.5, [0, 155, 310, 465, 620, 690]),
            (620, 15.5, [0, 155, 310]),
            (311, 7.8, [0, 1]),
            (310, 10, [0]),
            (300, 15.5, [0]),
            (300, 1, [-10, 0]),
            (100, 10, [-210, -105, 0]),
            (309, 0.1, [-1, 0]),
            (700, 0.01, [*range(391)]),
            (1000, 31, [0, 310, 620, 690]),
            (1000, 0, [0, 310, 620, 690]),
        ],
    )
    def test_hops_by_hand(self, frames, hop, starts):
        """Ten frames are a second."""
        shard = make_shard(np.random.default_rng(0), [frames], "uint8", (0, 2), 30, "a")
        reader = SegmentReader([shard], 310, False, False)
        assert reader.segment_starts(0, hop) == starts
        assert list_segments(reader, [0, 0], hop)[1].tolist() == starts * 2

    def test_a_hop_that_leaves_gaps(self):
        shard = make_shard(np.random.default_rng(0), [900], "uint8", (0, 2), 30, "a")
        with pytest.raises(PipelineError, match=r"predict\.hop\. Received: 31\.2\. Expected: at most the 31 s"):
            SegmentReader([shard], 310, False, False).segment_starts(0, 31.2)


@pytest.mark.parametrize("drop", [True, False])
@given(frames=st.integers(1, 300), size=st.integers(1, 120), cell=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_spans_lead_back_to_the_frames_of_the_recording(drop, frames, size, cell, seed):
    """Frame numbers are counted one by one; what the view leaves out is skipped."""
    rng = np.random.default_rng(seed)
    shard = make_shard(rng, [5, frames], "uint8", (0, 2, 4), cell, "a")
    reader = SegmentReader([shard], size, False, drop)
    first = shard.cell_start[1]
    kept = [t for t in range(frames) if not drop or (shard.cells[first + t // cell] == 1).any()] or [*range(frames)]
    starts = [*reader.segment_starts(1), *rng.integers(1 - size, len(kept), 5).tolist()]
    inside = [[kept[t] for t in range(start, start + size) if 0 <= t < len(kept)] for start in starts]
    assert reader.spans(1, starts).tolist() == [[own[0], own[-1] + 1] for own in inside]


class TestOpening:
    def test_corpus(self, corpus):
        shards = open_shards(features_folder(corpus), "train")
        reader = SegmentReader(shards, 310, True, True)
        assert len(reader) == 12
        owners, starts = list_segments(reader, range(12))
        found = reader.read(owners, starts)
        assert found.shape == (len(owners), 310, 200)
        for i, (frames, cells) in enumerate(recordings(shards)):
            view = naive.view(frames, cells, naive.EDGES, 30, True, True)
            mine = found[owners == i] * shards[0].scale_factor + shards[0].add_offset
            np.testing.assert_allclose(mine, naive.segments(view, 310), rtol=0, atol=1e-9)

    def test_what_was_read_may_be_unmapped_at_any_time(self, corpus, monkeypatch):
        reader = SegmentReader(open_shards(features_folder(corpus), "train"), 310, True, True)
        owners, starts = list_segments(reader, range(12))
        expected = reader.read(owners, starts)
        monkeypatch.setattr(segments, "RESIDENT_BYTES", 1)
        for _ in range(2):
            np.testing.assert_array_equal(reader.read(owners, starts), expected)

    def test_missing_shard(self, corpus, tmp_path):
        for path in features_folder(corpus).glob("train-*.h5"):
            (tmp_path / path.name).symlink_to(path)
        assert len(open_shards(tmp_path, "train")) == 3
        (tmp_path / "train-00001-of-00003.h5").unlink()
        with pytest.raises(PipelineError, match="2 train shards"):
            open_shards(tmp_path, "train")

    def test_shards_of_two_plans(self, corpus, tmp_path):
        for path in features_folder(corpus).glob("train-*.h5"):
            (tmp_path / path.name).symlink_to(path)
        (tmp_path / "train-00003-of-00004.h5").symlink_to(path)
        with pytest.raises(PipelineError, match="train shards"):
            open_shards(tmp_path, "train")

    def test_no_shards(self, tmp_path):
        with pytest.raises(PipelineError, match="stage 3"):
            open_shards(tmp_path, "train")
        assert open_shards(tmp_path, "test") == []  # a corpus may have no test part
        with pytest.raises(PipelineError, match="stage 3"):
            SegmentReader([], 310, True, True)


@pytest.mark.parametrize("drop", [False, True])
def test_a_negative_start_pads_on_the_left(drop):
    shard = make_shard(np.random.default_rng(0), [20], "uint8", (0, 3, 5), 4, "a")
    shard.cells[:] = 1
    shard.cells[2] = 0 if drop else 1
    reader = SegmentReader([shard], 40, drop, drop)
    length = 16 if drop else 20
    at_front, shifted = reader.read([0], [0])[0], reader.read([0], [-7])[0]
    np.testing.assert_array_equal(shifted[7 : 7 + length], at_front[:length])
    assert (np.delete(shifted, np.s_[7 : 7 + length], axis=0) == reader.fill).all()


@pytest.mark.parametrize("drop", [False, True])
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=4), size=st.integers(1, 90), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_short_recordings_are_repeated(drop, counts, size, seed):
    """Against NumPy's wrapping; longer ones are read as ever, and nothing of the next recording comes in."""
    shard = make_shard(np.random.default_rng(seed), counts, "uint8", (0, 3, 5), 4, "a")
    reader = SegmentReader([shard], size, drop, drop, repeat=True)
    plain = SegmentReader([shard], size, drop, drop)
    for i, (length, step) in enumerate(zip(reader.frames_left, counts, strict=True)):
        whole = SegmentReader([shard], int(length), drop, drop).read([i], [0])[0]
        for start in (0, -step // 3, -step):
            found = reader.read([i], [start])[0]
            if length < size:
                np.testing.assert_array_equal(found, whole.take(np.arange(start, start + size), 0, mode="wrap"))
            else:
                np.testing.assert_array_equal(found, plain.read([i], [start])[0])


def test_noise_frames_are_what_signal_is_not():
    shard = make_shard(np.random.default_rng(0), [12], "uint8", (0, 5), 1, "a")
    shard.cells[:, 0] = [1, 0, 2, 0, 1, 1, 0, 2, 2, 0, 0, 1]
    signal = SegmentReader([shard], 4, False, True)
    noise = SegmentReader([shard], 5, False, True, noise=True)
    assert signal.lengths.tolist() == [4]
    assert noise.lengths.tolist() == [5]
    np.testing.assert_array_equal(signal.read([0], [0])[0], shard.frames[[0, 4, 5, 11]])
    np.testing.assert_array_equal(noise.read([0], [0])[0], shard.frames[[1, 3, 6, 9, 10]])


def test_a_front_end_without_a_mask_has_no_noise_frames():
    shard = make_shard(np.random.default_rng(0), [12, 30], "uint8", (0, 5), 1, "a")
    shard.cells[:] = 1
    assert SegmentReader([shard], 5, True, True).lengths.tolist() == [12, 30]
    assert SegmentReader([shard], 5, False, True, noise=True).lengths.tolist() == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a mapping is read from /proc")
def test_what_was_read_does_not_stay_in_memory(tmp_path, monkeypatch):
    """Of 20 MB read from beginning to end, hardly more than the 1 MB that may stay."""
    path = tmp_path / "frames"
    path.write_bytes(bytes(20_000_000))
    shard = make_shard(np.random.default_rng(0), [100_000], "uint8", (0, 200), 30, "a")
    with path.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    frames = np.frombuffer(mapping, np.uint8).reshape(100_000, 200)
    reader = SegmentReader([dataclasses.replace(shard, mapping=mapping, frames=frames)], 500, False, False)

    def resident() -> int:
        for owner, start in zip(*list_segments(reader, [0]), strict=True):
            reader.read([owner], [start])
        return sum(found.rss for found in psutil.Process().memory_maps() if found.path == str(path))

    assert resident() > 15_000_000
    monkeypatch.setattr(segments, "RESIDENT_BYTES", 1_000_000)
    assert resident() < 3_000_000


def test_channels_are_masked_alike():
    plain = make_shard(np.random.default_rng(0), [12, 9], "uint8", (0, 3, 5), 4, "a")
    frames = np.stack([plain.frames, 255 - plain.frames], axis=-1)
    both = SegmentReader([dataclasses.replace(plain, frames=frames)], 7, True, True).read([0, 1], [1, 0])
    for channel, values in enumerate((plain.frames, 255 - plain.frames)):
        one = SegmentReader([dataclasses.replace(plain, frames=np.ascontiguousarray(values))], 7, True, True)
        np.testing.assert_array_equal(both[..., channel], one.read([0, 1], [1, 0]))
