"""Cross-validation: every recording is scored once per seed by a network that never saw it, and the table says so."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import accuracy_score

from config import ConfigError, PipelineError, Train
from predict.predict import open_member
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table, write_table
from preprocess.segments import open_shards
from tests.train.conftest import derived
from train.crossValidate import as_text, cross_validate, plan, report
from train.run import Run, resolve, write_rows
from train.scored import Scored, ensemble, read_scored, soften, write_scored
from train.trainModel import open_dataset, train

TINY = (
    "model.network=tiny",
    "train.run=tiny",
    "train.epochs=1",
    "train.validation=0.34",
    "train.monitor=last",
    "train.optimizer={name='adamw', learning_rate=1e-2}",
)


@pytest.fixture(scope="module")
def trials(corpus, tiny, uncompiled, tmp_path_factory):
    """Two folds, trained; the second alone at first."""
    home = tmp_path_factory.mktemp("cv")
    found = plan(derived(corpus, home, *TINY), 2, 1, "recordist")
    cross_validate(found, ["2"])
    assert [row["fold"] for row in read_rows(found[0].config.run_dir.parent / "folds.csv")] == ["2"]
    cross_validate(found)
    return found


def read_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_teacher_would_give_the_folds_away(corpus, tmp_path):
    with pytest.raises(ConfigError, match="teacher's networks were trained on the folds"):
        plan(derived(corpus, tmp_path, *TINY, 'train.teacher="runs/cv-x"'), 2, 1, "recordist")


def test_folds_without_validation_are_told_before_the_first_training(corpus, tiny, tmp_path):
    trials = plan(derived(corpus, tmp_path, *TINY, "train.validation=0"), 2, 1, "recordist")
    with pytest.raises(PipelineError, match=r"Fold 1, seed 0: train\.validation=0 of .* leaves none"):
        cross_validate(trials)
    assert not trials[0].config.run_dir.exists()


@pytest.mark.slow
class TestWhole:
    def test_every_recording_is_held_out_once(self, trials, corpus):
        ids = sorted(row.media_id for row in read_table(corpus.corpus_dir / "recordings.csv", Recording))
        held = []
        for trial in trials:
            sides = Run(trial.config.run_dir).read_split()
            own = [name for name, side in sides.items() if side == "holdout"]
            assert sorted(own) == sorted(row["media_id"] for row in self.holdout(trial))
            assert {"train", "validation"} <= set(sides.values())
            held += own
        assert sorted(held) == [name for name in ids if int(name) < 112]

    def holdout(self, trial):
        return read_rows(trial.config.run_dir / "holdout.csv")

    def test_the_table_is_that_of_the_scores(self, trials):
        folder = trials[0].config.run_dir.parent
        summary, rows = json.loads((folder / "summary.json").read_text()), read_rows(folder / "folds.csv")
        assert [(row["fold"], row["seed"]) for row in rows] == [("1", "0"), ("2", "0")]
        truth, best = [], []
        for trial, row in zip(trials, rows, strict=True):
            own = [
                (line["class_id"], max((key for key in line if key.startswith("score_")), key=lambda k: float(line[k])))
                for line in self.holdout(trial)
            ]
            hits = [main == name.removeprefix("score_") for main, name in own]
            assert float(row["top1"]) == pytest.approx(np.mean(hits), abs=1e-5)
            truth += [main for main, _ in own]
            best += [name.removeprefix("score_") for _, name in own]
        assert summary["recordings"] == 12
        assert summary["top1"]["value"] == pytest.approx(accuracy_score(truth, best))
        low, high = summary["top1"]["interval"]
        assert low <= summary["top1"]["value"] <= high
        assert np.mean(summary["top1"]["seeds"]) == pytest.approx(summary["top1"]["value"])

    def test_it_resumes_without_training_again(self, trials, capsys):
        before = {t.config.run_dir: (t.config.run_dir / "state.h5").stat().st_mtime_ns for t in trials}
        cross_validate(trials)
        assert before == {path: (path / "state.h5").stat().st_mtime_ns for path in before}
        assert "is finished" in capsys.readouterr().out

    def test_a_fold_that_is_not_there(self, trials):
        with pytest.raises(ConfigError, match=r"Unknown fold 7\. The folds are: 1, 2"):
            cross_validate(trials, ["7"])


@pytest.mark.slow
class TestTeacher:
    """What a cross-validation found out softens the targets of another training."""

    def test_targets_by_hand(self, trials):
        config = trials[0].config
        teacher = config.run_dir.parent
        data = open_dataset(config, open_shards(features_folder(config), "train"))
        hard = data.targets(Train()).toarray()
        soft = data.targets(Train(teacher=str(teacher), teacher_weight=0.3)).toarray()
        known = {row["media_id"]: row for row in read_rows(teacher / "scores.csv")}
        assert len(known) == len(hard) == 12
        for media_id, before, after in zip(data.reader.media_id, hard, soft, strict=True):
            scores = [float(known[media_id][f"score_{kind.class_id}"]) for kind in data.species]
            assert after == pytest.approx(0.7 * before + 0.3 * np.array(scores), abs=1e-6)
        assert soft.dtype == np.float32
        assert np.abs(soft - hard).max() > 0.05

    def test_a_training_follows_it(self, trials, corpus, tiny, uncompiled, tmp_path):
        """Shown only the teacher's scores, all for one species, it ranks that one first everywhere."""
        teacher = tmp_path / "teacher"
        rows = read_rows(trials[0].config.run_dir.parent / "scores.csv")
        last = [name for name in rows[0] if name.startswith("score_")][-1]
        for row in rows:
            row.update({name: "0" for name in row if name.startswith("score_")} | {last: "1"})
        teacher.mkdir()
        write_rows(teacher / "scores.csv", rows)
        taught = ("train.epochs=4", f'train.teacher="{teacher}"', "train.teacher_weight=1")
        config = derived(corpus, tmp_path, *TINY, *taught)
        train(config)
        member = open_member(Run(config.run_dir), [], config.predict)
        assert {int(ranking.argmax()) for _, _, ranking in member.results()} == {2}

    def test_recordings_it_does_not_know_keep_their_targets(self, tmp_path):
        scored = Scored(["b", "z"], ["y", "x"], np.array([0, 1]), np.array([[0.6, 0.4], [1.0, 0.0]]))
        write_scored(tmp_path / "scores.csv", [scored])
        found = soften(csr_array(np.eye(2, dtype=np.float32)), ["a", "b"], ["x", "y"], tmp_path, 0.5)
        np.testing.assert_allclose(found.toarray(), [[1, 0], [0.2, 0.8]])

    def test_scores_come_back_to_nine_digits(self, tmp_path):
        """Those of thousands of species differ from the fourth on, and ties would change a ranking."""
        scores = np.random.default_rng(0).dirichlet(np.ones(50), 4) ** 3
        write_scored(
            tmp_path / "scores.csv", [Scored(list("abcd"), [f"c{i}" for i in range(50)], np.arange(4), scores)]
        )
        np.testing.assert_allclose(read_scored(tmp_path / "scores.csv").scores, scores, rtol=1e-9)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (None, "holds no scores.csv"),
            ("", "is damaged"),
            ("media_id,class_id,score_x,score_y\na,x,1\n", "is damaged"),
            ("media_id,class_id,score_x,score_z\na,x,1,0\n", "other species"),
            ("media_id,class_id,score_x,score_y\nq,x,1,0\n", "none of these recordings"),
        ],
    )
    def test_what_is_no_teacher(self, tmp_path, text, words):
        if text is not None:
            (tmp_path / "scores.csv").write_text(text)
        with pytest.raises(PipelineError, match=words):
            soften(np.eye(2, dtype=np.float32), ["a", "b"], ["x", "y"], tmp_path, 0.5)


