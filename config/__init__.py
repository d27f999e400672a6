"""The typed configuration: one TOML file is one experiment.

The sections are data, features, model, train, predict and tune. A section holds common fields, listed below with
their defaults, and the options of the part that it chooses by name: the other keys of ``[data]`` belong to the
chosen source, those of ``[features]`` to the recipe, those of ``[model]`` to the network. A part's options are
the typed parameters of its function or class (see `bind`), so a new part adds its options by existing.
"""

import dataclasses
import importlib
import inspect
import json
import math
import os
import pkgutil
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

T = typing.TypeVar("T")

PROJECT = Path(__file__).resolve().parents[1]
PREDICTIONS = Path(os.environ.get("BIRDSONG_PREDICTIONS", PROJECT / "predict"))  # where run files are written
VERSION = "0.1.0"  # of this software, as in pyproject.toml
MAX_CONFIG_BYTES = 1 << 20
LARGEST = 1 << 53  # whole number that is exact as a float
MAX_BASES = 8  # files that change each other


class PipelineError(Exception):
    """Root of the errors that a user can cause; the message says what, where, and what to do."""


class ConfigError(PipelineError):
    """A configuration key is unknown, has the wrong type or a bad value."""


def require_utf8(path: Path) -> None:
    """Raise a ConfigError for a path that cannot be written into configurations and tables, which are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"The path {str(path)!a} is not UTF-8. Rename it.") from None


def from_project(path: str) -> Path:
    """Return a path as configurations give it: relative to the project, with ~ for the user's home."""
    return PROJECT / Path(path).expanduser()


@dataclass(frozen=True)
class Between:
    """Limits of a number in a type annotation, both inclusive; None is open."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low:.10g}"
        return f"at most {self.high:.10g}" if self.low is None else f"from {self.low:.10g} to {self.high:.10g}"


Count = Annotated[int, Between(0)]
Positive = Annotated[int, Between(1)]
Seed = Annotated[int, Between(0, 2**32 - 1)]  # what NumPy, Keras and Optuna take
NonNegative = Annotated[float, Between(0)]
Share = Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class Part:
    """A part chosen by name, with the options that are given to it.

    In TOML it is a table ``{name = "...", option = value}``.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Select:
    """Which recordings of a source are left out (see preprocess/selection.py); every one is listed in rejected.csv."""

    species: tuple[str, ...] = ()  # all but these: class ids, scientific or vernacular names
    exclude_species: tuple[str, ...] = ()  # these
    content: tuple[str, ...] = ()  # training recordings that are not said to have one of these, such as ["song"]
    box: tuple[float, ...] = ()  # training recordings not known to be in [south, west, north, east], in degrees
    exclude_licence: tuple[str, ...] = ()  # those with a term such as "nd" or "nc", or with all of "by-nc-sa"
    min_quality: Literal["", "A", "B", "C", "D", "E"] = ""  # training recordings rated worse; A is best
    unrated: bool = True  # whether min_quality keeps recordings that nobody has rated
    max_background: Annotated[int, Between(-1)] = -1  # training recordings with more background species; -1: any
    drop_copies: bool = False  # files with the same bytes as another one
    min_recordings: Count = 0  # species with fewer training recordings
    top_species: Count = 0  # species that are not among so many with the most training recordings; 0: keep all
    max_recordings: Count = 0  # training recordings beyond so many per species, drawn by data.select.seed; 0: keep all
    seed: Count = 0  # of what max_recordings keeps

    def __post_init__(self) -> None:
        """Check what a type cannot say; west may be greater than east, beyond 180 degrees.

        Raises:
            ConfigError: naming the key.
        """
        for key in ("species", "exclude_species", "content"):
            if not all(text.strip() for text in getattr(self, key)):
                raise ConfigError(f"Invalid value for data.select.{key}. Received: an empty text. Expected: a name.")
        box = self.box
        if box and (len(box) != 4 or not -90 <= box[0] <= box[2] <= 90 or max(abs(box[1]), abs(box[3])) > 180):
            raise ConfigError(
                f"Invalid value for data.select.box. Received: {list(box)}. Expected: [south, west, north, east] in "
                "degrees, such as [45.7, 16.1, 48.6, 22.9]."
            )


