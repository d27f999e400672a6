"""The built-in corpus: a synthetic dawn chorus in the exact layout of a BirdCLEF 2016 release.

Every species is a small generative grammar: three syllables (sweeps, arches, trills, warbles, harmonic stacks,
buzzes) and the orders in which it sings them. Species come in groups of four that share pitches and extents, and
so their frequency range and most of their average spectrum; they differ in the shapes of two of their three
syllables, tempo and order. Every recordist hears other individuals (pitch, tempo) through another microphone.
Scenes add distance, reverberation, other species, wind, insects and hiss; some clips are too short and some are
silent.

Everything follows from the seed: a recording is a function of (seed, part, number) alone.
"""

import csv
import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.signal
import soundfile
import xmltodict
from joblib import Parallel, delayed

from config import Between, Count, Positive, Share
from config.commandline import progress
from preprocess import audio
from preprocess.sources import Corpus
from preprocess.sources.birdclef import read_release
from preprocess.whole import whole_file

SAMPLE_RATE = 44_100
TEST_OFFSET = 500_000  # of the MediaIds of the test part
SPECIES_PER_GROUP = 4  # that share one frequency range
TOO_SHORT_SHARE = 0.02  # clips of 0.1 to 0.5 s
SILENT_SHARE = 0.01  # clips of zeros only
BACKGROUND_SHARE = 0.35  # recordings with one or two other species
SPECIES_PER_RECORDIST = 2.0  # recordings of a species that one recordist makes, on average
_PAIRS = ((0, 1), (2, 3), (4, 5), (1, 2))  # the two shapes of each member of a group
TEST_TAGS = tuple(
    "MediaId FileName Date Time Locality Latitude Longitude Elevation Author AuthorID Year Licence".split()  # noqa: SIM905
)
_SHAPES = ("up", "down", "arch", "valley", "trill", "warble")  # alike in their average spectrum
_SHARED = ("harmonic", "buzz")  # sung by a whole group


@dataclass(frozen=True)
class Syllable:
    """One sound of a species' repertoire."""

    kind: str
    pitch: float  # Hz, centre
    extent: float  # Hz, from lowest to highest
    duration: float  # s
    rate: float  # Hz, of trills, buzzes and warbles


@dataclass(frozen=True)
class Grammar:
    """How one species sings."""

    syllables: tuple[Syllable, ...]
    phrases: tuple[tuple[int, ...], ...]  # orders of syllables
    gap: float  # s between syllables
    repeats: tuple[int, int]  # of a phrase in one song
    pause: float  # s between songs