@pytest.fixture
def by_hand(corpus, tmp_path):
    """Two folds of two recordings, two seeds: (1, 1) and (1, 0) right with the first seed, (0, 1) and (1, 0) then."""
    found = plan(derived(corpus, tmp_path, "train.run=tiny"), 2, 2, "recordist")
    right = {("1", 0): (0.9, 0.6), ("2", 0): (0.8, 0.4), ("1", 1): (0.2, 0.7), ("2", 1): (0.6, 0.45)}
    for trial in found:
        folder = trial.config.run_dir
        folder.mkdir(parents=True)
        scores = right[trial.fold, trial.seed]
        lines = [
            f"{trial.fold}{i},{'ab'[i]},{s if i == 0 else 1 - s:g},{1 - s if i == 0 else s:g}"
            for i, s in enumerate(scores)
        ]
        (folder / "holdout.csv").write_text("media_id,class_id,score_a,score_b\n" + "\n".join(lines) + "\n")
        validation = {"val_top1": 0.5, "val_map": 0.75}
        (folder / "metrics.json").write_text(json.dumps({"validation": validation, "epochs": 3, "seconds": 60.0}))
    return found


def test_seeds_and_their_ensemble_by_hand(by_hand, capsys):
    report(by_hand)
    folder = by_hand[0].config.run_dir.parent
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert summary["recordings"] == 4
    assert summary["top1"]["seeds"] == [0.75, 0.5]
    assert summary["top1"]["value"] == 0.625
    assert summary["top1"]["deviation"] == pytest.approx(0.25 / 2**0.5)
    assert summary["top1"]["ensemble"]["value"] == 0.75  # 0.55, 0.65, 0.7, 0.425
    assert summary["map"]["value"] == pytest.approx((0.625 * 8 + 0.375 * 8 * 0.5) / 8)
    assert [row["top1"] for row in read_rows(folder / "folds.csv")] == ["1.0", "0.5", "0.5", "0.5"]
    scored = read_scored(folder / "scores.csv")
    assert scored.media_ids == ["10", "11", "20", "21"]
    assert scored.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(scored.scores[:, 0], [0.55, 0.35, 0.7, 0.575])
    np.testing.assert_allclose(scored.scores.sum(axis=1), 1)


