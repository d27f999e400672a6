"""Stages 1 to 3 on a release that holds one file of every bad and of every unusual kind."""

import dataclasses
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import xmltodict

from config import Config, PipelineError
from preprocess.audio import AudioError, is_audio, probe
from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.recordings import Recording, Reject, read_table
from preprocess.resample import resample
from preprocess.segments import SegmentReader, open_shards
from tests.conftest import small_config, tone, write_release

GOOD = {  # name: (rate, channels, seconds, subtype)
    "good": (44_100, 1, 4.0, "PCM_16"),
    "eight_bit": (44_100, 1, 2.0, "PCM_U8"),
    "deep": (44_100, 1, 2.0, "PCM_24"),
    "double": (44_100, 1, 2.0, "DOUBLE"),
    "float": (44_100, 1, 2.0, "FLOAT"),
    "stereo": (44_100, 2, 2.0, "PCM_16"),
    "slow": (8000, 1, 2.0, "PCM_16"),
    "fast": (192_000, 1, 2.0, "PCM_16"),
    "short": (44_100, 1, 0.2, "PCM_16"),
    "tiny": (44_100, 1, 0.001, "PCM_16"),
    "silent": (44_100, 1, 2.0, "PCM_16"),
    "loud_float": (44_100, 1, 2.0, "FLOAT"),
}


def write_good(path: Path, name: str) -> None:
    rate, channels, seconds, subtype = GOOD[name]
    samples = np.repeat(tone(1500, seconds, rate)[:, None], channels, axis=1)
    if name == "silent":
        samples[:] = 0
    elif name == "loud_float":
        samples *= 8  # beyond full scale, which float WAV may hold
    soundfile.write(path, samples, rate, subtype=subtype)


