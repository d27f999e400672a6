"""Long recordings with annotations, such as soundscapes with Raven selection tables: pieces of them are a corpus.

Recordings are cut into stretches of `seconds`. One that an annotation counts for (it covers a tenth of it, or lies in
it mostly, as in `predict/evaluateDetections.py`) becomes a piece: of the species that is heard longest in it, with the
others as background species. Stretches without annotations are left out. The detections of `./predict.sh --format csv`
are annotations too, so that a network can learn from what another one is sure of (pseudo-labels).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from config import Between, PipelineError
from preprocess import audio
from preprocess.annotations import Event, Problems, bare_name, find_files, held_in_stretches, read_annotations
from preprocess.metadata import check_class_id
from preprocess.recordings import shown
from preprocess.sources import Corpus, expanded, find_audio, find_root, open_pattern, table


@dataclass(frozen=True)
class Source:
    """Annotated recordings below root."""

    root: str = ""  # folder with the recordings, at any depth
    annotations: str = ""  # CSV, Raven table or folder of tables, relative to root; empty: the tables (.txt) below root
    label_column: str = ""  # of the tables, with the species; empty: the usual names
    seconds: Annotated[float, Between(0.5, 3600)] = 5.0  # length of a piece
    group_pattern: str = ""  # regular expression; what its first group finds in a file's name is never split, such as
    # "(.*)_[0-9]{8}_" for sites; empty: a recording is a group
    test_pattern: str = ""  # regular expression; recordings in whose path it is found are the test part
    exclude: tuple[str, ...] = ()  # labels that are not taken, such as "????"

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Cut the pieces, and return their folder.

        Raises:
            ConfigError: if a pattern is no regular expression.
            PipelineError: if there is no such folder, or there are no annotations that can be read.
        """
        group = open_pattern("group_pattern", self.group_pattern)
        test = open_pattern("test_pattern", self.test_pattern, groups=0)
        root = find_root(self.root, "a folder with annotated recordings")
        place = root / expanded(self.annotations)
        problems: Problems = []
        events = [
            event
            for event in read_annotations(place, self.label_column, problems)
            if event.label and event.label not in self.exclude
        ]
        if not events:
            found = "; ".join(f"{where}: {what}" for where, what in problems[:1]) or "no species, or all are excluded"
            raise PipelineError(f"{place} holds no annotation that can be used ({found}).")
        rows = [_problem(where, "metadata_malformed", what) for where, what in problems]
        for file, own in self._by_file(root, events, rows).items():
            match = group.search(bare_name(Path(file))) if group else None
            known = {
                "group": match[1] or file if match else file,
                "split": "test" if test and test.search(file) else "",
            }
            scientific = {event.label: event.scientific_name for event in own if event.scientific_name}
            for number, labels in sorted(held_in_stretches(own, self.seconds).items()):
                start, end = number * self.seconds, (number + 1) * self.seconds
                main, *others = sorted(labels, key=lambda label: (-labels[label], label))
                rows.append(
                    {"file": file, "start": repr(start), "end": repr(end), "label": main, **known}
                    | {"background": ",".join(others), "scientific_name": scientific.get(main, "")}
                    | {table.WHERE: f"{file}, {start:g} s"}
                )
        table.cut_pieces(root, list(enumerate(rows, 1)), raw / "pieces")
        return raw / "pieces"

    def read(self, root: Path) -> Corpus:
        """Return the pieces."""
        return table.Source().read(root)

    def _by_file(self, root: Path, events: Iterable[Event], rows: list[dict[str, Any]]) -> dict[str, list[Event]]:
        """Return the annotations of every recording, within its length; what cannot be used goes to `rows`."""
        files, refused = find_audio(root, root)
        rows += [_problem(reject.file, reject.reason, reject.detail) for reject in refused]
        by_name: dict[str, list[Event]] = {}
        for event in events:
            by_name.setdefault(event.file, []).append(event)
        found, unclear = find_files(by_name, (path.relative_to(root).as_posix() for path in files))
        rows += [_problem(name, "duplicate_name", why) for name, why in unclear.items()]
        missing = by_name.keys() - found.keys() - unclear.keys()
        rows += [_problem(name, "no_audio", f"there is no such recording below {root}") for name in sorted(missing)]
        kept: dict[str, list[Event]] = {}
        for name, file in found.items():
            try:
                length = _length(root, file)
            except audio.AudioError as error:
                rows.append(_problem(file, error.reason, error.detail))
                continue
            for event in by_name[name]:
                try:
                    check_class_id(event.label)
                    if event.start >= length:
                        raise audio.AudioError("metadata_malformed", f"the recording ends at {length:g} s")
                except audio.AudioError as error:
                    rows.append(_problem(f"{file}, {event.start:g} s", error.reason, error.detail))
                    continue
                kept.setdefault(file, []).append(replace(event, end=min(event.end, length)))
        return kept


def _length(root: Path, file: str) -> float:
    """Return the length of a recording in seconds.

    Raises:
        AudioError: if it lies elsewhere, or cannot be cut.
    """
    path, _ = table.check_inside(root, file)
    try:
        length, _ = audio.probe(path)
    except OSError as error:
        raise audio.AudioError("unreadable", error.strerror or str(error)) from None
    if not length:
        raise audio.AudioError("unreadable", "libsndfile cannot cut this format; convert it to FLAC")
    return length


def _problem(where: str, reason: str, detail: str) -> dict[str, Any]:
    return {table.WHERE: shown(where)[:200], table.PROBLEM: f"{reason}: {shown(detail)[:300]}"}
