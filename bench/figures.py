"""The figures that the bench alone draws, in the reports' look."""

import numpy as np

from midas_lib.plots import BLUE, GREY, SMALL, label_ends, new_axes, note, styled, styles_of


@styled
def race(curves):
    """Test error in training, each run a line: {racer: [(seconds (looks,), errors (looks,)), ...]}.
    The racer's name stands at the end of its longest run; an error of 0 is drawn as 0.01 %."""
    ax = new_axes(4.4, "Seconds of training", "Test error", "log count", "log percent")
    for racer, style in styles_of(curves).items():
        style = style | {"linewidth": 1.2, "markersize": 4}
        for seconds, errors in sorted(curves[racer], key=lambda run: -run[0][-1]):
            ax.plot(seconds, np.maximum(errors, 1e-4), **style)
            style = style | {"label": "_again"}
    return label_ends(ax)


@styled
def shapes(operations, errors, names, efficient):
    """Error against operations a picture, a point a network; all (networks,). Those that are
    efficient are filled, joined by a line and named."""
    operations, errors, efficient = np.array(operations), np.array(errors), np.array(efficient)
    labels = "Million operations for one picture", "Error, images held out"
    ax = new_axes(4.6, *labels, x="log millions", y="log percent")
    order = np.flatnonzero(efficient)[np.argsort(operations[efficient])]
    ax.plot(operations[order], errors[order], color=BLUE, label="efficient")
    ax.plot(operations[~efficient], errors[~efficient], "o", color=GREY, mfc="white", label="other")
    for i, one in enumerate(order):  # above and below the line in turns, or names would overlap
        by, side = ((-6, -11), "right") if i % 2 else ((6, 5), "left")
        note(ax, names[one], (operations[one], errors[one]), by, ha=side, size=SMALL)
    ax.margins(x=0.15)
    return ax.figure
