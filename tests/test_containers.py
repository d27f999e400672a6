"""The container files: what they copy exists, what they start takes their options, and compose names their targets."""

import json
import re

import pytest
import yaml

from tests.conftest import PROJECT, run_script

INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", (PROJECT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    if line and not line.startswith("#")
]
COMPOSE = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))


def values(name: str) -> list[str]:
    return [value for instruction, value in INSTRUCTIONS if instruction == name]


def test_what_is_copied_exists():
    for value in values("COPY"):
        *sources, _ = value.split()
        assert all((PROJECT / source).exists() for source in sources)


def test_what_is_not_copied_is_ignored_by_git_too():
    """The context holds what git holds: no corpora, runs or environment."""
    ours = set((PROJECT / ".dockerignore").read_text().split())
    for line in (PROJECT / ".gitignore").read_text().split():
        name = line.strip("/")
        assert name in ours or f"**/{name}" in ours or name.startswith(("*.", "predict/")), name


@pytest.mark.parametrize("number", [0, 1])
def test_entry_points_take_their_options(number):
    command = json.loads(values("ENTRYPOINT")[number])
    if command[0] == "python":
        said = run_script(*command[1:2], "--help").stdout
        assert all(word in said for word in command if word.startswith("--"))
    else:
        assert (PROJECT / command[0]).exists()
        run = run_script("-m", "config", *command[1:])
        assert run.returncode == 0, run.stderr
        assert 'folder = "/data/corpora"' in run.stdout


def test_images_run_without_root_and_choose_their_lock():
    assert values("USER") == ["1000"]
    assert values("ARG") == ["LOCK=requirements.lock"]
    assert "BIRDSONG_LOCK=$LOCK" in values("ENV")[0]
    assert "${BIRDSONG_LOCK:-}" in (PROJECT / "environment.sh").read_text()


def test_compose_names_targets_and_keeps_to_this_machine():
    targets = {value.split(" AS ")[1] for value in values("FROM")}
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert service["build"]["target"] in targets
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert all(volume.endswith(":ro") for volume in service["volumes"])
        assert service["cap_drop"] == ["ALL"]
    mounted = COMPOSE["services"]["listen"]["volumes"][0].split(":")[-2]
    assert mounted in json.loads(values("ENTRYPOINT")[1])
