"""What environment.py does to a script."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT


@pytest.mark.slow
def test_keras_comes_without_what_is_not_used():
    """Starting is a third faster without them, and who wants them later gets them."""
    script = (
        "import environment, sys, keras\n"
        "assert not {'jax', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "import jax, matplotlib.pyplot, pandas, sklearn.metrics\n"
        "print(keras.ops.convert_to_numpy(keras.ops.ones(2)).sum(), sklearn.metrics.accuracy_score([1], [1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.stdout == "2.0 1.0\n", done.stderr
