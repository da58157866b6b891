"""What the figures of several studies share: colours, panels, lines of a neuron, the octant of h_∞.

Matplotlib is imported where a figure begins, so that processes that draw nothing need not load it.
"""

from operator import itemgetter

import numpy as np

from minibias import unit
from models import MLP

# Okabe and Ito's palette, which the colour-blind can tell apart, and a mark for each as a second cue
COLOURS = {"gd": "#000000", "adagrad": "#D55E00", "rmsprop": "#0072B2", "adam": "#009E73"}
SPARE = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
NAMES = {"gd": "GD", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
MARKS = {"discrete": "o", "flow": "x", "limit": "+"}
WIDTHS = {"adam": 4.5, "rmsprop": 2.8, "gd": 1.0}  # of lines that end on each other, so that all are seen
FAR = r"$\log 1/L$"  # what most panels have across
EAST, NORTH = np.array([-1, 1, 0]) / np.sqrt(2), np.array([-1, -1, 2]) / np.sqrt(6)  # seen along (1, 1, 1)


def new_figure(width, height):
    """An empty matplotlib Figure of so many inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def groups(results, *keys):
    """The results by what they have under the keys: a dict of lists, in order of appearance."""
    value = itemgetter(*keys)
    return {v: [r for r in results if value(r) == v] for v in dict.fromkeys(map(value, results))}


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


def octant(axes, results):
    """h_∞ / ||h_∞|| of one optimizer on the positive octant, seen along (1, 1, 1)."""
    globe(axes)
    for r in results:
        h, style = unit(r["h_inf"]), {"color": colour(r["optimizer"]), "ms": 5, "mfc": "none", "alpha": 0.7}
        axes.plot(h @ EAST, h @ NORTH, MARKS[r["form"]], **style)
    axes.plot(0, 0, "*", ms=13, mfc="none", mec="#CC79A7", mew=1.3)
    axes.set_title(named(results[0]["optimizer"]))


def strips(axes, results, key, label):
    """One strip of marks per optimizer, the forms side by side."""
    optimizers, forms = (list(groups(results, name)) for name in ("optimizer", "form"))
    for r in results:
        place = optimizers.index(r["optimizer"]) + 0.8 * ((forms.index(r["form"]) + 0.5) / len(forms) - 0.5)
        values = key(r)
        jitter = (np.arange(len(values)) * 0.618034) % 1 - 0.5  # even, and the same every time
        style = {"color": colour(r["optimizer"]), "ms": 4, "mfc": "none", "alpha": 0.7}
        axes.plot(place + 0.5 / len(forms) * jitter, values, MARKS[r["form"]], **style)
    tilt = {"rotation": 25, "ha": "right"} if len(optimizers) > 4 else {}
    axes.set_xticks(range(len(optimizers)), map(named, optimizers), fontsize=8, **tilt)
    axes.set(ylabel=label, xlim=(-0.6, len(optimizers) - 0.4))
    axes.grid(axis="y", color="0.9")


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


def decisions(axes, x, y, results, model, neuron=False):
    """Data in the plane, with what every optimizer decides by: the lines of a neuron at all predicted points.

    Without predictions they are those at the end of the last form. Of other models it shows where the first
    run that is ok ends: its boundary, and dotted the kinks of its units. The support vectors are ringed.
    """
    points(axes, x, y)
    reach = 1.25 * np.linalg.norm(x, axis=1).max()
    last = {r["optimizer"]: r for r in results}
    for k, optimizer in enumerate(sorted(last, key=lambda o: -WIDTHS.get(o, 1.6))):
        r, hue = last[optimizer], colour(optimizer)
        w = np.array(r.get("predicted", r["w"]) if neuron else r["w"], float)
        w = w[np.isfinite(w).all(-1) & (r["status"] == "ok")]
        if not len(w):
            continue
        style = {"color": hue, "lw": WIDTHS.get(optimizer, 1.6), "zorder": 1 + k / 10}
        if neuron:
            lines = np.unique(unit(normal(w)).round(4), axis=0)
            style |= {"lw": 0.9} if len(lines) > 4 else {}  # a fan
            for line in lines:
                axes.plot(*decision_line(line, reach), **style)
        else:
            w = w[:1]
            boundary(axes, model, w[0], reach, style)
        axes.plot([], [], color=hue, lw=style["lw"], label=named(optimizer))
        q = y * model(w, x)
        support = (q <= (1 + 1e-6) * q.min(-1, keepdims=True)).any(0)
        axes.plot(*x[support].T, "o", ms=13 - 2 * k, mfc="none", mec=hue, mew=1, zorder=3)
    axes.plot([], [], "o", ms=9, mfc="none", mec="0.4", label="support vectors")
    axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xlabel="$x_1$", ylabel="$x_2$")
    axes.set_title("decision lines, all runs" if neuron else "boundaries, one run; kinks dotted", fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def boundary(axes, model, w, reach, style):
    """Where Φ(w, .) = 0 in the plane and, dotted, the kinks of the units in the first hidden layer."""
    across = np.linspace(-reach, reach, 241)
    grid = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2)
    values = model(w, grid).reshape(len(across), -1)
    hue, width, zorder = style.values()
    axes.contour(across, across, values, [0], colors=[hue], linewidths=width, zorder=zorder)
    if isinstance(model, MLP) and model.degree > 1:
        for n in w[: 2 * model.sizes[1]].reshape(-1, 2):  # to one side, so that dots coincide
            axes.plot(*decision_line(n if tuple(n) > (0, 0) else -n, reach), ":", color=hue, lw=1, zorder=1)