@dataclass(frozen=True)
class Data:
    """Which recordings. Keys beside these are options of the source."""

    source: str = "dawnchorus"  # a module of preprocess/sources
    corpus: str = ""  # folder under `folder`; empty: named after options["root"], else after the source
    folder: str = "birdclef_data"  # everything that is made from a corpus; relative to the project
    limit: Count = 0  # keep so many training recordings (and a third as many for the test); 0: all
    select: Select = field(default_factory=Select)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """What is stored, and which view of it the network gets. Keys beside these are options of the recipe."""

    recipe: str = "birdclef2016"  # a module of preprocess/recipes
    mask: bool = True  # set the cells without information to 0
    drop_columns: bool = True  # remove the frames that the mask leaves empty
    segment_frames: Positive = 310  # frames a network sees at once; 310 x 16 ms = 5 s
    padding: Literal["silence", "repeat"] = "silence"  # what a recording that is shorter than a segment ends with
    frontend: Part = field(default_factory=lambda: Part(""))  # that runs in the model, for the recipe waveform
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """The network. Keys beside these are options of the network."""

    network: str = "alexnet"  # a module of train/models
    # By mean and deviation: of every bin, or one of each for all (global). segment: per bin, by the mean in the segment
    # itself, so that what sounds all the time goes; both: this, and that mean itself as a further channel; item: every
    # segment by its own extremes to -1 ... 1.
    normalise: Literal["bin", "segment", "both", "global", "item", "none"] = "bin"
    dynamic_range: Annotated[float, Between(0)] = 0.0  # of a segment, from its loudest, in the recipe's units; 0: all
    start: str = ""  # starting weights: a run, a weights file, imagenet or a VGGish checkpoint (train/start_weights.py)
    freeze: Literal["backbone"] | Count = 0  # train only the head, or keep so many of the first layers with weights
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    """How the network is trained, and on which recordings of the training part."""

    run: str = ""  # folder under `folder`; empty: <corpus>-<network>
    folder: str = "runs"  # relative to the project
    epochs: Positive = 30
    batch_size: Positive = 32  # segments
    bag: Positive = 1  # segments of one recording that are drawn together, for losses over whole recordings
    seed: Seed = 0  # of the split, the initial weights, the order of the segments and the augmentation
    split: Part = field(default_factory=lambda: Part("grouped"))  # a function of preprocess/split.py
    validation: Share = 0.1  # share of the training recordings that `grouped` holds back to choose the best epoch
    holdout: Share = 0.0  # share that `grouped` holds back entirely, scored once, for corpora without a test truth
    group_by: Literal["observation", "recordist"] = "observation"  # what `grouped` and `kfold` never split
    target: Literal["species", "recording"] = "species"  # what is learnt; recording: which recording a segment is of,
    # which needs no labels, to start another training from (model.start)
    teacher: str = ""  # folder of a cross-validation: its scores of recordings it had not seen soften their targets
    teacher_weight: Share = 0.5  # share of the teacher's scores in the targets
    background_weight: Share = 0.0  # weight of a recording's background species as positives; 0: ignored
    epoch_segments: Count = 0  # an epoch has at least so many segments: small corpora are gone through several times
    epoch_limit: Count = 0  # an epoch has at most so many segments, whatever epoch_segments says; 0: no limit
    recording_segments: Count = 0  # an epoch has at most so many segments of a recording, drawn anew; 0: all
    balance: Share = 0.0  # draw segments of rare species more often, by (their number) ** -balance; 1: all alike
    random_windows: bool = True  # segments start anywhere in a recording, drawn anew for every epoch
    random_padding: bool = False  # what is shorter than a segment starts anywhere in it; false: at its beginning
    class_weights: Literal["none", "ten_over_n", "inverse", "effective"] = "none"  # of the loss, by recordings n:
    # 10 / n (system 001), 1 / n with mean 1, or by the effective number (Cui et al. 2019) with mean 1
    noise_class: Share = 0.0  # share of every batch that is noise frames, learnt as a class of their own; 0: none
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"  # of the learning rate
    plateau_factor: Share = 0.2  # schedule "plateau": what the learning rate is multiplied with ...
    plateau_patience: Positive = 5  # ... after so many epochs without a lower val_loss
    warmup_epochs: Annotated[float, Between(0)] = 0.5  # linear rise from 0 to the learning rate
    patience: Count = 100  # stop after so many epochs without a lower val_loss; 0: never
    monitor: Literal["val_map", "val_loss", "val_acc", "last"] = "val_map"  # what the epoch is chosen by whose weights
    # are used; last: the last one, for schedules that end at 0 and validation sides that are small
    ema: Annotated[float, Between(0, 0.99999)] = 0.0  # momentum of the averaged weights that are scored; 0: off
    checkpoint_every: Count = 0  # keep the weights of every N-th epoch as epoch_0010.weights.h5; 0: none
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    devices: Count = 0  # share every batch among so many; 0: all accelerators whose number divides it
    hardware_log: Annotated[float, Between(0)] = 1.0  # seconds between the lines of hardware.csv; 0: none
    histograms: bool = False  # of the weights after every epoch, for TensorBoard
    mlflow: bool | str = False  # true: track in mlruns/ under `folder`; or the address of a tracking server
    optimizer: Part = field(default_factory=lambda: Part("adamw", {"learning_rate": 3e-4, "weight_decay": 0.01}))
    loss: Part = field(default_factory=lambda: Part("categorical_crossentropy"))
    augment: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> its options; false: leave it out


