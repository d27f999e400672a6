"""Seals of finished files, and one process at a time."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import PipelineError, to_toml
from preprocess import resample as resample_module
from preprocess.alone import alone_in
from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.resample import resample
from preprocess.seals import (
    Seal,
    check_content,
    checksum,
    find_changed,
    is_intact,
    is_there,
    look,
    read_facts,
    read_seals,
    seal,
    seal_content,
    write_facts,
    write_seals,
)
from preprocess.segments import open_shards
from tests.conftest import PROJECT


@pytest.fixture
def own(corpus, tmp_path):
    """A copy of the corpus of three species that may be damaged."""
    from dataclasses import replace

    shutil.copytree(corpus.corpus_dir, tmp_path / "small")
    return replace(corpus, data=replace(corpus.data, folder=str(tmp_path)))


def flip(path, place=-1000) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_seal(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"bird" * 3_000_000)
    known = seal(path, content=True)
    assert known.crc32 == checksum(path) == zlib.crc32(b"bird" * 3_000_000)
    assert is_intact(path, known)
    assert is_intact(path, None)
    flip(path)
    assert not is_intact(path, known)
    flip(path)  # back again, at another time
    assert is_intact(path, known)
    assert not is_intact(path, Seal(known.size, known.mtime_ns))  # without a checksum the time decides
    path.write_bytes(b"bird")
    assert not is_intact(path, known)
    path.unlink()
    assert not is_intact(path, known)


numbers = st.integers(0, 1 << 63)
rows_of_seals = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1),
    st.tuples(numbers, numbers, st.none() | numbers),
)


@given(rows_of_seals)
def test_the_table_of_seals_round_trips(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    seals = {name: Seal(*values) for name, values in rows.items()}
    write_seals(folder, seals)
    assert read_seals(folder) == seals


@pytest.mark.parametrize("text", [
    "", "a,b\n", "name,size,mtime_ns,crc32\na,x,1,\n", "name,size,mtime_ns,crc32\na\n",
    "name,size,crc32,mtime_ns\na,1,2,3\n",
])  # fmt: skip
def test_a_damaged_table_seals_nothing(tmp_path, text):
    (tmp_path / "sealed.csv").write_text(text)
    assert read_seals(tmp_path) == {}


@pytest.mark.parametrize("block", [1, 24, 100, 1 << 22])
def test_content_is_read_in_blocks(tmp_path, monkeypatch, block):
    """SHA-256 of the names, shapes, types and bytes, however many are read at once."""
    values = np.arange(60.0).reshape(20, 3)
    monkeypatch.setattr("preprocess.seals.BLOCK", block)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"], file["z"] = values, 3, np.empty((0, 2))
        seal_content(file)
        expected = hashlib.sha256(b"x(20, 3)float64" + values.tobytes() + b"y()int64" + np.int64(3).tobytes())
        expected.update(b"z(0, 2)float64")
        assert file.attrs["sha256"] == expected.hexdigest()


@pytest.mark.parametrize("change", ["value", "attribute", "name", "added", "removed"])
def test_the_content_of_hdf5(tmp_path, change):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/x"] = np.arange(1000.0)
        file["y"] = 3
        file.attrs["history"] = np.void(b"abc")
        seal_content(file)
        check_content(file)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        check_content(file)
        if change == "value":
            file["group/x"][500] = 501
        elif change == "attribute":
            file.attrs["history"] = np.void(b"abd")
        elif change == "name":
            file.move("y", "z")
        elif change == "added":
            file["z"] = 1
        else:
            del file["y"]
        with pytest.raises(ValueError, match="not what was written"):
            check_content(file)


def test_a_changed_table_of_the_corpus_is_made_again(own, capsys):
    """Also one that still can be read."""
    expected = {name: (own.corpus_dir / name).read_bytes() for name in ("recordings.csv", "classes.csv", "truth.csv")}
    for name, content in expected.items():
        (own.corpus_dir / name).write_bytes(content.replace(b"aaaaaa", b"aaaaab"))
        fetch(own, 1)
        assert f"made again, as they are not what was written: {name}" in capsys.readouterr().out
        assert (own.corpus_dir / name).read_bytes() == content
        fetch(own, 1)
        assert "nothing changed" in capsys.readouterr().out


def test_a_changed_wav_is_made_again(own, capsys):
    wav = sorted((own.corpus_dir / "wav_16khz").rglob("*.wav"))[3]
    content = wav.read_bytes()
    flip(wav)
    with pytest.raises(PipelineError, match=rf"{wav.name} changed since stage 2"):
        load(own, 1)
    resample(own, 1)
    assert f"made again, as they are not what was written: 1 files such as {wav}" in capsys.readouterr().out
    assert wav.read_bytes() == content
    load(own, 1)
    assert "1 shards made, 3 kept" in capsys.readouterr().out


def test_a_kill_while_recordings_are_resampled_again_costs_those_in_flight(own, capsys, monkeypatch):
    """All recordings have changed; the kill comes when six of them are done."""
    folder = own.corpus_dir / "wav_16khz"
    sources = folder / "sources.csv"
    sources.write_text(re.sub(r",(\d+),(\d+),$", r",1\1,\2,", sources.read_text(), flags=re.M))  # other sizes
    script = resample_module.run_script

    def killed(root, folder, rate, files, *more):
        script(root, folder, rate, files[:6], *more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resample_module, "run_script", killed)
        with pytest.raises(KeyboardInterrupt):
            resample(own, 1)
    assert "their recordings are other ones: 15 files" in capsys.readouterr().out
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("*.wav")}
    assert len(done) == 6
    resample(own, 1)
    assert "made again" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(folder.rglob("*.wav"))) == 15


def test_a_changed_shard_is_made_again(own, capsys):
    path = sorted(features_folder(own).glob("train-*.h5"))[1]
    content = path.read_bytes()
    flip(path, len(content) // 2)
    with pytest.raises(PipelineError, match=rf"{path.name} was changed since stage 3 wrote it\. Run stage 3 again"):
        open_shards(features_folder(own), "train")
    load(own, 1)
    assert "1 shards made, 3 kept" in capsys.readouterr().out
    assert path.read_bytes() == content
    assert len(open_shards(features_folder(own), "train")) == 3


def test_copied_shards_are_as_good(own, tmp_path):
    """Copying loses the times; the content is compared instead."""
    folder = features_folder(own)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(open_shards(tmp_path / "copy", "train")) == 3


def test_one_process_at_a_time(tmp_path):
    """The second waits a while and stops; a kill of the first frees the folder."""
    command = [
        sys.executable,
        "-c",
        f"import time\nfrom preprocess.alone import alone_in\nfrom pathlib import Path\n"
        f"with alone_in(Path({str(tmp_path)!r})):\n    print('in', flush=True)\n    time.sleep(100)",
    ]
    first = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "in\n"
        with (
            pytest.raises(PipelineError, match=rf"Another process is at work in {tmp_path}\. Wait until"),
            alone_in(tmp_path),
        ):
            pass
    finally:
        first.kill()
        first.wait()
    with alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_removed_again(tmp_path):
    """So that a stage that stops at once leaves none behind; not where there is something, nor one of before."""
    with pytest.raises(PipelineError), alone_in(tmp_path / "new"):
        raise PipelineError("no recordings")
    with alone_in(tmp_path / "used"):
        (tmp_path / "used" / "a").touch()
    (tmp_path / "before").mkdir()
    with alone_in(tmp_path / "before"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "used"]


def test_programs_of_a_killed_process_are_waited_for(own, tmp_path):
    """Only the stage itself is killed, and its sox works on; then the same command goes on."""
    program = tmp_path / "bin" / "sox"
    program.parent.mkdir()
    sox, begun, go = shutil.which("sox"), tmp_path / "begun", tmp_path / "go"
    program.write_text(f'#!/bin/sh\ntouch {begun}\nwhile [ ! -e {go} ]; do sleep 0.1; done\nexec {sox} "$@"\n')
    program.chmod(0o755)
    folder = own.corpus_dir / "wav_16khz"
    expected = {path: path.read_bytes() for path in folder.rglob("*.wav")}
    for path in expected:
        path.unlink()
    code = (
        "import sys; from config import load; from preprocess.resample import resample; resample(load(sys.argv[1]), 2)"
    )
    (tmp_path / "config.toml").write_text(to_toml(own))
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    first = subprocess.Popen([sys.executable, "-c", code, tmp_path / "config.toml"], cwd=PROJECT, env=environment)
    while not begun.exists():
        time.sleep(0.05)
    first.kill()
    first.wait()
    with pytest.raises(PipelineError, match="Another process is at work"):
        resample(own, 2)
    go.touch()
    with alone_in(own.corpus_dir, patience=60):
        pass
    resample(own, 2)
    assert {path: path.read_bytes() for path in folder.rglob("*.wav")} == expected


def test_what_cannot_be_made_again_is_kept(own, tmp_path):
    """Without the recordings that they were made from, resampled files are never removed."""
    wavs = sorted((own.corpus_dir / "wav_16khz").rglob("*.wav"))
    content = {path: path.read_bytes() for path in wavs}
    for path in wavs:
        os.utime(path, ns=(1, 1))
    text = (own.corpus_dir / "corpus.json").read_text()
    root = json.loads(text)["root"]
    (own.corpus_dir / "corpus.json").write_text(text.replace(root, str(tmp_path / "nowhere")))
    with pytest.raises(PipelineError):
        resample(own, 1)
    assert {path: path.read_bytes() for path in wavs} == content


@pytest.mark.parametrize("mounted", [False, True])
def test_a_disk_that_is_away_costs_no_seals(own, tmp_path, mounted):
    """Its folder may be there all the same, and empty."""
    folder = own.corpus_dir / "wav_16khz"
    before = [(folder / name).read_bytes() for name in ("sealed.csv", "sources.csv")]
    text = (own.corpus_dir / "corpus.json").read_text()
    (own.corpus_dir / "corpus.json").write_text(text.replace(json.loads(text)["root"], str(tmp_path / "disk")))
    if mounted:
        (tmp_path / "disk").mkdir()
        resample(own, 1)
    else:
        with pytest.raises(PipelineError, match=r"There is no folder .*/disk with the recordings"):
            resample(own, 1)
    assert [(folder / name).read_bytes() for name in ("sealed.csv", "sources.csv")] == before


def test_times_of_whole_seconds_are_as_good(tmp_path):
    """So do tar and some disks keep them."""
    path = tmp_path / "a"
    path.write_bytes(b"bird")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    known = seal(path)
    os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    assert is_intact(path, known)
    write_seals(tmp_path, {"a": known})
    assert find_changed(look(tmp_path, ["a"]), read_facts(tmp_path, ["a"])).tolist() == []
    os.utime(path, ns=(0, 1_700_000_001_000_000_000))
    assert not is_intact(path, known)
    assert find_changed(look(tmp_path, ["a"]), read_facts(tmp_path, ["a"])).tolist() == [0]


@pytest.mark.parametrize("year", [1960, 2300])
def test_times_far_away(tmp_path, year):
    path = tmp_path / "a"
    path.write_bytes(b"bird")
    os.utime(path, (0, (year - 1970) * 31_557_600))
    facts = look(tmp_path, ["a"])
    assert is_there(facts).all()
    write_facts(tmp_path, ["a"], facts)
    assert find_changed(look(tmp_path, ["a"]), read_facts(tmp_path, ["a"])).tolist() == []
    path.write_bytes(b"cuckoo")
    assert find_changed(look(tmp_path, ["a"]), read_facts(tmp_path, ["a"])).tolist() == [0]


def test_many_files_at_once(tmp_path):
    names = ["b", "a", "c"]
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 3)
    facts = look(tmp_path, names)
    expected = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (tmp_path / "b", tmp_path / "a")]
    assert facts.tolist() == [*map(list, expected), [-1, -1]]
    write_facts(tmp_path, names, facts)
    assert read_seals(tmp_path) == {name: seal(tmp_path / name) for name in "ab"}
    assert read_facts(tmp_path, ["c", "a", "b"]).tolist() == [[-1, -1], list(expected[1]), list(expected[0])]
    (tmp_path / "c").write_bytes(b"new")  # without a seal, it is taken as it is
    assert find_changed(look(tmp_path, names), read_facts(tmp_path, names)).tolist() == []
    (tmp_path / "a").write_bytes(b"other")
    assert find_changed(look(tmp_path, names), read_facts(tmp_path, names)).tolist() == [1]
    (tmp_path / "a").unlink()
    assert find_changed(look(tmp_path, names), read_facts(tmp_path, names)).tolist() == []
    (tmp_path / "sealed.csv").write_text("name,size,mtime_ns,crc32\nb,1,2,\na,1,99999999999999999999,\n")
    assert (read_facts(tmp_path, names) == -1).all()  # damaged: nothing is known
