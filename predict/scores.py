"""The logits of all segments of the recordings that a run hears, or their embeddings, kept on disk shard by shard.

An interrupted prediction goes on where it was, and another format or threshold needs no network:

<corpus>/scores/<run>-<mark>/test-00000-of-00003.h5
    /logits    float32 [segments, outputs]    or embeddings, what the logits are made of: [segments, features]
    /spans     int64 [segments, 2]       frames of the whole recording (see SegmentReader.spans)
    /counts    int64 [recordings]        segments of each
    attrs: inputs (of the shard), complete
"""

import functools
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from config import PROJECT, Config, PipelineError
from config.commandline import progress
from preprocess.alone import alone_in
from preprocess.cluster import has_cluster, spread
from preprocess.seals import check_content, checksum, read_seals, seal_content
from preprocess.segments import list_segments, open_view
from preprocess.shards import Shard, open_shard, read_stamp
from preprocess.whole import make_room, whole_file
from train.run import Run, last_run

SEGMENTS_AT_ONCE = 2048  # scored together; bounds the memory

Output = Literal["logits", "embeddings"]  # of a network


@dataclass(frozen=True)
class Scores:
    """What a network made of the segments of one recording."""

    media_id: str
    seconds: np.ndarray  # float64 [segments, 2]: from, to, in the original recording
    logits: np.ndarray  # float32 [segments, outputs]; or embeddings, [segments, features]


def find_run(named: Path | None) -> Run:
    """Return the run that --run names, by its folder or by its name in runs/; None: the one finished last.

    Raises:
        PipelineError: if there is no finished one.
    """
    if named is None:
        return last_run(PROJECT / "runs")
    inside = PROJECT / "runs" / named
    return Run(inside if inside.is_dir() and not named.exists() else named)


def load_run(target: Run, monitor: str = "") -> tuple[Config, Any, Any]:
    """Return the configuration, the model with the weights by a monitor (default: the run's) and the loss of a run.

    Raises:
        PipelineError: if the run is incomplete or its weights are damaged.
    """
    config, stamp = target.read_config(), target.read_stamp()
    from train.losses import open_loss
    from train.network import build_model

    noise_class = config.train.noise_class > 0
    model = build_model(config, stamp.encoding, stamp.shape, len(target.read_species()) + noise_class)
    target.load_best(model, monitor or config.train.monitor)
    return config, model, open_loss(config.train.loss, noise_class)


def open_known(target: Run, config: Config) -> Any:
    """Return the training part of a run's corpus, a `train.trainModel.Dataset`, if it is what the run was trained on.

    Raises:
        PipelineError: if its recordings, features or species have changed since.
    """
    from train.trainModel import open_stamped

    data, stamp = open_stamped(config)
    target.check_stamp(stamp)
    if [kind.class_id for kind in data.species] != [kind.class_id for kind in target.read_species()]:
        raise PipelineError(
            f"The species of {config.corpus_dir} have changed since {target.folder} was started. "
            "Start another run with --set train.run=NAME, or remove that folder."
        )
    return data


def load_network(target: Run, monitor: str, output: Output) -> Any:
    """Return the model of a run from codes to its logits or embeddings; raises as `load_run`."""
    model = load_run(target, monitor)[1]
    from train.network import embed

    return embed(model) if output == "embeddings" else model


