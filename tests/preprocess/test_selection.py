"""The rules of [data.select]: each removes what it says, says so, and nothing else."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import config as configuration
from config import ConfigError, PipelineError, Select
from preprocess.fetchData import fetch
from preprocess.recordings import Recording, Reject, Species, read_table
from preprocess.selection import drop_copies, find_conflicts, licence_terms, limit_recordings, rules, select
from preprocess.sources import Corpus
from tests.conftest import three_species, write_release

NOWHERE = Path("/nowhere")


def corpus(rows: list[Recording], truth: Path | None = None) -> Corpus:
    return Corpus(rows, [Species(c) for c in sorted({row.class_id for row in rows} - {""})], truth=truth)


def rows_of(counts: dict[str, int], part: str = "train", **facts) -> list[Recording]:
    return [
        Recording(f"{part}-{c}{i}", f"{part}/{c}{i}.wav", class_id=c, part=part, **facts)
        for c, n in counts.items()
        for i in range(n)
    ]


def kept(rule: Select, rows: list[Recording]) -> list[str]:
    return [row.media_id for row in select(corpus(rows), rule, NOWHERE).recordings]


class TestNamedSpecies:
    rows = tuple(rows_of({"robin1": 2, "wren2": 1, "crow3": 1}) + rows_of({"robin1": 1, "wren2": 1}, part="test"))
    kinds = (
        Species("robin1", "Erithacus rubecula", "European Robin"),
        Species("wren2", "Troglodytes troglodytes", "Eurasian Wren"),
        Species("crow3", "Corvus corone", ""),
    )

    def select(self, rule: Select, rows=rows, truth: Path | None = None) -> Corpus:
        return select(Corpus(list(rows), list(self.kinds), truth=truth), rule, NOWHERE)

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (Select(species=("robin1",)), {"robin1"}),
            (Select(species=("erithacus  Rubecula", "eurasian wren")), {"robin1", "wren2"}),
            (Select(exclude_species=("Corvus corone",)), {"robin1", "wren2"}),
            (Select(species=("robin1", "crow3"), exclude_species=("European robin",)), {"crow3"}),
        ],
    )
    def test_by_any_name_in_both_parts(self, rule, expected):
        result = self.select(rule)
        assert {row.class_id for row in result.recordings} == {kind.class_id for kind in result.species} == expected
        assert [row.media_id for row in result.recordings] == [
            row.media_id for row in self.rows if row.class_id in expected
        ]
        assert {(reject.reason, reject.detail) for reject in result.rejects} == {
            ("excluded_species", kind.class_id) for kind in self.kinds if kind.class_id not in expected
        }

    def test_unlabelled_test_recordings_go_with_their_truth(self, tmp_path):
        (tmp_path / "truth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n1,robin1,\n2,wren2,\n3,owl4,\n")
        test = [Recording(str(i), f"{i}.wav", part="test") for i in (1, 2, 3, 4)]
        result = self.select(Select(species=("robin1",)), [*self.rows, *test], tmp_path / "truth.csv")
        assert [row.media_id for row in result.recordings if not row.class_id] == ["1", "4"]

    @pytest.mark.parametrize("key", ["species", "exclude_species"])
    def test_a_name_that_nobody_has(self, key):
        with pytest.raises(ConfigError, match=rf"data\.select\.{key}\. Received: 'Robin'.*such as 'crow3'"):
            self.select(Select(**{key: ("Robin",)}))
        with pytest.raises(ConfigError, match=rf"data\.select\.{key}\. Received: 'Robin'.*; it has none"):
            select(Corpus([Recording("a", "a.wav", part="test")], []), Select(**{key: ("Robin",)}), NOWHERE)

    @pytest.mark.parametrize("key", ["species", "exclude_species", "content"])
    @pytest.mark.parametrize("name", ["", " "])
    def test_an_empty_name_is_none(self, key, name):
        """The crow has no vernacular name, but an empty one does not call it."""
        with pytest.raises(ConfigError, match=rf"data\.select\.{key}\. Received: an empty text"):
            configuration.load(None, [f"data.select.{key}=['{name}']"])


class TestContent:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (("song",), ["song", "Song, alarm call"]),
            (("alarm call", "drumming"), ["Song, alarm call", "drumming"]),
            (("call",), ["Song, alarm call", "call"]),
        ],
    )
    def test_training_recordings_that_say_so(self, words, expected):
        contents = ("song", "Song, alarm call", "subsong", "call", "drumming", "")
        rows = [Recording(text or "nothing", f"{text}.wav", class_id="a", content=text) for text in contents]
        test = rows_of({"a": 1}, part="test", content="flight")
        assert kept(Select(content=words), [*rows, *test]) == [*expected, "test-a0"]


class TestBox:
    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            ((45, 16, 49, 23), ["budapest"]),
            ((47.5, 19.0, 47.5, 19.0), ["budapest"]),  # its edges belong to it
            ((-90, -180, 90, 180), ["budapest", "suva", "apia"]),
            ((-20, 170, -10, -170), ["suva", "apia"]),  # over the date line
        ],
    )
    def test_training_recordings_from_there(self, box, expected):
        places = {"budapest": ("47.5", "19"), "suva": ("-18.1", "178.4"), "apia": ("-13.8", "-171.8")}
        places |= {"nowhere": ("", ""), "odd": ("47", "?"), "nan": ("nan", "nan")}
        rows = [Recording(name, name, class_id="a", latitude=a, longitude=b) for name, (a, b) in places.items()]
        assert kept(Select(box=box), [*rows, *rows_of({"a": 1}, part="test")]) == [*expected, "test-a0"]

    @pytest.mark.parametrize(
        "box", [(1.0, 2.0), (50.0, 0.0, 40.0, 1.0), (-91.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 181.0)]
    )
    def test_no_box(self, box):
        with pytest.raises(ConfigError, match=r"data\.select\.box.*\[south, west, north, east\]"):
            configuration.load(None, [f"data.select.box={list(box)}"])


class TestLicence:
    ND = (
        "//creativecommons.org/licenses/by-nc-nd/2.5/",
        "CC-BY-ND 4.0",
        "Creative Commons Attribution-NonCommercial-NoDerivs 2.5",
        "Creative Commons Attribution-NoDerivatives 4.0",
        "Attribution No Derivatives",
    )
    NOT_ND = (
        "",
        "//creativecommons.org/licenses/by-nc-sa/4.0/",
        "Creative Commons Attribution-ShareAlike 3.0",
        "CC0",
        "//creativecommons.org/publicdomain/zero/1.0/",
        "Andy's own terms, standard",
    )

    @pytest.mark.parametrize("licence", ND + NOT_ND)
    def test_no_derivatives(self, licence):
        rows = rows_of({"a": 1}, licence=licence) + rows_of({"a": 1}, part="test", licence=licence)
        assert len(kept(Select(exclude_licence=("ND",)), rows)) == (0 if licence in self.ND else 2)

    @pytest.mark.parametrize(
        ("rule", "left"),
        [("nd", 2), ("by-nc-sa", 2), ("CC BY-NC-SA 4.0", 2), ("noncommercial", 1), ("Non-Commercial", 1), ("nc-nd", 2)],
    )
    def test_spellings_of_a_rule(self, rule, left):
        rows = [
            Recording(licence, f"{licence}.wav", class_id="a", licence=licence)
            for licence in ("by-nc-sa", "Attribution-NonCommercial-NoDerivs 4.0", "by-sa")
        ]
        assert len(kept(Select(exclude_licence=(rule,)), rows)) == left

    @pytest.mark.parametrize("rule", ["", " ", "standard", "4.0"])
    def test_a_rule_without_a_term(self, rule):
        with pytest.raises(ConfigError, match=r"data\.select\.exclude_licence\. Received: '.*by-nc-sa"):
            kept(Select(exclude_licence=(rule,)), rows_of({"a": 1}))

    def test_terms(self):
        assert {"by", "nc", "sa"} <= licence_terms("Creative Commons Attribution-NonCommercial-ShareAlike 3.0")
        assert "nc" in licence_terms("non-commercial use only")
        assert "nc" not in licence_terms("commercial use allowed")
        assert "nd" not in licence_terms("standard")


class TestQuality:
    rows = tuple(
        Recording(q or "unrated", f"{q}.wav", class_id="a", part=part, quality=q)
        for q, part in [
            ("1", "train"),
            ("1.5", "train"),
            ("2", "train"),
            ("2.5", "train"),
            ("5", "train"),
            ("", "train"),
        ]
    )

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (Select(min_quality="A"), ["1", "unrated"]),
            (Select(min_quality="B"), ["1", "1.5", "2", "unrated"]),
            (Select(min_quality="B", unrated=False), ["1", "1.5", "2"]),
            (Select(min_quality="E"), ["1", "1.5", "2", "2.5", "5", "unrated"]),
            (Select(unrated=False), ["1", "1.5", "2", "2.5", "5", "unrated"]),  # only with min_quality
        ],
    )
    def test_letters_on_the_scale_of_birdclef(self, rule, expected):
        assert kept(rule, list(self.rows)) == expected

    def test_zero_is_unrated_and_the_test_part_stays(self):
        rows = rows_of({"a": 1}, quality="0") + rows_of({"a": 1}, part="test", quality="5")
        assert kept(Select(min_quality="A", unrated=False), rows) == ["test-a0"]


class TestBackground:
    @pytest.mark.parametrize(("most", "expected"), [(-1, 3), (0, 1), (1, 2), (2, 3)])
    def test_training_recordings_with_more(self, most, expected):
        rows = [Recording(b or "none", "x", class_id="a", background=b) for b in ("", "b", "b,c")]
        test = rows_of({"a": 1}, part="test", background="b,c,d")
        assert len(kept(Select(max_background=most), rows + test)) == expected + 1


class TestSpecies:
    def test_min_recordings(self):
        rows = rows_of({"a": 5, "b": 4, "c": 1}) + rows_of({"a": 2, "c": 9}, part="test")
        result = select(corpus(rows), Select(min_recordings=5), NOWHERE)
        assert Counter(row.media_id[:-1] for row in result.recordings) == {"train-a": 5, "test-a": 2}
        assert [row.class_id for row in result.species] == ["a"]
        assert Counter(reject.reason for reject in result.rejects) == {"excluded_rare_species": 14}
        assert {reject.detail for reject in result.rejects} == {"4 of b", "1 of c"}

    def test_top_species_breaks_ties_by_name(self):
        rows = rows_of({"d": 3, "c": 2, "b": 2, "a": 2, "e": 1})
        assert {row[-2] for row in kept(Select(top_species=3), rows)} == {"d", "a", "b"}

    def test_unlabelled_test_recordings_go_with_their_truth(self, tmp_path):
        truth = tmp_path / "truth.csv"
        truth.write_text("MediaId,ClassId,BackgroundClassIds\n1,a,\n2,b,\n")
        test = [Recording(str(i), f"{i}.wav", part="test") for i in (1, 2, 3)]
        result = select(corpus(rows_of({"a": 3, "b": 1}) + test, truth), Select(min_recordings=2), NOWHERE)
        assert [row.media_id for row in result.recordings if row.part == "test"] == ["1", "3"]

    def test_a_species_without_training_recordings_is_rare_in_the_test_part_too(self, tmp_path):
        """Whether another rule took them or there never were any."""
        (tmp_path / "truth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n1,a,\n2,b,\n3,c,\n")
        rows = rows_of({"a": 3}, quality="1") + rows_of({"b": 3}, quality="5")
        rows += [Recording(str(i), f"{i}.wav", part="test") for i in (1, 2, 3)]
        rule = Select(min_quality="B", min_recordings=1)
        result = select(corpus(rows, tmp_path / "truth.csv"), rule, NOWHERE)
        assert [row.media_id for row in result.recordings if row.part == "test"] == ["1"]

    def test_a_seed_alone_is_no_rule(self):
        """Species of which there is no recording stay then, too."""
        whole = Corpus(rows_of({"a": 2}), [Species("a"), Species("b")])
        assert select(whole, Select(seed=7), NOWHERE) == whole

    def test_rules_come_one_after_the_other(self):
        """Quality first: b then has two recordings and is rare; of a three are left, and a cap of two."""
        rows = rows_of({"a": 3}, quality="1") + rows_of({"b": 2}, quality="1")
        rows += [Recording("poor", "poor.wav", class_id="b", quality="5")]
        result = select(corpus(rows), Select(min_quality="C", min_recordings=3, max_recordings=2), NOWHERE)
        assert Counter(row.class_id for row in result.recordings) == {"a": 2}
        assert Counter(reject.reason for reject in result.rejects) == {
            "excluded_quality": 1,
            "excluded_rare_species": 2,
            "excluded_surplus": 1,
        }


class TestCap:
    rows = tuple(rows_of({"a": 30, "b": 4}) + rows_of({"a": 9}, part="test"))

    def test_cap_per_species_of_the_training_part(self):
        names = kept(Select(max_recordings=10), list(self.rows))
        assert Counter(name.rstrip("0123456789") for name in names) == {"train-a": 10, "train-b": 4, "test-a": 9}

    def test_seed_and_order(self):
        one = kept(Select(max_recordings=10, seed=1), list(self.rows))
        assert set(kept(Select(max_recordings=10, seed=1), list(self.rows)[::-1])) == set(one)
        assert set(kept(Select(max_recordings=10, seed=2), list(self.rows))) != set(one)

    def test_a_larger_cap_keeps_what_a_smaller_one_keeps(self):
        assert set(kept(Select(max_recordings=5), list(self.rows))) < set(
            kept(Select(max_recordings=6), list(self.rows))
        )


class TestLimit:
    rows = tuple(rows_of({"c": 3, "b": 9, "a": 9, "d": 9}) + rows_of({"c": 4, "b": 4, "a": 4}, part="test"))

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (1, {"train-a": 1, "test-a": 1}),
            (2, {"train-a": 1, "train-b": 1, "test-a": 1}),
            (7, {"train-a": 4, "train-b": 3, "test-a": 3}),
            (13, {"train-a": 5, "train-b": 4, "train-d": 4, "test-a": 4, "test-b": 1}),
            (99, {"train-a": 9, "train-b": 9, "train-c": 3, "train-d": 9, "test-a": 4, "test-b": 4, "test-c": 4}),
        ],
    )
    def test_by_hand(self, limit, expected):
        """A species for every four recordings and at least two, those with most; a third as many are tested."""
        result = limit_recordings(corpus(list(self.rows)), limit)
        assert Counter(row.media_id[:-1] for row in result.recordings) == expected

    def test_the_test_part_has_species_of_the_training_part(self):
        """Also where recordings of others come before them."""
        rows = [*rows_of({"x": 6, "y": 6}), *rows_of({"a": 5, "x": 1, "y": 2}, part="test")]
        result = limit_recordings(corpus(rows), 6)
        assert [row.media_id for row in result.recordings if row.part == "test"] == ["test-x0", "test-y0"]
        assert [row.class_id for row in result.species] == ["x", "y"]

    def test_nothing_is_limited(self):
        whole = corpus(list(self.rows))
        assert limit_recordings(whole, 0) == whole


numbers = st.integers(0, 4)
any_rule = st.builds(
    Select,
    exclude_licence=st.sampled_from([(), ("nd",)]),
    min_quality=st.sampled_from(["", "A", "C"]),
    unrated=st.booleans(),
    max_background=st.integers(-1, 2),
    min_recordings=numbers,
    top_species=numbers,
    max_recordings=numbers,
)
any_rows = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["", "1", "3.5", "5"]),
        st.sampled_from(["", "b", "b,c"]),
        st.sampled_from(["by", "by-nd"]),
        st.sampled_from(["train", "test"]),
    ),
    max_size=25,
).map(
    lambda rows: [
        Recording(str(i), f"{i}.wav", class_id=c, quality=q, background=b, licence=x, part=part)
        for i, (c, q, b, x, part) in enumerate(rows)
    ]
)


@given(rows=any_rows, rule=any_rule)
@settings(max_examples=150)
def test_every_recording_is_kept_or_listed_once(rows, rule):
    result = select(corpus(rows), rule, NOWHERE)
    assert sorted([row.file for row in result.recordings] + [r.file for r in result.rejects]) == sorted(
        row.file for row in rows
    )
    counts = Counter(row.class_id for row in result.recordings if row.part == "train")
    assert not rule.max_recordings or max(counts.values(), default=0) <= rule.max_recordings
    assert not rule.top_species or len(counts) <= rule.top_species
    assert {row.class_id for row in result.species} == {row.class_id for row in result.recordings}


class TestCopies:
    def write(self, root: Path, name: str, content: bytes, class_id: str, part: str = "train") -> Recording:
        (root / name).write_bytes(content)
        return Recording(name, name, class_id=class_id, part=part)

    def test_same_bytes(self, tmp_path):
        rows = [
            self.write(tmp_path, "1", b"same", "a"),
            self.write(tmp_path, "2", b"size", "a"),
            self.write(tmp_path, "3", b"same", "a"),
            self.write(tmp_path, "4", b"same", "b"),
            self.write(tmp_path, "5", b"another", "a"),
            Recording("6", "gone", class_id="a"),
        ]
        left, rejects = drop_copies(tmp_path, rows)
        assert [row.media_id for row in left] == ["1", "2", "5", "6"]
        assert [(r.file, r.reason) for r in rejects] == [("3", "duplicate_content"), ("4", "conflicting_label")]

    def test_a_file_that_is_listed_twice_is_no_copy_of_itself(self, tmp_path):
        """But another one with the same bytes is, however often it is listed."""
        one, other = self.write(tmp_path, "1", b"same", "a"), self.write(tmp_path, "2", b"same", "a")
        rows = [replace(row, media_id=f"{row.file}-{k}") for row in (one, other) for k in range(2)]
        left, rejects = drop_copies(tmp_path, rows)
        assert left == rows[:2]
        assert [(r.file, r.reason) for r in rejects] == [("2", "duplicate_content")]

    def test_pipes_are_not_read(self, tmp_path):
        rows = [
            self.write(tmp_path, "1", b"", "a"),
            Recording("2", "2", class_id="a"),
            Recording("3", "3", class_id="a"),
        ]
        for name in "23":
            os.mkfifo(tmp_path / name)
        assert drop_copies(tmp_path, rows) == (rows, [])

    def test_the_test_part_keeps_its_copy(self, tmp_path):
        rows = [self.write(tmp_path, "1", b"same", "a"), self.write(tmp_path, "2", b"same", "", "test")]
        left, rejects = drop_copies(tmp_path, rows)
        assert [row.media_id for row in left] == ["2"]
        assert [r.reason for r in rejects] == ["duplicate_content"]

    def test_copies_of_other_species_are_found_with_little_reading(self, tmp_path, monkeypatch):
        long = b"x" * 100_000
        rows = [
            self.write(tmp_path, "1", b"same", "a"),
            self.write(tmp_path, "2", b"same", "b"),
            self.write(tmp_path, "3", b"same", "a"),
            self.write(tmp_path, "4", b"size", "b"),
            self.write(tmp_path, "5", long, "a"),
            self.write(tmp_path, "6", b"y" + long[1:], "b"),  # alike in the middle
            self.write(tmp_path, "7", b"longer", "a"),
            self.write(tmp_path, "8", b"longer", "a"),
            self.write(tmp_path, "9", b"", "a"),
            Recording("10", "gone", class_id="a"),
        ]
        assert [(row.file, row.detail) for row in find_conflicts(tmp_path, rows)] == [
            ("2", "the same bytes as 1, which is a")
        ]
        pieces = [replace(rows[0], background="b"), replace(rows[1], background="a")]
        assert find_conflicts(tmp_path, pieces) == []

    def test_as_a_rule_of_any_source(self, tmp_path):
        rows = [self.write(tmp_path, name, b"same", "a") for name in "123"]
        assert len(select(corpus(rows), Select(drop_copies=True), tmp_path).recordings) == 1
        assert len(select(corpus(rows), Select(), tmp_path).recordings) == 3


class TestConfiguration:
    def test_overrides_and_round_trip(self, tmp_path):
        config = configuration.load(
            None, ["data.select.top_species=100", 'data.select.exclude_licence=["nd"]', "data.select.min_quality=B"]
        )
        assert config.data.select == Select(top_species=100, exclude_licence=("nd",), min_quality="B")
        path = tmp_path / "c.toml"
        path.write_text(configuration.to_toml(config))
        assert configuration.load(path) == config
        assert rules(config.data.select) == {
            "select.top_species": 100,
            "select.exclude_licence": ["nd"],
            "select.min_quality": "B",
        }

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            (
                "data.select.top=1",
                r"Unknown key data\.select\.top\. data\.select accepts: box, content, drop_copies, exclude_licence",
            ),
            ("data.select.top_species=-1", r"data\.select\.top_species.*-1.*at least 0"),
            ("data.select.min_quality=F", r"data\.select\.min_quality.*'F'.*A, B, C, D, E"),
            ("data.select=3", r"data\.select.*3.*a table"),
            ("data.select.exclude_licence=nd", r"data\.select\.exclude_licence.*'nd'.*a list"),
        ],
    )
    def test_mistakes(self, override, words):
        with pytest.raises(ConfigError, match=words):
            configuration.load(None, [override])


class TestStage:
    """Through stage 1, with audio."""

    def config(self, tmp_path: Path, *overrides: str) -> configuration.Config:
        root = tmp_path / "birds"
        if not root.exists():
            for k, name in enumerate(
                ["Parus_major/1.wav", "Parus_major/2.wav", "Parus_major/3.wav", "Pica_pica/1.wav"]
            ):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(root / name, np.full(800, k / 10), 8000)
        keys = ["data.source=classfolders", f"data.root={root}", f"data.folder={tmp_path}", "data.corpus=c"]
        return configuration.load(None, [*keys, *overrides])

    def test_listed_counted_and_logged(self, tmp_path, capsys):
        config = self.config(tmp_path, "data.select.min_recordings=2", "data.select.max_recordings=2")
        fetch(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert Counter((r.stage, r.reason) for r in rejects) == {
            ("fetch", "excluded_rare_species"): 1,
            ("fetch", "excluded_surplus"): 1,
        }
        assert len(read_table(config.corpus_dir / "recordings.csv", Recording)) == 2
        assert [row.class_id for row in read_table(config.corpus_dir / "classes.csv", Species)] == ["Parus_major"]
        out = capsys.readouterr().out
        assert "excluded_rare_species: 1 recordings left out, 3 kept" in out
        assert "2 recordings taken, 2 rejected (excluded_rare_species 1, excluded_surplus 1)" in out

    def test_other_rules_are_other_data(self, tmp_path):
        fetch(self.config(tmp_path), 1)
        fetch(self.config(tmp_path), 1)
        with pytest.raises(PipelineError, match=r"data\.select\.top_species: None -> 1"):
            fetch(self.config(tmp_path, "data.select.top_species=1"), 1)

    def test_rules_that_leave_nothing(self, tmp_path):
        with pytest.raises(PipelineError, match=r"no usable recording.*excluded_rare_species 4"):
            fetch(self.config(tmp_path, "data.select.min_recordings=9"), 1)

    def test_rules_that_leave_nothing_to_train_with(self, tmp_path):
        """The test part stays, but a training would only say that there are no features."""
        root = write_release(tmp_path / "release", three_species())
        home = f"data.folder={tmp_path / 'data'}"
        keys = ["data.source=birdclef", f"data.root={root}", home, 'data.select.content=["sogn"]']
        with pytest.raises(PipelineError, match=r"no usable recording for training: 3 recordings taken, 12 .*_content"):
            fetch(configuration.load(None, keys), 1)