def test_a_seed_that_lacks_a_fold_is_not_in_the_summary(by_hand, capsys):
    report(by_hand[:3])
    folder = by_hand[0].config.run_dir.parent
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [0]
    assert len(read_rows(folder / "folds.csv")) == 3
    assert "ensemble" not in capsys.readouterr().out


def test_where_no_seed_has_all_folds_there_is_no_summary(by_hand, capsys):
    report([by_hand[0], by_hand[3]])  # fold 1 with seed 0, fold 2 with seed 1
    folder = by_hand[0].config.run_dir.parent
    assert len(read_rows(folder / "folds.csv")) == 2
    assert not (folder / "summary.json").exists()
    assert "no seed has all of these folds yet" in capsys.readouterr().out


@pytest.mark.parametrize("which", [0, 2])
def test_partitions_of_another_corpus_are_not_mixed(by_hand, which):
    """Fold 1 of seed 0 was scored on others than that of seed 1; or on some of fold 2."""
    path = by_hand[0].config.run_dir / "holdout.csv"
    path.write_text(path.read_text().replace("10,", "20," if which else "99,"))
    with pytest.raises(PipelineError, match="of other partitions of the recordings"):
        report([by_hand[0], by_hand[1 if which else 2]])


def test_official_folds_are_taken_where_there_are_some(corpus, tiny, tmp_path):
    config = derived(corpus, tmp_path, *TINY)
    assert [trial.config.train.split.name for trial in plan(config, None, 1, "recordist")] == ["kfold"] * 5
    home = tmp_path / "data"
    rows = read_table(config.corpus_dir / "recordings.csv", Recording)
    numbered = [dataclasses.replace(row, fold=str(i % 3 + 1)) for i, row in enumerate(rows)]
    (home / "small").mkdir(parents=True)
    write_table(home / "small" / "recordings.csv", Recording, numbered)
    config = derived(corpus, tmp_path, *TINY, f'data.folder="{home}"', 'data.root="/nowhere"')
    found = plan(config, None, 2, "recordist")
    assert [(trial.fold, trial.seed) for trial in found] == [(f, s) for s in (0, 1) for f in "123"]
    assert found[1].config.train.split.options == {"validation": "", "holdout": "2"}
    assert len({trial.config.run_dir for trial in found}) == 6
    for names in (("2019/spring", "2020/spring"), ("..", "a%2Fb")):
        named = [dataclasses.replace(row, fold=names[i % 2]) for i, row in enumerate(rows)]
        write_table(home / "small" / "recordings.csv", Recording, named)
        folders = {resolve(trial.config).run_dir for trial in plan(config, None, 1, "recordist")}
        assert len(folders) == 2
        assert {folder.parent.name for folder in folders} == {"cv-tiny"}
    assert [trial.config.train.split.name for trial in plan(config, 4, 1, "recordist")] == ["kfold"] * 4
    with pytest.raises(ConfigError, match=r"--folds\. Received: 1"):
        plan(config, 1, 1, "recordist")


def test_an_ensemble_is_the_mean_of_the_scores():
    one, two = (
        Scored(["a", "b"], ["x", "y"], np.array([0, 1]), np.array(s))
        for s in ([[0.9, 0.1], [0.8, 0.2]], [[0.2, 0.8], [0.1, 0.9]])
    )
    assert one.figures()["top1"].tolist() == [1, 0]
    assert two.figures()["top1"].tolist() == [0, 1]
    both = ensemble([one, two])
    assert both.scores.tolist() == pytest.approx(np.array([[0.55, 0.45], [0.45, 0.55]]))
    assert both.figures()["top1"].tolist() == both.figures()["map"].tolist() == [1, 1]


def test_the_text_names_intervals_and_the_ensemble():
    row = {"fold": "1", "seed": 0, "recordings": 4, "top1": 0.75, "map": 0.8, "epochs": 3, "seconds": 90.0}
    figure = {"value": 0.75, "interval": [0.25, 1.0], "seeds": [0.5, 1.0], "deviation": 0.35}
    figure["ensemble"] = {"value": 0.9, "interval": [0.8, 1.0]}
    text = as_text([row], {"recordings": 4, "seeds": [0, 1], "top1": figure, "map": figure})
    assert "top-1 accuracy: 0.7500 (0.2500 - 1.0000) over 4 recordings; deviation between 2 seeds 0.3500" in text
    assert "their ensemble 0.9000 (0.8000 - 1.0000)" in text
    assert "1.5" in text.splitlines()[1]
