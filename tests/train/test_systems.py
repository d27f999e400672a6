"""Other front ends, losses and augmentations through the whole of training: each learns three species."""

from pathlib import Path

import numpy as np
import pytest

import config as configuration
from config import Config, PipelineError
from predict.predict import combine, open_member
from preprocess.loadData import load
from preprocess.recipes import open_recipe
from preprocess.resample import resample
from tests.conftest import PROJECT
from tests.train.conftest import derived
from train.losses import open_loss
from train.network import build_model, build_trainer, open_optimizer
from train.run import Run
from train.trainModel import train as train_network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny")]

TINY = (
    "model.network=tiny",
    "train.epochs=6",
    "train.batch_size=8",
    "train.schedule=constant",
    "train.warmup_epochs=0",
    "train.optimizer={name='adamw', learning_rate=1e-2}",
)
SOUND = ("features.recipe=waveform", "features.sample_rate=22050", "features.segment_frames=100")

SYSTEMS = {
    "sound with a front end in the model": (
        *SOUND,
        "features.frontend={name='logmel', mels=64, hop=256}",
        "model.dynamic_range=80",
        "train.random_padding=true",
        "train.augment={pitch_shift={semitones=0.2}, time_stretch={}, gain={}, same_species={}, time_roll={}}",
    ),
    "sound as an image of three windows": (
        *SOUND,
        "features.sample_rate=11025",
        "features.segment_frames=60",
        "features.frontend={name='threewindows', mels=64, skip=4}",
        "features.trim=true",
        "features.peak=true",
        "model.normalise=item",
        "model.dynamic_range=80",
        "train.loss={name='best_frame'}",
        "train.bag=2",
        "train.epochs=20",  # with a milder threshold, so that four seeds of four get there
        "train.class_weights=ten_over_n",
        "train.augment={decibel_threshold={most=0.25}, time_mask={fill='minimum'}}",
    ),
    "signal and noise": (
        "features.recipe=sprengel2016",
        "features.sample_rate=22050",
        "features.segment_frames=256",
        "features.drop_columns=false",  # a steady tone is no signal by the rule of medians
        "features.mask=false",
        "train.noise_class=0.25",
        "train.epochs=12",
        "train.monitor=val_loss",  # it moves up and down here
        "train.augment={time_roll={}, frequency_roll={share=0.02}, same_species={}, noise={count=2, damping=0.05}}",
    ),
    "attention over a recording": (
        "train.loss={name='pooled', pool='attention'}",
        "train.bag=2",
        "train.augment={mixup={}}",
    ),
    "the recipe of best.toml": (
        "features.recipe=logmel",
        "features.mels=32",
        "features.low=50",
        "features.floor=1e-6",
        "features.silence=-55",
        "features.padding=repeat",
        "features.fine=4",
        "features.segment_frames=100",
        "model.dynamic_range=80",
        "model.normalise=both",
        "train.epoch_segments=64",
        "train.recording_segments=4",
        "train.monitor=last",
        "train.schedule=cosine",
        "train.ema=0.9",
        "train.random_padding=true",
        "train.loss={name='categorical_crossentropy', label_smoothing=0.05}",
        "train.augment={steady_drop={}, same_species={}, time_roll={}, mixup={}, frequency_mask={width=4}}",
        "predict.hop=0.5",
    ),
    "patches": (
        "features.recipe=vggish",
        "features.segment_frames=96",
        "train.loss={name='focal'}",
        "train.class_weights=effective",
        "train.augment={fade={decibels=20.0}, gaussian_noise={}}",
    ),
}


def run_system(corpus: Config, folder: Path, *overrides: str) -> tuple[Config, dict]:
    config = derived(corpus, folder, *TINY, *overrides)
    resample(config, 2)
    load(config, 2)
    train_network(config)
    return config, Run(config.run_dir).read_metrics()


COMPILED = ("sound with a front end in the model", "the recipe of best.toml", "signal and noise")  # all that draws


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_learns_and_predicts(corpus, tmp_path, monkeypatch, name):
    if name in COMPILED:  # by XLA, as epochs of more steps are
        monkeypatch.setattr("train.network.WORTH_COMPILING", 1)
    config, metrics = run_system(corpus, tmp_path, *SYSTEMS[name])
    assert metrics["validation"]["val_map"] == 1
    assert metrics["validation"]["val_loss"] < 0.9  # chance is 1.1 for soft-max
    run = Run(config.run_dir)
    results = list(combine([open_member(run, [], config.predict)], config.predict, np.full(3, 0.5)))
    assert len(results) == 3
    for result in results:
        assert result.ranking.shape == (3,)
        assert result.ranking.argmax() == (int(result.recording.media_id) - 100) % 3
        assert np.logical_and(result.ranking >= 0, result.ranking <= 1).all()


@pytest.mark.parametrize(
    "name",
    [
        "best",
        "demo",
        "esc10-alexnet",
        "bogart2021",
        "jibjib2018",
        "jibjib2018-lstm",
        "passau2024",
        "sprengel2016",
        "toddstep2023",
    ],
)
def test_the_systems_fit_together(name):
    """Recipe, network, loss and augmentations of every file in config/, as stage 0 opens them."""
    config = configuration.load(PROJECT / "config" / f"{name}.toml", ["data.source=dawnchorus"], mini=True)
    assert config.train.batch_size % config.train.bag == 0
    recipe, loss = open_recipe(config.features), open_loss(config.train.loss)
    open_optimizer(config, 10)
    trainer = build_trainer(config, build_model(config, recipe.encoding, recipe.shape, 5), loss, 10)
    assert trainer.output_shape == (None, 10)


def test_noise_needs_a_mask(corpus, tmp_path):
    with pytest.raises(PipelineError, match="no noise frames"):
        run_system(corpus, tmp_path, *SOUND, "features.frontend={name='logmel'}", "train.augment={noise={}}")
