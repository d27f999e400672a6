"""The submissions of BirdCLEF 2016-2018 and of the competitions on Kaggle from 2020 on."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from config import PipelineError
from config.commandline import log
from predict.detections import Result, on_grid
from predict.formats import Facts, open_csv
from predict.runfile import write_run_file
from preprocess.metadata import NO_CALL, read_rows

STEP = 5.0  # s, in which soundscapes are counted
MOST_2018 = 100  # species per recording


def birdclef2016(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write MediaId;ClassId;probability, best first (LifeCLEF 2016)."""
    rows = (([result.recording.media_id], result.ranking[None]) for result in results)
    write_run_file(path, rows, [kind.class_id for kind in facts.species], facts.settings.top)


def birdclef2018(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write MediaId;ClassId;probability;rank, at most 100 per recording (LifeCLEF 2017, 2018)."""
    most = min(facts.settings.top or MOST_2018, MOST_2018)
    with open_csv(path, ";") as writer:
        for result in results:
            order = np.argsort(-result.ranking, kind="stable")[:most]
            for rank, c in enumerate(order, 1):
                row = (result.recording.media_id, facts.species[c].class_id, f"{result.ranking[c]:.10g}", rank)
                writer.writerow(row)


def birdclef2018_soundscapes(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write MediaId;TC1-TC2;ClassId;probability for every 5 s, at most 100 (LifeCLEF 2017, 2018)."""
    most = min(facts.settings.top or MOST_2018, MOST_2018)
    with open_csv(path, ";") as writer:
        for result in results:
            for end, scores in zip(*on_grid(result, STEP), strict=True):
                code = f"{time_code(end - int(STEP))}-{time_code(end)}"
                for c in np.argsort(-scores, kind="stable")[:most]:
                    row = (result.recording.media_id, code, facts.species[c].class_id, f"{scores[c]:.10g}")
                    writer.writerow(row)


def time_code(seconds: int) -> str:
    """Return hh:mm:ss."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def kaggle2020(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write row_id,birds (Birdcall 2020).

    With test.csv (site, row_id, seconds, audio_id) the rows are those of the file, and a row without seconds is for
    the whole recording; without it they are <file>_<end of the 5 s>.
    """
    if not facts.rows:
        return _birds(results, path, facts, stem)
    wanted: dict[str, list[tuple[str, float]]] = {}
    for line, row in _read_rows(facts.rows, ("row_id", "seconds", "audio_id")):
        try:
            seconds = float(row["seconds"] or "nan")
        except ValueError:
            raise PipelineError(f"{facts.rows}, line {line}: seconds is no number: {row['seconds'][:40]!r}.") from None
        wanted.setdefault(row["audio_id"], []).append((row["row_id"], seconds))
    with open_csv(path) as writer:
        writer.writerow(("row_id", "birds"))
        for result in results:
            ends, scores = on_grid(result, STEP)
            for row_id, seconds in wanted.pop(stem(result), ()):
                at = np.flatnonzero(ends == seconds)
                own = (
                    result.ranking if np.isnan(seconds) else scores[at[0]] if len(at) else np.zeros(len(facts.species))
                )
                writer.writerow((row_id, _call(own, facts)))
        if wanted:
            log(f"warning: {len(wanted)} recordings that are asked for are not there, such as {next(iter(wanted))}")
        for rows in wanted.values():  # no such recording, or it could not be read: the row must still be there
            writer.writerows((row_id, NO_CALL) for row_id, _ in rows)
    return None


def kaggle2021(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write row_id,birds (2021).

    A row is <audio>_<site>_<end of the 5 s>; files are called <audio>_<site>_<date>. With test.csv or
    sample_submission.csv the rows are those of the file; without a recording, or with a rejected one, they are nocall.
    """
    _birds(results, path, facts, lambda result: "_".join(stem(result).split("_")[:2]))


class Rows:
    """The rows of a submission: those of a competition's file, which must all be there and no others, else any."""

    def __init__(self, path: Path | None) -> None:
        """Read the competition's file, if there is one; raises PipelineError if it cannot be read."""
        self.left = {row["row_id"]: True for _, row in _read_rows(path, ("row_id",))} if path else None
        self.count = len(self.left or ())
        self.files: dict[str, str] = {}

    def begin(self, name: str, result: Result) -> None:
        """Begin the rows of a recording, whose ids begin with a name.

        Raises:
            PipelineError: if those of another recording do, too.
        """
        before = self.files.setdefault(name, result.recording.file)
        if before != result.recording.file:
            raise PipelineError(
                f"{before} and {result.recording.file} would have the same rows, {name}_5 and so on. Predict one at a "
                "time, or name one of them otherwise."
            )

    def take(self, row_id: str) -> bool:
        """Tell whether a row is to be written."""
        return True if self.left is None else self.left.pop(row_id, False)

    def rest(self) -> Iterable[str]:
        """Return the ids that were not taken, of no recording or a rejected one, and tell how many."""
        if self.left:
            first = next(iter(self.left))
            log(f"warning: {len(self.left)} of {self.count} rows that are asked for have no recording, such as {first}")
        return self.left or ()


def _birds(results: Iterable[Result], path: Path, facts: Facts, name_of: Callable[[Result], str]) -> None:
    rows = Rows(facts.rows)
    with open_csv(path) as writer:
        writer.writerow(("row_id", "birds"))
        for result in results:
            rows.begin(name := name_of(result), result)
            for end, scores in zip(*on_grid(result, STEP), strict=True):
                if rows.take(row_id := f"{name}_{end}"):
                    writer.writerow((row_id, _call(scores, facts)))
        writer.writerows((row_id, NO_CALL) for row_id in rows.rest())


def _call(scores: np.ndarray, facts: Facts) -> str:
    """Return the class ids that reach their minimum, best first, separated by spaces, or nocall."""
    order, reached = np.argsort(-scores, kind="stable"), facts.reached(scores)
    found = [facts.species[c].class_id for c in order if reached[c]]
    return " ".join(found[: facts.settings.top or None]) or NO_CALL


def kaggle2022(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write row_id,target, True or False (2022); a row is <file>_<species>_<end of the 5 s>.

    With sample_submission.csv the rows are those of the file, False without a recording.
    """
    rows = Rows(facts.rows)
    with open_csv(path) as writer:
        writer.writerow(("row_id", "target"))
        for result in results:
            rows.begin(name := stem(result), result)
            for end, scores in zip(*on_grid(result, STEP), strict=True):
                for kind, reached in zip(facts.species, facts.reached(scores), strict=True):
                    if rows.take(row_id := f"{name}_{kind.class_id}_{end}"):
                        writer.writerow((row_id, bool(reached)))
        writer.writerows((row_id, False) for row_id in rows.rest())


def kaggle2023(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write row_id and a probability per species (2023 to 2026); a row is <file>_<end of the 5 s>.

    With sample_submission.csv columns and rows are those of the file; species that the run does not know get 0, and so
    do rows without a recording.
    """
    classes = [kind.class_id for kind in facts.species]
    wanted = classes
    if facts.rows:
        first = next(_read_rows(facts.rows, ("row_id",)), None)
        if first is None:
            raise PipelineError(f"{facts.rows} holds no row.")
        wanted = [name for name in first[1] if name != "row_id"]
        unknown = [name for name in wanted if name not in classes]
        if unknown:
            log(
                f"warning: {len(unknown)} of {len(wanted)} columns that are asked for are no class ids of the run and "
                f"stay 0, such as {unknown[0]}; the run has such as {classes[0]}"
            )
    column, rows = {name: i for i, name in enumerate(classes)}, Rows(facts.rows)
    with open_csv(path) as writer:
        writer.writerow(("row_id", *wanted))
        for result in results:
            rows.begin(name := stem(result), result)
            for end, scores in zip(*on_grid(result, STEP), strict=True):
                if rows.take(row_id := f"{name}_{end}"):
                    own = (f"{scores[column[name]]:.6g}" if name in column else "0" for name in wanted)
                    writer.writerow((row_id, *own))
        writer.writerows((row_id, *["0"] * len(wanted)) for row_id in rows.rest())


def stem(result: Result) -> str:
    """Return the name of a recording's file without folders and ending."""
    return PurePosixPath(result.recording.file).stem


def _read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells by column of the rows of a competition's CSV.

    Raises:
        PipelineError: if it cannot be read, lacks a column, or a row has another number of cells.
    """
    for line, cells in read_rows(path, columns):
        if cells is None:
            raise PipelineError(f"{path}, line {line}: another number of cells than columns.")
        yield line, cells
