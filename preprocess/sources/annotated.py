"""Long recordings with annotations, such as soundscapes with Raven selection tables: pieces of them are a corpus.

Recordings are cut into stretches of `seconds`. One that an annotation counts for (it covers a tenth of it, or lies in
it mostly, as in `predict/evaluateDetections.py`) becomes a piece: of the species that is heard longest in it, with the
others as background species. Stretches without annotations are left out. The detections of `./predict.sh --format csv`
are annotations too, so that a network can learn from what another one is sure of (pseudo-labels).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from config import Between, ConfigError, PipelineError
from preprocess.annotations import Event, Problems, candidates, held_in_stretches, read_annotations
from preprocess.sources import Corpus, find_audio, find_root, open_pattern, table


@dataclass(frozen=True)
class Source:
    """Annotated recordings below root."""

    root: str = ""  # folder with the recordings, at any depth
    annotations: str = ""  # CSV, Raven table or folder of tables, relative to root; empty: the tables (.txt) below root
    label_column: str = ""  # of the tables, with the species; empty: the usual names
    seconds: Annotated[float, Between(0.5, 3600)] = 5.0  # length of a piece
    group_pattern: str = ""  # regular expression; what its first group finds in a file's stem is never split, such as
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
        try:
            test = re.compile(self.test_pattern) if self.test_pattern else None
        except re.error as error:
            raise ConfigError(
                f"Invalid value for data.test_pattern. Received: {self.test_pattern!r}: {error}."
            ) from None
        root = find_root(self.root, "a folder with annotated recordings")
        place = root / Path(self.annotations).expanduser()
        problems: Problems = []
        events = read_annotations(place, self.label_column, problems)
        if not events:
            found = "; ".join(f"{where}: {what}" for where, what in problems[:1]) or "no annotation"
            raise PipelineError(f"{place} holds nothing that can be read ({found}).")
        rows: list[dict[str, Any]] = [_problem(where, "metadata_malformed", what) for where, what in problems]
        for file, own in self._by_file(root, events, rows).items():
            match = group.search(Path(file).stem) if group else None
            known = {
                "group": match[1] or file if match else file,
                "split": "test" if test and test.search(file) else "",
            }
            for number, labels in sorted(held_in_stretches(own, self.seconds).items()):
                start = number * self.seconds
                main, *others = sorted(labels, key=lambda label: (-labels[label], label))
                rows.append(
                    known
                    | {"file": file, "start": repr(start), "end": repr(start + self.seconds), "label": main}
                    | {"background": ",".join(others), "scientific_name": main if BINOMIAL.fullmatch(main) else ""}
                    | {table.WHERE: f"{file}, {start:g} s"}
                )
        table.cut_pieces(root, list(enumerate(rows, 1)), raw / "pieces")
        return raw / "pieces"

    def read(self, root: Path) -> Corpus:
        """Return the pieces."""
        return table.Source().read(root)

    def _by_file(self, root: Path, events: list[Event], rows: list[dict[str, Any]]) -> dict[str, list[Event]]:
        """Return the annotations of every recording that there is; the others go to `rows` as problems."""
        files, refused = find_audio(root, root)
        rows += [_problem(reject.file, reject.reason, reject.detail) for reject in refused]
        by_name: dict[str, list[Event]] = {}
        for event in events:
            if event.label and event.label not in self.exclude:
                by_name.setdefault(event.file, []).append(event)
        found: dict[str, list[Event]] = {}
        for name, fitting in candidates(by_name, (path.relative_to(root).as_posix() for path in files)).items():
            if len(fitting) == 1:
                found.setdefault(fitting.pop(), []).extend(by_name[name])
            elif fitting:
                rows.append(_problem(name, "duplicate_name", f"could be any of {', '.join(sorted(fitting)[:3])}"))
            else:
                rows.append(_problem(name, "no_audio", f"no recording of this name below {root.name}"))
        return found


BINOMIAL = re.compile(r"[A-Z][a-z]+( [a-z-]+){1,2}")


def _problem(where: str, reason: str, detail: str) -> dict[str, Any]:
    return {table.WHERE: where, table.PROBLEM: f"{reason}: {detail}"}
