"""A folder (or single file) of audio without labels, as `predict.sh` takes it.

Date, time and site are what the names of recorders' files and of folders say.
"""

from dataclasses import dataclass
from pathlib import Path

from config import PipelineError
from preprocess.metadata import recorder_name
from preprocess.recordings import Recording, Reject, shown
from preprocess.sources import Corpus, expanded, find_audio


@dataclass(frozen=True)
class Source:
    """All audio under a folder, any depth; the MediaId is the path relative to it."""

    root: str = ""  # folder, or one audio file
    inputs: tuple[str, ...] = ()  # only these files and folders, relative to root; empty: everything

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the folder or file.

        Raises:
            PipelineError: if there is nothing at root.
        """
        path = expanded(self.root).resolve()
        if not self.root or not path.exists():
            raise PipelineError(f"There is no file or folder {self.root!r}.")
        for place in self.roots(path):
            if not place.exists():
                raise PipelineError(f"There is no file or folder {str(place)!r}.")
        return path

    def roots(self, root: Path) -> list[Path]:
        """Return the files and folders that are read."""
        return [root / name for name in self.inputs] or [root]

    def read(self, root: Path) -> Corpus:
        """Return one unlabelled recording of the test part for every audio file."""
        if root.is_file():
            return self._named([root.name], [], root.parent.name)
        places = self.roots(root)
        files = {place for place in places if place.is_file()}  # by whatever name, as they were named one by one
        rejects: list[Reject] = []
        for place in places:
            found, refused = find_audio(place, root) if place.is_dir() else ([], [])
            files.update(found)
            rejects += [row for row in refused if row not in rejects]  # folders may lie in each other
        return self._named([file.relative_to(root).as_posix() for file in sorted(files)], rejects, root.name)

    @staticmethod
    def _named(names: list[str], rejects: list[Reject], folder: str) -> Corpus:
        recordings = []
        for name in names:
            if name.isprintable():
                recordings.append(_recording(name, folder))
            else:
                rejects.append(Reject(shown(name), "fetch", "bad_filename", "the name holds control characters"))
        return Corpus(recordings, [], rejects)


def _recording(name: str, folder: str) -> Recording:
    date, time, site = recorder_name(f"{folder}/{name}")
    return Recording(media_id=name, file=name, part="test", group=name, date=date, time=time, locality=site)
