"""Every figure of the evaluation against a small example computed by hand, and the command as users call it."""

import csv
import json
import math
import re

import numpy as np
import pytest

from config import PipelineError
from predict.evaluate import TITLES, as_text, evaluate, main, per_recording
from predict.runfile import compare, read_run_file
from preprocess.metadata import read_truth
from tests.conftest import PROJECT, run_script
from train.metrics import bootstrap_interval
from train.run import Run

SCRIPT = PROJECT / "predict" / "evaluate.py"

# Recording 3 lists one species only, 4 is missing, 9 is surplus; zzz is no class of the run.
RUN = """\
1;a;0.6
1;b;0.3
1;c;0.1
2;a;0.5
2;b;0.3
2;c;0.2
3;a;0.9
5;a;0.4
5;b;0.4
5;c;0.2
9;a;1
"""
TRUTH = """\
MediaId,ClassId,BackgroundClassIds
1,a,
2,b,a
3,c,
4,d,zzz
5,a,c
"""
# By hand, classes a b c d; -1 stands for what is not listed:
#        a    b    c    d   main, rank   with background
#   1   .6   .3   .1   -1   a, 1         1
#   2   .5   .3   .2   -1   b, 2         (1/1 + 2/2) / 2
#   3   .9   -1   -1   -1   c, 4         1/4
#   4   -1   -1   -1   -1   d, missing   0
#   5   .4   .4   .2   -1   a, 2 (tie)   (1/2 + 2/3) / 2
FIRST = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4  # expected precision of one relevant among four
EXPECTED = {
    "map_main": (1 + 1 / 2 + 1 / 4 + 0 + 1 / 2) / 5,
    "map_background": (1 + 1 + 1 / 4 + 0 + 7 / 12) / 5,
    "top1": 1 / 5,
    "top5": 4 / 5,
    "macro_auroc": (3 / 6 + 2.5 / 4 + 0.5 / 4 + 1 / 2) / 4,
    # precision times rise of recall: a 1/2 and 2/4, b 1/3, c and d 1/5 (all alike)
    "cmap": ((1 / 2 + 2 / 4) / 2 + 1 / 3 + 1 / 5 + 1 / 5) / 4,
}
CHANCE = {
    "map_main": FIRST,
    "map_background": (3 * FIRST + 2 * (FIRST + (1 - FIRST) / 3)) / 5,
    "top1": 1 / 4,
    "top5": 1,
    "macro_auroc": 1 / 2,
}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "run.csv").write_text(RUN)
    (tmp_path / "truth.csv").write_text(TRUTH)
    return tmp_path / "run.csv", tmp_path / "truth.csv"


@pytest.fixture
def result(files):
    return evaluate(compare(read_run_file(files[0]), read_truth(files[1])))


def simple(count: int, classes: int, seed: int = 0):
    """Return a random run and its truth over all classes."""
    rng = np.random.default_rng(seed)
    names = [f"c{k}" for k in range(classes)]
    predictions = {str(i): dict(zip(names, rng.random(classes).tolist(), strict=True)) for i in range(count)}
    truth = {str(i): (names[i % classes], []) for i in range(count)}
    return predictions, truth


@pytest.mark.parametrize("name", TITLES)
def test_figures_by_hand(result, name):
    assert result[name]["value"] == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", CHANCE)
def test_chance_by_hand(result, name):
    assert result["chance"][name] == pytest.approx(CHANCE[name])


def test_chance_within_a_class_counts_the_classes_that_are_scored():
    """Where all recordings are of one class neither cmAP nor its chance is defined."""
    predictions, _ = simple(6, 3)
    result = evaluate(compare(predictions, {media_id: ("c1", []) for media_id in predictions}))
    assert np.isnan([result["cmap"]["value"], result["chance"]["cmap"]]).all()
    two = evaluate(compare(predictions, {media_id: (f"c{int(media_id) % 2}", []) for media_id in predictions}))
    first = np.mean(1 / np.arange(1, 7))  # the precision that one relevant of six has by chance
    assert two["chance"]["cmap"] == pytest.approx(2 / 5 * (1 - first) + first)


def test_counts(result):
    names = ("recordings", "classes", "classes_present", "missing_recordings", "surplus_recordings")
    assert [result[name] for name in names] == [5, 4, 4, 1, 1]
    assert result["unknown_background_species"] == 1


def test_figures_of_every_recording(files):
    found = per_recording(compare(read_run_file(files[0]), read_truth(files[1])))
    np.testing.assert_allclose(found["map_main"], [1, 1 / 2, 1 / 4, 0, 1 / 2])
    np.testing.assert_allclose(found["map_background"], [1, 1, 1 / 4, 0, 7 / 12])
    np.testing.assert_array_equal(found["top1"], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["top5"], [1, 1, 1, 0, 1])


