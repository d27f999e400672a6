"""The log of the machine: what it writes, what it survives, and how it is read."""

import csv
import threading
import time

import numpy as np
import psutil
import pytest

from train.hardware_log import COLUMNS, HardwareLog, parse_gpus, read_hardware_log, sample_machine


def rows_of(path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def wait_for_lines(path, count: int) -> None:
    limit = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_it_samples_until_it_is_left(tmp_path):
    path = tmp_path / "hardware.csv"
    with HardwareLog(path, 0.02):
        wait_for_lines(path, 7)
    head, *rows = rows_of(path)
    assert tuple(head) == COLUMNS
    assert [row[1] for row in rows[:4]] == ["cpu", "process", "cpu", "process"]
    assert "hardware log" not in {thread.name for thread in threading.enumerate()}


def test_zero_seconds_write_nothing(tmp_path):
    with HardwareLog(tmp_path / "hardware.csv", 0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_appends_after_half_a_line(tmp_path):
    path = tmp_path / "hardware.csv"
    path.write_text(",".join(COLUMNS) + "\n2026-01-01T10:00:00.000,cpu,50.0,1000,4000,\n2026-01-01T10:00:01.0")
    with HardwareLog(path, 0.02):
        wait_for_lines(path, 6)
    rows = rows_of(path)
    assert rows.count(list(COLUMNS)) == 1
    assert rows[2] == ["2026-01-01T10:00:01.0"]
    found = read_hardware_log(path)
    assert found["cpu"][0] == {
        "seconds": 0.0,
        "use_percent": 50.0,
        "memory_mb": 1000.0,
        "memory_total_mb": 4000.0,
        "temperature_c": pytest.approx(np.nan, nan_ok=True),
    }
    assert found["cpu"][1]["seconds"] == 1.0  # months later, but the pause is not drawn


def test_samples_far_apart_keep_their_distance(tmp_path):
    """Every two minutes; the pause of an hour between two starts is not drawn."""
    minutes = [0, 2, 4, 6, 66, 68]
    lines = [f"2026-01-01T{10 + m // 60:02d}:{m % 60:02d}:00.000,cpu,50.0,1000,4000," for m in minutes]
    path = tmp_path / "hardware.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines, ""]))
    assert [row["seconds"] for row in read_hardware_log(path)["cpu"]] == [0, 120, 240, 360, 361, 481]


def test_a_clock_that_is_set_back_does_not_turn_time_back(tmp_path):
    """As in the night when summer time ends; a sample before its predecessor counts as a second later."""
    clock = ["02:59:58", "02:59:59", "02:00:00", "02:00:02"]
    path = tmp_path / "hardware.csv"
    path.write_text("\n".join([",".join(COLUMNS), *(f"2026-10-25T{t}.000,cpu,50.0,1000,4000," for t in clock), ""]))
    assert [row["seconds"] for row in read_hardware_log(path)["cpu"]] == [0, 1, 2, 4]


def test_memory_in_use_is_what_is_not_available(monkeypatch):
    """To everybody: 16 GB of which 4 can be had, whatever caches hold."""
    memory = psutil.virtual_memory()._replace(total=16 << 30, available=4 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert [row[3] for row in sample_machine(psutil.Process())] == [16_384, 16_384]
    assert sample_machine(psutil.Process())[0][2] == 12_288


def test_memory_is_that_of_the_process():
    before = sample_machine(psutil.Process())[1][2]
    block = np.ones(64 << 17)  # 64 MB, touched
    after = sample_machine(psutil.Process())[1][2]
    assert 50 < after - before < 90
    assert block[0] == 1


def test_answers_of_nvidia_smi():
    """As the tool prints them with csv,noheader,nounits; a value that a card lacks is [N/A]."""
    answer = "0, 97, 11874, 15360, 71\n1, 0, 3, 15360, [N/A]\n\nNVIDIA-SMI has failed\na, b, c, d, e\n"
    assert parse_gpus(answer) == [("gpu0", 97.0, 11874.0, 15360.0, 71.0), ("gpu1", 0.0, 3.0, 15360.0, "")]


def test_gpus_are_asked_through_nvidia_smi(tmp_path, monkeypatch):
    """A stand-in on PATH that answers twice and then fails: it is not asked again."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f'#!/bin/sh\necho asked >> {tmp_path}/asked\n[ "$(wc -l < {tmp_path}/asked)" -le 2 ] || exit 9\n'
        'echo "0, 40, 100, 1000, 55"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "hardware.csv"
    with HardwareLog(path, 0.02):
        wait_for_lines(path, 12)
    found = read_hardware_log(path)
    assert [(row["use_percent"], row["memory_mb"], row["temperature_c"]) for row in found["gpu0"]] == [
        (40, 100, 55)
    ] * 2
    assert (tmp_path / "asked").read_text().count("asked") == 3


def test_a_log_that_is_no_log(tmp_path, monkeypatch):
    path = tmp_path / "hardware.csv"
    assert read_hardware_log(path) == {}
    path.write_bytes(b"\xff\x00,cpu\n2026-01-01T10:00:00,cpu,x,1,1,\n2026-01-01T10:00:00,cpu\n\n")
    assert read_hardware_log(path) == {}
    monkeypatch.setattr("train.hardware_log.MAX_LOG_BYTES", 3)
    path.write_text("2026-01-01T10:00:00,cpu,1,1,1,\n")
    assert read_hardware_log(path) == {}
