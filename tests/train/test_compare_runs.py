"""The comparison of runs, from synthetic run folders: figures, curves, settings, filters, and hostile names."""

import json
import re
import shutil

import pytest

import config as configuration
from config import PipelineError
from tests.browser import Browser, needs_chromium
from tests.conftest import run_script
from tests.pages import StrictPage
from train.compareRuns import comparison, find_runs, read_results, ticks
from train.run import Run, write_rows

HOSTILE = "<img src=x onerror=alert(1)> \"'&"


class Page(StrictPage):
    """With the lines of the tables of runs."""

    def row(self, name: str, table: int = 0) -> dict[str, str]:
        heads = [i for i, row in enumerate(self.rows) if row[0] == "run"]
        rows = self.rows[heads[table] + 1 : [*heads, len(self.rows)][table + 1]]
        (found,) = [row for row in rows if row[0] == name]
        return dict(zip(self.rows[heads[table]], found, strict=True))


def make_run(folder, name: str, maps: list[float], *overrides: str, finished: bool = True) -> Run:
    config = configuration.load(None, [f"train.run={json.dumps(name)}", "data.corpus=birds", *overrides])
    run = Run(folder / name)
    run.folder.mkdir(parents=True)
    (run.folder / "config.toml").write_text(configuration.to_toml(config))
    history = [
        {"epoch": i + 1, "loss": 2 - value, "val_map": value, "val_loss": 1 - value, "val_top1": value / 2}
        | {"val_acc": 0.5, "seconds": 30.0}
        for i, value in enumerate(maps)
    ]
    write_rows(run.folder / "history.csv", history)
    if finished:
        metrics = {"validation": {"val_map": max(maps), "val_top1": max(maps) / 2, "val_top3": 0.9, "val_auc": None}}
        metrics |= {"intervals": {"val_map": [max(maps) - 0.1, max(maps) + 0.05]}, "holdout": {"holdout_map": 0.321}}
        (run.folder / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    make_run(folder, "first", [0.2, 0.6, 0.5])
    make_run(folder, "second", [0.4, 0.7], "model.network=birdclef", "train.seed=3", finished=False)
    make_run(folder, "third", [0.3], "train.seed=3", f"data.species={json.dumps(HOSTILE)}")
    (folder / "log.csv").write_text("run\n")
    return folder


@pytest.fixture
def page(runs) -> Page:
    return Page(comparison([runs]))


def test_bars_best_first_with_their_intervals(page):
    labels = [attributes["aria-label"] for _, attributes in page.tags if "aria-label" in attributes]
    assert [label for label in labels if "over the epochs" not in label] == [
        "MAP: 0.700",
        "top-1: 0.350",
        "MAP: 0.600 (0.500 - 0.650)",
        "top-1: 0.300",
        "MAP: 0.300 (0.200 - 0.350)",
        "top-1: 0.150",
    ]


def test_figures(page):
    assert page.row("first") == {
        "run": "first",
        "network": "alexnet",
        "corpus": "birds",
        "recipe": "birdclef2016",
        "epochs": "3",
        "best": "2",
        "MAP": "0.600",
        "top-1": "0.300",
        "top-3": "0.900",
        "top-5": "",
        "AUC": "",
        "loss": "",
        "holdout MAP": "0.321",
        "min": "1.5",
    }
    second = page.row("second")  # not finished: the figures of its best epoch so far
    assert (second["MAP"], second["top-1"], second["loss"], second["holdout MAP"]) == ("0.700", "0.350", "0.300", "")


def test_only_settings_that_differ(page):
    assert page.row("first", 1) == {
        "run": "first",
        "data.species": "",
        "model.network": '"alexnet"',
        "train.seed": "0",
    }
    assert json.loads(page.row("third", 1)["data.species"]) == HOSTILE


def test_curves_go_through_the_figures(page):
    """MAP of the first run: epochs 1, 2, 3 from left to right, higher is higher."""
    routes = [attributes["d"] for tag, attributes in page.tags if tag == "path" and "stroke-linecap" in attributes]
    assert len(routes) == 9  # three runs, three plots
    points = [tuple(map(float, point.split())) for point in routes[0].removeprefix("M").split("L")]
    x, y = zip(*points, strict=True)
    assert x[0] < x[1]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    scale = (y[0] - y[1]) / 0.4  # SVG units per MAP, from 0.2 to 0.6
    assert y[0] - y[2] == pytest.approx(0.3 * scale, abs=0.2)


def test_every_part_of_a_run_can_be_filtered(page):
    marked = [attributes for _, attributes in page.tags if "data-network" in attributes]
    assert len(marked) == 3 * (1 + 1 + 3 + 2)  # bar, legend, three curves, two rows
    assert {item["data-network"] for item in marked} == {"alexnet", "birdclef"}
    values = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert values == ["", "alexnet", "birdclef", "", "birds", "", "birdclef2016"]


def test_the_page_needs_nothing_else(page, runs):
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "action"}
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?://|url\(|@import", comparison([runs]))


