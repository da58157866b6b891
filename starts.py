"""The study `starts`: where every start of a neuron ends, and a dial from AdaGrad to gradient descent.

The slide "Discussions" calls AdaGrad "sensitive to initialization". A neuron of two features has three
parameters, so that its starts of one length are a sphere, which can be searched as a whole.
"""

from collections import deque
from itertools import cycle

import numpy as np

from datasets import classes, default_data, given
from jobs import silent, spread, timed, with_nulls
from limits import CERTIFIED, EXPLAINED, margin_flow, to_rest
from minibias import (
    Problem,
    certificate,
    check_positive,
    norm,
    normalised_margin,
    predict,
    unit,
)
from models import MLP
from optimizers import GD, conditioners, learning_rates, with_epsilon
from plots import angle_of, groups, named, new_figure, normal, panel

RATES = {None: 1.0}  # learning rates of the flow: the slides' flow
SAME = 1e-6  # directions no farther from each other count as one
DIAL = tuple(float(10.0**k) for k in range(-6, 11))  # AdaGrad's ε: from its own problem to gradient descent's
DIAL_STARTS = 40  # of each radius
PIXELS = 140  # across a disc
SHADES = ("#56B4E9", "#E69F00", "0.4", "#F0E442")  # of the radii in the dial


def measure(
    optimizers=None,
    radii=(0.1, 1.0, 3.0),
    starts=2000,
    data=None,
    eps=1e-5,
    b=0.9,
    lr=None,
    loss="exp",
    seed=0,
    jobs=1,
    report=silent,
):
    """A map of the limits: where every start of a neuron ends under each optimizer.

    The slides' "Discussions": AdaGrad is sensitive to initialization. Starts spread over spheres, in the
    three parameters of a neuron, each with its certified limit under every optimizer, on data in the plane,
    by default the authors'. GD's, RMSProp's and Adam's are the few KKT points of one problem, though not from
    the same starts; AdaGrad's are almost as many as its starts. Then a dial: from AdaGrad with a small ε to
    one with a large ε, which is gradient descent. It takes about a minute on two cores.

    example: python experiments.py starts --radii 1 --starts 500 --data points.csv

    radii     the lengths of the starts; `starts` of them are spread evenly over the sphere of each
    data      as in `direction.measure`, of two classes in the plane
    lr        of the flow: a dict optimizer -> number, a number for all, None as in `RATES`
    All else is as in `direction.measure`.
    Returns {"data", "kkt_points": of the L2 problem, "results": one for each optimizer and radius, "dial":
    one for each ε of AdaGrad and radius}. In the dial `moved` is max_j ∫ g_j² dt / ε, how far h has come from
    GD's, and `ratio` the limit's L2 margin over the largest with its sign of v.
    Raises ValueError for data that are not two classes in the plane.
    """
    optimizers, radii = conditioners(optimizers, eps, b), np.ravel(radii).tolist()
    check_positive(whole=True, starts=starts)
    check_positive(**{f"radius {k}": radius for k, radius in enumerate(radii, 1)})
    x, y = given(data, default_data(seed))
    if x.shape[1] != 2 or classes(y) != 1:
        about = f"{x.shape[1]} features and {max(2, classes(y))} classes"
        raise ValueError(f"the map of starts is for two classes in the plane, not for {about}")
    problem = Problem(MLP((2, 1, 1), 0.5), x, y, loss)
    points, lr = kkt_points(problem), learning_rates(optimizers, lr, RATES)
    keys = [(name, conditioner, radius) for name, conditioner in optimizers.items() for radius in radii]
    dial = [("adagrad", e, radius) for e in DIAL for radius in radii] if len(points) else []
    dial = [(name, with_epsilon(optimizers[name], e), r) for name, e, r in dial if name in optimizers]
    tasks = [(problem, *key, lr[key[0]], starts) for key in keys]
    tasks += [(problem, *key, lr[key[0]], DIAL_STARTS) for key in dial]
    found = spread(job, tasks, jobs, report)
    maps, dial = found[: len(keys)], found[len(keys) :]
    gd = {r["radius"]: r["w"] for r in maps if r["optimizer"] == "gd"}
    return {
        "data": {"x": x, "y": y},
        "kkt_points": {"w": points, "margin": normalised_margin(problem, points)},
        "results": [shown(r | compared(r["w"], gd.get(r["radius"]))) for r in maps],
        "dial": [shown(r | lost(problem, r, points)) for r in dial],
    }


