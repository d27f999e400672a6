"""A loaded run that listens to single sounds: each is decoded, scored as `predict.sh` would, and forgotten."""

import base64
import csv
import dataclasses
import io
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import wavfile

from config import VERSION, PipelineError
from predict.detections import Result, conclude
from predict.drawing import draw_sound
from predict.formats import Facts
from predict.formats.tables import as_json
from predict.scores import judge, load_run
from predict.thresholds import ENOUGH, read_thresholds
from preprocess.recipes import describe, folder_name, open_recipe
from preprocess.recordings import Recording, Species
from preprocess.resample import SCRIPT, wav_name
from preprocess.segments import list_segments, open_view
from preprocess.shards import open_shard, write_shard
from train.run import Run

DECODE_SECONDS = 30.0  # after which ffmpeg or sox is stopped
BATCH = 4  # segments; small, as a batch is filled up and most sounds are short
MOST_COLUMNS = 2400  # of a picture
MOST_RATE = 192_000  # Hz, of two channels; more channels of less are as good
MARGIN_BYTES = 1 << 20  # of a file or disk that counts as full
FULL_SCALE = 32768
BYTES_AT_ONCE = 1 << 28  # ffmpeg allocates no more in one piece
# The containers that ffmpeg may open: none that names other files, as playlists do.
FORMATS = (
    "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,ac3,amr,asf,ape,wv,tta,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts"
)
NAMES_BYTES = 1 << 24
NO_ROOM = "There is no room for the sound now. Try again in a moment."


class SoundError(PipelineError):
    """A sound that cannot be listened to; `reason` is empty, not_audio, too_large, too_long or busy."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a sound may be."""

    bytes: int = 30_000_000
    seconds: float = 120.0


def decode(sound: bytes, folder: Path, rate: int, limits: Limits) -> Path:
    """Turn a sound of any format into the 16-bit mono WAV that stage 2 would make of it, and return its path.

    Args:
        sound: the file; ffmpeg opens it, sox resamples it.
        folder: empty; takes the files.
        rate: in Hz.
        limits: of the length.

    Raises:
        SoundError: if it is empty, no sound, or longer than allowed.
    """
    if not sound:
        raise SoundError("empty", "The file is empty.")
    most = int((limits.seconds + 1) * MOST_RATE * 2 * 4)  # bytes of two channels in float32
    given, opened, folder_in, folder_out = folder / "given", folder / "in" / "sound.wav", folder / "in", folder / "out"
    given.write_bytes(sound)
    folder_in.mkdir()
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FORMATS]
    command += ["-max_alloc", str(BYTES_AT_ONCE), "-i", str(given), "-map", "0:a:0", "-t", f"{limits.seconds + 1:g}"]
    command += ["-fs", str(most), "-bitexact", "-c:a", "pcm_f32le", "-f", "wav", str(opened)]
    status = _run("ffmpeg", command)
    _check_room(folder)
    if status or not opened.exists():
        raise SoundError("not_audio", "This is no sound that ffmpeg can read.")
    if opened.stat().st_size > most - MARGIN_BYTES:
        raise SoundError("too_large", f"The sound has more channels, or more than {MOST_RATE:,} samples a second.")
    command = [str(SCRIPT), "--rate", str(rate), "--jobs", "1", "--files-from", "-", "--"]
    _run("sox", [*command, str(folder_in), str(folder_out)], f"{opened.name}\n")
    _check_room(folder)
    wav = folder_out / wav_name(opened.name)
    if not wav.exists():
        raise SoundError("empty", "The file holds no sound.")
    return wav


