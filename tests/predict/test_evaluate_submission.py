"""Submissions of competitions: every kind read and scored, against scikit-learn and figures by hand."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from config import PipelineError
from predict.evaluateSubmission import evaluate, interval, lay_beside, per_species
from predict.submission import Table, read_row_truth, read_submission, recording_of
from tests.conftest import run_script
from tests.predict.test_formats import written
from train.metrics import balanced_accuracy, padded_class_map, row_f1

SCRIPT = "predict/evaluateSubmission.py"


def a_file(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def random_tables(seed=0, rows=120, species=5) -> tuple[Table, Table]:
    """Return scores and a truth of 12 recordings, ten rows each."""
    rng = np.random.default_rng(seed)
    held = (rng.random((rows, species)) < 0.15).astype(float)
    scores = np.clip(rng.normal(0.3 + 0.3 * held, 0.2), 0, 1).round(2)
    ids, names = [f"soundscape_{i // 10}_{5 * (i % 10 + 1)}" for i in range(rows)], [f"s{c}" for c in range(species)]
    return Table(ids, names, scores, decided=False), Table(ids, names, held, decided=True)


# Figures


def test_figures_of_scores_are_those_of_sklearn():
    submission, truth = random_tables()
    result = evaluate(lay_beside(submission, truth))
    held, scores = truth.scores, submission.scores
    assert result["macro_auroc"]["value"] == pytest.approx(roc_auc_score(held, scores, average="macro"))
    assert result["cmap"]["value"] == pytest.approx(average_precision_score(held, scores, average="macro"))
    padded = np.concatenate([held, np.ones((5, 5))]), np.concatenate([scores, np.ones((5, 5))])
    assert result["padded_cmap"]["value"] == pytest.approx(average_precision_score(*padded, average="macro"))
    some = held.any(axis=1)
    of_rows = [average_precision_score(a, b) for a, b in zip(held[some], scores[some], strict=True)]
    low, high = result["row_map"]["interval"]
    assert low < result["row_map"]["value"] < high
    assert result["row_map"]["value"] == pytest.approx(np.mean(of_rows), abs=0.02)  # ties count otherwise there
    assert (result["rows"], result["recordings"], result["rows_with_species"]) == (120, 12, some.sum())
    assert "row_f1" not in result


def test_a_class_without_a_positive_counts_one_when_padded_and_nothing_else():
    scores, held = np.array([[0.9, 0.2], [0.1, 0.4], [0.3, 0.3]]), np.array([[0, 0], [1, 0], [0, 0]], bool)
    assert padded_class_map(scores, held) == pytest.approx(((5 + 6 / 8) / 6 + 1) / 2)  # 5 hits first, then third


@given(
    arrays.arrays(bool, (9, 4), elements=st.booleans()),
    arrays.arrays(bool, (9, 4), elements=st.booleans()),
)
def test_f1_of_rows_is_that_of_sklearn_with_nocall_as_a_class(found, relevant):
    """Also where rows hold nothing."""
    full = [np.column_stack([held, ~held.any(axis=1)]) for held in (relevant, found)]
    assert row_f1(found, relevant).mean() == pytest.approx(f1_score(*full, average="samples"))


@given(
    arrays.arrays(bool, (12, 3), elements=st.booleans()),
    arrays.arrays(bool, (12, 3), elements=st.booleans()),
    arrays.arrays(bool, (12, 3), elements=st.booleans()),
)
def test_balanced_accuracy_is_that_of_sklearn_over_what_is_known(found, relevant, known):
    own = [
        balanced_accuracy_score(relevant[known[:, c], c], found[known[:, c], c])
        for c in range(3)
        if 0 < relevant[known[:, c], c].sum() < known[:, c].sum()
    ]
    assert balanced_accuracy(found, relevant, known) == pytest.approx(np.mean(own) if own else np.nan, nan_ok=True)


def test_interval_is_over_recordings():
    """Two recordings of rows that are all right or all wrong: one interval from 0 to 1, whatever the rows' number."""
    rows = [f"{name}_{end}" for name in "ab" for end in range(5, 505, 5)]
    assert interval(rows, np.repeat([0.0, 1.0], 100)) == (0.0, 1.0)
    assert interval(rows, np.repeat([np.nan, 0.5], 100)) == (0.5, 0.5)
    long = [*(f"a_{5 * end}" for end in range(1000)), *(f"b{i}_5" for i in range(50))]
    low, high = interval(long, np.repeat([0.0, 1.0], [1000, 50]))  # a third of all draws lack the long one
    assert low < 0.05
    assert high == 1


