"""Front ends as layers: the recipes of preprocess/recipes on the device, from sound to what their shards hold.

They serve training on stored sound (the recipe waveform) and exported models. Each is equal to its recipe within
1e-4 of a recording, up to the rounding of the store.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops

from config import ConfigError, Features, Part, bind, check_choice
from preprocess.recipes import birdclef2016, logmel, open_recipe, passau, pcen, sprengel2016, threewindows, vggish
from preprocess.spectrogram import hann

_FULL_SCALE = logmel.FULL_SCALE
# Options of recipes that say how values are stored, masked and cleaned before; a layer does none of this.
STORE_ONLY = frozenset(
    (
        "storage",
        *("bands", "cell_frames", "loudest", "level_factor", "dilate"),
        *("signal", "noise", "median_seconds"),
        *("clean", "high_pass", "silence"),
    )
)


class FrontEnd(keras.layers.Layer):
    """Turns samples, shares of full scale, float [batch, samples], into values [batch, frames, bins(, channels)]."""

    def __init__(self, recipe: Any, portable: bool = False, **kwargs: Any) -> None:
        """Keep a recipe with its options; portable: without Fourier transforms, which not every runtime has."""
        super().__init__(**kwargs)
        self.recipe, self.spectra = recipe, convolved_spectra if portable else power_spectra
        self.length = getattr(recipe, "window", 0) or recipe.n_fft  # samples of a frame

    def call(self, samples: Any) -> Any:
        """Return the values of whole frames."""
        return _TRANSFORMS[type(self.recipe)](self.recipe, ops.convert_to_tensor(samples), self.spectra)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return [batch, frames, bins(, channels)]."""
        return shape[0], (shape[1] - self.length) // self.recipe.hop + 1, *self.recipe.shape