@dataclass(frozen=True)
class Source:
    """A synthetic corpus; its size is an option, so that it also serves for tests and scaling."""

    species: Annotated[int, Between(2, 5000)] = 12
    recordings: Positive = 300  # for training
    test_recordings: Positive = 96
    seconds: Annotated[float, Between(1, 3600)] = 9.0  # median length
    background: Share = BACKGROUND_SHARE
    seed: Count = 0

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Synthesise what is not there yet and return the root of the release."""
        plan = self
        if 0 < limit < self.recordings:
            kinds = max(2, min(self.species, limit // 4))
            counts = {"recordings": limit, "test_recordings": min(-(-limit // 3), self.test_recordings)}
            plan = Source(kinds, **counts, seconds=min(self.seconds, 6.0), background=self.background, seed=self.seed)
        plan_hash = hashlib.sha256(json.dumps(asdict(plan)).encode()).hexdigest()[:8]
        root = raw / f"dawnchorus-{plan_hash}"
        tasks = [("train", i) for i in range(plan.recordings)] + [("test", i) for i in range(plan.test_recordings)]
        for part in ("TrainingSet", "test"):
            for kind in ("wav", "xml"):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
        todo = [task for task in tasks if not _is_whole(*_paths(root, *task))]
        chunks = [todo[i : i + 8] for i in range(0, len(todo), 8)]
        if todo:
            work = Parallel(n_jobs=min(jobs, len(chunks)), return_as="generator_unordered")(
                delayed(_write_recordings)(plan, root, chunk) for chunk in chunks
            )
            for _ in progress(work, len(chunks), "x 8 recordings"):
                pass
        truth = root / "test_groundtruth.csv"
        if not truth.exists():
            _write_truth(plan, truth)
        return root

    def read(self, root: Path) -> Corpus:
        """Return the recordings of the synthetic release."""
        return read_release(root)


def grammar(seed: int, species: int) -> Grammar:
    """Return the grammar of one species, a function of the seed and its number."""
    group, member = divmod(species, SPECIES_PER_GROUP)
    shared = np.random.default_rng([seed, 1, group])
    own = np.random.default_rng([seed, 2, species])
    centre = shared.uniform(2300, 4600)
    shapes = shared.permutation(len(_SHAPES))
    call = str(shared.choice(_SHARED))
    pitches = centre * np.array([1.12, 0.9, shared.uniform(0.8, 1.2)])
    extents = shared.uniform(1400, 2200, 3)
    durations = shared.uniform(0.3, 0.5, 3)
    rates = shared.uniform(8, 20, 3)
    first, second = _PAIRS[member]
    kinds = (_SHAPES[shapes[first]], _SHAPES[shapes[second]], call)
    syllables = [Syllable(kinds[k], pitches[k], extents[k], durations[k], rates[k]) for k in range(3)]
    orders = [(0, 1, 2), (2, 0, 1), (0, 1, 1), (1, 0, 0), (0, 0, 1, 2), (1, 0)]
    chosen = own.permutation(len(orders))[:2]
    return Grammar(
        tuple(syllables),
        tuple(orders[i] for i in chosen),
        gap=float(own.uniform(0.04, 0.16)),
        repeats=(1, 3),
        pause=float(own.uniform(0.4, 1.2)),
    )


def class_id(species: int) -> str:
    """Return the six lower-case letters of a species number."""
    digest = hashlib.sha256(f"species {species}".encode()).digest()
    letters = "".join(chr(ord("a") + byte % 26) for byte in digest[:3])
    number = species
    for _ in range(3):
        letters += chr(ord("a") + number % 26)
        number //= 26
    return letters


def names(species: int) -> dict[str, str]:
    """Return the invented taxonomy of a species number."""
    group, member = divmod(species, SPECIES_PER_GROUP)
    parts = ["ba", "co", "di", "fe", "ga", "lu", "mi", "no", "pa", "ri", "sa", "tu", "va", "xe", "zo"]
    number = group * 1117 % 15**3  # 1117 and 15 have no common factor, so every group has its own
    genus = "".join(parts[number // 15**k % 15] for k in range(3)).capitalize()
    epithet = ("primus", "secundus", "tertius", "quartus")[member]
    return {
        "Order": "Passeriformes",
        "Family": f"{genus[:4]}idae",
        "Genus": genus,
        "Species": epithet,
        "VernacularNames": f"{('Red', 'Blue', 'Grey', 'Green')[member]} {genus}bird",
    }


def song(rules: Grammar, rng: np.random.Generator, pitch: float, tempo: float) -> np.ndarray:
    """Return one song of an individual as float64 samples at `SAMPLE_RATE`, peak about 1."""
    phrase = rules.phrases[rng.integers(len(rules.phrases))]
    pieces = []
    for _ in range(rng.integers(rules.repeats[0], rules.repeats[1] + 1)):
        for index in phrase:
            pieces.append(_syllable(rules.syllables[index], rng, pitch, tempo))
            pieces.append(np.zeros(int(rules.gap / tempo * rng.uniform(0.8, 1.25) * SAMPLE_RATE)))
    return np.concatenate(pieces)


def _syllable(syllable: Syllable, rng: np.random.Generator, pitch: float, tempo: float) -> np.ndarray:
    count = max(64, int(syllable.duration / tempo * rng.uniform(0.9, 1.1) * SAMPLE_RATE))
    t = np.linspace(0, 1, count, endpoint=False)
    seconds = count / SAMPLE_RATE
    rate = syllable.rate * tempo
    shape = {
        "up": t - 0.5,
        "down": 0.5 - t,
        "arch": np.sin(np.pi * t) - 0.5,
        "valley": 0.5 - np.sin(np.pi * t),
        "trill": 0.5 * scipy.signal.sawtooth(2 * np.pi * rate * seconds * t),
        "warble": 0.5 * np.sin(2 * np.pi * 0.35 * rate * seconds * t),
    }.get(syllable.kind, np.full(count, 0.1) * (t - 0.5))
    frequency = pitch * syllable.pitch + syllable.extent * shape
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    wave = np.sin(phase)
    if syllable.kind == "harmonic":
        wave = 0.6 * wave + 0.3 * np.sin(phase * 0.5) + 0.3 * np.sin(phase * 1.5)
    elif syllable.kind == "buzz":
        wave *= 0.5 + 0.5 * scipy.signal.square(2 * np.pi * rate * seconds * t)
    else:
        wave += 0.08 * np.sin(2 * phase)
    envelope = np.minimum(1, np.minimum(t, 1 - t) * 8) * rng.uniform(0.7, 1.0)
    return wave * envelope


@dataclass(frozen=True)
class Cast:
    """Who sings in one recording, for how long, and who recorded it."""

    species: int
    background: tuple[int, ...]
    recordist: int
    seconds: float
    silent: bool


def cast(plan: Source, part: str, number: int) -> Cast:
    """Draw the cast of one recording, a function of (seed, part, number)."""
    rng = np.random.default_rng([plan.seed, 4, part == "test", number])
    species = number % plan.species if number < 2 * plan.species else int(plan.species * rng.beta(1.0, 1.4))
    crew = max(2, int(plan.recordings / plan.species / SPECIES_PER_RECORDIST))
    recordist = int(rng.integers(crew)) + (0 if part == "train" else 1_000_000)  # nobody records for both parts
    seconds = float(np.clip(plan.seconds * np.exp(0.45 * rng.standard_normal()), 1.5, 6 * plan.seconds))
    guests = [int(s) for s in rng.permutation(plan.species)[:3] if s != species][: int(rng.integers(1, 3))]
    background = tuple(guests) if rng.random() < plan.background else ()
    oddity = rng.random()
    if oddity < TOO_SHORT_SHARE:
        seconds = float(rng.uniform(0.1, 0.5))
    silent = TOO_SHORT_SHARE <= oddity < TOO_SHORT_SHARE + SILENT_SHARE
    return Cast(species, () if silent else background, recordist, seconds, silent)


def render(plan: Source, part: str, number: int) -> tuple[np.ndarray, dict[str, str]]:
    """Synthesise one recording.

    Returns:
        int16 samples at `SAMPLE_RATE`, and the metadata as in the XML of the task.
    """
    who = cast(plan, part, number)
    rng = np.random.default_rng([plan.seed, 7, part == "test", number])
    microphone = np.random.default_rng([plan.seed, 6, who.recordist])
    count = int(who.seconds * SAMPLE_RATE)

    def individual(species: int, nearest: float, farthest: float) -> np.ndarray:
        voice = np.random.default_rng([plan.seed, 5, who.recordist, species])
        return _sing(grammar(plan.seed, species), rng, voice, count, float(rng.uniform(nearest, farthest)))

    scene = individual(who.species, 5, 60)
    for guest in who.background:
        scene += 10 ** (-rng.uniform(10, 20) / 20) * individual(guest, 40, 90)
    noise = _noise(rng, count)
    snr = rng.uniform(6, 28)  # dB, of the loudest song against the noise
    noise *= np.max(np.abs(scene), initial=1e-9) * 10 ** (-snr / 20) / max(float(np.std(noise)) * 3, 1e-9)
    wave = _tilt(scene + noise, float(microphone.uniform(-8, 8)))
    wave *= 10 ** (rng.uniform(-20, -2) / 20) / max(float(np.max(np.abs(wave), initial=0)), 1e-9)
    if who.silent:
        wave = np.zeros(count)
    taxonomy = names(who.species)
    day = date(2016, 4, 1) + timedelta(days=int(rng.integers(0, 75)))
    metadata = {
        "MediaId": str(number + (TEST_OFFSET if part == "test" else 1)),
        "FileName": "",
        "ClassId": class_id(who.species),
        "Date": day.isoformat(),
        "Time": f"{rng.integers(4, 8):02d}:{rng.integers(0, 60):02d}",
        "Locality": "Synthesis",
        "Latitude": f"{microphone.uniform(46, 48):.4f}",
        "Longitude": f"{microphone.uniform(17, 21):.4f}",
        "Elevation": str(int(microphone.integers(80, 900))),
        "Author": f"Recordist {who.recordist}",
        "AuthorID": f"R{who.recordist:07d}",
        "Content": "song",
        "Comments": "synthetic",
        "Quality": str(int(np.clip(6 - snr // 5, 1, 5))),
        "Year": "BirdCLEF2016",
        "BackgroundSpecies": ",".join(" ".join((names(s)["Genus"], names(s)["Species"])) for s in who.background),
        "Order": taxonomy["Order"],
        "Family": taxonomy["Family"],
        "Genus": taxonomy["Genus"],
        "Species": taxonomy["Species"],
        "Sub-species": "",
        "VernacularNames": taxonomy["VernacularNames"],
        "Licence": "CC0",
    }
    metadata["FileName"] = f"LIFECLEF2016_DAWNCHORUS_RN{metadata['MediaId']}.wav"
    if part == "test":  # as in the task: everything that would give the species away is removed
        metadata = {name: metadata[name] for name in TEST_TAGS}
    return np.round(wave * 32767).astype(np.int16), metadata


def _sing(
    rules: Grammar, rng: np.random.Generator, voice: np.random.Generator, count: int, distance: float
) -> np.ndarray:
    """Return count samples with songs of one individual, heard from a distance in metres."""
    pitch = float(np.exp(0.08 * voice.standard_normal()))
    tempo = float(np.exp(0.1 * voice.standard_normal()))
    dry = np.zeros(count)
    position = int(rng.uniform(0, min(1.0, 0.3 * count / SAMPLE_RATE)) * SAMPLE_RATE)
    while position < count:
        piece = song(rules, rng, pitch, tempo)[: count - position]
        dry[position : position + len(piece)] += piece * rng.uniform(0.5, 1.0)
        position += len(piece) + int(rules.pause * rng.uniform(0.6, 1.6) * SAMPLE_RATE)
    # The forest: a decaying diffuse tail, stronger from afar; air absorbs high frequencies.
    tail_count = int(0.35 * SAMPLE_RATE)
    t = np.arange(tail_count) / SAMPLE_RATE
    tail = rng.standard_normal(tail_count) * np.exp(-t / 0.08) * 0.0015 * distance / 10
    tail[0] = 1.0
    wet = scipy.signal.oaconvolve(dry, tail)[:count]
    cutoff = float(np.clip(16000 - 110 * distance, 3500, 16000))
    return scipy.signal.sosfilt(scipy.signal.butter(1, cutoff, fs=SAMPLE_RATE, output="sos"), wet)


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return hiss, wind in gusts and now and then an insect."""
    t = np.arange(count) / SAMPLE_RATE
    white = rng.standard_normal(count)
    pink = scipy.signal.lfilter([0.05], [1, -0.95], white)
    gusts = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * t + rng.uniform(0, 6))
    wind = scipy.signal.sosfilt(scipy.signal.butter(2, 250, fs=SAMPLE_RATE, output="sos"), white) * gusts
    noise = 0.3 * white + rng.uniform(0.5, 3) * pink + rng.uniform(0, 8) * wind
    if rng.random() < 0.4:
        carrier = np.sin(2 * np.pi * rng.uniform(4200, 7500) * t + 3 * np.sin(2 * np.pi * 40 * t))
        noise += rng.uniform(0.2, 1.0) * carrier * (np.sin(2 * np.pi * rng.uniform(3, 30) * t) > rng.uniform(-0.8, 0.5))
    return noise