def test_what_a_submission_lacks_is_not_found():
    truth = Table(["a_5", "a_10", "b_5"], ["x", "z"], np.array([[1, 0], [0, 0], [0, 1]], float), decided=True)
    submission = Table(["a_5", "c_5", "a_10"], ["x", "y"], np.array([[1, 0], [1, 1], [0, 1]], float), decided=True)
    beside = lay_beside(submission, truth)
    assert beside.species == ["x", "y", "z"]
    assert beside.scores.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert beside.relevant.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert (beside.missing, beside.surplus, beside.unknown) == (1, 1, ["z"])
    result = evaluate(beside)
    assert result["row_f1"]["value"] == pytest.approx(1 / 3)  # right, a false alarm instead of nothing, missed
    assert per_species(beside)[2] == {"class_id": "z", "rows": 1, "hits": 0, "false_alarms": 0, "missed": 1}


# Kinds


@pytest.mark.parametrize("name", ["kaggle2020", "kaggle2021", "kaggle2022", "kaggle2023", "birdclef2018-soundscapes"])
def test_every_submission_that_is_written_scores_itself(name, tmp_path):
    """As its own truth a file of decisions is perfect; scores are compared with the decisions of another kind."""
    path = written(name, tmp_path)
    submission = read_submission(path)
    assert set(submission.species) <= {"amecro", "brnowl", "1139490"}
    assert {recording_of(row).split("/")[-1].split("_")[0].split(".")[0] for row in submission.rows} == {
        "3575",
        "übung",
        "quiet",
    }
    if not submission.decided:
        assert submission.scores.max() == 0.9
        with pytest.raises(PipelineError, match="is no truth"):
            read_row_truth(path, submission)
        return
    result = evaluate(lay_beside(submission, read_row_truth(path, submission)))
    assert result["row_f1"]["value"] == result["balanced_accuracy"]["value"] == 1


def test_scores_against_decisions(tmp_path):
    """What was decided from the same scores ranks perfectly."""
    (tmp_path / "truth").mkdir()
    submission = read_submission(written("kaggle2023", tmp_path))
    truth = read_row_truth(written("kaggle2020", tmp_path / "truth"), submission)
    result = evaluate(lay_beside(submission, truth))
    assert result["macro_auroc"]["value"] == result["cmap"]["value"] == result["padded_cmap"]["value"] == 1
    assert result["missing_rows"] == result["surplus_rows"] == 0


def test_the_published_example_of_2020(tmp_path):
    """Three rows whose F1 are 1, 1/2 and 1."""
    truth = a_file(
        tmp_path / "t.csv", "row_id,site,seconds,birds\na_5,x,5,amecro\na_10,x,10,amecro amerob\na_15,x,15,nocall\n"
    )
    found = a_file(tmp_path / "s.csv", "row_id,birds\na_5,amecro\na_10,amecro bird666\na_15,nocall\n")
    submission = read_submission(found)
    assert evaluate(lay_beside(submission, read_row_truth(truth, submission)))["row_f1"]["value"] == pytest.approx(
        5 / 6
    )


def test_pairs_of_2022_score_only_what_the_truth_names(tmp_path):
    """One species with both kinds of rows, one that is only absent."""
    truth = a_file(
        tmp_path / "t.csv",
        "row_id,target\nsoundscape_1_akiapo_5,True\nsoundscape_1_akiapo_10,False\nsoundscape_1_skylar_5,False\n",
    )
    found = a_file(
        tmp_path / "s.csv",
        "row_id,target\nsoundscape_1_akiapo_5,True\nsoundscape_1_akiapo_10,True\nsoundscape_1_skylar_10,True\n",
    )
    submission = read_submission(found)
    beside = lay_beside(submission, read_row_truth(truth, submission))
    assert beside.known.tolist() == [[True, True], [True, False]]
    result = evaluate(beside)
    assert result["balanced_accuracy"]["value"] == 0.5  # of akiapo: one of one present, none of one absent
    assert "row_f1" not in result
    assert result["missing_rows"] == 1  # soundscape_1_5, of which the submission says nothing for skylar
    assert [(row["hits"], row["false_alarms"]) for row in per_species(beside)] == [(1, 1), (0, 0)]


