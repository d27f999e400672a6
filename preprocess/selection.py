"""Which recordings of a corpus are kept: the rules of [data.select], exact copies, and the limit of a small run.

Rules are applied in the order of the fields of `config.Select`, each to what the ones before it left, before the
audio is looked at. What a rule removes becomes a row of rejected.csv with the reason excluded_...
"""

import contextlib
import dataclasses
import hashlib
import itertools
import re
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import ConfigError, Select
from config.commandline import log
from preprocess.metadata import fold, read_truth
from preprocess.recordings import Recording, Reject
from preprocess.sources import Corpus

WORST_QUALITY = {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5}  # xeno-canto's letters on the scale of BirdCLEF
GLANCE = 1 << 12  # bytes from the middle of a file
_SPELLED_OUT = {  # terms of a Creative Commons licence in words
    "noderivatives": "nd",
    "noderivs": "nd",
    "noncommercial": "nc",
    "sharealike": "sa",
    "attribution": "by",
}


def select(corpus: Corpus, rule: Select, root: Path) -> Corpus:
    """Apply the rules of [data.select], and log what each removed.

    Args:
        corpus: as the source found it.
        rule: the rules.
        root: what the files are relative to.

    Returns:
        The corpus with the recordings and classes that are left, and a reject for every other recording.

    Raises:
        ConfigError: if a rule names a species that the corpus does not have, or a licence that nobody knows.
    """
    if rule == Select(seed=rule.seed):
        return corpus
    labels = truth_classes(corpus)
    rejects: list[Reject] = []
    rows = corpus.recordings

    def leave_out(reason: str, unwanted: Callable[[Recording], str]) -> None:
        """Remove the rows for which unwanted returns a detail."""
        nonlocal rows
        details = [unwanted(row) for row in rows]
        gone = [Reject(row.file, "fetch", reason, text) for row, text in zip(rows, details, strict=True) if text]
        rows = [row for row, text in zip(rows, details, strict=True) if not text]
        rejects.extend(gone)
        log(f"{reason}: {len(gone)} recordings left out, {len(rows)} kept")

    def leave_out_species(reason: str, unwanted: dict[str, str]) -> None:
        leave_out(reason, lambda row: unwanted.get(row.class_id or labels.get(row.media_id, ""), ""))

    if rule.species or rule.exclude_species:
        known = {row.class_id for row in (*corpus.species, *corpus.recordings)} | set(labels.values())
        every = known - {""}
        wanted = find_species(corpus, rule.species, "species") or every
        gone = (every - wanted) | find_species(corpus, rule.exclude_species, "exclude_species")
        leave_out_species("excluded_species", {class_id: class_id for class_id in gone})
    if rule.content:
        wanted_content = re.compile("|".join(rf"\b{re.escape(fold(word))}\b" for word in rule.content))
        leave_out("excluded_content", lambda row: _without(row, wanted_content))
    if rule.box:
        leave_out("excluded_place", lambda row: _outside(row, rule.box))
    if rule.exclude_licence:
        unwanted = [_check_terms(text) for text in rule.exclude_licence]
        leave_out("excluded_licence", lambda row: row.licence if _has_any(unwanted, row.licence) else "")
    if rule.min_quality:
        leave_out("excluded_quality", lambda row: _too_poor(row, WORST_QUALITY[rule.min_quality], rule.unrated))
    if rule.max_background >= 0:
        leave_out(
            "excluded_background",
            lambda row: row.background if row.part == "train" and len(row.background_ids) > rule.max_background else "",
        )
    if rule.drop_copies:
        rows, copies = drop_copies(root, rows)
        rejects += copies
        log(f"drop_copies: {len(copies)} recordings left out, {len(rows)} kept")
    if rule.min_recordings:
        counts = _train_counts(rows)
        every = {row.class_id for row in corpus.recordings} | set(labels.values())
        rare = {c: f"{counts[c]} of {c}" for c in every if c and counts[c] < rule.min_recordings}
        leave_out_species("excluded_rare_species", rare)
    if rule.top_species:
        counts = _train_counts(rows)
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        kept = set(ranked[: rule.top_species])
        every = {row.class_id for row in rows} | set(labels.values())
        leave_out_species("excluded_not_top_species", {c: f"{counts[c]} of {c}" for c in every - kept if c})
    if rule.max_recordings:
        surplus = _surplus(rows, rule.max_recordings, rule.seed)
        leave_out("excluded_surplus", lambda row: row.class_id if row.media_id in surplus else "")
    present = {row.class_id for row in rows}
    species = [row for row in corpus.species if row.class_id in present]
    return replace(corpus, recordings=rows, species=species, rejects=[*corpus.rejects, *rejects])


