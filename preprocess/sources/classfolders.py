"""A folder per class, such as `Parus_major/anything.wav`, at any depth below the class.

The layout of JibJib (input/data/<Genus_species>/*.wav) and of the audio of BirdCLEF 2024 at Passau.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from preprocess import audio
from preprocess.metadata import check_class_id, check_name, composed
from preprocess.recordings import Recording, Reject, Species, shown
from preprocess.sources import Corpus, find_audio, find_root, open_pattern


@dataclass(frozen=True)
class Source:
    """All audio below the folders of root; a folder's name is its class."""

    root: str = ""  # folder with one folder per class
    group_pattern: str = ""  # regular expression; what its first group finds in a file's stem is never split,
    # such as "(.*)_[0-9]+$" where clips are numbered pieces of one recording; empty: every file by itself
    exclude: tuple[str, ...] = ()  # class folders that are not taken

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root.

        Raises:
            PipelineError: if it is no folder, or group_pattern is no regular expression with a group.
        """
        open_pattern("group_pattern", self.group_pattern)
        return find_root(self.root, "a folder with one folder of audio per class")

    def read(self, root: Path) -> Corpus:
        """Return one recording of the training part for every audio file."""
        pattern = open_pattern("group_pattern", self.group_pattern)
        recordings, taxa, rejects = [], {}, []
        files, refused = find_audio(root, root)
        rejects += [row for row in refused if not self._leaves_out(row.file)]
        for path in files:
            file = path.relative_to(root).as_posix()
            if self._leaves_out(file):
                continue
            try:
                check_name(file)
                if "/" not in file:
                    raise audio.AudioError("no_class", "the file lies in no class folder")
                class_id = check_class_id(file.partition("/")[0])
            except audio.AudioError as error:
                rejects.append(Reject(shown(file), "fetch", error.reason, error.detail))
                continue
            match = pattern.search(path.stem) if pattern else None
            name = scientific_name(class_id)
            taxa[class_id] = Species(class_id, name)
            group = f"{class_id}|{match[1] or file}" if match else f"{class_id}|{file}"
            recordings.append(Recording(file, file, class_id=class_id, group=group, part="train", scientific_name=name))
        return Corpus(recordings, list(taxa.values()), rejects)

    def _leaves_out(self, file: str) -> bool:
        folder = file.partition("/")[0]
        return composed(folder) in map(composed, self.exclude) or ("/" in file and folder.startswith("."))


def scientific_name(folder: str) -> str:
    """Return 'Parus major' for a folder Parus_major, and nothing for a name that does not look like one."""
    return folder.replace("_", " ") if re.fullmatch(r"[A-Z][a-z]+(_[a-z-]+){1,2}", folder) else ""