@dataclass(frozen=True)
class Predict:
    """Rankings and detections."""

    top: Count = 0  # species of a recording or segment, best first; 0: all
    pool: Literal["", "mean", "max", "log_mean_exp", "squared", "share"] = ""  # from the scores of the segments to that
    # of the recording (predict/detections.py); empty: by the rule of the loss, the mean for most
    hop: NonNegative = 0.0  # seconds between the beginnings of segments; 0: their length, so that none overlap
    smooth: bool = False  # average the scores of a segment with those of its neighbours, for detections
    minimum: Share = 0.25  # score of a detection
    merge: bool = True  # make one detection of consecutive segments with the same species
    batch_size: Positive = 64


@dataclass(frozen=True)
class Tune:
    """The search for better settings, `train/tuneModel.py`."""

    study: str = ""  # folder under train.folder; empty: tune-<corpus>-<network>
    storage: str = ""  # database that machines share, such as postgresql://...; empty: SQLite in that folder
    trials: Positive = 20  # finished or pruned ones
    max_epochs: Count = 0  # of a trial; 0: train.epochs
    min_epochs: Positive = 1  # no trial is pruned earlier
    reduction_factor: Annotated[int, Between(2)] = 3  # Hyperband keeps the best 1 / factor of the trials
    metric: Literal["val_map", "val_map_background", "val_auc", "val_top1", "val_acc", "val_loss"] = "val_map"
    space: dict[str, Any] = field(default_factory=dict)  # "section.key" -> {low, high, log, step} or a list


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: Data = field(default_factory=Data)
    features: Features = field(default_factory=Features)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    predict: Predict = field(default_factory=Predict)
    tune: Tune = field(default_factory=Tune)

    @property
    def corpus_dir(self) -> Path:
        """Folder of the corpus: manifest, rejects, 16 kHz WAV and features."""
        root = str(self.data.options.get("root", ""))
        name = self.data.corpus or (Path(root).expanduser().resolve().name if root else self.data.source)
        if not name:
            raise ConfigError(f"data.corpus cannot be derived from data.root={root}. Set it: --set data.corpus=NAME")
        return from_project(self.data.folder) / name

    @property
    def run_dir(self) -> Path:
        """Folder of the training run."""
        name = self.train.run or f"{self.corpus_dir.name}-{self.model.network}"
        return from_project(self.train.folder) / name


# What --mini changes: a handful of recordings and one epoch through every stage. Most splits of other systems need
# more recordings than that.
MINI = {
    "data.limit": 24,
    "train.epochs": 1,
    "train.epoch_segments": 0,
    "train.batch_size": 8,
    "train.warmup_epochs": 0.0,
    "train.split.name": "grouped",
}

