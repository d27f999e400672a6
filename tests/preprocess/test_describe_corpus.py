"""The page about a corpus: its figures, its map, and that it needs nothing else."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import config as configuration
from config import PipelineError
from preprocess.describeCorpus import describe_corpus, places, read_land
from preprocess.page import corpus_overview, draw_counts_and_lengths
from preprocess.recordings import Recording, Reject, Species, write_table
from tests.conftest import run_script


class Page(HTMLParser):
    """The tables of a page, and the addresses in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def row(number: int, class_id: str = "a", **facts) -> Recording:
    return Recording(str(number), f"{number}.wav", class_id=class_id, **facts)


@pytest.fixture
def config(tmp_path) -> configuration.Config:
    config = configuration.load(
        None, [f'data.folder="{tmp_path}"', "data.corpus=c", 'data.select.exclude_licence=["nd"]']
    )
    folder = config.corpus_dir
    rows = [
        row(1, duration=60.0, sample_rate=44_100, latitude="10", longitude="20", author="Ann", licence="by"),
        row(2, duration=30.0, sample_rate=44_100, latitude="-30.5", longitude="-60", author="Ann", licence="by"),
        row(3, "b", duration=90.0, sample_rate=48_000, latitude="5", author="<b>Bob</b>"),
        row(4, "", part="test", duration=6.0, sample_rate=8_000),
    ]
    write_table(folder / "recordings.csv", Recording, rows)
    kinds = [Species("a", "Genus alpha", "Alpha & Co"), Species("b")]
    write_table(folder / "classes.csv", Species, kinds)
    rejects = [Reject("x.wav", "fetch", "excluded_quality"), Reject("y.wav", "fetch", "excluded_quality")]
    write_table(folder / "rejected.csv", Reject, rejects)
    (folder / "truth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n4,b,\n")
    return config


def test_figures_by_hand(config):
    path = describe_corpus(config)
    text = path.read_text()
    page = Page(text)
    for expected in (
        ["8,000 Hz", "1"],
        ["44,100 Hz", "2"],
        ["48,000 Hz", "1"],
        ["fetch", "excluded_quality", "2"],
        ["a", "Genus alpha", "Alpha & Co", "2", "0", "1", "1.5"],
        ["b", "", "", "1", "1", "1", "1.6"],
        ["by", "2"],
        ["unknown", "2"],
        ["Ann", "2"],
        ["<b>Bob</b>", "1"],
    ):
        assert expected in page.rows
    assert "2 of 4 recordings have coordinates: latitude -30.5 to 10.0, longitude -60.0 to 20.0" in text
    assert "3 recordings for training and 1 for the test, 2 species, 0.05 hours" in text
    assert "2 recordists; 1 recordings name none" in text


def test_needs_nothing_else(config):
    page = Page(describe_corpus(config).read_text())
    assert len(page.addresses) == 3
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_names_in_the_metadata_are_text(config):
    assert "<b>Bob" not in describe_corpus(config).read_text()


def test_pictures_show_what_they_should(config):
    describe_corpus(config)
    folder = config.corpus_dir
    picture = imread(folder / "corpus_map.png")[..., :3]
    orange = (picture[..., 0] > 0.7) & (picture[..., 2] < 0.4)
    assert 20 < orange.sum() < 400  # two dots
    halves = np.flatnonzero(orange.any(axis=0))
    assert halves.min() < picture.shape[1] / 2 < halves.max()  # one in the west, one in the east
    assert imread(folder / "corpus_lengths.png").size
    assert not list(folder.glob("*.part"))


def test_places_need_both_numbers():
    rows = [row(1, latitude="1", longitude="2"), row(2, latitude="1"), row(3), row(4, latitude="nan", longitude="1")]
    longitude, latitude = places(rows)
    assert (longitude.tolist(), latitude.tolist()) == ([2.0], [1.0])


