"""What the metadata of any corpus needs: cleaning of values, tables in CSV, names of species.

Quality is kept on the scale of BirdCLEF: 1 is best, 5 worst, empty or 0 unrated.
"""

import ast
import calendar
import csv
import datetime
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from config import PipelineError
from preprocess.audio import AudioError
from preprocess.recordings import BACKGROUND_SEPARATOR, Species, shown

NO_CALL = "nocall"  # what competitions call stretches without a species
MAX_TABLE_BYTES = 1 << 29  # the largest real one, 2020, has some 20 MB
MAX_LITERAL_CHARACTERS = 1 << 14  # a list in a cell; real ones have up to 1,000
_UNKNOWN = frozenset(("", "?", "?:?", "null", "none", "nan", "unknown"))
TRUTH_COLUMNS = ("MediaId", "ClassId", "BackgroundClassIds")
_RECORDER = re.compile(
    r"(?:[A-Z]|(?P<site>.+?)(?:_[01](?:\+1)?)?[_-])?(?P<year>(?:19|20)\d\d)-?(?P<month>\d\d)-?(?P<day>\d\d)"
    r"[_T$-](?P<hour>\d\d)(?:(?P<apart>_)|[-h])?(?P<minute>\d\d)(?:(?(apart)_|[-m]?)(?P<second>\d\d))?"
    r"T?(?:[_Z+-].*)?"
)
_NO_SITE = re.compile(  # last folders that tell no sites apart: days or months, and what recorders call theirs
    r"(?:/(?:(?:19|20)\d\d[-_./]?(?:0[1-9]|1[0-2])(?:[-_./]?(?:0[1-9]|[12]\d|3[01]))?|DCIM|Data))+$", re.IGNORECASE
)
_FIRST_AUDIOMOTH, _LAST_AUDIOMOTH = 0x58000000, 0x80000000  # end of 2016 to 2038
_DELIMITERS = ",;\t|"
MAX_CLASS_ID = 128  # characters
_CLASS_ID = re.compile(rf"[^\s;,|\"'/\\](?:[^;,|\"/\\]{{0,{MAX_CLASS_ID - 2}}}[^\s;,|\"'/\\])?")
_XENO_CANTO = re.compile(r"(?<![a-z0-9])XC(\d{1,9})(?!\d)", re.IGNORECASE)


def known(text: str) -> str:
    """Return the text, or nothing where it only says that the value is not known."""
    return "" if text.casefold() in _UNKNOWN else text


def clean_date(text: str) -> str:
    """Return YYYY, YYYY-MM or YYYY-MM-DD, as far as it is known: 2001-10-00 is 2001-10, 0000-00-00 is empty.

    12.5.2023 is 2023-05-12.
    """
    text = re.sub(r"^(\d{1,2})\. ?(\d{1,2})\. ?(\d{4})$", r"\3-\2-\1", text)
    match = re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", text)
    if not match or int(match[1]) == 0:
        return ""
    year, month, day = match[1], int(match[2]), int(match[3])
    if not 1 <= month <= 12:
        return year
    exists = 1 <= day <= calendar.monthrange(int(year), month)[1]
    return f"{year}-{month:02d}" + (f"-{day:02d}" if exists else "")


def clean_time(text: str) -> str:
    """Return HH:MM on 24 hours: 9:45 is 09:45, 8:30pm and 8:30:15 p.m. are 20:30, ?:? is empty."""
    match = re.match(r"(\d{1,2})[:.h](\d{2})(?:[:.]\d{2})?\s*(?:([ap])\.?m)?", text.casefold())
    if not match:
        return ""
    hour, minute = int(match[1]), int(match[2])
    if match[3] and 1 <= hour <= 12:
        hour = hour % 12 + (12 if match[3] == "p" else 0)
    return f"{hour:02d}:{minute:02d}" if hour < 24 and minute < 60 else ""


def recorder_name(file: str) -> tuple[str, str, str]:
    """Return date, time (HH:MM:SS) and site that the name of a recorder's file gives; empty is what it does not say.

    PREFIX_20230512_043000.wav (Song Meter, AudioMoth; T, $ or - in place of _, the prefix may be missing) or eight
    hexadecimal digits, the seconds since 1970 (older AudioMoths; UTC). The site is the prefix without the channels of
    Song Meters, else the path of the folder below the first one, or that one, without days, DCIM and Data at its end.
    """
    path = PurePosixPath(file)
    first, _, below = _NO_SITE.sub("", "/".join(path.parent.parts)).partition("/")
    folder = below or first
    match = _RECORDER.fullmatch(path.stem)
    if match:
        date = clean_date(f"{match['year']}-{match['month']}-{match['day']}")
        time = clean_time(f"{match['hour']}:{match['minute']}")
        if len(date) == len("2023-05-12") and time:
            second = match["second"] or "00"
            return date, f"{time}:{second}" if second < "60" else time, match["site"] or folder
    if re.fullmatch(r"[0-9A-F]{8}", path.stem) and _FIRST_AUDIOMOTH <= int(path.stem, 16) < _LAST_AUDIOMOTH:
        moment = datetime.datetime.fromtimestamp(int(path.stem, 16), datetime.UTC)
        return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M:%S"), folder
    return "", "", folder


