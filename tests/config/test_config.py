"""The typed configuration: what it accepts, what it says otherwise, and that it survives its own TOML."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import config as configuration
from config import Between, Config, ConfigError, Data, Part, PipelineError, Positive, Share, Train, bind, load, to_toml
from preprocess.recipes import open_recipe
from preprocess.sources import open_source
from tests.conftest import PROJECT, run_script

CONFIGS = sorted((PROJECT / "config").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_data_classes():
    assert load() == Config()
    assert load().train.epochs == 30
    assert load().features.segment_frames == 310


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", ["Unknown key train.epoch", "epochs", "batch_size"]),
        ("trian.epochs=3", ["Unknown key trian", "train"]),
        ("train.epochs=ten", ["train.epochs", "'ten'", "int"]),
        ("train.epochs=2.5", ["train.epochs", "2.5", "int"]),
        ("train.epochs=true", ["train.epochs", "True", "int"]),
        ("train.epochs=0", ["train.epochs", "Received: 0", "at least 1"]),
        ("train.seed=-1", ["train.seed", "-1", "from 0 to 4294967295"]),
        ("train.validation=1.5", ["train.validation", "1.5", "from 0 to 1"]),
        ("train.validation=nan", ["train.validation", "nan", "number"]),
        ("train.holdout=false", ["train.holdout", "False", "float"]),
        ("train.schedule=linear", ["train.schedule", "'linear'", "constant", "cosine"]),
        ("train.precision=true", ["train.precision", "True", "float32", "mixed_bfloat16"]),
        ("features.mask=1", ["features.mask", "Received: 1", "bool"]),
        ("data.folder=7", ["data.folder", "Received: 7", "str"]),
        ("train.optimizer=adam", ["train.optimizer", "'adam'", "name"]),
        ("train.optimizer={name=5}", ["train.optimizer", "5", "name"]),
        ("train.augment=5", ["train.augment", "Received: 5", "table"]),
        ("train.augment.mixup=5", ["train.augment.mixup", "Received: 5", "table"]),
    ],
)
def test_error_names_the_key_what_was_received_and_what_is_accepted(override, words):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_augmentation_of_a_file_can_be_left_out(tmp_path):
    file = write(tmp_path, "[train.augment]\nmixup = { alpha = 0.3 }\ntime_roll = {}\n")
    assert load(file, ["train.augment.mixup=false"]).train.augment == {"time_roll": {}}
    assert load(file, ["train.augment.gain=false"]).train.augment == {"mixup": {"alpha": 0.3}, "time_roll": {}}
    with pytest.raises(ConfigError, match=r"train\.augment\.mixup.*True.*table"):
        load(file, ["train.augment.mixup=true"])


def test_section_that_is_no_table(tmp_path):
    with pytest.raises(ConfigError, match=r"train.*Received: 5.*table"):
        load(write(tmp_path, "train = 5\n"))


def test_whole_number_is_accepted_for_a_float_and_becomes_one():
    value = load(None, ["train.warmup_epochs=2"]).train.warmup_epochs
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("5", 5),
        ("-0.5", -0.5),
        ("1e-8", 1e-8),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('{name = "x", y = 1}', {"name": "x", "y": 1}),
        ("bare", "bare"),
        (" two words ", "two words"),
        ("/data/Bird CLEF", "/data/Bird CLEF"),
        ('"5"', "5"),
        ("", ""),
        ("a=b", "a=b"),
        ("#1", "#1"),
        ("Märchenwald", "Märchenwald"),
    ],
)
def test_value_of_an_override(raw, value):
    found = load(None, [f"model.anything={raw}"]).model.options["anything"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["train.epochs", "epochs=3", "=3", "train..epochs=3", ".epochs=3", "train.=3", ""])
def test_malformed_override(text):
    with pytest.raises(ConfigError, match=r"section\.key=value") as caught:
        load(None, [text])
    assert repr(text) in str(caught.value)


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(tmp_path):
    path = write(tmp_path, "[train]\nepochs = 3\nbatch_size = 4\n")
    train = load(path, ["train.epochs=5", "train.epochs=6"]).train
    assert (train.epochs, train.batch_size) == (6, 4)


def test_override_below_a_plain_value(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.epochs\.x.*not a table"):
        load(write(tmp_path, "[train]\nepochs = 3\n"), ["train.epochs.x=1"])


class TestChoosingAnotherPart:
    FILE = """
        [data]
        source = "dawnchorus"
        corpus = "mine"
        limit = 7
        species = 5
        [model]
        network = "alexnet"
        normalise = "none"
        momentum = 0.5
        [train]
        optimizer = { name = "rmsprop", rho = 0.8 }
    """

    def test_drops_the_options_of_the_earlier_one_and_keeps_the_common_fields(self, tmp_path):
        path = write(tmp_path, self.FILE)
        config = load(path, ["model.network=birdclef", "data.source=folder", "train.optimizer.name=sgd"])
        assert config.model.options == {}
        assert config.model.normalise == "none"
        assert config.data == Data(source="folder", limit=7)  # the corpus was named for the other source
        assert config.train.optimizer == Part("sgd")

    def test_choosing_the_same_one_again_keeps_them(self, tmp_path):
        path = write(tmp_path, self.FILE)
        config = load(path, ["model.network=alexnet", "data.source=dawnchorus", "train.optimizer.name=rmsprop"])
        assert config.model.options == {"momentum": 0.5}
        assert (config.data.corpus, config.data.options) == ("mine", {"species": 5})
        assert config.train.optimizer == Part("rmsprop", {"rho": 0.8})

    def test_options_after_the_choice_belong_to_it(self, tmp_path):
        config = load(write(tmp_path, self.FILE), ["data.source=birdclef", "data.root=/somewhere"])
        assert config.data.options == {"root": "/somewhere"}

    def test_options_of_the_command_line_survive_a_choice_that_follows_them(self, tmp_path):
        overrides = ["data.root=/somewhere", "data.corpus=x", "data.source=birdclef"]
        data = load(write(tmp_path, self.FILE), overrides).data
        assert (data.options, data.corpus) == ({"root": "/somewhere"}, "x")

    def test_options_without_a_name_change_the_default_part(self):
        default = Train().optimizer
        optimizer = load(None, ["train.optimizer.learning_rate=1"]).train.optimizer
        assert optimizer == Part(default.name, default.options | {"learning_rate": 1})

    def test_a_file_that_relies_on_the_default_part(self, tmp_path):
        path = write(tmp_path, "[data]\nspecies = 5\n[model]\nmomentum = 0.5\n")
        config = load(path, ["data.source=birdclef", "model.network=birdclef"])
        assert (config.data.options, config.model.options) == ({}, {})


names = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True).map(lambda name: f"x_{name}")
scalars = (
    st.text(st.characters(codec="utf-8"), max_size=12)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
options = st.dictionaries(names, values, max_size=4)


@given(
    folder=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
        lambda name: name[0] != "~"
    ),
    limit=st.integers(0, 2**40),
    share=st.floats(0, 1),
    mask=st.booleans(),
    own=options,
    part=options,
)
@example(folder="\x7f", limit=0, share=0.5, mask=True, own={}, part={})
@example(folder='a"b\\c\n\t\x01é\U0001f426', limit=0, share=5e-324, mask=True, own={}, part={})
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_toml_round_trip(tmp_path_factory, folder, limit, share, mask, own, part):
    config = Config(
        data=Data(folder=folder, limit=limit, corpus="c", options=own),
        features=configuration.Features(mask=mask, options=part),
        train=Train(run="r", validation=share, optimizer=Part("sgd", part), augment={"mixup": part}),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load(path) == config


def test_what_is_left_out_must_exist(tmp_path):
    path = write(tmp_path, "[train.augment]\nmixup = {}\n")
    assert load(path, ["train.augment.mixup=false", "train.augment.warp=false"]).train.augment == {}
    with pytest.raises(ConfigError, match=r"train\.augment\.mixp"):
        load(path, ["train.augment.mixp=false"])


class TestMini:
    def test_changes_the_size_and_the_names_and_nothing_else(self):
        overrides = ["data.corpus=big", "train.run=long", "train.validation=0.3"]
        mini, whole = load(None, overrides, mini=True), load(None, overrides)
        assert (mini.data.limit, mini.train.epochs, mini.train.batch_size, mini.train.warmup_epochs) == (24, 1, 8, 0.0)
        assert (mini.corpus_dir.name, mini.run_dir.name) == ("big-mini", "long-mini")
        train = dataclasses.replace(
            whole.train, run="long-mini", epochs=1, batch_size=8, warmup_epochs=0.0
        )  # all that may differ
        assert mini == dataclasses.replace(
            whole, data=dataclasses.replace(whole.data, corpus="big-mini", limit=24), train=train
        )

    def test_what_a_search_tries_is_not_replaced(self):
        mini = load(None, ["train.batch_size=64"], mini=True, last=["train.batch_size=16", "model.dropout=0.25"])
        assert (mini.train.batch_size, mini.train.epochs, mini.model.options) == (16, 1, {"dropout": 0.25})

    def test_a_small_batch_still_holds_noise(self):
        from train.batches import count_noisy

        for overrides, share in (
            (["train.noise_class=0.05"], 1 / 8),
            (["train.noise_class=0.05", "train.bag=4"], 4 / 8),
            (["train.noise_class=0.3"], 0.3),
            (["train.noise_class=0.25", "train.bag=16", "train.batch_size=64"], 0.5),
            (["train.noise_class=0.9", "train.bag=4", "train.batch_size=64"], 0.5),
            ([], 0),
        ):
            train = load(None, overrides, mini=True).train
            assert train.noise_class == share
            assert count_noisy(train) == round(share * 8 / train.bag) * train.bag

    def test_names_that_are_derived(self):
        config = load(None, ["data.source=birdclef", "data.root=/data/Birds2016"], mini=True)
        assert (config.corpus_dir.name, config.run_dir.name) == ("Birds2016-mini", "Birds2016-alexnet-mini")

    def test_a_split_for_many_recordings_is_left(self):
        overrides = ["train.split.name=kfold", "train.split.k=10"]
        assert load(None, overrides).train.split == Part("kfold", {"k": 10})
        assert load(None, overrides, mini=True).train.split == Part("grouped")

    def test_its_configuration_survives_a_round_trip(self, tmp_path):
        mini = load(CONFIGS[-1], mini=True)
        assert load(write(tmp_path, to_toml(mini))) == mini


class TestBase:
    """A file that changes another one of its folder."""

    @pytest.fixture
    def below(self, tmp_path) -> Path:
        (tmp_path / "below.toml").write_text(
            """
            [features]
            recipe = "logmel"
            mels = 40
            [model]
            network = "residual"
            width = 24
            [train]
            epochs = 60
            optimizer = { name = "sgd", momentum = 0.5 }
            augment = { mixup = { alpha = 0.4 }, time_roll = {} }
            """
        )
        return tmp_path

    def test_changes_key_by_key_as_overrides_do(self, below):
        text = """
            base = "below.toml"
            [features]
            hop = 320
            [model]
            network = "alexnet"
            dense = 16
            [train]
            batch_size = 8
            optimizer = { momentum = 0.9 }
            augment = { mixup = false, gain = { decibels = 3 } }
            """
        config = load(write(below, text))
        overrides = ["features.hop=320", "model.network=alexnet", "model.dense=16", "train.batch_size=8"]
        overrides += ["train.optimizer.momentum=0.9", "train.augment.mixup=false", "train.augment.gain.decibels=3"]
        assert config == load(below / "below.toml", overrides)
        assert (config.train.epochs, config.features.options) == (60, {"mels": 40, "hop": 320})
        assert config.model.options == {"dense": 16}  # the width was one of another network
        assert config.train.augment == {"time_roll": {}, "gain": {"decibels": 3}}
        assert load(write(below, to_toml(config))) == config

    def test_of_a_base(self, below):
        (below / "middle.toml").write_text('base = "below.toml"\ntrain.epochs = 3\nmodel.width = 8')
        config = load(write(below, 'base = "middle.toml"\ntrain.epochs = 4'), ["train.seed=5"])
        assert (config.train.epochs, config.train.seed, config.model.options["width"]) == (4, 5, 8)

    def test_tables_are_changed_entry_by_entry(self, below):
        """Empty sections change nothing, an empty table empties, entries of tables are replaced whole."""
        (below / "search.toml").write_text(
            'base = "below.toml"\n[train.augment]\noverlap = false\n[tune.space]\n'
            '"train.batch_size" = [8, 16]\n"train.ema" = { low = 0.1, high = 0.9, step = 0.1 }'
        )
        text = """
            base = "search.toml"
            [features]
            [data]
            [train.augment]
            overlap = { share = 0.3 }
            mixup = { targets = "max" }
            [tune.space]
            "train.batch_size" = { low = 8, high = 32 }
            "train.ema" = { low = 0.5, high = 0.9, log = true }
            """
        config = load(write(below, text))
        assert config.features == load(below / "below.toml").features
        assert config.train.augment == {"time_roll": {}, "overlap": {"share": 0.3}, "mixup": {"targets": "max"}}
        assert config.tune.space["train.batch_size"] == {"low": 8, "high": 32}
        assert config.tune.space["train.ema"] == {"low": 0.5, "high": 0.9, "log": True}
        assert load(write(below, 'base = "below.toml"\ntrain.augment = {}')).train.augment == {}

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ('"../secret.toml"', "another .toml file of the same folder"),
            ('"/etc/passwd"', "another .toml file of the same folder"),
            ('".."', "another .toml file of the same folder"),
            ('"a\\u0000.toml"', "another .toml file of the same folder"),
            ("3", "another .toml file of the same folder"),
            ('""', "another .toml file of the same folder"),
            ('"own.toml"', "a file that is not based on this one"),
            ('"loop.toml"', "a file that is not based on this one"),
            ('"chain0.toml"', "none after 8 others"),
        ],
    )
    def test_is_another_file_of_the_folder(self, tmp_path, name, words):
        (tmp_path / "loop.toml").write_text('base = "own.toml"')
        for k in range(9):
            (tmp_path / f"chain{k}.toml").write_text(f'base = "chain{k + 1}.toml"')
        (tmp_path / "own.toml").write_text(f"base = {name}")
        with pytest.raises(ConfigError, match=rf"Invalid value for base in .*\.toml.*{words}"):
            load(tmp_path / "own.toml")

    def test_that_is_missing(self, tmp_path):
        with pytest.raises(ConfigError, match=r"Cannot read the configuration .*nowhere\.toml: No such file"):
            load(write(tmp_path, 'base = "nowhere.toml"'))

    @pytest.mark.parametrize(
        "text", ["train = 3", 'base = "below.toml"\ntrain = 3', 'base = "below.toml"\n[trains.split]\nname = "x"']
    )
    def test_a_section_stays_a_table(self, below, text):
        with pytest.raises(ConfigError, match="train"):
            load(write(below, text))


class TestFolderNames:
    @pytest.mark.parametrize("name", ["a/b", "/abs", "..", ".", "../up", "end/"])
    @pytest.mark.parametrize("key", ["data.corpus", "train.run"])
    @pytest.mark.parametrize("mini", [False, True])
    def test_a_name_that_is_a_path_is_refused(self, key, name, mini):
        with pytest.raises(ConfigError) as caught:
            load(None, [f'{key}="{name}"'], mini)
        assert key in str(caught.value)
        assert repr(name) in str(caught.value)

    def test_of_a_corpus(self):
        made = configuration.PROJECT / "birdclef_data"
        assert load().corpus_dir == made / "dawnchorus"
        assert load(None, ["data.root=/data/Birds2016/"]).corpus_dir == made / "Birds2016"
        assert load(None, ["data.root=/data/Birds2016/", "data.corpus=x"]).corpus_dir == made / "x"
        assert load(None, ["data.folder=/elsewhere", "data.corpus=x"]).corpus_dir == Path("/elsewhere/x")

    def test_of_a_run(self):
        assert load().run_dir == configuration.PROJECT / "runs" / "dawnchorus-alexnet"
        assert load(None, ["train.run=x", "train.folder=/elsewhere"]).run_dir == Path("/elsewhere/x")

    def test_root_without_a_name_leaves_the_corpus_without_one(self):
        with pytest.raises(ConfigError, match=r"data\.corpus"):
            load(None, ["data.source=birdclef", "data.root=/"])

    @pytest.mark.parametrize("key", ["data.folder", "train.folder"])
    def test_a_folder_without_a_name_is_not_the_project(self, key):
        with pytest.raises(ConfigError, match=rf"{key}\. Received: ''\. Expected: a path"):
            load(None, [f"{key}="])

    def test_root_that_looks_like_a_number(self):
        with pytest.raises(ConfigError, match=r"data\.root.*2016.*str"):
            open_source(load(None, ["data.source=birdclef", "data.root=2016"]).data)


class TestBind:
    @staticmethod
    def network(shape, classes, *, width: Positive = 8, rate: Share = 0.5, kind: Literal["a", "b"] = "a", free=None):
        """Stand for a part that is a function."""

    @dataclass(frozen=True)
    class Recipe:
        sizes: tuple[int, ...] = (1, 2)
        names: list[str] = dataclasses.field(default_factory=list)
        limit: float | None = None
        level: Annotated[float, Between(None, 3)] = 1.0

    def test_a_choice_is_what_was_offered(self):
        """2.0 would give features another name than 2."""

        def part(*, power: Literal[1, 2] = 1):
            pass

        assert repr(bind(part, {"power": 2.0}, "features")) == "{'power': 2}"
        with pytest.raises(ConfigError, match="one of: 1, 2"):
            bind(part, {"power": True}, "features")

    def test_fills_in_the_defaults(self):
        assert bind(self.network, {}, "model") == {"width": 8, "rate": 0.5, "kind": "a", "free": None}
        assert bind(self.network, {"width": 3, "rate": 1}, "model") == {
            "width": 3,
            "rate": 1.0,
            "kind": "a",
            "free": None,
        }

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"widht": 3}, ["Unknown key model.widht", "network", "free, kind, rate, width"]),
            ({"shape": 3}, ["Unknown key model.shape"]),
            ({"width": 0}, ["model.width", "0", "at least 1"]),
            ({"width": "3"}, ["model.width", "'3'", "int"]),
            ({"rate": 2}, ["model.rate", "2", "from 0 to 1"]),
            ({"kind": "c"}, ["model.kind", "'c'", "a, b"]),
        ],
    )
    def test_errors_of_a_function(self, options, words):
        with pytest.raises(ConfigError) as caught:
            bind(self.network, options, "model")
        assert [word for word in words if word not in str(caught.value)] == []

    def test_dataclass_with_collections_and_alternatives(self):
        given = {"sizes": [3, 4, 5], "names": ["x"], "limit": 2}
        bound = bind(self.Recipe, given, "features")
        assert bound["sizes"] == (3, 4, 5)
        assert (bound["names"], bound["limit"], bound["level"]) == (["x"], 2.0, 1.0)
        assert bind(self.Recipe, {}, "features")["limit"] is None

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"sizes": [1, "x"]}, ["features.sizes[1]", "'x'", "int"]),
            ({"sizes": 3}, ["features.sizes", "list"]),
            ({"limit": "x"}, ["features.limit", "'x'"]),
            ({"level": 3.5}, ["features.level", "3.5", "at most 3"]),
        ],
    )
    def test_errors_of_a_dataclass(self, options, words):
        with pytest.raises(ConfigError) as caught:
            bind(self.Recipe, options, "features")
        assert [word for word in words if word not in str(caught.value)] == []

    def test_bound_options_make_the_part(self):
        assert self.Recipe(**bind(self.Recipe, {"level": 2}, "features")).level == 2.0


class TestFiles:
    def test_there_are_some(self):
        assert {path.name for path in CONFIGS} >= {"demo.toml", "birdclef2016.toml"}

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
    def test_loads_and_its_parts_accept_their_options(self, path, tmp_path):
        config = load(path)
        assert open_source(config.data).__class__.__module__ == f"preprocess.sources.{config.data.source}"
        assert open_recipe(config.features).sample_rate in (16_000, 22_050, 32_000)
        assert load(write(tmp_path, to_toml(config))) == config

    @pytest.mark.parametrize(
        ("key", "known"), [("data.source", "birdclef, dawnchorus, folder"), ("features.recipe", "birdclef2016")]
    )
    def test_unknown_part(self, key, known):
        config = load(None, [f"{key}=nonsense"])
        with pytest.raises(ConfigError, match=rf"{key}.*'nonsense'") as caught:
            open_source(config.data)
            open_recipe(config.features)
        assert all(name in str(caught.value) for name in known.split(", "))

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b"[train\n", "not valid TOML"),
            (b"x = 1\nx = 2\n", "not valid TOML"),
            (b"x = '\xff'\n", "not valid TOML"),
            (b"#" * ((1 << 20) + 1), "larger than"),
            (None, "No such file"),
        ],
    )
    def test_unreadable_file(self, tmp_path, content, word):
        path = tmp_path / "bad.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=word) as caught:
            load(path)
        assert str(path) in str(caught.value)

    def test_folder_instead_of_a_file(self, tmp_path):
        with pytest.raises(ConfigError, match="Is a directory"):
            load(tmp_path)


@pytest.mark.parametrize("override", [
    "tune.storage=postgresql://me:s3cret@host/study",
    "train.mlflow=https://me:s3cret@host:5000",
    "data.url=http://:s3cret@host/",
    "data.parts=[{source='birdclef', url='http://me:s3cret@host/'}]",
])  # fmt: skip
def test_an_address_with_a_password_is_refused(override):
    """It would be written into every run directory."""
    with pytest.raises(ConfigError, match="an address with a password") as error:
        load(None, [override])
    assert override.partition("=")[0] in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("address", ["postgresql://me@host:5432/x", "sqlite:///a:b@c", "https://host:80/a@b"])
def test_addresses_without_one_are_kept(address):
    assert load(None, [f'tune.storage="{address}"']).tune.storage == address


class TestRecipeLimits:
    @pytest.mark.parametrize("override", ["features.hop=513", "features.bins=258", "features.bands=201"])
    def test_values_that_contradict_each_other(self, override):
        key = override.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"{key}.*from 1 to"):
            open_recipe(load(None, [override]).features)


class TestCommand:
    def test_prints_what_it_resolved_to(self, tmp_path):
        """What was given, and every option of recipe, front end and network besides."""
        given = ["train.epochs=3", "model.width=7", "features.recipe=waveform", "features.frontend.name=vggish"]
        done = run_script("-m", "config", *(word for override in given for word in ("--set", override)), "--mini")
        assert done.returncode == 0, done.stderr
        assert tomllib.loads(done.stdout)["train"]["epochs"] == 1
        found = load(write(tmp_path, done.stdout))
        expected = load(PROJECT / "config" / "demo.toml", given, mini=True)
        assert (found.data, found.train, found.predict, found.tune) == (
            expected.data, expected.train, expected.predict, expected.tune)  # fmt: skip
        assert found.features.options == {"sample_rate": 22_050, "hop": 441, "trim": False, "peak": False}
        frontend = found.features.frontend
        assert frontend.name == "vggish"
        assert (frontend.options["high"], frontend.options["floor"], frontend.options["hop"]) == (7500.0, 0.01, 160)
        assert found.model.options == {
            "width": 7,
            "stages": [1, 1, 1, 1],
            "pool": "mean",
            "dropout": 0.2,
            "momentum": 0.9,
            "texture": True,
            "fine": 0,
        }

    def test_prints_single_facts(self):
        done = run_script("-m", "config", "--set", "data.corpus=x", "--get", "corpus_dir", "run_dir")
        assert done.stdout.splitlines() == [str(PROJECT / "birdclef_data" / "x"), str(PROJECT / "runs" / "x-residual")]

    def test_a_mistake_ends_in_one_line_and_status_2(self):
        done = run_script("-m", "config", "--set", "train.epoch=3")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: Unknown key train.epoch.")
        assert done.stderr.count("\n") == 1


def test_a_configuration_error_is_a_pipeline_error():
    assert issubclass(ConfigError, PipelineError)


def test_the_version_is_that_of_the_package():
    with (PROJECT / "pyproject.toml").open("rb") as stream:
        assert tomllib.load(stream)["project"]["version"] == configuration.VERSION


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.root=~nobody-of-that-name/x", "data.root"),
        ('data.root="a\\u0000b"', "data.root"),
        ("data.root=/data/\udcff", r"'/data/\udcff' is not UTF-8"),
        ("train.folder=/data/\udcff", r"'/data/\udcff' is not UTF-8"),
        ('train.folder="~nobody-of-that-name"', "train.folder"),
        ("predict.hop=inf", "predict.hop"),
        ("train.epochs=99999999999999999999", "train.epochs"),
        (f"train.ema=1{'0' * 400}", "train.ema"),
        (f"train.epochs={'9' * 5000}", "train.epochs"),
        (f"tune.space.x={'[' * 5000}", "tune.space.x"),
        ('data.corpus="a\\u0000b"', "data.corpus"),
        ("data.corpus=a\udcff", "is not UTF-8"),
        ("train.run=a\udcff", "is not UTF-8"),
    ],
)
def test_values_that_nothing_can_be_done_with(override, key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        load(None, [override])


def test_a_file_with_a_number_of_thousands_of_digits(tmp_path):
    (tmp_path / "x.toml").write_text(f"[train]\nepochs = {'9' * 5000}\n")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        load(tmp_path / "x.toml")


def test_home_is_home_in_every_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = load(None, ["data.folder=~/data", "train.folder=~/runs", "data.corpus=c", "train.run=r"])
    assert (config.corpus_dir, config.run_dir) == (Path("/home/ada/data/c"), Path("/home/ada/runs/r"))


def test_a_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.toml").write_text("[train]\nepochs = 7\n", encoding="utf-8-sig")
    assert load(tmp_path / "x.toml").train.epochs == 7


def test_from_any_folder_with_any_python(tmp_path):
    """A config.py where the command is called, or another project there, is not taken for ours."""
    (tmp_path / "config.py").write_text("raise SystemExit('not ours')")
    command = [sys.executable, PROJECT / "config", "--get", "run_dir", "--set", "train.run=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout == f"{PROJECT / 'runs' / 'x'}\n", done.stderr
