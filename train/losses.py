"""Losses by name. Each function returns a `Loss`; its parameters are the loss's options.

Some compare every segment with the species of its recording, others a whole recording: a bag of segments of which
some hold the species and some may not (train.bag of them are drawn together).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from keras import ops

from config import Between, Part, Share, bind, check_choice

TEN_OVER_N = 10.0
EFFECTIVE_BETA = 0.999  # Cui et al. 2019, arXiv 1901.05555


@dataclass(frozen=True)
class Loss:
    """How logits are compared with targets, and how they become scores.

    Logits are [bags, segments, outputs], targets [bags, classes]; where `whole` is false every bag is one segment.
    """

    compute: Callable[[Any, Any], Any]  # (targets, logits) -> [bags]
    scores: Callable[[Any], Any]  # logits [..., outputs] -> scores of segments in [0, 1], [..., classes]
    pool: Callable[[Any], Any]  # logits [segments, outputs] -> scores of a recording, [classes]
    whole: bool = False  # compares whole recordings
    attention: bool = False  # half of the outputs are weights
    weights: np.ndarray | None = None  # of the classes, float32 [classes]
    noise_class: bool = False  # the last class is noise, which is no species

    def classes(self, outputs: int) -> int:
        """Return how many of the outputs are classes."""
        return outputs // 2 if self.attention else outputs

    def over_batch(self, targets: Any, logits: Any, bag: int) -> Any:
        """Return the losses of a batch: targets [batch, classes], logits [batch, outputs], bags of equal size."""
        size = bag if self.whole else 1
        logits = ops.reshape(logits, (-1, size, logits.shape[-1]))
        targets = ops.reshape(targets, (-1, size, targets.shape[-1]))[:, 0]
        losses = self.compute(targets, logits)
        if self.weights is None:
            return losses
        return losses * ops.sum(targets * self.weights, axis=-1) / ops.sum(targets, axis=-1)

    def segment_scores(self, logits: np.ndarray) -> np.ndarray:
        """Return the scores of the species in segments, [segments, species], of logits [segments, outputs]."""
        return self._species(ops.convert_to_numpy(self.scores(logits)))

    def recording_scores(self, logits: np.ndarray) -> np.ndarray:
        """Return the scores of the species in a recording, [species], of the logits of all its segments."""
        return self._species(ops.convert_to_numpy(self.pool(logits)))

    def _species(self, scores: np.ndarray) -> np.ndarray:
        return scores[..., :-1] if self.noise_class else scores


def categorical_crossentropy(label_smoothing: Share = 0.0) -> Loss:
    """One species per segment: soft-max; targets are scaled to a sum of 1."""

    def compute(targets: Any, logits: Any) -> Any:
        return _soft_crossentropy(_smooth(targets, label_smoothing), ops.log_softmax(logits[:, 0], axis=-1))

    return Loss(compute, _softmax, _mean_of(_softmax))


def binary_crossentropy(label_smoothing: Share = 0.0) -> Loss:
    """Any number of species per segment: one sigmoid each, averaged over the classes."""

    def compute(targets: Any, logits: Any) -> Any:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
        return ops.mean(ops.binary_crossentropy(targets, logits[:, 0], from_logits=True), axis=-1)

    return Loss(compute, ops.sigmoid, _mean_of(ops.sigmoid))


def focal(
    gamma: Annotated[float, Between(0, 10)] = 2.0,
    alpha: Share = 0.25,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
) -> Loss:
    """Cross-entropy that counts what is right already for less (Lin et al. 2017, arXiv 1708.02002, equation 5).

    With a sigmoid, alpha weighs positives and 1 - alpha negatives; with soft-max there are no negatives and alpha
    multiplies everything.
    """

    def compute(targets: Any, logits: Any) -> Any:
        logits = logits[:, 0]
        if activation == "softmax":
            logs = ops.log_softmax(logits, axis=-1)
            return -alpha * ops.sum(_smooth(targets, 0.0) * _above_0(1 - ops.exp(logs)) ** gamma * logs, axis=-1)
        positive, negative = ops.log_sigmoid(logits), ops.log_sigmoid(-logits)
        loss = alpha * targets * _above_0(ops.sigmoid(-logits)) ** gamma * positive
        loss = loss + (1 - alpha) * (1 - targets) * _above_0(ops.sigmoid(logits)) ** gamma * negative
        return -ops.mean(loss, axis=-1)

    scores = _softmax if activation == "softmax" else ops.sigmoid
    return Loss(compute, scores, _mean_of(scores))


def best_frame(label_smoothing: Share = 0.0) -> Loss:
    """Train on the one segment of a recording in which its species is clearest (system 001).

    k* = argmax_k z_k[y], the loss is the soft-max cross-entropy of z_k*. A recording's scores are the soft-max of the
    largest logit of every class.
    """

    def compute(targets: Any, logits: Any) -> Any:
        own = ops.take_along_axis(logits, ops.argmax(targets, axis=-1)[:, None, None], axis=2)[..., 0]
        best = ops.argmax(own, axis=1)[:, None, None]
        chosen = ops.take_along_axis(logits, best, axis=1)[:, 0]
        return _soft_crossentropy(_smooth(targets, label_smoothing), ops.log_softmax(chosen, axis=-1))

    return Loss(compute, _softmax, lambda logits: _softmax(ops.max(logits, axis=0)), whole=True)


def pooled(
    pool: Literal["mean", "max", "log_mean_exp", "attention"] = "mean",
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    sharpness: Annotated[float, Between(0.01, 100)] = 5.0,
    label_smoothing: Share = 0.0,
) -> Loss:
    """Pool the scores of a recording's segments and compare the result with its species.

    Kumar, Khadkevich and Fugen 2018 (arXiv 1711.01369): mean or max; log_mean_exp lies between the two,
    log(mean(exp(r p))) / r with the sharpness r; attention weighs segments per class by a soft-max of learnt weights
    (Kong et al. 2020, PANNs, arXiv 1912.10211, section III.C).
    """
    sigmoid = activation == "sigmoid"

    def scores(logits: Any) -> Any:
        if pool == "attention":
            logits = logits[..., : logits.shape[-1] // 2]
        return ops.sigmoid(logits) if sigmoid else _softmax(logits)

    def pooling(logits: Any) -> Any:  # [bags, segments, outputs] -> [bags, classes]
        values = scores(logits)
        if pool == "mean":
            return ops.mean(values, axis=1)
        if pool == "max":
            return ops.max(values, axis=1)
        if pool == "log_mean_exp":
            return (ops.logsumexp(values * sharpness, axis=1) - np.log(logits.shape[1])) / sharpness
        weights = ops.softmax(logits[..., logits.shape[-1] // 2 :], axis=1)
        return ops.sum(weights * values, axis=1)

    def compute(targets: Any, logits: Any) -> Any:
        values = ops.clip(pooling(logits), 1e-7, 1 - 1e-7)
        if not sigmoid:
            return _soft_crossentropy(_smooth(targets, label_smoothing), ops.log(values))
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
        return -ops.mean(targets * ops.log(values) + (1 - targets) * ops.log(1 - values), axis=-1)

    return Loss(compute, scores, lambda logits: pooling(logits[None])[0], whole=True, attention=pool == "attention")


LOSSES = {f.__name__: f for f in (categorical_crossentropy, binary_crossentropy, focal, best_frame, pooled)}


def open_loss(part: Part, noise_class: bool = False, weights: np.ndarray | None = None) -> Loss:
    """Return the loss that train.loss chooses.

    Args:
        part: name and options.
        noise_class: whether the last class is noise.
        weights: of the classes, see `class_weights`.

    Raises:
        ConfigError: for an unknown loss or option.
    """
    check_choice(part.name, LOSSES, "train.loss.name")
    loss = LOSSES[part.name](**bind(LOSSES[part.name], part.options, "train.loss"))
    return replace(loss, noise_class=noise_class, weights=weights)


def needs_attention(part: Part) -> bool:
    """Tell whether a loss needs a weight per class beside the logit."""
    return open_loss(part).attention


def class_weights(how: str, counts: Sequence[int]) -> np.ndarray | None:
    """Return the weights of the classes in the loss, float32 [classes], from their training recordings.

    "ten_over_n" is 10 / n; "inverse" is 1 / n and "effective" (1 - b) / (1 - b^n) with b = 0.999, both scaled to a
    mean of 1 over the recordings; "none" is None.
    """
    if how == "none":
        return None
    n = np.maximum(np.asarray(counts, np.float64), 1)
    if how == "ten_over_n":
        return (TEN_OVER_N / n).astype(np.float32)
    weights = 1 / n if how == "inverse" else (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**n)
    return (weights * n.sum() / (weights * n).sum()).astype(np.float32)


def _smooth(targets: Any, share: float) -> Any:
    targets = targets / ops.sum(targets, axis=-1, keepdims=True)
    return targets * (1 - share) + share / targets.shape[-1]


def _above_0(shares: Any) -> Any:
    return ops.maximum(shares, 1e-7)  # the derivative of a root is infinite at 0


def _soft_crossentropy(targets: Any, logs: Any) -> Any:
    return -ops.sum(targets * logs, axis=-1)


def _softmax(logits: Any) -> Any:
    return ops.softmax(logits, axis=-1)


def _mean_of(scores: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the mean of the segments' scores: for soft-max the rule of Toth and Czeba (their sum is 1)."""
    return lambda logits: ops.mean(scores(logits), axis=0)
