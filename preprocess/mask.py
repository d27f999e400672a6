"""Masks: which cells of a spectrogram carry information. 0 is noise, 1 is kept, 2 is neither.

The energy mask of Toth and Czeba (2016): a cell is `cell_frames` frames by one frequency band. It is dropped if its
mean is below 0, or if the mean of its loudest values is below a factor times the band's mean plus deviation over the
whole recording. Kept cells keep their four neighbours too. All in log10(LSB^2 / Hz).
"""

import math

import numpy as np


def band_edges(bins: int, bands: int) -> np.ndarray:
    """Return the borders of the bands in bins, int64 [bands + 1]: ceil(linspace(0, bins, bands + 1))."""
    return np.ceil(np.linspace(0, bins, bands + 1)).astype(np.int64)


class MaskBuilder:
    """Computes the mask of one recording from its spectrogram, block by block."""

    def __init__(self, edges: np.ndarray, cell_frames: int, loudest: int, level_factor: float, dilate: bool) -> None:
        """Start a recording.

        Args:
            edges: from `band_edges`.
            cell_frames: frames per cell; the last cell of a recording may be shorter.
            loudest: how many of a cell's largest values are averaged.
            level_factor: of (mean + deviation) of the band, which that average must reach.
            dilate: whether the four neighbours of a kept cell are kept.
        """
        self.edges, self.cell_frames, self.loudest = edges, cell_frames, loudest
        self.level_factor, self.dilate_kept = level_factor, dilate
        self.means: list[np.ndarray] = []
        self.peaks: list[np.ndarray] = []
        self.frames = 0
        self.sums = np.zeros(len(edges) - 1)
        self.squares = np.zeros(len(edges) - 1)

    def add(self, block: np.ndarray) -> None:
        """Take the next frames, float32 [frames, bins]; all blocks but the last hold whole cells."""
        whole = len(block) - len(block) % self.cell_frames
        if whole:
            self._add_cells(block[:whole].reshape(-1, self.cell_frames, block.shape[1]))
        if whole < len(block):
            self._add_cells(block[None, whole:])
        self.frames += len(block)

    def _add_cells(self, cells: np.ndarray) -> None:
        """Take cells of equal length, float32 [cells, frames, bins]."""
        starts = self.edges[:-1]
        by_bin = cells.sum(axis=1, dtype=np.float64)
        totals = np.add.reduceat(by_bin, starts, axis=1)
        sizes = cells.shape[1] * np.diff(self.edges)
        self.means.append(totals / sizes)
        self.sums += totals.sum(axis=0)
        by_bin_squared = np.einsum("cfb,cfb->b", cells, cells, dtype=np.float64)
        self.squares += np.add.reduceat(by_bin_squared, starts)
        peaks = np.empty_like(totals)
        for band, (low, high) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            values = cells[:, :, low:high].reshape(len(cells), -1)
            take = min(self.loudest, values.shape[1])
            peaks[:, band] = np.partition(values, values.shape[1] - take, axis=1)[:, -take:].mean(
                axis=1, dtype=np.float64
            )
        self.peaks.append(peaks)

    def cells(self) -> np.ndarray:
        """Return the mask, uint8 [cells, bands]: 0 drop, 1 keep."""
        sizes = self.frames * np.diff(self.edges)
        mean = self.sums / sizes
        deviation = np.sqrt(np.maximum(self.squares / sizes - mean**2, 0))
        means, peaks = np.concatenate(self.means), np.concatenate(self.peaks)
        dropped = (means < 0) | (peaks < self.level_factor * (mean + deviation))
        kept = ~dropped
        return (dilate(kept) if self.dilate_kept else kept).astype(np.uint8)