def table(found):
    """Where the starts end, a row for each optimizer and radius, and the dial, a row for each ε: lines."""
    points = found["kkt_points"]
    for w, margin in zip(points["w"], points["margin"]):
        yield f"KKT point of the L2 problem: ({w[0]:.6f}, {w[1]:.6f}, {w[2]:.6f}), margin {margin:.6g}"
    yield (
        f"{'optimizer':9} {'radius':>6} {'ok':>11} {'limits':>7} {'others than GD':>15}"
        f" {'margin: smallest':>17} {'median':>9} {'largest':>9} {'KKT residual':>13}  seconds"
    )
    for r in found["results"]:
        ok = r["status"] == "ok"
        about = f"{r['optimizer']:9} {r['radius']:6g} {ok.sum():>5}/{len(ok):<5} {r['limits']:>7}"
        if ok.any():
            differs = "" if r["differs_from_gd"] is None else f"{100 * r['differs_from_gd']:.2f} %"
            margin, residual = r["margin"][ok].astype(float), r["kkt_residual"][ok].max()
            about += f" {differs:>15} {margin.min():>17.4g} {np.median(margin):>9.4g} {margin.max():>9.4g}"
            about += f" {residual:>13.1e} {r['seconds']:>8.1f}"
        yield about
    for r in found["results"]:
        for status in sorted(set(r["status"]) - {"ok"}):
            number = f"{np.sum(r['status'] == status)} of {len(r['status'])} starts"
            yield f"{r['optimizer']}, radius {r['radius']:g}: {number}: {EXPLAINED[status]}"
    if not any((r["status"] == "ok").any() for r in found["results"]):
        yield "no start leads to a limit, so there is nothing to draw a map of"
    if found["dial"]:
        yield (
            f"{'AdaGrad, ε':>12} {'starts ok':>10} {'max ∫ g² dt / ε: median':>24}"
            f" {'1 - margin / largest: median':>29} {'most':>9}"
        )
    for eps, own in groups(found["dial"], "eps").items():
        columns = ("status", "moved", "ratio")
        status, moved, ratio = (np.concatenate([r[name] for r in own]) for name in columns)
        ok = status == "ok"
        about = f"{eps:>12g} {ok.sum():>5}/{len(ok):<4}"
        if ok.any():
            moved, lack = moved[ok].astype(float), 1 - ratio[ok].astype(float)
            about += f" {np.median(moved):>24.2e} {np.median(lack):>29.2e} {lack.max():>9.2e}"
        yield about


def figure(found):
    """Two discs for each optimizer and radius, coloured by the limit, AdaGrad's margins, and the dial."""
    results, dial = found["results"], found["dial"]
    radii, optimizers = (list(groups(results, key)) for key in ("radius", "optimizer"))
    adagrad = [o for o in optimizers if o == "adagrad"]
    parts = [1.5 * len(optimizers + adagrad) + 0.8, 3.4][: 1 + bool(dial)]
    figure = new_figure(2.9 * len(radii) + 1.6, sum(parts))
    figure.get_layout_engine().set(w_pad=0.1)  # labels stand at the edge
    top, *bottom = figure.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    discs = top.subplots(len(optimizers + adagrad), 2 * len(radii), squeeze=False)
    angles = angles_of_decision([r["w"].astype(float) for r in results])
    best = max(found["kkt_points"]["margin"], default=np.nan)
    margins = [r["margin"].astype(float) / best for r in results]
    gd = {r["radius"]: r["w"][:, 2].astype(float) for r in results if r["optimizer"] == "gd"}
    near = [nearest_starts(results[0]["starts"], side) for side in (1, -1)]
    for k, axes in enumerate(discs[0]):
        axes.set_title(f"radius {radii[k // 2]:g}, ${('v > 0', 'v < 0')[k % 2]}$", fontsize=9)
    for row, optimizer in zip(discs, optimizers):
        colours = draw_discs(row, near, results, angles, optimizer, gd, "viridis", 1)
    words = ["where every start (w, v) ends;", "$w_1$ to the right, $w_2$ up, $|v|$ towards the centre"]
    words += ["pink line: the border under GD"] if gd and len(optimizers) > 1 else []
    words = words if len(radii) == 1 else [" ".join(words[:2]), *words[2:]]
    top.suptitle("\n".join(words if colours else ["no start leads to a limit"]), fontsize=10)
    if colours:
        place = {"ax": discs[: len(optimizers)].ravel().tolist(), "shrink": 0.8, "aspect": 40}
        top.colorbar(colours, label="decision normal (degrees)", **place)
    if adagrad:
        colours = draw_discs(discs[-1], near, results, margins, "adagrad", gd, "cividis", 0.01)
        discs[-1, 0].set_ylabel("AdaGrad, margin")
        if colours:
            top.colorbar(colours, ax=discs[-1].tolist(), label="margin / largest of all", aspect=10)
    for part in bottom:
        draw_dial(*part.subplots(1, 2, sharey=True), radii, dial)
    return figure


# ------------------------------------------------------------------------------------ what is measured


def sphere(n):
    """n points spread evenly over the unit sphere, (n, 3): equal steps in height, golden angles around."""
    k = np.arange(n) + 0.5
    height, angle = 1 - 2 * k / n, np.pi * (3 - np.sqrt(5)) * k
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


def job(task):
    """All runs of one optimizer from n starts of one radius, with the seconds that they took."""
    problem, optimizer, conditioner, radius, lr, n = task
    w0 = radius * sphere(n)
    found, seconds = timed(ends, problem, conditioner, w0, lr)
    about = {"optimizer": optimizer, "eps": conditioner.eps, "radius": radius, "starts": w0}
    return about | found | {"seconds": seconds}


