"""Detections against annotations: cells by hand, figures against scikit-learn, tables as Raven writes them."""

import csv

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, precision_recall_fscore_support

from config import PipelineError
from predict.evaluateDetections import (
    Cells,
    confusion,
    detection_ap,
    draw,
    evaluate,
    figures,
    into_cells,
    main,
    read_detections,
    read_table_of_detections,
)
from preprocess.annotations import Event, match_files, read_annotations
from tests.conftest import run_script
from tests.predict.test_formats import ALL, written

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def test_cells_by_hand():
    """A tenth of a cell is enough, and so is most of a short call; the rest of a long one is not."""
    truth = [
        Event("a", 4.0, 10.4, "x"),  # 1 s of the first cell, all of the second, 0.4 s of the third
        Event("a", 14.9, 15.05, "y"),  # two thirds of it in the third cell
        Event("b", 0, 0, ""),  # listened to, nothing heard
    ]
    found = [
        Event("a", 0, 5, "x", 0.7),
        Event("a", 2, 5, "x", 0.9),
        Event("c", 0, 5, "x", 0.8),
        Event("b", 5, 10, "y", 0.4),
    ]
    cells = into_cells(truth, found, {"a": 20.0, "b": 7.0}, ["x", "y"], 5.0)
    assert cells.truth.tolist() == [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert cells.scores.tolist() == [[0.9, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0.4]]


@pytest.mark.parametrize(
    ("end", "length", "step", "count"),
    [(1, 1, 5, 1), (1, 23, 5, 5), (23, 0, 5, 5), (1, 15, 5, 3), (1, 16.8, 2.4, 7), (2.1, 2.1, 0.3, 7)],
)
def test_how_many_cells_a_file_has(end, length, step, count):
    """To its end, also where that is quiet, or of the last annotation; 2.1 / 0.3 is more than 7 in floating point."""
    assert len(into_cells([Event("a", 0, end, "x")], [], {"a": length}, ["x"], step).truth) == count


def random_cells(seed=0) -> Cells:
    rng = np.random.default_rng(seed)
    truth = rng.random((200, 4)) < 0.2
    return Cells(truth, np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0.001, 1).round(2))


def test_figures_are_those_of_sklearn():
    cells = random_cells()
    rows, over = evaluate(cells, list("abcd"), 0.5)
    precision, recall, f1, support = precision_recall_fscore_support(cells.truth, cells.scores >= 0.5, average=None)
    for i, row in enumerate(rows[:4]):
        assert (row["precision"], row["recall"], row["f1"], row["cells"]) == pytest.approx(
            (precision[i], recall[i], f1[i], support[i])
        )
    micro = precision_recall_fscore_support(cells.truth, cells.scores >= 0.5, average="micro")
    assert (rows[4]["precision"], rows[4]["recall"], rows[4]["f1"]) == pytest.approx(micro[:3])
    assert rows[4]["ap"] == pytest.approx(np.mean([row["ap"] for row in rows[:4]]))
    (half,) = [row for row in over if row["threshold"] == 0.5]
    assert half["f1"] == rows[4]["f1"]
    assert half["macro_f1"] == pytest.approx(f1.mean())


def test_macro_f1_is_over_the_species_of_the_truth():
    """What is only found by mistake has no F1 of its own; its alarms count among all."""
    cells = random_cells()
    more = Cells(np.pad(cells.truth, ((0, 0), (0, 1))), np.pad(cells.scores, ((0, 0), (0, 1)), constant_values=0.97))
    for row in evaluate(more, list("abcde"), 0.5)[1]:
        found = more.scores >= row["threshold"]
        assert row["macro_f1"] == pytest.approx(f1_score(cells.truth, found[:, :4], average="macro", zero_division=0))
        assert row["f1"] == pytest.approx(f1_score(more.truth, found, average="micro", zero_division=0))


def test_average_precision():
    cells = random_cells(1)
    for truth, scores in zip(cells.truth.T, cells.scores.T, strict=True):
        assert detection_ap(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    truth, scores = np.array([1, 1, 0, 1], bool), np.array([0.9, 0.0, 0.8, 0.7])
    assert detection_ap(truth, scores) == pytest.approx((1 + 2 / 3) / 3)  # one was never detected
    assert np.isnan(detection_ap(np.zeros(2, bool), np.ones(2)))


def test_what_is_not_defined():
    found = figures(np.zeros(3, bool), np.zeros(3), 0.0)
    assert (found["hits"], found["false_alarms"], found["missed"]) == (0, 0, 0)
    assert np.isnan([found["precision"], found["recall"], found["f1"]]).all()


def test_confusions_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, 100), rng.random((100, 3))
    truth = np.eye(4, dtype=bool)[labels][:, :3]
    taken = np.where(scores.max(axis=1) >= 0.8, scores.argmax(axis=1), 3)
    matrix = confusion(Cells(truth, scores), 0.8)
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, taken))
    assert confusion(Cells(np.ones((2, 2), bool), np.ones((2, 2))), 0.5).sum() == 0  # two species at once
    silent = Cells(np.eye(2, dtype=bool), np.zeros((2, 2)))
    assert confusion(silent, 0.0).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]  # 0: not detected, at any threshold


