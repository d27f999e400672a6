"""Views of the shards: segments of equal length, read through the mask or not.

The 2016 view sets dropped cells to 0, removes the frames that are left empty and cuts the rest into consecutive
segments; the last one ends with the recording and so overlaps the one before. A recording that is shorter than a
segment is padded on the right, one that is dropped entirely stays whole, as padding. Padding and dropped cells get
the fill value of the front end: 0 in the 2016 view, silence elsewhere. Or a short recording is repeated instead.
"""

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from config import Features, PipelineError
from preprocess.mask import kept_columns, noise_columns
from preprocess.recipes import Encoding
from preprocess.seals import is_intact, read_seals
from preprocess.shards import Shard, open_shard

RESIDENT_BYTES = 1 << 28  # of the mapped shards that stay in memory


class SegmentReader:
    """Random access to the segments of all recordings in some shards, in the order of the shards."""

    def __init__(
        self,
        shards: Sequence[Shard],
        segment_frames: int,
        mask: bool,
        drop_columns: bool,
        noise: bool = False,
        repeat: bool = False,
    ) -> None:
        """Open a view.

        Args:
            shards: from `open_shards`; all of one recipe.
            segment_frames: length of a segment.
            mask: set dropped cells to 0.
            drop_columns: remove frames that the mask leaves empty; without `mask` the rest stays unmasked.
            noise: with `drop_columns`, keep the frames that the mask takes for noise instead.
            repeat: fill what is shorter than a segment up with itself instead of padding.
        """
        if not shards:
            raise PipelineError("There are no features. Run stage 3: ./doall.sh --stage 3 --stop-stage 3")
        if not noise and all((shard.cells == 1).all() for shard in shards):
            mask = drop_columns = False  # nothing to leave out, as with front ends that have no mask
        self.shards, self.segment_frames = list(shards), segment_frames
        self.mask, self.drop_columns, self.repeat = mask, drop_columns, repeat
        first = shards[0]
        self.encoding = Encoding(first.frames.dtype.name, first.scale_factor, first.add_offset, first.fill_value)
        self.dtype, self.shape, self.cell_frames = first.frames.dtype, first.frames.shape[1:], first.cell_frames
        self.fill, self.frame_rate = self.encoding.fill_code, first.frame_rate
        self.read_bytes = 0
        self.band_of_bin = np.repeat(np.arange(len(first.edges) - 1), np.diff(first.edges))
        self.in_cell, self.in_segment = np.arange(self.cell_frames), np.arange(segment_frames)
        self.cell_of_frame = np.arange(segment_frames + self.cell_frames) // self.cell_frames
        self.media_id = [media_id for shard in shards for media_id in shard.media_id]
        sizes = [len(shard.media_id) for shard in shards]
        self.shard_of = np.repeat(np.arange(len(shards)), sizes)
        self.frame_start = np.concatenate([shard.frame_start for shard in shards])
        self.frame_count = np.concatenate([shard.frame_count for shard in shards])
        self.cell_start = np.concatenate([shard.cell_start for shard in shards])
        self.cell_count = -(-self.frame_count // self.cell_frames)
        choose = noise_columns if noise else kept_columns
        self.columns = [choose(shard.cells, shard.edges) for shard in shards] if drop_columns else []
        self.lengths = self._view_lengths() if drop_columns else self.frame_count.copy()
        self.frames_left = np.where(self.lengths, self.lengths, self.frame_count)  # all, if all was dropped

    def __len__(self) -> int:
        return len(self.media_id)

    def _view_lengths(self) -> np.ndarray:
        """Return the frames of every recording that are left, int64 [n]; 0 where all were dropped."""
        lengths = np.zeros(len(self), np.int64)
        for i in range(len(self)):
            kept = self._kept(i)
            lengths[i] = np.count_nonzero(kept) * self.cell_frames
            if len(kept) and kept[-1]:  # the last cell may be shorter
                lengths[i] -= self.cell_count[i] * self.cell_frames - self.frame_count[i]
        return lengths

    def _kept(self, recording: int) -> np.ndarray:
        start = self.cell_start[recording]
        return self.columns[self.shard_of[recording]][start : start + self.cell_count[recording]]

    def segment_starts(self, recording: int, hop: float = 0.0) -> list[int]:
        """Return the first frame of each segment of a recording, by the rule of `list_segments`."""
        return list_segments(self, [recording], hop)[1].tolist()

    def spans(self, recording: int, starts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return where the segments of a recording lie in it, in frames of the whole recording, int64 [n, 2].

        From the first frame of each to behind its last one, without padding. Frames that the view leaves out may lie
        in between.
        """
        length = self.frames_left[recording]
        first = np.clip(np.asarray(starts, np.int64), 0, length - 1)
        last = np.clip(np.asarray(starts, np.int64) + self.segment_frames, 1, length) - 1
        if self.columns and self.lengths[recording]:
            cells = self._kept(recording).nonzero()[0] * self.cell_frames
            first, last = (cells[i // self.cell_frames] + i % self.cell_frames for i in (first, last))
        return np.stack([first, last + 1], axis=1)

    def read(self, recordings: Sequence[int] | np.ndarray, starts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read one segment per pair of recording and first frame; a negative first frame pads on the left.

        Returns:
            Codes, [n, segment_frames, bins(, channels)] in the dtype of the store; decode with `encoding`.
        """
        out = np.empty((len(recordings), self.segment_frames, *self.shape), self.dtype)
        self._stay_small(out.nbytes)
        fill = self._read_masked if self.mask or self.drop_columns else self._read_plain
        for i, (recording, start) in enumerate(zip(recordings, starts, strict=True)):
            length = self.frames_left[recording]
            if self.repeat and length < self.segment_frames:
                fill(int(recording), 0, out[i])
                out[i] = out[i, (start + self.in_segment) % length]
                continue
            pad = max(0, -int(start))
            out[i, :pad] = self.fill
            fill(int(recording), max(0, int(start)), out[i, pad:])
        return out

    def _stay_small(self, size: int) -> None:
        """Unmap what was read now and then; it stays in the system's page cache, but not in our memory."""
        self.read_bytes += size
        if self.read_bytes > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self.read_bytes = 0
            for shard in self.shards:
                shard.mapping.madvise(mmap.MADV_DONTNEED)

    def _read_plain(self, recording: int, start: int, out: np.ndarray) -> None:
        first = self.frame_start[recording] + start
        count = min(len(out), int(self.frame_count[recording]) - start)
        out[:count] = self.shards[self.shard_of[recording]].frames[first : first + count]
        out[count:] = self.fill

    def _read_masked(self, recording: int, start: int, out: np.ndarray) -> None:
        shard = self.shards[self.shard_of[recording]]
        skip = start % self.cell_frames
        cells = slice(start // self.cell_frames, (start + self.segment_frames - 1) // self.cell_frames + 1)
        if not self.drop_columns:
            chosen = np.arange(self.cell_count[recording])[cells]
        elif self.lengths[recording]:
            chosen = self._kept(recording).nonzero()[0][cells]
        else:
            out[:] = self.fill
            return
        count = min(len(out), self.frames_left[recording] - start)
        rows = chosen[:, None] * self.cell_frames + self.in_cell + self.frame_start[recording]
        shard.frames.take(rows.ravel()[skip : skip + count], 0, out[:count], "clip")  # "clip": straight into out
        if count < len(out):
            out[count:] = self.fill
        if self.mask:
            keep = (shard.cells[self.cell_start[recording] + chosen] == 1).view(np.uint8).take(self.band_of_bin, 1)
            if out.ndim == 3:
                keep = np.repeat(keep[..., None], out.shape[2], 2)
            self._drop_cells(keep, self.cell_of_frame[skip : skip + count], out[:count])

    def _drop_cells(self, keep: np.ndarray, cell: np.ndarray, out: np.ndarray) -> None:
        """Set out [frames, bins(, channels)] to the fill code where keep, 0 or 1 per cell and bin, is 0."""
        if self.dtype == np.uint8:  # bitwise, several times faster than np.where
            out &= np.negative(keep).take(cell, 0)
            out |= ((keep ^ 1) * self.fill).take(cell, 0)
        else:
            np.copyto(out, self.fill, where=keep.take(cell, 0) == 0)


def open_view(shards: Sequence[Shard], features: Features) -> SegmentReader:
    """Return the view of some shards that the section [features] asks for."""
    return SegmentReader(
        shards,
        features.segment_frames,
        features.mask,
        features.drop_columns,
        repeat=features.padding == "repeat",
    )


def has_shards(folder: Path, part: str) -> bool:
    """Tell whether there is any shard of a part; they may have been removed, to save space."""
    return any(folder.glob(f"{part}-*.h5"))


def open_shards(folder: Path, part: str) -> list[Shard]:
    """Open all shards of a part (train or test) in the order of the manifest.

    Raises:
        PipelineError: if there are none, some are missing, or one is not what stage 3 wrote.
    """
    paths = sorted(path for path in folder.glob(f"{part}-*-of-*.h5") if path.stem.rpartition("-")[2].isdecimal())
    announced = {int(path.stem.rpartition("-")[2]) for path in paths}
    if announced != {len(paths)} and (paths or part == "train"):
        raise PipelineError(
            f"{folder} holds {len(paths)} {part} shards, expected {announced or 'some'}. Run stage 3 again."
        )
    sealed = read_seals(folder)
    for path in paths:
        if not is_intact(path, sealed.get(path.name)):
            raise PipelineError(f"{path} was changed since stage 3 wrote it. Run stage 3 again.")
    return [open_shard(path) for path in paths]


def hop_frames(hop: float, frame_rate: float, segment_frames: int) -> int:
    """Return how many frames after the one before a segment begins, for a hop in seconds.

    Raises:
        PipelineError: if the hop is longer than a segment.
    """
    step = max(1, round(hop * frame_rate))
    if step > segment_frames:
        raise PipelineError(
            f"Invalid value for predict.hop. Received: {hop:g}. Expected: at most the "
            f"{segment_frames / frame_rate:g} s of a segment, so that nothing is left out."
        )
    return step


def list_segments(reader: SegmentReader, recordings: Iterable[int], hop: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return all segments of some recordings: the recording and the first frame of each, int64 [segments].

    A recording has ceil(frames / segment) consecutive ones, at least 1; the last one ends where it ends. With a hop in
    seconds, 0 being the length of a segment, one begins every hop, and what is shorter than a segment is read at
    positions in it that are at least a hop apart, from its end to its beginning.

    Raises:
        PipelineError: if the hop is longer than a segment.
    """
    step = hop_frames(hop, reader.frame_rate, reader.segment_frames) if hop else reader.segment_frames
    recordings = np.fromiter(recordings, np.int64)
    spare = reader.frames_left[recordings] - reader.segment_frames
    gaps = np.where(spare >= 0, -(-spare // step), -spare // step)
    of, number = positions_in(gaps + 1)
    spare, gaps = spare[of], gaps[of]
    inside = np.rint(spare * (gaps - number) / np.maximum(gaps, 1)).astype(np.int64)
    return recordings[of], np.where(spare >= 0, np.minimum(number * step, spare), inside)


def positions_in(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for groups of given sizes, one after the other, the group of each member and its number in it from 0."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