def judge(loss: Any, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the segments of a recording and its ranking by the rule of the loss.

    Args:
        loss: from `load_run`.
        logits: float32 [segments, outputs].

    Returns:
        float64 [segments, species] and float64 [species].
    """
    scores = loss.segment_scores(logits).astype(np.float64)
    ranking = loss.recording_scores(logits) if loss.whole else scores.mean(axis=0)
    return scores.clip(0, 1), np.asarray(ranking, np.float64).clip(0, 1)  # rounding may leave that by 1e-7


def scores_folder(config: Config, target: Run, monitor: str, output: Output = "logits", part: str = "test") -> Path:
    """Return where the scores of a corpus by the weights of a run are kept; other weights have another folder.

    Raises:
        PipelineError: if the run has no such weights.
    """
    with target.find_weights(monitor).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    own = target.read_config()
    features = {key: value for key, value in asdict(own.features).items() if (key, value) != ("padding", "silence")}
    view = {"model": asdict(own.model), "features": features, "hop": config.predict.hop}
    view |= {"output": output, "part": part} if (output, part) != ("logits", "test") else {}
    digest.update(json.dumps(view, sort_keys=True, default=list).encode())
    return config.corpus_dir / "scores" / f"{target.folder.name}-{digest.hexdigest()[:12]}"


def make_scores(
    folder: Path, config: Config, shards: Sequence[Shard], target: Run, monitor: str, output: Output = "logits"
) -> tuple[int, float]:
    """Score the segments of all shards whose scores are not there or not valid any more.

    Args:
        folder: from `scores_folder`.
        config: of the run, with the corpus that is scored.
        shards: of the part that is scored.
        target: the run; its network is opened only if there is something to score.
        monitor: which weights.
        output: what is kept of the network.

    Returns:
        How many segments were scored, and the seconds of sound that they are from.

    Raises:
        PipelineError: if scores are no numbers.
    """
    with alone_in(folder):
        marks = mark_shards(shards)
        todo = [shard for shard in shards if not is_valid(folder / shard.path.name, shard, marks[shard.path])]
        keep = {shard.path.name for shard in shards}
        for path in folder.glob("*.h5*"):
            if path.name not in keep:
                path.unlink()
        return _make_scores(folder, config, todo, marks, target, monitor, output) if todo else (0, 0.0)


def _make_scores(
    folder: Path,
    config: Config,
    todo: Sequence[Shard],
    marks: dict[Path, str],
    target: Run,
    monitor: str,
    output: Output,
) -> tuple[int, float]:
    counts = [
        len(list_segments(reader := open_view([shard], config.features), range(len(reader)), config.predict.hop)[0])
        for shard in todo
    ]
    blocks = sum(-(-count // SEGMENTS_AT_ONCE) for count in counts)
    if has_cluster():
        run = target.folder.resolve()
        calls = [(run, monitor, output, config, shard.path, marks[shard.path], folder) for shard in todo]
        for _ in progress(spread(score_on_worker, calls, 1), len(todo), "shards"):
            pass
    else:
        model = load_network(target, monitor, output)
        work = (None for shard in todo for _ in score_shard(folder, config, shard, marks[shard.path], model))
        for _ in progress(work, blocks, f"x {SEGMENTS_AT_ONCE} segments"):
            pass
    return sum(counts), sum(int(shard.frame_count.sum()) for shard in todo) / todo[0].frame_rate


def score_shard(folder: Path, config: Config, shard: Shard, mark: str, model: Any) -> Iterator[None]:
    """Write the scores of a shard; yield after every `SEGMENTS_AT_ONCE` segments."""
    from train.scoring import segment_logits

    reader = open_view([shard], config.features)
    owners, starts = list_segments(reader, range(len(reader)), config.predict.hop)
    with whole_file(folder / shard.path.name) as partial:
        make_room(partial, (1 << 16) + len(owners) * (4 * model.output_shape[-1] + 16) + 8 * len(reader))
        with h5py.File(partial, "w") as file:
            logits = file.create_dataset("logits", (len(owners), model.output_shape[-1]), "float32")
            for low in range(0, len(owners), SEGMENTS_AT_ONCE):
                part = slice(low, low + SEGMENTS_AT_ONCE)
                found = segment_logits(model, reader, owners[part], starts[part], config.predict.batch_size)
                if not np.isfinite(found).all():
                    raise PipelineError(
                        "The network's scores are not finite: its training diverged. Train it with other settings."
                    )
                logits[part] = found
                yield
            counts = np.bincount(owners, minlength=len(reader))
            ends = np.cumsum(counts)
            spans = [reader.spans(i, starts[ends[i] - counts[i] : ends[i]]) for i in range(len(reader))]
            file["spans"], file["counts"] = np.concatenate([*spans, np.empty((0, 2), np.int64)]), counts
            file.attrs.update(inputs=mark, complete=1)
            seal_content(file)


def score_on_worker(
    run: Path, monitor: str, output: Output, config: Config, shard: Path, mark: str, folder: Path
) -> None:
    """Write the scores of a shard, in a process that keeps the network for the next one."""
    with _network:
        model = _open_network(run, monitor, output, folder.name)
        for _ in score_shard(folder, config, open_shard(shard), mark, model):
            pass


_network = threading.Lock()  # a worker may have several threads, the network uses all cores


@functools.lru_cache(maxsize=1)
def _open_network(run: Path, monitor: str, output: Output, mark: str) -> Any:
    """Return the network of a run; the mark is that of its weights, which may change while a worker lives."""
    return load_network(Run(run), monitor, output)


def mark_shards(shards: Sequence[Shard]) -> dict[Path, str]:
    """Return what identifies the recordings of every shard and what it holds of them, by its path.

    The second is the checksum that stage 3 noted: names and lengths are the same after a sound was replaced.
    """
    sealed = {folder: read_seals(folder) for folder in {shard.path.parent for shard in shards}}
    marks = {}
    for shard in shards:
        stamp, known = read_stamp(shard.path), sealed[shard.path.parent].get(shard.path.name)
        content = checksum(shard.path) if known is None or known.crc32 is None else known.crc32
        marks[shard.path] = f"{stamp[0] if stamp else ''}-{content:08x}"
    return marks


def is_valid(path: Path, shard: Shard, mark: str) -> bool:
    """Tell whether the scores of a shard are there, whole and of what it holds now, by `mark_shards`."""
    try:
        with h5py.File(path, "r") as file:
            whole = file.attrs.get("complete") == 1 and file["counts"].shape == (len(shard.media_id),)
            check_content(file)
            return bool(whole and file.attrs.get("inputs") == mark)
    except (OSError, KeyError, ValueError, RuntimeError):
        return False


def read_scores(folder: Path, shards: Sequence[Shard]) -> Iterator[Scores]:
    """Yield the scores of all recordings in the order of the shards."""
    for shard in shards:
        with h5py.File(folder / shard.path.name, "r") as file:
            low = 0
            for i, (media_id, count) in enumerate(zip(shard.media_id, file["counts"][:].tolist(), strict=True)):
                part = slice(low, low + count)
                yield Scores(media_id, shard.times(i, file["spans"][part]), file["logits"][part])
                low += count
