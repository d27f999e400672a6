"""The same training on another back end of Keras: jax, which some machines with a GPU have instead of TensorFlow."""

import os
import shutil
import subprocess
import sys

import pytest

import config as configuration
from tests.conftest import PROJECT
from tests.train.conftest import derived, open_reader
from train.network import build_model
from train.run import Run
from train.trainModel import train

# Random numbers are the back end's own: the same start, and nothing drawn but the order of the segments and windows.
SAME = (
    "features.segment_frames=80",
    "model.network=cnn1",
    "model.dense=[8]",
    "train.schedule=cosine",
    "train.warmup_epochs=1",
    "train.ema=0.5",
    "train.optimizer={name='adamw', learning_rate=1e-3, weight_decay=0.01}",
)


def test_augmentations_of_bags_have_shapes_on_jax():
    """Which must tell them without numbers."""
    pytest.importorskip("jax")
    script = """
import environment, keras
from preprocess.recipes.logmel import Recipe
from train.augment import open_augmentations
layers = open_augmentations({"mixup": {}, "overlap": {"share": 0.5}, "time_mask": {}}, Recipe(), bag=4)
images, targets = keras.Input((16, 20, 1)), keras.Input((3,))
values, mixed = images, targets
for layer in layers:
    values, mixed = layer(values, mixed)
model = keras.Model([images, targets], [values, mixed])
found = model([keras.ops.ones((8, 16, 20, 1)), keras.ops.ones((8, 3))], training=True)
print(keras.backend.backend(), values.shape, [tuple(own.shape) for own in found])
"""
    env = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=PROJECT, check=False
    )
    assert done.stdout == "jax (None, 16, 20, 1) [(8, 16, 20, 1), (8, 3)]\n", done.stderr


@pytest.mark.slow
def test_tensorflow_and_jax_learn_the_same(corpus, tmp_path, capsys):
    pytest.importorskip("jax")
    reader = open_reader(derived(corpus, tmp_path, *SAME))
    start = tmp_path / "start"
    start.mkdir()
    (start / "config.toml").write_text("[train]\n")
    shutil.copy(corpus.corpus_dir / "classes.csv", start)  # without it the head would be new
    build_model(derived(corpus, tmp_path, *SAME), reader.encoding, reader.shape, 3).save_weights(
        start / "best_val_map.weights.h5"
    )
    settings = (*SAME, "train.epochs=2", f'model.start="{start}"')
    one, two = (derived(corpus, tmp_path, *settings, f"train.run={name}") for name in ("tensorflow", "jax"))
    train(one)
    (tmp_path / "jax.toml").write_text(configuration.to_toml(two))
    command = [sys.executable, PROJECT / "train" / "trainModel.py", "--config", tmp_path / "jax.toml"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "jax"}, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(jax back end)" in done.stdout
    courses = [Run(config.run_dir).read_history() for config in (one, two)]
    for epoch, tolerance in enumerate((0.01, 0.05)):  # every step makes what was rounding a little larger
        for name in ("loss", "val_loss", "val_map"):
            one, other = (course[epoch][name] for course in courses)
            assert one == pytest.approx(other, rel=tolerance), (epoch, name)
    assert courses[0][-1]["loss"] < courses[0][0]["loss"]
    # What one back end has trained, the other goes on with.
    train(configuration.load(two.run_dir / "config.toml", ["train.epochs=3"]))
    assert "resuming after epoch 2" in capsys.readouterr().out
    assert len(Run(two.run_dir).read_history()) == 3
