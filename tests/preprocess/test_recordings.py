"""The tables: what is written comes back, and what is damaged is said."""

import csv
import dataclasses
import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import PipelineError
from preprocess.recordings import (
    Recording,
    Reject,
    Species,
    read_columns,
    read_table,
    tally,
    update_rejects,
    write_table,
)
from preprocess.whole import whole_file

text = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)  # "\r" has its own test below
recordings = st.builds(
    Recording, text, text, locality=text, licence=text, duration=st.floats(0, 1e6), sample_rate=st.integers(0, 400_000)
)
NASTY = [
    '"',
    ",",
    "a,b",
    'a"b',
    "\n",
    "a\r\nb",
    "\r",
    "'",
    ";",
    "\t",
    " lead and trail ",
    "é\U0001f426",
    "",
    "\x00",
    "\x1c",
]


class TestRoundTrip:
    @given(rows=st.lists(recordings, max_size=5))
    @settings(max_examples=40)
    def test_recordings(self, tmp_path_factory, rows):
        path = tmp_path_factory.getbasetemp() / "recordings.csv"
        write_table(path, Recording, rows)
        assert read_table(path, Recording) == rows
        names = ("duration", "media_id", "sample_rate", "licence")
        assert read_columns(path, Recording, *names) == [[getattr(row, name) for row in rows] for name in names]

    @pytest.mark.parametrize("value", NASTY, ids=repr)
    def test_characters_that_csv_could_lose(self, tmp_path, value):
        rows = [Reject(value, "fetch", "reason", value), Reject("b", value, "reason", "")]
        write_table(tmp_path / "a.csv", Reject, rows)
        assert read_table(tmp_path / "a.csv", Reject) == rows

    def test_species_and_empty_tables(self, tmp_path):
        rows = [Species("a", "Parus major", "Great tit, 'the'", "Passeriformes", "Paridae"), Species("b")]
        write_table(tmp_path / "new" / "a.csv", Species, rows)
        assert read_table(tmp_path / "new" / "a.csv", Species) == rows
        write_table(tmp_path / "b.csv", Species, [])
        assert read_table(tmp_path / "b.csv", Species) == []

    def test_other_programs_can_read_it(self, tmp_path):
        row = Recording("1", "a/b.wav", "abcdef", background="x,y", locality='the "wood"', duration=1.5)
        write_table(tmp_path / "a.csv", Recording, [row])
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
            (found,) = csv.DictReader(stream)
        assert (found["media_id"], found["background"], found["locality"]) == ("1", "x,y", 'the "wood"')
        assert (float(found["duration"]), found["quality"]) == (1.5, "")
        assert row.background_ids == ["x", "y"]
        assert Recording("1", "a").background_ids == []

    def test_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "a.csv"
        write_table(path, Species, [Species("old")])

        def failing():
            yield Species("new")
            raise RuntimeError("interrupted")

        with pytest.raises(RuntimeError):
            write_table(path, Species, failing())
        assert read_table(path, Species) == [Species("old")]


class TestDamage:
    @pytest.fixture
    def table(self, tmp_path):
        path = tmp_path / "recordings.csv"
        rows = [Recording(str(i), f"{i}.wav", "abcdef", author="somebody", licence="CC0") for i in range(5)]
        write_table(path, Recording, rows)
        return path

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: "",
            lambda text: text.replace("media_id", "id", 1),
            lambda text: text.replace(",licence", "", 1),
            lambda text: text.replace("0.0,0,", "long,0,", 1),
            lambda text: text.replace("0.0,0,", "0.0,0.5,", 1),
            lambda text: text.replace("CC0\n", "CC0,extra\n", 1),
            lambda text: text[: text.rindex("\n", 0, -1) + 4],
            lambda text: text[: text.rindex("somebody") + 3],
            lambda text: text[: text.rindex("CC0") - 1] + "\n",
            lambda text: text.replace("\n3,", "\n\n3,", 1),
            lambda text: text.replace("\n2,", '\n"2,', 1),
            lambda text: text + "9" * 200_000 + "\n",
        ],
        ids=[
            "empty",
            "another name",
            "a column less",
            "text for a number",
            "fraction for a count",
            "a value too many",
            "cut in the second value",
            "cut in the author",
            "last value missing",
            "an empty line",
            "an open quote",
            "an endless value",
        ],
    )
    def test_gives_one_clear_error(self, table, damage):
        table.write_text(damage(table.read_text(encoding="utf-8")), encoding="utf-8")
        with pytest.raises(PipelineError) as caught:
            read_table(table, Recording)
        assert str(table) in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(PipelineError) as columns:
            read_columns(table, Recording, *(field.name for field in dataclasses.fields(Recording)))
        assert str(columns.value) == str(caught.value)

    def test_bytes_that_are_no_text(self, table):
        table.write_bytes(table.read_bytes().replace(b"somebody", b"\xff\xfe", 1))
        with pytest.raises(PipelineError, match="stage 1"):
            read_table(table, Recording)

    def test_row_of_another_table_that_is_too_short(self, tmp_path):
        path = tmp_path / "rejected.csv"
        path.write_text("file,stage,reason,detail\na.wav,fetch,empty\n")
        with pytest.raises(PipelineError, match="line 2"):
            read_table(path, Reject)

    def test_missing_table_names_the_stage(self, tmp_path):
        with pytest.raises(PipelineError, match=r"recordings\.csv is missing.*Run stages 1 to 3.*--stop-stage 3"):
            read_table(tmp_path / "recordings.csv", Recording)

    def test_the_line_is_named(self, table):
        table.write_text(table.read_text().replace("3.wav,abcdef,,,train,,0.0", "3.wav,abcdef,,,train,,x"))
        with pytest.raises(PipelineError, match="line 5"):
            read_table(table, Recording)


class TestRejects:
    def test_only_the_given_stages_are_replaced_and_the_order_is_fixed(self, tmp_path):
        path = tmp_path / "rejected.csv"
        fetch, resample, load = (Reject("b.wav", stage, "old") for stage in ("fetch", "resample", "load"))
        update_rejects(path, ["fetch", "resample", "load"], [load, resample, fetch])
        assert read_table(path, Reject) == [fetch, resample, load]
        new = [Reject("c.wav", "load", "x"), Reject("a.wav", "resample", "y"), Reject("a.wav", "load", "z")]
        update_rejects(path, ["resample", "load"], new)
        assert read_table(path, Reject) == [fetch, new[1], new[2], new[0]]
        update_rejects(path, ["resample", "load"], [])
        assert read_table(path, Reject) == [fetch]

    def test_tally(self):
        rejects = [Reject("a", "fetch", "empty"), Reject("b", "fetch", "truncated"), Reject("c", "fetch", "empty")]
        assert tally(7, rejects) == "7 recordings taken, 3 rejected (empty 2, truncated 1)"
        assert tally(1, [], "segments") == "1 segments taken, 0 rejected"


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path):
    """Which the system does not tell of a write; other errors stay as they are."""
    for number, name in ((errno.ENOSPC, str(tmp_path / "a.csv.part")), (errno.EPIPE, None)):
        with pytest.raises(OSError, match=os.strerror(number)) as error, whole_file(tmp_path / "a.csv"):
            raise OSError(number, os.strerror(number))
        assert error.value.filename == name