def clean_number(text: str, limit: float) -> str:
    """Return the text if it is a number with an absolute value up to limit, else nothing."""
    try:
        return text if abs(float(text)) <= limit else ""
    except ValueError:
        return ""


def decimal(text: str) -> str:
    """Return a number with a decimal point for one with a decimal comma: 12,5 is 12.5; other texts stay as they are."""
    return text.replace(",", ".") if text.count(",") == 1 else text


def leading_number(text: str, limit: float) -> str:
    """Return the number that a text begins with: '44100 (Hz)' is 44100, '1,200 m' is 1200, '~650 m' is empty."""
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)(?![\d-]|,\d)", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    return clean_number(match[1], limit) if match else ""


def from_rating(rating: str) -> str:
    """Return the quality of a rating in stars: 5 stars are 1, one or a half is 5, 0 or nothing is unrated."""
    stars = float(clean_number(rating, 5) or 0)
    return f"{min(5.0, 6 - stars):g}" if stars > 0 else ""


def literal_list(text: str) -> list[str]:
    """Return the texts of a Python list in a cell, such as "['a', 'b']"; anything else is an empty list."""
    if not text.startswith("[") or len(text) > MAX_LITERAL_CHARACTERS:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return []
    return [item.strip() for item in value if isinstance(item, str) and item.strip()] if isinstance(value, list) else []


def xeno_canto_number(*names: str) -> int | None:
    """Return the xeno-canto number in the first of the names that has one: XC134896 is 134896."""
    for name in names:
        if match := _XENO_CANTO.search(name):
            return int(match[1])
    return None


def check_class_id(text: str) -> str:
    """Return a class id that every table can hold, and that can name a file, in Unicode's composed form (NFC).

    Raises:
        AudioError: reason bad_class_id.
    """
    text = composed(text)
    if not _CLASS_ID.fullmatch(text) or text in (".", "..") or not text.isprintable():
        raise AudioError("bad_class_id", f"{shown(text[:200])}, {_odd_class_id(text)}" if text else "no class")
    return text


def _odd_class_id(text: str) -> str:
    odd = [sign for sign in ';,|"/\\' if sign in text]
    if odd:
        return f"a class id holds no {odd[0]}"
    if len(text) > MAX_CLASS_ID:
        return f"a class id has at most {MAX_CLASS_ID} characters"
    return "a class id neither begins nor ends with a blank or ', holds no control characters, and is no . or .."


def check_name(text: str) -> str:
    """Return the name of a file or of one folder.

    Raises:
        AudioError: reason bad_filename, for a path that could lead elsewhere.
    """
    parts = text.split("/")
    if not text or "\\" in text or not text.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise AudioError("bad_filename", f"{shown(text[:200])}, {_odd_name(text)}" if text else "no file name")
    return text


def _odd_name(text: str) -> str:
    if "\\" in text:
        return "a name with a backslash; write folder/file"
    if not text.isprintable():
        return "no UTF-8, or with control characters"
    return "an absolute path outside of the corpus" if text.startswith("/") else "no path below the corpus"


def check_there(root: Path, file: str) -> str:
    """Return the name of a file of a table as it is spelt there: some systems take ä for a letter, others for two.

    Raises:
        AudioError: reason no_audio, or unreadable where that cannot be told, as of a name that is too long.
    """
    try:
        for name in (file, composed(file), unicodedata.normalize("NFD", file)):
            if (root / name).is_file():
                return name
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "") from None
    raise AudioError("no_audio", f"{file} is not there")


def observation(class_id: str, recordist: str, date: str, media_id: str) -> str:
    """Return what is never split: recordings of a species by one recordist on one day, if both are known."""
    return f"{class_id}|{recordist}|{date}" if recordist else f"{class_id}|{media_id}"