class StoredView(keras.layers.Layer):
    """Turns the values of a front end into what the network gets of a recording of exactly that length.

    They are rounded as the store rounds them, cells that the mask drops get the fill value, and frames that it leaves
    empty go: the rest moves to the front, and the end is filled up (preprocess/mask.py, preprocess/segments.py).
    """

    def __init__(self, recipe: Any, features: Features, **kwargs: Any) -> None:
        """Keep a recipe and what of its mask is used."""
        super().__init__(**kwargs)
        self.recipe, self.features = recipe, features

    def call(self, values: Any) -> Any:
        """Return values [batch, frames, bins(, channels)] of the same shape."""
        stored = self.rounded(values)
        silence = getattr(self.recipe, "silence", 0.0)
        has_mask = silence or isinstance(self.recipe, birdclef2016.Recipe)
        if not has_mask or not (self.features.mask or self.features.drop_columns):
            return stored
        kept = self.heard_cells(values, silence) if silence else self.kept_cells(values)
        frames, further = values.shape[1], (None,) * (len(values.shape) - 3)  # channels are masked alike
        fill = self.recipe.encoding.fill_code * self.recipe.encoding.scale_factor + self.recipe.encoding.add_offset
        cell_of_frame, widths = np.arange(frames) // self.recipe.cell_frames, np.diff(self.recipe.edges)
        columns = ops.ones_like(kept[..., 0])
        if self.features.drop_columns:
            bins = int(self.recipe.edges[-1])
            columns = bins - ops.sum(kept * widths.astype(np.float32), axis=2) <= np.floor(0.95 * bins)
            columns = ops.cast(columns, "float32")
        if self.features.mask:
            band_of_bin = np.repeat(np.arange(len(widths)), widths)
            shown = ops.take(ops.take(kept, cell_of_frame, axis=1), band_of_bin, axis=2)[(..., *further)]
            stored = stored * shown + fill * (1 - shown)
        here = ops.take(columns, cell_of_frame, axis=1)
        place, count = np.arange(frames, dtype=np.float32), ops.sum(here, axis=1, keepdims=True)
        order = ops.cast(ops.argsort((1 - here) * frames + place, axis=1), "int32")
        inside = place < count  # none: all is padding
        if self.features.padding == "repeat":
            place = ops.mod(np.arange(frames, dtype=np.int32), ops.maximum(ops.cast(count, "int32"), 1))
            order, inside = ops.take_along_axis(order, place, axis=1), ops.logical_and(inside[:, :1], place >= 0)
        stored = ops.take_along_axis(stored, order[(..., None, *further)], axis=1)
        inside = ops.cast(inside, "float32")[(..., None, *further)]
        return stored * inside + fill * (1 - inside)

    def rounded(self, values: Any) -> Any:
        """Return values as they come back from the store."""
        encoding = self.recipe.encoding
        if np.dtype(encoding.dtype).kind == "f":
            return ops.cast(ops.cast(values, encoding.dtype), "float32")
        limits = np.iinfo(encoding.dtype)
        codes = ops.round((values - encoding.add_offset) / encoding.scale_factor)
        return ops.clip(codes, float(limits.min), float(limits.max)) * encoding.scale_factor + encoding.add_offset

    def kept_cells(self, values: Any) -> Any:
        """Return the energy mask of recordings, float32 0 or 1, [batch, cells, bands]."""
        recipe, frames, bins = self.recipe, values.shape[1], int(self.recipe.edges[-1])
        widths, length = np.diff(recipe.edges), recipe.cell_frames
        membership = np.repeat(np.eye(len(widths), dtype=np.float32), widths, axis=0)
        whole = frames // length
        parts = [ops.reshape(values[:, : whole * length], (-1, whole, length, bins))] if whole else []
        if frames % length:  # the last cell is shorter
            parts.append(values[:, None, whole * length :])
        means, peaks, sums, squares = [], [], 0.0, 0.0
        for part in parts:
            totals = ops.matmul(ops.sum(part, axis=2), membership)
            sums += ops.sum(totals, axis=1)
            squares += ops.sum(ops.matmul(ops.sum(part * part, axis=2), membership), axis=1)
            means.append(totals / (part.shape[2] * widths).astype(np.float32))
            loudest = []
            for low, high in pairwise(recipe.edges.tolist()):
                own = ops.reshape(part[..., low:high], (-1, part.shape[1], part.shape[2] * (high - low)))
                loudest.append(ops.mean(ops.top_k(own, min(recipe.loudest, own.shape[2]))[0], axis=2))
            peaks.append(ops.stack(loudest, axis=2))
        mean = sums / (frames * widths).astype(np.float32)
        deviation = ops.sqrt(ops.maximum(squares / (frames * widths).astype(np.float32) - mean * mean, 0.0))
        level = recipe.level_factor * (mean + deviation)
        means, peaks = ops.concatenate(means, axis=1), ops.concatenate(peaks, axis=1)
        kept = ops.cast(ops.logical_and(means >= 0, peaks >= level[:, None]), "float32")
        return dilate(kept) if recipe.dilate else kept

    def heard_cells(self, values: Any, level: float) -> Any:
        """Return the cells that hold sound, or lie beside one that does, float32 0 or 1, [batch, cells, 1]."""
        length, frames = self.recipe.cell_frames, values.shape[1]
        loudest = ops.max(values, axis=tuple(range(2, len(values.shape))))
        reached = ops.max(loudest, axis=1, keepdims=True) >= level  # or the whole recording is quieter
        heard = ops.cast(loudest >= ops.where(reached, level, self.recipe.lowest + self.recipe.step), "float32")
        heard = ops.pad(heard, [[0, 0], [0, -frames % length]])
        return dilate(ops.max(ops.reshape(heard, (-1, -(-frames // length), length)), axis=2)[..., None])


def dilate(kept: Any) -> Any:
    """Keep the four neighbours of every kept cell, [batch, cells, bands]."""
    across = ops.maximum(ops.pad(kept[:, 1:], _AFTER), ops.pad(kept[:, :-1], _BEFORE))
    along = ops.maximum(ops.pad(kept[:, :, 1:], _RIGHT), ops.pad(kept[:, :, :-1], _LEFT))
    return ops.maximum(kept, ops.maximum(across, along))


_BEFORE, _AFTER = [[0, 0], [1, 0], [0, 0]], [[0, 0], [0, 1], [0, 0]]
_LEFT, _RIGHT = [[0, 0], [0, 0], [1, 0]], [[0, 0], [0, 0], [0, 1]]


def power_spectra(samples: Any, window: np.ndarray, n_fft: int, hop: int) -> Any:
    """Return squared magnitudes, float32 [batch, frames, n_fft // 2 + 1], of samples [batch, samples]."""
    frames = ops.extract_sequences(samples, len(window), hop) * ops.convert_to_tensor(window.astype(np.float32))
    real, imaginary = ops.rfft(frames, fft_length=n_fft)
    return real * real + imaginary * imaginary


def convolved_spectra(samples: Any, window: np.ndarray, n_fft: int, hop: int) -> Any:
    """Return what `power_spectra` returns, by a convolution with the windowed sines and cosines of the transform."""
    bins = n_fft // 2 + 1
    turns = np.outer(np.arange(len(window)), np.arange(bins)) % n_fft  # whole turns left out, for precision
    waves = np.concatenate([np.cos(2 * np.pi / n_fft * turns), np.sin(2 * np.pi / n_fft * turns)], axis=1)
    kernel = (waves * window[:, None]).astype(np.float32)[:, None]
    both = ops.conv(samples[..., None], ops.convert_to_tensor(kernel), strides=hop, padding="valid")
    return both[..., :bins] ** 2 + both[..., bins:] ** 2


Spectra = Callable[[Any, np.ndarray, int, int], Any]


def _log_psd(recipe: birdclef2016.Recipe, samples: Any, spectra: Spectra) -> Any:
    window = np.hanning(recipe.n_fft) * _FULL_SCALE
    window *= np.sqrt(2.0 / (recipe.sample_rate * np.sum(np.hanning(recipe.n_fft) ** 2)))
    factor = np.ones(recipe.n_fft // 2 + 1, np.float32)
    factor[[0, -1]] = 0.5
    power = spectra(samples, window, recipe.n_fft, recipe.hop) * factor
    return _log10(ops.maximum(power[..., : recipe.bins], 10.0**birdclef2016.FLOOR))


def _energies(recipe: logmel.MelBands, samples: Any, window: np.ndarray, spectra: Spectra) -> Any:
    return _summed(recipe, spectra(samples, window, recipe.n_fft, recipe.hop), recipe.matrix)


def _summed(recipe: logmel.MelBands, power: Any, matrix: np.ndarray) -> Any:
    # The square root of 0 has no derivative; 1e-20 is -200 dB.
    return ops.matmul(ops.sqrt(ops.maximum(power, 1e-20)) if recipe.power == 1 else power, matrix)


def _log_mel(recipe: logmel.Recipe, samples: Any, spectra: Spectra) -> Any:
    energies = _energies(recipe, samples, hann(recipe.window), spectra)
    if recipe.fine:
        energies = ops.stack([energies, _fine_energies(recipe, samples, energies.shape[1], spectra)], axis=-1)
    return _log10(ops.maximum(energies, recipe.floor)) * recipe.decibel


def _fine_energies(recipe: logmel.Recipe, samples: Any, frames: int, spectra: Spectra) -> Any:
    heard = samples[:, recipe.fine_start :][:, : frames * recipe.hop + recipe.fine_hop]
    power = spectra(heard, recipe.fine_taper, len(recipe.fine_taper), recipe.fine_hop)
    bands = ops.reshape(
        _summed(recipe, power, recipe.fine_matrix), (-1, frames, recipe.fine, recipe.mels // recipe.fine)
    )
    bands = ops.transpose(bands, (0, 1, 3, 2))
    return ops.reshape(bands, (-1, frames, recipe.mels))


def _vggish(recipe: vggish.Recipe, samples: Any, spectra: Spectra) -> Any:
    return ops.log(_energies(recipe, samples, hann(recipe.window), spectra) + recipe.floor)


def _pcen(recipe: pcen.Recipe, samples: Any, spectra: Spectra) -> Any:
    energies = _energies(recipe, samples, hann(recipe.window), spectra) * pcen.SCALE
    frames, share = energies.shape[1], recipe.smoothing
    steps = np.arange(frames)
    decay = share * (1 - share) ** np.maximum(0, steps[:, None] - steps) * (steps[:, None] >= steps)
    decay[:, 0] = (1 - share) ** steps  # M starts as the first frame
    smooth = ops.einsum("tk,bkm->btm", decay.astype(np.float32), energies)
    gained = energies * ops.exp(-recipe.gain * ops.log(recipe.eps + smooth))
    return ops.power(gained + recipe.bias, recipe.exponent) - recipe.bias**recipe.exponent


def _three_windows(recipe: threewindows.Recipe, samples: Any, spectra: Spectra) -> Any:
    channels = [_energies(recipe, samples, taper, spectra) for taper in recipe.tapers]
    return _log10(ops.maximum(ops.stack(channels, axis=-1), recipe.floor)) * recipe.decibel


def _log_magnitudes(recipe: sprengel2016.Recipe, samples: Any, spectra: Spectra) -> Any:
    power = spectra(samples, hann(recipe.n_fft), recipe.n_fft, recipe.hop)[..., : recipe.bins]
    return 0.5 * _log10(ops.maximum(power, 10.0 ** (2 * sprengel2016.FLOOR)))


def _log10(values: Any) -> Any:
    return ops.log(values) * float(np.log10(np.e))


_TRANSFORMS = {
    birdclef2016.Recipe: _log_psd,
    logmel.Recipe: _log_mel,
    passau.Recipe: _log_mel,  # of sound that was cleaned before
    vggish.Recipe: _vggish,
    pcen.Recipe: _pcen,
    threewindows.Recipe: _three_windows,
    sprengel2016.Recipe: _log_magnitudes,
}
FRONTENDS = {kind.__module__.rpartition(".")[2]: kind for kind in _TRANSFORMS}


def frontend_options(features: Features) -> dict[str, Any]:
    """Return every option of the front end that features.frontend chooses, with its value.

    Raises:
        ConfigError: for an unknown front end or option, or another sample rate than that of the store.
    """
    part: Part = features.frontend
    check_choice(part.name, FRONTENDS, "features.frontend.name")
    kind, rate = FRONTENDS[part.name], open_recipe(features).sample_rate
    options = bind(kind, {"sample_rate": rate} | part.options, "features.frontend")
    check_choice(str(options["sample_rate"]), [str(rate)], "features.frontend.sample_rate")
    known = {name: value for name, value in options.items() if name not in STORE_ONLY}
    for name in part.options:
        if name not in known:
            raise ConfigError(
                f"Unknown key features.frontend.{name}. It belongs to what {part.name} stores; in a model it accepts: "
                f"{', '.join(sorted(known))}."
            )
    return known


def open_frontend(features: Features, samples: int) -> FrontEnd:
    """Return the layer that features.frontend chooses, for segments of so many samples of stored sound.

    Raises:
        ConfigError: as `frontend_options`, or for segments shorter than a frame.
    """
    options = frontend_options(features)
    layer = FrontEnd(FRONTENDS[features.frontend.name](**options), dtype="float32", name="frontend")
    if samples < layer.length:
        raise ConfigError(
            f"Invalid value for features.segment_frames. Received: segments of {samples} samples. "
            f"Expected: at least one frame of the front end, {layer.length} samples."
        )
    return layer
