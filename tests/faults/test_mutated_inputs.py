"""Mutations of every kind of file that the project reads: none may crash, hang, run wild, or be refused without a word.

BIRDSONG_MUTATIONS=600 tests/run.sh tests/faults -k mutat     # of each kind, 12,600 in all; without it 40
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import xmltodict

from preprocess.recordings import Reject, read_table
from tests.conftest import PROJECT, tone, write_release
from tests.faults.mutations import KINDS, VALID, make
from tests.preprocess.test_ill_formed_audio import features, stages

MUTATIONS = int(os.environ.get("BIRDSONG_MUTATIONS", "40"))
SECONDS = 20  # for one mutation
AT_ONCE = 200  # in a process


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_end_in_an_answer_or_a_reason(kind, tmp_path):
    ends = Counter()
    for first in range(0, MUTATIONS, AT_ONCE):
        count = min(AT_ONCE, MUTATIONS - first)
        command = [sys.executable, "-m", "tests.faults.read_mutations", kind, tmp_path, first, count, SECONDS]
        done = subprocess.run(
            list(map(str, command)), cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=count * SECONDS + 60
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"status {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
        failed = [line for line in lines if line["end"].startswith("failed")]
        assert not failed, f"{len(failed)} of {kind}, first: seed {failed[0]['seed']}\n{failed[0]['end']}"
        assert [line["end"] for line in lines if line["seed"] == VALID] == ["", "accepted"]
        ends.update(line["end"].partition(":")[0] for line in lines if line["end"] and line["seed"] != VALID)
    print(kind, dict(ends))
    assert sum(ends.values()) == MUTATIONS
    if MUTATIONS >= 40:
        assert ends["rejected"] or kind in ("wav", "float_wav", "mp3", "ogg", "stored_wav", "xml"), (
            "mutations are too mild"
        )


@pytest.mark.slow
def test_mutated_recordings_change_nothing_of_the_good_ones(tmp_path):
    """Stages 1 to 3 with broken recordings among good ones: the same bytes, and each is taken or has a reason."""
    clean, dirty = (write_release(tmp_path / name, []) for name in ("clean", "dirty"))
    for root in (clean, dirty):
        for k in range(4):
            soundfile.write(root / f"TrainingSet/wav/RNgood{k}.wav", tone(1000 * (k + 1), 2), 44_100, subtype="PCM_16")
    count = max(60, MUTATIONS // 4)
    for seed in range(count):
        kind = ("wav", "flac", "ogg", "mp3")[seed % 4]
        path = make(kind, tmp_path, 10_000 + seed)
        shutil.move(path, dirty / f"TrainingSet/wav/RNbad{seed}{path.suffix}")
    for root in (clean, dirty):
        for k, path in enumerate(sorted((root / "TrainingSet/wav").iterdir())):
            tags = {
                "MediaId": path.stem.removeprefix("RN"),
                "FileName": path.name,
                "ClassId": ("aaaaaa", "bbbbbb")[k % 2],
            }
            (root / "TrainingSet/xml" / f"{path.stem}.xml").write_text(xmltodict.unparse({"Audio": tags}))
    good, all_of_them = features(stages(tmp_path / "b", clean)), stages(tmp_path / "a", dirty)
    found = features(all_of_them)
    assert {name: found[name] for name in good} == good
    rejects = read_table(all_of_them.corpus_dir / "rejected.csv", Reject)
    assert all(row.reason and row.detail for row in rejects)
    named = {Path(row.file).stem.removeprefix("RN") for row in rejects}
    assert named | set(found) == set(good) | {f"bad{seed}" for seed in range(count)}
    assert named.isdisjoint(found)
    assert len(named) > count / 5
