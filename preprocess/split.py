"""Splits of the training part that keep what belongs together on one side."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from preprocess.recordings import Recording


def hold_back(recordings: Sequence[Recording], share: float, seed: int, group_by: str) -> set[str]:
    """Choose recordings to hold back, stratified by class, whole groups only.

    Groups are taken in a pseudo-random order that depends on the seed and their own name, not on the other
    groups, while they bring each class closer to its share. Every class keeps at least one recording.

    Args:
        recordings: labelled recordings.
        share: of each class, 0 to 1.
        seed: of the order.
        group_by: "observation" (same species, recordist and day) or "recordist".

    Returns:
        The media ids that are held back.
    """
    groups: dict[str, list[Recording]] = defaultdict(list)
    for row in recordings:
        key = row.group if group_by == "observation" else (row.author or row.group)
        groups[key].append(row)
    left = Counter(row.class_id for row in recordings)
    wanted, exact, given = {}, 0.0, 0
    for class_id in sorted(left):  # whole numbers whose sum stays within a half of the share of all
        exact += share * left[class_id]
        wanted[class_id] = math.floor(exact + 0.5) - given
        given += wanted[class_id]
    held: set[str] = set()
    for key in sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
        members = Counter(row.class_id for row in groups[key])
        useful = sum(min(count, max(0, wanted[c])) for c, count in members.items())
        if useful == 0 or useful * 2 < len(groups[key]) or any(left[c] <= count for c, count in members.items()):
            continue
        held.update(row.media_id for row in groups[key])
        for class_id, count in members.items():
            left[class_id] -= count
            wanted[class_id] -= count
    return held
