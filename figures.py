"""Draws the experiments in the plane, and does nothing else: results in, a matplotlib Figure out."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minibias import angle_to_ones, unit

# Okabe and Ito's palette, which the colour-blind can tell apart, and a mark for each as a second cue
COLOURS = {"gd": "#000000", "adagrad": "#D55E00", "rmsprop": "#0072B2", "adam": "#009E73"}
SPARE = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
NAMES = {"gd": "GD", "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam"}
MARKS = {"discrete": "o", "flow": "x", "limit": "+"}
FAR = r"$\log 1/L$"  # what most panels have across
EAST, NORTH = np.array([-1, 1, 0]) / np.sqrt(2), np.array([-1, -1, 2]) / np.sqrt(6)


def colour(optimizer):
    """The optimizer's colour: its own, or for a new conditioner one of the palette's others."""
    return COLOURS.get(optimizer) or SPARE[sum(optimizer.encode()) % len(SPARE)]


def named(optimizer):
    return NAMES.get(optimizer, optimizer)


def name_above(figure, optimizers, *more):
    """A legend of the optimizers' colours and of `more` lines above all panels."""
    lines = [Line2D([], [], color=colour(o), lw=2, label=named(o)) for o in optimizers]
    lines += more
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)


def groups(results, key):
    """The results by what they have under `key`: a dict of lists, in order of appearance."""
    values = dict.fromkeys(r[key] for r in results)
    return {value: [r for r in results if r[key] == value] for value in values}


def panel(axes, xlabel, ylabel, title=None, **more):
    """What a panel says at its edges, and a grid."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, **more)
    axes.grid(color="0.92")


def samples(axes, x, y):
    """Two classes in the plane."""
    for label, mark, face in ((1, "s", "0.35"), (-1, "o", "none")):
        axes.plot(*x[y == label].T, mark, ms=3.5, mec="0.35", mfc=face, mew=0.8, label=f"y = {label:+d}")


def jitter(n, width):
    """Offsets that spread n marks evenly, the same ones every time."""
    return width * ((np.arange(n) * 0.618034) % 1 - 0.5)


def octant(axes, results):
    """h_∞ / ||h_∞|| of one optimizer on the positive octant, seen along (1, 1, 1)."""
    globe(axes)
    for r in results:
        h, style = unit(r["h_inf"]), {"color": colour(r["optimizer"]), "ms": 5, "mfc": "none", "alpha": 0.7}
        axes.plot(h @ EAST, h @ NORTH, MARKS[r["form"]], **style)
    axes.plot(0, 0, "*", ms=13, mfc="none", mec="#CC79A7", mew=1.3)
    axes.set_title(named(results[0]["optimizer"]))


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


def strips(axes, results, key, label):
    """One strip of marks per optimizer, the forms side by side."""
    optimizers, forms = (list(groups(results, key)) for key in ("optimizer", "form"))
    for r in results:
        place = optimizers.index(r["optimizer"]) + 0.8 * ((forms.index(r["form"]) + 0.5) / len(forms) - 0.5)
        values = key(r)
        spots = place + jitter(len(values), 0.5 / len(forms))
        axes.plot(spots, values, MARKS[r["form"]], color=colour(r["optimizer"]), ms=4, mfc="none", alpha=0.7)
    tilt = {"rotation": 25, "ha": "right"} if len(optimizers) > 4 else {}
    axes.set_xticks(range(len(optimizers)), map(named, optimizers), fontsize=8, **tilt)
    axes.set(ylabel=label, xlim=(-0.6, len(optimizers) - 0.4))
    axes.grid(axis="y", color="0.9")


WIDTHS = {"adam": 4.5, "rmsprop": 2.8, "gd": 1.0}  # of lines that end on each other, so that all are seen


def decisions(axes, x, y, results, model=None):
    """Data in the plane, with what every optimizer decides by: the lines of a neuron at all predicted points.

    Without predictions they are those at the end of the last form. With the `model` the support vectors are
    ringed. Of other models it shows where the first run that is ok ends: its boundary, and dotted the kinks
    of its units.
    """
    samples(axes, x, y)
    reach = 1.25 * np.linalg.norm(x, axis=1).max()
    last = {r["optimizer"]: r for r in results}
    for k, optimizer in enumerate(sorted(last, key=lambda o: -WIDTHS.get(o, 1.6))):
        r, hue = last[optimizer], colour(optimizer)
        neuron = is_neuron(x, r, model)
        w = np.array(r.get("predicted", r["w"]) if neuron else r["w"], float)
        w = w[np.isfinite(w).all(-1) & (r["status"] == "ok")]
        if not len(w):
            continue
        style = {"color": hue, "lw": WIDTHS.get(optimizer, 1.6), "zorder": 1 + k / 10}
        if neuron:
            lines = np.unique((np.sign(w[:, 2:]) * unit(w[:, :2])).round(4), axis=0)
            style |= {"lw": 0.9} if len(lines) > 4 else {}  # a fan
            for line in lines:
                axes.plot(*decision_line(line, reach), **style)
        elif model is not None:
            w = w[:1]
            boundary(axes, model, w[0], reach, style)
        axes.plot([], [], color=hue, lw=style["lw"], label=named(optimizer))
        if model is not None:
            q = y * model(w, x)
            support = (q <= (1 + 1e-6) * q.min(-1, keepdims=True)).any(0)
            axes.plot(*x[support].T, "o", ms=13 - 2 * k, mfc="none", mec=hue, mew=1, zorder=3)
    if model is not None:
        axes.plot([], [], "o", ms=9, mfc="none", mec="0.4", label="support vectors")
    axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xlabel="$x_1$", ylabel="$x_2$")
    axes.set_title("decision lines, all runs" if neuron else "boundaries, one run; kinks dotted", fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def is_neuron(x, r, model):
    """Whether a result on the data x is a neuron's in the plane, which decides by a line through 0."""
    neuron = model is None or getattr(model, "sizes", None) == (2, 1, 1)
    return neuron and x.shape[1] == 2 and r["w"].shape[-1] == 3


