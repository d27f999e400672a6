"""Which devices share the batches."""

import pytest

import config as configuration
from config import ConfigError
from train.devices import choose_devices

GPUS = ["gpu:0", "gpu:1", "gpu:2"]
CPUS = ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    ("devices", "batch", "gpus", "expected"),
    [
        (0, 32, [], []),
        (0, 32, GPUS[:1], ["gpu:0"]),
        (0, 32, GPUS[:2], GPUS[:2]),
        (0, 32, GPUS, GPUS[:2]),  # 32 is no multiple of 3
        (0, 33, GPUS, GPUS),
        (0, 7, GPUS, ["gpu:0"]),
        (1, 32, GPUS, ["gpu:0"]),
        (2, 32, GPUS, GPUS[:2]),
        (2, 32, [], CPUS),  # asked for, and the back end has them
        (1, 32, [], CPUS[:1]),
    ],
)
def test_choice(devices, batch, gpus, expected):
    config = configuration.load(None, [f"train.devices={devices}", f"train.batch_size={batch}"])
    assert choose_devices(config, gpus, CPUS) == expected


def test_bags_stay_whole():
    """On tensorflow each device sees its own share: 36 segments in bags of 12 are for 3 devices, not for 2."""
    for back_end, own in (("tensorflow", ["gpu:0"]), ("jax", GPUS[:2])):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("keras.backend.backend", lambda back_end=back_end: back_end)
            config = configuration.load(None, ["train.batch_size=36", "train.bag=12"])
            assert choose_devices(config, GPUS, CPUS) == GPUS
            assert choose_devices(config, GPUS[:2], CPUS) == own
            config = configuration.load(None, ["train.batch_size=36", "train.bag=12", "train.devices=2"])
            if back_end == "tensorflow":
                with pytest.raises(ConfigError, match="multiple of the 2 devices times the 12 segments of a bag"):
                    choose_devices(config, GPUS, CPUS)
            else:
                assert choose_devices(config, GPUS, CPUS) == GPUS[:2]


@pytest.mark.parametrize(
    ("devices", "batch", "words"),
    [
        (4, 32, r"train\.devices\. Received: 4\. Expected: at most 3 \(gpu:0, gpu:1, gpu:2\)"),
        (3, 32, r"train\.batch_size\. Received: 32\. Expected: a multiple of the 3 devices"),
    ],
)
def test_what_cannot_be_shared_is_refused(devices, batch, words):
    config = configuration.load(None, [f"train.devices={devices}", f"train.batch_size={batch}"])
    with pytest.raises(ConfigError, match=words):
        choose_devices(config, GPUS, CPUS)


def test_several_workers_take_all_devices():
    pytest.importorskip("jax")
    config = configuration.load(None, ["train.batch_size=32"])
    with pytest.raises(ConfigError, match="this one has 1 of 3, and there are 2"):
        choose_devices(config, [], ["cpu:0", "cpu:1", "cpu:2048"], workers=2)
    assert choose_devices(config, [], ["cpu:0", "cpu:2048"], workers=2) == ["cpu:0", "cpu:2048"]
    with pytest.raises(ConfigError, match=r"train\.devices\. Received: 1\. Expected: 0"):
        choose_devices(configuration.load(None, ["train.devices=1"]), GPUS, CPUS, workers=3)


def test_a_back_end_without_devices():
    assert choose_devices(configuration.load(None, ["train.devices=1"]), [], []) == []
    with pytest.raises(ConfigError, match="this back end uses one"):
        choose_devices(configuration.load(None, ["train.devices=2"]), [], [])
