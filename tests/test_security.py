"""SECURITY.md names tests that exist, and the rules that it promises are on."""

import re
import tomllib

from tests.conftest import PROJECT

TEXT = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 30
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []


def test_the_security_rules_are_on():
    lint = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert set(lint["ignore"]) & {rule for rule in lint["ignore"] if rule.startswith("S")} == {"S101", "S603", "S607"}


def test_every_package_is_pinned_with_a_hash():
    for name in ("requirements.lock", "requirements-cuda.lock"):
        lines = (PROJECT / name).read_text().splitlines()
        packages = [i for i, line in enumerate(lines) if re.match(r"[a-z0-9_.-]+(\[.*\])?==", line)]
        assert len(packages) > 50
        assert all("--hash=sha256:" in lines[i + 1] for i in packages)
