"""Splits of the training part into train, validation and holdout, one function each; train.split names one.

`grouped` keeps what belongs together on one side. The others are those of published systems; where they do not,
`leaks` counts it. A split takes the recordings and the section [train]; its other parameters are its options.
"""

import hashlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from config import Between, ConfigError, Count, Part, PipelineError, Positive, Seed, Share, Train, bind, check_choice
from config.commandline import log
from preprocess.metadata import xeno_canto_number
from preprocess.recordings import Recording


def split(recordings: Sequence[Recording], train: Train) -> dict[str, str]:
    """Return the side of every recording as `choose_sides` does, and warn of what is on two sides."""
    sides = choose_sides(recordings, train)
    counts = Counter(sides.values())
    shared = leaks(recordings, sides)
    words = [f"{count} share their {what}" for what, count in shared.items() if count]
    if words:
        log(
            f"warning: of {counts['validation'] + counts['holdout']} recordings held back by train.split="
            f"{train.split.name}, {' and '.join(words)} with training recordings"
        )
    return sides


def choose_sides(recordings: Sequence[Recording], train: Train) -> dict[str, str]:
    """Return the side of every recording by media id, as train.split says.

    Raises:
        ConfigError: for an unknown split or option.
        PipelineError: if nothing is left to train on or to choose the best epoch by.
    """
    part, options = open_split(train.split)
    sides = part(recordings, train, **options)
    counts = Counter(sides.values())
    if not counts["validation"]:
        by_share = part is grouped or (part in (folds, kfold) and counts["holdout"])  # see `_hold_out`
        reason = (
            f"train.validation={train.validation:g} of {len(recordings) - counts['holdout']} recordings"
            if by_share
            else f"train.split={train.split.name} of {len(recordings)} recordings"
        )
        remedy = "Raise it" if by_share else "Choose another split"
        if by_share and train.group_by == "recordist":
            remedy += ", keep observations together instead of recordists (train.group_by, --group-by)"
        raise PipelineError(
            f"{reason} leaves none to choose the best epoch by. {remedy}, or add recordings: every species needs two "
            "or more that need not stay together, as those by one recordist on one day do (or on no known day)."
        )
    if not counts["train"]:
        raise PipelineError(f"train.split={train.split.name} leaves no recording to train on.")
    return sides


def held_back(recordings: Sequence[Recording], train: Train) -> set[str]:
    """Return the media ids of the holdout alone, for a training that validates on what it is trained on."""
    part, options = open_split(train.split)
    return {media_id for media_id, side in part(recordings, train, **options).items() if side == "holdout"}


def open_split(chosen: Part) -> tuple[Callable[..., dict[str, str]], dict[str, Any]]:
    """Return the split that train.split names, and its options.

    Raises:
        ConfigError: for an unknown split or option.
    """
    check_choice(chosen.name, SPLITS, "train.split")
    part = SPLITS[chosen.name]
    return part, bind(part, chosen.options, "train.split")


def leaks(recordings: Sequence[Recording], sides: dict[str, str]) -> dict[str, int]:
    """Count the recordings held back whose observation or recordist is also among those trained on."""
    groups = {row.group for row in recordings if sides[row.media_id] == "train" and row.group}
    authors = {row.author for row in recordings if sides[row.media_id] == "train" and row.author}
    held = [row for row in recordings if sides[row.media_id] != "train"]
    return {
        "observation": sum(row.group in groups for row in held),
        "recordist": sum(row.author in authors for row in held),
    }


def grouped(recordings: Sequence[Recording], train: Train) -> dict[str, str]:
    """Hold back train.validation and train.holdout of every class, whole groups of train.group_by only."""
    held = hold_back(recordings, train.holdout, train.seed + 1, train.group_by)
    rest = [row for row in recordings if row.media_id not in held]
    return _sides(recordings, hold_back(rest, train.validation, train.seed, train.group_by), held)


def per_class(
    recordings: Sequence[Recording], train: Train, *, test: Share = 0.15, validation: Share = 0.15
) -> dict[str, str]:
    """Hold back a share of every class as holdout, and a share of the rest for validation; groups are not looked at.

    Of Bogart 2021 (system 000). Numbers are rounded; every class keeps a recording to train on.
    """
    held_out, chosen = [], []
    for rows in _by_class(recordings, train.seed):
        first = min(_round(test * len(rows)), len(rows) - 1)
        second = min(_round(validation * (len(rows) - first)), len(rows) - first - 1)
        held_out += rows[:first]
        chosen += rows[first : first + second]
    return _sides(recordings, chosen, held_out)


