"""Networks, one module each, with one function: ``build(input_shape, classes, **options) -> keras.Model``.

The input is a float image [frequency, time, channels]; the output is one logit per class, float32. Options are
the function's keyword parameters with defaults.
"""

from collections.abc import Callable

from config import Model, open_part


def open_network(model: Model) -> tuple[Callable, dict]:
    """Return the build function that the section [model] chooses and all its options.

    Raises:
        ConfigError: for an unknown network or option.
    """
    return open_part(__name__, "build", "model.network", model.network, model.options)