class KeepAll:
    """The mask of a front end that has none: one cell per `cell_frames` frames, all kept."""

    def __init__(self, cell_frames: int) -> None:
        """Start a recording."""
        self.cell_frames, self.frames = cell_frames, 0

    def add(self, block: np.ndarray) -> None:
        """Take the next frames."""
        self.frames += len(block)

    def cells(self) -> np.ndarray:
        """Return the mask, uint8 [cells, 1]."""
        return np.ones((-(-self.frames // self.cell_frames), 1), np.uint8)


class SilenceMask(KeepAll):
    """Leaves digital silence out: cells without one value from a level on, unless a cell beside them has one.

    They are neither signal nor noise: whoever asks for noise wants that of a place, not of a codec. A recording that is
    quieter than the level throughout is measured by the faintest instead.
    """

    def __init__(self, cell_frames: int, level: float, faintest: float) -> None:
        """Start a recording; both levels are in the units of its values."""
        super().__init__(cell_frames)
        self.levels = level, faintest
        self.heard: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take the next frames, float32 [frames, bins(, channels)]."""
        super().add(block)
        loudest = block.reshape(len(block), -1).max(axis=1)
        self.heard.append(np.stack([loudest >= level for level in self.levels]))

    def cells(self) -> np.ndarray:
        """Return the mask, uint8 [cells, 1]: 1 sound, 2 silence."""
        loud, faint = np.concatenate(self.heard, axis=1)
        heard = loud if loud.any() else faint
        starts = np.arange(0, len(heard), self.cell_frames)
        kept = dilate(np.logical_or.reduceat(heard, starts)[:, None])
        return np.where(kept, 1, 2).astype(np.uint8)


class SignalNoiseMask:
    """Separates the frames of a recording into signal, noise and neither.

    Sprengel et al. 2016 (CEUR Vol-1609): a pixel is signal if it is more than 3 times the median of its row and more
    than 3 times the median of its column; erosion, then dilation by 4 x 4; frames with any signal pixel, dilated
    twice by 4 frames, are signal. Noise are the frames that are not signal by the same rule with 2.5. A cell is one
    frame. Medians are over `stretch` frames, at the end of a recording over half as many more or less, so that memory
    does not grow with it and that few frames are not measured by themselves.
    """

    def __init__(self, signal: float, noise: float, stretch: int) -> None:
        """Start a recording; `signal` and `noise` are the two factors."""
        self.signal, self.noise, self.stretch = signal, noise, stretch
        self.waiting: list[np.ndarray] = []
        self.done: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take the next frames, log10 of magnitudes, float32 [frames, bins]."""
        self.waiting.append(block)
        while sum(map(len, self.waiting)) >= 1.5 * self.stretch:
            frames = np.concatenate(self.waiting)
            self._separate(frames[: self.stretch])
            self.waiting = [frames[self.stretch :]]

    def _separate(self, frames: np.ndarray) -> None:
        magnitudes = 10**frames
        signal = active_frames(magnitudes, self.signal)
        noise = ~active_frames(magnitudes, self.noise)
        self.done.append(np.where(signal, 1, np.where(noise, 0, 2)).astype(np.uint8)[:, None])

    def cells(self) -> np.ndarray:
        """Return the mask, uint8 [frames, 1]: 0 noise, 1 signal, 2 neither."""
        if self.waiting:
            self._separate(np.concatenate(self.waiting))
            self.waiting = []
        return np.concatenate(self.done)


def active_frames(magnitudes: np.ndarray, factor: float) -> np.ndarray:
    """Return the frames that hold signal by the rule of Sprengel et al., bool [frames]; see `SignalNoiseMask`."""
    from scipy import ndimage

    pixels = magnitudes > factor * np.median(magnitudes, axis=0)
    pixels &= magnitudes > factor * np.median(magnitudes, axis=1, keepdims=True)
    square = np.ones((4, 4), bool)
    pixels = ndimage.binary_dilation(ndimage.binary_erosion(pixels, square), square)
    return ndimage.binary_dilation(pixels.any(axis=1), np.ones(4, bool), iterations=2)


def dilate(kept: np.ndarray) -> np.ndarray:
    """Keep the four neighbours of every kept cell, once; bool [cells, bands]."""
    grown = kept.copy()
    grown[1:] |= kept[:-1]
    grown[:-1] |= kept[1:]
    grown[:, 1:] |= kept[:, :-1]
    grown[:, :-1] |= kept[:, 1:]
    return grown


def kept_columns(cells: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return which cells' frames stay: those with at most 95 % of their bins dropped; bool [cells].

    With 200 bins that is any frame with at least 10 kept bins, so one kept band is enough.
    """
    widths = np.diff(edges)
    bins = int(edges[-1])
    return bins - (cells == 1).astype(np.int64) @ widths <= math.floor(0.95 * bins)


def noise_columns(cells: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return which cells' frames are noise: not kept, and no cell of them is neither; bool [cells]."""
    return ~kept_columns(cells, edges) & (cells != 2).all(axis=1)
