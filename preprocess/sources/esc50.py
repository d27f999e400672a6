"""ESC-50 and everything in its layout: audio/ and meta/esc50.csv, with five official folds.

Columns: filename, fold, target, category, esc10, src_file, take. K. J. Piczak, ESC: Dataset for Environmental
Sound Classification, ACM MM 2015.
"""

from dataclasses import dataclass
from pathlib import Path

from config import Count, PipelineError
from preprocess.audio import AudioError
from preprocess.metadata import check_class_id, check_name, check_there, read_rows
from preprocess.recordings import Recording, Reject, Species
from preprocess.sources import Corpus, find_root


@dataclass(frozen=True)
class Source:
    """The clips with their category as class; clips of one source file are never split."""

    root: str = ""  # folder with audio/ and meta/esc50.csv
    only_esc10: bool = False  # the 10 categories of ESC-10
    test_fold: Count = 0  # this official fold is the test part; 0: no test part, see train.split = {name = "folds"}

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root.

        Raises:
            PipelineError: if it is no folder in this layout.
        """
        root = find_root(self.root, "a folder with audio/ and meta/esc50.csv")
        if not (root / "meta" / "esc50.csv").is_file() or not (root / "audio").is_dir():
            raise PipelineError(f"{root} is not in the layout of ESC-50. Missing: audio/ or meta/esc50.csv.")
        return root

    def read(self, root: Path) -> Corpus:
        """Return the clips of the table.

        Raises:
            PipelineError: if the table cannot be read, or no clip is in test_fold.
        """
        recordings, taxa, rejects, folds = [], {}, [], set()
        table = root / "meta" / "esc50.csv"
        needed = ("filename", "fold", "category", *(["esc10"] if self.only_esc10 else []))
        for line, cells in read_rows(table, needed):
            if cells is None:
                rejects.append(Reject("meta/esc50.csv", "fetch", "metadata_malformed", f"line {line}"))
                continue
            if self.only_esc10 and cells["esc10"].casefold() != "true":
                continue
            try:
                file = "audio/" + check_name(cells["filename"])
                class_id = check_class_id(cells["category"])
                check_there(root, file)
            except AudioError as error:
                rejects.append(Reject(f"meta/esc50.csv:{line}", "fetch", error.reason, error.detail))
                continue
            folds.add(cells["fold"])
            media_id = Path(file).stem
            taxa.setdefault(class_id, Species(class_id, vernacular_name=class_id.replace("_", " ")))
            recordings.append(
                Recording(
                    media_id,
                    file,
                    class_id=class_id,
                    group=f"{class_id}|{cells.get('src_file') or media_id}",
                    part="test" if self.test_fold and cells["fold"] == str(self.test_fold) else "train",
                    fold=cells["fold"],
                    vernacular_name=taxa[class_id].vernacular_name,
                    licence=cells.get("licence", ""),
                )
            )
        if self.test_fold and str(self.test_fold) not in folds:
            raise PipelineError(
                f"{table} has no fold data.test_fold={self.test_fold}. Found: {', '.join(sorted(folds)) or 'none'}."
            )
        return Corpus(recordings, list(taxa.values()), rejects)
