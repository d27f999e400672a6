"""When and where species are active: counts per site, day and hour, and a heat map."""

import datetime
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from predict.detections import Result
from predict.formats import Facts, open_csv, plain_text
from preprocess.plots import open_pyplot
from preprocess.whole import whole_file

MOST_DRAWN = 15  # species, those with the most detections
HOURS = 24
Slot = tuple[str, str, int]  # site, date, hour


def activity(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write a folder with counts per site, day and hour (CSV) and a heat map (PNG).

    Times come from the metadata or the names of recorders' files; recordings without a date and a time are counted
    under an empty date and hour -1. Minutes are those recorded in the hour, so that a silent hour is told from one that
    was not recorded; a line without a species says that nothing was detected. A detection counts in every hour that it
    touches.
    """
    minutes: Counter[Slot] = Counter()
    detections: Counter[tuple[Slot, int]] = Counter()
    for result in results:
        start = clock(result.recording.date, result.recording.time)
        site = result.recording.locality
        for slot, seconds in hours_of(site, start, result.recording.duration):
            minutes[slot] += seconds / 60
        for found in result.detections:
            end = min(found.end, result.recording.duration)  # the last segment may be filled up
            for slot, _ in hours_of(site, start, max(end, found.start + 1e-3), found.start):
                detections[slot, found.species] += 1
    path.mkdir(parents=True, exist_ok=True)
    _write(path / "activity.csv", minutes, detections, facts)
    _draw(path / "activity.png", minutes, detections, facts)


def clock(date: str, time: str) -> datetime.datetime | None:
    """Return when a recording begins, None if day or time are not known."""
    try:
        return datetime.datetime.fromisoformat(f"{date}T{time}")
    except ValueError:
        return None


def slot_of(site: str, start: datetime.datetime | None, seconds: float) -> Slot:
    """Return the site, day and hour of a moment in a recording."""
    if start is None:
        return site, "", -1
    moment = start + datetime.timedelta(seconds=seconds)
    return site, moment.date().isoformat(), moment.hour


def hours_of(site: str, start: datetime.datetime | None, end: float, begin: float = 0.0) -> list[tuple[Slot, float]]:
    """Return the hours that a recording touches between two times in seconds, with the seconds in each."""
    if start is None:
        return [(slot_of(site, None, 0), end - begin)]
    found, at = [], begin
    while at < end:
        moment = start + datetime.timedelta(seconds=at)
        into = moment.minute * 60 + moment.second + moment.microsecond / 1e6
        step = min(3600 - into, end - at)
        found.append((slot_of(site, start, at), step))
        at += max(step, 1e-3)
    return found


def _write(path: Path, minutes: Counter, detections: Counter, facts: Facts) -> None:
    by_slot: dict[Slot, list[tuple[int, int]]] = {slot: [] for slot in minutes}
    for (slot, species), count in detections.items():
        by_slot.setdefault(slot, []).append((species, count))
    with open_csv(path) as writer:
        names = ("class_id", "scientific_name", "vernacular_name", "detections")
        writer.writerow(("site", "date", "hour", "minutes", *names))
        for slot in sorted(by_slot):
            shown = (plain_text(slot[0]), *slot[1:], f"{minutes[slot]:.2f}")
            for species, count in sorted(by_slot[slot], key=lambda item: (-item[1], item[0])):
                kind = facts.species[species]
                names = map(plain_text, (kind.scientific_name, kind.vernacular_name))
                writer.writerow((*shown, kind.class_id, *names, count))
            if not by_slot[slot]:
                writer.writerow((*shown, "", "", "", 0))


def _draw(path: Path, minutes: Counter, detections: Counter, facts: Facts) -> None:
    """Draw detections per recorded hour: species over the hours of the day, and all species over days and hours."""
    pyplot = open_pyplot()

    timed = {slot: value for slot, value in minutes.items() if slot[2] >= 0}
    days = sorted({slot[1] for slot in (*timed, *(slot for slot, _ in detections)) if slot[2] >= 0})
    totals: Counter[int] = Counter()
    for (_, species), count in detections.items():
        totals[species] += count
    chosen = [species for species, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:MOST_DRAWN]]
    effort, by_hour = np.zeros(HOURS), np.zeros((max(1, len(chosen)), HOURS))
    by_day, day_effort = (np.zeros((max(1, len(days)), HOURS)) for _ in range(2))
    for (_, date, hour), value in timed.items():
        effort[hour] += value / 60
        day_effort[days.index(date), hour] += value / 60
    for ((_, date, hour), species), count in detections.items():
        if hour >= 0:
            by_day[days.index(date), hour] += count
            if species in chosen:
                by_hour[chosen.index(species), hour] += count
    figure, axes = pyplot.subplots(
        2,
        1,
        figsize=(9, 3.2 + 0.25 * len(by_hour) + 0.12 * min(len(days), 60)),
        height_ratios=(len(by_hour) + 2, min(len(days), 60) / 2 + 2),
        layout="constrained",
    )
    for axis, counts, hours, title in (
        (axes[0], by_hour, np.broadcast_to(effort, by_hour.shape), "Detections of a species over the day"),
        (axes[1], by_day, day_effort, "Detections of all species, day by day"),
    ):
        rate = np.divide(counts, hours, out=np.full(counts.shape, np.nan), where=hours > 0)
        colours = pyplot.get_cmap("viridis").with_extremes(bad="0.9")
        image = axis.imshow(rate, aspect="auto", interpolation="nearest", cmap=colours, vmin=0)
        axis.set(title=title, xlabel="hour of the day", xticks=range(0, HOURS, 2))
        figure.colorbar(image, ax=axis, label="per hour recorded")
    axes[0].set_yticks(range(len(chosen)), [facts.name(species) for species in chosen], fontsize=8)
    step = max(1, -(-len(days) // 20))
    axes[1].set_yticks(range(0, len(days), step), days[::step], fontsize=8)
    untimed = sum(value for slot, value in minutes.items() if slot[2] < 0)
    note = "Grey: not recorded."
    if untimed:
        note += f" {untimed:.1f} minutes without a date and a time are not shown."
    figure.supxlabel(note, fontsize=8)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
