"""Print a configuration with the options of its parts, or single facts of it for the shell scripts.

python config --config config/demo.toml             # the whole, as TOML
python config --get corpus_dir run_dir              # one per line
"""

if not __package__:  # run as a folder: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse

from config import to_toml
from config.commandline import add_config_arguments, load_config, run


def main() -> None:
    """Print the configuration that the given options resolve to."""
    parser = argparse.ArgumentParser(prog="python config", description=main.__doc__)
    add_config_arguments(parser)
    facts = ("corpus_dir", "run_dir")
    parser.add_argument("--get", nargs="+", choices=facts, metavar="FACT", help=f"any of: {', '.join(facts)}")
    args = parser.parse_args()
    config = load_config(args)
    if not args.get:
        from train.trainModel import resolve  # networks are asked for their options, which takes Keras

        print(to_toml(resolve(config)), end="")
        return
    for fact in args.get:
        print(getattr(config, fact))


if __name__ == "__main__":
    run(main)
