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

CELLS_AT_ONCE = 1 << 25  # logits of segments in memory


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
        first = np.flatnonzero(np.diff(self.owners, prepend=-1))  # segment of every recording
        self.segment_labels = np.repeat(labels, np.diff(first, append=len(self.owners)))
        most = max(1, CELLS_AT_ONCE // model.output_shape[-1])  # segments
        cuts = np.flatnonzero(np.diff(first // most, prepend=-1))  # so that their logits fit into memory
        self.parts = [
            (slice(low, high), slice(first[low], first[high] if high < len(first) else len(self.owners)))
            for low, high in zip(cuts.tolist(), [*cuts[1:].tolist(), len(first)], strict=True)
        ]
        self.main = main_species(labels, background.shape[1])
        self.relevant = self.main | background
        self.scores = np.empty(self.main.shape)  # float64 [recordings, classes]; there are gigabytes of it

    def evaluate(self) -> dict[str, float]:
        """Return the validation figures of the current weights; `scores` then holds those of the recordings."""
        losses, hits, scores = [], 0, self.scores
        for recordings, segments in self.parts:
            owners = self.owners[segments]
            logits = segment_logits(self.scored, self.reader, owners, self.starts[segments], self.batch_size)
            own = scores[recordings]
            own[:] = recording_scores(self.loss, logits, owners, self.recordings[recordings])
            own[~np.isfinite(own)] = -1  # a network that diverged ranks its classes last
            labels = self.segment_labels[segments]
            best = np.argmax(logits[:, : scores.shape[1]], axis=1)
            hits += int(np.sum((best == labels) & np.isfinite(logits).all(axis=1)))
            losses.append(self._loss(logits, labels, owners, recordings))
        return {
            "val_loss": float(np.sum(losses) / len(self.recordings if self.loss.whole else self.owners)),
            "val_acc": hits / len(self.owners),
            "val_map": float(np.mean(average_precision(scores, self.main))),
            "val_map_background": float(np.mean(average_precision(scores, self.relevant))),
            "val_top1": float(np.mean(in_top(scores, self.labels, 1))),
            "val_top3": float(np.mean(in_top(scores, self.labels, 3))),
            "val_top5": float(np.mean(in_top(scores, self.labels, 5))),
            "val_auc": macro_auroc(scores, self.main),
        }

    def _loss(self, logits: np.ndarray, labels: np.ndarray, owners: np.ndarray, recordings: slice) -> float:
        """Return the sum of the losses of segments, or of recordings where the loss compares those."""
        classes = np.arange(self.loss.classes(logits.shape[1]))
        if not self.loss.whole:
            values = [self.loss.compute((labels[:, None] == classes).astype(np.float32), logits[:, None])]
        else:
            values = [
                self.loss.compute((classes == label).astype(np.float32)[None], own[None])
                for label, own in zip(
                    self.labels[recordings], split(logits, owners, self.recordings[recordings]), strict=True
                )
            ]
        return float(sum(np.sum(ops.convert_to_numpy(value), dtype=np.float64) for value in values))

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
