#!/usr/bin/env python3
"""Export a trained run for use without this project: TensorFlow SavedModel (Serving), ONNX, LiteRT.

python predict/exportModel.py --run runs/demo-residual                          # all three
python predict/exportModel.py --run runs/demo-residual --format onnx --output /srv/models/birds
saved_model_cli show --all --dir exports/demo-residual/savedmodel/1             # what it takes and gives

Each has up to two forms. `segments` takes what the store holds of a segment, float32 [batch, frames, bins(, channels)]
in the units of the recipe; `waveforms` takes sound, float32 [batch, samples] from -1 to 1 at the rate of the recipe,
and holds the front end and the mask. Both give scores, float32 [batch, species], in the order of classes.csv.

A waveform is scored as a recording of exactly that length. Every export is loaded again by its own runtime in another
process, and must agree with the run within 1e-4 on segments of the corpus, or it is removed. Beside it lie classes.csv,
thresholds.json, export.json (shapes, rate, units) and README.md, the model card.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from config import PROJECT, VERSION, Config, PipelineError
from config.commandline import log, run
from predict.scores import find_run, load_run
from predict.thresholds import read_thresholds
from preprocess.loadData import features_folder
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, read_table
from preprocess.resample import wav_folder, wav_name
from preprocess.segments import has_shards, open_shards, open_view
from train.metrics import without_nan
from train.run import Run, write_text

FORMATS = {"savedmodel": "savedmodel/1", "onnx": "{form}.onnx", "litert": "{form}.tflite"}
FACTS = ("classes.csv", "thresholds.json")  # of the run; the second where it has some
PARTS = ".export.part"  # where exports are made
TOLERANCE = 1e-4
EXAMPLES = 8  # segments that an export is checked on
SIGNATURES = ("segments", "waveforms")
FULL_SCALE = 32768


def segment_samples(config: Config) -> int:
    """Return how many samples hold exactly the frames of a segment."""
    recipe, frames = open_recipe(config.features), config.features.segment_frames
    if config.features.recipe == "waveform":
        return frames * recipe.hop
    return (frames - 1) * recipe.hop + (getattr(recipe, "window", 0) or recipe.n_fft)


def why_no_waveforms(config: Config) -> str:
    """Return what keeps a run from taking sound, or nothing."""
    features = config.features
    if features.recipe == "sprengel2016" and (features.mask or features.drop_columns):
        return "its frames are told into signal and noise over whole recordings"
    if features.recipe == "passau" and features.options.get("clean", "noisereduce") != "none":
        return "its sound is cleaned before, over whole recordings"
    if features.recipe == "waveform" and (features.options.get("trim") or features.options.get("peak")):
        return "its recordings are trimmed or scaled as a whole"
    return ""


def build(config: Config, model: Any, loss: Any) -> dict[str, Any]:
    """Return the models to export by form: segments, and where it is possible waveforms."""
    import keras
    from keras import ops

    from train.frontend import FrontEnd, StoredView

    standardise, network = model.get_layer("standardise"), model.layers[-1]

    def scores(values: Any) -> Any:
        found = loss.scores(network(standardise(values)))
        return found[..., :-1] if loss.noise_class else found

    values = keras.Input(standardise.input.shape[1:], dtype="float32", name="segments")
    forms = {"segments": keras.Model(values, scores(values), name="segments")}
    if not why_no_waveforms(config):
        recipe = open_recipe(config.features)
        sound = keras.Input((segment_samples(config),), dtype="float32", name="waveforms")
        if config.features.recipe == "waveform":
            rounded = ops.clip(ops.round(sound * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1) / FULL_SCALE
            made = FrontEnd(model.get_layer("frontend").recipe, portable=True)(rounded)
        else:
            made = StoredView(recipe, config.features)(FrontEnd(recipe, portable=True)(sound))
        forms["waveforms"] = keras.Model(sound, scores(made), name="waveforms")
    return forms


def find_examples(config: Config, forms: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return inputs to check an export on, by form: from the corpus, or noise where that or its features have gone."""
    rng = np.random.default_rng(0)
    shape = forms["segments"].input_shape[1:]
    examples = {"segments": rng.normal(0, 1, (EXAMPLES, *shape)).astype(np.float32)}
    samples = segment_samples(config)
    examples["waveforms"] = (rng.normal(0, 0.1, (EXAMPLES, samples))).clip(-1, 1).astype(np.float32)
    manifest = config.corpus_dir / "recordings.csv"
    if not manifest.exists():
        return examples
    folder = wav_folder(config.corpus_dir, open_recipe(config.features).sample_rate)
    found = []
    for row in read_table(manifest, Recording):
        path = folder / wav_name(row.file)
        if len(found) < EXAMPLES and len(sound := wav_samples(path)) >= samples:
            found.append(np.array(sound[:samples], np.float32) / FULL_SCALE)
    examples["waveforms"][: len(found)] = found or examples["waveforms"][:0]
    if not has_shards(features_folder(config), "train"):
        return examples
    shards = open_shards(features_folder(config), "train")
    reader = open_view(shards, config.features)
    if reader.dtype != np.int16:
        encoding = reader.encoding
        chosen = np.arange(min(EXAMPLES, len(reader)))
        codes = reader.read(chosen, [0] * len(chosen)).astype(np.float32)
        examples["segments"][: len(chosen)] = codes * encoding.scale_factor + encoding.add_offset
    return examples


