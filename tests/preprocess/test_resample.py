"""Stage 2, the script: what it makes of a folder, how it stops and how it goes on."""

import csv
import os
import shutil
import stat
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from config import PipelineError
from preprocess.fetchData import fetch
from preprocess.recordings import Reject, read_table
from preprocess.resample import resample, wav_folder, wav_name
from tests.conftest import PROJECT, small_config, three_species, write_release
from tests.preprocess import naive
from tests.preprocess.disk import mounted, small_disk

SCRIPT = PROJECT / "preprocess" / "sample_wavs_to_16k.sh"


def run(*arguments: object, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | (env or {}),
        timeout=120,
    )


def sox(source: Path, destination: Path, *options: str, rate: int = 16_000) -> bytes:
    command = ["sox", "-R", source, *(options or ("-b", "16")), "-c", "1", "-r", str(rate), destination]
    subprocess.run(command, check=True, capture_output=True)
    return destination.read_bytes()


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return red noise with silent gaps, well below full scale, float64 [samples, channels]."""
    rng = np.random.default_rng(seed)
    samples = np.cumsum(rng.standard_normal((round(seconds * rate), channels)), axis=0)
    samples -= np.linspace(samples[0], samples[-1], len(samples))
    return 0.5 * samples / np.abs(samples).max()


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["stage"] == "resample" for row in rows)
    return {row["file"]: row["reason"] for row in rows}


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


FILES = {  # name: (rate, channels, seconds, subtype)
    "plain.wav": (44_100, 1, 1.3, "PCM_16"),
    "stereo.wav": (44_100, 2, 1.0, "PCM_16"),
    "low rate.wav": (8000, 1, 1.1, "PCM_16"),
    "high rate.wav": (192_000, 1, 0.7, "PCM_16"),
    "already.wav": (16_000, 1, 0.9, "PCM_16"),
    "eight.wav": (44_100, 1, 0.5, "PCM_U8"),
    "deep.wav": (48_000, 2, 0.5, "PCM_24"),
    "float.wav": (48_000, 1, 0.5, "FLOAT"),
    "odd.wav": (22_050, 1, 0.7777, "PCM_16"),
    "LOUD NAME.WAV": (44_100, 1, 0.4, "PCM_16"),
    "a.flac": (44_100, 1, 0.8, "PCM_16"),
    "a.mp3": (44_100, 1, 1.0, "MPEG_LAYER_III"),
    "a.ogg": (44_100, 1, 0.8, "VORBIS"),
    "it's.wav": (44_100, 1, 0.3, "PCM_16"),
    'say "hi".wav': (44_100, 1, 0.3, "PCM_16"),
    "$HOME `date` $(date).wav": (44_100, 1, 0.3, "PCM_16"),
    "-n.wav": (44_100, 1, 0.3, "PCM_16"),
    "Ö\U0001f426 пение.wav": (44_100, 1, 0.3, "PCM_16"),
    "back\\slash; & | <x>.wav": (44_100, 1, 0.3, "PCM_16"),
    "-sub dir/in 'it'/-x.wav": (44_100, 1, 0.3, "PCM_16"),
}


def write_files(folder: Path) -> Path:
    for seed, (name, (rate, channels, seconds, subtype)) in enumerate(FILES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(seconds, rate, channels, seed), rate, subtype=subtype)
    (folder / "notes.txt").write_text("no audio")
    (folder / ".hidden.wav").write_bytes((folder / "plain.wav").read_bytes())
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess]:
    """Input, output and what the script said, for all files of FILES."""
    home = tmp_path_factory.mktemp("resample home")
    folder = write_files(home / "in put")
    return folder, home / "wav_16khz", run(folder, "--jobs", 2)


class TestOutput:
    def test_every_file_is_there_and_nothing_else(self, made):
        _, out, done = made
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert f"{len(FILES)} files resampled to 16000 Hz, 0 kept, 0 rejected" in done.stdout
        expected = {wav_name(name) for name in FILES}
        assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
            *expected,
            "rejected.csv",
        }
        assert rejected(out) == {}
        assert (wav_name("a.mp3"), wav_name("b.WAV")) == ("a.mp3.wav", "b.WAV")

    @pytest.mark.parametrize("name", FILES)
    def test_16_khz_16_bit_mono_of_the_same_length(self, made, name):
        _, out, _ = made
        rate, _, seconds, subtype = FILES[name]
        info = soundfile.info(out / wav_name(name))
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "WAV")
        samples = round(seconds * rate)
        expected = round(samples * 16_000 / rate)
        if subtype == "MPEG_LAYER_III":  # padded by up to two frames of 1,152 samples and the decoder's delay
            assert expected <= info.frames <= expected + round(4 * 1152 * 16_000 / rate)
        else:
            assert abs(info.frames - expected) <= 1
        assert naive.read_wav(out / wav_name(name)).std() > 100

    @pytest.mark.parametrize("name", [name for name in FILES if name not in ("already.wav",)])
    def test_bytes_are_those_of_sox(self, made, tmp_path, name):
        folder, out, _ = made
        shutil.copy(folder / name, tmp_path / f"plain{Path(name).suffix.lower()}")
        expected = sox(tmp_path / f"plain{Path(name).suffix.lower()}", tmp_path / "out.wav")
        assert (out / wav_name(name)).read_bytes() == expected

    def test_what_is_16_khz_already_keeps_its_samples(self, made):
        folder, out, _ = made
        np.testing.assert_array_equal(naive.read_wav(out / "already.wav"), naive.read_wav(folder / "already.wav"))

    def test_stereo_becomes_the_mean_of_its_channels(self, made, tmp_path):
        folder, out, _ = made
        samples, rate = soundfile.read(folder / "stereo.wav")
        soundfile.write(tmp_path / "mono.wav", samples.mean(axis=1), rate, subtype="FLOAT")
        sox(tmp_path / "mono.wav", tmp_path / "out.wav")
        difference = naive.read_wav(out / "stereo.wav").astype(int) - naive.read_wav(tmp_path / "out.wav")
        assert np.abs(difference).max() <= 4  # dither

    def test_number_of_jobs_changes_no_byte(self, made, tmp_path):
        folder, out, _ = made
        assert run(folder, tmp_path / "one", "--jobs", 1).returncode == 0
        assert outputs(tmp_path / "one") == outputs(out)
        assert (tmp_path / "one/rejected.csv").read_bytes() == (out / "rejected.csv").read_bytes()

    def test_wildcards_in_the_name_of_an_output_are_taken_literally(self, tmp_path):
        """The name is a pattern that matches what an interrupted run has left."""
        (tmp_path / "in").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/a 1.wav.part").touch()
        samples = noise(0.2, 16_000)
        soundfile.write(tmp_path / "in/a [1].wav", samples, 16_000, subtype="PCM_16")
        assert run(tmp_path / "in", tmp_path / "out").returncode == 0
        found, expected = (naive.read_wav(tmp_path / name / "a [1].wav") for name in ("out", "in"))
        np.testing.assert_array_equal(found, expected)

    def test_names_with_wildcards_are_taken_literally(self, tmp_path):
        """Each is a pattern that matches the file before it."""
        folder = tmp_path / "in"
        folder.mkdir()
        names = ["a 1.wav", "a [1].wav", "b1.wav", "b*.wav", "c1.wav", "c?.wav", "d1.wav", "d{1,1}.wav"]
        for seed, name in enumerate(names):
            soundfile.write(folder / name, noise(0.2 + 0.1 * seed, 16_000, seed=seed), 16_000, subtype="PCM_16")
        assert run(folder, tmp_path / "out").returncode == 0
        for name in names:
            np.testing.assert_array_equal(naive.read_wav(tmp_path / "out" / name), naive.read_wav(folder / name))


class TestLoudSignals:
    @staticmethod
    def pinned(samples: np.ndarray) -> int:
        """Return how many samples lie at full scale."""
        return np.count_nonzero(np.abs(samples.astype(int)) >= 32_767)

    def test_full_scale_square_wave_is_attenuated_and_not_clipped(self, tmp_path):
        rate = 44_100
        square = np.sign(np.sin(2 * np.pi * 441 * np.arange(rate // 2) / rate + 0.1)) * 0.9999
        folder = tmp_path / "in"
        folder.mkdir()
        soundfile.write(folder / "square.wav", square, rate, subtype="PCM_16")
        soundfile.write(folder / "calm.wav", square / 4, rate, subtype="PCM_16")
        assert run(folder, tmp_path / "out").returncode == 0
        found = naive.read_wav(tmp_path / "out/square.wav").astype(float)
        sox(folder / "square.wav", tmp_path / "clipped.wav")
        assert self.pinned(naive.read_wav(tmp_path / "clipped.wav")) > 100
        assert self.pinned(found) <= 10  # sox -G leaves its peaks there
        assert self.pinned(np.minimum(np.abs(found[1:]), np.abs(found[:-1]))) == 0
        assert 30_000 < np.abs(found).max() <= 32_767
        exact = naive.read_wav(tmp_path / "out/calm.wav").astype(float) * 4  # the same wave with room to spare
        factor = (found @ exact) / (exact @ exact)
        assert 0.7 < factor < 0.99
        assert np.abs(found - factor * exact).max() < 12  # 4 x the rounding and dither of the calm one
        assert (tmp_path / "out/calm.wav").read_bytes() == sox(folder / "calm.wav", tmp_path / "calm.wav")


class TestResuming:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        folder = tmp_path / "in"
        folder.mkdir()
        for seed, name in enumerate("abc"):
            soundfile.write(folder / f"{name}.wav", noise(0.3, 44_100, seed=seed), 44_100)
        return folder

    def test_what_is_done_is_kept(self, folder, tmp_path):
        out = tmp_path / "out"
        assert "3 files resampled" in run(folder, out).stdout
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
        (out / "b.wav").unlink()
        assert "1 files resampled to 16000 Hz, 2 kept, 0 rejected" in run(folder, out).stdout
        after = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
        assert {path.name for path in after if after[path] != before[path]} == {"b.wav"}

    def test_newer_input_is_done_again(self, folder, tmp_path):
        out = tmp_path / "out"
        run(folder, out)
        before = (out / "c.wav").read_bytes()
        soundfile.write(folder / "c.wav", noise(0.4, 44_100, seed=9), 44_100)
        later = (out / "c.wav").stat().st_mtime + 5
        os.utime(folder / "c.wav", (later, later))
        assert "1 files resampled to 16000 Hz, 2 kept" in run(folder, out).stdout
        assert (out / "c.wav").read_bytes() != before

    def test_linked_files(self, folder, tmp_path):
        (folder / "b.wav").rename(tmp_path / "b.wav")
        (folder / "b.wav").symlink_to(tmp_path / "b.wav")
        (folder / "gone.wav").symlink_to(tmp_path / "gone.wav")
        assert "3 files resampled to 16000 Hz, 0 kept, 1 rejected" in run(folder, tmp_path / "out").stdout
        assert outputs(tmp_path / "out").keys() == {"a.wav", "b.wav", "c.wav"}
        assert rejected(tmp_path / "out") == {"gone.wav": "empty"}

    def test_a_recorder_whose_clock_is_ahead(self, folder, tmp_path):
        tomorrow = time.time() + 86_400
        os.utime(folder / "b.wav", (tomorrow, tomorrow))
        assert "3 files resampled" in run(folder, tmp_path / "out").stdout
        assert "0 files resampled to 16000 Hz, 3 kept" in run(folder, tmp_path / "out").stdout
        os.utime(folder / "b.wav", (tomorrow + 60, tomorrow + 60))
        assert "1 files resampled to 16000 Hz, 2 kept" in run(folder, tmp_path / "out").stdout

    def test_more_than_a_wav_can_hold(self, folder, tmp_path):
        """A sox whose output has 4 GB of nothing, which takes no room on the disk."""
        fake = tmp_path / "bin" / "sox"
        fake.parent.mkdir()
        fake.write_text(
            f'#!/bin/sh\n{shutil.which("sox")} "$@"\nstatus=$?\n'
            'case "$*" in */b.wav*) truncate -s 4294967400 /proc/self/fd/1 ;; esac\nexit $status\n'
        )
        fake.chmod(0o755)
        done = run(folder, tmp_path / "out", env={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
        assert done.returncode == 0, done.stderr
        assert rejected(tmp_path / "out") == {"b.wav": "too_long"}
        assert outputs(tmp_path / "out").keys() == {"a.wav", "c.wav"}

    @pytest.mark.parametrize("victim", ["$$", "$PPID"], ids=["sox", "its worker"])
    def test_killed_in_the_middle(self, folder, tmp_path, victim):
        """The first sox writes its output and is then killed, or the shell that started it."""
        fake = tmp_path / "bin" / "sox"
        fake.parent.mkdir()
        fake.write_text(
            f'#!/bin/sh\n{shutil.which("sox")} "$@"\nstatus=$?\n'
            f'if mkdir "{tmp_path}/first" 2>/dev/null; then kill -9 {victim}; sleep 0.3; fi\nexit $status\n'
        )
        fake.chmod(0o755)
        out = tmp_path / "out"
        path = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
        stopped = run(folder, out, "--jobs", 1, env=path)
        assert stopped.returncode != 0
        assert stopped.stderr.startswith("error: ")
        assert stopped.stderr.count("\n") == 1
        assert not (out / "a.wav").exists()
        done = run(folder, out, "--jobs", 1, env=path)
        assert done.returncode == 0, done.stderr
        assert run(folder, tmp_path / "undisturbed").returncode == 0
        assert outputs(out) == outputs(tmp_path / "undisturbed")
        assert {path.name for path in out.iterdir()} == {"a.wav", "b.wav", "c.wav", "rejected.csv"}

    def test_output_folder_inside_the_input_folder(self, folder):
        out = folder / "wav_16khz"
        for _ in range(2):
            assert run(folder, out).returncode == 0
        assert len(outputs(out)) == 3


@pytest.fixture(scope="module")
def three_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    (folder / "x").mkdir()
    for seed, name in enumerate(["a b.wav", "x/b.wav", "c.flac"]):
        soundfile.write(folder / name, noise(0.3, 44_100, seed=seed), 44_100, subtype="PCM_16")
    return folder


class TestOptions:
    def test_rate(self, three_files, tmp_path):
        assert run(three_files, tmp_path / "out", "--rate", 22_050).returncode == 0
        assert (tmp_path / "out/a b.wav").read_bytes() == sox(three_files / "a b.wav", tmp_path / "x.wav", rate=22_050)
        assert wav_folder(Path("x"), 22_050).name == "wav_22.05khz"
        assert wav_folder(Path("x"), 16_000).name == "wav_16khz"

    def test_another_rate_does_not_keep_what_is_there(self, three_files, tmp_path):
        assert run(three_files, tmp_path / "out", "--rate", 22_050).returncode == 0
        done = run(three_files, tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr == (
            f"error: {tmp_path / 'out'} holds recordings at 22050 Hz. "
            "For 16000 Hz choose another OUT_DIR, or remove that one.\n"
        )

    def test_the_default_output_folder_is_named_after_the_rate(self, three_files):
        assert run(three_files, "--rate", 22_050).returncode == 0
        assert (three_files.parent / "wav_22.05khz/a b.wav").exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
    def test_an_input_that_may_not_be_read_costs_nothing_else(self, three_files, tmp_path):
        (three_files / "a b.wav").chmod(0)
        assert run(three_files, tmp_path / "out").returncode == 0
        assert rejected(tmp_path / "out") == {"a b.wav": "unreadable"}

    def test_a_number_with_a_zero_before_it(self, three_files, tmp_path):
        assert run(three_files, tmp_path / "out", "--jobs", "08").returncode == 0

    def test_files_from(self, three_files, tmp_path):
        (tmp_path / "list").write_text("x/b.wav\nc.flac\n")
        assert run(three_files, tmp_path / "out", "--files-from", tmp_path / "list").returncode == 0
        assert set(outputs(tmp_path / "out")) == {"x/b.wav", "c.flac.wav"}
        assert run("--files-from", "-", three_files, tmp_path / "two", stdin="a b.wav\n\n").returncode == 0
        assert set(outputs(tmp_path / "two")) == {"a b.wav"}
        assert (tmp_path / "two/a b.wav").read_bytes() == sox(three_files / "a b.wav", tmp_path / "x.wav")

    def test_a_list_whose_last_line_has_no_end(self, three_files, tmp_path):
        (tmp_path / "list").write_text("x/b.wav\nc.flac")
        assert run(three_files, tmp_path / "out", "--files-from", tmp_path / "list").returncode == 0
        assert set(outputs(tmp_path / "out")) == {"x/b.wav", "c.flac.wav"}

    def test_listed_file_that_is_not_there_is_rejected(self, three_files, tmp_path):
        done = run("--files-from", "-", three_files, tmp_path / "out", stdin="a b.wav\nmissing.wav\n")
        assert done.returncode == 0
        assert rejected(tmp_path / "out") == {"missing.wav": "empty"}

    @pytest.mark.parametrize("name", ["../b.wav", "x/../../b.wav", "./../b.wav", "/b.wav", "x/.."])
    def test_a_listed_file_elsewhere_is_refused(self, three_files, tmp_path, name):
        done = run("--files-from", "-", three_files, tmp_path / "in/out", stdin=f"a b.wav\n{name}\n")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "lies outside of IN_DIR" in done.stderr
        assert not list(tmp_path.rglob("*.wav"))

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["--rate", "abc"], "--rate"),
            (["--rate", "0"], "--rate"),
            (["--jobs", "-1"], "--jobs"),
            (["--jobs", "9" * 20], "--jobs"),
            (["--jobs"], "--jobs needs a value"),
            (["--speed", "1"], "--speed"),
            (["--files-from", "/no/such/list"], "/no/such/list"),
        ],
    )
    def test_mistakes(self, three_files, tmp_path, arguments, word):
        done = run(three_files, tmp_path / "out", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert word in done.stderr
        assert not (tmp_path / "out").exists()

    def test_folders(self, three_files, tmp_path):
        assert "no folder" in run(tmp_path / "nowhere").stderr
        assert "same folder" in run(three_files, three_files).stderr
        assert "Usage" in run().stderr or "IN_DIR" in run().stderr
        assert run(three_files, tmp_path, tmp_path).returncode == 2
        done = run("--help")
        assert (done.returncode, "--files-from" in done.stdout, "16000" in done.stdout) == (0, True, True)
        assert "no_ffmpeg.\n" in done.stdout

    def test_folder_without_audio(self, tmp_path):
        (tmp_path / "in").mkdir()
        done = run(tmp_path / "in", tmp_path / "out")
        assert done.returncode == 1
        assert "could be used" in done.stderr

    def test_without_sox(self, three_files, tmp_path):
        for tool in ("bash", "env", "sed", "dirname", "getconf"):
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
        done = run(three_files, tmp_path / "out", env={"PATH": str(tmp_path / "bin")})
        assert done.returncode == 1
        assert done.stderr.startswith("error: sox is missing")
        assert "apt-get install sox" in done.stderr

    def test_read_only_output_folder(self, three_files, tmp_path):
        with mounted(tmp_path / "out", "ro") as out:
            done = run(three_files, out)
        assert done.returncode == 1
        assert done.stderr == f"error: cannot write to {out}\n"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_output_folder_without_permission(self, three_files, tmp_path):
        (tmp_path / "out").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        done = run(three_files, tmp_path / "out")
        assert (done.returncode, done.stderr) == (1, f"error: cannot write to {tmp_path / 'out'}\n")


@pytest.fixture(scope="module")
def with_bad_files(tmp_path_factory):
    home = tmp_path_factory.mktemp("bad")
    folder = home / "in"
    folder.mkdir()
    loud = noise(3.0, 44_100, seed=1)
    for name, subtype in (("good.wav", "PCM_16"), ("whole.flac", "PCM_16"), ("whole.mp3", "MPEG_LAYER_III")):
        soundfile.write(folder / name, loud, 44_100, subtype=subtype)
    shutil.copy(folder / "good.wav", folder / "good, too.wav")

    def cut(source: str, name: str, share: float) -> None:
        content = (folder / source).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    (folder / "empty.wav").touch()
    (folder / 'text, with "quotes".wav').write_text("this is not audio at all, just text " * 50)
    (folder / "text.mp3").write_text("this is not audio at all, just text " * 50)
    (folder / "header.wav").write_bytes((folder / "good.wav").read_bytes()[:20])
    soundfile.write(folder / "nothing.wav", np.zeros(0), 44_100)
    cut("good.wav", "cut.wav", 0.5)
    cut("good.wav", "nearly.wav", 0.999)
    cut("whole.flac", "cut.flac", 0.5)
    cut("whole.mp3", "cut.mp3", 0.5)
    cut("whole.mp3", "cut.MP3", 0.5)
    cut("whole.mp3", "cut mixed.Mp3", 0.5)
    return folder, home / "out", run(folder, home / "out", "--jobs", 2)


class TestRejects:
    def test_reasons(self, with_bad_files):
        _, out, done = with_bad_files
        assert done.returncode == 0, done.stderr
        assert rejected(out) == {
            "empty.wav": "empty",
            'text, with "quotes".wav': "unreadable",
            "text.mp3": "unreadable",
            "header.wav": "unreadable",
            "nothing.wav": "no_samples",
            "cut.wav": "truncated",
            "nearly.wav": "truncated",
            "cut.flac": "truncated",
            "cut.mp3": "truncated",
            "cut.MP3": "truncated",
            "cut mixed.Mp3": "truncated",
        }
        assert "11 rejected, see " in done.stdout

    def test_no_output_is_left_of_them(self, with_bad_files):
        _, out, _ = with_bad_files
        assert {path.name for path in out.iterdir()} == {
            "good.wav",
            "good, too.wav",
            "whole.flac.wav",
            "whole.mp3.wav",
            "rejected.csv",
        }

    def test_the_table_can_be_read_by_the_next_stage(self, with_bad_files):
        _, out, _ = with_bad_files
        rows = read_table(out / "rejected.csv", Reject)
        assert len(rows) >= 10
        assert [row.file for row in rows] == sorted(row.file for row in rows)
        assert all(row.detail for row in rows)

    def test_bad_files_change_no_byte_of_the_others(self, with_bad_files, tmp_path):
        folder, out, _ = with_bad_files
        names = ["good.wav", "good, too.wav", "whole.flac", "whole.mp3"]
        done = run("--files-from", "-", folder, tmp_path / "out", stdin="\n".join(names) + "\n")
        assert done.returncode == 0
        found = outputs(out)
        assert outputs(tmp_path / "out") == {wav_name(name): found[wav_name(name)] for name in names}

    @pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
    def test_wavs_that_were_written_into_a_pipe(self, tmp_path, length):
        """By a recorder that was cut off, sox, arecord and ffmpeg: their headers leave the length open."""
        samples = noise(1.3, 44_100)
        soundfile.write(tmp_path / "whole.wav", samples, 44_100)
        whole = (tmp_path / "whole.wav").read_bytes()
        at = whole.index(b"data") + 4
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "open.wav").write_bytes(whole[:at] + struct.pack("<I", length) + whole[at + 4 :])
        assert run(folder, tmp_path / "out").returncode == 0
        assert (tmp_path / "out/open.wav").read_bytes() == sox(tmp_path / "whole.wav", tmp_path / "expected.wav")

    def test_mp3s_that_promise_no_length(self, tmp_path):
        """sox guesses by the size of the file, of which some is no sound, or by the bit rate of the first frames."""
        folder = tmp_path / "in"
        folder.mkdir()
        rate = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
        soundfile.write(folder / "a.mp3", noise(10.0, 44_100), 44_100, subtype="MPEG_LAYER_III", **rate)
        whole = (folder / "a.mp3").read_bytes()
        bare = whole.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
        title = b"ID3\x03\0\0\0\0\x20\0" + bytes(0x20 << 7)
        (folder / "b.mp3").write_bytes(whole + bytes(len(whole)))
        (folder / "c.mp3").write_bytes(title + bare + bytes(len(whole)))
        (folder / "cut.mp3").write_bytes(title + whole[: len(whole) // 2])
        at = whole.index(b"Info") + 7
        (folder / "d.mp3").write_bytes(whole[:at] + bytes([whole[at] & 0xFE, 0xFF]) + whole[at + 2 :])  # no such number
        assert run(folder, tmp_path / "out").returncode == 0
        assert rejected(tmp_path / "out") == {"cut.mp3": "truncated"}
        assert min(len(naive.read_wav(path)) for path in (tmp_path / "out").glob("*.wav")) >= 160_000

    def test_rejected_ones_are_tried_again_and_reported_again(self, with_bad_files):
        folder, out, _ = with_bad_files
        before = rejected(out)
        done = run(folder, out)
        assert "0 files resampled" in done.stdout
        assert rejected(out) == before

    def test_a_name_that_leaves_no_room_for_an_ending(self, tmp_path):
        (tmp_path / "in").mkdir()
        for name in ("a", "b" * 249):
            soundfile.write(tmp_path / "in" / f"{name}.wav", noise(0.2, 16_000), 16_000)
        assert run(tmp_path / "in", tmp_path / "out").returncode == 0
        assert rejected(tmp_path / "out") == {f"{'b' * 249}.wav": "bad_filename"}

    @pytest.mark.parametrize("words", ["No space left", "Premature EOF", "clipped", "WARN Permission denied FAIL"])
    def test_the_name_of_a_folder_is_no_message(self, tmp_path, words):
        folder = tmp_path / words / "in [x]"
        folder.mkdir(parents=True)
        samples = noise(0.3, 44_100, channels=2)
        soundfile.write(folder / "a.wav", samples, 44_100)
        (folder / "b.flac").write_text("no audio " * 50)
        (folder / "c.wav").write_bytes((folder / "a.wav").read_bytes()[:9000])
        done = run(folder, tmp_path / words / "out")
        assert done.returncode == 0, done.stderr
        assert rejected(tmp_path / words / "out") == {"b.flac": "unreadable", "c.wav": "truncated"}
        assert words not in (tmp_path / words / "out/rejected.csv").read_text().replace("Premature EOF on .wav", "")

    def test_not_one_good_file(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.wav").touch()
        done = run(tmp_path / "in", tmp_path / "out")
        assert done.returncode == 1
        assert rejected(tmp_path / "out") == {"a.wav": "empty"}


@pytest.fixture(scope="module")
def one_file(tmp_path_factory) -> Path:
    """One file whose output takes 41,644 bytes, and ten smaller ones."""
    folder = tmp_path_factory.mktemp("in")
    soundfile.write(folder / "a.wav", noise(1.3, 44_100), 44_100)
    return folder


class TestFullDisk:
    @pytest.mark.parametrize("kilobytes", [4, 24, 40, 44])
    def test_one_clear_error_and_nothing_left(self, one_file, tmp_path, kilobytes):
        with small_disk(tmp_path / "disk", kilobytes) as disk:
            done = run(one_file, disk / "out", "--jobs", 2)
            left = [path.name for path in (disk / "out").iterdir()]
        assert done.returncode != 0
        assert done.stderr.startswith("error: ")
        assert "No space left" in done.stderr
        assert done.stderr.count("\n") == 1
        assert left == []

    def test_that_is_found_late(self, one_file, tmp_path):
        """After the time of the first line about progress, before anything was done."""
        fake = tmp_path / "bin" / "sox"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\nsleep 2\necho No space left on device >&2\nexit 2\n")
        fake.chmod(0o755)
        script = tmp_path / "bin" / "resample.sh"
        script.write_text(SCRIPT.read_text().replace("next=20", "next=1"))
        script.chmod(0o755)
        command = [script, one_file, tmp_path / "out"]
        path = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ | path, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "No space left" in done.stderr

    def test_goes_on_when_there_is_room(self, one_file, tmp_path):
        with small_disk(tmp_path / "disk", 24) as disk:
            assert run(one_file, disk / "out").returncode != 0
            subprocess.run(["mount", "-o", "remount,size=400k", str(disk)], check=True)
            done = run(one_file, disk / "out")
            assert done.returncode == 0, done.stderr
            assert (disk / "out/a.wav").read_bytes() == sox(one_file / "a.wav", tmp_path / "a.wav")

    def test_every_file_that_is_there_is_whole(self, tmp_path):
        """Files of many lengths on a disk that ends somewhere among them."""
        folder = tmp_path / "in"
        folder.mkdir()
        for k in range(12):
            soundfile.write(folder / f"{k:02}.wav", noise(0.15 + 0.013 * k, 44_100, seed=k), 44_100)
        for kilobytes in (52, 56, 60):
            with small_disk(tmp_path / f"disk{kilobytes}", kilobytes) as disk:
                done = run(folder, disk / "out", "--jobs", 1)
                assert done.returncode != 0
                for name, content in outputs(disk / "out").items():
                    assert content == sox(folder / name, tmp_path / "expected.wav")


class TestStage:
    def test_makes_what_the_manifest_lists(self, corpus):
        out = corpus.corpus_dir / "wav_16khz"
        assert len(outputs(out)) == 15
        assert all(name.split("/")[1] == "wav" for name in outputs(out))

    def test_a_recording_that_was_replaced_by_an_older_one_is_made_again(self, tmp_path, capsys):
        """As mv, cp -p, rsync -a and unzip do; its time says nothing."""
        root = write_release(tmp_path / "release", three_species(2))
        config = small_config(tmp_path, root)
        fetch(config, 1)
        one, two = sorted((root / "TrainingSet/wav").iterdir())[:2]
        os.utime(two, (1e9, 1e9))
        resample(config, 1)
        out = wav_folder(config.corpus_dir, 16_000) / "TrainingSet/wav"
        expected = (out / two.name).read_bytes()
        assert expected != (out / one.name).read_bytes()
        shutil.copy2(two, one)
        fetch(config, 1)
        resample(config, 1)
        assert "made again, as their recordings are other ones: 1 files such as " in capsys.readouterr().out
        assert (out / one.name).read_bytes() == (out / two.name).read_bytes() == expected
        resample(config, 1)
        assert "0 files resampled" in capsys.readouterr().out

    def test_before_stage_1(self, tmp_path):
        with pytest.raises(PipelineError, match="Run stages 1 to 3"):
            resample(small_config(tmp_path, tmp_path), 1)


def test_a_reject_in_a_long_path_of_many_bytes(tmp_path):
    """Its reason is cut, but not within a character, and the others are made."""
    folder = tmp_path / ("Записи птиц на рассвете " * 4).strip() / ("Запись " * 12).strip()
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(0.2, 16_000), 16_000)
    for number in range(3):
        (folder / f"Зарянка {number}.wv").write_bytes(b"no sound " * 100)
    for locale in ("C.UTF-8", "C"):
        out = tmp_path / f"out {locale}"
        done = run(folder, out, env={"LC_ALL": locale})
        assert done.returncode == 0, done.stderr
        assert "1 files resampled to 16000 Hz, 0 kept, 3 rejected" in done.stdout
        rows = read_table(out / "rejected.csv", Reject)
        assert [row.file for row in rows] == [f"Зарянка {number}.wv" for number in range(3)]
        assert all(0 < len(row.detail) <= 200 for row in rows)


def test_an_output_folder_inside_whose_name_is_a_pattern(tmp_path):
    """Its own output is no input, however often it runs; and CDPATH changes nothing."""
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(0.2, 16_000), 16_000)
    for _ in range(3):
        done = subprocess.run(
            [SCRIPT, "in", "in/out[16k]"], cwd=tmp_path, env=os.environ | {"CDPATH": f".:{tmp_path}"}, timeout=60
        )
        assert done.returncode == 0
    assert [path.name for path in tmp_path.rglob("*.wav")] == ["a.wav", "a.wav"]


class TestOtherNamesOfAFolder:
    """No recording is overwritten by its resampled self, whatever its folder is called."""

    @pytest.fixture
    def real(self, tmp_path) -> Path:
        (tmp_path / "real").mkdir()
        soundfile.write(tmp_path / "real/a.wav", noise(0.2, 44_100), 44_100)
        (tmp_path / "link").symlink_to("real")
        return tmp_path / "real"

    def test_the_same_one_by_a_link(self, real, tmp_path):
        before = (real / "a.wav").read_bytes()
        for folders in ((real, tmp_path / "link"), (tmp_path / "link", real)):
            done = run(*folders)
            assert (done.returncode, done.stderr) == (1, "error: IN_DIR and OUT_DIR are the same folder\n")
        assert (real / "a.wav").read_bytes() == before

    def test_the_same_one_by_a_mount(self, real, tmp_path):
        (tmp_path / "mounted").mkdir()
        if subprocess.run(["mount", "--bind", real, tmp_path / "mounted"], capture_output=True).returncode:
            pytest.skip("no permission to mount a folder")
        try:
            assert "same folder" in run(real, tmp_path / "mounted").stderr
        finally:
            subprocess.run(["umount", "--lazy", tmp_path / "mounted"], check=True)

    def test_one_inside(self, real, tmp_path):
        for _ in range(3):
            assert run(tmp_path / "link", real / "out").returncode == 0
        assert [path.relative_to(real).as_posix() for path in sorted(real.rglob("*.wav"))] == ["a.wav", "out/a.wav"]


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is missing")
class TestFormatsOfFfmpeg:
    def test_are_what_the_wav_is(self, tmp_path):
        """A tone keeps its frequency, level and length, in names of all kinds; what is too loud is attenuated."""
        folder = tmp_path / "in"
        folder.mkdir()
        time = np.arange(2 * 44_100) / 44_100
        tone = tmp_path / "tone.wav"
        soundfile.write(tone, np.stack([0.5 * np.sin(2 * np.pi * 1000 * time)] * 2, axis=1), 44_100)
        names = ["a.m4a", "b.mp4", "c.mka", "d.webm", "E.M4A", "f [x]*.m4a", "sub dir/-g 'h'.m4a", "i.aac", "j.opus"]
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            ffmpeg("-i", tone, folder / name)
        square = tmp_path / "square.wav"
        soundfile.write(square, np.sign(np.sin(2 * np.pi * 1000 * time)), 44_100, subtype="PCM_16")
        ffmpeg("-i", square, folder / "loud.m4a")
        film = ("-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=4", "-c:v", "mpeg4")
        ffmpeg("-i", tone, *film, folder / "film.mp4")  # whose sound ends before it
        names.append("film.mp4")
        done = run(folder, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert f"{len(names) + 1} files resampled to 16000 Hz, 0 kept, 0 rejected" in done.stdout
        for name in names:
            samples = naive.read_wav(tmp_path / "out" / wav_name(name)).astype(float)
            assert len(samples) / 16_000 == pytest.approx(2, abs=0.1)
            middle = samples[8000:24_000]
            assert middle.std() / 32_768 == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
            assert np.abs(np.fft.rfft(middle)).argmax() == 1000
        loud = naive.read_wav(tmp_path / "out" / "loud.m4a.wav")
        assert 0.98 < np.abs(loud / 32_768).max() < 1
        assert np.mean(np.abs(loud) >= 32_767) < 0.001

    def test_what_is_damaged(self, tmp_path):
        """It is rejected with the same words every time, and no playlist opens another file."""
        folder = tmp_path / "in"
        folder.mkdir()
        soundfile.write(tmp_path / "x.wav", noise(1.0, 16_000), 16_000)
        ffmpeg("-i", tmp_path / "x.wav", folder / "whole.m4a")
        (folder / "cut.m4a").write_bytes((folder / "whole.m4a").read_bytes()[:2000])
        ffmpeg("-i", tmp_path / "x.wav", tmp_path / "x.webm")
        content = (tmp_path / "x.webm").read_bytes()
        (folder / "cut.webm").write_bytes(content[: len(content) // 2])
        (folder / "list.webm").write_text(f"#EXTM3U\n{tmp_path / 'x.wav'}\n")
        (folder / "concat.mka").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'x.wav'}\n")
        for _ in range(2):
            done = run(folder, tmp_path / "out")
            assert done.returncode == 0, done.stderr
            found = rejected(tmp_path / "out")
            assert found.keys() == {"cut.m4a", "cut.webm", "list.webm", "concat.mka"}
            assert (found["cut.m4a"], found["cut.webm"]) == ("truncated", "truncated")
            assert "0x" not in (tmp_path / "out" / "rejected.csv").read_text()
            assert outputs(tmp_path / "out").keys() == {"whole.m4a.wav"}

    def test_without_ffmpeg(self, tmp_path):
        folder, programs = tmp_path / "in", tmp_path / "programs"
        folder.mkdir()
        programs.mkdir()
        for path in Path("/usr/bin").iterdir():
            if path.name != "ffmpeg":
                (programs / path.name).symlink_to(path)
        soundfile.write(folder / "x.wav", noise(0.2, 16_000), 16_000)
        (folder / "y.m4a").write_bytes(b"some")
        done = run(folder, tmp_path / "out", env={"PATH": str(programs)})
        assert done.returncode == 0, done.stderr
        assert rejected(tmp_path / "out") == {"y.m4a": "no_ffmpeg"}