def test_a_missing_recording_counts_0_everywhere():
    """Also where there are so few classes that the last place would do."""
    ranking = compare({"1": {"a": 1.0, "b": 0.0}}, {"1": ("a", []), "2": ("a", ["b"])})
    for values in per_recording(ranking).values():
        np.testing.assert_array_equal(values, [1, 0])
    assert evaluate(ranking)["map_main"]["value"] == 0.5


def test_surplus_recordings_change_nothing():
    predictions, truth = simple(12, 4)
    less = dict(list(truth.items())[:8])
    only = {media_id: predictions[media_id] for media_id in less}
    a, b = evaluate(compare(predictions, less)), evaluate(compare(only, less))
    assert (a.pop("surplus_recordings"), b.pop("surplus_recordings")) == (4, 0)
    assert a == b


def test_a_species_that_is_not_listed_is_as_good_as_the_last():
    """A list cut to its best entries scores what is missing by the number of all classes."""
    predictions, truth = simple(40, 6)
    cut = {media_id: dict(sorted(own.items(), key=lambda item: -item[1])[:2]) for media_id, own in predictions.items()}
    values = per_recording(compare(cut, truth))["map_main"]
    whole = per_recording(compare(predictions, truth))["map_main"]
    np.testing.assert_allclose(values, np.where(whole >= 1 / 2, whole, 1 / 6))


def test_a_species_listed_with_0_ranks_before_those_that_are_not_listed():
    ranking = compare({"1": {"b": 0.5, "a": 0.0}, "2": {"c": 1.0}}, {"1": ("a", []), "2": ("c", [])})
    np.testing.assert_allclose(per_recording(ranking)["map_main"], [1 / 2, 1])


def test_intervals_are_the_bootstrap_over_recordings():
    predictions, truth = simple(50, 5)
    ranking = compare(predictions, truth)
    result = evaluate(ranking)
    for name, values in per_recording(ranking).items():
        assert result[name]["value"] == pytest.approx(values.mean())
        assert result[name]["interval"] == bootstrap_interval(values)
        low, high = result[name]["interval"]
        assert low <= result[name]["value"] <= high


