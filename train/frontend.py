"""Front ends as layers: the recipes of preprocess/recipes on the device, from sound to what their shards hold.

They serve training on stored sound (the recipe waveform) and exported models. Each is equal to its recipe within
1e-4 of a recording, up to the rounding of the store.
"""

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
        *("clean", "high_pass"),
    )
)


class FrontEnd(keras.layers.Layer):
    """Turns samples, shares of full scale, float [batch, samples], into values [batch, frames, bins(, channels)]."""

    def __init__(self, recipe: Any, **kwargs: Any) -> None:
        """Keep a recipe with its options."""
        super().__init__(**kwargs)
        self.recipe = recipe
        self.length = getattr(recipe, "window", 0) or recipe.n_fft  # samples of a frame

    def call(self, samples: Any) -> Any:
        """Return the values of whole frames."""
        return _TRANSFORMS[type(self.recipe)](self.recipe, ops.convert_to_tensor(samples))

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return [batch, frames, bins(, channels)]."""
        return shape[0], (shape[1] - self.length) // self.recipe.hop + 1, *self.recipe.shape


def power_spectra(samples: Any, window: np.ndarray, n_fft: int, hop: int) -> Any:
    """Return squared magnitudes, float32 [batch, frames, n_fft // 2 + 1], of samples [batch, samples]."""
    frames = ops.extract_sequences(samples, len(window), hop) * ops.convert_to_tensor(window.astype(np.float32))
    real, imaginary = ops.rfft(frames, fft_length=n_fft)
    return real * real + imaginary * imaginary


def _log_psd(recipe: birdclef2016.Recipe, samples: Any) -> Any:
    window = np.hanning(recipe.n_fft) * _FULL_SCALE
    window *= np.sqrt(2.0 / (recipe.sample_rate * np.sum(np.hanning(recipe.n_fft) ** 2)))
    factor = np.ones(recipe.n_fft // 2 + 1, np.float32)
    factor[[0, -1]] = 0.5
    power = power_spectra(samples, window, recipe.n_fft, recipe.hop) * factor
    return _log10(ops.maximum(power[..., : recipe.bins], 10.0**birdclef2016.FLOOR))


def _energies(recipe: logmel.MelBands, samples: Any, window: np.ndarray) -> Any:
    power = power_spectra(samples, window, recipe.n_fft, recipe.hop)
    # The square root of 0 has no derivative; 1e-20 is -200 dB.
    spectra = ops.sqrt(ops.maximum(power, 1e-20)) if recipe.power == 1 else power
    return ops.matmul(spectra, recipe.matrix)


def _log_mel(recipe: logmel.Recipe, samples: Any) -> Any:
    energies = _energies(recipe, samples, hann(recipe.window))
    return _log10(ops.maximum(energies, recipe.floor)) * recipe.decibel


def _vggish(recipe: vggish.Recipe, samples: Any) -> Any:
    return ops.log(_energies(recipe, samples, hann(recipe.window)) + recipe.floor)


def _pcen(recipe: pcen.Recipe, samples: Any) -> Any:
    energies = _energies(recipe, samples, hann(recipe.window)) * pcen.SCALE
    frames, share = energies.shape[1], recipe.smoothing
    steps = np.arange(frames)
    decay = share * (1 - share) ** np.maximum(0, steps[:, None] - steps) * (steps[:, None] >= steps)
    decay[:, 0] = (1 - share) ** steps  # M starts as the first frame
    smooth = ops.einsum("tk,bkm->btm", decay.astype(np.float32), energies)
    gained = energies * ops.exp(-recipe.gain * ops.log(recipe.eps + smooth))
    return ops.power(gained + recipe.bias, recipe.exponent) - recipe.bias**recipe.exponent


def _three_windows(recipe: threewindows.Recipe, samples: Any) -> Any:
    channels = [_energies(recipe, samples, taper) for taper in recipe.tapers]
    return _log10(ops.maximum(ops.stack(channels, axis=-1), recipe.floor)) * recipe.decibel


def _log_magnitudes(recipe: sprengel2016.Recipe, samples: Any) -> Any:
    power = power_spectra(samples, hann(recipe.n_fft), recipe.n_fft, recipe.hop)[..., : recipe.bins]
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
