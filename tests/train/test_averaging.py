"""Averaged weights against the average computed by hand, and that looking at them changes nothing."""

import keras
import numpy as np
import pytest

import config as configuration
from train.averaging import averaged
from train.devices import release
from train.network import open_optimizer
from train.run import Run

MOMENTUM = 0.8
RATE = 0.1


def small_trainer(ema: float, name: str = "sgd") -> keras.Model:
    config = configuration.load(
        None,
        [
            f"train.ema={ema}",
            f"train.optimizer={{name='{name}', learning_rate={RATE}}}",
            "train.schedule=constant",
            "train.warmup_epochs=0",
        ],
    )
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1.0], [-2.0]])
    model.compile(open_optimizer(config, 1), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def steps(trainer: keras.Model, first: int, last: int) -> list[np.ndarray]:
    """Take steps, each on an example of its own, and return the weights after each of them."""
    found = []
    for i in range(first, last):
        x = np.array([[1.0 + i, 0.5]], np.float32)
        trainer.train_on_batch(x / 10, np.array([[0.3]], np.float32))
        found.append(trainer.layers[0].kernel.numpy().copy())
    return found


def test_the_average_by_hand():
    """Gradient descent and average in NumPy: w -= rate * 2 (w x - y) x; from the first step's weights on."""
    trainer = small_trainer(MOMENTUM)
    weights = steps(trainer, 0, 5)
    w, average = np.array([1.0, -2.0]), None
    for i in range(5):
        x = np.array([1.0 + i, 0.5]) / 10
        w = w - RATE * 2 * (w @ x - 0.3) * x
        average = w if average is None else MOMENTUM * average + (1 - MOMENTUM) * w
        np.testing.assert_allclose(weights[i].ravel(), w, rtol=1e-5)
    with averaged(trainer):
        np.testing.assert_allclose(trainer.layers[0].kernel.numpy().ravel(), average, rtol=1e-5)
    assert not np.allclose(average, w, rtol=1e-3)
    np.testing.assert_array_equal(trainer.layers[0].kernel.numpy(), weights[-1])


def test_averages_under_a_loss_scale():
    """With precision mixed_float16 keras puts another optimizer around the one that holds the averages."""
    trainer = small_trainer(MOMENTUM)
    trainer.compile(keras.optimizers.LossScaleOptimizer(trainer.optimizer), "mse", jit_compile=False)
    weights = steps(trainer, 0, 4)
    average = weights[0]
    for weight in weights[1:]:
        average = MOMENTUM * average + (1 - MOMENTUM) * weight
    with averaged(trainer):
        np.testing.assert_allclose(trainer.layers[0].kernel.numpy(), average, rtol=1e-5)
    assert not np.allclose(average, weights[-1], rtol=1e-3)
    np.testing.assert_array_equal(trainer.layers[0].kernel.numpy(), weights[-1])


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_looking_at_the_averages_changes_nothing(name):
    quiet, watched = small_trainer(MOMENTUM, name), small_trainer(MOMENTUM, name)
    expected = steps(quiet, 0, 6)
    found = []
    for i in range(6):
        found += steps(watched, i, i + 1)
        with pytest.raises(KeyboardInterrupt), averaged(watched):
            raise KeyboardInterrupt
    np.testing.assert_array_equal(found, expected)
    with averaged(quiet), averaged(watched):
        np.testing.assert_array_equal(watched.layers[0].kernel.numpy(), quiet.layers[0].kernel.numpy())


def test_without_averaging_the_weights_are_their_own():
    trainer = small_trainer(0)
    (weight,) = steps(trainer, 0, 1)
    with averaged(trainer), averaged(None):
        np.testing.assert_array_equal(trainer.layers[0].kernel.numpy(), weight)


def test_a_released_model_holds_nothing():
    """TensorFlow never forgets the functions that it has traced, nor their variables."""
    trainer = small_trainer(MOMENTUM, "adamw")
    steps(trainer, 0, 1)
    variables = [*trainer.variables, *trainer.optimizer.variables]
    assert sum(variable.value.read_value().numpy().size for variable in variables) >= 8
    release(trainer)
    assert sum(variable.value.read_value().numpy().size for variable in variables) == 0


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # of the optimizer, whose state is not asked for
def test_a_resumed_state_holds_the_averages(tmp_path):
    """Bit by bit, against a run that was not interrupted."""
    whole, first, second = small_trainer(MOMENTUM), small_trainer(MOMENTUM), small_trainer(MOMENTUM)
    expected = steps(whole, 0, 6)
    steps(first, 0, 3)
    history = [{"epoch": 1, "loss": 1.0, "val_map": 0.5, "val_loss": 1.0, "val_acc": 0.5}]
    Run(tmp_path).save_epoch(first, first, history, checkpoint_every=1)
    assert Run(tmp_path).restore(second) == history
    np.testing.assert_array_equal(steps(second, 3, 6), expected[3:])
    with averaged(whole), averaged(second):
        np.testing.assert_array_equal(second.layers[0].kernel.numpy(), whole.layers[0].kernel.numpy())
    kept = small_trainer(0)
    kept.load_weights(tmp_path / "epoch_0001.weights.h5")
    with averaged(first):
        np.testing.assert_array_equal(kept.layers[0].kernel.numpy(), first.layers[0].kernel.numpy())
    assert not np.array_equal(kept.layers[0].kernel.numpy(), expected[2])
