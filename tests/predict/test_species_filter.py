"""Which species are expected: lists of names, and the model of occurrence worked out by hand."""

import numpy as np
import pytest

from config import PipelineError, Predict
from predict.predict import combine, open_member, predict
from predict.runfile import read_run_file
from predict.species_filter import Filter, Occurrence, day_of_year, distance, read_list, read_places
from preprocess.recordings import Recording, Species
from tests.predict.test_predict import CLASSES, copied

SPECIES = [Species("grtit", "Parus major", "Great Tit"), Species("robin", "Erithacus rubecula", "European Robin")]
HOME = (47.5, 19.0)


def test_a_list_of_names(tmp_path, capsys):
    path = tmp_path / "list.txt"
    path.write_text("\ufeff# expected\n  parus  MAJOR # the tit\nnobody\n\n", encoding="utf-8")
    assert read_list(path, SPECIES).tolist() == [1, 0]
    assert "1 lines of" in (out := capsys.readouterr().out)
    assert "name no species of the run: nobody" in out
    path.write_text("European Robin\ngrtit\n")
    assert read_list(path, SPECIES).tolist() == [1, 1]
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"), [("dodo\n", "names no species"), ("", "names no species"), (None, "cannot be")]
)
def test_what_is_no_list(tmp_path, text, words):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(PipelineError, match=words):
        read_list(tmp_path / "list.txt", SPECIES)


def test_distances():
    """Budapest - Vienna is 214 km, and a quarter of a meridian 10,007 km."""
    assert distance(47.498, 19.040, np.array([48.208]), np.array([16.373]))[0] == pytest.approx(214, abs=2)
    assert distance(0, 0, np.array([90.0, 0.0]), np.array([0.0, 180.0])).tolist() == pytest.approx(
        [10_007, 20_015], abs=1
    )
    assert distance(10, 179.5, np.array([10.0]), np.array([-179.5]))[0] == pytest.approx(109.5, abs=1)


def test_distances_of_any_two_places():
    """By the chord between them: a sphere's two points in space."""
    rng = np.random.default_rng(0)
    latitudes, longitudes = rng.uniform(-90, 90, (2, 50)), rng.uniform(-180, 180, (2, 50))
    a, b = np.radians(latitudes), np.radians(longitudes)
    points = np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], axis=-1)
    expected = 2 * 6371 * np.arcsin(np.linalg.norm(points[0] - points[1], axis=1) / 2)
    for i in range(50):
        found = distance(latitudes[0, i], longitudes[0, i], latitudes[1, i : i + 1], longitudes[1, i : i + 1])
        assert found == pytest.approx(expected[i])


def test_days():
    assert day_of_year("2023-02-01") == 32
    assert day_of_year("2023-03") == 74
    assert np.isnan([day_of_year(text) for text in ("", "2023", "2023-13-01", "May")]).all()


def occurrence(rows) -> Occurrence:
    columns, places, days = zip(*rows, strict=True)
    place = np.array(places)
    return Occurrence(np.array(columns), place[:, 0], place[:, 1], np.array(days, float), 3)


def test_weights_by_hand():
    here = occurrence([(0, HOME, 100), (0, HOME, 100), (1, HOME, 100 + 28), (1, HOME, np.nan)])
    assert here.weights(*HOME) == pytest.approx([2 / 3, 2 / 3, 0])
    late = np.exp(-0.5) + 1
    assert here.weights(*HOME, "2023-04-10") == pytest.approx([2 / 3, late / (late + 1), 0])
    north = (HOME[0] + np.degrees(300 / 6371), HOME[1])
    once = 2 * np.exp(-0.5)
    assert here.weights(*north)[0] == pytest.approx(once / (once + 1))


def test_the_year_is_a_circle():
    new_year = occurrence([(0, HOME, 364)])
    assert new_year.weights(*HOME, "2023-01-03")[0] == pytest.approx(new_year.weights(*HOME, "2023-12-26")[0], abs=0.01)
    assert new_year.weights(*HOME, "2023-07-01")[0] < 1e-6