def header(length: int, data: int, kind: int = 1, bits: int = 16) -> bytes:
    """Return a WAV header of 44 bytes that promises `data` bytes."""
    fields = (16, kind, 1, 44_100, 44_100 * bits // 8, bits // 8, bits)
    return (
        b"RIFF"
        + struct.pack("<I", length)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", *fields)
        + b"data"
        + struct.pack("<I", data)
    )


def write_bad(folder: Path) -> dict[str, str]:
    """Write the files of no use and return the reason for each."""
    whole = folder / "RNgood.wav"
    content = whole.read_bytes()
    (folder / "RNempty.wav").touch()
    (folder / "RNheader_only.wav").write_bytes(header(36, 0))
    (folder / "RNpromise.wav").write_bytes(header(36 + 88_200, 88_200))
    (folder / "RNhalf_header.wav").write_bytes(content[:30])
    (folder / "RNtruncated.wav").write_bytes(content[: len(content) // 2])
    (folder / "RNone_sample_less.wav").write_bytes(content[:-2])
    (folder / "RNtext.wav").write_text("not audio " * 500)
    (folder / "RNpicture.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    (folder / "RNfolder.wav").mkdir()
    (folder / "RNdangling.wav").symlink_to("nowhere.wav")
    samples = tone(1500, 2)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        spoilt = samples.copy()
        spoilt[50_000:50_003] = value
        soundfile.write(folder / f"RN{name}.wav", spoilt, 44_100, subtype="FLOAT")
    for name, suffix, subtype, share in (
        ("cut_flac", "flac", "PCM_16", 0.5),
        ("cut_mp3", "mp3", "MPEG_LAYER_III", 0.5),
        ("cut_ogg", "ogg", "VORBIS", 0.7),
    ):
        path = folder / f"RN{name}.{suffix}"
        soundfile.write(path, samples, 44_100, subtype=subtype)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return {
        "RNempty.wav": "empty",
        "RNheader_only.wav": "no_samples",
        "RNpromise.wav": "no_samples",
        "RNhalf_header.wav": "unreadable",
        "RNtruncated.wav": "truncated",
        "RNone_sample_less.wav": "truncated",
        "RNtext.wav": "unreadable",
        "RNpicture.wav": "unreadable",
        "RNfolder.wav": "unreadable",
        "RNdangling.wav": "unreadable",
        "RNnan.wav": "not_finite",
        "RNinfinite.wav": "not_finite",
        "RNcut_flac.flac": "truncated",
        "RNcut_mp3.mp3": "truncated",
        "RNcut_ogg.ogg": "truncated",
    }


def add_metadata(root: Path) -> None:
    for k, path in enumerate(sorted((root / "TrainingSet/wav").iterdir())):
        tags = {"MediaId": path.stem.removeprefix("RN"), "FileName": path.name, "ClassId": ("aaaaaa", "bbbbbb")[k % 2]}
        (root / "TrainingSet/xml" / f"{path.stem}.xml").write_text(xmltodict.unparse({"Audio": tags}))


def stages(home: Path, root: Path) -> Config:
    config = small_config(home, root)
    for stage in (fetch, resample, load):
        stage(config, 1)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Config, Config, dict[str, str]]:
    """The configurations of a run with all files and of one with the good files alone, and the expected reasons."""
    home = tmp_path_factory.mktemp("ill formed")
    clean, dirty = (write_release(home / name, []) for name in ("clean", "dirty"))
    for name in GOOD:
        write_good(clean / "TrainingSet/wav" / f"RN{name}.wav", name)
        shutil.copy(clean / "TrainingSet/wav" / f"RN{name}.wav", dirty / "TrainingSet/wav")
    reasons = write_bad(dirty / "TrainingSet/wav")
    for root in (clean, dirty):
        add_metadata(root)
    return stages(home / "a", dirty), stages(home / "b", clean), reasons


def features(config: Config) -> dict[str, tuple[bytes, bytes]]:
    out = {}
    for shard in open_shards(features_folder(config), "train"):
        for i, media_id in enumerate(shard.media_id):
            t, n, c = shard.frame_start[i], shard.frame_count[i], shard.cell_start[i]
            cells = shard.cells[c : c - (-n // shard.cell_frames)]
            out[media_id] = (shard.frames[t : t + n].tobytes(), cells.tobytes())
    return out


class TestPipeline:
    def test_every_bad_file_is_rejected_with_its_reason(self, runs):
        dirty, _, reasons = runs
        rejects = read_table(dirty.corpus_dir / "rejected.csv", Reject)
        assert {Path(row.file).name: row.reason for row in rejects} == reasons
        assert all(row.detail for row in rejects)

    def test_every_good_file_is_taken(self, runs):
        dirty, clean, _ = runs
        assert set(features(dirty)) == set(features(clean)) == set(GOOD)
        assert read_table(clean.corpus_dir / "rejected.csv", Reject) == []

    def test_bad_files_change_no_byte_of_the_good_ones(self, runs):
        dirty, clean, _ = runs
        assert features(dirty) == features(clean)
        for path in (clean.corpus_dir / "wav_16khz").rglob("*.wav"):
            other = dirty.corpus_dir / path.relative_to(clean.corpus_dir)
            assert other.read_bytes() == path.read_bytes()

    def test_manifest_says_what_the_headers_say(self, runs):
        _, clean, _ = runs
        rows = {row.media_id: row for row in read_table(clean.corpus_dir / "recordings.csv", Recording)}
        for name, (rate, _, seconds, _) in GOOD.items():
            assert rows[name].sample_rate == rate
            assert rows[name].duration == pytest.approx(seconds, abs=1 / rate + 1e-6)

    def test_lengths(self, runs):
        _, clean, _ = runs
        for shard in open_shards(features_folder(clean), "train"):
            for media_id, count in zip(shard.media_id, shard.frame_count, strict=True):
                samples = round(GOOD[media_id][2] * 16_000)
                assert abs(count - max(1, (samples - 256) // 256)) <= 1

    def test_silence_and_clips_shorter_than_a_frame_give_a_segment(self, runs):
        _, clean, _ = runs
        reader = SegmentReader(open_shards(features_folder(clean), "train"), 310, True, True)
        for name in ("silent", "tiny", "short"):
            i = reader.media_id.index(name)
            assert reader.segment_starts(i) == [0]
            segment = reader.read([i], [0])[0]
            if name == "silent":
                assert set(segment.ravel()) == {90}  # all dropped: zeros
            else:
                assert (segment[reader.frames_left[i] :] == 90).all()

    def test_the_same_tone_is_found_in_every_format(self, runs):
        """1500 Hz is bin 48; the level of a mono file is that of the 16-bit one whatever its format."""
        _, clean, _ = runs
        level = {}
        for shard in open_shards(features_folder(clean), "train"):
            for i, media_id in enumerate(shard.media_id):
                t, n = shard.frame_start[i], shard.frame_count[i]
                if media_id not in ("silent", "tiny", "short"):
                    mean = shard.frames[t : t + n].max(axis=0)
                    assert mean.argmax() == 48, media_id
                    level[media_id] = int(mean.max())
        assert level["loud_float"] > level["good"]
        del level["loud_float"]
        assert max(level.values()) - min(level.values()) <= 1

    def test_second_run_reports_the_same(self, runs):
        dirty, _, reasons = runs
        before = features(dirty)
        for stage in (fetch, resample, load):
            stage(dirty, 1)
        rejects = read_table(dirty.corpus_dir / "rejected.csv", Reject)
        assert {Path(row.file).name: row.reason for row in rejects} == reasons
        assert features(dirty) == before

    def test_wav_that_is_lost_between_the_stages(self, runs, tmp_path):
        _, clean, _ = runs
        shutil.copytree(clean.corpus_dir, tmp_path / "data" / "small")
        config = small_config(tmp_path, clean.data.options["root"])
        (config.corpus_dir / "wav_16khz/TrainingSet/wav/RNgood.wav").unlink()
        load(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(row.file, row.stage, row.reason) for row in rejects] == [
            ("TrainingSet/wav/RNgood.wav", "load", "no_wav")
        ]
        assert set(features(config)) == set(GOOD) - {"good"}
        resample(config, 1)
        load(config, 1)
        assert features(config) == features(clean)
        assert read_table(config.corpus_dir / "rejected.csv", Reject) == []

    def test_recordings_of_a_clock_that_was_ahead_are_made_once(self, runs, tmp_path, capsys):
        _, clean, _ = runs
        root = shutil.copytree(clean.data.options["root"], tmp_path / "release")
        tomorrow = time.time() + 86_400
        for path in root.rglob("*.wav"):
            os.utime(path, (tomorrow, tomorrow))
        config = small_config(tmp_path, root)
        for stage in (fetch, resample, load):
            stage(config, 1)
        assert features(config) == features(clean)
        capsys.readouterr()
        resample(config, 1)
        load(config, 1)
        said = capsys.readouterr().out
        assert "0 files resampled to 16000 Hz" in said
        assert "; 0 shards made" in said

    def test_what_was_resampled_again_and_removed_is_missed(self, runs, tmp_path):
        """The features are of the sound before."""
        _, clean, _ = runs
        root = shutil.copytree(clean.data.options["root"], tmp_path / "release")
        config = small_config(tmp_path, root)
        for stage in (fetch, resample, load):
            stage(config, 1)
        path = root / "TrainingSet/wav/RNgood.wav"
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1], rate)
        for stage in (fetch, resample):
            stage(config, 1)
        for wav in config.corpus_dir.glob("wav_16khz/**/*.wav"):
            wav.unlink()
        with pytest.raises(PipelineError, match="Run stage 2 first"):
            load(config, 1)

    def test_resampled_recordings_that_were_removed_take_nothing_with_them(self, runs, tmp_path, capsys):
        dirty, clean, _ = runs
        for name, whole in (("dirty", dirty), ("small", clean)):
            shutil.copytree(whole.corpus_dir, tmp_path / name / "data" / "small")
            config = small_config(tmp_path / name, whole.data.options["root"])
            before, rejects = features(config), (config.corpus_dir / "rejected.csv").read_bytes()
            for path in config.corpus_dir.glob("wav_16khz/**/*.wav"):
                path.unlink()
            for _ in range(2):
                load(config, 1)
                assert features(config) == before == features(whole)
                assert "; 0 shards made" in capsys.readouterr().out
                assert (config.corpus_dir / "rejected.csv").read_bytes() == rejects
                shutil.rmtree(config.corpus_dir / "wav_16khz", ignore_errors=True)
        for shard in features_folder(config).glob("*.h5"):
            shard.write_bytes(b"damaged")
        with pytest.raises(PipelineError, match=r"are not in .*wav_16khz\. Run stage 2 first"):
            load(config, 1)
        resample(config, 1)
        load(config, 1)
        assert features(config) == before


class TestNothingUsable:
    def test_at_stage_1(self, tmp_path):
        root = write_release(tmp_path / "release", [])
        write_good(root / "TrainingSet/wav/RNgood.wav", "good")
        write_bad(root / "TrainingSet/wav")
        (root / "TrainingSet/wav/RNgood.wav").unlink()
        for name in ("RNcut_flac.flac", "RNcut_mp3.mp3"):  # their headers are whole; stage 2 finds them
            (root / "TrainingSet/wav" / name).unlink()
        add_metadata(root)
        config = small_config(tmp_path, root)
        with pytest.raises(PipelineError, match=r"no usable recording.*truncated"):
            fetch(config, 1)
        assert len(read_table(config.corpus_dir / "rejected.csv", Reject)) == 13

    def test_at_stage_2(self, tmp_path):
        root = write_release(tmp_path / "release", [])
        path = root / "TrainingSet/wav/RNcut.flac"
        soundfile.write(path, tone(1500, 2), 44_100)
        path.write_bytes(path.read_bytes()[:50_000])
        add_metadata(root)
        config = small_config(tmp_path, root)
        fetch(config, 1)
        with pytest.raises(PipelineError, match="not resampled"):
            resample(config, 1)
        with pytest.raises(PipelineError, match="Not one recording"):
            load(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(row.stage, row.reason) for row in rejects] == [("resample", "truncated")]

    def test_at_stage_3(self, tmp_path):
        root = write_release(tmp_path / "release", [])
        write_good(root / "TrainingSet/wav/RNgood.wav", "good")
        add_metadata(root)
        config = small_config(tmp_path, root)
        fetch(config, 1)
        resample(config, 1)
        wav = config.corpus_dir / "wav_16khz/TrainingSet/wav/RNgood.wav"
        wav.write_bytes(wav.read_bytes()[:1000])
        (config.corpus_dir / "wav_16khz" / "sealed.csv").unlink()
        with pytest.raises(PipelineError, match=r"Not one recording.*rejected\.csv"):
            load(config, 1)
        assert [row.reason for row in read_table(config.corpus_dir / "rejected.csv", Reject)] == ["truncated"]


class TestProbe:
    def test_what_it_returns(self, tmp_path):
        for name, (rate, _, seconds, _) in GOOD.items():
            write_good(tmp_path / f"{name}.wav", name)
            duration, found = probe(tmp_path / f"{name}.wav")
            assert found == rate
            assert duration == pytest.approx(seconds, abs=1 / rate)

    def test_what_the_system_says_of_a_file_that_cannot_be_read(self, tmp_path):
        (tmp_path / "a.wav").mkdir()
        with pytest.raises(IsADirectoryError):
            probe(tmp_path / "a.wav")

    def test_streamed_wav_that_leaves_its_length_open(self, tmp_path):
        samples = (tone(1500, 1) * 32_767).astype("<i2").tobytes()
        (tmp_path / "a.wav").write_bytes(header(0xFFFFFFFF, 0xFFFFFFFF) + samples)
        duration, rate = probe(tmp_path / "a.wav")
        assert (rate, round(duration, 3)) == (44_100, 1.0)

    @pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
    @pytest.mark.parametrize(("subtype", "width"), [("PCM_16", 2), ("PCM_24", 3), ("FLOAT", 4)])
    def test_what_programs_leave_that_write_into_pipes(self, tmp_path, length, subtype, width):
        """0 by recorders that were cut off, then sox, arecord and ffmpeg; the samples go to the end of the file."""
        path = tmp_path / "a.wav"
        samples = tone(1500, 1)[:, None].repeat(2, axis=1) * 0.5
        samples[:100] = 0  # digital silence is no chunk
        soundfile.write(path, samples, 44_100, subtype=subtype)
        whole = path.read_bytes()
        at = whole.index(b"data") + 4
        path.write_bytes(whole[:at] + struct.pack("<I", length) + whole[at + 4 : at + 4 + 44_100 * 2 * width])
        assert probe(path) == (1.0, 44_100)

    def test_a_header_of_no_samples_with_a_chunk_after_it(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(header(36 + 12, 0) + b"LIST" + struct.pack("<I", 4) + b"INFO")
        with pytest.raises(AudioError, match="no_samples"):
            probe(tmp_path / "a.wav")

    @pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
    def test_flac_from_a_pipe(self, tmp_path):
        """It does not say how long it is, and libsndfile makes 6 million years of that."""
        soundfile.write(tmp_path / "a.wav", tone(1500, 1), 44_100)
        command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-f", "flac", "-"]
        (tmp_path / "b.flac").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        assert probe(tmp_path / "b.flac") == (0.0, 44_100)

    def test_a_name_that_is_no_utf8(self, tmp_path):
        path = tmp_path / os.fsdecode(b"\xff") / "a.wav"
        path.parent.mkdir()
        path.write_bytes(header(36 + 88_200, 88_200) + bytes(88_200))
        assert probe(path) == (1.0, 44_100)

    def test_extra_chunks_of_odd_length_before_the_samples(self, tmp_path):
        samples = (tone(1500, 1) * 32_767).astype("<i2").tobytes()
        whole = header(36 + len(samples) + 12, len(samples))
        chunk = b"LIST" + struct.pack("<I", 3) + b"abc\0"
        path = tmp_path / "a.wav"
        path.write_bytes(whole[:36] + chunk + whole[36:] + samples)
        assert probe(path) == (1.0, 44_100)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(AudioError, match="truncated: 100 bytes"):
            probe(path)

    def test_a_chunk_after_the_samples_is_not_missed_audio(self, tmp_path):
        samples = (tone(1500, 1) * 32_767).astype("<i2").tobytes()
        path = tmp_path / "a.wav"
        path.write_bytes(header(36 + len(samples), len(samples)) + samples + b"LIST" + struct.pack("<I", 4) + b"abcd")
        assert probe(path) == (1.0, 44_100)

    @pytest.mark.parametrize(("suffix", "subtype"), [("flac", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS")])
    def test_whole_files_of_other_formats(self, tmp_path, suffix, subtype):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, tone(1500, 2), 44_100, subtype=subtype)
        duration, rate = probe(path)
        assert rate == 44_100
        assert duration == pytest.approx(2, abs=0.06)

    @pytest.mark.parametrize("suffix", ["aiff", "au", "w64", "wav", "ogg"])
    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_cut_files(self, tmp_path, suffix, share):
        """Of Ogg the last share lies within its last page."""
        path = tmp_path / f"a.{suffix}"
        subtype = "VORBIS" if suffix == "ogg" else "PCM_16"
        soundfile.write(path, tone(1500, 2), 44_100, subtype=subtype)
        whole = path.read_bytes()
        path.write_bytes(whole + b"TAG" + bytes(125))
        assert probe(path) == (pytest.approx(2, abs=0.01), 44_100)  # of W64, libsndfile takes the rest for sound
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AudioError, match="truncated"):
            probe(path)

    @pytest.mark.parametrize(
        ("suffix", "before", "length"), [("aiff", b"SSND", 0x7F000008), ("au", b".snd\0\0\0\x18", -1)]
    )
    def test_other_files_that_were_written_into_a_pipe(self, tmp_path, suffix, before, length):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, tone(1500, 1), 44_100, subtype="PCM_16")
        content = path.read_bytes()
        at = content.index(before) + len(before)
        path.write_bytes(content[:at] + struct.pack(">I", length & 0xFFFFFFFF) + content[at + 4 :])
        assert probe(path) == (1.0, 44_100)

    def test_an_mp3_promises_what_its_first_frame_says(self, tmp_path):
        """Without the tag in there nothing: libsndfile guesses by the bit rate."""
        path = tmp_path / "a.mp3"
        soundfile.write(path, tone(1500, 2), 44_100, subtype="MPEG_LAYER_III")
        content = path.read_bytes()
        title = b"ID3\x03\0\0\0\0\x20\0" + bytes(0x20 << 7)
        path.write_bytes(title + content)
        assert probe(path)[0] == pytest.approx(2, abs=0.06)
        for bare in (content.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)), title + content[2000:]):
            path.write_bytes(bare)
            assert probe(path) == (0.0, 44_100)

    def test_formats_that_only_sox_reads_are_left_to_it(self, tmp_path):
        (tmp_path / "a.wv").write_bytes(b"wvpk" + bytes(100))
        assert probe(tmp_path / "a.wv") == (0.0, 0)

    @pytest.mark.parametrize(
        ("name", "audio"),
        [
            ("a.wav", True),
            ("a.WAV", True),
            ("a.Mp3", True),
            ("a.b.flac", True),
            ("a.txt", False),
            ("wav", False),
            (".a.wav", False),
        ],
    )
    def test_names(self, name, audio):
        assert is_audio(Path(name)) is audio

    def test_reason_is_part_of_the_message(self):
        error = AudioError("empty", "0 bytes")
        assert dataclasses.astuple(Reject("a", "fetch", error.reason, error.detail)) == (
            "a",
            "fetch",
            "empty",
            "0 bytes",
        )
        assert str(error) == "empty: 0 bytes"
        assert isinstance(error, PipelineError)