def test_scores_count_only_where_the_truth_says_something(tmp_path):
    """A truth of 2022 beside scores that are right wherever it does, and high elsewhere."""
    truth = a_file(tmp_path / "t.csv", "row_id,target\nx_a_5,True\nx_a_10,False\nx_b_15,True\nx_b_20,False\n")
    said = "row_id,a,b\nx_5,0.6,0.9\nx_10,0.1,0.8\nx_15,0.9,0.5\nx_20,0.8,0.2\n"
    submission = read_submission(a_file(tmp_path / "s.csv", said))
    beside = lay_beside(submission, read_row_truth(truth, submission))
    result = evaluate(beside)
    for name in ("macro_auroc", "cmap", "padded_cmap", "row_map"):
        assert result[name]["value"] == 1, name
    assert [(row["auroc"], row["ap"]) for row in per_species(beside)] == [(1, 1), (1, 1)]


def test_of_species_that_a_truth_does_not_name_it_says_nothing(tmp_path):
    """A truth of 2022 names the rows of some species; a third one, wherever it is found, changes no figure."""
    rows = ("x_a_5,True", "x_a_10,False", "x_b_5,True", "x_b_10,False", "x_b_15,False")
    truth = a_file(tmp_path / "t.csv", "\n".join(["row_id,target", *rows]))
    results = []
    for said in (
        "row_id,a,b\nx_5,0.6,0.2\nx_10,0.1,0.8\nx_15,0.9,0.1\n",
        "row_id,a,b,c\nx_5,0.6,0.2,0.7\nx_10,0.1,0.8,0.9\nx_15,0.9,0.1,0.9\n",
    ):
        submission = read_submission(a_file(tmp_path / "s.csv", said))
        beside = lay_beside(submission, read_row_truth(truth, submission))
        results.append(evaluate(beside))
    assert beside.known.tolist() == [[True, True, False]] * 2 + [[False, True, False]]
    for name in ("macro_auroc", "cmap", "padded_cmap", "row_map"):
        assert results[0][name] == results[1][name], name
    assert results[0]["macro_auroc"]["value"] == (1 + 1 / 2) / 2
    assert results[0]["padded_cmap"]["value"] == pytest.approx((1 + (5 + 6 / 7) / 6) / 2)


def test_labels_of_soundscapes_are_a_truth(tmp_path):
    """As the competition of 2026 gives them, some lines twice."""
    truth = a_file(
        tmp_path / "train_soundscapes_labels.csv",
        "filename,start,end,primary_label\n"
        "BC_1_S08.ogg,00:00:00,00:00:05,22961;grekis\nBC_1_S08.ogg,00:00:00,00:00:05,22961;grekis\n"
        "BC_1_S08.ogg,00:00:05,00:00:10,nocall\nBC_1_S08.ogg,00:59:55,01:00:00,grekis\n",
    )
    found = a_file(
        tmp_path / "s.csv", "row_id,22961,grekis\nBC_1_S08_5,0.5,0.5\nBC_1_S08_10,0.1,0.2\nBC_1_S08_3600,0,1\n"
    )
    submission = read_submission(found)
    read = read_row_truth(truth, submission)
    assert dict(zip(read.rows, read.scores.tolist(), strict=True)) == {
        "BC_1_S08_5": [1, 1],
        "BC_1_S08_10": [0, 0],
        "BC_1_S08_3600": [0, 1],
    }
    assert evaluate(lay_beside(submission, read))["macro_auroc"]["value"] == 1


def test_rows_that_lifeclef_does_not_list_hold_nothing(tmp_path):
    """A false alarm in a quiet stretch of a listed recording counts; other recordings do not."""
    truth = a_file(tmp_path / "t.csv", "PER1;00:00:00-00:00:05;meapar;1.0\n")
    found = a_file(
        tmp_path / "s.csv",
        "PER1;00:00:00-00:00:05;meapar;0.4\nPER1;00:00:05-00:00:10;meapar;0.8\nPER2;00:00:00-00:00:05;meapar;0.9\n",
    )
    submission = read_submission(found)
    result = evaluate(lay_beside(submission, read_row_truth(truth, submission)))
    assert result["cmap"]["value"] == 0.5
    assert (result["rows"], result["surplus_rows"]) == (2, 1)