_PART_NAMES = ("Source", "Recipe", "build")  # what a module of parts calls its one public thing
_SELECTORS = {"data": "source", "features": "recipe", "model": "network"}


def load(
    path: Path | str | None = None,
    overrides: typing.Sequence[str] = (),
    mini: bool = False,
    last: typing.Sequence[str] = (),
) -> Config:
    """Read a TOML file, apply ``section.key=value`` overrides in order, and check every key and type.

    MINI takes the place of what the file and the overrides say, if it is asked for, but not of the last overrides.

    A file that begins with ``base = "best.toml"`` changes that other file of its folder, key by key, as overrides do.
    Choosing another part by an override drops the options that the file gave to its own choice, and with another
    source the name of the corpus.

    Raises:
        ConfigError: naming the key, what was received and what is accepted.
    """
    tree = _read_with_base(Path(path)) if path else {}
    known = set(_augmentations(tree))
    _assign_all(tree, [_parse_override(override) for override in overrides])
    if mini:
        for key, value in MINI.items():
            _assign(tree, key.split("."), value)
    _assign_all(tree, [_parse_override(override) for override in last])
    _leave_out_augmentations(tree, known)
    config = _build(Config, tree, "")
    _refuse_secrets(to_dict(config), "")
    for key, given in (
        ("data.root", config.data.options.get("root")),
        ("data.folder", config.data.folder),
        ("train.folder", config.train.folder),
    ):
        require_utf8(Path(str(given or "")))
        if given == "" and key != "data.root":
            raise ConfigError(f"Invalid value for {key}. Received: ''. Expected: a path.")
        try:
            Path(str(given or "")).expanduser().stat()
        except (ValueError, RuntimeError) as error:  # a NUL; ~ of nobody
            raise ConfigError(f"Invalid value for {key}. Received: {given!r}. Expected: a path ({error}).") from None
        except OSError:  # not there, which is for its reader to say
            pass
    for key, given, _ in (
        ("data.corpus", config.data.corpus, config.corpus_dir),
        ("train.run", config.train.run, config.run_dir),
        ("tune.study", config.tune.study, None),
    ):
        require_utf8(Path(given))
        if given and (Path(given).name != given or given in (".", "..") or "\0" in given):
            raise ConfigError(
                f"Invalid value for {key}. Received: {given!r}. Expected: the name of a folder, without '/'."
            )
    if mini:
        data = dataclasses.replace(config.data, corpus=f"{config.corpus_dir.name}-mini")
        batch, noise_class = config.train.batch_size, config.train.noise_class
        bag = math.gcd(config.train.bag, batch // 2 if noise_class else batch)  # whole bags in the smaller batch
        if noise_class:  # at least one bag of it, and one of species
            noise_class = min(max(noise_class, bag / batch), 1 - bag / batch)
        name = f"{config.run_dir.name}-mini"
        train = dataclasses.replace(config.train, run=name, bag=bag, noise_class=noise_class)
        config = dataclasses.replace(config, data=data, train=train)
    return config


def _refuse_secrets(value: Any, where: str) -> None:
    """Raise a ConfigError for an address with a password in it, as configurations are kept, logged and shared."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_secrets(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_secrets(item, where)
    elif isinstance(value, str) and re.search(r"://[^/@\s]*:[^/\s]*@", value):
        raise ConfigError(
            f"Invalid value for {where}. Received: an address with a password. Expected: one without; passwords come "
            "from the environment, such as PGPASSWORD or MLFLOW_TRACKING_PASSWORD."
        )


def check_choice(name: str, accepted: typing.Iterable[str], key: str) -> None:
    """Raise a ConfigError that names the key unless name is one of the accepted ones."""
    accepted = list(accepted)
    if name not in accepted:
        raise ConfigError(f"Unknown {key}. Received: {name!r}. Expected one of: {', '.join(accepted)}.")


def open_part(package: str, public: str, key: str, name: str, options: dict[str, Any]) -> tuple[typing.Callable, dict]:
    """Find a part by name: the one public thing of a module of a package.

    Args:
        package: such as ``"train.models"``; every module of it is a choice.
        public: what each module calls its part, such as ``"build"``.
        key: where the part is chosen, such as ``"model.network"``.
        name: the choice.
        options: as configured.

    Returns:
        The part and all its options (see `bind`).

    Raises:
        ConfigError: for an unknown name or option.
    """
    folder = importlib.import_module(package).__path__
    check_choice(name, (module.name for module in pkgutil.iter_modules(folder)), key)
    part = getattr(importlib.import_module(f"{package}.{name}"), public)
    return part, bind(part, options, key.partition(".")[0])


def bind(part: typing.Callable, options: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a part's options against its signature and fill in the defaults.

    Args:
        part: a function or class; its keyword parameters with a default are its options.
        options: the options as configured.
        where: the section, for the messages, such as ``"model"``.

    Returns:
        Every option of the part with its value.

    Raises:
        ConfigError: for an unknown option, a wrong type or a value out of range.
    """
    hints = typing.get_type_hints(part if inspect.isfunction(part) else part.__init__, include_extras=True)
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for name in options:
        if name not in parameters:
            known = ", ".join(sorted(parameters)) or "none"
            chosen = part.__module__.rpartition(".")[2] if part.__name__ in _PART_NAMES else part.__name__
            raise ConfigError(f"Unknown key {where}.{name}. {chosen} accepts: {known}.")
    return {
        name: _check(options[name], hints.get(name, Any), f"{where}.{name}") if name in options else default
        for name, default in parameters.items()
    }


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain values, in the shape of its TOML file."""
    tree = {}
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        table = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        options = table.pop("options", {})
        tree[section.name] = {key: _plain(item) for key, item in table.items()} | options
    return tree


def _plain(item: Any) -> Any:
    if isinstance(item, Part):
        return {"name": item.name, **item.options}
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item


def to_toml(config: Config) -> str:
    """Return the configuration as TOML that `load` reads back to an equal `Config`."""
    lines = []
    for section, table in to_dict(config).items():
        lines.append(f"[{section}]")
        lines += [f"{_toml_key(key)} = {toml_value(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """Return a plain value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; this is no configuration file.")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _read_with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a file, over those of its base."""
    tree = _read_toml(path)
    name = tree.pop("base", None)
    if name is None:
        return tree
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .+-]*\.toml", name):
        expected = "the name of another .toml file of the same folder"
    elif path.with_name(name) in (*above, path):
        expected = "a file that is not based on this one"
    elif len(above) == MAX_BASES:
        expected = f"none after {MAX_BASES} others"
    else:
        changed = _read_with_base(path.with_name(name), (*above, path))
        _assign_all(changed, list(_changes(tree)))
        return changed
    raise ConfigError(f"Invalid value for base in {path}. Received: {name!r}. Expected: {expected}.")