def boundary(axes, model, w, reach, style):
    """Where Φ(w, .) = 0 in the plane and, dotted, the kinks of the units in the first hidden layer."""
    across = np.linspace(-reach, reach, 241)
    grid = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2)
    values = model(w, grid).reshape(len(across), -1)
    hue, width, zorder = style.values()
    axes.contour(across, across, values, [0], colors=[hue], linewidths=width, zorder=zorder)
    if getattr(model, "degree", 1) > 1 and hasattr(model, "sizes"):
        for normal in w[: 2 * model.sizes[1]].reshape(-1, 2):  # to one side, so that dots coincide
            line = decision_line(normal if tuple(normal) > (0, 0) else -normal, reach)
            axes.plot(*line, ":", color=hue, lw=1, zorder=1)


def the_way(axes, x, y, way, predicted, optimizer):
    """The angle of a neuron's decision normal on the way of the first thirty runs, against log 1/L.

    `way` is what `paths.way` returns. The predictions are triangles at the right edge.
    """
    angle = lambda w: angle_of(normal(w), middle=y @ x)  # within 90° of every normal that separates
    hue, known = colour(optimizer), predicted[np.isfinite(predicted).all(-1)][:30]
    axes.plot(10 ** way["far"][:, :30], angle(way["w"])[:, :30], color=hue, lw=0.7, alpha=0.7)
    edge = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    if len(known):  # no mark at all would let the layout collapse
        axes.plot(0 * known[:, 0] + 1.035, angle(known), "<", color=hue, ms=7, mec="white", mew=0.5, **edge)
    axes.set(xscale="log", xlim=(1, 1e6), xlabel=r"$\log\,1/L$")
    axes.grid(color="0.92")


