"""BirdCLEF 2014-2017: one WAV and one XML file per recording.

Layout under the root: ``TrainingSet/{wav,xml}`` and ``test/{wav,xml}``, as in the 2016 release also
``test/{wav2015,xml2015}``; a ground truth for the test may lie beside them as ``test_groundtruth.csv``.
Task and metadata: Goeau et al., LifeCLEF Bird Identification Task 2016, CEUR Vol-1609.
"""

import re
import stat
import xml.parsers.expat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xmltodict

from config import PipelineError
from preprocess import audio, download
from preprocess.metadata import Names, clean_date, clean_number, clean_time, complete, known, observation
from preprocess.recordings import Recording, Reject, Species, shown
from preprocess.sources import Corpus, expanded

ARCHIVES = ("BirdCLEF2016TrainingSet.tar.gz", "BirdCLEF2016TestSet.tar.gz")
MAX_XML_BYTES = 64 * 1024  # real files have 1-3 KB
_PARTS = (
    ("train", "TrainingSet", ("wav",), ("xml",)),
    ("test", "test", ("wav", "wav2015"), ("xml", "xml2015")),
)


@dataclass(frozen=True)
class Source:
    """A BirdCLEF release: a folder that is already there, or the two archives of 2016 to download."""

    root: str = ""  # folder with TrainingSet/ and test/; empty: download the archives
    url: str = "http://otmedia.lirmm.fr/LifeCLEF/BirdCLEF2016/"  # where the archives are
    keep_archives: bool = False  # after unpacking

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root after checking its layout; downloads about 50 GB if no root is given.

        Raises:
            PipelineError: naming the folders that are missing.
        """
        if not self.root:
            download.fetch_archives([self.url.rstrip("/") + "/" + name for name in ARCHIVES], raw, self.keep_archives)
        root = expanded(self.root).resolve() if self.root else raw
        check_layout(root)
        return root

    def read(self, root: Path) -> Corpus:
        """Return the recordings of a release."""
        return read_release(root)


def check_layout(root: Path) -> None:
    """Raise a PipelineError that names the folders of the layout that root lacks."""
    if not root.is_dir():
        raise PipelineError(f"data.root is no folder: {root}")
    missing = [
        f"{folder}/{' or '.join(names)}"
        for part, folder, wavs, xmls in _PARTS
        for names in (wavs, xmls)
        if not any((root / folder / name).is_dir() for name in names) and (part == "train" or (root / folder).is_dir())
    ]
    if missing:
        raise PipelineError(f"{root} is no BirdCLEF release. Missing: {', '.join(missing)}.")


def read_release(root: Path) -> Corpus:
    """Read all XML files of a release, pair them with their audio, and find what does not fit."""
    recordings, taxa, rejects = [], {}, []
    for part, folder, wavs, xmls in _PARTS:
        found: dict[str, Path] = {}  # by name, in lower case
        for wav in wavs:
            for path in _listing(root / folder / wav):
                if audio.is_audio(path) and found.setdefault(path.name.casefold(), path) is not path:
                    file = path.relative_to(root).as_posix()
                    rejects.append(Reject(shown(file), "fetch", "duplicate_name", "another file has this name"))
        stems = {path.stem.casefold(): name for name, path in reversed(found.items())}
        used = set()
        for name in xmls:
            for path in _listing(root / folder / name):
                if path.suffix.lower() != ".xml":
                    continue
                file = path.relative_to(root).as_posix()
                try:
                    tags = read_xml(path)
                    recording, sound = _to_recording(tags, path, found, stems, part, root)
                except audio.AudioError as error:
                    rejects.append(Reject(shown(file), "fetch", error.reason, error.detail))
                    used.add(stems.get(path.stem.casefold()))
                    continue
                used.add(sound)
                recordings.append(recording)
                if recording.class_id:
                    complete(taxa, _species(recording, tags))
        for name, path in found.items():
            if name not in used:
                file = shown(path.relative_to(root).as_posix())
                rejects.append(Reject(file, "fetch", "no_metadata", "WAV without XML"))
    names = Names(taxa.values())
    recordings = [
        replace(row, background=names.background(row.background.split(","), row.class_id)) for row in recordings
    ]
    truth = root / "test_groundtruth.csv"
    return Corpus(
        recordings,
        sorted(taxa.values(), key=lambda s: s.class_id),
        rejects,
        truth if truth.is_file() else None,
    )


def read_xml(path: Path) -> dict[str, str]:
    """Return the tags of one ``<Audio>`` document as text; missing and empty tags are empty.

    Raises:
        AudioError: reason unreadable, xml_too_large, xml_malformed or xml_entities.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # such as a pipe, which might never end
            raise audio.AudioError("unreadable", "no ordinary file")
        with path.open("rb") as stream:
            content = stream.read(MAX_XML_BYTES + 1)
        if len(content) > MAX_XML_BYTES:
            raise audio.AudioError("xml_too_large", f"more than {MAX_XML_BYTES} bytes")
        document = xmltodict.parse(content)
    except xml.parsers.expat.ExpatError as error:
        raise audio.AudioError("xml_malformed", str(error)) from None
    except OSError as error:  # a dangling link
        raise audio.AudioError("unreadable", str(error.strerror)) from None
    except (ValueError, RecursionError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise audio.AudioError("xml_entities" if "entities" in str(error) else "xml_malformed", str(error)) from None
    tags = document.get("Audio")
    if not isinstance(tags, dict):
        raise audio.AudioError("xml_malformed", "the root is not <Audio> with tags inside")
    return {name: _text(value) for name, value in tags.items()}


def _text(value: Any) -> str:
    """Return the text of a tag that may be empty, repeated or carry attributes."""
    if isinstance(value, list):
        value = next((item for item in value if item), None)
    if isinstance(value, dict):
        value = value.get("#text")
    return " ".join(value.split()) if isinstance(value, str) else ""


def _listing(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _to_recording(
    tags: dict[str, str], path: Path, found: dict[str, Path], stems: dict[str, str], part: str, root: Path
) -> tuple[Recording, str]:
    """Return the row of one XML file and the key of its audio in found."""
    name = tags.get("FileName") or path.stem
    if "/" in name or "\\" in name or name.startswith(("-", ".")) or not name.isprintable():
        raise audio.AudioError("bad_filename", ascii(name[:200]))
    stem = (name.rpartition(".")[0] if audio.is_audio(Path(name)) else name).casefold()
    sound = name.casefold() if name.casefold() in found else stems.get(stem)
    if sound is None:
        raise audio.AudioError("no_audio", f"{name} is not there")
    media_id = tags.get("MediaId", "")
    if not re.fullmatch(r"[\w.-]{1,64}", media_id):
        raise audio.AudioError("bad_media_id", media_id[:200] or "no MediaId")
    class_id = tags.get("ClassId", "") if part == "train" else ""
    if part == "train" and not re.fullmatch(r"[\w-]{1,64}", class_id):
        raise audio.AudioError("bad_class_id", class_id[:200] or "no ClassId")
    date = clean_date(tags.get("Date", ""))
    recordist = tags.get("AuthorID") or tags.get("Author", "")
    recording = Recording(
        media_id=media_id,
        file=found[sound].relative_to(root).as_posix(),
        class_id=class_id,
        background=tags.get("BackgroundSpecies", "") if part == "train" else "",
        group=observation(class_id, recordist, date, media_id),
        part=part,
        scientific_name=f"{tags.get('Genus', '')} {tags.get('Species', '')}".strip(),
        vernacular_name=tags.get("VernacularNames", ""),
        date=date,
        time=clean_time(tags.get("Time", "")),
        latitude=clean_number(tags.get("Latitude", ""), 90),
        longitude=clean_number(tags.get("Longitude", ""), 180),
        elevation=clean_number(tags.get("Elevation", ""), 9000),
        locality=known(tags.get("Locality", "")),
        author=known(tags.get("Author", "")),
        content=known(tags.get("Content", "")),
        quality=clean_number(tags.get("Quality", ""), 5),
        licence=tags.get("Licence", tags.get("License", "")),
    )
    return recording, sound


def _species(recording: Recording, tags: dict[str, str]) -> Species:
    return Species(
        recording.class_id,
        recording.scientific_name,
        recording.vernacular_name,
        tags.get("Order", ""),
        tags.get("Family", ""),
    )