def _tilt(wave: np.ndarray, decibels: float) -> np.ndarray:
    """Tilt the spectrum by so many dB between the lowest and the highest frequency: another microphone."""
    weight = (10 ** (decibels / 20) - 1) / (10 ** (decibels / 20) + 1)
    return scipy.signal.lfilter([1, -0.5 * weight], [1], wave)


def _paths(root: Path, part: str, number: int) -> tuple[Path, Path]:
    media_id = number + (TEST_OFFSET if part == "test" else 1)
    folder = root / ("TrainingSet" if part == "train" else "test")
    stem = f"LIFECLEF2016_DAWNCHORUS_RN{media_id}"
    return folder / "wav" / f"{stem}.wav", folder / "xml" / f"{stem}.xml"


def _is_whole(wav: Path, xml: Path) -> bool:
    """Tell whether a recording is there, and nothing of it was cut off."""
    try:
        audio.probe(wav)
        return xml.exists()
    except (OSError, audio.AudioError):
        return False


def _write_recordings(plan: Source, root: Path, tasks: list[tuple[str, int]]) -> None:
    for part, number in tasks:
        samples, metadata = render(plan, part, number)
        wav, xml = _paths(root, part, number)
        with whole_file(wav) as partial:
            soundfile.write(str(partial), samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        with whole_file(xml) as partial:  # last: the XML marks the recording as done
            partial.write_text(xmltodict.unparse({"Audio": metadata}, pretty=True), encoding="utf-8")


def _write_truth(plan: Source, truth: Path) -> None:
    with whole_file(truth) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["MediaId", "ClassId", "BackgroundClassIds"])
        for number in range(plan.test_recordings):
            who = cast(plan, "test", number)
            background = ",".join(sorted(class_id(species) for species in who.background))
            writer.writerow([number + TEST_OFFSET, class_id(who.species), background])
