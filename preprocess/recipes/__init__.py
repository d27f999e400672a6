"""Front ends, one module each: from samples to what the shards hold.

A recipe module holds one frozen dataclass named ``Recipe``. Its fields are the recipe's options in
``[features]``. Besides them it has:

    sample_rate                          # Hz of the WAV files of stage 2
    encoding -> Encoding                 # how values are stored
    shape                                # of a frame: (bins,) or (bins, channels)
    units                                # of the decoded values
    decade                               # what ten times the energy or amplitude adds; None: no logarithms
    is_amplitude                         # whether values are of amplitude, or of power
    edges -> int64 [bands + 1]           # borders of the mask's bands in bins
    cell_frames                          # frames per cell of the mask
    frame_rate                           # frames per second
    count_frames(path, samples) -> int
    blocks(path) -> Iterator[float32 [frames, *shape]]
    new_mask() -> MaskBuilder or KeepAll
    offset(path, samples) -> float       # seconds left out before the first frame; only where that can happen
    revision                             # counts changes of how values come about; only where there were some

The same front ends as layers for use inside a model are in train/frontend.py.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from config import Features, open_part

USUAL_STEP = 0.5  # dB between the bytes of mel bands, which need not be told


@dataclass(frozen=True)
class Encoding:
    """How a value is stored: value = code * scale_factor + add_offset (CF conventions, section 8.1)."""

    dtype: str
    scale_factor: float
    add_offset: float
    fill: float = 0.0  # the value of dropped cells and of padding

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the codes of float32 values, rounded to the nearest and clipped to the range of the type."""
        dtype = np.dtype(self.dtype)
        if values.dtype == np.int16 == dtype:  # sound is stored as it is
            return values
        if dtype.kind == "f" and (self.scale_factor, self.add_offset) == (1.0, 0.0):
            return values.astype(dtype)
        codes = values * np.float32(1 / self.scale_factor)
        codes -= np.float32(self.add_offset / self.scale_factor)
        if dtype.kind == "f":
            return codes.astype(dtype)
        limits = np.iinfo(dtype)
        np.rint(codes, out=codes)
        return np.clip(codes, limits.min, limits.max, out=codes).astype(dtype)

    @property
    def fill_code(self) -> np.generic:
        """The code of dropped cells and padding."""
        return self.encode(np.full(1, self.fill, np.float32))[0]


def open_recipe(features: Features) -> Any:
    """Return the recipe that the section [features] chooses, with its options.

    Raises:
        ConfigError: for an unknown recipe or option.
    """
    recipe, options = open_part(__name__, "Recipe", "features.recipe", features.recipe, features.options)
    return recipe(**options)


def describe(recipe: Any, name: str) -> str:
    """Return the resolved recipe and how it is stored as JSON, which every shard carries."""
    options = dataclasses.asdict(recipe)
    for later in ("silence", "fine"):  # which recipes of before did not have
        if not options.get(later):
            options.pop(later, None)
    step = {"step": recipe.step} if getattr(recipe, "step", USUAL_STEP) != USUAL_STEP else {}
    revision = {"revision": recipe.revision} if getattr(recipe, "revision", 1) > 1 else {}
    return json.dumps({"recipe": name, **options, **step, **revision}, sort_keys=True)


def folder_name(recipe: Any, name: str) -> str:
    """Return the name of the folder under features/: the recipe and a hash of its options."""
    return f"{name}-{hashlib.sha256(describe(recipe, name).encode()).hexdigest()[:8]}"
