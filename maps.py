"""Draws `starts`: maps of where every start ends, and the dial. Results in, a matplotlib Figure out."""

from itertools import cycle

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from figures import angle_of, groups, named, normal, panel
from minibias import unit

PIXELS = 140  # across a disc
SHADES = ("#0072B2", "#E69F00", "#000000", "#CC79A7")  # of the radii in the dial


def starts(kkt_points, results, dial):
    """Two discs for each optimizer and radius, coloured by the limit, AdaGrad's margins, and the dial.

    The arguments are what `experiments.starts` returns.
    """
    radii, optimizers = (list(groups(results, key)) for key in ("radius", "optimizer"))
    best, adagrad = max(kkt_points["margin"], default=np.nan), [o for o in optimizers if o == "adagrad"]
    parts = [1.5 * len(optimizers + adagrad) + 0.8, 3.4][: 1 + bool(dial)]
    figure = Figure(figsize=(2.9 * len(radii) + 1.6, sum(parts)))
    figure.set_layout_engine("constrained", w_pad=0.1)  # labels stand at the edge
    top, *bottom = figure.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    discs = top.subplots(len(optimizers + adagrad), 2 * len(radii), squeeze=False)
    gd = {r["radius"]: r["w"][:, 2].astype(float) for r in results if r["optimizer"] == "gd"}
    angles = angles_of_decision([r["w"].astype(float) for r in results])
    margins = [r["margin"].astype(float) / best for r in results]
    near = [nearest_starts(results[0]["starts"], side) for side in (1, -1)]
    rows = [(o, angles, "viridis") for o in optimizers] + [(o, margins, "cividis") for o in adagrad]
    for row, (optimizer, values, colours) in zip(discs, rows):
        known = np.concatenate(values)[np.isfinite(np.concatenate(values))]
        least = 1 if values is angles else 0.01  # lest rounding is coloured
        pad = max(0, least - np.ptp(known)) / 2 if len(known) else 0
        scale = Normalize(known.min() - pad, known.max() + pad) if len(known) else None
        mine = [(r, v) for r, v in zip(results, values) if r["optimizer"] == optimizer]
        for k, axes in enumerate(row):
            r, v = mine[k // 2]
            border = gd.get(r["radius"]) if optimizer != "gd" else None
            image = disc(axes, near[k % 2], v, colours, scale, border)
        row[0].set_ylabel(named(optimizer) + (", margin" if values is margins else ""))
    for k, axes in enumerate(discs[0]):
        axes.set_title(f"radius {radii[k // 2]:g}, ${('v > 0', 'v < 0')[k % 2]}$", fontsize=9)
    said = ["where every start (w, v) ends;", "$w_1$ to the right, $w_2$ up, $|v|$ towards the centre"]
    said += ["orange line: the border under GD"] if gd and len(optimizers) > 1 else []
    said = said if len(radii) == 1 else [" ".join(said[:2]), *said[2:]]
    top.suptitle("\n".join(said if scale else ["no start leads to a limit"]), fontsize=10)
    if scale:
        shared = {"ax": discs[: len(optimizers)].ravel().tolist(), "shrink": 0.8, "aspect": 40}
        top.colorbar(discs[0, 0].images[0], label="decision normal (degrees)", **shared)
    if scale and adagrad:
        top.colorbar(image, ax=discs[-1].tolist(), label="margin / largest of all", aspect=10)
    for part in bottom:
        lost(*part.subplots(1, 2, sharey=True), radii, dial)
    return figure


def lost(by_epsilon, by_number, radii, dial):
    """What AdaGrad's limits lack of the largest margin, against ε and against how far h is from GD's."""
    label, log = "1 - margin / largest with its sign of v", {"xscale": "log", "yscale": "log"}
    panel(by_epsilon, r"AdaGrad's $\varepsilon$", label, "median of the starts", **log)
    title = r"every start and $\varepsilon$"
    panel(by_number, r"$\max_j \int g_j^2\,dt\,/\,\varepsilon$", None, title, **log)
    for radius, shade, mark in zip(radii, cycle(SHADES), cycle("os^D")):
        mine = [r for r in dial if r["radius"] == radius]
        loss = [np.maximum(1 - r["ratio"].astype(float), 1e-16) for r in mine]
        style = {"color": shade, "marker": mark, "ms": 3}
        medians = [np.median(some[some >= 0]) if (some >= 0).any() else np.nan for some in loss]  # NaN apart
        by_epsilon.plot([r["eps"] for r in mine], medians, label=f"radius {radius:g}", **style)
        number = np.ravel([r["moved"].astype(float) for r in mine])
        number[number > 1e100] = np.nan  # a logarithmic axis does not go to the end of float64
        by_number.plot(number, np.ravel(loss), ls="", alpha=0.35, mew=0, **style)
    number = np.array([1e-4, 1])
    by_number.plot(number, number**2 / 10, "--", color="0.3", lw=1, label="slope 2")
    by_epsilon.legend(fontsize=8, frameon=False, loc="lower left")
    by_number.legend(fontsize=8, frameon=False, loc="lower right")


def disc(axes, near, values, colours, scale, border=None):
    """Half of the sphere of starts, coloured by values (n,), with a line where the sign of `border` changes.

    near   which start stands at each pixel, from `nearest_starts`
    """
    place = {"origin": "lower", "extent": (-1, 1, -1, 1)}
    image = axes.imshow(np.append(values, np.nan)[near], cmap=colours, norm=scale, **place)
    if border is not None:
        axes.contour(np.append(np.sign(border), np.nan)[near], [0], colors="#D55E00", linewidths=0.8, **place)
    axes.add_patch(Circle((0, 0), 1, fill=False, ec="0.4", lw=0.8, clip_on=False))
    axes.set(xticks=[], yticks=[], frame_on=False)
    return image


def nearest_starts(starts, side):
    """Which of the starts (n, 3) is nearest to each pixel of a disc: (PIXELS, PIXELS), -1 outside of it.

    The disc is the half with v > 0 (side 1) or v < 0 (-1) of the sphere, projected such that areas stay as
    they are: what has the height v = 1 - ρ² on the unit sphere is ρ from the centre.
    """
    across = (np.arange(PIXELS) + 0.5) * 2 / PIXELS - 1
    near = np.full((PIXELS, PIXELS), -1)
    for row, y in enumerate(across):
        squares = across**2 + y**2
        x, squares, inside = across[squares < 1], squares[squares < 1], squares < 1
        pixel = np.stack([x * np.sqrt(2 - squares), y * np.sqrt(2 - squares), side * (1 - squares)], 1)
        near[row, inside] = (pixel @ unit(starts).T).argmax(1)
    return near


def angles_of_decision(directions):
    """The angles in degrees of the decision normals sign(v) (w_1, w_2) of directions, a list of (runs, 3).

    The circle is cut opposite to their mean, so that no two near ones are told apart by 360 degrees.
    """
    normals = [normal(w) for w in directions]
    mean = np.nansum(np.concatenate(normals), axis=0)
    return [angle_of(n, mean) for n in normals]
