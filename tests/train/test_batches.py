"""The stream of training batches: what is in an epoch, what its order depends on, and its thread."""

import itertools
import threading
import time
from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array

from config import PipelineError, Train
from preprocess.segments import SegmentReader, list_segments
from train.batches import Batches

RECORDINGS = np.array([0, 2, 3, 5, 6, 7, 8, 10, 11])
LABELS = np.arange(12) % 3


@pytest.fixture(scope="module")
def reader(reader):
    """Short segments, so that recordings have different numbers of them."""
    return SegmentReader(reader.shards, 130, reader.mask, reader.drop_columns)


class Recorder:
    """A reader that remembers what was asked of it."""

    def __init__(self, reader: SegmentReader) -> None:
        self.reader, self.read_calls, self.segment_frames = reader, [], reader.segment_frames
        self.segment_starts, self.frames_left = reader.segment_starts, reader.frames_left

    def read(self, owners: np.ndarray, starts: np.ndarray) -> np.ndarray:
        self.read_calls.append((owners.tolist(), starts.tolist()))
        return self.reader.read(owners, starts)


def make(reader, batch_size: int = 4, seed: int = 0, windows: bool = True, recordings=RECORDINGS) -> Batches:
    targets = np.arange(36, dtype=np.float32).reshape(12, 3)
    labels = np.zeros(12, int)
    return Batches(reader, recordings, labels, targets, Train(batch_size=batch_size, seed=seed, random_windows=windows))


def drawn(batches: Batches, epoch: int) -> list[tuple[int, int]]:
    """Return the (recording, first frame) of an epoch in its order."""
    batches.reader = Recorder(batches.reader.reader if isinstance(batches.reader, Recorder) else batches.reader)
    list(batches.epoch(epoch))
    return [pair for owners, starts in batches.reader.read_calls for pair in zip(owners, starts, strict=True)]


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "batches"}


def assert_ends(thread: threading.Thread) -> None:
    thread.join(5)
    assert not thread.is_alive()


# One epoch


