"""Tables of detections: tidy CSV and Parquet, and JSON."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from config import PipelineError
from predict.detections import Result
from predict.formats import Facts, plain, plain_text
from preprocess.whole import whole_file

ROWS_AT_ONCE = 10_000  # of a Parquet file's row groups
# Columns and their types; the last ones say what made the row.
COLUMNS: dict[str, type] = {
    "file": str,
    "start": float,  # s
    "end": float,
    "class_id": str,
    "scientific_name": str,
    "vernacular_name": str,
    "score": float,
    "probability": float,  # by the calibration of the run, where it has one
    "duration": float,  # s, of the recording
    "date": str,
    "time": str,
    "site": str,
    "latitude": str,
    "longitude": str,
    "model": str,
    "version": str,
    "recipe": str,
    "minimum": float,
    "pool": str,
    "hop": float,
    "smooth": bool,
    "merge": bool,
    "top": int,
}


def _rows(results: Iterable[Result], facts: Facts) -> Iterator[dict[str, Any]]:
    settings = facts.settings
    made_by = {"model": facts.model, "version": facts.version, "recipe": facts.recipe, "pool": settings.pool}
    made_by |= {name: getattr(settings, name) for name in ("hop", "smooth", "merge", "top")}
    for result in results:
        row = result.recording
        known = {name: getattr(row, name) for name in ("duration", "date", "time", "latitude", "longitude")}
        for found in result.detections:
            kind = facts.species[found.species]
            yield {
                "file": plain(row.file),
                "start": round(found.start, 3),
                "end": round(found.end, 3),
                "class_id": kind.class_id,
                "scientific_name": plain_text(kind.scientific_name),
                "vernacular_name": plain_text(kind.vernacular_name),
                "score": round(found.score, 6),
                "probability": round(facts.probability(found.score), 6) if facts.probability else None,
                **known,
                "site": plain_text(row.locality),
                "minimum": round(float(facts.minimum[found.species]), 6),
                **made_by,
            }


def tidy_csv(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write a row per detection."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(results, facts))


def parquet(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write a row per detection as Parquet.

    Raises:
        PipelineError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise PipelineError("--format parquet needs pyarrow: pip install pyarrow") from None
    types = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_(), int: pyarrow.int64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with whole_file(path) as partial, ParquetWriter(partial, schema) as writer:
        rows: list[dict[str, Any]] = []
        for row in _rows(results, facts):
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def json_file(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write the ranking and the detections of every recording, and what made them."""
    made_by = {"model": facts.model, "version": facts.version, "recipe": json.loads(facts.options)}
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as stream:
        settings = vars(facts.settings) | {"minimum": least_scores(facts)}
        stream.write(json.dumps({**made_by, "settings": settings}, ensure_ascii=False)[:-1])
        stream.write(', "recordings": [')
        for number, result in enumerate(results):
            stream.write((",\n" if number else "\n") + json.dumps(as_json(result, facts), ensure_ascii=False))
        stream.write("\n]}\n")


def least_scores(facts: Facts) -> float | None | dict[str, float | None]:
    """Return the least score of a detection, by species where they differ; None: one that is never detected."""
    rounded = [round(float(value), 6) if value <= 1 else None for value in facts.minimum]
    by_species = {kind.class_id: value for kind, value in zip(facts.species, rounded, strict=True)}
    return by_species if len(set(rounded)) > 1 else rounded[0]


def as_json(result: Result, facts: Facts) -> dict[str, Any]:
    """Return what was found in a recording as JSON has it.

    A probability is that of the best segment, also beside the ranking, whose score may be pooled otherwise.
    """
    best = result.scores.max(axis=0)
    order = np.argsort(-result.ranking, kind="stable")[: facts.settings.top or None]

    def kind(column: int) -> dict[str, str]:
        own = facts.species[column]
        names = {"scientific_name": own.scientific_name, "vernacular_name": own.vernacular_name}
        return {"class_id": own.class_id} | {name: value for name, value in names.items() if value}

    def score(value: float, segment: float) -> dict[str, float]:
        own = {"score": round(value, 6)}
        return own | {"probability": round(facts.probability(segment), 6)} if facts.probability else own

    return {
        "file": result.recording.file,
        "duration": round(result.recording.duration, 3),
        "ranking": [{**kind(c), **score(float(result.ranking[c]), float(best[c]))} for c in order.tolist()],
        "detections": [
            {"start": round(d.start, 3), "end": round(d.end, 3), **kind(d.species), **score(d.score, d.score)}
            for d in result.detections
        ],
    }