def wav_samples(path: Path) -> np.ndarray:
    """Return the samples of a 16-bit mono WAV, int16; none where there is none."""
    try:
        sound = wavfile.read(path, mmap=True)[1]
    except (OSError, ValueError):
        return np.empty(0, np.int16)
    return sound if sound.dtype == np.int16 and sound.ndim == 1 else np.empty(0, np.int16)


# Writing


def write_savedmodel(forms: dict[str, Any], folder: Path) -> None:
    """Write a SavedModel with a signature per form; the default one takes segments."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    for form, model in forms.items():
        archive.track(model)
        signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=form)]
        archive.add_endpoint(form, model, input_signature=signature)
    archive.write_out(str(folder), verbose=False)


def write_format(name: str, forms: dict[str, Any], folder: Path) -> list[Path]:
    """Write one format and return its files.

    Raises:
        PipelineError: if a package is missing.
    """
    try:
        if name == "savedmodel":
            path = folder / FORMATS[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_savedmodel(forms, path)
            return [path]
        paths = []
        for form, model in forms.items():
            path = folder / FORMATS[name].format(form=form)
            model.export(str(path), format=name, verbose=False)
            paths.append(path)
        return paths
    except ImportError as error:
        raise PipelineError(f"--format {name} needs a package that is not installed ({error}).") from None


# Checking, in a process without Keras


def score_by_runtime(name: str, path: Path, form: str, inputs: np.ndarray) -> np.ndarray:
    """Return the scores of an export by its own runtime."""
    if name == "savedmodel":
        import tensorflow as tf

        signature = tf.saved_model.load(str(path)).signatures[form]
        return next(iter(signature(**{form: tf.constant(inputs)}).values())).numpy()
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: inputs})[0]
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter

    interpreter = Interpreter(str(path))
    entry, exit_ = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for one in inputs:
        interpreter.resize_tensor_input(entry["index"], (1, *one.shape))
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], one[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(exit_["index"])[0].copy())
    return np.array(found)


def check(
    folder: Path, examples: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Load exports in another process and return their largest differences from the run, by format and form.

    Raises:
        PipelineError: if one cannot be loaded or differs by more than `TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as home:
        for form in expected:
            np.save(Path(home) / f"{form}.npy", examples[form])
        command = [sys.executable, __file__, "--check", str(folder), "--output", home]
        command += [word for name in names for word in ("--format", name)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=1800)
        differences = {}
        for name in names:
            files = {form: Path(home) / f"{name}-{form}.npy" for form in expected}
            problem = ""
            if not all(file.exists() for file in files.values()):
                problem = f"cannot be loaded: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
            else:
                scores = {form: np.load(file, allow_pickle=False) for form, file in files.items()}
                differences[name] = {form: float(np.abs(scores[form] - expected[form]).max()) for form in expected}
                worst = max(differences[name].values())
                if not worst <= TOLERANCE:
                    form = max(differences[name], key=differences[name].__getitem__)
                    problem = f"differs from the run by {worst:.2g} ({form})"
            if problem:
                others = "".join(f" --format {other}" for other in names if other != name)
                remedy = f" Without it:{others}" if others else ""
                raise PipelineError(f"The {name} export {problem}. Nothing was exported.{remedy}")
    return differences


def check_in_this_process(folder: Path, names: Sequence[str], home: Path) -> None:
    """Score the inputs in a folder by the runtimes of some formats."""
    for name in names:
        for form in SIGNATURES:
            inputs = home / f"{form}.npy"
            if inputs.exists():
                path = folder / FORMATS[name].format(form=form)
                scores = score_by_runtime(name, path, form, np.load(inputs, allow_pickle=False))
                np.save(home / f"{name}-{form}.npy", scores)


# The model card


def describe(
    target: Run, config: Config, forms: dict[str, Any], checked: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Return what export.json says."""
    recipe = open_recipe(config.features)
    return {
        "run": target.folder.name,
        "version": VERSION,
        "inputs": {form: [None, *model.input_shape[1:]] for form, model in forms.items()},
        "sample_rate": recipe.sample_rate,
        "samples": segment_samples(config),
        "seconds": segment_samples(config) / recipe.sample_rate,
        "units": recipe.units,
        "recipe": json.loads(target.read_stamp().recipe),
        "why_no_waveforms": why_no_waveforms(config) or None,
        "largest_difference_from_the_run": checked,
    }


