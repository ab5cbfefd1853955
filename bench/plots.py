"""Plots of what the benchmarks measured, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # into files, wherever there is no screen

from matplotlib import pyplot


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes: label, in the legend; x, y, its points; style, as matplotlib takes it.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "o-"


def draw(
    file: Path,
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    x_is_logarithmic: bool = False,
    mark: tuple[float, str] | None = None,
) -> None:
    """Draws lines into a PNG file; y begins at 0. mark: an x at which a vertical line stands, and its label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for line in lines:
        axes.plot(line.x, line.y, line.style, label=line.label, markersize=4)
    if mark is not None:
        axes.axvline(mark[0], color="grey", linestyle="--", label=mark[1])
    if x_is_logarithmic:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
