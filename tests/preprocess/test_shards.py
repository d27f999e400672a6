"""Stage 3: what a shard holds, when it is made anew, and what the reader refuses."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

import preprocess.shards
from config import Config, PipelineError
from preprocess.audio import AudioError
from preprocess.loadData import Manifest, features_folder, load, plan_shards
from preprocess.recipes.birdclef2016 import Recipe
from preprocess.recipes.waveform import Recipe as WaveformRecipe
from preprocess.recordings import Recording, Reject, read_table, write_table
from preprocess.segments import open_shards
from preprocess.shards import Shard, open_shard, read_stamp, write_shard
from tests.conftest import PROJECT, run_script, small_config
from tests.preprocess import naive
from tests.preprocess.disk import small_disk

STEP = 0.05


def copy_of(corpus: Config, home: Path) -> Config:
    """Return the configuration of a copy of the corpus with all times kept."""
    shutil.copytree(corpus.corpus_dir, home / "data" / "small")
    return small_config(home, corpus.data.options["root"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def recordings_of(shards: list[Shard]) -> dict[str, tuple[bytes, bytes]]:
    """Return the frames and cells of every recording."""
    out = {}
    for shard in shards:
        for i, media_id in enumerate(shard.media_id):
            frame, count, cell = shard.frame_start[i], shard.frame_count[i], shard.cell_start[i]
            cells = shard.cells[cell : cell - (-count // shard.cell_frames)]
            out[media_id] = (shard.frames[frame : frame + count].tobytes(), cells.tobytes())
    return out


@pytest.fixture(scope="module")
def wavs(tmp_path_factory) -> tuple[Path, list[tuple[Recording, str]]]:
    """Folder and rows of four recordings of 12 s: more than one block each."""
    folder = tmp_path_factory.mktemp("wavs")
    rng = np.random.default_rng(5)
    rows = []
    for i, count in enumerate((192_000, 192_100, 200_000, 400)):
        samples = rng.standard_normal(count) * 300 * (1 + 9 * (np.arange(count) // 9000 % 3 == 0))
        naive.write_wav(folder / f"{i}.wav", samples.astype(np.int16))
        rows.append((Recording(f"Ü{i}", f"{i}.wav", class_id="abcdef" * (i % 2), duration=count / 16_000), f"{i}.wav"))
    return folder, rows


@pytest.fixture
def shard_path(wavs, tmp_path) -> Path:
    """A good shard to be damaged."""
    folder, rows = wavs
    path = tmp_path / "train-00000-of-00001.h5"
    assert write_shard(path, Recipe(), "{}", folder, rows, "inputs") == []
    return path


class TestSchema:
    def test_datasets_and_attributes(self, corpus):
        folder = features_folder(corpus)
        names = sorted(path.name for path in folder.glob("*.h5"))
        assert names == ["test-00000-of-00001.h5", *(f"train-0000{k}-of-00003.h5" for k in range(3))]
        rows = read_table(corpus.corpus_dir / "recordings.csv", Recording)
        with h5py.File(folder / "train-00000-of-00003.h5") as file:
            assert sorted(file) == sorted(
                ["frames", "cells", "media_id", "class_id", "frame_start", "frame_count", "cell_start"]
            )
            frames, cells, counts = file["frames"], file["cells"], file["frame_count"][:]
            assert (frames.dtype, frames.shape) == (np.uint8, (counts.sum(), 200))
            assert (frames.chunks, frames.compression) == (None, None)
            assert (cells.dtype, cells.shape) == (np.uint8, (sum(-(-int(n) // 30) for n in counts), 19))
            assert set(np.unique(cells[:])) == {0, 1}
            assert frames.attrs["scale_factor"] == STEP
            assert frames.attrs["add_offset"] == naive.FLOOR
            assert frames.attrs["units"] == "log10(LSB^2 Hz-1)"
            assert cells.attrs["cell_frames"] == 30
            assert cells.attrs["band_edges"].tolist() == list(naive.EDGES)
            assert file["media_id"].asstr()[:].tolist() == [row.media_id for row in rows[:4]]
            assert file["class_id"].asstr()[:].tolist() == [row.class_id for row in rows[:4]]
            assert {file[name].dtype for name in ("frame_start", "frame_count", "cell_start")} == {np.dtype("int64")}
            assert file["frame_start"][:].tolist() == [0, *np.cumsum(counts)[:-1]]
            assert file["cell_start"][:].tolist() == [0, *np.cumsum(-(-counts // 30))[:-1]]
            assert (file.attrs["schema"], file.attrs["complete"]) == (2, 1)
            assert (file.attrs["sample_rate"], file.attrs["frame_rate"]) == (16_000, 62.5)
            assert json.loads(file.attrs["recipe"])["n_fft"] == 512
            assert json.loads(file.attrs["rejected"]) == []
            assert "HDF5" in file.attrs["software"]

    def test_every_recording_is_there_once_and_in_order(self, corpus):
        rows = read_table(corpus.corpus_dir / "recordings.csv", Recording)
        for part, count in (("train", 12), ("test", 3)):
            shards = open_shards(features_folder(corpus), part)
            found = [media_id for shard in shards for media_id in shard.media_id]
            assert found == [row.media_id for row in rows if row.part == part]
            assert len(found) == count

    def test_size(self, corpus):
        seconds = sum(soundfile.info(str(path)).duration for path in (corpus.corpus_dir / "wav_16khz").rglob("*.wav"))
        size = sum(path.stat().st_size for path in features_folder(corpus).glob("*.h5"))
        assert seconds > 90
        assert size <= 13_000 * seconds
        with h5py.File(next(features_folder(corpus).glob("train-*.h5"))) as file:
            assert file["frames"].id.get_storage_size() == file["frames"].size

    @pytest.mark.parametrize(
        ("count", "sizes"),
        [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (200, [7] * 28 + [4]), (20_000, [512] * 39 + [32])],
    )
    def test_distribution_over_shards(self, count, sizes):
        """At least 4 and at most 512 recordings in each, in between so many that there are 32."""
        ids = [str(i) for i in range(count)]
        manifest = Manifest(ids, [f"{i}.mp3" for i in ids], ["a"] * count, ["train"] * count, [1.5] * count)
        plans = plan_shards(Path("x"), manifest, [True] * count)
        rows = [manifest.rows(plan.places) for plan in plans]
        assert [len(own) for own in rows] == sizes
        assert [row.media_id for own in rows for row, _ in own] == ids
        assert all(wav == row.file + ".wav" for own in rows for row, wav in own)
        if plans:
            facts = "\n".join(f"{row.media_id}|a|{wav}|1.5" for row, wav in rows[0])
            assert plans[0].inputs == hashlib.sha256(facts.encode()).hexdigest()

    def test_what_cannot_be_used_is_in_no_shard(self):
        manifest = Manifest(list("abcd"), list("abcd"), ["x"] * 4, ["train", "test", "train", "train"], [1.0] * 4)
        plans = plan_shards(Path("x"), manifest, [True, True, False, True])
        assert [(plan.path.name, plan.places.tolist()) for plan in plans] == [
            ("train-00000-of-00001.h5", [0, 3]),
            ("test-00000-of-00001.h5", [1]),
        ]


class TestValues:
    def test_frames_are_the_log_psd_within_half_a_step(self, corpus):
        wav = {row.media_id: row.file for row in read_table(corpus.corpus_dir / "recordings.csv", Recording)}
        worst = []
        for shard in open_shards(features_folder(corpus), "train"):
            for i, media_id in enumerate(shard.media_id):
                samples = naive.read_wav(corpus.corpus_dir / "wav_16khz" / wav[media_id])
                expected = naive.log_psd(samples).clip(None, naive.FLOOR + 255 * STEP)
                start, count = shard.frame_start[i], shard.frame_count[i]
                codes = shard.frames[start : start + count]
                decoded = codes * shard.scale_factor + shard.add_offset
                worst.append(np.abs(decoded - expected).max())
                assert np.ptp(codes) > 60
        assert len(worst) == 12
        assert max(worst) <= STEP / 2 + 1e-3

    def test_cells_are_the_mask(self, corpus):
        wav = {row.media_id: row.file for row in read_table(corpus.corpus_dir / "recordings.csv", Recording)}
        shard = open_shards(features_folder(corpus), "train")[0]
        for i, media_id in enumerate(shard.media_id[:2]):
            frames = naive.log_psd(naive.read_wav(corpus.corpus_dir / "wav_16khz" / wav[media_id]))
            start = shard.cell_start[i]
            expected = naive.mask(frames)
            np.testing.assert_array_equal(shard.cells[start : start + len(expected)], expected)
            assert 0 < expected.mean() < 1

    @pytest.mark.parametrize("storage", ["float32", "float16"])
    def test_floating_point_storage_is_exact(self, wavs, tmp_path, storage):
        folder, rows = wavs
        recipe = Recipe(storage=storage)
        path = tmp_path / "a.h5"
        assert write_shard(path, recipe, "{}", folder, rows, "inputs") == []
        shard = open_shard(path)
        blocks = [block for _, wav in rows for block in recipe.blocks(folder / wav)]
        assert shard.frames.dtype == storage
        assert (shard.scale_factor, shard.add_offset) == (1.0, 0.0)
        assert shard.frames.tobytes() == np.concatenate(blocks).astype(storage).tobytes()
        expected = np.concatenate([naive.log_psd(naive.read_wav(folder / wav)) for _, wav in rows])
        np.testing.assert_allclose(shard.frames, expected, rtol=0, atol=1e-4 if storage == "float32" else 3e-3)

    def test_names_beyond_ascii_and_empty_ones_come_back(self, shard_path):
        assert open_shard(shard_path).media_id == ["Ü0", "Ü1", "Ü2", "Ü3"]
        with h5py.File(shard_path) as file:
            assert file["class_id"].asstr()[:].tolist() == ["", "abcdef", "", "abcdef"]


class TestDeterminism:
    def test_one_worker_gives_the_bytes_of_two(self, corpus, tmp_path):
        config = copy_of(corpus, tmp_path)
        shutil.rmtree(features_folder(config))
        load(config, 1)
        assert contents(features_folder(config)) == contents(features_folder(corpus))

    def test_the_time_of_day_is_not_in_the_file(self, wavs, tmp_path):
        folder, rows = wavs
        write_shard(tmp_path / "a.h5", Recipe(), "{}", folder, rows, "x")
        time.sleep(1.1)
        write_shard(tmp_path / "b.h5", Recipe(), "{}", folder, rows, "x")
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def test_unchanged_shards_are_kept(self, corpus, tmp_path, capsys):
        config = copy_of(corpus, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in features_folder(config).iterdir()}
        load(config, 1)
        assert {path: path.stat().st_mtime_ns for path in features_folder(config).iterdir()} == before
        assert "0 shards made, 4 kept" in capsys.readouterr().out

    def test_changed_wav_remakes_its_shard_alone(self, corpus, tmp_path):
        config = copy_of(corpus, tmp_path)
        folder = features_folder(config)
        before, old = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}, contents(folder)
        media_id = open_shard(folder / "train-00001-of-00003.h5").media_id[2]
        wav = next((config.corpus_dir / "wav_16khz").rglob(f"RN{media_id}.wav"))
        naive.write_wav(wav, naive.read_wav(wav)[::-1].copy())
        with pytest.raises(
            PipelineError, match=rf"RN{media_id}\.wav changed since stage 2\. Run stage 2 again, or rem"
        ):
            load(config, 1)
        (config.corpus_dir / "wav_16khz" / "sealed.csv").unlink()  # take it as it is
        load(config, 1)
        changed = {path.name for path in folder.glob("*.h5") if path.stat().st_mtime_ns != before.get(path)}
        assert changed == {"train-00001-of-00003.h5"}
        new = recordings_of([open_shard(folder / "train-00001-of-00003.h5")])
        past = recordings_of([open_shard(features_folder(corpus) / "train-00001-of-00003.h5")])
        assert {name for name in new if new[name] != past[name]} == {media_id}
        assert contents(folder).keys() == old.keys()

    def test_a_kill_while_shards_are_made_again_costs_those_in_flight(self, corpus, tmp_path, capsys, monkeypatch):
        config = copy_of(corpus, tmp_path)
        for path in (config.corpus_dir / "wav_16khz").rglob("*.wav"):
            path.touch()
        (config.corpus_dir / "wav_16khz" / "sealed.csv").unlink()
        made = []

        def killed_at_the_third(path, *more):
            made.append(path)
            if len(made) == 3:
                raise KeyboardInterrupt
            return write_shard(path, *more)

        with monkeypatch.context() as patch:
            patch.setattr("preprocess.loadData.write_shard", killed_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                load(config, 1)
        capsys.readouterr()
        load(config, 1)
        assert "2 shards made, 2 kept" in capsys.readouterr().out
        assert contents(features_folder(config)) == contents(features_folder(corpus))

    def test_a_kill_before_a_damaged_shard_is_made_again_does_not_keep_it(self, corpus, tmp_path, monkeypatch):
        config = copy_of(corpus, tmp_path)
        path = features_folder(config) / "train-00001-of-00003.h5"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("preprocess.loadData.write_shard", killed)
            with pytest.raises(KeyboardInterrupt):
                load(config, 1)
        load(config, 1)
        assert contents(features_folder(config)) == contents(features_folder(corpus))

    def test_changed_row_of_the_manifest_remakes_its_shard_alone(self, corpus, tmp_path):
        config = copy_of(corpus, tmp_path)
        folder = features_folder(config)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
        rows = read_table(config.corpus_dir / "recordings.csv", Recording)
        rows[1] = dataclasses.replace(rows[1], class_id="corrected")
        write_table(config.corpus_dir / "recordings.csv", Recording, rows)
        load(config, 1)
        changed = {path.name for path in folder.glob("*.h5") if path.stat().st_mtime_ns != before.get(path)}
        assert changed == {"train-00000-of-00003.h5"}
        with h5py.File(folder / "train-00000-of-00003.h5") as file:
            assert file["class_id"].asstr()[1] == "corrected"

    @pytest.mark.parametrize("damage", ["missing", "cut", "incomplete", "garbage"])
    def test_damaged_shard_is_made_again(self, corpus, tmp_path, damage):
        config = copy_of(corpus, tmp_path)
        path = features_folder(config) / "train-00002-of-00003.h5"
        good = path.read_bytes()
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(good[:5000])
        elif damage == "garbage":
            path.write_bytes(b"no HDF5")
        else:
            with h5py.File(path, "r+") as file:
                del file.attrs["complete"]
        load(config, 1)
        assert path.read_bytes() == good

    def test_a_wav_that_has_come_back_with_its_old_time(self, corpus, tmp_path):
        config = copy_of(corpus, tmp_path)
        wav = sorted((config.corpus_dir / "wav_16khz").rglob("*.wav"))[0]
        wav.rename(tmp_path / "away.wav")
        load(config, 1)
        assert [row.reason for row in read_table(config.corpus_dir / "rejected.csv", Reject)] == ["no_wav"]
        (tmp_path / "away.wav").rename(wav)
        load(config, 1)
        assert read_table(config.corpus_dir / "rejected.csv", Reject) == []
        assert contents(features_folder(config)) == contents(features_folder(corpus))

    def test_the_rate_of_bytes_is_told_where_lengths_are_known(self, corpus, tmp_path, capsys):
        config = copy_of(corpus, tmp_path)
        load(config, 1)
        assert " MB, 12." in capsys.readouterr().out
        rows = read_table(config.corpus_dir / "recordings.csv", Recording)
        unknown = [dataclasses.replace(row, duration=0.0) for row in rows]
        write_table(config.corpus_dir / "recordings.csv", Recording, unknown)
        load(config, 1)
        assert "per second" not in capsys.readouterr().out

    def test_shards_of_another_plan_and_leftovers_are_removed(self, corpus, tmp_path):
        config = copy_of(corpus, tmp_path)
        folder = features_folder(config)
        for name in ("train-00000-of-00009.h5", "train-00000-of-00003.h5.part", "train-00000-of-00003.h5.77.part"):
            shutil.copy(folder / "train-00000-of-00003.h5", folder / name)
        load(config, 1)
        assert contents(folder) == contents(features_folder(corpus))


@dataclasses.dataclass(frozen=True)
class Faulty(Recipe):
    """Fails in the second block of one recording."""

    bad: str = ""

    def blocks(self, path):
        for k, block in enumerate(super().blocks(path)):
            if path.name == self.bad and k == 1:
                raise AudioError("truncated", "while reading")
            yield block


class TestUnusableRecordings:
    @pytest.mark.parametrize("bad", [0, 1, 2])
    def test_one_that_fails_while_it_is_written(self, wavs, tmp_path, bad):
        folder, rows = wavs
        rejects = write_shard(tmp_path / "with.h5", Faulty(bad=f"{bad}.wav"), "{}", folder, rows, "x")
        assert rejects == [Reject(f"{bad}.wav", "load", "truncated", "while reading")]
        others = [row for i, row in enumerate(rows) if i != bad]
        assert write_shard(tmp_path / "without.h5", Recipe(), "{}", folder, others, "x") == []
        found, expected = open_shard(tmp_path / "with.h5"), open_shard(tmp_path / "without.h5")
        assert found.media_id == expected.media_id == [row.media_id for row, _ in others]
        assert recordings_of([found]) == recordings_of([expected])
        assert found.frames.tobytes() == expected.frames.tobytes()
        assert read_stamp(tmp_path / "with.h5") == ("x", rejects)

    def test_bad_formats_are_found_before_anything_is_written(self, tmp_path, monkeypatch):
        """Each that is found later makes the shard start over."""
        samples = np.zeros(8000, np.int16)
        for number, rate in enumerate((16_000, 8000, 16_000, 22_050)):
            naive.write_wav(tmp_path / f"{number}.wav", samples, rate)
        naive.write_wav(tmp_path / "4.wav", samples.astype(np.uint8))
        write, written = preprocess.shards._write, []
        monkeypatch.setattr(preprocess.shards, "_write", lambda *given: (written.append(1), write(*given)))
        rows = [(Recording(str(i), f"{i}.wav"), f"{i}.wav") for i in range(5)]
        rejects = write_shard(tmp_path / "a.h5", Recipe(), "{}", tmp_path, rows, "x")
        assert {reject.file: reject.reason for reject in rejects} == dict.fromkeys(
            ("1.wav", "3.wav", "4.wav"), "damaged_wav"
        )
        assert len(written) == 1

    def test_every_reason(self, wavs, tmp_path):
        folder, rows = wavs
        copy = tmp_path / "wavs"
        shutil.copytree(folder, copy)
        whole = (copy / "0.wav").read_bytes()
        (copy / "0.wav").unlink()
        (copy / "1.wav").write_bytes(whole[:9000])
        naive.write_wav(copy / "2.wav", np.zeros((200_000, 2), np.int16), channels=2)
        rejects = write_shard(tmp_path / "a.h5", Recipe(), "{}", copy, rows, "x")
        assert {reject.file: reject.reason for reject in rejects} == {
            "0.wav": "no_wav",
            "1.wav": "truncated",
            "2.wav": "damaged_wav",
        }
        assert open_shard(tmp_path / "a.h5").media_id == ["Ü3"]

    def test_times_count_what_was_trimmed(self, tmp_path):
        """3 s of silence before a tone of 2 s, and a recording without: frame 60 of 20 ms begins 1.2 s after them."""
        rate, tone = 22_050, np.full(44_100, 9000, np.int16)
        naive.write_wav(tmp_path / "late.wav", np.concatenate([np.zeros(3 * rate, np.int16), tone]), rate)
        naive.write_wav(tmp_path / "early.wav", tone, rate)
        rows = [(Recording(name, f"{name}.wav"), f"{name}.wav") for name in ("late", "early")]
        for trim, expected in ((True, [4.2, 1.2]), (False, [1.2, 1.2])):
            assert write_shard(tmp_path / "a.h5", WaveformRecipe(trim=trim), "{}", tmp_path, rows, "x") == []
            shard = open_shard(tmp_path / "a.h5")
            found = [shard.times(i, np.array([[60, 61]])) for i in range(2)]
            np.testing.assert_allclose(found, [[[start, start + 0.02]] for start in expected])
            with h5py.File(tmp_path / "a.h5") as file:
                assert ("offset" in file) == trim

    def test_shorter_than_its_original(self, wavs, tmp_path):
        """12 s by its WAV: the header of the original may promise 2 % and 0.2 s more."""
        folder, rows = wavs
        for duration, reasons in ((12.44, []), (12.46, ["truncated"])):
            row = dataclasses.replace(rows[0][0], duration=duration)
            rejects = write_shard(tmp_path / "a.h5", Recipe(), "{}", folder, [(row, "0.wav")], "x")
            assert [reject.reason for reject in rejects] == reasons

    def test_more_rejects_than_fit_into_an_ordinary_attribute(self, tmp_path):
        rows = [(Recording(str(i), f"{i:0200}.wav"), f"{i}.wav") for i in range(512)]
        rejects = write_shard(tmp_path / "a.h5", Recipe(), "{}", tmp_path, rows, "x")
        assert len(rejects) == 512
        assert read_stamp(tmp_path / "a.h5") == ("x", rejects)

    def test_shard_of_nothing(self, tmp_path):
        rows = [(Recording("1", "a.wav"), "a.wav")]
        rejects = write_shard(tmp_path / "a.h5", Recipe(), "{}", tmp_path, rows, "x")
        assert [reject.reason for reject in rejects] == ["no_wav"]
        shard = open_shard(tmp_path / "a.h5")
        assert (shard.media_id, shard.frames.shape, shard.cells.shape) == ([], (0, 200), (0, 19))


def replace_dataset(file: h5py.File, name: str, **creation) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    dataset = file.create_dataset(name, **creation)
    dataset.attrs.update(attributes)


def soft_link(file: h5py.File) -> None:
    file["elsewhere"] = file["frames"]
    del file["frames"]
    file["frames"] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["frames"] = file["frames"][:]
        target["frames"].attrs.update(dict(file["frames"].attrs))
    del file["frames"]
    file["frames"] = h5py.ExternalLink(str(other), "/frames")


def virtual(file: h5py.File) -> None:
    shape, attributes = file["frames"].shape, dict(file["frames"].attrs)
    layout = h5py.VirtualLayout(shape, np.uint8)
    layout[:] = h5py.VirtualSource("/etc/hostname", "frames", shape)
    del file["frames"]
    file.create_virtual_dataset("frames", layout).attrs.update(attributes)


def external_storage(file: h5py.File) -> None:
    shape = file["frames"].shape
    replace_dataset(file, "frames", shape=shape, dtype=np.uint8, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def set_index(name: str, position: int, value: int):
    def change(file: h5py.File) -> None:
        file[name][position] = value

    return change


def set_edges(edges):
    def change(file: h5py.File) -> None:
        file["cells"].attrs["band_edges"] = np.array(edges)

    return change


def rewrite(name: str, change):
    def apply(file: h5py.File) -> None:
        replace_dataset(file, name, data=change(file[name][:]))

    return apply


CHANGES = {  # what is done to the file: what the message says of it
    "soft link": (soft_link, "frames"),
    "external link": (external_link, "frames"),
    "virtual dataset": (virtual, "frames refers to other files"),
    "external storage": (external_storage, "frames refers to other files"),
    "no mark of completion": (lambda file: file.attrs.__delitem__("complete"), "incomplete"),
    "marked incomplete": (lambda file: file.attrs.__setitem__("complete", 0), "incomplete"),
    "another schema": (lambda file: file.attrs.__setitem__("schema", 1), "another version"),
    "no frame_start": (lambda file: file.__delitem__("frame_start"), None),
    "cells is a group": (lambda file: (file.__delitem__("cells"), file.create_group("cells")), "cells"),
    "no cell_frames": (lambda file: file["cells"].attrs.__delitem__("cell_frames"), None),
    "cell_frames 0": (lambda file: file["cells"].attrs.__setitem__("cell_frames", 0), "outside"),
    "cell_frames 1": (lambda file: file["cells"].attrs.__setitem__("cell_frames", 1), "outside"),
    "no scale_factor": (lambda file: file["frames"].attrs.__delitem__("scale_factor"), None),
    "scale_factor is text": (lambda file: file["frames"].attrs.__setitem__("scale_factor", "x"), None),
    "int32 frames": (rewrite("frames", lambda frames: frames.astype(np.int32)), "type"),
    "flat frames": (rewrite("frames", lambda frames: frames.ravel()), "shape"),
    "a frame less": (rewrite("frames", lambda frames: frames[:-1]), "outside"),
    "a bin less": (rewrite("frames", lambda frames: frames[:, :-1]), "outside"),
    "a cell less": (rewrite("cells", lambda cells: cells[:-1]), "outside"),
    "a count less": (rewrite("frame_count", lambda counts: counts[:-1]), "length"),
    "names are numbers": (rewrite("media_id", lambda names: np.arange(len(names))), None),
    "compressed": (
        lambda file: replace_dataset(file, "frames", data=file["frames"][:], compression="gzip"),
        "contiguous",
    ),
    "frame_start below": (set_index("frame_start", 1, -1), "outside"),
    "frame_start above": (set_index("frame_start", 3, 2279), "outside"),
    "frame_start huge": (set_index("frame_start", 3, 2**63 - 1), "outside"),
    "frame_count above": (set_index("frame_count", 3, 2), "outside"),
    "frame_count 0": (set_index("frame_count", 3, 0), "outside"),
    "frame_count huge": (set_index("frame_count", 3, 2**63 - 1), "outside"),
    "cell_start below": (set_index("cell_start", 0, -1), "outside"),
    "cell_start above": (set_index("cell_start", 3, 10**6), "outside"),
    "cell_start huge": (set_index("cell_start", 3, 2**63 - 1), "outside"),
    "edges beyond the bins": (set_edges([*naive.EDGES[:-1], 201]), "outside"),
    "an edge less": (set_edges(naive.EDGES[:-1]), "outside"),
    "edges that fall": (set_edges([0, 300, *naive.EDGES[2:]]), None),
    "offset NaN": (lambda file: file.create_dataset("offset", data=[0, 0, np.nan, 0]), "outside"),
    "offset below": (lambda file: file.create_dataset("offset", data=[0.0, 0, -1, 0]), "outside"),
    "offset is text": (lambda file: file.create_dataset("offset", data=[b"1"] * 4), "outside"),
    "an offset less": (lambda file: file.create_dataset("offset", data=[0.0] * 3), "length"),
    "edges that start late": (set_edges([5, *naive.EDGES[1:]]), None),
}


class TestReaderRefuses:
    def test_the_good_one_opens(self, shard_path):
        shard = open_shard(shard_path)
        assert shard.frame_count.tolist() == [749, 749, 780, 1]
        with pytest.raises(ValueError, match="read-only"):
            shard.frames[0, 0] = 1

    @pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
    def test_a_changed_file(self, shard_path, change, words):
        with h5py.File(shard_path, "r+") as file:
            change(file)
        with pytest.raises(PipelineError, match=words) as caught:
            open_shard(shard_path)
        assert str(shard_path) in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100, b"\x89HDF\r\n\x1a\n", None])
    def test_what_is_no_hdf5(self, tmp_path, content):
        path = tmp_path / "a.h5"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PipelineError, match=str(path)):
            open_shard(path)
        assert read_stamp(path) is None

    def test_foreign_hdf5(self, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["frames"] = np.zeros((5, 200), np.uint8)
        with pytest.raises(PipelineError, match=str(path)):
            open_shard(path)

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 0.9999])
    def test_file_that_is_cut_off(self, shard_path, share):
        good = shard_path.read_bytes()
        shard_path.write_bytes(good[: int(len(good) * share)])
        with pytest.raises(PipelineError, match=str(shard_path)):
            open_shard(shard_path)

    def test_flipped_bytes_give_a_shard_or_a_pipeline_error(self, shard_path):
        good = shard_path.read_bytes()
        with h5py.File(shard_path) as file:
            start = file["frames"].id.get_offset()
            end = start + file["frames"].id.get_storage_size()
        places = np.r_[:start, end : len(good)]
        rng = np.random.default_rng(3)
        refused = 0
        for _ in range(150):
            bad = bytearray(good)
            bad[rng.choice(places)] ^= 1 << int(rng.integers(8))
            shard_path.write_bytes(bad)
            try:
                open_shard(shard_path)
            except PipelineError:
                refused += 1
        assert refused > 20

    def test_flipped_bytes_and_the_stamp(self, shard_path):
        good = shard_path.read_bytes()
        rng = np.random.default_rng(4)
        found = set()
        for _ in range(150):
            bad = bytearray(good)
            bad[int(rng.integers(6144))] ^= 1 << int(rng.integers(8))
            shard_path.write_bytes(bad)
            stamp = read_stamp(shard_path)
            found.add(None if stamp is None else stamp[0])
        assert found >= {None, "inputs"}


FILL = """
import sys
import time
from pathlib import Path
from config import PipelineError
from preprocess.recipes.birdclef2016 import Recipe
from preprocess.recordings import Recording
from preprocess.shards import write_shard
wavs, disk = map(Path, sys.argv[1:])
rows = [(Recording(str(i), f"{i}.wav"), f"{i}.wav") for i in range(4)]
try:
    write_shard(disk / "a.h5", Recipe(), "{}", wavs, rows, "x")