def card(target: Run, config: Config, facts: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    metrics, species = target.read_metrics(), target.read_species()
    manifest = config.corpus_dir / "recordings.csv"
    rows = read_table(manifest, Recording) if manifest.exists() else []
    trained = target.trained_on(row.media_id for row in rows)
    own = [row for row in rows if row.media_id in trained]
    licences = sorted({row.licence or "unknown" for row in own})
    authors = len({row.author for row in own if row.author})
    validation = metrics["validation"]
    seconds, rate = facts["seconds"], facts["sample_rate"]
    data = "The corpus is not on this machine any more."
    if rows:
        data = f"{len(own)} training recordings of {config.data.source}, by {authors} recordists; licences: "
        data += f"{', '.join(licences)}."
    figures = (
        f"On {validation['recordings']} validation recordings: MAP {validation['val_map']:.3f}, "
        f"top-1 {validation['val_top1']:.3f}."
    )
    if "holdout" in metrics:
        held = metrics["holdout"]
        figures += (
            f" On {held['recordings']} recordings held back: MAP {held['holdout_map']:.3f}, "
            f"top-1 {held['holdout_top1']:.3f}."
        )
    lines = [
        f"# {target.folder.name}",
        "",
        f"A network ({config.model.network}) that ranks {len(species)} species in segments of {seconds:.2f} s of sound "
        f"at {rate:,} Hz. Scores lie between 0 and 1; they are probabilities only if thresholds.json calibrates them.",
        *("", "## Data", "", data),
        *("", "## Figures", "", figures),
        *("", "## Limits", ""),
        f"It knows these {len(species)} classes only and gives any other sound the most similar of them. Other "
        "microphones, places and seasons than those of the training recordings, and what lies above "
        f"{rate / 2000:g} kHz, it has not heard.",
        *("", "## Classes", "", "| id | scientific name | name |", "|---|---|---|"),
        *(f"| {kind.class_id} | {kind.scientific_name} | {kind.vernacular_name} |" for kind in species),
        "",
    ]
    return "\n".join(lines)


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders that are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def export(target: Run, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Write the exports of a run, check them, and return what export.json says.

    They are made in a folder of their own and take the place of what an earlier export left in it when all have passed;
    export.json comes last.

    Raises:
        PipelineError: if the run cannot be used, or an export is not equal to it; then the folder stays as it is.
    """
    config, model, loss = load_run(target)
    wanted = FACTS if read_thresholds(target) else FACTS[:1]
    forms = build(config, model, loss)
    if len(forms) == 1:
        log(f"warning: no form for waveforms: {why_no_waveforms(config)}")
    examples = find_examples(config, forms)
    expected = {form: np.asarray(one.predict(examples[form], verbose=0)) for form, one in forms.items()}
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder / PARTS
    remove([parts])
    parts.mkdir()
    try:
        paths = {name: write_format(name, forms, parts) for name in names}
        checked = check(parts, examples, expected, names)
        facts = describe(target, config, forms, checked)
        for name in wanted:
            shutil.copyfile(target.folder / name, parts / name)
        write_text(parts / "README.md", card(target, config, facts))
        earlier = {folder / path.format(form=form) for path in FORMATS.values() for form in SIGNATURES}
        remove([folder / "export.json", *(folder / name for name in FACTS), *earlier])
        made = [path for own in paths.values() for path in own]
        for source in (*made, *(parts / name for name in (*FACTS, "README.md"))):
            if source.exists():
                place = folder / source.relative_to(parts)
                place.parent.mkdir(exist_ok=True)
                source.rename(place)
    finally:
        remove([parts])
    write_text(folder / "export.json", json.dumps(without_nan(facts), indent=1))
    for name, differences in checked.items():
        words = ", ".join(str(folder / path.relative_to(parts)) for path in paths[name])
        log(f"{words}: loaded by its own runtime, differs from the run by {max(differences.values()):.1e} at most")
    return facts


def main() -> None:
    """Export a trained run as SavedModel, ONNX and LiteRT."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, help="run directory (default: the one finished last)")
    parser.add_argument("--format", choices=[*FORMATS], action="append", help="may be repeated (default: all)")
    parser.add_argument("--output", type=Path, help="folder (default: exports/<run>)")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)  # how the command calls itself
    args = parser.parse_args()
    if args.check:
        check_in_this_process(args.check, args.format, args.output)
        return
    target = find_run(args.run)
    folder = args.output or PROJECT / "exports" / target.folder.name
    export(target, folder, args.format or [*FORMATS])


if __name__ == "__main__":
    run(main)