def _changes(tree: dict[str, Any]) -> typing.Iterator[tuple[list[str], Any]]:
    """Yield what a file changes, by the names that `--set` takes: the entries of tables one by one, each whole."""
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            yield [section], keys
            continue
        for key, value in keys.items():
            if isinstance(value, dict) and value:
                yield from (([section, key, name], item) for name, item in value.items())
            else:
                yield [section, key], value


def _assign_all(tree: dict[str, Any], changes: list[tuple[list[str], Any]]) -> None:
    for names, value in sorted(changes, key=lambda item: not _chooses_part(item[0])):  # choices first, then options
        _assign(tree, names, value)


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, separator, raw = text.partition("=")
    names = key.strip().split(".")
    if not separator or len(names) < 2 or not all(names):
        raise ConfigError(f"Invalid --set {text!r}. Expected: section.key=value, such as train.epochs=10.")
    try:
        return names, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return names, raw.strip()  # a bare word is a string
    except (ValueError, RecursionError) as error:  # a number of thousands of digits
        raise ConfigError(f"Invalid --set {key.strip()}: {error}.") from None


def _chooses_part(names: list[str]) -> bool:
    """Tell whether a key chooses a part by name: data.source, model.network, train.optimizer.name, ..."""
    return names[1:] == [_SELECTORS.get(names[0])] or (len(names) == 3 and names[2] == "name" and names[0] in _SECTIONS)