def test_raven_tables(tmp_path):
    """With two views of every selection, times that count through the files, and names of files."""
    table = tmp_path / "x" / "rec1.Table.1.selections.txt"
    table.parent.mkdir()
    rows = ["1\tWaveform 1\t1\t1.5\t3.0\t0\t9000\tParus major", "1\tSpectrogram 1\t1\t1.5\t3.0\t0\t9000\tParus major"]
    table.write_text("\n".join([f"{RAVEN}\tSpecies", *rows]) + "\n")
    assert read_annotations(tmp_path) == [Event("rec1", 1.5, 3.0, "Parus major")]
    many = tmp_path / "many.txt"
    many.write_text(
        f"{RAVEN}\tBegin Path\tFile Offset (s)\tTag\n1\tSpectrogram 1\t1\t61.5\t63.0\t0\t9000\tC:\\d\\b.wav\t1.5\tgt\n"
    )
    assert read_annotations(many, "tag") == [Event("C:/d/b.wav", 1.5, 3.0, "gt")]
    with pytest.raises(PipelineError, match=r"no column with the species.*--label-column"):
        read_annotations(many)


def test_our_own_tables_are_read_back(tmp_path):
    """As truth for the same detections they are all right, and nothing is missed."""
    detections, names, lengths = read_detections(written("csv", tmp_path))
    truth = read_annotations(written("raven", tmp_path), "species code")
    files = match_files({event.file for event in truth}, lengths)
    known = [Event(files[e.file], e.start, e.end, names[e.label]) for e in truth]
    assert {(e.file, e.start, e.end, e.label) for e in known} == {(e.file, e.start, e.end, e.label) for e in detections}
    cells = into_cells(known, detections, lengths, sorted(set(names.values())), 5.0)
    assert (cells.truth == (cells.scores > 0)).all()
    assert len(cells.truth) == 3 + 1  # the quiet recording is not in the truth


def test_merged_detections_are_warned_of(tmp_path, capsys):
    """All of a stretch has the score of its best segment."""
    path = tmp_path / "detections.csv"
    for merge in ("True", "False"):
        path.write_text(f"file,start,end,class_id,score,merge\na.wav,0,60,a,0.9,{merge}\n")
        assert len(read_table_of_detections(path)) == 1
        assert ("Predict with --no-merge" in capsys.readouterr().out) == (merge == "True")


def test_files_are_found_by_their_names():
    files = ["a/x.wav", "b/x.wav", "c/y.flac"]
    assert match_files(["/data/b/x.wav", "y", "gone.wav"], files) == {
        "/data/b/x.wav": "b/x.wav",
        "y": "c/y.flac",
        "gone.wav": "gone.wav",
    }
    with pytest.raises(PipelineError, match=r"could be any of a/x\.wav, b/x\.wav"):
        match_files(["x.wav"], files[:2])


def test_a_file_of_the_same_name_in_another_folder_is_another_file():
    """Recorders name their files by the time, so those of two sites are called alike; nothing may be found in one."""
    files = ["B/20230512_043000.WAV", "1/x.wav", "11/x.wav", "deep/C/y.wav"]
    wanted = ["A/20230512_043000.WAV", "1/x.wav", "/mnt/1/x.wav", "C/y.txt", "c/C/y.wav"]
    assert match_files(wanted, files) == {
        "A/20230512_043000.WAV": "A/20230512_043000.WAV",
        "1/x.wav": "1/x.wav",
        "/mnt/1/x.wav": "1/x.wav",
        "C/y.txt": "deep/C/y.wav",
        "c/C/y.wav": "c/C/y.wav",
    }


