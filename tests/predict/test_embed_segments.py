"""Embeddings: what the logits are made of, for the corpus of a run and for folders of audio."""

import dataclasses
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

import predict.predict
from config import PipelineError, to_toml
from predict.embedSegments import embed_segments
from predict.scores import load_run, make_scores, read_scores, scores_folder
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table
from preprocess.segments import open_shards
from tests.conftest import PROJECT, run_script
from tests.predict.test_predict import copied
from train.run import Run

pytestmark = pytest.mark.slow


def read(path) -> tuple[dict, dict]:
    with h5py.File(path, "r") as file:
        return {name: dataset[()] for name, dataset in file.items()}, dict(file.attrs)


def dense(model) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the last layer."""
    return tuple(np.asarray(weight) for weight in model.layers[-1].get_layer("logits").get_weights())


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_last_layer_makes_the_logits_of_them(run_of_birds, tmp_path, part):
    path = embed_segments(run_of_birds, output=tmp_path / "out" / "own.h5", part=part)
    found, facts = read(path)
    config, model, _ = load_run(run_of_birds)
    shards = open_shards(features_folder(config), part)
    folder = scores_folder(config, run_of_birds, config.train.monitor, part=part)
    make_scores(folder, config, shards, run_of_birds, config.train.monitor)
    scores = list(read_scores(folder, shards))
    kernel, bias = dense(model)
    logits = np.concatenate([own.logits for own in scores])
    np.testing.assert_allclose(found["embeddings"] @ kernel + bias, logits, rtol=1e-3, atol=1e-4)
    assert found["embeddings"].dtype == np.float32
    np.testing.assert_array_equal(found["seconds"], np.concatenate([own.seconds for own in scores]))
    rows = {row.media_id: row for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
    own = [rows[scores[i].media_id] for i in found["recording"]]
    assert [found["file"][i].decode() for i in found["recording"]] == [row.file for row in own]
    assert [found["class_id"][i].decode() for i in found["recording"]] == [row.class_id for row in own]
    assert {row.part for row in own} == {part} == {facts["part"]}
    assert (facts["model"], facts["network"]) == ("birds", config.model.network)
    assert (facts["weights"], facts["hop"]) == (config.train.monitor, config.predict.hop)


def test_segments_of_one_species_are_alike(run_of_birds, tmp_path):
    """The nearest of other recordings, by angle, are of the same species: what one searches by."""
    found, _ = read(embed_segments(run_of_birds, output=tmp_path / "own.h5", part="train"))
    vectors = found["embeddings"] / np.linalg.norm(found["embeddings"], axis=1, keepdims=True)
    alike = np.where(found["recording"][:, None] == found["recording"], -1, vectors @ vectors.T)
    species = found["class_id"][found["recording"]]
    assert np.mean(species == species[alike.argmax(axis=1)]) > 0.9


def test_folders_by_the_command(run_of_birds, test_sounds, tmp_path):
    """The same sound has the same vectors, wherever it lies; what cannot be read is listed."""
    folder = tmp_path / "My site"
    folder.mkdir()
    (folder / "RN112.wav").write_bytes((test_sounds / "RN112.wav").read_bytes())
    (folder / "broken.wav").write_text("no sound")
    arguments = ["--run", run_of_birds.folder, "--output", tmp_path / "site.h5", "--hop", "1", "--discard"]
    done = run_script("predict/embedSegments.py", folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert "1 recordings taken, 1 rejected" in done.stdout
    found, facts = read(tmp_path / "site.h5")
    own, _ = read(embed_segments(run_of_birds, output=tmp_path / "own.h5", hop=1))
    first = own["recording"] == [name.decode().endswith("RN112.wav") for name in own["file"]].index(True)
    np.testing.assert_allclose(found["embeddings"], own["embeddings"][first], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["seconds"], own["seconds"][first])
    assert found["file"].tolist() == [b"RN112.wav"]
    assert facts["root"] == str(folder)


def test_the_search_of_the_documents(run_of_birds, tmp_path):
    """The first that is found is the segment itself."""
    page = (PROJECT / "docs" / "prediction.md").read_text(encoding="utf-8")
    program = next(text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "site.h5" in text)
    embed_segments(run_of_birds, output=tmp_path / "site.h5", part="train")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    found, _ = read(tmp_path / "site.h5")
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert lines[0] == f"{found['file'][0].decode()} {found['seconds'][0, 0]} {found['seconds'][0, 1]}"


def test_what_is_there_needs_no_network(run_of_birds, tmp_path, monkeypatch):
    first = embed_segments(run_of_birds, output=tmp_path / "first.h5")
    monkeypatch.setattr("predict.scores.load_run", None)
    second = embed_segments(run_of_birds, output=tmp_path / "second.h5")
    assert first.read_bytes() == second.read_bytes()


def test_the_hop_is_that_of_the_run_where_none_is_given(run_of_birds, tmp_path):
    """0 is one: then segments lie side by side."""
    run = copied(run_of_birds, tmp_path)
    config = run.read_config()
    overlapping = dataclasses.replace(config, predict=dataclasses.replace(config.predict, hop=1.0))
    (run.folder / "config.toml").write_text(to_toml(overlapping))
    plain, facts = read(embed_segments(run, output=tmp_path / "0.h5", hop=0))
    usual, _ = read(embed_segments(run, output=tmp_path / "run.h5"))
    assert facts["hop"] == 0
    np.testing.assert_array_equal(
        plain["seconds"], read(embed_segments(run_of_birds, output=tmp_path / "a.h5"))[0]["seconds"]
    )
    first = usual["seconds"][usual["recording"] == 0, 0]
    np.testing.assert_allclose(np.diff(first)[:-1], 1, atol=0.01)


def test_nothing_is_discarded_without_inputs(run_of_birds, tmp_path, monkeypatch):
    """The corpus of the run stays."""
    monkeypatch.setattr("predict.embedSegments.shutil.rmtree", lambda path, **_: pytest.fail(f"removed {path}"))
    assert embed_segments(run_of_birds, output=tmp_path / "own.h5", discard=True).exists()


def test_errors(run_of_birds, tmp_path, monkeypatch):
    with pytest.raises(PipelineError, match="no run directory"):
        embed_segments(Run(tmp_path / "nothing"))
    done = run_script("predict/embedSegments.py", tmp_path, "--part", "train")
    assert done.returncode == 2
    assert "goes without inputs" in done.stderr
    rows = predict.predict.read_table
    monkeypatch.setattr("predict.predict.read_table", lambda *arguments: rows(*arguments)[:-1])
    with pytest.raises(PipelineError, match=r"recordings\.csv does not have 114, .* Run stages 1 to 3 again"):
        embed_segments(run_of_birds, output=tmp_path / "own.h5")