def _default_choice(names: list[str]) -> Any:
    default = getattr(_SECTIONS[names[0]](), names[1], None) if names[0] in _SECTIONS else None
    return default.name if isinstance(default, Part) else default


def _assign(tree: dict[str, Any], names: list[str], value: Any) -> None:
    table = tree
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(names)} cannot be set: {name} is not a table.")
    if _chooses_part(names) and value != table.get(names[-1], _default_choice(names)):
        section = _SECTIONS[names[0]]
        kept = {f.name for f in dataclasses.fields(section)} - {"corpus"} if len(names) == 2 else set()
        for stale in table.keys() - kept:
            del table[stale]
    table[names[-1]] = value


def _augmentations(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the table train.augment; what is none is refused where it is built."""
    train = tree.get("train")
    table = train.get("augment") if isinstance(train, dict) else None
    return table if isinstance(table, dict) else {}


def _leave_out_augmentations(tree: dict[str, Any], known: typing.Collection[str]) -> None:
    """Remove the augmentations that are set to false; those that a file did not name must at least exist."""
    table = _augmentations(tree)
    left_out = [name for name, value in table.items() if value is False]
    for name in left_out:
        if name not in known:
            from train.augment import AUGMENTATIONS  # here, as it takes Keras

            check_choice(name, AUGMENTATIONS, f"key train.augment.{name}")
        del table[name]


def change(section: T, where: str, **values: Any) -> T:
    """Return a section with other values of some fields.

    Raises:
        ConfigError: for a value of the wrong type or out of its limits.
    """
    hints = typing.get_type_hints(type(section), include_extras=True)
    checked = {name: _check(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    return dataclasses.replace(section, **checked)


def _build(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"Invalid value for {where}. Received: {table!r}. Expected: a table.")
    hints = typing.get_type_hints(kind, include_extras=True)
    open_ended = "options" in hints
    values, options = {}, {}
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if hints.get(key) is Part and isinstance(value, dict) and "name" not in value:
            default = getattr(kind(), key)  # options without a name change the default part
            value = {"name": default.name, **default.options, **value}
        if key in hints and key != "options":
            values[key] = _check(value, hints[key], name)
        elif open_ended:
            options[key] = value
        else:
            raise ConfigError(f"Unknown key {name}. {where or 'A configuration'} accepts: {', '.join(sorted(hints))}.")
    return kind(**values, **({"options": options} if open_ended else {}))


def _check(value: Any, hint: Any, where: str) -> Any:
    """Return value as the annotated type, or raise ConfigError."""
    if dataclasses.is_dataclass(hint) and hint is not Part:
        return _build(hint, value, where)
    if hint is Part:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ConfigError(
                f'Invalid value for {where}. Received: {value!r}. Expected: a table with a name, {{name = "..."}}.'
            )
        return Part(value["name"], {key: item for key, item in value.items() if key != "name"})
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *limits = typing.get_args(hint)
        value = _check(value, base, where)
        for limit in limits:
            if (limit.low is not None and value < limit.low) or (limit.high is not None and value > limit.high):
                raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: {limit}.")
        return value
    if origin is Literal:
        accepted = typing.get_args(hint)
        same = [item for item in accepted if item == value and isinstance(item, bool) == isinstance(value, bool)]
        if not same:
            raise ConfigError(
                f"Invalid value for {where}. Received: {value!r}. Expected one of: {', '.join(map(str, accepted))}."
            )
        return same[0]  # 2 for 2.0, as folders are named after it
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: a list.")
        item = typing.get_args(hint)[0]
        return origin(_check(entry, item, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        accepted = []
        for choice in typing.get_args(hint):
            try:
                return _check(value, choice, where)
            except ConfigError as error:
                accepted.append(str(error).partition("Expected")[2].strip(": ").rstrip("."))
        raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: {'; or '.join(accepted)}.")
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: a table.")
        inner = typing.get_args(hint)[1]
        return {key: _check(item, inner, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: a value of type {hint.__name__}.")
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: a number of ordinary size.")
    return value


_SECTIONS = {"data": Data, "features": Features, "model": Model, "train": Train, "predict": Predict, "tune": Tune}