def test_runs_that_cannot_be_read_are_named(runs, tmp_path, capsys):
    shutil.copytree(runs / "first", runs / "damaged")
    (runs / "damaged" / "history.csv").write_text("epoch,val_map\n1,x\n")
    shutil.copytree(runs / "first", runs / "foreign")
    (runs / "foreign" / "config.toml").write_text("[other]\n")
    shutil.copytree(runs / "first", runs / "no_epoch")
    (runs / "no_epoch" / "history.csv").unlink()
    assert [result.name for result in read_results(find_runs([runs]))] == ["first", "second", "third"]
    said = capsys.readouterr().out
    for name, words in (
        ("damaged", r"history\.csv is damaged"),
        ("foreign", "Unknown key other"),
        ("no_epoch", "no epoch"),
    ):
        assert re.search(rf"{name} is left out: .*{words}", said)


def test_runs_of_one_name_are_told_apart(tmp_path):
    make_run(tmp_path / "a" / "runs", "same", [0.1])
    make_run(tmp_path / "b" / "runs", "same", [0.2])
    results = read_results(find_runs([tmp_path / "a" / "runs", tmp_path / "b" / "runs" / "same"]))
    assert [result.name for result in results] == ["a/runs/same", "b/runs/same"]


def test_runs_of_cross_validations_are_told_apart(tmp_path):
    for name in ("cv-a", "cv-b"):
        make_run(tmp_path / "runs" / name, "fold1-seed0", [0.1])
    make_run(tmp_path / "runs", "other", [0.1])
    results = read_results(find_runs([tmp_path / "runs", tmp_path / "runs" / "cv-a", tmp_path / "runs" / "cv-b"]))
    assert [result.name for result in results] == ["cv-a/fold1-seed0", "cv-b/fold1-seed0", "other"]


def test_nothing_to_compare(tmp_path):
    with pytest.raises(PipelineError, match=r"no run with a finished epoch"):
        comparison([tmp_path])
    done = run_script("train/compareRuns.py", tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/nowhere is no folder of runs.\n"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 30, [10, 20, 30]), (1, 3, [1, 1.5, 2, 2.5, 3]), (2, 2, [2])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@needs_chromium
def test_the_filters_work_in_a_browser(runs, tmp_path):
    (tmp_path / "compare.html").write_text(comparison([runs]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "compare.html").as_uri())
        browser.run("selects[0].value = 'birdclef'; selects[0].dispatchEvent(new Event('change'))")
        marked = browser.run(
            "[...document.querySelectorAll('[data-network]')].map(x => [x.dataset.network, x.hasAttribute('hidden')])"
        )
        assert len(marked) == 21
        assert all(hidden == (network != "birdclef") for network, hidden in marked)
        assert browser.run("document.getElementById('shown').textContent") == "1"
        assert browser.errors == []
