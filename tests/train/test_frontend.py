"""The front ends as layers: equal to the recipes on the same sound."""

import dataclasses

import numpy as np
import pytest
from keras import ops

import config as configuration
from config import ConfigError
from preprocess.recipes import birdclef2016, logmel, passau, pcen, sprengel2016, threewindows, vggish, waveform
from tests.preprocess.naive import write_wav
from tests.preprocess.test_recipes import sweep
from train.frontend import FRONTENDS, STORE_ONLY, FrontEnd, frontend_options, open_frontend
from train.run import resolve

RECIPES = {
    "birdclef2016": birdclef2016.Recipe(storage="float32"),
    "birdclef2016-all-bins": birdclef2016.Recipe(bins=257),
    "logmel": logmel.Recipe(),
    "logmel-power": logmel.Recipe(power=2, n_fft=1024, window=800, hop=300, decibel=20),
    "logmel-fine": logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, power=2, fine=8),
    "logmel-fine-amplitude": logmel.Recipe(n_fft=1024, window=800, hop=300, mels=60, fine=5),
    "passau": passau.Recipe(clean="none"),
    "pcen": pcen.Recipe(),
    "sprengel2016": sprengel2016.Recipe(),
    "threewindows": threewindows.Recipe(),
    "vggish": vggish.Recipe(),
}


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_layer_is_the_recipe(name, portable, tmp_path):
    """Within 1e-4 of the range of the values; a recording of 3 s and a quiet one."""
    recipe = RECIPES[name]
    sounds = np.stack([sweep(3, recipe.sample_rate), sweep(3, recipe.sample_rate, 1) // 50])
    layer = FrontEnd(recipe, portable)
    found = ops.convert_to_numpy(layer(sounds.astype(np.float32) / 32768))
    assert found.shape == layer.compute_output_shape(sounds.shape)
    for sound, values in zip(sounds, found, strict=True):
        expected = np.concatenate(list(recipe.blocks(write_wav(tmp_path / "a.wav", sound, recipe.sample_rate))))
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected, atol=1e-4 * max(10.0, np.ptp(expected)), rtol=1e-4)


def test_an_item_does_not_depend_on_its_batch():
    sounds = np.stack([sweep(1, 22_050), 20 * (sweep(1, 22_050, 2) // 30)]).astype(np.float32) / 32768
    layer = FrontEnd(threewindows.Recipe())
    both, alone = ops.convert_to_numpy(layer(sounds)), ops.convert_to_numpy(layer(sounds[:1]))
    np.testing.assert_allclose(both[:1], alone, atol=1e-5)


def test_every_recipe_but_the_sound_itself_is_a_front_end():
    import pkgutil

    import preprocess.recipes

    names = {module.name for module in pkgutil.iter_modules(preprocess.recipes.__path__)}
    assert names == set(FRONTENDS) | {"waveform"}
    assert waveform.Recipe().encoding.dtype == "int16"


@pytest.mark.parametrize(("overrides", "named"), [
    (["features.frontend.name=nonsense"], "features.frontend.name"),
    (["features.frontend.name=logmel", "features.frontend.mels=0"], "features.frontend.mels"),
    (["features.frontend.name=logmel", "features.frontend.sample_rate=16000"], "features.frontend.sample_rate"),
    (["features.frontend.name=logmel", "features.segment_frames=2"], "features.segment_frames"),
    ([], "features.frontend.name"),
])  # fmt: skip
def test_what_does_not_fit_is_named(overrides, named):
    config = configuration.load(None, ["features.recipe=waveform", *overrides])
    with pytest.raises(ConfigError, match=named):
        open_frontend(config.features, config.features.segment_frames * 441)


@pytest.mark.parametrize("name", FRONTENDS)
def test_the_resolved_options_are_those_of_the_layer(name, tmp_path):
    """They survive the file of a run, are all there, and make the same layer."""
    kind = FRONTENDS[name]
    overrides = [
        "features.recipe=waveform",
        f"features.sample_rate={kind().sample_rate}",
        f"features.frontend.name={name}",
        "features.segment_frames=400",
    ]
    given = configuration.load(None, overrides)
    resolved = resolve(given)
    assert resolved.features.frontend.options == frontend_options(given.features)
    assert set(resolved.features.frontend.options) == {field.name for field in dataclasses.fields(kind)} - STORE_ONLY
    (tmp_path / "config.toml").write_text(configuration.to_toml(resolved))
    again = configuration.load(tmp_path / "config.toml")
    assert resolve(again) == resolved
    assert open_frontend(again.features, 400 * 441).recipe == open_frontend(given.features, 400 * 441).recipe == kind()