@pytest.fixture(scope="module")
def random_runs():
    """Return the figures of 60 random runs of one truth, and the chance that was announced."""
    rng = np.random.default_rng(4)
    names = [f"c{k}" for k in range(7)]
    truth = {str(i): (names[i % 7], [names[(i + 2) % 7]] if i % 3 else []) for i in range(21)}
    found = {name: [] for name in TITLES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.BOOTSTRAP_ROUNDS", 1)
        for _ in range(60):
            scores = rng.random((21, 7)).tolist()
            predictions = {str(i): dict(zip(names, row, strict=True)) for i, row in enumerate(scores)}
            result = evaluate(compare(predictions, truth))
            for name in TITLES:
                found[name].append(result[name]["value"])
    return found, result["chance"]


@pytest.mark.parametrize("name", TITLES)
def test_chance_is_what_random_scores_reach(random_runs, name):
    """The mean over random runs lies at the announced chance, within its own uncertainty."""
    found, chance = random_runs
    error = np.std(found[name]) / math.sqrt(len(found[name]))
    assert 0 < error < 0.02
    assert abs(np.mean(found[name]) - chance[name]) < 4 * error


def test_chance_of_cmap_for_one_recording_per_class():
    """With one positive among n recordings the precision is 1 / rank, on average H(n) / n."""
    result = evaluate(compare(*simple(5, 5)))
    assert result["chance"]["cmap"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)


def test_text(result):
    text = as_text(result)
    for name, title in TITLES.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{title}  ")]
        numbers = [float(number) for number in re.findall(r"\d\.\d{4}", line)]
        interval = list(result[name].get("interval", ()))
        wanted = [result[name]["value"], *interval, result["chance"][name]]
        assert numbers == pytest.approx(wanted, abs=5.1e-5)
    assert "5 recordings, 4 of 4 species present" in text
    assert "1 recordings of the truth have no prediction and count 0" in text
    assert "1 predicted recordings are not in the truth and were left out" in text
    assert "1 background species are no class of the run and were left out" in text


def test_text_names_only_what_there_is():
    text = as_text(evaluate(compare(*simple(6, 3))))
    assert "left out" not in text
    assert "count 0" not in text


# The command


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    main()


def test_recordings_that_were_trained_on_are_counted(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.toml").touch()
    (tmp_path / "split.csv").write_text("media_id,side\n1,train\n3,train\n4,validation\n99,train\n")
    call(monkeypatch, files[0], "--truth", files[1], "--run", tmp_path)
    assert "\n2 recordings are among those that the run was TRAINED on" in capsys.readouterr().out
    call(monkeypatch, files[0], "--truth", files[1], "--run", tmp_path, "--json")
    assert json.loads(capsys.readouterr().out)["trained_on"] == 2
    call(monkeypatch, files[0], "--truth", files[1])
    assert "TRAINED" not in capsys.readouterr().out


def test_species_and_confusions_by_hand(files, tmp_path, monkeypatch):
    """First: a for 1, 2, 3 and 5 (a tie), and nothing for 4."""
    outputs = tmp_path / "species.csv", tmp_path / "confusions.csv"
    call(monkeypatch, files[0], "--truth", files[1], "--species", outputs[0], "--confusions", outputs[1])
    species, pairs = (list(csv.DictReader(path.read_text().splitlines())) for path in outputs)
    assert [tuple(row[key] for key in ("class_id", "recordings", "predicted", "hits")) for row in species] == [
        ("a", "2", "4", "2"), ("b", "1", "0", "0"), ("c", "1", "0", "0"), ("d", "1", "0", "0"),
    ]  # fmt: skip
    assert [(row["precision"], row["recall"], row["f1"]) for row in species] == [
        ("0.5", "1.0", "0.66667"), ("", "0.0", "0.0"), ("", "0.0", "0.0"), ("", "0.0", "0.0"),
    ]  # fmt: skip
    assert np.mean([float(row["ap"]) for row in species]) == pytest.approx(EXPECTED["cmap"], abs=1e-4)
    assert [tuple(row.values()) for row in pairs] == [
        ("a", "a", "2"), ("b", "a", "1"), ("c", "a", "1"), ("d", "nothing", "1"),
    ]  # fmt: skip


def test_a_folder_that_is_no_run_says_nothing(files, tmp_path, monkeypatch):
    with pytest.raises(PipelineError, match="is no run directory"):
        call(monkeypatch, files[0], "--truth", files[1], "--run", tmp_path)
    assert not list(tmp_path.glob("test_scorings.csv"))


def test_every_scoring_is_noted_in_the_run(files, tmp_path, monkeypatch):
    (tmp_path / "config.toml").touch()
    (tmp_path / "split.csv").write_text("media_id,side\n99,train\n")
    for _ in range(2):
        call(monkeypatch, files[0], "--truth", files[1], "--run", tmp_path)
    with (tmp_path / "test_scorings.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["scored"], row["recordings"], row["map"]) for row in rows] == [(str(files[0]), "5", "0.45")] * 2


def test_the_figures_of_a_run_that_may_not_be_written(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.toml").touch()
    (tmp_path / "split.csv").write_text("media_id,side\n99,train\n")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Run, "note_scoring", refuse)
    call(monkeypatch, files[0], "--truth", files[1], "--run", tmp_path)
    assert "MAP, main species" in capsys.readouterr().out


def test_command(files, monkeypatch, capsys):
    call(monkeypatch, files[0], "--truth", files[1])
    assert re.search(r"MAP, main species +0\.4500", capsys.readouterr().out)


def strict(text: str):
    """Parse JSON as the standard has it: without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_command_json(files):
    done = run_script(SCRIPT, files[0], "--truth", files[1], "--json")
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)
    assert {name: found[name]["value"] for name in TITLES} == pytest.approx(EXPECTED)
    assert found["missing_recordings"] == 1


def test_json_of_a_single_recording_is_json_too(tmp_path, monkeypatch, capsys):
    """Where figures per class do not exist."""
    (tmp_path / "run.csv").write_text("1;a;0.5\n1;b;0.25\n")
    (tmp_path / "truth.csv").write_text("MediaId,ClassId\n1,a\n")
    call(monkeypatch, tmp_path / "run.csv", "--truth", tmp_path / "truth.csv", "--json")
    output = capsys.readouterr()
    assert output.err == ""
    assert strict(output.out)["map_main"]["value"] == 1


def test_command_with_a_damaged_file_ends_in_one_line(files):
    files[0].write_text(RUN + "5;d;2\n")
    done = run_script(SCRIPT, files[0], "--truth", files[1])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"error: {files[0]}, line 12: the probability is no number from 0 to 1: '2'."]


def test_command_needs_a_truth(files, monkeypatch, capsys):
    with pytest.raises(SystemExit) as refusal:
        call(monkeypatch, files[0])
    assert refusal.value.code == 2
    assert "--truth" in capsys.readouterr().err