def test_annotations_are_a_truth(tmp_path):
    """By the rule of detections: a tenth of a row, or most of a call; files without annotations are not scored."""
    folder = tmp_path / "tables"
    folder.mkdir()
    a_file(
        folder / "3575_COL_20200101.Table.1.selections.txt",
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tSpecies Code\n"
        "1\tSpectrogram 1\t1\t4.6\t5.2\tAmecro\n2\tSpectrogram 1\t1\t12\t13\tnewbird\n",
    )
    submission = read_submission(written("kaggle2021", tmp_path))
    truth = read_row_truth(folder, submission)
    assert truth.species == ["amecro", "newbird"]
    assert dict(zip(truth.rows, truth.scores.tolist(), strict=True)) == {
        "3575_COL_5": [1, 0],
        "3575_COL_10": [0, 0],
        "3575_COL_15": [0, 1],
    }
    path = a_file(tmp_path / "a.csv", "file,start,end,class_id\nx/quiet.wav,,,\ny/b.wav,1,2,amecro\n")
    of_csv = read_row_truth(path, read_submission(written("kaggle2023", tmp_path)))
    assert (of_csv.rows, of_csv.species) == (["quiet_5", "b_5"], ["amecro"])  # the second one the submission lacks


def test_annotations_of_files_that_differ_in_their_folder(tmp_path):
    """`a_b` is not `a_b_c`, but x/a_b and y/a_b cannot be told apart."""
    submission = Table(["a_b_5", "a_b_c_5"], ["s"], np.ones((2, 1)), decided=True)
    path = a_file(tmp_path / "t.csv", "file,start,end,class_id\na_b.wav,1,2,s\na_b_c.wav,,,\n")
    truth = read_row_truth(path, submission)
    assert dict(zip(truth.rows, truth.scores[:, 0].tolist(), strict=True)) == {"a_b_5": 1, "a_b_c_5": 0}
    path = a_file(tmp_path / "t.csv", "file,start,end,class_id\nx/a_b.wav,1,2,s\ny/a_b.wav,,,\n")
    with pytest.raises(PipelineError, match=r"a_b_5 could be of x/a_b\.wav or y/a_b\.wav of the truth"):
        read_row_truth(path, submission)


def test_annotated_rows_that_a_submission_lacks_count(tmp_path):
    """Of a recording that it has and of one that it has not; of Zenodo's tables, by a column that is named."""
    path = a_file(
        tmp_path / "t.csv",
        "Filename,Start Time (s),End Time (s),Tag\na.wav,0,5,x\na.wav,20,25,Y\nb.wav,0,5,y\nb.wav,2,2,x\n",
    )
    submission = read_submission(a_file(tmp_path / "s.csv", "row_id,x,y\na_5,0.9,0.1\n"))
    beside = lay_beside(submission, read_row_truth(path, submission, "tag"))
    assert dict(zip(beside.rows, beside.relevant.tolist(), strict=True)) == {
        "a_5": [True, False],
        "a_25": [False, True],
        "b_5": [True, True],
    }
    assert beside.missing == 2
    with pytest.raises(PipelineError, match="no submission"):
        read_row_truth(path, submission)
    odd = read_submission(a_file(tmp_path / "s.csv", "row_id,x\na_7,0.9\n"))
    with pytest.raises(PipelineError, match="a_7 does not end after a whole number of 5 s"):
        read_row_truth(path, odd, "tag")


@pytest.mark.parametrize(
    ("row", "recording"), [("a_b_5", "a_b"), ("a_b", "a_b"), ("_5", "_5"), ("a_" + "9" * 5000, "a_" + "9" * 5000)]
)
def test_which_recording_a_row_is_of(row, recording):
    assert recording_of(row) == recording


def test_rows_that_hold_nothing_can_be_missing_too():
    truth = Table(["a_5", "a_10"], [], np.zeros((2, 0)), decided=True)
    assert lay_beside(Table(["a_5"], [], np.zeros((1, 0)), decided=True), truth).missing == 1


