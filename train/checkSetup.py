#!/usr/bin/env python3
"""Stage 0: check that a configuration can be used, before any work, and say which hardware will do the work.

python train/checkSetup.py --config config/birdclef2016.toml
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import os
import shutil

from config import Config, PipelineError, from_project
from config.commandline import add_config_arguments, core_count, load_config, log, run
from preprocess.recipes import open_recipe
from preprocess.segments import hop_frames
from preprocess.sources import open_source
from preprocess.split import open_split


def check(config: Config) -> None:
    """Open every part that the configuration names, with its options.

    Raises:
        PipelineError: naming the key that is wrong, or the tool or right that is missing.
    """
    if shutil.which("sox") is None:
        raise PipelineError("sox is missing. Install it: sudo apt-get install sox libsox-fmt-all")
    open_source(config.data)
    open_split(config.train.split)
    recipe = open_recipe(config.features)
    for folder in (config.data.folder, config.train.folder):
        nearest = from_project(folder)
        while not nearest.exists():
            nearest = nearest.parent
        if not os.access(nearest, os.W_OK):
            raise PipelineError(f"Cannot write to {nearest}. Choose another place with data.folder and train.folder.")
    from train.batches import count_noisy
    from train.devices import data_parallel
    from train.losses import open_loss
    from train.mlflow_log import require_mlflow
    from train.network import build_model, build_trainer
    from train.run import Run
    from train.scored import read_teacher
    from train.start_weights import check_start
    from train.trainModel import hardware

    count_noisy(config.train)
    if config.predict.hop:
        hop_frames(config.predict.hop, recipe.frame_rate, config.features.segment_frames)
    if config.train.teacher:
        read_teacher(from_project(config.train.teacher))
    check_start(config.model, load=not Run(config.run_dir).has_state())
    require_mlflow(config)
    loss = open_loss(config.train.loss)
    with data_parallel(config):
        build_trainer(config, build_model(config, recipe.encoding, recipe.shape, 2), loss, 1)
    free = shutil.disk_usage(nearest).free
    log(f"training on {hardware()}; preprocessing on {core_count()} cores; {free / 1e9:.0f} GB of disk free")


def main() -> None:
    """Check a configuration and say which hardware will be used."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    check(load_config(parser.parse_args()))


if __name__ == "__main__":
    run(main)
