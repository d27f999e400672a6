"""The report: one page that needs nothing else, shows the figures of the evaluation, and escapes all names."""

import base64
import csv
import dataclasses
import html
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from config import PipelineError
from predict import makeReport
from predict.evaluate import TITLES, evaluate
from predict.predict import predict
from predict.runfile import compare, read_run_file
from predict.scores import load_run
from predict.thresholds import samples_of_run
from preprocess.loadData import features_folder
from preprocess.metadata import read_truth
from preprocess.recordings import Recording, read_table
from preprocess.segments import SegmentReader, open_shards
from tests.pages import StrictPage
from tests.predict.conftest import NAMES
from train.hardware_log import read_hardware_log
from train.run import Run

pytestmark = pytest.mark.slow

RESOURCES = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}


class Page(StrictPage):
    """With the pictures."""

    def images(self) -> list[tuple[str, Image.Image]]:
        """Return text and pixels of all pictures."""
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, _, data = attributes["src"].partition(",")
                assert kind == "data:image/png;base64"
                picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
                picture.load()
                found.append((attributes["alt"], picture))
        return found


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project whose predictions lie in a folder of the test."""
    monkeypatch.setattr(makeReport, "PREDICTIONS", tmp_path / "predict")
    (tmp_path / "predict").mkdir()
    return tmp_path


@pytest.fixture
def run(run_of_birds, tmp_path) -> Run:
    """A copy of the run, to write into."""
    shutil.copytree(run_of_birds.folder, tmp_path / "runs" / "birds")
    return Run(tmp_path / "runs" / "birds")


@pytest.fixture(scope="module")
def predictions(run_of_birds, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("predictions") / "birds.csv"
    return predict([run_of_birds], [], path)[0].read_text()


def put(project: Path, run: Run, predictions: str) -> None:
    """Let the run have predicted this for the test part."""
    path = project / "predict" / "birds.csv"
    path.write_text(predictions)
    run.note_prediction(path, run.read_config().train.monitor)


def report(run: Run) -> Page:
    path = makeReport.make_report(run)
    assert path == run.folder / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not list(run.folder.glob("*.part"))
    return Page(text)


def row(page: Page, name: str) -> list[str]:
    (found,) = [cells for cells in page.rows if cells and cells[0] == name]
    return found[1:]


def figures(result: dict) -> list[str]:
    return [f"{result[name]['value']:.3f}" for name in TITLES]


# With a truth


@pytest.fixture
def page(project, run, predictions) -> Page:
    put(project, run, predictions)
    return report(run)


def test_the_page_needs_nothing_else(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "video", "audio")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in RESOURCES or value.startswith("data:"), (tag, name, value[:80])
            assert "url(" not in (value or "")


def test_the_style_refers_to_nothing(page, run):
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html><html")
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    (style,) = re.findall(r"<style>(.*?)</style>", without_pictures, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", without_pictures.replace(html.escape(run.read_config().data.folder), ""))


def test_figures_are_those_of_the_evaluation(page, project, trained):
    truth = read_truth(trained.corpus_dir / "truth.csv")
    result = evaluate(compare(read_run_file(project / "predict" / "birds.csv"), truth))
    assert row(page, "network") == figures(result)
    assert row(page, "chance") == [f"{result['chance'][name]:.3f}" for name in TITLES]
    assert "On 3 test recordings" in page.text
    for name in ("map_main", "map_background", "top1", "top5"):
        low, high = result[name]["interval"]
        words = f"95 % interval {low:.3f} to {high:.3f}, chance {result['chance'][name]:.3f}"
        assert words in page.text
    assert page.rows[0] == ["", *TITLES.values()]


def test_wrong_predictions_show_in_the_figures_and_the_confusions(project, run, trained):
    """The page follows the file: recording 112 is aaaaaa and is taken for bbbbbb, the others are right."""
    put(project, run, "112;bbbbbb;0.6\n112;aaaaaa;0.3\n112;cccccc;0.1\n113;bbbbbb;0.9\n114;cccccc;0.8\n")
    page = report(run)
    assert row(page, "network")[0] == f"{(1 / 2 + 1 + 1) / 3:.3f}"
    assert row(page, "network")[2] == f"{2 / 3:.3f}"
    names = {
        class_id: f"{vernacular} (Genus {own})"
        for (class_id, vernacular), own in zip(NAMES.items(), ("alpha", "beta", "gamma"), strict=True)
    }
    assert [names["aaaaaa"], names["bbbbbb"], "1"] in page.rows
    by_species = {cells[0]: cells[1:] for cells in page.rows if len(cells) == 7}
    class_of = {
        entry.media_id: entry.class_id for entry in read_table(trained.corpus_dir / "recordings.csv", Recording)
    }
    trained_on = Counter(class_of[media_id] for media_id, side in run.read_split().items() if side == "train")
    assert trained_on.total() < 12  # the others were held back
    assert by_species[names["aaaaaa"]] == [str(trained_on["aaaaaa"]), "1", "1.000", "0.500", "0.000", names["bbbbbb"]]
    assert by_species[names["cccccc"]] == [str(trained_on["cccccc"]), "1", "1.000", "1.000", "1.000", ""]


def test_a_recording_without_prediction_is_taken_for_no_species(project, run):
    """113 is missing: it counts 0, but nobody took it for another species."""
    put(project, run, "112;aaaaaa;0.6\n112;bbbbbb;0.3\n114;cccccc;0.8\n")
    page = report(run)
    assert row(page, "network")[0] == f"{2 / 3:.3f}"
    by_species = {cells[0].split(" (")[0]: cells[1:] for cells in page.rows if len(cells) == 7}
    assert by_species[NAMES["bbbbbb"]][4] == "0.000"
    assert by_species[NAMES["bbbbbb"]][5] == ""
    assert "There are none." in page.text


def test_the_linear_baseline_is_shown_where_there_is_one(project, run, predictions):
    put(project, run, predictions)
    (project / "predict" / "birds-linear.csv").write_text("112;cccccc;1\n113;bbbbbb;1\n114;cccccc;1\n")
    page = report(run)
    assert row(page, "linear classifier on mean spectra")[2] == f"{2 / 3:.3f}"


# Names


def test_names_are_escaped(page, run):
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    for name in NAMES.values():
        assert name in page.text
        assert html.escape(name) in text


def test_names_from_anywhere_are_escaped(project, run, tmp_path):
    """The names of a run, of its species and of its corpus, and the reasons of rejects."""
    table = run.folder / "classes.csv"
    table.write_text(table.read_text().replace("Genus alpha", "<img src=x onerror=alert(1)>"))
    config = run.read_config()
    corpus = tmp_path / "data" / "small"
    shutil.copytree(config.corpus_dir, corpus)
    rejects = corpus / "rejected.csv"
    rejects.write_text(rejects.read_text() + "file,fetch,<b>reason</b>,\n")
    run_toml = run.folder / "config.toml"
    run_toml.write_text(run_toml.read_text().replace(config.data.folder, str(tmp_path / "data")))
    odd = Run(run.folder.with_name("a<i>&b"))
    run.folder.rename(odd.folder)
    page = report(odd)
    assert {tag for tag, _ in page.tags} & {"i", "script"} == set()
    assert "<b>reason</b>" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "a<i>&b: alexnet on small" in page.text
    assert all(attributes["src"].startswith("data:") for tag, attributes in page.tags if tag == "img")


# The rest of the page


def test_corpus_pictures_and_cost(page, run, trained):
    recordings = read_table(trained.corpus_dir / "recordings.csv", Recording)
    lengths = [entry.duration for entry in recordings]
    sides = Counter(run.read_split().values())
    assert sum(sides.values()) == 12
    counts = f"{sides['validation']} for validation, {sides['holdout']} for holdout and 3 for the test, 3 species"
    assert f"{sides['train']} recordings for training, {counts}" in page.text
    assert f"length from {min(lengths):.1f} to {max(lengths):.1f} s, median {np.median(lengths):.1f} s" in page.text
    assert ["44,100 Hz", "15"] in page.rows
    assert ["fetch", "no_metadata", "1"] in page.rows
    metrics = run.read_metrics()
    assert f"with the weights of epoch {metrics['best_epoch']} (best val_map)" in page.text
    held = metrics["holdout"]
    assert f"Holdout: MAP {held['holdout_map']:.3f} over {held['recordings']} recordings" in page.text
    assert f"for {metrics['epochs']} epochs" in page.text
    assert "learning_rate = 0.001" in page.text
    pictures = page.images()
    shots = [picture for words, picture in pictures if words.startswith("Spectrogram")]
    assert [picture.size for picture in shots] == [(310, 404)] * 3
    assert len(pictures) == 3 + 4  # lengths, curves, machine, confusions
    assert all(words for words, _ in pictures)
    assert Image.open(run.folder / "learning_curves.png").size[0] > 300


def test_stages_are_summed(project, run, trained, tmp_path):
    """Those of this run, and the earlier ones that all runs of the corpus share."""
    corpus = tmp_path / "data" / "small"
    shutil.copytree(trained.corpus_dir, corpus)
    with (corpus / "stages.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["2026-01-01T00:00:00", 1, "fetch", 5, "another"],
                ["2026-01-01T00:00:00", 4, "train", 100, "another"],
                ["2026-01-01T00:00:00", 4, "train", 30, "birds"],
                ["2026-01-01T00:00:00", 4, "train", 12, "birds"],
                ["half a line"],
            ]
        )
    config = run.folder / "config.toml"
    config.write_text(config.read_text().replace(trained.data.folder, str(tmp_path / "data")))
    page = report(run)
    assert ["1 fetch", "5"] in page.rows
    assert ["4 train", "42"] in page.rows


# Without a truth


def test_without_predictions_the_validation_recordings_are_scored(project, run):
    """Computed here from single segments."""
    page = report(run)
    config, model, _ = load_run(run)
    features = config.features
    reader = SegmentReader(
        open_shards(features_folder(config), "train"), features.segment_frames, features.mask, features.drop_columns
    )
    rows = {entry.media_id: entry for entry in read_table(config.corpus_dir / "recordings.csv", Recording)}
    predicted, truth = {}, {}
    sides = run.read_split()
    for i, media_id in enumerate(reader.media_id):
        if sides[media_id] == "validation":
            logits = [model.predict_on_batch(reader.read([i], [s]))[0] for s in reader.segment_starts(i)]
            powers = np.exp(np.array(logits, np.float64))
            scores = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
            predicted[media_id] = dict(zip(("aaaaaa", "bbbbbb", "cccccc"), scores.tolist(), strict=True))
            truth[media_id] = rows[media_id].class_id, rows[media_id].background_ids
    assert f"On {len(truth)} validation recordings" in page.text
    assert row(page, "network") == figures(evaluate(compare(predicted, truth)))
    assert row(page, "network")[0] == f"{run.read_metrics()['validation']['val_map']:.3f}"


def test_a_run_file_of_other_weights_is_not_taken_for_the_runs(project, run, predictions):
    """One that another command overwrote, and one from before the training went on."""
    path = project / "predict" / "birds.csv"
    put(project, run, predictions)
    assert "On 3 test recordings" in report(run).text
    path.write_text(predictions + "115;aaaaaa;1\n")
    assert "birds.csv is not by these weights and settings" in report(run).text
    put(project, run, predictions)
    weights = run.find_weights(run.read_config().train.monitor)
    with h5py.File(weights, "r+") as file:
        file.attrs["note"] = "trained on"
    (run.folder / "predicted.json").write_bytes((run.folder / "predicted.json").read_bytes())
    assert not run.has_predicted(path, run.read_config().train.monitor)


def changed_corpus(run: Run, trained, folder: Path, file: str, old: str, new: str) -> None:
    """Let the run refer to a copy of its corpus in which a file of stage 1 is another one."""
    corpus = folder / "data" / "small"
    shutil.copytree(trained.corpus_dir, corpus)
    (corpus / file).write_text((corpus / file).read_text().replace(old, new))
    if file == "classes.csv":
        changed = (corpus / "recordings.csv").read_text().replace(old, new)
        (corpus / "recordings.csv").write_text(changed)
    config = run.folder / "config.toml"
    config.write_text(config.read_text().replace(trained.data.folder, str(folder / "data")))


def test_renamed_species_are_not_scored(project, run, trained, predictions, tmp_path, capsys):
    """The outputs of the network would be taken for others; what was predicted before is shown with a warning."""
    changed_corpus(run, trained, tmp_path, "classes.csv", "aaaaaa", "zzzzzz")
    for score in (makeReport.gather, samples_of_run):
        with pytest.raises(PipelineError, match=r"species of .*small have changed since .*birds was started"):
            score(run)
    put(project, run, predictions)
    makeReport.gather(run)
    assert re.search("warning: The species of .*small have changed", capsys.readouterr().out)


def test_features_of_other_recordings_are_not_scored(project, run, trained, tmp_path):
    changed_corpus(run, trained, tmp_path, "recordings.csv", "", "")
    stamp = json.loads((run.folder / "features.json").read_text())
    (run.folder / "features.json").write_text(json.dumps(stamp | {"fingerprint": "another"}))
    for score in (makeReport.gather, samples_of_run):
        with pytest.raises(PipelineError, match=r"recordings or features have changed since .*birds was started"):
            score(run)


def test_a_run_that_held_nothing_back(project, run):
    text = (run.folder / "split.csv").read_text().replace("validation", "unused").replace("holdout", "unused")
    (run.folder / "split.csv").write_text(text)
    with pytest.raises(PipelineError, match="held no recording back"):
        makeReport.gather(run)


def test_a_corpus_without_a_truth_uses_the_validation_too(project, run, trained, predictions, tmp_path):
    put(project, run, predictions)
    corpus = tmp_path / "data" / "small"
    shutil.copytree(trained.corpus_dir, corpus)
    (corpus / "truth.csv").unlink()
    (corpus / "rejected.csv").unlink()
    config = run.folder / "config.toml"
    config.write_text(config.read_text().replace(trained.data.folder, str(tmp_path / "data")))
    page = report(run)
    assert "validation recordings (there is no test part with a known truth)" in page.text
    assert "No file was rejected." in page.text


def test_the_most_wrong_recordings_come_first_with_their_scores(project, run, trained):
    """By hand: 113 is wrong by 0.75, 112 by 0.2, 114 is right; the second is not listed with its own species."""
    put(
        project,
        run,
        "112;bbbbbb;0.5\n112;aaaaaa;0.3\n112;cccccc;0.2\n113;cccccc;0.75\n113;aaaaaa;0.25\n114;cccccc;0.9\n",
    )
    section = Page(makeReport.section_mistakes(makeReport.gather(run)))
    assert "2 of 3 test recordings have another species first" in section.text
    first, second = section.text.index("113"), section.text.index("112")
    assert first < second
    assert "(not listed) was taken for Rotkehlchen, gelbes (Genus gamma) (0.75)" in section.text[first:second]
    assert '(0.30, place 2) was taken for Tom & "Jerry" (Genus beta) (0.50)' in section.text[second:]
    assert "114" not in section.text
    assert len(section.images()) == 2


def test_without_mistakes_there_is_none_to_show(project, run, predictions):
    put(project, run, predictions)
    assert makeReport.section_mistakes(makeReport.gather(run)) == "<p>The species of every recording came first.</p>"


def test_the_loudest_segment_is_found(run):
    view, _ = makeReport.open_views(run.read_config(), "test")
    for i in range(len(view)):
        starts = view.segment_starts(i)
        level = [view.read([i], [start]).astype(float).mean() for start in starts]
        assert makeReport.loudest_segment(view, i) == starts[int(np.argmax(level))]


def test_a_history_with_nan_is_drawn(project, run, predictions):
    put(project, run, predictions)
    history = run.read_history()
    diverged = [entry | {"val_loss": float("nan")} for entry in history]
    with (run.folder / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, history[0])
        writer.writeheader()
        writer.writerows(diverged)
    assert any("Loss" in words for words, _ in report(run).images())


def test_epochs_are_whole_numbers():
    figures = ("loss", "val_loss", "acc", "val_acc", "val_map", "val_map_background", "val_top1")
    history = [{"epoch": epoch, **dict.fromkeys(figures, 1 / epoch)} for epoch in range(1, 13)]
    for count in (1, 2, 12):
        for axis in makeReport.learning_curves(history[:count]).axes:
            assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_facts_name_species_by_what_is_known(run, project):
    facts = makeReport.gather(run)
    plain = [dataclasses.replace(kind, vernacular_name="") for kind in facts.species]
    assert facts.name("bbbbbb") == "Tom &amp; &quot;Jerry&quot; (Genus beta)"
    assert dataclasses.replace(facts, species=plain).name("bbbbbb") == "Genus beta"
    assert facts.name("zz<zz") == "zz&lt;zz"


# The machine

GPU_LOG = """time,device,use_percent,memory_mb,memory_total_mb,temperature_c
2026-05-01T10:00:00.000,cpu,40,2048,8192,
2026-05-01T10:00:00.000,gpu0,90,1024,16384,61
2026-05-01T10:00:06.000,cpu,60,4096,8192,
2026-05-01T10:00:06.000,gpu0,70,3072,16384,67
2026-05-01T10:02:06.000,cpu,50,5120,8192,
2026-05-01T10:02:06.000,gpu0,80,2048,16384,64
"""


def test_the_use_of_the_machine_is_drawn_where_it_was_kept(project, run):
    (run.folder / "hardware.csv").write_text(GPU_LOG)
    assert "Use, memory and temperature of the devices over time" in dict(report(run).images())
    (run.folder / "hardware.csv").unlink()
    page = report(run)
    assert "Use of the machine" not in page.text
    waiting = [100 * row["waiting_share"] for row in run.read_history()]
    assert f"{np.mean(waiting):.1f} % on average, {max(waiting):.1f} % in the worst epoch" in page.text


def test_the_curves_of_the_machine(tmp_path):
    """A pause of two minutes is drawn as a second; long logs are averaged."""
    (tmp_path / "hardware.csv").write_text(GPU_LOG)
    figure = makeReport.hardware_curves(read_hardware_log(tmp_path / "hardware.csv"))
    use, memory, temperature = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in use.get_lines()}
    assert lines == {
        "all cores": [[0, 40], [6 / 60, 60], [7 / 60, 50]],
        "gpu0": [[0, 90], [6 / 60, 70], [7 / 60, 80]],
    }
    assert [line.get_ydata().tolist() for line in memory.get_lines()] == [[2, 4, 5], [1, 3, 2]]
    assert [line.get_ydata().tolist() for line in temperature.get_lines()] == [[61, 67, 64]]
    rows = [
        {"seconds": float(i), "use_percent": i % 2 * 100.0, "memory_mb": 1024.0, "temperature_c": np.nan}
        for i in range(6000)
    ]
    figure = makeReport.hardware_curves({"cpu": rows})
    assert len(figure.axes) == 2
    (line,) = figure.axes[0].get_lines()
    assert len(line.get_xdata()) == makeReport.MAX_POINTS
    np.testing.assert_allclose(line.get_ydata(), 50)
