"""Losses by name. Each function returns a `Loss`; its parameters are the loss's options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from config import Part, Share, bind, check_choice


@dataclass(frozen=True)
class Loss:
    """How logits are compared with targets, and how they become scores."""

    compute: Callable[[Any, Any], Any]  # (targets, logits), both [batch, classes] -> [batch]
    scores: Callable[[Any], Any]  # logits -> scores in [0, 1]


def categorical_crossentropy(label_smoothing: Share = 0.0) -> Loss:
    """One species per segment: soft-max; targets are scaled to a sum of 1."""

    def compute(targets: Any, logits: Any) -> Any:
        targets = targets / ops.sum(targets, axis=-1, keepdims=True)
        targets = targets * (1 - label_smoothing) + label_smoothing / targets.shape[-1]
        return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)

    return Loss(compute, lambda logits: ops.softmax(logits, axis=-1))


def binary_crossentropy(label_smoothing: Share = 0.0) -> Loss:
    """Any number of species per segment: one sigmoid each, averaged over the classes."""

    def compute(targets: Any, logits: Any) -> Any:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
        return ops.mean(ops.binary_crossentropy(targets, logits, from_logits=True), axis=-1)

    return Loss(compute, ops.sigmoid)


LOSSES = {function.__name__: function for function in (categorical_crossentropy, binary_crossentropy)}


def open_loss(part: Part) -> Loss:
    """Return the loss that train.loss chooses.

    Raises:
        ConfigError: for an unknown loss or option.
    """
    check_choice(part.name, LOSSES, "train.loss.name")
    return LOSSES[part.name](**bind(LOSSES[part.name], part.options, "train.loss"))