class TestLand:
    """The outlines against places that everybody knows."""

    @staticmethod
    def winding(longitude: float, latitude: float) -> int:
        """Count how often the outlines go around a point, by the crossings of a ray to the east."""
        count = 0
        for ring in read_land():
            for (x0, y0), (x1, y1) in itertools.pairwise(ring):
                if (y0 <= latitude) != (y1 <= latitude):
                    x = x0 + (latitude - y0) / (y1 - y0) * (x1 - x0)
                    count += (1 if y1 > y0 else -1) if x > longitude else 0
        return count

    @pytest.mark.parametrize(
        ("place", "longitude", "latitude"),
        [
            ("Budapest", 19.0, 47.5),
            ("Manaus", -60.0, -3.1),
            ("Alice Springs", 133.9, -23.7),
            ("Lesotho", 28.3, -29.6),
            ("Irkutsk", 104.3, 52.3),
            ("South Pole", 0, -89),
        ],
    )
    def test_on_land(self, place, longitude, latitude):
        assert self.winding(longitude, latitude) == 1

    @pytest.mark.parametrize(
        ("place", "longitude", "latitude"),
        [
            ("Atlantic", -30, 30),
            ("Pacific", -150, -30),
            ("Caspian Sea", 51, 41),
            ("North Pole", 0, 89),
            ("Baltic", 19, 57),
        ],
    )
    def test_at_sea(self, place, longitude, latitude):
        assert self.winding(longitude, latitude) == 0

    def test_rings_are_closed_and_on_the_globe(self):
        rings = read_land()
        assert len(rings) > 100
        for ring in rings:
            assert (ring[0] == ring[-1]).all()
            assert np.abs(ring[:, 0]).max() <= 180
            assert np.abs(ring[:, 1]).max() <= 90


class TestOverview:
    def test_a_wide_range_of_lengths_gets_a_logarithmic_axis(self):
        assert draw_counts_and_lengths([1], np.array([0.5, 3, 3, 3, 2280])).axes[1].get_xscale() == "log"
        assert draw_counts_and_lengths([1], np.array([3.0, 4, 5])).axes[1].get_xscale() == "linear"
        assert draw_counts_and_lengths([], np.array([])).axes[1].get_xscale() == "linear"

    @pytest.mark.parametrize("longest", [40, 2280])
    def test_lengths_on_a_logarithmic_axis_are_plain_numbers(self, longest):
        figure = draw_counts_and_lengths([1], np.array([0.5, 2, 2, 2, longest]))
        figure.canvas.draw()
        axis = figure.axes[1].xaxis
        shown = [label.get_text() for label in axis.get_ticklabels() if label.get_text()]
        assert {"1", "3", "10", "30"} <= set(shown)
        assert all(re.fullmatch(r"[\d.]+", text) for text in shown)
        assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))

    def test_what_a_run_made_of_the_recordings(self):
        """Bars and counts are those of its training; a recording that it never saw was rejected by a later stage."""
        rows = [row(i, "a") for i in range(5)]
        sides = {"0": "train", "1": "train", "2": "validation", "3": "holdout"}
        text = corpus_overview(rows, [], {rows[int(i)].media_id: side for i, side in sides.items()})
        assert (
            "2 recordings for training, 1 for validation, 1 for holdout, 1 not used and 0 for the test, 1 species"
        ) in text
        assert "2 to 2 training recordings per species" in text

    def test_nothing_known(self):
        text = corpus_overview([row(1, "")], [])
        assert "1 recordings for training" in text
        assert "No file was rejected" in text
        assert ["unknown", "1"] in Page(text).rows


def test_without_stage_1(tmp_path):
    config = configuration.load(None, [f'data.folder="{tmp_path}"'])
    with pytest.raises(PipelineError, match="Run stages 1 to 3"):
        describe_corpus(config)


def test_command(config, tmp_path):
    done = run_script("preprocess/describeCorpus.py", "--set", f"data.folder={tmp_path}", "--set", "data.corpus=c")
    assert done.returncode == 0, done.stderr
    assert re.search(r"c/corpus\.html$", done.stdout.strip())
    assert Path(done.stdout.split()[-1]).stat().st_size > 50_000