class Names:
    """Finds the class that a name means: its id, scientific or common name, or 'Scientific_Common'."""

    def __init__(self, species: Iterable[Species]) -> None:
        """Take the classes of a corpus; where two share a name, the first has it."""
        self.class_of: dict[str, str] = {}
        rows = list(species)
        for name in (
            lambda row: row.class_id,
            lambda row: row.scientific_name,
            lambda row: row.vernacular_name,
            lambda row: f"{row.scientific_name}_{row.vernacular_name}".strip("_"),
        ):
            for row in rows:
                if name(row):
                    self.class_of.setdefault(fold(name(row)), row.class_id)

    def background(self, names: Iterable[str], own: str) -> str:
        """Return the class ids of background species; what is no class of the corpus is left out."""
        found = {self.class_of.get(fold(name)) for name in names}
        return BACKGROUND_SEPARATOR.join(sorted(found - {None, own}))


def fold(name: str) -> str:
    """Return a name in lower case, with single blanks, in Unicode's composed form."""
    return " ".join(composed(name).split()).casefold()


def composed(text: str) -> str:
    """Return a text in which ä is one letter (NFC), not a and two dots, as some systems spell file names."""
    return unicodedata.normalize("NFC", text)


def complete(taxa: dict[str, Species], new: Species) -> None:
    """Add a class, or complete its entry with names that earlier recordings lacked."""
    old = taxa.get(new.class_id, new)
    taxa[new.class_id] = Species(
        new.class_id,
        old.scientific_name or new.scientific_name,
        old.vernacular_name or new.vernacular_name,
        old.order or new.order,
        old.family or new.family,
    )


def read_rows(
    path: Path, needed: Iterable[str] = (), optional: Iterable[str] = ()
) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield the line number and the cells by column of a CSV with a header; None for a row of another width.

    The needed and the optional columns may be in upper or lower case, and have the names given here. The delimiter is
    the one of , ; | and tab that the header holds most often. All cells stay text, so that numeric labels are not
    changed, and are stripped of blanks around them.

    Raises:
        PipelineError: if the file is missing, too large, no CSV in UTF-8, or lacks one of the needed columns.
    """
    if path.exists() and path.stat().st_size > MAX_TABLE_BYTES:
        raise PipelineError(f"{path} is larger than {MAX_TABLE_BYTES} bytes; this is no table of recordings.")
    columns: list[str] = []
    for line, cells in read_lines(path):
        if columns:
            fits = len(cells) == len(columns)
            yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)} if fits else None
        else:
            columns = _named(path, cells, needed, optional)
    if not columns:
        _named(path, [], needed)


def _named(path: Path, cells: list[str], needed: Iterable[str], optional: Iterable[str] = ()) -> list[str]:
    """Return the names of the columns, after making sure that the needed ones are among them, in any case."""
    columns = [name.strip() for name in cells]
    called = {name.casefold(): name for name in (*needed, *optional) if name not in columns}
    columns = [called.get(name.casefold(), name) for name in columns]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise PipelineError(
            f"{path} lacks the column {', '.join(missing)}. Found: {', '.join(columns)[:300] or 'nothing'}."
        )
    return columns


def read_lines(path: Path, delimiter: str = "", strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of every line of a CSV that is not empty.

    Args:
        path: the file.
        delimiter: empty: the one of , ; | and tab that the first line holds most often.
        strict: refuse a quotation mark that opens a cell and is not closed; else that cell holds all that follows.

    Raises:
        PipelineError: if the file is missing, or no CSV in UTF-8.
    """
    line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            if not delimiter:
                head = ""
                while not head.strip() and (head := stream.readline(1 << 16)):
                    pass
                stream.seek(0)
                delimiter = max(_DELIMITERS, key=head.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=strict)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except OSError as error:
        raise PipelineError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is no CSV file in UTF-8: {error}. In Excel, save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise PipelineError(
            f"{path} is no CSV file in UTF-8: {error}, in the row that begins in line {line + 1}. "
            "Does a quotation mark open a cell there that none closes?"
        ) from None


def read_truth(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return media id -> main class id and background class ids of a ground truth, a CSV of `TRUTH_COLUMNS`.

    Raises:
        PipelineError: naming the line, if columns are missing, or a recording comes twice or without a class.
    """
    truth: dict[str, tuple[str, list[str]]] = {}
    names: list[str] = []
    for line, cells in read_lines(path):
        if not names:
            names = _named(path, cells, TRUTH_COLUMNS[:2])
            continue
        entry = dict(zip(names, map(str.strip, cells), strict=False))  # the last column may be left out
        media_id, class_id = entry.get("MediaId", ""), entry.get("ClassId", "")
        if not media_id or not class_id or media_id in truth:
            raise PipelineError(f"{path}, line {line}: a recording without MediaId or ClassId, or listed twice.")
        background = entry.get("BackgroundClassIds", "").replace(";", ",").split(",")
        truth[media_id] = class_id, [name.strip() for name in background if name.strip()]
    if not names:
        _named(path, [], TRUTH_COLUMNS[:2])
    return truth