def hundreds_digit(
    recordings: Sequence[Recording], train: Train, *, digit: Annotated[int, Between(0, 9)] = 0
) -> dict[str, str]:
    """Validate on recordings whose xeno-canto number has this hundreds digit; those without a number are trained on.

    Of toddstep 2023 (system 001) for the data of 2020.
    """
    numbers = {row.media_id: xeno_canto_number(row.media_id, row.file) for row in recordings}
    if not any(numbers.values()):
        raise PipelineError(
            "train.split=hundreds_digit needs xeno-canto numbers in media ids or file names, such as XC134896; "
            "this corpus has none."
        )
    chosen = [name for name, number in numbers.items() if number is not None and number // 100 % 10 == digit]
    return _sides(recordings, chosen)


def five_per_class(
    recordings: Sequence[Recording], train: Train, *, count: Positive = 5, least: Count = 25
) -> dict[str, str]:
    """Validate on `count` recordings of every class with at least `least`; rarer classes are only trained on.

    Of toddstep 2023 (system 001) for the data since 2021.
    """
    chosen = [
        media_id
        for rows in _by_class(recordings, train.seed)
        if len(rows) >= max(least, count + 1)
        for media_id in rows[:count]
    ]
    return _sides(recordings, chosen)


def folds(
    recordings: Sequence[Recording], train: Train, *, validation: str | int = "1", holdout: str | int = ""
) -> dict[str, str]:
    """Validate on one official fold of the corpus, and hold back another one if it is named.

    With `validation = ""` and a holdout, validation is train.validation of the other folds, as `grouped` takes it.
    """
    known = sorted({row.fold for row in recordings if row.fold})
    for key, fold in (("validation", str(validation)), ("holdout", str(holdout))):
        if fold not in known and (fold or (key == "validation" and not str(holdout))):
            raise ConfigError(
                f"Invalid value for train.split.{key}. Received: {fold!r}. "
                f"Expected a fold of the corpus: {', '.join(known) or 'it has none'}."
            )
    if str(validation) == str(holdout):
        raise ConfigError(
            f"Invalid value for train.split.holdout. Received: {holdout!r}. Expected: another fold than the one of "
            "train.split.validation."
        )
    held = [row.media_id for row in recordings if holdout != "" and row.fold == str(holdout)]
    if validation == "":
        return _hold_out(recordings, train, held)
    return _sides(recordings, [row.media_id for row in recordings if row.fold == str(validation)], held)


def kfold(
    recordings: Sequence[Recording],
    train: Train,
    *,
    k: Annotated[int, Between(2)] = 5,
    fold: Count = 0,
    holdout: bool = False,
    seed: Seed = 0,
) -> dict[str, str]:
    """Validate on one of k folds, stratified by class, whole groups of train.group_by only; fold counts from 0.

    With `holdout` that fold is held back, and validation is train.validation of the others, as `grouped` takes it.
    The folds follow from this seed, not from train.seed: one partition serves trainings with several seeds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if fold >= k:
        raise ConfigError(f"Invalid value for train.split.fold. Received: {fold}. Expected: from 0 to {k - 1}.")
    rows = sorted(recordings, key=lambda row: row.media_id)
    classes = [row.class_id for row in rows]
    groups = [_group(row, train.group_by) for row in rows]
    if k > min(len(set(groups)), max(Counter(classes).values(), default=0)):
        raise PipelineError(f"train.split.k={k} is more than this corpus of {len(set(groups))} groups allows.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer than k recordings: they are in fewer folds
        parts = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(rows, classes, groups)
        chosen = [rows[i].media_id for i in [indices for _, indices in parts][fold]]
    return _hold_out(recordings, train, chosen) if holdout else _sides(recordings, chosen)


SPLITS = {part.__name__: part for part in (grouped, per_class, hundreds_digit, five_per_class, folds, kfold)}


def _sides(recordings: Sequence[Recording], validation: Iterable[str], holdout: Iterable[str] = ()) -> dict[str, str]:
    sides = {row.media_id: "train" for row in recordings}
    return sides | dict.fromkeys(validation, "validation") | dict.fromkeys(holdout, "holdout")


def _hold_out(recordings: Sequence[Recording], train: Train, held: Sequence[str]) -> dict[str, str]:
    """Hold recordings back, and train.validation of the others for validation."""
    known = set(held)
    rest = [row for row in recordings if row.media_id not in known]
    return _sides(recordings, hold_back(rest, train.validation, train.seed, train.group_by), held)


def _by_class(recordings: Sequence[Recording], seed: int) -> list[list[str]]:
    """Return the media ids of each class, in an order drawn by seed and name."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in sorted(recordings, key=lambda row: hashlib.sha256(f"{seed}:{row.media_id}".encode()).digest()):
        found[row.class_id].append(row.media_id)
    return [found[class_id] for class_id in sorted(found)]


def _round(value: float) -> int:
    return math.floor(value + 0.5)


def _group(row: Recording, group_by: str) -> str:
    return row.group if group_by == "observation" else (row.author or row.group)


def hold_back(recordings: Sequence[Recording], share: float, seed: int, group_by: str) -> set[str]:
    """Choose recordings to hold back, stratified by class, whole groups only.

    Groups are taken in a pseudo-random order that depends on the seed and their own name, not on the other
    groups, while they bring each class closer to its share. Every class keeps at least one recording.

    Args:
        recordings: labelled recordings.
        share: of each class, 0 to 1.
        seed: of the order.
        group_by: "observation" (same species, recordist and day) or "recordist".

    Returns:
        The media ids that are held back.
    """
    groups: dict[str, list[Recording]] = defaultdict(list)
    for row in recordings:
        groups[_group(row, group_by)].append(row)
    left = Counter(row.class_id for row in recordings)
    wanted, exact, given = {}, 0.0, 0
    for class_id in sorted(left):  # whole numbers whose sum stays within a half of the share of all
        exact += share * left[class_id]
        wanted[class_id] = math.floor(exact + 0.5) - given
        given += wanted[class_id]
    held: set[str] = set()
    for key in sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
        members = Counter(row.class_id for row in groups[key])
        useful = sum(min(count, max(0, wanted[c])) for c, count in members.items())
        if useful == 0 or useful * 2 < len(groups[key]) or any(left[c] <= count for c, count in members.items()):
            continue
        held.update(row.media_id for row in groups[key])
        for class_id, count in members.items():
            left[class_id] -= count
            wanted[class_id] -= count
    return held
