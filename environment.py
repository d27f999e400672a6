"""Makes every script of the project run in the project's own environment, whichever Python started it.

Imported first by each runnable file: goes on with .venv's Python when another one was used, so that
`python train/generateImages.py` works without activating anything.
"""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("BIRDSONG_VENV", PROJECT / ".venv"))


def enter() -> None:
    """Replace this process by the same command under the environment's Python, unless it already is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2: TensorFlow prints errors only
    python = VENV / "bin" / "python"
    if Path(sys.prefix).resolve() == VENV.resolve() or os.environ.get("BIRDSONG_ANY_PYTHON"):
        return
    if not python.exists():
        sys.exit(f"error: there is no environment in {VENV} yet. Make it with: bash {PROJECT / 'environment.sh'}")
    os.execv(python, [str(python), *sys.orig_argv[1:]])  # noqa: S606


enter()