def rules(rule: Select) -> dict[str, Any]:
    """Return the rules that are not at their default, by key, as JSON keeps them."""
    default = dataclasses.asdict(Select())
    return {
        f"select.{key}": list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(rule).items()
        if value != default[key]
    }


def find_species(corpus: Corpus, names: Sequence[str], key: str) -> set[str]:
    """Return the class ids of species that a rule calls by class id, scientific or vernacular name.

    Raises:
        ConfigError: if the corpus does not have one.
    """
    called: dict[str, set[str]] = defaultdict(set)
    for kind in corpus.species:
        for name in (kind.class_id, kind.scientific_name, kind.vernacular_name):
            called[fold(name)].add(kind.class_id)
    for name in names:
        if fold(name) not in called:
            ids = sorted(row.class_id for row in corpus.species)
            example = f", such as {ids[0]!r}" if ids else "; it has none"
            raise ConfigError(
                f"Invalid value for data.select.{key}. Received: {name!r}. Expected: a species of the corpus (with "
                f"data.limit or --mini: of what that leaves) by class id, scientific or vernacular name{example}."
            )
    return {class_id for name in names for class_id in called[fold(name)]}


def licence_terms(licence: str) -> set[str]:
    """Return the words of a licence: those of //creativecommons.org/licenses/by-nc-nd/4.0/ have by, nc and nd."""
    words = re.findall(r"[a-z]+|\d+", licence.casefold().replace("non-commercial", "noncommercial"))
    joined = set(words) | {first + second for first, second in itertools.pairwise(words)}
    return set(words) | {short for long, short in _SPELLED_OUT.items() if long in joined}


def _check_terms(rule: str) -> set[str]:
    """Return the terms that a licence has to have for a rule: by, nc and sa for by-nc-sa, nc for NonCommercial."""
    terms = licence_terms(rule) & set(_SPELLED_OUT.values())
    if not terms:
        raise ConfigError(
            f"Invalid value for data.select.exclude_licence. Received: {rule!r}. Expected: terms of a Creative Commons "
            'licence, such as "nd" or "by-nc-sa".'
        )
    return terms


def _has_any(rules_of_terms: Iterable[set[str]], licence: str) -> bool:
    terms = licence_terms(licence)
    return any(wanted <= terms for wanted in rules_of_terms)


def drop_copies(root: Path, recordings: Sequence[Recording]) -> tuple[list[Recording], list[Reject]]:
    """Find files with the same bytes; of each set one is kept: one of the test part, else the first.

    Only files of equal size are read. A copy that carries another label than the kept one gets the reason
    conflicting_label, else it is duplicate_content.
    """
    sizes: dict[int, list[Recording]] = defaultdict(list)
    for row in recordings:
        try:
            facts = (root / row.file).stat()
        except OSError:  # verified later, with a reason of its own
            continue
        if stat.S_ISREG(facts.st_mode):  # a pipe might never end
            sizes[facts.st_size].append(row)
    gone: dict[str, Reject] = {}
    for same_size in sizes.values():
        if len(same_size) < 2:
            continue
        first: dict[bytes, Recording] = {}
        for row in sorted(same_size, key=lambda row: row.part != "test"):  # stable: the order is kept
            try:
                with (root / row.file).open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            except OSError:
                continue
            kept = first.setdefault(content, row)
            if kept is not row and kept.file != row.file:
                conflict = kept.class_id and row.class_id and kept.class_id != row.class_id
                reason = "conflicting_label" if conflict else "duplicate_content"
                detail = f"the same bytes as {kept.file}" + (f", which is {kept.class_id}" if conflict else "")
                gone[row.file] = Reject(row.file, "fetch", reason, detail)
    return [row for row in recordings if row.file not in gone], [*gone.values()]


