"""Several corpora as one, cleaned as in system 000 (Bogart 2021).

    [data]
    source = "merged"
    corpus = "all"
    parts = [
        { source = "kaggle", root = "/data/birdsong-recognition" },
        { source = "xenocanto", query = "grp:birds q:A" },
    ]

Classes are matched by scientific name and keep the id that the first part gives them. A xeno-canto number that
comes twice is taken once, with the label of the first part; so is a file with the same bytes as another one, but
there a recording of the test part stays before one of the training part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config import ConfigError, Data, PipelineError
from config.commandline import log
from preprocess.metadata import complete, fold, read_truth, xeno_canto_number
from preprocess.recordings import BACKGROUND_SEPARATOR, Recording, Species
from preprocess.selection import drop_copies, drop_repeated
from preprocess.sources import Corpus, open_source
from preprocess.sources import Source as AnySource


@dataclass(frozen=True)
class Source:
    """The union of its parts; an earlier part wins over a later one."""

    parts: tuple[dict[str, Any], ...] = ()  # one table per part: {source = "...", and the options of that source}

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Fetch every part, and return a folder with one link to the root of each.

        Raises:
            ConfigError: if there are no two parts, or one is not understood.
            PipelineError: if a part cannot be had.
        """
        for (name, source), link in zip(self._opened(), self._links(raw), strict=True):
            log(f"part {name}")
            root = source.fetch(link.with_name(f"{link.name}-raw"), limit, jobs).resolve()
            if not root.is_dir():
                raise PipelineError(f"Part {name} of data.parts is a single file, expected a folder: {root}")
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink() and link.resolve() != root:
                link.unlink()
            if not link.is_symlink():
                link.symlink_to(root, target_is_directory=True)
        return raw

    def roots(self, root: Path) -> list[Path]:
        """Return the folders that the recordings lie in."""
        return [link.resolve() for link in self._links(root)]

    def others(self) -> list[Path]:
        """Return the files that the parts read beside their roots."""
        return [path for _, source in self._opened() if hasattr(source, "others") for path in source.others()]

    def read(self, root: Path) -> Corpus:
        """Return the recordings of all parts under one set of classes."""
        taxa: dict[str, Species] = {}
        recordings, rejects = [], []
        for (_, source), link in zip(self._opened(), self._links(root), strict=True):
            part = source.read(link.resolve())
            renamed = match_classes(part.species, taxa)
            known, own = {row.media_id for row in recordings}, set()
            rejects += [replace(reject, file=f"{link.name}/{reject.file}") for reject in part.rejects]
            for row in labelled(part):
                media_id, number = row.media_id, xeno_canto_number(row.media_id)
                if number is not None and (f"XC{number}" in known or f"XC{number}" not in own):
                    media_id = f"XC{number}"  # the first piece of a recording; others keep their names
                elif media_id in known:
                    media_id = f"{link.name}-{media_id}"
                own.add(media_id)
                recordings.append(
                    replace(
                        row,
                        media_id=media_id,
                        file=f"{link.name}/{row.file}",
                        class_id=renamed.get(row.class_id, row.class_id),
                        background=_rename(row.background_ids, renamed),
                        group=regroup(row, renamed),
                    )
                )
        recordings, repeated = drop_repeated(recordings)
        recordings, copies = drop_copies(root, recordings)
        log(f"merged: {len(repeated)} recordings that came before left out, {len(copies)} files with the same bytes")
        present = {row.class_id for row in recordings}
        species = [kind for kind in taxa.values() if kind.class_id in present]
        return Corpus(recordings, species, [*rejects, *repeated, *copies])

    def _opened(self) -> Iterator[tuple[str, AnySource]]:
        """Yield the name and the source of every part."""
        if len(self.parts) < 2:
            raise ConfigError(
                f"Invalid value for data.parts. Received: {list(self.parts)}. Expected: two or more tables such as "
                '{source = "kaggle", root = "/data/birdclef-2024"}.'
            )
        for k, part in enumerate(self.parts):
            options = {key: value for key, value in part.items() if key != "source"}
            name = part.get("source")
            if not isinstance(name, str) or name in ("merged", "folder"):
                raise ConfigError(
                    f"Invalid value for data.parts[{k}].source. Received: {name!r}. Expected: a source with labels."
                )
            try:
                yield f"{k} ({name})", open_source(Data(name, options=options))
            except ConfigError as error:
                raise ConfigError(f"data.parts[{k}]: {error}") from None

    def _links(self, raw: Path) -> list[Path]:
        return [raw / f"{k}-{part.get('source')}" for k, part in enumerate(self.parts)]


def match_classes(species: list[Species], taxa: dict[str, Species]) -> dict[str, str]:
    """Add the classes of a part to those known so far, and return their new ids where those differ.

    A class with a scientific name is the same as a known one of that name; where one of the
    two has none, the id decides. An id that is taken by another species gets a number.
    """
    by_name = {fold(kind.scientific_name): kind.class_id for kind in taxa.values() if kind.scientific_name}
    renamed = {}
    for kind in species:
        same = by_name.get(fold(kind.scientific_name)) if kind.scientific_name else None
        taken = taxa.get(kind.class_id)
        if same is None and taken is not None and not (taken.scientific_name and kind.scientific_name):
            same = kind.class_id  # one of the two has no scientific name to contradict
        new = same or kind.class_id
        if same is None:
            number = 2
            while new in taxa:
                new, number = f"{kind.class_id}-{number}", number + 1
        if new != kind.class_id:
            renamed[kind.class_id] = new
        complete(taxa, replace(kind, class_id=new))
    return renamed


def labelled(part: Corpus) -> Iterator[Recording]:
    """Yield the recordings of a part; those of its test get the labels of its ground truth."""
    truth = read_truth(part.truth) if part.truth is not None else {}
    for row in part.recordings:
        if row.part == "test" and row.media_id in truth:
            class_id, background = truth[row.media_id]
            row = replace(row, class_id=class_id, background=_rename(background, {}))
        yield row


def regroup(row: Recording, renamed: dict[str, str]) -> str:
    """Return the group of a recording under its new class id, so that one observation stays one over all parts."""
    class_id, separator, rest = row.group.partition("|")
    return f"{renamed.get(class_id, class_id)}{separator}{rest}"


def _rename(class_ids: Any, renamed: dict[str, str]) -> str:
    return BACKGROUND_SEPARATOR.join(sorted({renamed.get(class_id, class_id) for class_id in class_ids}))