@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 64])
def test_every_segment_once_per_epoch_and_the_last_batch_filled_from_the_beginning(reader, batch_size):
    batches = make(reader, batch_size, windows=False)
    wanted = list(zip(*map(np.ndarray.tolist, list_segments(reader, RECORDINGS)), strict=True))
    assert len(set(Counter(owner for owner, _ in wanted).values())) > 1
    assert batches.steps == -(-len(wanted) // batch_size)
    order = drawn(batches, 3)
    assert len(order) == batches.steps * batch_size
    assert sorted(order[: len(wanted)]) == sorted(wanted)
    cycle = itertools.cycle(order[: len(wanted)])
    assert order == list(itertools.islice(cycle, len(order)))


def test_random_windows_keep_the_number_of_segments_of_each_recording(reader):
    batches = make(reader, 1)
    owners = Counter(owner for owner, _ in drawn(batches, 0))
    assert owners == Counter({int(i): len(reader.segment_starts(int(i))) for i in RECORDINGS})


def test_batches_hold_the_segments_and_the_targets_of_their_recordings(reader):
    batches = make(reader, 4, windows=True)
    for (codes, targets), (owners, starts) in zip(batches.epoch(2), split(drawn(batches, 2), 4), strict=True):
        assert codes.shape == (4, 130, 200)
        assert codes.dtype == np.uint8
        np.testing.assert_array_equal(codes, reader.read(owners, starts))
        np.testing.assert_array_equal(targets, batches.targets[list(owners)].toarray())


def test_targets_of_a_million_recordings_take_little_memory(reader):
    """Of xeno-canto as a whole, 40 GB if they were dense."""
    species = np.random.default_rng(0).integers(0, 10_000, 1_000_000)
    targets = csr_array((np.ones(len(species), np.float32), species, np.arange(len(species) + 1)))
    batches = Batches(reader, RECORDINGS, species, targets, Train(batch_size=4), ["companion"])
    codes, found, companions = next(batches.epoch(0))
    assert codes.shape == companions.shape
    assert found.argmax(axis=1).tolist() == [species[i] for i, _ in drawn(batches, 0)[:4]]
    assert found.sum() == 4


def split(pairs: list[tuple[int, int]], size: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [tuple(zip(*pairs[low : low + size], strict=True)) for low in range(0, len(pairs), size)]


def test_random_windows_stay_within_the_recording_and_reach_both_ends(reader):
    batches = make(reader, 8)
    seen: dict[int, set[int]] = {}
    for epoch in range(60):
        for owner, start in drawn(batches, epoch):
            seen.setdefault(owner, set()).add(start)
    assert set(seen) == set(RECORDINGS.tolist())
    spread = 0
    for owner, starts in seen.items():
        latest = max(0, reader.frames_left[owner] - 130)
        assert min(starts) >= 0
        assert max(starts) <= latest
        if latest:
            spread += 1
            assert min(starts) < 0.1 * latest
            assert max(starts) > 0.9 * latest
    assert spread == len(RECORDINGS)


def test_the_last_window_is_drawn_too(reader):
    """A recording with one frame to spare starts at 0 or 1."""
    short = SegmentReader(reader.shards, int(reader.lengths[0]) - 1, reader.mask, reader.drop_columns)
    batches = make(short, 2, recordings=np.array([0]))
    assert {start for epoch in range(20) for _, start in drawn(batches, epoch)} == {0, 1}


def test_fixed_windows_otherwise(reader):
    batches = make(reader, 1, windows=False)
    for epoch in (0, 5):
        for owner, start in drawn(batches, epoch):
            assert start in reader.segment_starts(owner)


# Order


@pytest.mark.parametrize("windows", [True, False])
def test_the_order_follows_from_seed_and_epoch_alone(reader, windows):
    first = drawn(make(reader, windows=windows), 4)
    later = make(reader, windows=windows)
    drawn(later, 9)
    assert drawn(later, 4) == first
    assert drawn(make(reader, windows=windows), 5) != first
    assert drawn(make(reader, seed=1, windows=windows), 4) != first


def test_a_stream_started_later_is_the_continuation(reader):
    whole, part = make(reader), make(reader)
    stream = whole.stream(0)
    expected = [next(stream) for _ in range(5 * whole.steps)][3 * whole.steps :]
    stream.close()
    stream = part.stream(3)
    found = [next(stream) for _ in range(2 * part.steps)]
    stream.close()
    for (a, dummy), (b, _) in zip(expected, found, strict=True):
        assert equal(a, b)
        assert dummy.shape == (4,)


def test_the_stream_is_the_epochs_one_after_the_other(reader):
    batches = make(reader)
    stream = batches.stream(1)
    for expected in itertools.chain(batches.epoch(1), batches.epoch(2)):
        assert equal(next(stream)[0], expected)
    stream.close()


# Thread


def test_an_error_in_the_thread_reaches_the_consumer(reader):
    """After the batches that were read before it; the thread ends."""
    gate = threading.Event()

    class Failing(Recorder):
        def read(self, owners, starts):
            if len(self.read_calls) == 2:
                gate.wait(5)
                raise OSError("the disk has gone")
            return super().read(owners, starts)

    before = threads()
    stream = make(Failing(reader)).stream(0)
    next(stream)
    (thread,) = threads() - before
    gate.set()
    next(stream)
    with pytest.raises(OSError, match="the disk has gone"):
        next(stream)
    assert_ends(thread)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_the_thread_ends(reader, how):
    """Also while it waits because its queue is full."""
    before = threads()
    batches = make(reader)
    stream = batches.stream(0)
    next(stream)
    (thread,) = threads() - before
    time.sleep(0.5)
    assert thread.is_alive()
    assert thread.daemon
    batches.stop() if how == "stop" else stream.close()
    assert_ends(thread)


def test_reads_ahead_but_not_without_end(reader):
    batches = make(Recorder(reader))
    stream = batches.stream(0)
    next(stream)
    limit = time.monotonic() + 60
    while len(batches.reader.read_calls) < 2:
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(0.5)
    assert len(batches.reader.read_calls) <= 8
    stream.close()


def test_waiting_is_counted_where_the_reader_is_slow(reader):
    class Slow(Recorder):
        def read(self, owners, starts):
            time.sleep(0.05)
            return super().read(owners, starts)

    batches = make(Slow(reader))
    stream = batches.stream(0)
    started = time.monotonic()
    for _ in range(6):
        next(stream)
    stream.close()
    assert 0.15 < batches.waited <= time.monotonic() - started


# Bags, companions and noise


def open_batches(reader, needs=(), noise=None, recordings=RECORDINGS, classes: int = 4, **train) -> Batches:
    """Recording i is of class i % 3; a fourth column is for noise."""
    targets = np.eye(classes, dtype=np.float32)[LABELS]
    return Batches(reader, recordings, LABELS, targets, Train(**train), needs, noise)


@pytest.mark.parametrize("windows", [True, False])
def test_bags_are_of_one_recording(reader, windows):
    batches = open_batches(reader, batch_size=12, bag=3, random_windows=windows)
    pairs = drawn(batches, 1)
    assert len(pairs) == batches.steps * 12
    own = [[owner for owner, _ in pairs[low : low + 3]] for low in range(0, len(pairs), 3)]
    assert all(len(set(bag)) == 1 for bag in own)
    assert {bag[0] for bag in own} == set(RECORDINGS.tolist())
    assert pairs == drawn(batches, 1) != drawn(batches, 2)


def test_a_bag_must_fit_into_the_batch(reader):
    with pytest.raises(PipelineError, match=r"train\.bag"):
        open_batches(reader, batch_size=10, bag=3)


def test_companions_are_of_the_same_species(reader):
    batches = open_batches(reader, ["companion"], batch_size=8, seed=3)
    batches.reader = Recorder(reader)
    others = 0
    for _ in batches.epoch(0):
        (own, _), (same, _) = batches.reader.read_calls[-2:]
        assert [i % 3 for i in own] == [i % 3 for i in same]
        others += sum(a != b for a, b in zip(own, same, strict=True))
    assert others > 0


def test_companions_are_any_recording_of_the_species_and_any_window_of_it(reader):
    batches = open_batches(reader, ["companion"], batch_size=8)
    batches.reader = Recorder(reader)
    seen: dict[int, set[int]] = {}
    windows: dict[int, set[int]] = {}
    for epoch in range(30):
        for _ in batches.epoch(epoch):
            (own, _), (same, starts) = batches.reader.read_calls[-2:]
            for i, other, start in zip(own, same, starts, strict=True):
                seen.setdefault(i, set()).add(other)
                windows.setdefault(other, set()).add(start)
    assert seen == {int(i): {int(k) for k in RECORDINGS if k % 3 == i % 3} for i in RECORDINGS}
    for other, starts in windows.items():
        latest = reader.frames_left[other] - 130
        assert 0 <= min(starts) < 0.2 * latest < 0.8 * latest < max(starts) <= latest


class NoiseView:
    """Stands for the view of the noise frames; every value says which recording it is from."""

    segment_frames = 130

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = self.frames_left = np.array(lengths)
        self.asked: list[tuple[int, int]] = []

    def read(self, recordings, starts):
        assert all(0 <= s <= max(0, self.lengths[r] - 130) for r, s in zip(recordings, starts, strict=True))
        self.asked += zip(recordings.tolist(), starts.tolist(), strict=True)
        return np.stack([np.full((130, 200), 200 + r, np.uint8) for r in recordings])


def test_noise_is_of_training_recordings_that_have_some(reader):
    noise = NoiseView([100 if i % 2 else 0 for i in range(12)])
    batches = open_batches(reader, ["noise"], noise, batch_size=8)
    seen = {int(value) - 200 for batch in batches.epoch(0) for value in batch[2][:, 0, 0]}
    assert seen <= {int(i) for i in RECORDINGS if i % 2}
    assert seen


def test_noise_class_fills_its_share_of_every_batch(reader):
    noise = NoiseView([500] * 12)
    batches = open_batches(reader, noise=noise, batch_size=8, noise_class=0.25)
    assert batches.steps == -(-len(batches.owners) // 6)
    for codes, targets in batches.epoch(0):
        assert codes.shape == (8, 130, 200)
        assert targets[:6, 3].sum() == 0
        assert targets[6:].tolist() == [[0, 0, 0, 1]] * 2
        assert (codes[6:] >= 200).all()


def test_noise_is_any_window_and_follows_from_seed_and_epoch_alone(reader):
    def heard(seed: int, epoch: int) -> list[tuple[int, int]]:
        noise = NoiseView([500] * 12)
        list(open_batches(reader, ["noise"], noise, batch_size=8, seed=seed).epoch(epoch))
        return noise.asked

    assert heard(0, 3) == heard(0, 3)
    assert len({tuple(heard(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    starts = [start for epoch in range(20) for _, start in heard(0, epoch)]
    assert min(starts) < 10
    assert max(starts) > 360


def test_noise_among_species_has_itself_as_companion(reader):
    noise = NoiseView([500] * 12)
    batches = open_batches(reader, ["companion"], noise, batch_size=8, noise_class=0.25)
    for codes, _, companions in batches.epoch(0):
        assert companions.shape == codes.shape
        np.testing.assert_array_equal(companions[6:], codes[6:])


def test_noise_that_is_not_there_is_named(reader):
    with pytest.raises(PipelineError, match="no noise frames"):
        open_batches(reader, ["noise"], NoiseView([0] * 12))
    held = [0 if i in RECORDINGS[:4] else 500 for i in range(12)]
    with pytest.raises(PipelineError, match="only recordings that are held back have noise frames"):
        open_batches(reader, ["noise"], NoiseView(held), RECORDINGS[:4])
    with pytest.raises(PipelineError, match=r"train\.noise_class"):
        open_batches(reader, noise=NoiseView([500] * 12), batch_size=4, noise_class=0.99)


def test_random_padding_starts_short_recordings_anywhere():
    class Short:
        segment_frames, shape, frames_left = 10, (2,), np.array([4, 25])

        def read(self, recordings, starts):
            self.calls = [*getattr(self, "calls", []), *zip(recordings, starts, strict=True)]
            return np.zeros((len(recordings), 10, 2), np.uint8)

    for windows in (True, False):
        view = Short()
        train = Train(batch_size=2, random_windows=windows, random_padding=True)
        batches = Batches(view, np.arange(2), np.arange(2), np.eye(2, dtype=np.float32), train)
        for epoch in range(60):
            list(batches.epoch(epoch))
        assert {start for owner, start in view.calls if owner == 0} == set(range(-6, 1))
        longer = {start for owner, start in view.calls if owner == 1}
        assert longer == (set(range(16)) if windows else {0, 10, 15})


# How much is in an epoch


def planned(reader, recordings=RECORDINGS, labels=LABELS, **train) -> Batches:
    targets = np.eye(3, dtype=np.float32)[labels]
    return Batches(reader, recordings, labels, targets, Train(**({"batch_size": 4, "random_windows": False} | train)))


def test_a_small_corpus_is_gone_through_several_times(reader):
    count = len(list_segments(reader, RECORDINGS)[0])
    batches = planned(reader, epoch_segments=3 * count + 2, batch_size=1)
    assert batches.steps == 3 * count + 2
    order = drawn(batches, 0)
    for low in range(0, 3 * count, count):
        assert sorted(order[low : low + count]) == sorted(order[:count])
    assert order[:count] != order[count : 2 * count]
    assert planned(reader, epoch_segments=count - 1).steps == planned(reader).steps


@pytest.mark.parametrize("bag", [1, 2])
def test_of_a_large_corpus_every_epoch_has_another_part(reader, bag):
    count = len(list_segments(reader, RECORDINGS)[0])
    batches = planned(reader, epoch_limit=6, epoch_segments=4, bag=bag, batch_size=2)
    assert batches.steps == 3
    epochs = [drawn(batches, epoch) for epoch in range(20)]
    assert {len(order) for order in epochs} == {6}
    assert all(len(set(order)) == 6 for order in epochs) or bag == 2  # a bag may hold a short recording twice
    seen = set().union(*epochs)
    assert len(seen) > 0.8 * count
    assert epochs[0] == drawn(batches, 0) != epochs[1]
    assert planned(reader, epoch_limit=10 * count).steps == planned(reader).steps


@pytest.mark.parametrize("bag", [1, 2])
def test_long_recordings_give_so_many_segments_and_others_in_the_next_epoch(reader, bag):
    whole = Counter(list_segments(reader, RECORDINGS)[0].tolist())
    most = max(whole.values()) - 1
    batches = planned(reader, recording_segments=most, bag=bag, batch_size=bag)
    epochs = [drawn(batches, epoch) for epoch in range(12)]
    for order in epochs:
        expected = {i: -(-min(n, most) // bag) * bag for i, n in whole.items()}
        assert Counter(owner for owner, _ in order) == expected
    longest = max(whole, key=whole.get)
    seen = [frozenset(start for owner, start in order if owner == longest) for order in epochs]
    assert len(set(seen)) > 1
    assert frozenset().union(*seen) == set(reader.segment_starts(longest))


@pytest.mark.parametrize(("balance", "share"), [(1.0, 1 / 2), (0.5, None)])
def test_rare_species_are_drawn_more_often(reader, balance, share):
    labels = np.zeros(12, int)
    labels[7] = 1
    segments = Counter((list_segments(reader, RECORDINGS)[0] == 7).tolist())
    n, rare = segments[False], segments[True]
    share = share or rare**0.5 / (rare**0.5 + n**0.5)
    batches = planned(reader, labels=labels, balance=balance, batch_size=8)
    owners = [owner for epoch in range(150) for owner, _ in drawn(batches, epoch)]
    assert len(owners) == 150 * 8 * -(-(n + rare) // 8)
    assert np.mean(np.array(owners) == 7) == pytest.approx(share, abs=0.04)


def test_balance_counts_segments_not_recordings():
    """One recording of each of two species, of 19 segments and of 1: both are drawn as often."""

    class Uneven:
        segment_frames, shape, frames_left = 10, (2,), np.array([190, 10])

        def read(self, recordings, starts):
            return np.zeros((len(recordings), 10, 2), np.uint8)

    train = Train(batch_size=10, random_windows=False, balance=1.0)
    batches = Batches(Uneven(), np.arange(2), np.arange(2), np.eye(2, dtype=np.float32), train)
    found = np.concatenate([targets for epoch in range(100) for _, targets in batches.epoch(epoch)])
    np.testing.assert_allclose(found.mean(axis=0), 0.5, atol=0.04)
