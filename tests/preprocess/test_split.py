"""Splits: what must never happen, whatever the recordings."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ConfigError, Part, PipelineError, Train
from preprocess.recordings import Recording
from preprocess.split import SPLITS, hold_back, leaks, split


def corpus(rows: list[tuple[int, int, int]]) -> list[Recording]:
    """Return recordings of (class, recordist, day)."""
    return [
        Recording(str(i), f"{i}.wav", class_id=f"c{c}", group=f"c{c}|{who}|{day}", author=f"R{who}" if who else "")
        for i, (c, who, day) in enumerate(rows)
    ]


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 3)), max_size=80).map(corpus)
groupings = st.sampled_from(["observation", "recordist"])


def key(row: Recording, group_by: str) -> str:
    return row.group if group_by == "observation" else (row.author or row.group)


def always(test):
    """Try a test with any recordings and options."""
    draw = given(recordings=rows, share=st.floats(0, 1), seed=st.integers(0, 99), group_by=groupings)
    return settings(max_examples=150)(draw(test))


class TestAlways:
    @always
    def test_groups_are_never_split(self, recordings, share, seed, group_by):
        held = hold_back(recordings, share, seed, group_by)
        sides: dict[str, set[bool]] = {}
        for row in recordings:
            sides.setdefault(key(row, group_by), set()).add(row.media_id in held)
        assert all(len(side) == 1 for side in sides.values())

    @always
    def test_every_class_keeps_a_recording(self, recordings, share, seed, group_by):
        held = hold_back(recordings, share, seed, group_by)
        left = {row.class_id for row in recordings if row.media_id not in held}
        assert left == {row.class_id for row in recordings}

    @always
    def test_order_of_the_recordings_does_not_matter(self, recordings, share, seed, group_by):
        held = hold_back(recordings, share, seed, group_by)
        assert hold_back(recordings[::-1], share, seed, group_by) == held
        assert hold_back(sorted(recordings, key=lambda row: row.media_id[::-1]), share, seed, group_by) == held

    @always
    def test_never_much_more_than_the_share(self, recordings, share, seed, group_by):
        """A group is taken if at least half of it is wanted, so at most twice the share, rounded up per class."""
        held = hold_back(recordings, share, seed, group_by)
        assert len(held) <= 2 * (share * len(recordings) + 0.5 * len({row.class_id for row in recordings}))


def test_held_back_are_recordings_of_the_corpus():
    recordings = corpus([(i % 4, i % 9, i % 5) for i in range(200)])
    assert hold_back(recordings, 0.3, 0, "observation") < {row.media_id for row in recordings}


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("group_by", ["observation", "recordist"])
def test_share_is_about_met_in_total(share, group_by):
    recordings = corpus([(i % 7, 1 + i * 7919 % 60, i % 2) for i in range(1400)])
    held = hold_back(recordings, share, 0, group_by)
    assert len(held) == pytest.approx(share * len(recordings), rel=0.25)
    counts = Counter(row.class_id for row in recordings if row.media_id in held)
    assert set(counts) == {f"c{i}" for i in range(7)}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_share_is_met_in_total_where_classes_are_small(share):
    """Ten recordings of each of 100 classes: a hundredth of each class is less than one recording."""
    recordings = corpus([(c, 1 + k, 0) for c in range(100) for k in range(10)])
    assert len(hold_back(recordings, share, 0, "observation")) == round(share * 1000)


def test_a_group_of_which_half_is_wanted_is_taken():
    """Of two pairs of each class a quarter is wanted, one recording: a pair is as near to it as nothing."""
    recordings = corpus([(c, who, 0) for c in range(20) for who in (1, 2) for _ in range(2)])
    held = hold_back(recordings, 0.25, 0, "observation")
    assert Counter(row.class_id for row in recordings if row.media_id in held) == {f"c{c}": 2 for c in range(20)}


def test_class_with_one_recording_or_one_group_stays():
    recordings = corpus([(0, 1, 0), *[(1, 2, 0)] * 20, *[(2, who, 0) for who in range(3, 23)]])
    held = {int(media_id) for media_id in hold_back(recordings, 0.5, 0, "observation")}
    assert 0 not in held
    assert not held & set(range(1, 21))
    assert len(held) == pytest.approx(10, abs=1)


def test_recordists_are_on_one_side_across_classes_and_days():
    recordings = corpus([(c, who, day) for who in range(1, 31) for c in range(3) for day in range(2)])
    by_recordist = hold_back(recordings, 0.3, 0, "recordist")
    held = {row.author for row in recordings if row.media_id in by_recordist}
    left = {row.author for row in recordings if row.media_id not in by_recordist}
    assert held
    assert not held & left
    by_observation = hold_back(recordings, 0.3, 0, "observation")
    sides = {(row.author, row.media_id in by_observation) for row in recordings}
    assert len(sides) > 30  # there the same person may be on both


def test_recordings_without_a_recordist_fall_back_to_their_observation():
    recordings = corpus([(0, 0, day) for day in range(20) for _ in range(2)])
    held = hold_back(recordings, 0.25, 0, "recordist")
    assert len(held) == pytest.approx(10, abs=2)


def test_the_seed_decides_and_no_share_holds_nothing():
    recordings = corpus([(i % 3, i, 0) for i in range(90)])
    assert hold_back(recordings, 0.2, 1, "observation") == hold_back(recordings, 0.2, 1, "observation")
    assert hold_back(recordings, 0.2, 1, "observation") != hold_back(recordings, 0.2, 2, "observation")
    assert hold_back(recordings, 0.0, 1, "observation") == set()
    assert hold_back([], 0.5, 1, "observation") == set()


def test_a_new_class_leaves_the_choice_among_the_others():
    """Adding recordings of a class that sorts last must not reshuffle the rest."""
    old = corpus([(i % 3, i, 0) for i in range(90)])
    new = old + [Recording(f"n{i}", "x", class_id="zz", group=f"zz|{i}|0") for i in range(30)]
    held = hold_back(old, 0.2, 1, "observation")
    assert {media_id for media_id in hold_back(new, 0.2, 1, "observation") if media_id[0] != "n"} == held


def chosen(recordings: list[Recording], name: str, seed: int = 0, **options) -> dict[str, str]:
    return split(recordings, Train(seed=seed, split=Part(name, options)))


def count(recordings: list[Recording], sides: dict[str, str]) -> dict[str, dict[str, int]]:
    """Count recordings by class and side."""
    table: dict[str, Counter] = {}
    for row in recordings:
        table.setdefault(row.class_id, Counter())[sides[row.media_id]] += 1
    return {class_id: dict(counts) for class_id, counts in table.items()}


class TestGrouped:
    def test_is_the_default_and_takes_the_keys_of_train(self):
        recordings = corpus([(i % 4, i % 9, i % 5) for i in range(200)])
        sides = split(recordings, Train(validation=0.2, holdout=0.1, seed=3, group_by="recordist"))
        held = hold_back(recordings, 0.1, 4, "recordist")
        rest = [row for row in recordings if row.media_id not in held]
        assert {name for name, side in sides.items() if side == "holdout"} == held
        assert {name for name, side in sides.items() if side == "validation"} == hold_back(rest, 0.2, 3, "recordist")


class TestPerClass:
    def test_counts_by_hand(self):
        """100: 15, then 15 % of 85 = 12.75; 10: 1.5 up to 2, then 1.2; 3: 0.45 and 0.45; 1: nothing."""
        recordings = corpus([(c, i + 1, 0) for c, n in enumerate((100, 10, 3, 1)) for i in range(n)])
        assert count(recordings, chosen(recordings, "per_class")) == {
            "c0": {"train": 72, "validation": 13, "holdout": 15},
            "c1": {"train": 7, "validation": 1, "holdout": 2},
            "c2": {"train": 3},
            "c3": {"train": 1},
        }

    @given(recordings=rows, test=st.floats(0, 1), validation=st.floats(0, 1), seed=st.integers(0, 9))
    @settings(max_examples=60)
    def test_every_class_is_trained_on_and_the_order_does_not_matter(self, recordings, test, validation, seed):
        sides = SPLITS["per_class"](recordings, Train(seed=seed), test=test, validation=validation)
        assert SPLITS["per_class"](recordings[::-1], Train(seed=seed), test=test, validation=validation) == sides
        for counts in count(recordings, sides).values():
            assert counts["train"] >= 1
            n = sum(counts.values())
            assert counts.get("holdout", 0) == min(math.floor(test * n + 0.5), n - 1)

    def test_seed(self):
        recordings = corpus([(0, i + 1, 0) for i in range(50)])
        assert chosen(recordings, "per_class", 1) == chosen(recordings, "per_class", 1)
        assert chosen(recordings, "per_class", 1) != chosen(recordings, "per_class", 2)


class TestHundredsDigit:
    def test_by_hand(self):
        names = {"XC134096": True, "XC99": True, "XC100": False, "XC1000": True, "XC12345": False, "a-XC7-b": True}
        recordings = [Recording(name, "x.mp3", class_id="a", group=name) for name in names]
        sides = chosen(recordings, "hundreds_digit")
        assert {name: sides[name] == "validation" for name in names} == names

    def test_number_in_the_file_name_and_none_at_all(self):
        recordings = [Recording("1", "a/xc1055.ogg", class_id="a"), Recording("1000", "b/EXC2000.ogg", class_id="a")]
        recordings += [Recording("3", "a/XC1155.ogg", class_id="a")]
        assert chosen(recordings, "hundreds_digit") == {"1": "validation", "1000": "train", "3": "train"}
        assert chosen(recordings, "hundreds_digit", digit=1)["3"] == "validation"
        with pytest.raises(PipelineError, match="xeno-canto numbers"):
            chosen(recordings[1:2], "hundreds_digit")


class TestFivePerClass:
    def test_only_classes_with_25(self):
        recordings = corpus([(c, i + 1, 0) for c, n in enumerate((25, 24, 60)) for i in range(n)])
        assert count(recordings, chosen(recordings, "five_per_class")) == {
            "c0": {"train": 20, "validation": 5},
            "c1": {"train": 24},
            "c2": {"train": 55, "validation": 5},
        }
        assert chosen(recordings, "five_per_class", 1) != chosen(recordings, "five_per_class", 2)

    def test_never_a_whole_class(self):
        recordings = corpus([(c, i + 1, 0) for c, n in enumerate((5, 6)) for i in range(n)])
        assert count(recordings, chosen(recordings, "five_per_class", least=0))["c0"] == {"train": 5}


class TestFolds:
    recordings = tuple(
        Recording(str(i), f"{i}.wav", class_id=f"c{i % 2}", group=str(i), fold=str(i % 5 + 1)) for i in range(20)
    )

    @pytest.mark.parametrize("fold", ["3", 3])
    def test_official_folds(self, fold):
        sides = chosen(self.recordings, "folds", validation=fold, holdout=5)
        assert {row.fold for row in self.recordings if sides[row.media_id] == "validation"} == {"3"}
        assert {row.fold for row in self.recordings if sides[row.media_id] == "holdout"} == {"5"}
        assert {row.fold for row in self.recordings if sides[row.media_id] == "train"} == {"1", "2", "4"}

    def test_a_fold_held_out_and_a_share_of_the_others_for_validation(self):
        split_of = Part("folds", {"validation": "", "holdout": "2"})
        sides = split(self.recordings, Train(split=split_of, validation=0.25, seed=3))
        assert {row.media_id for row in self.recordings if row.fold == "2"} == {
            name for name, side in sides.items() if side == "holdout"
        }
        assert count(self.recordings, sides) == {f"c{c}": {"train": 6, "validation": 2, "holdout": 2} for c in (0, 1)}
        assert sides != split(self.recordings, Train(split=split_of, validation=0.25, seed=4))

    def test_the_same_fold_for_both(self):
        for options in ({"validation": 3, "holdout": "3"}, {"holdout": 1}):
            with pytest.raises(ConfigError, match=r"train\.split\.holdout.*another fold"):
                chosen(self.recordings, "folds", **options)

    def test_fold_that_is_not_there(self):
        with pytest.raises(ConfigError, match=r"train\.split\.validation.*'9'.*1, 2, 3, 4, 5"):
            chosen(self.recordings, "folds", validation=9)
        with pytest.raises(ConfigError, match="it has none"):
            chosen(corpus([(0, 1, 1)] * 9), "folds")


class TestKfold:
    recordings = corpus([(i % 3, 1 + i * 7919 % 40, i % 2) for i in range(300)])

    @pytest.mark.parametrize("group_by", ["observation", "recordist"])
    def test_folds_are_disjoint_and_cover_everything_without_splitting_a_group(self, group_by):
        held = []
        for fold in range(4):
            sides = split(self.recordings, Train(split=Part("kfold", {"k": 4, "fold": fold}), group_by=group_by))
            held.append({name for name, side in sides.items() if side == "validation"})
            both: dict[str, set] = {}
            for row in self.recordings:
                both.setdefault(key(row, group_by), set()).add(sides[row.media_id])
            assert all(len(found) == 1 for found in both.values())
        assert sorted(name for names in held for name in names) == sorted(row.media_id for row in self.recordings)
        assert np.std([len(names) for names in held]) < 10

    def test_stratified(self):
        for counts in count(self.recordings, chosen(self.recordings, "kfold")).values():
            assert counts["validation"] == pytest.approx(20, abs=6)

    def test_order_does_not_matter_and_the_split_has_its_own_seed(self):
        assert chosen(self.recordings[::-1], "kfold") == chosen(self.recordings, "kfold")
        assert chosen(self.recordings, "kfold", 1) == chosen(self.recordings, "kfold", 2)
        assert chosen(self.recordings, "kfold") != split(self.recordings, Train(split=Part("kfold", {"seed": 1})))

    @pytest.mark.parametrize("group_by", ["observation", "recordist"])
    def test_a_fold_held_out_and_a_share_of_the_others_for_validation(self, group_by):
        for fold in range(4):
            plain, held = (
                split(
                    self.recordings,
                    Train(split=Part("kfold", {"k": 4, "fold": fold, "holdout": h}), validation=0.2, group_by=group_by),
                )
                for h in (False, True)
            )
            validated = {name for name, side in plain.items() if side == "validation"}
            assert validated == {name for name, side in held.items() if side == "holdout"}
            both: dict[str, set] = {}
            for row in self.recordings:
                both.setdefault(key(row, group_by), set()).add(held[row.media_id])
            assert all(len(found) == 1 for found in both.values())
            share = sum(side == "validation" for side in held.values()) / (len(held) - len(validated))
            assert share == pytest.approx(0.2, abs=0.04)

    def test_impossible(self):
        with pytest.raises(ConfigError, match=r"train\.split\.fold.*from 0 to 2"):
            chosen(self.recordings, "kfold", k=3, fold=3)
        with pytest.raises(PipelineError, match="k=200"):
            chosen(self.recordings, "kfold", k=200)


class TestLeaks:
    def test_counted_by_hand(self, capsys):
        recordings = [
            Recording("1", "XC100.mp3", class_id="a", group="a|R|1", author="R"),
            Recording("2", "XC1000.mp3", class_id="a", group="a|R|1", author="R"),  # same observation and recordist
            Recording("3", "XC2000.mp3", class_id="a", group="a|R|2", author="R"),  # same recordist
            Recording("4", "XC3000.mp3", class_id="a", group="a|S|1", author="S"),
            Recording("5", "XC4000.mp3", class_id="a", group="5"),  # nobody knows
            Recording("6", "XC500.mp3", class_id="a", group="6"),
        ]
        sides = chosen(recordings, "hundreds_digit")
        assert leaks(recordings, sides) == {"observation": 1, "recordist": 2}
        (line,) = capsys.readouterr().out.splitlines()
        assert "warning: of 4 recordings" in line
        assert "1 share their observation and 2 share their recordist" in line

    def test_no_line_where_nothing_leaks(self, capsys):
        recordings = corpus([(c, 1 + c + 2 * i, 0) for c in range(2) for i in range(30)])
        split(recordings, Train(validation=0.2, group_by="recordist"))
        assert capsys.readouterr().out == ""

    @given(recordings=rows.filter(lambda rows: len(rows) > 3), seed=st.integers(0, 9))
    @settings(max_examples=60)
    def test_like_a_look_at_every_pair(self, recordings, seed):
        sides = SPLITS["per_class"](recordings, Train(seed=seed), test=0.3, validation=0.3)
        held = [row for row in recordings if sides[row.media_id] != "train"]
        trained = [row for row in recordings if sides[row.media_id] == "train"]
        assert leaks(recordings, sides) == {
            "observation": sum(any(a.group == b.group for b in trained) for a in held),
            "recordist": sum(any(a.author == b.author != "" for b in trained) for a in held),
        }


class TestOptions:
    recordings = corpus([(i % 2, i + 1, 0) for i in range(40)])

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("random", {}, r"Unknown train\.split.*'random'.*grouped, per_class"),
            ("per_class", {"tset": 0.1}, r"Unknown key train\.split\.tset\. per_class accepts: test, validation"),
            ("per_class", {"test": 2}, r"train\.split\.test.*from 0 to 1"),
            ("grouped", {"k": 2}, r"train\.split\.k\. grouped accepts: none"),
            ("kfold", {"k": 1}, r"train\.split\.k.*at least 2"),
            ("hundreds_digit", {"digit": 10}, r"train\.split\.digit"),
        ],
    )
    def test_mistakes(self, name, options, words):
        with pytest.raises(ConfigError, match=words):
            chosen(self.recordings, name, **options)

    def test_nothing_to_validate_on_or_to_train_on(self):
        with pytest.raises(PipelineError, match="leaves none"):
            chosen(self.recordings, "five_per_class")
        with pytest.raises(PipelineError, match=r"train\.split=five_per_class of .*Choose another split, or add"):
            chosen(self.recordings, "five_per_class")
        few = [
            Recording(f"XC{k}", f"{k}.wav", class_id="ab"[k % 2], author="AB"[k // 4], group=f"{k}") for k in range(8)
        ]
        train = Train(split=Part("kfold", {"k": 2, "holdout": True}), group_by="recordist")
        with pytest.raises(PipelineError, match=r"train\.validation=0\.1 of .*Raise it, keep observations together"):
            split(few, train)
        one = [Recording("XC1000", "x", class_id="a", group="g")]
        with pytest.raises(PipelineError, match="no recording to train on"):
            chosen(one, "hundreds_digit")
