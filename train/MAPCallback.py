"""Mean average precision during training: the official measure of the task, per recording, after every epoch."""

from typing import Any

import keras
import numpy as np
from keras import ops

from config import Predict
from preprocess.segments import SegmentReader, list_segments
from train.averaging import averaged
from train.losses import Loss
from train.metrics import average_precision, bootstrap_interval, in_top, macro_auroc, main_species
from train.scoring import recording_scores, segment_logits, split


class MAPCallback(keras.callbacks.Callback):
    """Adds val_loss, val_acc, val_map, val_map_background, val_top{1,3,5} and val_auc to the logs of an epoch.

    val_auc is the mean, over the species with recordings, of the area under the ROC curve. val_acc is a mean over
    segments, val_loss too unless the loss compares whole recordings, the others are means over recordings. With
    train.ema the averaged weights are scored. It comes before every callback that uses these values.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Loss,
        reader: SegmentReader,
        recordings: np.ndarray,
        labels: np.ndarray,
        background: np.ndarray,
        settings: Predict,
    ) -> None:
        """Keep the validation data.

        Args:
            model: from codes to logits.
            loss: gives the scores and val_loss.
            reader: the view.
            recordings: indices of the validation recordings in the reader.
            labels: the class of each of them, int [recordings].
            background: its background species, bool [recordings, classes].
            settings: of the prediction.
        """
        super().__init__()
        self.scored, self.loss, self.reader = model, loss, reader
        self.recordings, self.labels, self.batch_size = recordings, labels, settings.batch_size
        self.owners, self.starts = list_segments(reader, recordings, settings.hop)
        self.main = main_species(labels, background.shape[1])
        self.relevant = self.main | background

    def evaluate(self) -> dict[str, float]:
        """Return the validation figures of the current weights; `scores` then holds those of the recordings."""
        logits = segment_logits(self.scored, self.reader, self.owners, self.starts, self.batch_size)
        label_of = dict(zip(self.recordings.tolist(), self.labels.tolist(), strict=True))
        labels = np.array([label_of[owner] for owner in self.owners.tolist()])
        scores = recording_scores(self.loss, logits, self.owners, self.recordings)
        best = np.argmax(logits[:, : scores.shape[1]], axis=1)
        scores = np.where(np.isfinite(scores), scores, -1.0)  # a network that diverged ranks its classes last
        self.scores = scores  # float64 [recordings, classes]
        return {
            "val_loss": self._mean_loss(logits, labels),
            "val_acc": float(np.mean((best == labels) & np.isfinite(logits).all(axis=1))),
            "val_map": float(np.mean(average_precision(scores, self.main))),
            "val_map_background": float(np.mean(average_precision(scores, self.relevant))),
            "val_top1": float(np.mean(in_top(scores, self.labels, 1))),
            "val_top3": float(np.mean(in_top(scores, self.labels, 3))),
            "val_top5": float(np.mean(in_top(scores, self.labels, 5))),
            "val_auc": macro_auroc(scores, self.main),
        }

    def _mean_loss(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the mean loss over segments, or over recordings where the loss compares those."""
        one_hot = np.eye(self.loss.classes(logits.shape[1]), dtype=np.float32)
        if not self.loss.whole:
            return float(np.mean(ops.convert_to_numpy(self.loss.compute(one_hot[labels], logits[:, None]))))
        losses = [
            self.loss.compute(one_hot[label][None], own[None])
            for label, own in zip(self.labels, split(logits, self.owners, self.recordings), strict=True)
        ]
        return float(np.mean([ops.convert_to_numpy(value) for value in losses]))

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % bootstrap intervals of val_map and val_top1 of the scores of the latest `evaluate`."""
        values = {
            "val_map": average_precision(self.scores, self.main),
            "val_top1": in_top(self.scores, self.labels, 1).astype(float),
        }
        return {name: bootstrap_interval(value) for name, value in values.items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the figures into the logs."""
        with averaged(self.model):
            logs.update(self.evaluate())