except (PipelineError, OSError) as error:
    print(error)
else:
    print("written")
"""


class TestFullDisk:
    """In a process of its own: HDF5 that cannot flush may take the process down."""

    @pytest.mark.parametrize("kilobytes", [4, 300, 448])
    def test_no_file_that_looks_complete(self, wavs, tmp_path, kilobytes):
        """The shard has 2,279 frames: 455,800 bytes and about 9 kB around them."""
        with small_disk(tmp_path / "disk", kilobytes) as disk:
            command = [sys.executable, "-c", FILL, str(wavs[0]), str(disk)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=PROJECT, timeout=60)
            left = sorted(path.name for path in disk.iterdir())
        assert "a.h5" not in left
        assert done.returncode == 0, done.stderr
        assert "No space left" in done.stdout
        assert left == []

    def test_enough_disk(self, wavs, tmp_path):
        with small_disk(tmp_path / "disk", 1000) as disk:
            command = [sys.executable, "-c", FILL, str(wavs[0]), str(disk)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=PROJECT, timeout=60)
            assert done.stdout == "written\n"
            assert len(open_shard(disk / "a.h5").media_id) == 4

    def test_stage_ends_in_one_line(self, corpus, tmp_path):
        with small_disk(tmp_path / "disk", 400) as disk:
            folder = disk / "small"
            folder.mkdir()
            for name in ("recordings.csv", "corpus.json"):
                shutil.copy(corpus.corpus_dir / name, folder)
            (folder / "wav_16khz").symlink_to(corpus.corpus_dir / "wav_16khz")
            root = corpus.data.options["root"]
            options = ["data.source=birdclef", f"data.root={root}", f"data.folder={disk}", "data.corpus=small"]
            sets = [word for option in options for word in ("--set", option)]
            done = run_script("preprocess/loadData.py", *sets, "--jobs", "2")
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("error: ")
        assert "No space left" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_worker_whose_stage_was_killed_is_not_in_the_way(wavs, tmp_path, monkeypatch):
    """It writes the same shard at the same time, and is done after the one that took its place."""
    folder, rows = wavs
    path, write = tmp_path / "a.h5", preprocess.shards._write

    def write_slowly(*arguments):
        write(*arguments)
        time.sleep(2)

    if not (child := os.fork()):
        monkeypatch.setattr(preprocess.shards, "_write", write_slowly)
        write_shard(path, Recipe(), "{}", folder, rows, "x")
        os._exit(0)
    while not list(tmp_path.glob("*.part")):
        time.sleep(0.01)
    assert write_shard(path, Recipe(), "{}", folder, rows, "x") == []
    content = path.read_bytes()
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["a.h5"]


def test_a_program_that_is_started_meanwhile_is_not_in_the_way(wavs, tmp_path):
    """A child that is forked while a shard is written holds what HDF5 would lock; the shard opens all the same."""
    folder, rows = wavs
    path, write = tmp_path / "a.h5", preprocess.shards._write
    children = []

    def write_and_fork(*arguments):
        file_of = preprocess.shards._create

        def create(partial):
            file = file_of(partial)
            if not (child := os.fork()):  # inherits the open file, as between fork and exec
                time.sleep(20)
                os._exit(0)
            children.append(child)
            return file

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preprocess.shards, "_create", create)
            write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess.shards, "_write", write_and_fork)
        write_shard(path, Recipe(), "{}", folder, rows, "x")
    try:
        assert len(open_shard(path).media_id) == len(rows)
        assert read_stamp(path)[0] == "x"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
