"""Matplotlib as every picture of the project uses it; loaded only where one is drawn, as that takes a second."""

from typing import Any


def open_pyplot() -> Any:
    """Return `matplotlib.pyplot` for files rather than windows, with names as they are: a $ begins no formula."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["text.parse_math"] = False
    from matplotlib import pyplot

    return pyplot