def test_what_is_too_large_is_refused():
    """Small files can name many rows and, elsewhere, many species."""
    rows, names = [f"a_{5 * i}" for i in range(10_000)], [f"s{i}" for i in range(10_000)]
    truth = Table(rows, ["x"], np.zeros((10_000, 1)), decided=True)
    with pytest.raises(PipelineError, match="10000 rows of 10001 species"):
        lay_beside(Table(["a_0"], names, np.zeros((1, 10_000)), decided=True), truth)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,start,end,primary_label\na.ogg,0,60,x\n", "a piece from 0 to 60 s. Expected: pieces of 5 s"),
        ("filename,start,end,primary_label\na.ogg,0,6,x\n", "a piece from 0 to 6 s. Expected: pieces of 5 s"),
        ("P;00:00:00-1000000:00:00;x;0.5\n", "is no submission|line 1: expected MediaId"),
        ("row_id\na_5\n", "holds no species"),
        ("", "is no submission"),
        ("a,b\n1,2\n", "is no submission"),
        ("row_id,birds\n", "holds no row"),
        ("row_id,birds\na_5,x\na_5,y\n", "line 3: row a_5 comes twice"),
        ("row_id,birds\na_5\n", "line 2: another number of cells"),
        ("row_id,target\na_x_5,perhaps\n", "line 2: target is True or False, not 'perhaps'"),
        ("row_id,target\na_5,True\n", "line 2: 'a_5' is not <file>_<species>_<end>"),
        ("row_id,x,y\na_5,0.1,nan\n", "line 2: a score is no number"),
        ("row_id,x,y\na_5,0.1,inf\n", "line 2: a score is no number"),
        ("row_id,x,y\na_5,0.1,much\n", "line 2: a score is no number"),
        ("row_id,x,x\na_5,0.1,0.2\n", "a column comes twice"),
        ("row_id,x,y\n", "holds no row"),
        ("P;00:00:00-00:00:05;x;0.5\nP;00:00:00-00:00:05;x;0.5\n", "line 2: P lists species x twice"),
        ("P;00:00:00-00:00:05;x;0.5\nP;soon;x;0.5\n", "line 2: expected MediaId;TC1-TC2;ClassId;probability"),
        ("P;00:00:00-00:00:05;x;inf\n", "line 1: expected MediaId"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(PipelineError, match=message):
        read_submission(a_file(tmp_path / "broken.csv", text))


def test_a_truth_of_other_rows_says_which(tmp_path):
    submission = read_submission(a_file(tmp_path / "s.csv", "row_id,birds\na_5,x\n"))
    with pytest.raises(PipelineError, match="rows such as b_5; the submission has a_5"):
        read_row_truth(a_file(tmp_path / "t.csv", "row_id,birds\nb_5,x\n"), submission)


# Command


def test_command_prints_figures_and_writes_species(tmp_path):
    found = a_file(tmp_path / "s.csv", "row_id,x,y\na_5,0.9,0.1\na_10,0.2,0.3\nb_5,0.4,0.6\nc_5,0,0\n")
    truth = a_file(tmp_path / "t.csv", "row_id,birds\na_5,x\na_10,nocall\nb_5,y z\nb_10,x\n")
    out = run_script(SCRIPT, found, "--truth", truth, "--species", tmp_path / "species.csv")
    assert "macro AUROC (2024 to 2026)" in out.stdout
    assert "4 rows of 2 recordings, 3 of them with a species; 3 of 3 species present" in out.stdout
    assert "1 rows of the submission are not in the truth" in out.stdout
    assert "1 rows of the truth are not in the submission" in out.stdout
    assert "1 species of the truth are none of the submission: z" in out.stdout
    with (tmp_path / "species.csv").open(newline="") as stream:
        rows = {row["class_id"]: row for row in csv.DictReader(stream)}
    assert rows["y"] == {"class_id": "y", "rows": "1", "auroc": "1.0", "ap": "1.0"}
    assert float(rows["z"]["auroc"]) == 0.5
    assert json.loads(run_script(SCRIPT, found, "--truth", truth, "--json").stdout)["missing_rows"] == 1
    failed = run_script(SCRIPT, found, "--truth", tmp_path / "none.csv")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: Cannot read ")
