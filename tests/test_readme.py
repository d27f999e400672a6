"""Every command in the README and in docs/ names a script that exists and options that the script has."""

import functools
import re
import shlex
import subprocess
import sys

import pytest

import config as configuration
from preprocess.recipes import open_recipe
from tests.conftest import PROJECT
from train.losses import open_loss
from train.network import build_model, build_trainer

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "docs").glob("*.md")))]
FENCED = [block for page in PAGES for block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)]
BLOCKS = [text for language, text in FENCED if not language]  # those with a language are for other programs than ours
COMMANDS = [
    line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip() and line[0] != "#"
]


def test_the_two_commands_come_first():
    assert COMMANDS[0].startswith("./doall.sh")
    assert COMMANDS[1].startswith("./predict.sh")


@functools.cache
def usage(*start: str) -> str:
    """Return what a script says to --help."""
    done = subprocess.run([*start, "--help"], capture_output=True, text=True, cwd=PROJECT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists_with_its_options(command):
    words = shlex.split(command)
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
        script = words[1:3] if words[1] == "-m" else words[1:2]
        start = [sys.executable, *script]
    else:
        start = [words[0]]
    if words[0].endswith("run.sh"):
        assert (PROJECT / words[0]).exists()
        return
    shown = usage(*start)
    for word in words:
        if word.startswith("--"):
            assert word in shown
    if "--config" in words and not words[words.index("--config") + 1].startswith(("CONFIG", "runs/")):
        assert (PROJECT / words[words.index("--config") + 1]).exists()
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set" and "=" in words[i + 1]]
    if "--config" in shown:
        path = words[words.index("--config") + 1] if "--config" in words else "config/demo.toml"
        config = configuration.load(PROJECT / path if (PROJECT / path).is_file() else None, settings)
        if any(setting.startswith(("model.", "features.", "train.")) for setting in settings):
            recipe = open_recipe(config.features)  # as stage 0 checks it
            build_trainer(
                config, build_model(config, recipe.encoding, recipe.shape, 2), open_loss(config.train.loss), 1
            )


def test_reason_codes_are_those_of_the_source():
    """The table of reasons lists every code that the source can give, and no other."""
    table = README.split("| reason | meaning |")[1].split("\n\n")[0]
    documented = set(re.findall(r"`(\w+)`", table))
    given = set()
    for path in (PROJECT / "preprocess").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        given |= set(re.findall(r'AudioError\(\s*"(\w+)"', text))
        given |= set(re.findall(r'"(?:fetch|load)", "(\w+)"', text))
        given |= set(re.findall(r'"((?:excluded|duplicate|conflicting)_\w+)"', text))
    given = (given - {"resample"}) | {"xml_entities", "xml_malformed"}
    given |= set(re.findall(r"report reject (\w+)", (PROJECT / "preprocess/sample_wavs_to_16k.sh").read_text()))
    assert documented == given


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"`((?:config|preprocess|train|predict|tests)/[\w./-]+\.(?:py|sh|toml))`", README):
        known = name.startswith("preprocess/resample_wavs_to_16k") or name == "train/MapCallback.py"
        assert known or (PROJECT / name).exists(), name