def test_the_picture_of_many_species_stays_small(tmp_path):
    """Of 300 species the 40 that are there most often are drawn."""
    rng = np.random.default_rng(0)
    truth, scores = rng.random((500, 300)) < 0.003, rng.random((500, 300)).round(1)
    cells = Cells(truth, scores)
    classes = [f"s{i}" for i in range(300)]
    draw(tmp_path / "a.png", cells, evaluate(cells, classes, 0.5)[1], confusion(cells, 0.5), classes)
    with Image.open(tmp_path / "a.png") as image:
        assert max(image.size) < 3000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "file,start,end,class_id\na,inf,inf,b\n", "no time"),
        ("t.csv", "file,start,end,class_id\na,0,1e9,b\n", "no time"),
        ("t.csv", "file,start,end,class_id\na,nan,1,b\n", "no time"),
        ("t.csv", "file,start\n", "no column with the end"),
        ("t.csv", "file,start,end,class_id\na,x,1,b\n", "line 2: no time: 'x'"),
        ("t.txt", "Selection\n", "no column with the start: start, start time"),
        ("t.txt", None, "Cannot read"),
        ("", None, "holds no selection table"),
    ],
)
def test_what_is_no_truth(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError, match=words):
        read_annotations(tmp_path / name if name else tmp_path)


def test_command(tmp_path):
    detections = written("csv", tmp_path, results=ALL)
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "file,start,end,class_id\n3575_COL_20200101.ogg,0,7,American Crow\nquiet.wav,,,\nquiet.wav,1,2,Dodo\n", "utf-8"
    )
    done = run_script("predict/evaluateDetections.py", detections, "--truth", truth, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 species of the truth were never detected and count as missed: Dodo" in done.stdout
    assert "nothing was detected in 1 files of the truth, such as quiet.wav" in done.stdout
    table = pandas.read_csv(tmp_path / "out" / "species.csv", index_col="class_id")
    assert table.loc["amecro", ["hits", "false_alarms", "missed", "recall", "ap"]].tolist() == [2, 0, 0, 1, 1]
    assert table.loc["Dodo", ["hits", "missed"]].tolist() == [0, 1]
    with (tmp_path / "out" / "confusion.csv").open() as stream:
        rows = {row["is"]: row for row in csv.DictReader(stream)}
    assert rows["Dodo"]["nothing"] == "1"
    assert (tmp_path / "out" / "detections.png").stat().st_size > 10_000
    assert len(pandas.read_csv(tmp_path / "out" / "thresholds.csv")) == 19


def test_times_before_the_start_and_moments():
    """Neither marks a cell of another file, and an event without a length lies in its cell, the last one at the end."""
    events = [Event("b", start, end, "x") for start, end in ((-2.0, 1.0), (7.5, 7.5))]
    truth = [Event("a", 0.0, 10.0, ""), *events, Event("c", 10.0, 10.0, "x")]
    cells = into_cells(truth, [], {"a": 10.0, "b": 10.0, "c": 10.0}, ["x"], 5.0)
    assert cells.truth[:, 0].tolist() == [False, False, True, True, False, True]


def test_average_precision_of_many_cells():
    """In memory that does not grow with cells times hits."""
    rng = np.random.default_rng(1)
    truth = rng.random(200_000) < 0.2
    scores = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0.001, 1).round(3)
    assert detection_ap(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def test_the_best_threshold_is_told(tmp_path, monkeypatch, capsys):
    """Right are 0.9 and 0.6, wrong 0.5 and 0.2: F1 is 1 above 0.5, the first step of which is 0.55."""
    detections = tmp_path / "d.csv"
    rows = [f"a.wav,{5 * i},{5 * i + 5},x,{score},20\n" for i, score in enumerate((0.9, 0.6, 0.5, 0.2))]
    detections.write_text("file,start,end,class_id,score,duration\n" + "".join(rows))
    truth = tmp_path / "truth.csv"
    truth.write_text("file,start,end,class_id\na.wav,0,10,x\n")
    monkeypatch.setattr("sys.argv", ["x", str(detections), "--truth", str(truth)])
    main()
    assert "4 cells of 5 s in 1 files; best F1 1.000 at a threshold of 0.55;" in capsys.readouterr().out
    table = pandas.read_csv(tmp_path / "d" / "thresholds.csv")
    assert table.threshold[table.f1 == 1].tolist() == [0.55, 0.6]


def test_odd_names(tmp_path, monkeypatch):
    """Ids that differ in case only are two species; a $ draws no formula, and a = makes none in a spreadsheet."""
    detections = tmp_path / "d.csv"
    detections.write_text(
        "file,start,end,class_id,score,duration\na.wav,0,5,Robin,0.9,20\na.wav,5,10,robin,0.8,20\na.wav,5,10,x$_$,0.8,20\n"
    )
    truth = tmp_path / "truth.csv"
    truth.write_text("file,start,end,class_id\na.wav,0,5,Robin\na.wav,5,10,=1+1\n")
    monkeypatch.setattr("sys.argv", ["x", str(detections), "--truth", str(truth)])
    main()
    with (tmp_path / "d" / "species.csv").open(newline="") as stream:
        assert [row["class_id"] for row in csv.DictReader(stream)] == ["Robin", "robin", "x$_$", "'=1+1", "all"]
    assert (tmp_path / "d" / "detections.png").exists()
