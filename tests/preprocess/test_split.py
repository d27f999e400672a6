"""Splits: what must never happen, whatever the recordings."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.recordings import Recording
from preprocess.split import hold_back


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
    return settings(max_examples=150, deadline=None)(draw(test))


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
