"""Run files and truths: what is written is read again, and what is damaged is named by its line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import PipelineError
from predict.runfile import compare, read_run_file, write_run_file
from preprocess.metadata import read_truth

printable = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
media_ids = st.one_of(printable, st.sampled_from(['a;b "c".wav', "deep/er/x y.flac", "'", '"', ";", ";;0.5", "7"]))


def write(path, media_ids, scores, classes, top=0):
    return write_run_file(path, [(media_ids, np.array(scores, float))], classes, top)


def lines(path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# Run files


@given(st.data())
def test_what_is_written_is_read_again(tmp_path_factory, data):
    names = data.draw(st.lists(media_ids, min_size=1, max_size=5, unique=True).filter(lambda n: n[0] != "MediaId"))
    classes = sorted(data.draw(st.lists(printable, min_size=1, max_size=5, unique=True)))
    scores = np.array([[data.draw(st.floats(0, 1)) for _ in classes] for _ in names])
    path = tmp_path_factory.mktemp("round") / "run.csv"
    assert write(path, names, scores, classes) == len(names)
    found = read_run_file(path)
    assert list(found) == names
    for name, own in zip(names, scores, strict=True):
        assert found[name] == pytest.approx(dict(zip(classes, own, strict=True)), rel=1e-9, abs=1e-12)
        assert list(found[name].values()) == sorted(found[name].values(), reverse=True)


def test_the_format_is_media_id_class_id_probability(tmp_path):
    path = tmp_path / "new" / "run.csv"
    assert write(path, ["17", "a b;c.wav"], [[0.25, 0.75], [1 / 3, 1e-12]], ["xaaaaa", "yaaaaa"]) == 2
    assert lines(path) == [
        "17;yaaaaa;0.75",
        "17;xaaaaa;0.25",
        '"a b;c.wav";xaaaaa;0.3333333333',
        '"a b;c.wav";yaaaaa;1e-12',
    ]
    assert b"\r" not in path.read_bytes()


def test_best_first_and_ties_in_the_order_of_the_classes(tmp_path):
    path = tmp_path / "run.csv"
    write(path, ["1"], [[0.2, 0.3, 0.2, 0.3, 0.0]], list("edcba"))
    assert [line.split(";")[1] for line in lines(path)] == ["d", "b", "e", "c", "a"]


@pytest.mark.parametrize(("top", "count"), [(0, 4), (1, 1), (3, 3), (4, 4), (99, 4)])
def test_top(tmp_path, top, count):
    path = tmp_path / "run.csv"
    write(path, ["1", "2"], [[0.1, 0.4, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]], list("abcd"), top)
    assert (
        lines(path)
        == [f"1;{c};{v}" for c, v in (("b", 0.4), ("c", 0.3), ("d", 0.2), ("a", 0.1))][:count]
        + [f"2;{c};{v}" for c, v in (("a", 0.4), ("b", 0.3), ("c", 0.2), ("d", 0.1))][:count]
    )


def test_several_blocks_are_one_file(tmp_path):
    path = tmp_path / "run.csv"
    blocks = ((([str(k)]), np.array([[k / 10, 0.0]])) for k in range(3))
    assert write_run_file(path, blocks, ["a", "b"], 1) == 3
    assert lines(path) == ["0;a;0", "1;a;0.1", "2;a;0.2"]


def test_a_failure_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "run.csv"
    write(path, ["1"], [[0.5]], ["a"])

    def failing():
        yield ["2"], np.array([[0.25]])
        raise PipelineError("not finite")

    with pytest.raises(PipelineError, match="not finite"):
        write_run_file(path, failing(), ["a"], 0)
    assert lines(path) == ["1;a;0.5"]


GOOD = "1;aaaaaa;0.75\n1;bbbbbb;0.25\n2;aaaaaa;1\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "MediaId;ClassId;probability\n" + GOOD,
        "\ufeffMediaId;ClassId;probability\n" + GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "\n" + GOOD.replace("\n", "\n\n"),
        GOOD.replace("\n", ";3\n"),  # with a rank, as in 2018
        '"1";aaaaaa;0.75\n1;"bbbbbb";2.5e-1\n2;aaaaaa;1.0000',
    ],
)
def test_header_and_other_dialects(tmp_path, text):
    path = tmp_path / "run.csv"
    path.write_bytes(text.encode())
    assert read_run_file(path) == {"1": {"aaaaaa": 0.75, "bbbbbb": 0.25}, "2": {"aaaaaa": 1.0}}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2;bbbbbb", "expected MediaId;ClassId;probability, found '2;bbbbbb'"),
        ("2,bbbbbb,0.5", "expected MediaId;ClassId;probability"),
        ("junk", "expected MediaId;ClassId;probability"),
        ("2;bbbbbb;nan", "no number from 0 to 1: 'nan'"),
        ("2;bbbbbb;inf", "no number from 0 to 1: 'inf'"),
        ("2;bbbbbb;1.0001", "no number from 0 to 1: '1.0001'"),
        ("2;bbbbbb;-0.1", "no number from 0 to 1"),
        ("2;bbbbbb;", "no number from 0 to 1: ''"),
        ("2;bbbbbb;0,5", "no number from 0 to 1: '0,5'"),
        ("2;bbbbbb;high", "no number from 0 to 1: 'high'"),
        ("MediaId;ClassId;probability", "no number from 0 to 1"),  # a header is the first line only
        ("1;aaaaaa;0.1", "recording 1 lists species aaaaaa twice"),
    ],
)
def test_damaged_lines_are_named(tmp_path, line, words):
    path = tmp_path / "run.csv"
    path.write_text(f"{GOOD}{line}\n")
    with pytest.raises(PipelineError, match=words) as error:
        read_run_file(path)
    assert str(error.value).startswith(f"{path}, line 4: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no prediction"),
        (b"MediaId;ClassId;probability\n", "holds no prediction"),
        (b"1;a;0.5\xff\xfe\n", "is no CSV file"),
        (b"1;a\x00;0.5\n2;" + b"x" * 200_000 + b";0.5\n", "is no CSV file"),
    ],
)
def test_other_files_are_no_run_files(tmp_path, content, words):
    path = tmp_path / "run.csv"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=words):
        read_run_file(path)


@pytest.mark.parametrize("read", [read_run_file, read_truth])
def test_missing_files(tmp_path, read):
    with pytest.raises(PipelineError, match=r"Cannot read .*nothing\.csv: No such file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(PipelineError, match="Cannot read"):
        read(tmp_path)


# Truths


def truth_file(tmp_path, text: str):
    path = tmp_path / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_truth(tmp_path):
    path = truth_file(
        tmp_path, '\ufeffMediaId,ClassId,BackgroundClassIds\n1,aaaaaa,\n2,bbbbbb,"aaaaaa, cccccc"\n\n3,aaaaaa,b;c\n'
    )
    assert read_truth(path) == {
        "1": ("aaaaaa", []),
        "2": ("bbbbbb", ["aaaaaa", "cccccc"]),
        "3": ("aaaaaa", ["b", "c"]),
    }


def test_columns_of_the_truth_in_any_order(tmp_path):
    path = truth_file(tmp_path, "Quality,ClassId,MediaId\n3,aaaaaa,1\n")
    assert read_truth(path) == {"1": ("aaaaaa", [])}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks the column MediaId, ClassId. Found: nothing"),
        ("id,species\n1,a\n", "lacks the column MediaId, ClassId. Found: id, species"),
        ("MediaId,ClassId\n1,a\n1,b\n", "line 3: .*listed twice"),
        ("MediaId,ClassId\n1,a\n2,\n", "line 3: a recording without MediaId or ClassId"),
        ("MediaId,ClassId\n1,a\n,b\n", "line 3: a recording without MediaId or ClassId"),
        ("MediaId,ClassId\n1,a\n2\n", "line 3: a recording without MediaId or ClassId"),
    ],
)
def test_damaged_truths_are_named(tmp_path, text, words):
    with pytest.raises(PipelineError, match=words) as error:
        read_truth(truth_file(tmp_path, text))
    assert "truth.csv" in str(error.value)


def test_an_empty_truth_cannot_be_compared_with(tmp_path):
    truth = read_truth(truth_file(tmp_path, "MediaId,ClassId,BackgroundClassIds\n"))
    assert truth == {}
    with pytest.raises(PipelineError, match="truth holds no recording"):
        compare({"1": {"a": 0.5}}, truth)


# Side by side


def test_compare_by_hand():
    predictions = {"1": {"b": 0.5, "a": 0.25}, "3": {"c": 1.0}, "9": {"a": 1.0}}
    truth = {"1": ("a", ["b", "z"]), "2": ("d", []), "3": ("c", ["c", "a"])}
    ranking = compare(predictions, truth)
    assert ranking.media_ids == ["1", "2", "3"]
    assert ranking.classes == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(ranking.scores, [[0.25, 0.5, -1, -1], [-1] * 4, [-1, -1, 1, -1]])
    np.testing.assert_array_equal(ranking.labels, [0, 3, 2])
    np.testing.assert_array_equal(ranking.relevant, [[1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]])
    assert (ranking.missing, ranking.surplus, ranking.unknown_background) == (["2"], 1, 1)
