"""Makes every script of the project run in the project's own environment, whichever Python started it.

Imported first by each runnable file: goes on with .venv's Python when another one was used, so that
`python train/generateImages.py` works without activating anything.
"""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("BIRDSONG_VENV", PROJECT / ".venv"))


# Modules that import others for what the project does not use of them; these others take as long as all the rest.
_IDLE = {
    "tensorflow.lite.python.util": "jax",
    "keras.src.callbacks.orbax_checkpoint": "jax",
    "keras.src.trainers.data_adapters.array_slicing": "pandas",
    "keras.src.visualization.plot_bounding_box_gallery": "matplotlib",
    "keras.src.visualization.plot_image_gallery": "matplotlib",
    "keras.src.wrappers.fixes": "sklearn",
    "keras.src.wrappers.sklearn_wrapper": "sklearn",
}


class Later:
    """Tells a module of _IDLE, while it is imported, that the other is not installed; everybody else gets it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Find nothing; see importlib.abc.MetaPathFinder."""
        for importer, idle in _IDLE.items():
            module = sys.modules.get(importer) if name == idle else None
            if module is not None and getattr(module.__spec__, "_initializing", False):
                raise ModuleNotFoundError(f"{name} is not needed by {importer}", name=name)


def enter() -> None:
    """Replace this process by the same command under the environment's Python, unless it already is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2: TensorFlow prints errors only
    python = VENV / "bin" / "python"
    if Path(sys.prefix).resolve() == VENV.resolve() or os.environ.get("BIRDSONG_ANY_PYTHON"):
        return
    arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]  # the first: with Python's own, from 3.10
    try:
        os.execv(python, [str(python), *arguments])  # noqa: S606
    except FileNotFoundError:
        sys.exit(f"error: there is no environment in {VENV} yet. Make it with: bash {PROJECT / 'environment.sh'}")
    except OSError as error:
        sys.exit(f"error: cannot start {python}: {error.strerror}. Choose another environment: BIRDSONG_VENV=FOLDER")


def say_interrupted(kind: type, error: BaseException, trace: object) -> None:
    """Report what nobody caught: an interrupt, as while a command still imports, in one line; see sys.excepthook."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = say_interrupted
enter()
sys.meta_path.insert(0, Later)