def direction(x, y, results, model=None, ways=None):
    """Directions of h_∞, normalised margins, errors and, for two classes in the plane, `decisions`.

    The model is needed for support vectors and for the boundaries of anything but a neuron, `ways` for the
    panels of `the_way`: what `experiments.direction` returns under that name.
    """
    optimizers, forms = groups(results, "optimizer"), groups(results, "form")
    error = lambda r: np.maximum(r["direction_error"].astype(float), 1e-17)
    limits = [r for r in forms.get("limit", []) if np.isfinite(error(r)).any()]
    plane = is_neuron(x, results[0], model)
    heights = [3, 2.8, 3.7] if ways and limits else [3, 3.7]
    boundaries = not plane and model is not None and x.shape[1] == 2 and set(y) == {-1, 1}
    panels = 2 + bool(limits) + boundaries
    size = (11, sum(heights)) if plane else (11, 7.6) if panels == 4 else (14, 3.8)
    figure = Figure(figsize=size, layout="constrained")
    if plane:
        top, *middle, bottom = figure.subfigures(len(heights), 1, height_ratios=heights)
        for axes, own in zip(top.subplots(1, len(optimizers), squeeze=False)[0], optimizers.values()):
            octant(axes, own)
        words = r"directions of $h_\infty$ of all runs on the positive octant; star: $(1,1,1)/\sqrt{3}$"
        top.suptitle(words, fontsize=11)
        for part in middle:
            row = part.subplots(1, len(optimizers), squeeze=False, sharey=True)[0]
            for axes, r in zip(row, forms["limit"]):
                the_way(axes, x, y, ways[r["optimizer"]], r["predicted"].astype(float), r["optimizer"])
            row[0].set_ylabel("angle of the decision\nline's normal (degrees)")
            words = "the way there (30 runs at most; margin flow from log 1/L = 50 on), triangles: predicted"
            part.suptitle(words, fontsize=11)
        *left, right = bottom.subplots(1, panels)
        decisions(right, x, y, results, model)
    else:
        right, *left = figure.subplots(*((2, 2) if panels == 4 else (1, panels))).ravel()
        if boundaries:
            decisions(left[-1], x, y, results, model)
        words = r"angle of $h_\infty$ to $(1,\ldots,1)$ (degrees)"
        strips(right, results, lambda r: angle_to_ones(r["h_inf"]), words)
    if limits:
        strips(left[1], limits, error, "distance of the limit's direction\nto the predicted one")
        left[1].set_yscale("log")
    left = left[0]
    strips(left, results, lambda r: r["margin"], r"normalised margin $q_{\min}/\|w\|^D$")
    low, high = left.get_ylim()
    left.set_ylim(max(low, -0.3 * high) if high > 0 else low)  # far below 0 are runs that do not separate
    for form in forms:
        left.plot([], [], MARKS[form], color="0.3", mfc="none", label=form)
    left.legend(fontsize=8, ncols=3, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


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


def claims(proof):
    """The proof at work, run 0 of every optimizer with the exponential loss: `claims.claims`' "proof"."""
    figure = Figure(figsize=(9.5, 7.2), layout="constrained")
    (time, surrogate), (beta, kkt) = figure.subplots(2, 2)
    for optimizer, m in proof.items():
        log_t, log_loss, margin, h = (m[name] for name in ("log_t", "log_loss", "surrogate", "h"))
        width = {"adagrad": 3.0, "rmsprop": 3.5}.get(optimizer, 1.5)  # GD's and Adam's often lie on theirs
        style = {"color": colour(optimizer), "lw": width, "zorder": 3 - width / 10}
        time.plot(log_t[1:] / np.log(10), log_loss[1:], **style)
        positive = log_loss < -1
        surrogate.plot(-log_loss[positive], margin[positive] / margin[positive][0], **style)
        gap = np.abs(h / h[-1] - 1).max(-1)[positive]
        beta.plot(-log_loss[positive], np.where(gap > 1e-16, gap, np.nan), **style)
        kkt.plot(m["levels"], m["epsilons"], **style)
        deltas = np.where(m["deltas"] > 1e-16, m["deltas"], np.nan)
        kkt.plot(m["levels"], deltas, ls="--", color=colour(optimizer))
    for dash, name in (("-", r"$\varepsilon_i$"), ("--", r"$\delta_i$")):
        kkt.plot([], [], dash, color="0.3", label=name)
    panel(time, r"$\log_{10} t$ (steps)", r"$\log L$", "the loss tends to 0")
    title = "the surrogate margin is bounded below"
    panel(surrogate, FAR, "surrogate margin / first value", title, xscale="log", yscale="log")
    title = r"$\beta = h / h_\infty$ tends to 1 (GD's is 1)"
    panel(beta, FAR, r"$\max_j |\beta_j - 1|$", title, yscale="log")
    panel(kkt, FAR, "KKT defects of the proof", "approximate KKT points", xscale="log", yscale="log")
    kkt.legend(fontsize=9, frameon=False, loc="lower left")
    name_above(figure, proof)
    return figure


def crossover(results, slopes):
    """Distances to both directions along log 1/L, darker for smaller ε, and the crossings against log 1/ε."""
    optimizers, epsilons = groups(results, "optimizer"), list(groups(results, "eps"))
    figure = Figure(figsize=(max(6, 4.2 * len(optimizers)), 7.2), layout="constrained")
    cells = figure.subplot_mosaic([list(optimizers), ["crossings"] * len(optimizers)], height_ratios=(1.3, 1))
    *panels, crossings = cells.values()
    for axes, (optimizer, mine) in zip(panels, optimizers.items()):
        crossed = [(-np.log(r["eps"]), r["crossing"]) for r in mine if r["crossing"] is not None]
        turned = np.reshape(crossed, (-1, 2)).T
        for r in mine:
            depth = 1 - 0.55 * epsilons.index(r["eps"]) / max(1, len(epsilons) - 1)
            shade = 1 - depth * (1 - np.array(to_rgb(colour(optimizer))))
            shown = r["log_inverse_loss"] >= 1
            at, linf, l2 = (r[key][shown] for key in ("log_inverse_loss", "distance_linf", "distance_l2"))
            label = rf"$\varepsilon = 10^{{{np.log10(r['eps']):.3g}}}$"
            axes.plot(at, linf, color=shade, lw=1.7, label=label)
            axes.plot(at, l2, "--", color=shade, lw=1.2)
            if r["crossing"] is not None:
                spot = r["crossing"], np.interp(r["crossing"], at, linf)
                axes.plot(*spot, "o", color=shade, ms=6, mec="white", mew=0.8, zorder=3)
        for dash, label in (("-", r"to $\ell_\infty$"), ("--", "to L2"), ("-o", "crossing")):
            axes.plot([], [], dash, color="0.3", ms=5, mec="white", label=label)
        panel(axes, FAR, "distance to max-margin direction", named(optimizer), xscale="log", ylim=(0, None))
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        line = "" if slopes[optimizer] is None else f", slope {slopes[optimizer]:.2f}".replace("-0.00", "0")
        crossings.plot(*turned, "o", color=colour(optimizer), ms=5, mfc="none", label=named(optimizer) + line)
        if line:
            x, y = turned
            crossings.plot(x, y.mean() + slopes[optimizer] * (x - x.mean()), color=colour(optimizer), lw=1.2)
    title = r"last time nearer to $\ell_\infty$ than to L2"
    panel(crossings, r"$\log 1/\varepsilon$", r"crossing, $\log 1/L$", title)
    crossings.legend(fontsize=9, frameon=False)
    return figure
