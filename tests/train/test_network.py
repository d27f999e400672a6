"""The model's input, its statistics, the schedule, the optimizers, and one compiled training step."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import config as configuration
from config import ConfigError, Part
from preprocess.recipes import Encoding, open_recipe
from preprocess.segments import list_segments
from tests.train.conftest import derived
from train.devices import has_accelerator
from train.losses import open_loss
from train.network import (
    MIN_DEVIATION,
    OPTIMIZERS,
    Decode,
    Standardise,
    WarmupSchedule,
    build_model,
    build_trainer,
    fit_statistics,
    open_optimizer,
)

UINT8 = Encoding("uint8", 0.05, -4.5)
STORED = {"uint8": UINT8, "float16": Encoding("float16", 1.0, 0.0), "float32": Encoding("float32", 1.0, 0.0)}


def settings(*overrides: str) -> configuration.Config:
    return configuration.load(None, list(overrides))


def values(variable: Any) -> np.ndarray:
    return variable.numpy()


# Input


@pytest.mark.parametrize("dtype", STORED)
def test_standardise_decodes_normalises_and_turns_time_into_the_second_axis(dtype):
    rng = np.random.default_rng(0)
    encoding = STORED[dtype]
    codes = encoding.encode(rng.uniform(-4, 7, (3, 11, 7)).astype(np.float32))
    mean, deviation = rng.normal(size=7), rng.uniform(0.1, 3, 7)
    decode, layer = Decode(encoding), Standardise((7,), "bin", 0.0)
    layer.mean.assign(mean)
    layer.deviation.assign(deviation)
    decoded = codes.astype(np.float64) * encoding.scale_factor + encoding.add_offset
    expected = ((decoded - mean) / deviation).transpose(0, 2, 1)[..., None]
    found = ops.convert_to_numpy(layer(decode(codes)))
    assert found.shape == (3, 7, 11, 1) == layer.compute_output_shape((3, 11, 7))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_input_of_the_network_is_float32_under_mixed_precision(policy):
    """Half precision has no room for code * gain + offset."""
    rng = np.random.default_rng(1)
    mean, deviation = rng.normal(size=90), rng.uniform(0.1, 3, 90)
    config = settings("model.dense=4", "features.segment_frames=90", f"train.precision={policy}")
    model = build_model(config, UINT8, (90,), 3)
    stage = model.get_layer("standardise")
    stage.mean.assign(mean)
    stage.deviation.assign(deviation)
    codes = rng.integers(0, 256, (2, 90, 90)).astype(np.uint8)
    expected = ((codes * 0.05 - 4.5 - mean) / deviation).transpose(0, 2, 1)[..., None]
    found = values(stage(model.get_layer("decode")(codes)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_statistics_are_weights_that_are_not_trained():
    layer = Standardise((5,), "bin", 0.0)
    assert [weight.name for weight in layer.non_trainable_weights] == ["mean", "deviation"]
    assert layer.trainable_weights == []


# Statistics


@pytest.fixture(scope="module")
def segments(reader):
    """All segments of the corpus, and their decoded values, float64 [segments * frames, bins]."""
    owners, starts = list_segments(reader, range(len(reader)))
    codes = np.concatenate([reader.read([i], [start]) for i, start in zip(owners, starts, strict=True)])
    return (owners, starts), codes.reshape(-1, *reader.shape) * 0.05 - 4.5


@pytest.fixture
def model(corpus, reader):
    return build_model(corpus, reader.encoding, reader.shape, 3)


@pytest.mark.parametrize("how", ["bin", "global", "none"])
def test_fit_statistics(model, reader, segments, how):
    chosen, decoded = segments
    fit_statistics(model, reader, chosen, how, 0)
    stage = model.get_layer("standardise")
    mean, deviation = {
        "bin": (decoded.mean(axis=0), decoded.std(axis=0)),
        "global": (np.full(200, decoded.mean()), np.full(200, decoded.std())),
        "none": (np.zeros(200), np.ones(200)),
    }[how]
    np.testing.assert_allclose(values(stage.mean), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(stage.deviation), np.maximum(deviation, MIN_DEVIATION), rtol=1e-4)


def test_what_sounds_all_the_time_goes_with_normalise_segment(corpus, reader, segments, tmp_path):
    """Bins of every segment have mean 0 and over all segments deviation 1; another microphone changes nothing."""
    config = derived(corpus, tmp_path, "model.normalise=segment")
    model = build_model(config, reader.encoding, reader.shape, 3)
    chosen, decoded = segments
    fit_statistics(model, reader, chosen, "segment", 0)
    stage = model.get_layer("standardise")
    np.testing.assert_allclose(values(stage.mean), 0, atol=1e-6)
    cut = decoded.reshape(-1, 310, 200)
    centred = cut - cut.mean(axis=1, keepdims=True)
    deviation = np.maximum(centred.reshape(-1, 200).std(axis=0), MIN_DEVIATION)
    np.testing.assert_allclose(values(stage.deviation), deviation, rtol=1e-4)
    microphone = np.random.default_rng(0).normal(0, 2, 200)
    for sound in (cut[:4], cut[:4] + microphone):
        images = values(stage(sound.astype(np.float32)))[..., 0].transpose(0, 2, 1)
        np.testing.assert_allclose(images, centred[:4] / deviation, atol=1e-3)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_both_gives_the_mean_beside_what_is_left_without_it(channels):
    values_in = np.random.default_rng(0).normal(3, 2, (2, 7, 5, *channels)).astype(np.float32)
    layer = Standardise((5, *channels), "both", 0.0)
    layer.mean.assign(np.full((5, *channels), 3.0))
    layer.deviation.assign(np.full((5, *channels), 2.0))
    found = values(layer(values_in)).transpose(0, 2, 1, 3)
    assert found.shape == (2, 7, 5, 2 * (channels or (1,))[0])
    assert layer.compute_output_shape((None, 7, 5, *channels)) == (None, 5, 7, found.shape[3])
    level = values_in.mean(axis=1, keepdims=True)
    left, steady = np.split(found, 2, axis=3)
    np.testing.assert_allclose(left.reshape(values_in.shape), (values_in - level) / 2, atol=1e-5)
    np.testing.assert_allclose(
        steady.reshape(values_in.shape), np.broadcast_to((level - 3) / 2, values_in.shape), atol=1e-5
    )


def test_normalised_segments_have_mean_0_and_deviation_1(model, reader, segments):
    chosen, decoded = segments
    fit_statistics(model, reader, chosen, "bin", 0)
    images = np.concatenate(
        [values(model.get_layer("standardise")(model.get_layer("decode")(reader.read(*pair)))) for pair in [chosen]]
    )
    by_bin = images.transpose(1, 0, 2, 3).reshape(200, -1).astype(np.float64)
    varying = decoded.std(axis=0) > MIN_DEVIATION
    assert varying.sum() > 100  # the others are masked in all recordings
    np.testing.assert_allclose(by_bin.mean(axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(by_bin.std(axis=1)[varying], 1, atol=2e-3)


def test_statistics_of_some_segments(model, reader, segments, monkeypatch):
    """Where there are more segments than wanted, the seed chooses; those of nothing else count."""
    (owners, starts), decoded = segments
    monkeypatch.setattr("train.network.STATISTICS_SEGMENTS", 5)
    by_segment = decoded.reshape(len(owners), -1, 200).mean(axis=1)
    stage, found = model.get_layer("standardise"), []
    for seed in (0, 1, 0):
        fit_statistics(model, reader, (owners, starts), "bin", seed)
        found.append(values(stage.mean))
        chosen = np.random.default_rng(seed).permutation(len(owners))[:5]
        np.testing.assert_allclose(found[-1], by_segment[chosen].mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1])


def test_a_constant_bin_is_not_blown_up(model):
    class Silent:
        shape, encoding = (200,), UINT8

        def read(self, owners, starts):
            return np.full((len(owners), 310, 200), 100, np.uint8)

    fit_statistics(model, Silent(), (np.arange(70), np.zeros(70, int)), "bin", 0)
    stage = model.get_layer("standardise")
    np.testing.assert_allclose(values(stage.mean), 0.5, atol=1e-5)
    np.testing.assert_allclose(values(stage.deviation), MIN_DEVIATION)


# Schedule


def rates(schedule: WarmupSchedule, steps: list[int]) -> list[float]:
    return [float(schedule(step)) for step in steps]


def test_constant_schedule_by_hand():
    schedule = WarmupSchedule(0.8, 4, 100, "constant")
    assert rates(schedule, [0, 1, 2, 3, 4, 50, 99, 1000]) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_cosine_schedule_by_hand():
    """Warm-up of 4 steps, then half a cosine over 100: a quarter, half and all of the way down, and 0 after it."""
    schedule = WarmupSchedule(0.8, 4, 104, "cosine")
    found = rates(schedule, [0, 1, 3, 4, 29, 54, 79, 104, 200])
    quarter = 0.4 * (1 + math.sqrt(0.5))
    assert found == pytest.approx([0.2, 0.4, 0.8, 0.8, quarter, 0.4, 0.8 - quarter, 0, 0], abs=1e-7)


@pytest.mark.parametrize("shape", ["constant", "cosine"])
def test_without_warm_up_the_first_step_has_the_full_rate(shape):
    assert rates(WarmupSchedule(0.5, 0, 10, shape), [0]) == pytest.approx([0.5])
    last = rates(WarmupSchedule(0.5, 0, 10, shape), [9])[0]
    expected = {"constant": 0.5, "cosine": 0.25 * (1 + math.cos(0.9 * math.pi))}
    assert last == pytest.approx(expected[shape])


@pytest.mark.parametrize(("warmup", "total"), [(0.5, 1), (5, 5), (9, 3), (0, 0), (2.5, 10)])
def test_odd_lengths_stay_between_0_and_the_peak(warmup, total):
    found = rates(WarmupSchedule(0.3, warmup, total, "cosine"), list(range(12)))
    assert all(0 <= rate <= 0.3 + 1e-7 for rate in found)
    assert max(found) > 0


def test_warm_up_of_part_of_a_step_count():
    """2.5 steps: the shares 1/2.5, 2/2.5, then all of it."""
    found = rates(WarmupSchedule(1.0, 2.5, 10, "constant"), [0, 1, 2, 3])
    assert found == pytest.approx([0.4, 0.8, 1, 1])


def test_schedule_is_rebuilt_from_its_configuration():
    schedule = WarmupSchedule(0.3, 2.0, 20, "cosine")
    again = WarmupSchedule.from_config(schedule.get_config())
    assert rates(again, [0, 3, 11, 19]) == rates(schedule, [0, 3, 11, 19])


# Optimizers


@pytest.mark.parametrize("name", ["adadelta", "adafactor", "adam", "adamw", "lion", "nadam", "rmsprop", "sgd", "SGD"])
def test_optimizers_by_name_with_the_schedule_of_the_run(name):
    config = settings(
        "train.epochs=3", "train.warmup_epochs=0.5", f"train.optimizer={{name='{name}', learning_rate=0.02}}"
    )
    optimizer = open_optimizer(config, 10)
    assert type(optimizer) is OPTIMIZERS[name.lower()]
    assert type(optimizer).__name__.lower() == name.lower()
    expected = WarmupSchedule(0.02, 5, 30, "cosine")
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer.build([variable])
    for step in (0, 3, 17):
        optimizer.iterations.assign(step)
        assert float(ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(float(expected(step)))


def test_options_reach_the_optimizer():
    config = settings("train.optimizer={name='sgd', learning_rate=0.1, momentum=0.7, nesterov=true}")
    optimizer = open_optimizer(config, 1)
    assert (optimizer.momentum, optimizer.nesterov) == (0.7, True)
    assert open_optimizer(settings(), 1).weight_decay == 0.01


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("{name='adagradient'}", r"train\.optimizer\.name.*'adagradient'.*adam, .*sgd"),
        ("{name='sgd', beta_1=0.5}", r"Unknown key train\.optimizer\.beta_1.*momentum"),
        ("{name='adamw', lr=0.5}", r"Unknown key train\.optimizer\.lr.*learning_rate"),
        ("{name='adamw', learning_rate='fast'}", r"train\.optimizer\.learning_rate.*'fast'"),
        ("{name='sgd', momentum=7}", r"train\.optimizer.*momentum"),
        ("{name='adamw', learning_rate=-1}", r"train\.optimizer\.learning_rate.*-1.*at least 0"),
        ("{name='adamw', learning_rate=inf}", r"train\.optimizer\.learning_rate.*inf.*a number"),
        ("{name='adamw', weight_decay='0.01'}", r"train\.optimizer\.weight_decay.*'0\.01'.*a number"),
        ("{name='adamw', beta_1='a'}", r"train\.optimizer\.beta_1.*'a'.*a number"),
        ("{name='sgd', nesterov=1}", r"train\.optimizer\.nesterov.*1.*true or false"),
        ("{name='sgd', clipnorm=true}", r"train\.optimizer\.clipnorm.*True.*a number"),
    ],
)
def test_bad_optimizer_settings_are_named(part, words):
    with pytest.raises(ConfigError, match=words):
        open_optimizer(settings(f"train.optimizer={part}"), 1)


# The whole


def test_attention_over_a_single_segment_is_refused(corpus, reader):
    """Its weights would stay those of the start."""
    overrides = ("train.loss={name='pooled', pool='attention'}", "train.bag=1")
    config = settings(*overrides)
    loss = open_loss(config.train.loss)
    model = build_model(config, reader.encoding, reader.shape, 3)
    with pytest.raises(ConfigError, match=r"learns nothing with one\. Take more: --set train\.bag=4"):
        build_trainer(config, model, loss, 10)


def test_trainer_shares_its_weights_and_puts_logits_and_targets_side_by_side(corpus, reader):
    model = build_model(corpus, reader.encoding, reader.shape, 3)
    trainer = build_trainer(corpus, model, open_loss(Part("categorical_crossentropy")), 1)
    assert {id(weight) for weight in trainer.weights} == {id(weight) for weight in model.weights}
    codes, targets = reader.read([0, 3], [0, 0]), np.array([[1, 0, 0], [0, 0.5, 1]], np.float32)
    joined = trainer.predict_on_batch([codes, targets])
    np.testing.assert_allclose(joined[:, :3], model.predict_on_batch(codes), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(joined[:, 3:], targets)


TEXTURE = ("model.network=residual", "model.width=4", "model.stages=[1]", "model.texture=true")


def both_parts(model: keras.Model, codes: np.ndarray) -> list[np.ndarray]:
    """Return what the image and the texture of segments say."""
    network, image = model.layers[-1], model.get_layer("standardise")(model.get_layer("decode")(codes))
    outputs = [network.get_layer(name).output for name in ("logits", "texture_logits")]
    return [values(part) for part in keras.Model(network.input, outputs)(image)]


def texture_trainer(reader: Any, *overrides: str) -> tuple[keras.Model, keras.Model]:
    """Return a model with texture, and the trainer around it."""
    config = settings(*TEXTURE, *overrides)
    model = build_model(config, reader.encoding, reader.shape, 3)
    return model, build_trainer(config, model, open_loss(config.train.loss), 1)


def test_texture_learns_for_itself_from_segments_as_they_are(reader):
    """Behind the rows of the image there are as many of the texture, which augmentations do not reach."""
    model, trainer = texture_trainer(reader, "train.augment={gaussian_noise={most=5.0}}")
    codes, targets = reader.read([0, 3], [0, 0]), np.array([[1, 0, 0], [0, 0.5, 1]], np.float32)
    joined = values(trainer([codes, targets], training=False))
    assert joined.shape == (4, 6)
    np.testing.assert_array_equal(joined[:, 3:], [*targets, *targets])
    image, texture = both_parts(model, codes)
    np.testing.assert_allclose(joined[2:, :3], texture, rtol=1e-4, atol=1e-4)
    assert np.abs(joined[:2, :3] - image).max() > 1e-3
    np.testing.assert_allclose(model.predict_on_batch(codes), (image + texture) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_step_with_texture_changes_both_parts(reader):
    model, trainer = texture_trainer(reader)
    before = {weight.path: values(weight).copy() for weight in model.trainable_weights}
    codes, targets = reader.read([0, 1, 2, 3], [0, 0, 0, 0]), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    trainer.train_on_batch([codes, targets], np.zeros(4))
    unchanged = [
        weight.path for weight in model.trainable_weights if np.array_equal(before[weight.path], values(weight))
    ]
    assert unchanged == []


@pytest.mark.parametrize("fine", [0, 8])
def test_short_windows_are_for_the_texture(fine):
    """As many as the recipe has; what they hold is not in the image."""
    config = settings(
        "features.recipe=logmel", "features.mels=64", f"features.fine={fine}", "model.normalise=both", *TEXTURE
    )
    recipe = open_recipe(config.features)
    model = build_model(config, recipe.encoding, recipe.shape, 3)
    codes = np.random.default_rng(0).integers(0, 255, (2, config.features.segment_frames, 64, 2), np.uint8)
    other = codes.copy()
    other[..., 1] = np.random.default_rng(1).integers(0, 255, other.shape[:-1])
    if not fine:
        codes, other = codes[..., 0], other[..., 0]
    (image, texture), (other_image, other_texture) = both_parts(model, codes), both_parts(model, other)
    np.testing.assert_array_equal(image, other_image)
    assert np.array_equal(texture, other_texture) == (fine == 0)


def test_short_windows_that_the_recipe_does_not_have_are_refused():
    for given, has, fits in ((8, 8, True), (8, 0, False), (4, 8, False)):
        config = settings(
            "features.recipe=logmel", "features.mels=64", f"features.fine={has}", f"model.fine={given}", *TEXTURE
        )
        recipe = open_recipe(config.features)
        if fits:
            build_model(config, recipe.encoding, recipe.shape, 3)
        else:
            with pytest.raises(ConfigError, match=rf"model\.fine\. Received: {given}\. Expected: {has}, as features"):
                build_model(config, recipe.encoding, recipe.shape, 3)


def test_short_windows_of_a_front_end_in_the_model():
    frontend = ("features.recipe=waveform", "features.frontend={name='logmel', mels=64, fine=8}")
    config = settings(*frontend, "features.segment_frames=40", *TEXTURE)
    recipe = open_recipe(config.features)
    model = build_model(config, recipe.encoding, recipe.shape, 3)
    assert model.get_layer("frontend").output.shape[2:] == (64, 2)
    assert model.layers[-1].get_layer("texture_normalisation").output.shape[-1] > 800


def test_texture_weighs_no_segments(reader):
    with pytest.raises(ConfigError, match=r"model\.texture = true has no weights of segments.*model\.texture=false"):
        texture_trainer(reader, "train.loss={name='pooled', pool='attention'}", "train.bag=2")


def test_the_model_is_its_parts_one_after_the_other(corpus, reader):
    model = build_model(corpus, reader.encoding, reader.shape, 3)
    stage, network = model.get_layer("standardise"), model.layers[-1]
    stage.mean.assign(np.linspace(-1, 1, 200))
    codes = reader.read([1, 2], [5, 0])
    assert model.input_shape == (None, 310, 200)
    assert model.name == "alexnet"
    expected = values(network(stage(model.get_layer("decode")(codes))))
    np.testing.assert_allclose(model.predict_on_batch(codes), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_compiled_steps_change_the_weights_and_lower_the_loss_of_a_repeated_batch(
    corpus, reader, tiny, tmp_path, policy
):
    config = derived(
        corpus,
        tmp_path,
        "model.network=tiny",
        "model.dropout=0.0",
        f"train.precision={policy}",
        "train.warmup_epochs=0",
        "train.schedule=constant",
        "train.optimizer={name='adam', learning_rate=1e-2}",
    )
    keras.utils.set_random_seed(0)
    model = build_model(config, reader.encoding, reader.shape, 3)
    fit_statistics(model, reader, list_segments(reader, range(len(reader))), "bin", 0)
    loss = open_loss(config.train.loss)
    trainer = build_trainer(config, model, loss, 100)
    assert trainer.jit_compile is True
    before = [values(weight).copy() for weight in model.trainable_weights]
    codes, targets = reader.read(range(6), [0] * 6), np.tile(np.eye(3, dtype=np.float32), (2, 1))
    # The first loss by hand, from the model's own outputs in training mode.
    logits = ops.cast(model(codes, training=True), "float32")
    expected = float(ops.convert_to_numpy(loss.over_batch(targets, logits, 1)).mean())
    losses = [float(trainer.train_on_batch([codes, targets], np.zeros(6, np.float32))[0]) for _ in range(12)]
    assert losses[0] == pytest.approx(expected, rel=1e-4 if policy == "float32" else 0.05)
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(losses).all()
    changed = [not np.array_equal(old, values(new)) for old, new in zip(before, model.trainable_weights, strict=True)]
    assert all(changed)


@pytest.mark.skipif(has_accelerator(), reason="concerns machines without one")
@pytest.mark.parametrize(
    ("overrides", "steps", "expected"),
    [
        (("model.network=residual", "model.width=4"), 10, True),
        (("model.network=residual", "model.width=4"), 9, False),
        (("model.network=application", "model.backbone=MobileNetV3Small"), 100, False),
        (("model.network=application", "model.backbone=Xception"), 100, False),
    ],
)
def test_steps_are_compiled_where_it_pays(overrides, steps, expected):
    """Not for depthwise convolutions, and not for epochs of a few steps."""
    config = settings("features.segment_frames=80", *overrides)
    trainer = build_trainer(config, build_model(config, UINT8, (80,), 3), open_loss(config.train.loss), steps)
    assert trainer.jit_compile is (expected or keras.backend.backend() == "jax")


def test_float16_scales_its_loss():
    """Gradients of some 1e-9 are 0 in float16; with a scale they arrive."""
    for name, scaled in (("mixed_float16", True), ("mixed_bfloat16", False), ("float32", False)):
        config = settings("features.segment_frames=80", f"train.precision={name}", "model.network=cnn1")
        trainer = build_trainer(config, build_model(config, UINT8, (80,), 3), open_loss(config.train.loss), 5)
        assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
        assert trainer.optimizer.learning_rate is not None


def test_a_dynamic_range_without_effect_is_refused():
    """Codes of half a decibel span 127.5 dB, those of 0.05 powers of ten 12.75."""
    for limit, encoding, good in ((80, Encoding("uint8", 0.5, -100), True), (80, Encoding("uint8", 0.05, -4.5), False)):
        config = settings("features.segment_frames=80", f"model.dynamic_range={limit}", "model.network=cnn1")
        if good:
            build_model(config, encoding, (80,), 3)
        else:
            with pytest.raises(ConfigError, match=r"dynamic_range. Received: 80. Expected: less than 12\.75"):
                build_model(config, encoding, (80,), 3)
