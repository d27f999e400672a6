"""Exponential moving average of the weights (Polyak and Juditsky 1992; train.ema), as the Keras optimizers keep it.

After every step, average = ema * average + (1 - ema) * weight, from the weights after the first step on. The
averages are variables of the optimizer, so the state of a run holds them. Statistics of batch normalisation are
averages already and stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def averaged(trainer: Any) -> Iterator[None]:
    """Let the averages be the weights of a compiled model for a while; without train.ema nothing changes.

    Weights and averages come back bit by bit, so that looking at the averages never changes the training.
    """
    optimizer = getattr(trainer, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss scale
    if not getattr(optimizer, "use_ema", False):
        yield
        return
    averages = [variable for variable in optimizer.variables if variable.path.endswith("_average")]
    pairs = list(zip(trainer.trainable_variables, averages, strict=True))
    kept = [np.array(weight.numpy()) for weight, _ in pairs]
    try:
        for weight, average in pairs:
            weight.assign(average.numpy())
        yield
    finally:
        for (weight, _), value in zip(pairs, kept, strict=True):
            weight.assign(value)
