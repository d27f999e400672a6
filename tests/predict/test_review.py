"""Clips to be judged: what is chosen, what is cut, and the page, also in a real browser."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from config import PipelineError
from predict.drawing import draw_sound
from predict.reviewSegments import Clip, balanced, choose, cut
from predict.thresholds import samples_of_review
from tests.browser import Browser, needs_chromium
from tests.conftest import run_script
from tests.pages import StrictPage

RATE = 24_000
AUDIO = Path("audio")  # nothing is read from it


def rows(scores, class_id="robin") -> list[dict[str, str]]:
    return [
        {"file": f"{i}.wav", "start": "1.0", "end": "2.0", "class_id": class_id, "score": f"{score}"}
        for i, score in enumerate(scores)
    ]


def test_the_best_are_chosen():
    chosen = choose(rows([0.2, 0.9, 0.5]) + rows([0.1, 0.3], "wren"), "top", 2, [], 0, AUDIO)
    assert [(clip.class_id, clip.score) for clip in chosen] == [
        ("robin", 0.9),
        ("robin", 0.5),
        ("wren", 0.3),
        ("wren", 0.1),
    ]
    two = rows([0.2]) + rows([0.1], "wren")
    assert {clip.class_id for clip in choose(two, "top", 2, ["wren"], 0, AUDIO)} == {"wren"}
    with pytest.raises(PipelineError, match=r"dodo was not detected\. Detected were: robin"):
        choose(rows([0.5]), "top", 2, ["dodo"], 0, AUDIO)


def test_the_seed_chooses():
    scores = np.linspace(0, 1, 50)
    first = choose(rows(scores), "random", 10, [], 0, AUDIO)
    assert first == choose(rows(scores), "random", 10, [], 0, AUDIO)
    assert first != choose(rows(scores), "random", 10, [], 1, AUDIO)
    assert len({clip.name for clip in first}) == 10


def test_balanced_takes_alike_from_all_scores():
    """Of 1,000 scores near 0 and two in each of the other bands, every band gives two before any gives three."""
    scores = np.concatenate([np.full(1000, 0.05), np.repeat(np.arange(0.15, 1, 0.1), 2)])
    chosen = scores[balanced(scores, 20, np.random.default_rng(0))]
    assert sorted(np.histogram(chosen, np.arange(0, 1.01, 0.1))[0].tolist()) == [2] * 10
    assert len(balanced(scores, 30, np.random.default_rng(0))) == 30
    rows = balanced(scores, len(scores), np.random.default_rng(0))
    found = np.minimum((scores[rows] * 10).astype(int), 9)
    turns = [np.count_nonzero(found[:i] == found[i]) for i in range(len(found))]
    assert turns == sorted(turns)
    assert len(set(balanced(scores, 2000, np.random.default_rng(0)).tolist())) == 1018


def test_scores_beyond_the_bands_belong_to_the_outer_ones():
    assert sorted(balanced(np.array([-0.5, 1.5, 0.5]), 3, np.random.default_rng(0)).tolist()) == [0, 1, 2]


def test_a_rate_that_a_clip_cannot_have(tmp_path):
    soundfile.write(tmp_path / "fast.wav", np.sin(np.arange(900_000) / 9), 700_000)
    clip = Clip("robin-1", "fast.wav", 0.1, 0.9, "robin", "robin", 0.5)
    assert cut(clip, tmp_path, tmp_path) != ""
    assert not (tmp_path / "robin-1.flac").exists()


@pytest.fixture
def sounds(tmp_path):
    """A file of 10 s that is silent but for a tone of 3 kHz from 4 to 6 s."""
    folder = tmp_path / "site"
    (folder / "a b").mkdir(parents=True)
    time = np.arange(10 * RATE) / RATE
    tone = np.where((time >= 4) & (time < 6), 0.1 * np.sin(2 * np.pi * 3000 * time), 0)
    soundfile.write(folder / "a b" / "x.wav", np.stack([tone, tone], axis=1), RATE)
    return folder


def test_a_clip_holds_the_detection_and_a_second_around_it(sounds, tmp_path):
    clip = Clip("c", "a b/x.wav", 4.0, 6.0, "robin", "Robin", 0.9)
    assert cut(clip, sounds, tmp_path) == ""
    samples, rate = soundfile.read(tmp_path / "c.flac")
    assert rate == RATE
    assert len(samples) == 4 * RATE
    loud = np.abs(samples) > 0.1
    assert loud.argmax() / RATE == pytest.approx(1, abs=0.01)
    assert (len(loud) - loud[::-1].argmax()) / RATE == pytest.approx(3, abs=0.01)
    assert np.abs(samples).max() == pytest.approx(0.9, abs=0.01)
    image = np.asarray(Image.open(tmp_path / "c.png"))
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (1 - (row + 0.5) / image.shape[0]) * RATE / 2 == pytest.approx(3000, abs=100)
    assert 1 < column / image.shape[1] * 4 < 3
    before = (tmp_path / "c.flac").stat().st_mtime_ns
    assert cut(clip, sounds, tmp_path) == ""
    assert (tmp_path / "c.flac").stat().st_mtime_ns == before


def test_of_a_long_detection_the_beginning_is_cut(tmp_path):
    """20 s of it, and a second before and after."""
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 60 * RATE), RATE)
    for start, length in ((5.0, 22), (45.0, 16)):  # the second reaches to the end of the file
        clip = Clip(f"c{start:g}", "x.wav", start, start + 40, "robin", "Robin", 0.9)
        assert cut(clip, tmp_path, tmp_path) == ""
        assert soundfile.info(tmp_path / f"{clip.name}.flac").frames == length * RATE


def test_a_clip_that_ends_before_it_starts(sounds, tmp_path):
    assert "end is not after" in cut(Clip("c", "a b/x.wav", 4.0, -60.0, "robin", "Robin", 0.9), sounds, tmp_path)
    assert not list(tmp_path.glob("c.*"))


@pytest.mark.parametrize(
    ("file", "start", "words"),
    [("gone.wav", 1.0, "."), ("../secret.wav", 1.0, "leads out of"), ("a b/x.wav", 60.0, "no sound there")],
)
def test_what_cannot_be_cut(sounds, tmp_path, file, start, words):
    soundfile.write(tmp_path / "secret.wav", np.zeros(RATE), RATE)
    assert re.search(words, cut(Clip("c", file, start, start + 1, "robin", "Robin", 0.9), sounds, tmp_path))
    assert not list(tmp_path.glob("c.*"))


def test_silence_is_black():
    assert draw_sound(np.zeros(RATE, np.float32), RATE).max() == 0
    assert draw_sound(np.random.default_rng(0).normal(size=RATE).astype(np.float32), RATE).shape[0] == 256


def test_grey_levels_are_decibels():
    """White is the loudest; a tone 35 dB below it is half as bright, as black is 70 dB below."""
    time = np.arange(RATE) / RATE
    tones = [level * np.sin(2 * np.pi * 3000 * time) for level in (0.5, 0.5 * 10 ** (-35 / 20))]
    picture = draw_sound(np.concatenate(tones).astype(np.float32), RATE)
    loudest = picture.max(axis=0).astype(int)
    assert loudest[: len(loudest) // 2 - 9].min() >= 254
    np.testing.assert_allclose(loudest[len(loudest) // 2 + 9 :], 127, atol=1)


@pytest.mark.parametrize(
    ("seconds", "most", "columns"), [(2, 0, 196), (60, 500, 500), (60, 2400, 2400), (2, 2400, 196)]
)
def test_how_wide_a_picture_is(seconds, most, columns):
    """100 columns a second, and no more than are asked for, however long the sound is."""
    width = draw_sound(np.zeros(seconds * RATE, np.float32), RATE, most).shape[1]
    assert width == pytest.approx(columns, rel=0.02)
    assert width <= (most or width)


@pytest.fixture
def review(sounds, tmp_path):
    """A page made by the command, and its folder."""
    table = tmp_path / "detections.csv"
    table.write_text(
        "file,start,end,class_id,vernacular_name,score\n"
        'a b/x.wav,4,6,robin,"Robin ""</script>"" & <b>",0.9\n'
        "a b/x.wav,0,3,wren,Wren,0.4\n"
        "gone.wav,0,3,wren,Wren,0.3\n"
    )
    done = run_script(
        "predict/reviewSegments.py",
        table,
        "--audio",
        sounds,
        "--output",
        tmp_path / "out",
        "--how",
        "top",
        "--jobs",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert "left out: gone.wav at 0.0 s:" in done.stdout
    assert "index.html: 2 clips of 2 species; 1 left out" in done.stdout
    return tmp_path / "out"


def test_the_page(review):
    text = (review / "index.html").read_text(encoding="utf-8")
    page = StrictPage(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "http" not in text
    data = json.loads(re.search(r'id="clips"[^>]*>(.*?)</script>', text)[1])
    assert [clip["title"] for clip in data] == ['Robin "</script>" & <b>', "Wren"]
    for clip in data:
        assert (review / "clips" / f"{clip['name']}.flac").exists()
        assert (review / "clips" / f"{clip['name']}.png").exists()
    places = [(clip["from"], clip["to"], clip["highest"]) for clip in data]
    assert places == [(0.25, 0.75, RATE / 2), (0, 0.75, RATE / 2)]  # of 4 s each: 1 to 3 s, and 0 to 3 s


@needs_chromium
def test_judging_in_a_browser(review, tmp_path):
    """Keys judge, the table is what thresholds.py reads, and names are shown as they are."""
    with Browser(tmp_path / "profile") as browser:
        browser.open((review / "index.html").as_uri())
        assert browser.run("document.getElementById('species').textContent") == 'Robin "</script>" & <b>'
        assert browser.run("document.getElementById('highest').textContent") == f"{RATE / 2000:g} kHz"
        box = "document.getElementById('{}').getBoundingClientRect().{}"
        whole, judged = (browser.run(box.format(name, "width")) for name in ("picture", "judged"))
        assert judged == pytest.approx(whole / 2, abs=1)
        offset = [browser.run(box.format(name, "left")) for name in ("picture", "judged")]
        assert offset[1] - offset[0] == pytest.approx(whole / 4, abs=1)
        for key in ("r", "ArrowLeft", "W", "u"):
            browser.press(key)
        assert browser.run("document.getElementById('where').textContent") == "Clip 2 of 2; 2 judged"
        table = browser.run("table()")
        assert browser.errors == []
    judged = list(csv.DictReader(table.splitlines()))
    assert [(row["class_id"], row["verdict"]) for row in judged] == [("robin", "wrong"), ("wren", "unsure")]
    (tmp_path / "reviewed.csv").write_text(table)
    samples = samples_of_review(tmp_path / "reviewed.csv", ["robin", "wren"])
    np.testing.assert_array_equal(samples.truth, [[0, np.nan]])


def test_nothing_to_review(sounds, tmp_path):
    table = tmp_path / "detections.csv"
    table.write_text("file,start,end,class_id,score\n")
    done = run_script("predict/reviewSegments.py", table, "--audio", sounds)
    assert done.returncode == 1
    assert done.stderr == f"error: {table} holds no detection. Predict with a lower --minimum.\n"


def test_clips_of_other_recordings_and_times_have_other_names(tmp_path):
    """In one output folder, files of one name under two roots, one that was replaced, and a longer detection."""
    names = []
    for folder, content in (("a", b"1"), ("b", b"1"), ("a", b"22")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "0.wav").write_bytes(content)
        names += [clip.name for clip in choose(rows([0.5]), "top", 1, [], 0, tmp_path / folder)]
        names += [clip.name for clip in choose([rows([0.5])[0] | {"end": "9.0"}], "top", 1, [], 0, tmp_path / folder)]
    assert len(set(names)) == 6