def _run(program: str, command: list[str], names: str = "") -> int:
    """Run a command that starts a program and return its status; all that it started ends in time.

    Raises:
        SoundError: if it takes too long.
        PipelineError: if it is missing.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise PipelineError(f"{program} is missing. Install it: apt-get install {program}") from None
    try:
        process.communicate(names.encode(), DECODE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise SoundError("not_audio", f"The sound took more than {DECODE_SECONDS:g} s to decode.") from None
    return process.returncode


def _check_room(folder: Path) -> None:
    """Tell a full disk from a bad sound."""
    if shutil.disk_usage(folder).free < MARGIN_BYTES:
        raise SoundError("busy", NO_ROOM)


def read_names(path: Path, species: list[Species]) -> list[dict[str, str]]:
    """Return the names of species in several languages, by language code.

    Args:
        path: CSV with a column class_id or scientific_name, and one per language, such as de or pt-BR.
        species: in the order of the outputs.

    Raises:
        PipelineError: if the table cannot be used, or names none of the species.
    """
    try:
        if path.stat().st_size > NAMES_BYTES:
            raise PipelineError(f"{path} is larger than {NAMES_BYTES:,} bytes: it cannot be a table of names.")
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from None
    columns = [name for name in (rows[0] if rows else {}) if name]
    key = next((name for name in ("class_id", "scientific_name") if name in columns), None)
    languages = [name for name in columns if name not in ("class_id", "scientific_name")]
    if not key or not languages:
        raise PipelineError(
            f"{path} needs a column class_id or scientific_name, and one per language (de, fr); it has: "
            f"{repr(', '.join(columns)[:120]) if columns else 'no row'}."
        )
    by_key = {row[key]: {code: row[code].strip() for code in languages if (row[code] or "").strip()} for row in rows}
    found = [by_key.get(getattr(kind, key), {}) for kind in species]
    if not any(found):
        raise PipelineError(f"{path} names none of the species of the run by {key}.")
    return found


class Listener:
    """A run whose network is loaded once; sounds may be given from several threads."""

    def __init__(self, target: Run, limits: Limits | None = None, names: Path | None = None) -> None:
        """Load the run and score silence, so that the first visitor need not wait.

        Args:
            target: the run.
            limits: of a sound.
            names: see `read_names`.

        Raises:
            PipelineError: if the run or the names cannot be used.
        """
        self.limits = limits or Limits()
        self.config, self.model, self.loss = load_run(target)
        self.recipe = open_recipe(self.config.features)
        self.species = target.read_species()
        self.names = read_names(names, self.species) if names else [{} for _ in self.species]
        known, settings = read_thresholds(target), self.config.predict
        calibrated = known and known.judged >= ENOUGH
        self.facts = Facts(
            self.species,
            model=target.folder.name,
            recipe=folder_name(self.recipe, self.config.features.recipe),
            options=describe(self.recipe, self.config.features.recipe),
            version=VERSION,
            settings=settings,
            minimum=known.minimum if known else np.full(len(self.species), settings.minimum),
            highest=self.recipe.sample_rate / 2,
            probability=(lambda score: float(known.probability(np.float64(score)))) if calibrated else None,
        )
        self.batch = min(BATCH, settings.batch_size)
        self.network = threading.Lock()  # one sound at a time: it uses all cores
        shape, dtype = self.model.input_shape[1:], self.model.input.dtype
        self.model.predict_on_batch(np.zeros((self.batch, *shape), dtype))

    def listen(self, sound: bytes) -> dict[str, Any]:
        """Return what `as_json` says of a sound, with a picture of it; nothing of it is kept.

        Raises:
            SoundError: if it cannot be listened to.
        """
        with tempfile.TemporaryDirectory(prefix="birdsong-") as home:
            wav = decode(sound, Path(home), self.recipe.sample_rate, self.limits)
            rate, samples = wavfile.read(wav)
            if len(samples) > self.limits.seconds * rate:
                raise SoundError("too_long", f"The sound is longer than {self.limits.seconds:g} s.")
            answer = as_json(self._score(wav, len(samples) / rate), self.facts)
        del answer["file"]
        return answer | {"picture": _picture_url(samples, rate), "highest": rate / 2}

    def _score(self, wav: Path, seconds: float) -> Result:
        """Score a WAV as stages 3 and 5 would."""
        from train.scoring import segment_logits

        row = Recording("sound", wav.name, part="test", duration=seconds, sample_rate=self.recipe.sample_rate)
        path = wav.parent / "test-00000-of-00001.h5"
        rejects = write_shard(path, self.recipe, self.facts.options, wav.parent, [(row, wav.name)], "")
        if rejects:
            raise SoundError("empty", f"The sound is too short ({rejects[0].detail}).")
        reader = open_view([open_shard(path)], self.config.features)
        owners, starts = list_segments(reader, [0], self.facts.settings.hop)
        with self.network:
            logits = segment_logits(self.model, reader, owners, starts, self.batch)
        times = reader.shards[0].times(0, reader.spans(0, starts))
        return conclude(row, wav, times, *judge(self.loss, logits), self.facts.minimum, self.facts.settings)


def _picture_url(samples: np.ndarray, rate: int) -> str:
    """Return the spectrogram of int16 samples as a PNG in a data address; empty for sounds shorter than a window."""
    try:
        levels = draw_sound(samples.astype(np.float32) / FULL_SCALE, rate, MOST_COLUMNS)
    except ValueError:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