def test_filters():
    here = occurrence([(0, HOME, 100), (1, (-30.0, 140.0), 100)])
    placed = Recording("a", "a", latitude="47.5", longitude="19.0")
    assert Filter().weights(placed) is None
    assert Filter(occurrence=here).weights(placed) == pytest.approx([0.5, 0, 0])
    assert Filter(occurrence=here, strict=True).weights(placed).tolist() == [1, 0, 0]
    assert Filter(np.array([0.0, 1, 1]), here, strict=True).weights(placed).tolist() == [0, 0, 0]
    nowhere = Recording("b", "b")
    assert Filter(occurrence=here).weights(nowhere) is None
    assert Filter(occurrence=here).lacks_place(nowhere)
    assert not Filter(occurrence=here, place=HOME).lacks_place(nowhere)
    assert Filter(occurrence=here, place=HOME).weights(nowhere) == pytest.approx([0.5, 0, 0])


def test_a_recording_s_own_place_and_date_come_first():
    """And both coordinates are needed for a place."""
    rows = occurrence([(0, HOME, 100), (1, (-30.0, 140.0), 100)])
    abroad = Filter(occurrence=rows, place=(-30.0, 140.0), date="2023-10-11")
    placed = Recording("a", "a", latitude="47.5", longitude="19.0", date="2023-04-10")
    assert abroad.weights(placed) == pytest.approx([0.5, 0, 0])
    assert abroad.weights(Recording("a", "a", date="2023-04-10")) == pytest.approx([0, 0.5, 0])
    assert abroad.weights(Recording("a", "a")).max() < 1e-6  # half a year later
    for half in (Recording("a", "a", latitude="47.5"), Recording("a", "a", longitude="19.0")):
        assert Filter(occurrence=rows).weights(half) is None
        assert Filter(occurrence=rows).lacks_place(half)
    assert not Filter(occurrence=rows).lacks_place(placed)


def test_what_is_hardly_expected_is_left_out_by_a_strict_filter_only():
    """Of a weight w = o / (o + 1) below 0.05, o = exp(-(d / 300 km)^2 / 2) at a distance d."""
    where = [300 * np.sqrt(-2 * np.log(w / (1 - w))) for w in (0.06, 0.04)]
    north = occurrence([(i, (HOME[0] + np.degrees(d / 6371), HOME[1]), np.nan) for i, d in enumerate(where)])
    placed = Recording("a", "a", latitude="47.5", longitude="19.0")
    assert Filter(occurrence=north).weights(placed) == pytest.approx([0.06, 0.04, 0])
    assert Filter(occurrence=north, strict=True).weights(placed).tolist() == [1, 0, 0]


def test_which_filters_change_scores():
    """Only what was predicted without any is the run's own prediction."""
    here = occurrence([(0, HOME, 100)])
    assert [bool(own) for own in (Filter(), Filter(place=HOME), Filter(strict=True))] == [False] * 3
    assert [bool(own) for own in (Filter(np.ones(3)), Filter(occurrence=here))] == [True] * 2


@pytest.mark.slow
class TestRun:
    def test_only_listed_species_are_left(self, run_of_birds, tmp_path):
        only = Filter(np.array([0.0, 1.0, 0.0]))
        everything = read_run_file(predict([run_of_birds], [], tmp_path / "all.csv")[0])
        listed = read_run_file(predict([run_of_birds], [], tmp_path / "listed.csv", expected=only)[0])
        for media_id, own in listed.items():
            assert own == pytest.approx({name: everything[media_id][name] * (name == CLASSES[1]) for name in CLASSES})
        member = open_member(run_of_birds, [], Predict())
        for result in combine([member], Predict(), np.full(3, 0.1), only):
            assert {found.species for found in result.detections} == {1}

    def test_places_of_a_run(self, run_of_birds, tmp_path, capsys):
        target = copied(run_of_birds, tmp_path)
        (target.folder / "places.csv").unlink(missing_ok=True)
        with pytest.raises(PipelineError, match=r"places\.csv is missing"):
            read_places(target)
        target.note_places(
            [
                Recording("a", "a", "aaaaaa", latitude="47.5", longitude="19.0", date="2020-05-01"),
                Recording("b", "b", "bbbbbb", latitude="", longitude="19.0"),
            ]
        )
        found = read_places(target)
        assert found.weights(*HOME).tolist() == [0.5, 0, 0]
        predict([target], [], tmp_path / "out.csv", expected=Filter(occurrence=found))
        assert "warning: 3 of 3 recordings have no place" in capsys.readouterr().out
        (target.folder / "places.csv").write_text("class_id,latitude,longitude,date\naaaaaa,north,1,\n")
        with pytest.raises(PipelineError, match=r"places\.csv is damaged"):
            read_places(target)