def find_conflicts(root: Path, recordings: Iterable[Recording]) -> list[Reject]:
    """Return the files with the same bytes as one of another label, as `drop_copies` does, for much less reading.

    Of files of equal size a glance at the middle is read, and the whole only of those that are alike there. Pieces of a
    recording that name each other's species as background are no conflict.
    """

    def disagree(rows: Iterable[Recording]) -> bool:
        return len({frozenset((row.class_id, *row.background_ids)) for row in rows}) > 1

    sizes: dict[int, list[Recording]] = defaultdict(list)
    for row in recordings:
        with contextlib.suppress(OSError):
            sizes[(root / row.file).stat().st_size if row.class_id else 0].append(row)
    alike: dict[tuple[int, bytes], list[Recording]] = defaultdict(list)
    for size, rows in sizes.items():
        for row in rows if size and disagree(rows) else ():
            with contextlib.suppress(OSError), (root / row.file).open("rb") as stream:
                stream.seek(size // 2)
                alike[size, hashlib.sha256(stream.read(GLANCE)).digest()].append(row)
    suspects = [row for rows in alike.values() if disagree(rows) for row in rows]
    return [reject for reject in drop_copies(root, suspects)[1] if reject.reason == "conflicting_label"]


def drop_repeated(recordings: Iterable[Recording]) -> tuple[list[Recording], list[Reject]]:
    """Keep the first row of each recording; the same media id with another class is a conflicting label."""
    kept: dict[str, Recording] = {}
    rejects = []
    for row in recordings:
        first = kept.setdefault(row.media_id, row)
        if first is not row:
            same = first.class_id == row.class_id
            reason = "duplicate_recording" if same else "conflicting_label"
            rejects.append(Reject(row.file, "fetch", reason, f"{row.media_id} is {first.class_id} in {first.file}"))
    return list(kept.values()), rejects


def limit_recordings(corpus: Corpus, limit: int) -> Corpus:
    """Keep `limit` training recordings of a few well-represented species, and test recordings of the same."""
    if not limit:
        return corpus
    train = [row for row in corpus.recordings if row.part == "train"]
    counts = Counter(row.class_id for row in train)
    chosen = [c for c, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: max(2, limit // 4)]]
    queues: dict[str, deque[Recording]] = {c: deque() for c in chosen}
    for row in sorted(train, key=lambda row: row.file):
        if row.class_id in queues:
            queues[row.class_id].append(row)
    kept: list[Recording] = []
    while len(kept) < limit and any(queues.values()):
        for queue in queues.values():
            if queue and len(kept) < limit:
                kept.append(queue.popleft())
    labels = truth_classes(corpus)
    test = sorted((row for row in corpus.recordings if row.part == "test"), key=lambda row: row.file)
    test = [row for row in test if not labels or labels.get(row.media_id) in queues][: -(-limit // 3)]
    species = [row for row in corpus.species if row.class_id in queues]
    return replace(corpus, recordings=kept + test, species=species)


def truth_classes(corpus: Corpus) -> dict[str, str]:
    """Return MediaId -> ClassId of the test part, as far as labels or a table of them tell."""
    classes = {row.media_id: row.class_id for row in corpus.recordings if row.part == "test" and row.class_id}
    if corpus.truth is not None:
        classes |= {media_id: class_id for media_id, (class_id, _) in read_truth(corpus.truth).items()}
    return classes


def _too_poor(row: Recording, worst: int, unrated: bool) -> str:
    rating = float(row.quality or 0)
    if row.part != "train" or (rating == 0 and unrated) or 0 < rating <= worst:
        return ""
    return f"quality {rating:g}" if rating else "unrated"


def _without(row: Recording, content: re.Pattern[str]) -> str:
    return "" if row.part != "train" or content.search(fold(row.content)) else row.content or "not said"


def _outside(row: Recording, box: Sequence[float]) -> str:
    if row.part != "train":
        return ""
    try:
        latitude, longitude = float(row.latitude), float(row.longitude)
    except ValueError:
        return "no place"
    south, west, north, east = box
    across = west <= longitude <= east if west <= east else not east < longitude < west
    return "" if south <= latitude <= north and across else f"{latitude:g}, {longitude:g}"


def _train_counts(rows: Iterable[Recording]) -> Counter[str]:
    return Counter(row.class_id for row in rows if row.part == "train" and row.class_id)


def _surplus(rows: Sequence[Recording], most: int, seed: int) -> set[str]:
    """Return the media ids of training recordings beyond `most` per class, in an order drawn by seed and name."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.part == "train":
            by_class[row.class_id].append(row.media_id)
    return {
        media_id
        for media_ids in by_class.values()
        for media_id in sorted(media_ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[most:]
    }
