"""Every format is read back by another reader than ours, or compared with its documented layout."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from config import PipelineError, Predict
from predict.detections import Detection, Result, detect
from predict.formats import Facts, formats
from predict.formats.activity import clock, hours_of, slot_of
from predict.formats.competitions import time_code
from predict.runfile import read_run_file
from preprocess.plots import open_pyplot
from preprocess.recordings import Recording, Species

SPECIES = [
    Species("amecro", "Corvus brachyrhynchos", "American Crow"),
    Species("brnowl", "Strix aluco", ""),
    Species("1139490", "", ""),
]
SCORES = np.array([[0.9, 0.1, 0.2], [0.6, 0.3, 0.2], [0.1, 0.8, 0.4]])
SECONDS = np.array([[0.0, 5.0], [5.0, 10.0], [9.2, 14.2]])
SETTINGS = Predict(minimum=0.38)


def result(name="a/3575_COL_20200101.ogg", duration=14.2, seconds=SECONDS, scores=SCORES, settings=SETTINGS) -> Result:
    """Return a result as prediction makes it."""
    row = Recording(name, name, part="test", duration=duration, sample_rate=32_000, date="2020-01-01", latitude="5.5")
    detections = detect(seconds, scores, np.full(scores.shape[1], settings.minimum), settings)
    return Result(row, Path("/data/my birds") / name, seconds, scores, scores.mean(axis=0), detections)


SECOND = result("b b/übung.wav", 4.0, np.array([[0.0, 4.0]]), np.array([[0.2, 0.7, 0.6]]))
QUIET = result("quiet.wav", 5.0, np.array([[0.0, 5.0]]), np.array([[0.3, 0.2, 0.1]]))
ALL = [result(), SECOND, QUIET]


def written(name: str, folder: Path, results=ALL, rows=None, more=None, **settings) -> Path:
    chosen = Predict(**{"minimum": 0.38} | settings)
    facts = Facts(
        SPECIES, "runs+more", "logmel-1234", '{"recipe": "logmel"}', "9.9", chosen, np.full(3, chosen.minimum), 11_025.0
    )
    facts = dataclasses.replace(facts, rows=rows, **(more or {}))
    write, ending = formats()[name]
    path = folder / f"out{ending.removesuffix('/')}"
    write(iter(results), path, facts)
    assert not list(folder.rglob("*.part"))
    return path


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_format_is_described_and_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    for name, (write, _) in formats().items():
        assert write.__doc__.startswith("Write ")
        assert f'written("{name}"' in text


# Competitions


def test_birdclef2016(tmp_path):
    path = written("birdclef2016", tmp_path)
    found = read_run_file(path)
    for one in ALL:
        assert found[one.recording.media_id] == pytest.approx(
            dict(zip([kind.class_id for kind in SPECIES], one.ranking, strict=True))
        )
    assert len(lines(written("birdclef2016", tmp_path, top=2))) == 6


def test_birdclef2018(tmp_path):
    table = pandas.read_csv(written("birdclef2018", tmp_path), sep=";", header=None, dtype={1: str})
    assert table.shape == (9, 4)
    assert table[3].tolist() == [1, 2, 3] * 3
    for _, own in table.groupby(0):
        assert own[2].is_monotonic_decreasing
    many = [Species(f"s{i}") for i in range(150)]
    wide = result(seconds=SECONDS[:1], scores=np.linspace(0, 1, 150)[None])
    facts = Facts(many, "r", "r", "{}", "1", Predict(), np.full(150, 0.5), 8000.0)
    for name, column in (("birdclef2018", 1), ("birdclef2018-soundscapes", 2)):
        for top, count in ((0, 100), (120, 100), (7, 7)):
            own = dataclasses.replace(facts, settings=Predict(top=top))
            formats()[name][0]([wide], tmp_path / "wide.csv", own)
            found = [line.split(";")[column] for line in lines(tmp_path / "wide.csv")]
            assert found[:count] == [f"s{i}" for i in range(149, 149 - count, -1)]
            assert len(found) == count * (1 if name == "birdclef2018" else 3)


def test_birdclef2018_soundscapes(tmp_path):
    rows = [line.split(";") for line in lines(written("birdclef2018-soundscapes", tmp_path, top=1))]
    assert [row[:3] for row in rows] == [
        ["a/3575_COL_20200101.ogg", "00:00:00-00:00:05", "amecro"],
        ["a/3575_COL_20200101.ogg", "00:00:05-00:00:10", "amecro"],
        ["a/3575_COL_20200101.ogg", "00:00:10-00:00:15", "brnowl"],
        ["b b/übung.wav", "00:00:00-00:00:05", "brnowl"],
        ["quiet.wav", "00:00:00-00:00:05", "amecro"],
    ]
    assert [float(row[3]) for row in rows] == pytest.approx([0.9, (5 * 0.6 + 0.8 * 0.1) / 5.8, 0.8, 0.7, 0.3])
    assert time_code(3 * 3600 + 61) == "03:01:01"


def test_kaggle2020_by_names(tmp_path):
    rows = list(csv.DictReader(lines(written("kaggle2020", tmp_path))))
    assert {row["row_id"]: row["birds"] for row in rows} == {
        "3575_COL_20200101_5": "amecro",
        "3575_COL_20200101_10": "amecro",
        "3575_COL_20200101_15": "brnowl 1139490",
        "übung_5": "brnowl 1139490",
        "quiet_5": "nocall",
    }


def test_kaggle2020_by_test_csv(tmp_path):
    """Sites 1 and 2 have rows of 5 s, site 3 rows of whole files."""
    test = tmp_path / "test.csv"
    test.write_text(
        "site,row_id,seconds,audio_id\n"
        "site_1,site_1_3575_COL_20200101_10,10.0,3575_COL_20200101\n"
        "site_1,site_1_3575_COL_20200101_15,15.0,3575_COL_20200101\n"
        "site_1,site_1_3575_COL_20200101_95,95.0,3575_COL_20200101\n"
        "site_3,site_3_3575_COL_20200101,,3575_COL_20200101\n"
        "site_3,site_3_übung,,übung\n"
        "site_1,site_1_gone_5,5.0,gone\n"
    )
    assert lines(written("kaggle2020", tmp_path, rows=test)) == [
        "row_id,birds",
        "site_1_3575_COL_20200101_10,amecro",
        "site_1_3575_COL_20200101_15,brnowl 1139490",
        "site_1_3575_COL_20200101_95,nocall",
        "site_3_3575_COL_20200101,amecro brnowl",  # by the ranking, not by the best segment
        "site_3_übung,brnowl 1139490",
        "site_1_gone_5,nocall",
    ]


def test_every_species_is_called_from_its_own_minimum_on(tmp_path):
    """By hand; a score that is equal to it is called."""
    one = result("x_y.wav", 10.0, np.array([[0.0, 5.0], [5.0, 10.0]]), np.array([[0.9, 0.2, 0.5], [0.95, 0.19, 0.51]]))
    more = {"minimum": np.array([0.95, 0.2, 0.5])}
    for name in ("kaggle2020", "kaggle2021"):
        table = pandas.read_csv(written(name, tmp_path, results=[one], more=more))
        assert table.birds.tolist() == ["1139490 brnowl", "amecro 1139490"]
    table = pandas.read_csv(written("kaggle2022", tmp_path, results=[one], more=more))
    assert table.target.tolist() == [False, True, True, True, False, True]


@pytest.mark.parametrize("name", ["kaggle2020", "kaggle2021", "kaggle2022", "kaleidoscope"])
def test_what_is_not_expected_or_was_not_heard_is_not_called(tmp_path, name):
    """Such scores are 0, which a minimum of 0 does not make a detection, as in the other formats."""
    scores = np.array([[0.0, 0.01, 0.0], [0.0, 0.0, 0.0]])
    one = result("x_y.wav", 10.0, np.array([[0.0, 5.0], [5.0, 10.0]]), scores)
    table = pandas.read_csv(written(name, tmp_path, results=[one], minimum=0.0))
    if name == "kaggle2022":
        assert table.row_id[table.target].tolist() == ["x_y_brnowl_5"]
    elif name == "kaleidoscope":
        assert table.TOP1MATCH.tolist() == ["Strix aluco", "NoID"]
    else:
        assert table.birds.tolist() == ["brnowl", "nocall"]


def test_kaggle2021(tmp_path):
    table = pandas.read_csv(written("kaggle2021", tmp_path, results=ALL[:1], top=1))
    assert table.row_id.tolist() == ["3575_COL_5", "3575_COL_10", "3575_COL_15"]
    assert table.birds.tolist() == ["amecro", "amecro", "brnowl"]


def test_kaggle2021_has_all_rows_that_are_asked_for(tmp_path):
    sample = tmp_path / "sample.csv"
    sample.write_text("row_id,birds\n99_COR_5,nocall\n10534_SSW_5,nocall\n10534_SSW_15,nocall\n")
    scape = result("10534_SSW_20170429.ogg")
    table = pandas.read_csv(written("kaggle2021", tmp_path, results=[scape], rows=sample))
    assert table.row_id.tolist() == ["10534_SSW_5", "10534_SSW_15", "99_COR_5"]  # no others: a row more is refused
    assert table.birds.tolist() == ["amecro", "brnowl 1139490", "nocall"]


def test_what_is_asked_for_and_not_there_is_told(tmp_path, capsys):
    """Or a submission of zeros would look like one."""
    sample = tmp_path / "sample.csv"
    sample.write_text("row_id,gretit1,amecro\nother_5,0,0\nsoundscape_1_5,0,0\n")
    written("kaggle2023", tmp_path, results=[result("soundscape_1.ogg")], rows=sample)
    out = capsys.readouterr().out
    assert "1 of 2 rows that are asked for have no recording, such as other_5" in out
    assert "1 of 2 columns that are asked for are no class ids of the run and stay 0, such as gretit1" in out
    sample.write_text("row_id,amecro\nsoundscape_1_5,0\n")
    written("kaggle2023", tmp_path, results=[result("soundscape_1.ogg")], rows=sample)
    assert "warning" not in capsys.readouterr().out


def test_kaggle2022(tmp_path):
    scape = result("soundscape_453028782.ogg")
    table = pandas.read_csv(written("kaggle2022", tmp_path, results=[scape]))
    assert len(table) == 9
    true = table.row_id[table.target].tolist()
    assert true == [f"soundscape_453028782_{rest}" for rest in ("amecro_5", "amecro_10", "brnowl_15", "1139490_15")]
    sample = tmp_path / "sample.csv"
    own = [f"soundscape_453028782_brnowl_{end}" for end in (5, 15)]
    sample.write_text("\n".join(["row_id,target", *(f"{row},False" for row in ["soundscape_1_brnowl_5", *own])]))
    only = pandas.read_csv(written("kaggle2022", tmp_path, results=[scape], rows=sample))
    assert only.row_id.tolist() == [*own, "soundscape_1_brnowl_5"]  # no such recording, but the row is asked for
    assert only.target.tolist() == [False, True, False]


def test_kaggle2023(tmp_path):
    scape = result("soundscape_29201.ogg")
    table = pandas.read_csv(written("kaggle2023", tmp_path, results=[scape]), index_col="row_id")
    assert table.columns.tolist() == ["amecro", "brnowl", "1139490"]
    assert table.index.tolist() == [f"soundscape_29201_{end}" for end in (5, 10, 15)]
    assert table.loc["soundscape_29201_5"].tolist() == pytest.approx([0.9, 0.1, 0.2])
    sample = tmp_path / "sample_submission.csv"
    rows = ["row_id,1139490,other,amecro", "soundscape_1_5,0,0,0", "soundscape_29201_5,0,0,0"]
    sample.write_text("\n".join(rows), encoding="utf-8-sig")  # as Excel saves it
    own = pandas.read_csv(written("kaggle2023", tmp_path, results=[scape], rows=sample), index_col="row_id")
    assert own.columns.tolist() == ["1139490", "other", "amecro"]
    assert own.loc["soundscape_29201_5"].tolist() == pytest.approx([0.2, 0, 0.9])
    assert own.index.tolist() == ["soundscape_29201_5", "soundscape_1_5"]
    assert own.loc["soundscape_1_5"].tolist() == [0, 0, 0]


def test_scores_are_written_so_that_they_rank_as_they_did(tmp_path):
    """As AUROC and AP go by the order alone."""
    close = result("x_y.wav", 5.0, np.array([[0.0, 5.0]]), np.array([[0.123456, 0.123457, 1.23457e-9]]))
    table = pandas.read_csv(written("kaggle2023", tmp_path, results=[close]), index_col="row_id")
    assert table.loc["x_y_5"].tolist() == [0.123456, 0.123457, 1.23457e-9]


@pytest.mark.parametrize("name", ["kaggle2020", "kaggle2021", "kaggle2022", "kaggle2023"])
def test_recordings_that_would_have_the_same_rows(tmp_path, name):
    """As of two cards of recorders; a file in which a row stands twice is refused."""
    with pytest.raises(PipelineError, match=r"a/x_1\.wav and b/x_1\.wav would have the same rows, x_1_5 and so on"):
        written(name, tmp_path, results=[result("a/x_1.wav"), result("b/x_1.wav")])
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("kaggle2020", "a,b\n1,2\n", "lacks the column row_id"),
        ("kaggle2020", "row_id,seconds,audio_id\nx_5,5,x\nx_10,ten,x\n", "line 3: seconds is no number: 'ten'"),
        ("kaggle2022", None, "Cannot read"),
        ("kaggle2022", "target,row_id\nTrue\n", "line 2: another number of cells than columns"),
        ("kaggle2023", "id,a\n", "lacks the column row_id"),
        ("kaggle2023", "", "lacks the column row_id"),
        ("kaggle2023", "row_id,a\n", "holds no row"),
        ("kaggle2023", None, "Cannot read"),
    ],
)
def test_rows_that_are_no_submission(tmp_path, name, text, words):
    rows = tmp_path / "rows.csv"
    if text is not None:
        rows.write_text(text)
    with pytest.raises(PipelineError, match=words):
        written(name, tmp_path, rows=rows)
    assert not (tmp_path / "out.csv").exists()


# Tables


DETECTIONS = [
    ("a/3575_COL_20200101.ogg", 0.0, 10.0, "amecro", 0.9),
    ("a/3575_COL_20200101.ogg", 9.2, 14.2, "brnowl", 0.8),
    ("a/3575_COL_20200101.ogg", 9.2, 14.2, "1139490", 0.4),
    ("b b/übung.wav", 0.0, 4.0, "brnowl", 0.7),
    ("b b/übung.wav", 0.0, 4.0, "1139490", 0.6),
]


def test_csv(tmp_path):
    table = pandas.read_csv(written("csv", tmp_path), dtype={"class_id": str})
    found = [tuple(row) for row in table[["file", "start", "end", "class_id", "score"]].to_numpy().tolist()]
    assert found == DETECTIONS
    assert table.scientific_name[0] == "Corvus brachyrhynchos"
    assert set(table.model) == {"runs+more"}
    assert set(table.version.astype(str)) == {"9.9"}
    assert set(table.minimum) == {0.38}
    assert set(table.recipe) == {"logmel-1234"}
    assert set(table.latitude) == {5.5}
    assert table.probability.isna().all()


def test_calibrated_scores(tmp_path):
    facts = {"probability": lambda score: score / 2}
    table = pandas.read_csv(written("csv", tmp_path, more=facts))
    np.testing.assert_allclose(table.probability, table.score / 2)
    third = pandas.read_csv(written("csv", tmp_path, more={"probability": lambda score: score / 3}))
    np.testing.assert_allclose(third.probability, third.score / 3, atol=1e-6)
    found = json.loads(written("json", tmp_path, more=facts).read_text(encoding="utf-8"))["recordings"][0]
    assert [own["probability"] for own in found["detections"]] == [0.45, 0.4, 0.2]
    assert [own["probability"] for own in found["ranking"]] == [0.45, 0.4, 0.2]  # of the best segment, as it is fitted


def test_the_least_score_of_every_species_is_told(tmp_path):
    """1 is a least score that is reached at best; more is none."""
    minimum = np.array([0.5, 0.25, 0.125])
    table = pandas.read_csv(written("csv", tmp_path, more={"minimum": minimum}), dtype={"class_id": str})
    assert dict(zip(table.class_id, table.minimum, strict=True)) == {"amecro": 0.5, "brnowl": 0.25, "1139490": 0.125}
    for value, told in ((1.0, 1.0), (1.01, None)):
        path = written("json", tmp_path, more={"minimum": np.full(3, value)})
        assert json.loads(path.read_text(encoding="utf-8"))["settings"]["minimum"] == told


def test_no_name_is_taken_for_a_formula(tmp_path):
    rows = list(csv.DictReader(lines(written("csv", tmp_path, results=[result("=cmd(1).wav"), result("-x.wav")]))))
    assert {row["file"] for row in rows} == {"./=cmd(1).wav", "./-x.wav"}
    odd = result("-deep/=x.wav")
    odd = dataclasses.replace(odd, recording=dataclasses.replace(odd.recording, locality="=HYPERLINK(1)"))
    species = {"species": [Species(kind.class_id, "=A(1)", "-B") for kind in SPECIES]}
    for name, file in (("csv", ""), ("activity", "activity.csv"), ("kaleidoscope", ""), ("raven", "")):
        path = written(name, tmp_path, results=[odd], more=species)
        rows = list(csv.reader(lines(path / file if file else path), delimiter="\t" if name == "raven" else ","))
        assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@") and cell != "-1"], name


def test_parquet(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("predict.formats.tables.ROWS_AT_ONCE", 2)
    table = pandas.read_parquet(written("parquet", tmp_path))
    text = pandas.read_csv(written("csv", tmp_path), dtype={"class_id": str, "version": str}, keep_default_na=False)
    assert table.columns.tolist() == text.columns.tolist()
    for name in ("file", "start", "end", "class_id", "score", "duration", "minimum", "merge", "top", "version"):
        assert table[name].tolist() == text[name].tolist()
    assert len(pandas.read_parquet(written("parquet", tmp_path, results=[QUIET]))) == 0


def test_json(tmp_path):
    found = json.loads(written("json", tmp_path).read_text(encoding="utf-8"))
    assert (found["model"], found["version"], found["recipe"]) == ("runs+more", "9.9", {"recipe": "logmel"})
    assert found["settings"]["minimum"] == 0.38
    own = written("json", tmp_path, more={"minimum": np.array([0.5, 0.25, 2.0])}).read_text(encoding="utf-8")
    assert json.loads(own)["settings"]["minimum"] == {"amecro": 0.5, "brnowl": 0.25, "1139490": None}
    assert [own["file"] for own in found["recordings"]] == [one.recording.file for one in ALL]
    flat = [
        (own["file"], d["start"], d["end"], d["class_id"], d["score"])
        for own in found["recordings"]
        for d in own["detections"]
    ]
    assert flat == DETECTIONS
    best = found["recordings"][0]["ranking"][0]
    assert best == {
        "class_id": "amecro",
        "scientific_name": "Corvus brachyrhynchos",
        "vernacular_name": "American Crow",
        "score": round(1.6 / 3, 6),
    }
    assert json.loads(written("json", tmp_path, results=[]).read_text())["recordings"] == []
    best = json.loads(written("json", tmp_path, top=2).read_text(encoding="utf-8"))["recordings"]
    assert [[kind["class_id"] for kind in own["ranking"]] for own in best] == [
        ["amecro", "brnowl"],
        ["brnowl", "1139490"],
        ["amecro", "brnowl"],
    ]


# Activity

DAWN = dataclasses.replace(
    result(duration=4000.0),
    recording=dataclasses.replace(
        result().recording, date="2023-05-12", time="04:30", locality="wood", duration=4000.0
    ),
    detections=[Detection(10, 15, 0, 0.9), Detection(1799, 1804, 1, 0.8), Detection(1801, 1806, 0, 0.7)],
)


def test_activity(tmp_path):
    """04:30 and 4,000 s: 30 minutes of the first hour, 36.67 of the second; a detection is in all that it touches."""
    again = dataclasses.replace(DAWN, recording=dataclasses.replace(DAWN.recording, date="2023-05-13"), detections=[])
    folder = written("activity", tmp_path, results=[DAWN, again, QUIET])
    table = pandas.read_csv(folder / "activity.csv", dtype={"class_id": str}, keep_default_na=False)
    rows = [
        tuple(row) for row in table[["site", "date", "hour", "minutes", "class_id", "detections"]].to_numpy().tolist()
    ]
    assert rows == [
        ("", "", -1, 0.08, "", 0),
        ("wood", "2023-05-12", 4, 30.0, "amecro", 1),
        ("wood", "2023-05-12", 4, 30.0, "brnowl", 1),
        ("wood", "2023-05-12", 5, 36.67, "amecro", 1),
        ("wood", "2023-05-12", 5, 36.67, "brnowl", 1),
        ("wood", "2023-05-13", 4, 30.0, "", 0),
        ("wood", "2023-05-13", 5, 36.67, "", 0),
    ]
    assert (folder / "activity.png").stat().st_size > 10_000


def test_a_detection_counts_in_every_hour_that_it_touches(tmp_path):
    """A bird sings from 04:30 to 05:20; the last segment is filled up beyond the end of the recording, at 06:00."""
    row = Recording("x", "x.wav", part="test", duration=5400, date="2023-05-12", time="04:30:00", locality="wood")
    found = [Detection(0.0, 3000.0, 0, 0.9), Detection(5396.0, 5401.0, 1, 0.9)]
    own = Result(row, Path("x.wav"), SECONDS, SCORES, SCORES.mean(axis=0), found)
    table = pandas.read_csv(written("activity", tmp_path, results=[own]) / "activity.csv")
    counts = table[["hour", "class_id", "detections"]].to_numpy().tolist()
    assert counts == [[4, "amecro", 1], [5, "amecro", 1], [5, "brnowl", 1]]


def test_the_most_active_come_first_and_none_is_lost_at_the_end(tmp_path):
    """A header may say less than was heard: what begins at that end or after it counts, too."""
    row = Recording("x", "x.wav", part="test", duration=60, date="2023-05-12", time="04:30:00", locality="wood")
    found = [Detection(0.0, 5.0, 0, 0.9), *(Detection(start, start + 5, 1, 0.9) for start in (10.0, 60.0, 60.3))]
    own = Result(row, Path("x.wav"), SECONDS, SCORES, SCORES.mean(axis=0), found)
    table = pandas.read_csv(written("activity", tmp_path, results=[own]) / "activity.csv")
    assert table[["class_id", "detections"]].to_numpy().tolist() == [["brnowl", 3], ["amecro", 1]]


def test_the_heat_map_shows_detections_per_recorded_hour(tmp_path, monkeypatch):
    """Two in half an hour are four an hour, over the day and day by day; an hour without a recording is grey."""
    pyplot = open_pyplot()
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    before = set(pyplot.get_fignums())
    row = dataclasses.replace(DAWN.recording, duration=1800.0)
    own = dataclasses.replace(DAWN, recording=row, detections=[Detection(0, 5, 1, 0.9), Detection(10, 15, 1, 0.9)])
    written("activity", tmp_path, results=[own])
    (number,) = set(pyplot.get_fignums()) - before
    monkeypatch.undo()
    figure = pyplot.figure(number)
    for axis in figure.axes[:2]:
        rate = np.ma.filled(axis.images[0].get_array(), np.nan)
        assert rate.shape == (1, 24)
        assert rate[0, 4] == 4
        assert np.isnan(np.delete(rate[0], 4)).all()
    pyplot.close(figure)


def test_activity_over_midnight_and_without_a_clock():
    start = clock("2023-12-31", "23:59")
    assert hours_of("s", start, 7320) == [
        (("s", "2023-12-31", 23), 60.0),
        (("s", "2024-01-01", 0), 3600.0),
        (("s", "2024-01-01", 1), 3600.0),
        (("s", "2024-01-01", 2), 60.0),
    ]
    assert clock("2023-12", "23:59") is clock("2023-12-31", "") is None
    assert hours_of("s", start, 120, 50) == [(("s", "2023-12-31", 23), 10.0), (("s", "2024-01-01", 0), 60.0)]
    assert hours_of("s", start, 60.75, 50.25) == [(("s", "2023-12-31", 23), 9.75), (("s", "2024-01-01", 0), 0.75)]
    assert hours_of("s", None, 70) == [(("s", "", -1), 70)]
    assert slot_of("s", start, 61) == ("s", "2024-01-01", 0)


# Programs for listening


def test_raven(tmp_path):
    table = pandas.read_csv(written("raven", tmp_path), sep="\t", dtype={"Species Code": str}, keep_default_na=False)
    assert table.columns[:7].tolist() == [
        "Selection",
        "View",
        "Channel",
        "Begin Time (s)",
        "End Time (s)",
        "Low Freq (Hz)",
        "High Freq (Hz)",
    ]
    assert table.Selection.tolist() == [1, 2, 3, 4, 5]
    assert set(table.View) == {"Spectrogram 1"}
    assert table["File Offset (s)"].tolist() == [row[1] for row in DETECTIONS]
    before = np.where(table["Begin Path"].str.endswith("übung.wav"), 14.2, 0)  # files one after the other
    assert (table["Begin Time (s)"] - before).tolist() == pytest.approx([row[1] for row in DETECTIONS])
    assert (table["End Time (s)"] - before).tolist() == pytest.approx([row[2] for row in DETECTIONS])
    assert table["Begin Path"][0] == "/data/my birds/a/3575_COL_20200101.ogg"
    assert table["Species Code"].tolist() == [row[3] for row in DETECTIONS]
    assert table["Common Name"].tolist()[:3] == ["American Crow", "Strix aluco", "1139490"]
    assert (table["High Freq (Hz)"] == 11_025).all()


def test_raven_counts_whole_files(tmp_path):
    """Also where nothing was heard in the end of one."""
    long = result("long.wav", 60.0)
    table = pandas.read_csv(written("raven", tmp_path, results=[long, SECOND]), sep="\t")
    later = table[table["Begin Path"].str.endswith("übung.wav")]
    assert later["Begin Time (s)"].tolist() == [60, 60]
    assert later["End Time (s)"].tolist() == [64, 64]


def test_raven_stays_below_the_nyquist_frequency_of_the_file(tmp_path):
    one = result()
    low = dataclasses.replace(one, recording=dataclasses.replace(one.recording, sample_rate=8000))
    table = pandas.read_csv(written("raven", tmp_path, results=[low]), sep="\t")
    assert (table["High Freq (Hz)"] == 4000).all()


def test_audacity(tmp_path):
    """Documented: no header; start, tab, end, tab, text; seconds with a point."""
    folder = written("audacity", tmp_path)
    files = {path.relative_to(folder).as_posix(): lines(path) for path in folder.rglob("*.txt")}
    assert files == {
        "a/3575_COL_20200101.ogg.txt": [
            "0.000\t10.000\tAmerican Crow 0.90",
            "9.200\t14.200\tStrix aluco 0.80",
            "9.200\t14.200\t1139490 0.40",
        ],
        "b b/übung.wav.txt": ["0.000\t4.000\tStrix aluco 0.70", "0.000\t4.000\t1139490 0.60"],
        "quiet.wav.txt": [],
    }
    with pytest.raises(PipelineError, match="leads out of the folder"):
        written("audacity", tmp_path, results=[result("../../x.wav")])
    with pytest.raises(PipelineError, match="leads out of the folder"):  # to a neighbour of out
        written("audacity", tmp_path, results=[result("../out-of-it/x.wav")])
    odd = [Species("a", "", "Great\tTit\nof  woods"), *SPECIES[1:]]
    folder = written("audacity", tmp_path, results=[result("odd.wav")], more={"species": odd})
    assert lines(folder / "odd.wav.txt")[0] == "0.000\t10.000\tGreat Tit of woods 0.90"


def test_kaleidoscope(tmp_path):
    rows = list(csv.DictReader(lines(written("kaleidoscope", tmp_path))))
    assert list(rows[0]) == ["INDIR", "FOLDER", "IN FILE", "OFFSET", "DURATION", "TOP1MATCH", "TOP1DIST"]
    assert [tuple(row.values()) for row in rows] == [
        ("/data/my birds", "a", "3575_COL_20200101.ogg", "0.000", "5.000", "American Crow", "0.1000"),
        ("/data/my birds", "a", "3575_COL_20200101.ogg", "5.000", "5.000", "American Crow", "0.4000"),
        ("/data/my birds", "a", "3575_COL_20200101.ogg", "9.200", "5.000", "Strix aluco", "0.2000"),
        ("/data/my birds", "b b", "übung.wav", "0.000", "4.000", "Strix aluco", "0.3000"),
        ("/data/my birds", "", "quiet.wav", "0.000", "5.000", "NoID", ""),
    ]
    rows = csv.DictReader(lines(written("kaleidoscope", tmp_path, more={"minimum": np.array([0.95, 0.3, 0.4])})))
    found = [(row["TOP1MATCH"], row["TOP1DIST"]) for row in rows]  # the best of those that reach their minimum
    assert found[:3] == [("NoID", ""), ("Strix aluco", "0.7000"), ("Strix aluco", "0.2000")]
