"""Networks, one module each, with one function: ``build(input_shape, classes, **options) -> keras.Model``.

The input is a float image [frequency, time, channels]; the output is one logit per class, float32. Options are
the function's keyword parameters with defaults.
"""

import importlib
import pkgutil
from collections.abc import Callable

from config import ConfigError, Model, bind


def open_network(model: Model) -> tuple[Callable, dict]:
    """Return the build function that the section [model] chooses and all its options.

    Raises:
        ConfigError: for an unknown network or option.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if model.network not in names:
        raise ConfigError(f"Unknown model.network. Received: {model.network!r}. Expected one of: {', '.join(names)}.")
    build = importlib.import_module(f"train.models.{model.network}").build
    return build, bind(build, model.options, "model")
