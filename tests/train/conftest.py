"""What the tests of training share: views of the corpus, and a network that trains in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import train.models
from config import Config
from preprocess.loadData import features_folder
from preprocess.segments import SegmentReader, open_shards
from tests.conftest import small_config

NETWORKS = Path(__file__).with_name("networks")


def derived(corpus: Config, folder: Path, *overrides: str) -> Config:
    """Return a configuration on the same corpus whose runs lie in a folder of their own."""
    home = Path(corpus.data.folder).parent
    return small_config(home, Path(corpus.data.options["root"]), f'train.folder="{folder}"', *overrides)


def open_reader(config: Config, part: str = "train") -> SegmentReader:
    """Return the view of a part that the network gets."""
    features = config.features
    shards = open_shards(features_folder(config), part)
    return SegmentReader(shards, features.segment_frames, features.mask, features.drop_columns)


@pytest.fixture(scope="session")
def reader(corpus: Config) -> SegmentReader:
    """The training part of the corpus."""
    return open_reader(corpus)


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """Leaves XLA out where compiling is most of the time and nothing that is tested depends on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.network.compiler", lambda *arguments: False)
        yield


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """Makes model.network=tiny known, as a module in train/models would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.models, "__path__", [*train.models.__path__, str(NETWORKS)])
        yield
