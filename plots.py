"""What the figures of several studies share: colours, panels, lines of a neuron, the octant of h_∞.

Matplotlib is imported where a figure begins, so that processes that draw nothing need not load it.
"""

import numpy as np

from minibias import unit

# Okabe and Ito's palette, which the colour-blind can tell apart, and a mark for each as a second cue
COLOURS = {"gd": "#000000", "adagrad": "#D55E00", "rmsprop": "#0072B2", "adam": "#009E73"}
SPARE = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
NAMES = {"gd": "GD", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
FAR = r"$\log 1/L$"  # what most panels have across
EAST, NORTH = np.array([-1, 1, 0]) / np.sqrt(2), np.array([-1, -1, 2]) / np.sqrt(6)  # seen along (1, 1, 1)


def new_figure(width, height):
    """An empty matplotlib Figure of so many inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def groups(results, key):
    """The results by what they have under `key`: a dict of lists, in order of appearance."""
    values = dict.fromkeys(r[key] for r in results)
    return {value: [r for r in results if r[key] == value] for value in values}


def colour(optimizer):
    """The optimizer's colour: its own, or for a new conditioner one of the palette's others."""
    return COLOURS.get(optimizer) or SPARE[sum(optimizer.encode()) % len(SPARE)]


def named(optimizer):
    return NAMES.get(optimizer, optimizer)


def entry(label, **style):
    """A line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def name_above(figure, optimizers, *more):
    """A legend of the optimizers' colours and of `more` keys above all panels."""
    keys = [*(entry(named(o), color=colour(o), lw=2) for o in optimizers), *more]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)


def panel(axes, xlabel, ylabel, title=None, **more):
    """What stands at a panel's edges, and a grid."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, **more)
    axes.grid(color="0.92")


def points(axes, x, y):
    """Two classes in the plane."""
    for label, mark, face in ((1, "s", "0.35"), (-1, "o", "none")):
        axes.plot(*x[y == label].T, mark, ms=3.5, mec="0.35", mfc=face, mew=0.8, label=f"y = {label:+d}")


def globe(axes):
    """The edges of the positive octant, seen along (1, 1, 1)."""
    arc = np.linspace(0, np.pi / 2, 50)
    for k in range(3):
        edge = np.zeros((50, 3))
        edge[:, k], edge[:, (k + 1) % 3] = np.cos(arc), np.sin(arc)
        axes.plot(edge @ EAST, edge @ NORTH, color="0.6", lw=1)
        corner = 1.13 * np.eye(3)[k]
        axes.text(corner @ EAST, corner @ NORTH, f"$h_{k + 1}$", ha="center", va="center", color="0.3")
    axes.set(aspect="equal", xlim=(-1, 1), ylim=(-0.68, 1.05))
    axes.axis("off")


def normal(w):
    """The normal of the line by which a neuron w (..., 3) decides, towards y = 1: (..., 2)."""
    return np.sign(w[..., 2:]) * w[..., :2]


def angle_of(n, middle):
    """The angle in degrees of n (..., 2), within 180 of that of `middle` (2,): (...)."""
    middle = np.arctan2(*middle[::-1])
    turned = (np.arctan2(n[..., 1], n[..., 0]) - middle + np.pi) % (2 * np.pi) - np.pi
    return np.degrees(middle + turned)


def decision_line(w, reach):
    """The line through 0 by which a neuron w (3,) decides, both ways as far as `reach`: its x and its y."""
    n = unit(w[:2])
    return reach * np.array([[n[1], -n[1]], [-n[0], n[0]]])