def ends(problem, conditioner, w0, lr=1.0):
    """The certified limits of the flow from w0 (runs, p): a dict of arrays over the runs.

    `w` (runs, p) holds unit directions, `kkt_residual` their certificates for the problem of h_∞, `margin`
    their q_min, and `S` (runs, p) the conditioner's sum when the flow is at rest. `status` is "ok", or what
    hinders the run: then its w and margin are NaN.
    """
    last = deque(maxlen=1)
    at_rest, h, status = to_rest(problem, conditioner, w0, lr, last.append)
    good = status == "ok"
    w, residual = np.full(h.shape, np.nan), np.full(len(h), np.nan)
    w[good] = unit(margin_flow(problem, at_rest[good], h[good]).w)
    residual[good] = certificate(problem, w[good], h[good])
    failed = good & ~(residual <= CERTIFIED)
    status[failed], w[failed] = "still turning", np.nan
    margin = normalised_margin(problem, w)
    return {"w": w, "kkt_residual": residual, "margin": margin, "S": last[0].S, "status": status}


def kkt_points(problem):
    """The KKT points of the L2 problem that gradient descent finds from thirty starts: (points, p), unit."""
    w, _, status = to_rest(problem, GD(), sphere(30))
    w = w[status == "ok"]
    return distinct(unit(predict(problem, w, np.ones_like(w))))


def distinct(w):
    """The different ones among the directions w (runs, p), those that are NaN left out: (k, p)."""
    w, found = w[np.isfinite(w).all(-1)], []
    while len(w):
        found.append(w[0])
        w = w[norm(w - w[0]) > SAME]
    return np.reshape(found, (len(found), w.shape[-1]))


def compared(w, gd):
    """How many limits w (runs, p) there are, and the share that are not gd's from the same start.

    The share is None without gd's limits, or where no start has both.
    """
    apart = norm(w - gd) if gd is not None else np.full(len(w), np.nan)
    known = np.isfinite(apart)
    differs = (apart[known] > SAME).mean() if known.any() else None
    return {"limits": len(distinct(w)), "differs_from_gd": differs}


def lost(problem, r, points):
    """`moved` and `ratio` of a result in the dial."""
    with np.errstate(over="ignore"):
        moved = (r["S"] / r["eps"]).max(-1)
    return {"moved": moved, "ratio": share_of_best(problem, r["w"], points)}


def share_of_best(problem, w, points):
    """The L2 margins of limits w (runs, 3) over the largest that a neuron of the same sign of v has: (runs,).

    The largest ones are those of the KKT `points`, one for each sign. NaN where there is none.
    """
    same = np.sign(w[:, None, -1]) == np.sign(points[:, -1])
    best = np.where(same, normalised_margin(problem, points), 0).max(-1, initial=0)
    return normalised_margin(problem, w) / np.where(best > 0, best, np.nan)


def shown(r):
    """A result as it stands in the file: without S, with None for what is not finite."""
    nulls = {"w", "kkt_residual", "margin", "moved", "ratio"}
    return {name: with_nulls(value) if name in nulls else value for name, value in r.items() if name != "S"}


# ------------------------------------------------------------------------------------ what is drawn


def draw_discs(row, near, results, values, optimizer, gd, colours, least):
    """A row of discs, coloured by an optimizer's part of `values`; what a colour bar needs, None for none.

    near     which start stands at each pixel of both halves, from `nearest_starts`
    gd       the v of gradient descent's limits by radius, whose sign changes at a line
    least    values that differ by less have one colour, so that rounding has none
    """
    from matplotlib.colors import Normalize

    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    pad = max(0, least - np.ptp(known)) / 2 if len(known) else 0
    scale = Normalize(known.min() - pad, known.max() + pad) if len(known) else None
    mine = [(r, value) for r, value in zip(results, values) if r["optimizer"] == optimizer]
    for k, axes in enumerate(row):
        r, value = mine[k // 2]
        border = gd.get(r["radius"]) if optimizer != "gd" else None
        image = draw_disc(axes, near[k % 2], value, colours, scale, border)
    row[0].set_ylabel(named(optimizer))
    return image if scale else None


def draw_disc(axes, near, values, colours, scale, border=None):
    """Half of the sphere of starts, coloured by values (n,), with a line where the sign of `border` changes.

    near   which start stands at each pixel, from `nearest_starts`
    """
    from matplotlib.patches import Circle

    place = {"origin": "lower", "extent": (-1, 1, -1, 1)}
    image = axes.imshow(np.append(values, np.nan)[near], cmap=colours, norm=scale, **place)
    if border is not None:
        axes.contour(np.append(np.sign(border), np.nan)[near], [0], colors="#CC79A7", linewidths=1.2, **place)
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

    The circle is cut opposite to their mean, so that no two near ones seem 360 degrees apart.
    """
    normals = [normal(w) for w in directions]
    mean = np.nansum(np.concatenate(normals), axis=0)
    return [angle_of(n, mean) for n in normals]


def draw_dial(by_epsilon, by_number, radii, dial):
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
