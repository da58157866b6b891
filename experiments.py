"""The experiments in the plane, and the door to all studies: python experiments.py STUDY [flags].

Each study takes plain values and returns what it measured, for a notebook as well as for the command line.
"""

if __name__ == "__main__":  # before NumPy is imported
    import signal
    import sys

    heard = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports: nothing to lose or to say

    import cli

    signal.signal(signal.SIGINT, heard)
    sys.exit(cli.main())

import copy
import math
import os
import time
from functools import cache

import numpy as np

from checks import check_counts, check_positive, chosen, learning_rates
from datasets import classes, crossover_data, default_data, labelled, read_data
from limits import CERTIFIED, fate, h_settled, margin_path, put
from minibias import (
    Problem,
    certificate,
    certify,
    linear,
    norm,
    normalised_margin,
    predict,
    predict_linf,
    unit,
)
from models import MLP, Linear
from momentum import update
from optimizers import CONDITIONERS, SEPARATES_WITHIN, Flow, descend, follow, start, trajectory
from paths import WAY, way
from runs import say, silent, spread, with_nulls
from starts import SAME, distinct, ends, kkt_points, share_of_best, sphere

FORMS = ("discrete", "flow", "limit")
SMALLEST_EPSILON = 1e-290  # `crossover`: S must be resolved beside ε, and float64 ends at 1e-308


def rates(optimizers, lr=None):
    """Learning rates of the discrete form as in `learning_rates`, by default 0.001 for GD, 0.1 for others."""
    return learning_rates(optimizers, lr, 0.1, gd=0.001)


def flow_rates(optimizers, lr=None):
    """The same for the flow, by default 1 for all: the slides' flow."""
    return learning_rates(optimizers, lr, 1.0)


def samples(data, default):
    """x (N, d) and y (N,) of `data`, which is such a pair, the name of a file, or None for the default."""
    if isinstance(data, (str, os.PathLike)):
        return read_data(data)[:2]
    return default if data is None else labelled(*data)[:2]


def build_model(name, features, outputs, slope=0.5):
    """The model "neuron", "linear" or "mlp:WIDTH[,WIDTH...]"; for labels ±1 it has one output."""
    if name == "linear":
        return Linear(features, outputs)
    if name == "neuron":
        if outputs > 1:
            message = f"the neuron cannot tell {outputs} classes apart, expected --model linear or mlp:WIDTH"
            raise ValueError(message)
        return MLP((features, 1, 1), slope)
    kind, _, widths = name.partition(":")
    widths = widths.split(",")
    if kind != "mlp" or not all(width.isdecimal() and int(width) for width in widths):
        raise ValueError(f"the model must be neuron, linear or mlp:WIDTH[,WIDTH...], not {name!r}")
    return MLP((features, *map(int, widths), outputs), slope)


def direction(
    optimizers=None,
    forms=FORMS,
    runs=100,
    steps=5000,
    model="neuron",
    slope=0.5,
    data=None,
    constant=False,
    eps=1e-5,
    b=0.9,
    lr=None,
    momentum=0.0,
    loss="exp",
    seed=0,
    jobs=1,
    report=silent,
):
    """The directions of h_∞, the margins and the limits of many starts (slide "Directions of h_∞").

    optimizers  names in CONDITIONERS, None for all of them
    forms       some of "discrete", `steps` updates; "flow", until log L <= -50; "limit", where the flow ends
    runs        initialisations, the same for all optimizers
    model       a name as in `build_model`, with σ's `slope` in [0, 1] below 0, or a model of one's own
    data        (x, y), x (N, d) and y (N,), or the name of a file; None for the authors' data
    constant    whether a feature of ones is appended to x
    lr          a dict optimizer -> learning rate of the discrete form, a number for all, None as in `rates`
    momentum    of the discrete form, in [0, 1)
    eps, b, loss   as in `optimizers.Conditioner` and `Problem`
    seed        of the starts and of the authors' data
    jobs        processes; `report` hears how far they are, as in `runs.spread`
    Returns {"data": {x, y}, "results": a dict for each optimizer and form, arrays over the runs, "ways":
    optimizer -> the `way` of its runs to their limits, for a neuron of two features}.
    Raises ValueError for values out of range.
    """
    optimizers, forms = chosen("optimizers", optimizers, CONDITIONERS), chosen("forms", forms, FORMS)
    check_counts(runs=runs, steps=steps)
    x, y = samples(data, default_data(seed))
    x = np.column_stack([x, np.ones(len(x))]) if constant else x
    model = build_model(model, x.shape[1], classes(y), slope) if isinstance(model, str) else model
    problem = Problem(model, x, y, loss)
    if momentum and "discrete" not in forms:
        raise ValueError("argument --momentum: it is the discrete form's, expected --forms with discrete")
    if not hasattr(problem.model, "init"):
        raise ValueError(f"{type(model).__name__} must have init(rng, runs), which returns w (runs, p)")
    w0 = problem.model.init(np.random.default_rng([seed, 1]), runs)
    lr, rule = rates(optimizers, lr), update(momentum)
    tasks = [(problem, o, CONDITIONERS[o](eps, b), w0, forms, lr[o], steps, rule) for o in optimizers]
    results = [result for done in spread(direction_job, tasks, jobs, report) for result in done]
    ways = {r["optimizer"]: r.pop("way") for r in results if "way" in r}
    return {"data": {"x": x, "y": y}, "results": results, "ways": ways}


def direction_job(task):
    """Every form asked for of one optimizer: a list of results."""
    problem, optimizer, conditioner, w0, forms, lr, steps, rule = task
    rested = cache(lambda scale: timed(flow_to_rest, problem, conditioner, w0, scale))
    results = []
    for form in forms:
        if form == "discrete":
            (end, _), seconds = timed(descend, problem, conditioner, w0, lr, steps, (), rule)
            status = fate(problem, end)
        else:
            scale = safe_scale(problem, conditioner) if form == "limit" else 1.0
            (end, fates, passed), seconds = rested(scale)
            status = fates[form]
        w, log_loss, extra = end.w, end.log_loss, {}
        if form == "limit":
            good = status == "ok"
            (w, extra, path), more = timed(limit, problem, end.w, end.h, good)
            seconds, log_loss = seconds + more, np.full(len(w), None)
            status = np.where(good & ~(extra["kkt_residual"] <= CERTIFIED), "still turning", status)
            extra = {name: with_nulls(a) for name, a in extra.items()}
            if getattr(problem.model, "sizes", None) == (2, 1, 1):  # a neuron in the plane
                extra["way"] = way(passed[:, good], -end.log_loss[good], path)
        margin = normalised_margin(problem, w)
        results.append(
            {"optimizer": optimizer, "form": form, "w0": w0, "w": w, "h_inf": end.h, "log_loss": log_loss}
            | {"margin": margin, "separated": margin > 0, "status": status, "seconds": seconds}
            | extra
        )
    return results


def timed(call, *args):
    """What call(*args) returns, and the seconds that it took."""
    clock = time.perf_counter()
    return call(*args), time.perf_counter() - clock


def flow_to_rest(problem, conditioner, w0, scale):
    """The flow to log L <= -50 on data x / scale: a state for x, its `fate` by form, and w on its WAY.

    It says as it goes how far it is. For form "limit" it is enough that h is settled.
    """
    small = copy.copy(problem)
    small.x = problem.x / scale
    watch = lambda state: say(how_far(type(conditioner).__name__, state))
    flow, w, h, reached = follow(small, conditioner, w0, WAY, watch=watch)
    settled, w[-1] = h_settled(flow, h, reached), flow.w
    flow = flow._replace(w=flow.w / scale)
    good = {"limit": settled, "flow": settled & reached[-1]}
    return flow, {form: fate(problem, flow, g) for form, g in good.items()}, w / scale


def how_far(name, state):
    """A few words on a flow that is under way."""
    highest = state.log_loss[state.alive].max(initial=-np.inf)
    return f"{name} at log L = {highest:.4g} after {state.steps} steps"


def safe_scale(problem, conditioner):
    """What to divide x by before the flow that leads to the limit, 1 if nothing is needed.

    With large data the loss at the start is beyond float64. The limit of a linear model is that of any other
    scale of x, if h_∞ is isotropic whatever the path.
    """
    largest = float(abs(problem.x).sum(1).max())  # that a margin can be at w in (-1, 1)^d
    if not linear(problem.model) or not conditioner.isotropic or largest < 100:
        return 1.0
    return 2.0 ** round(math.log2(largest))


def limit(problem, w, h, good):
    """Where the flow of the `good` runs (runs,) ends, from w (runs, p) with h at its limit; what says so.

    Returns w, scaled to q_min = 1 in these runs; a dict of arrays over the runs, NaN in the others; and the
    states of the margin flow, of the `good` runs alone.
    """
    at, h = w[good], h[good]
    path = list(margin_path(problem, at, h))
    end = path[-1]
    try:
        predicted = unit(predict(problem, at, h))
    except ValueError:  # no prediction, since the data are too badly scaled for one
        predicted = np.full(at.shape, np.nan)
    found = certify(problem, end.w, h)
    measured = {
        "predicted": predicted,
        "direction_error": norm(unit(end.w) - predicted),
        "kkt_residual": found.residual,
        "kkt_residual_unweighted": certificate(problem, end.w, np.ones_like(h)),
        "kkt_residual_one_gradient": found.one_gradient,
        "kinks": found.kinks,
        "log10_log_inverse_loss": end.far,
        "last_move": end.last_move,
    }
    nothing = lambda values: np.full((len(w), *values.shape[1:]), np.nan)
    found = {name: put(nothing(values), good, values) for name, values in measured.items()}
    return put(w, good, end.w), found, path


def crossover(
    optimizers=("rmsprop", "adam"),
    epsilons=(1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3),
    data=None,
    b=0.9,
    lr=None,
    loss="exp",
    jobs=1,
    report=silent,
):
    """What ε hides: RMSProp and Adam head for the ℓ∞ max-margin direction before they turn to the L2 one.

    The flow of a linear model from w = 0, for every optimizer and ε; lr is 1 by default. All else is as in
    `direction`.
    Returns {"data", "predictions": both directions with their proofs, "results": one for each optimizer and
    ε, "slopes": optimizer -> slope of the crossings against log 1/ε}. Raises ValueError for an ε that float64
    cannot resolve, NotSeparable for data that no linear model separates.
    """
    epsilons = np.ravel(epsilons).tolist()
    smallest = min(epsilons, default=0)
    if not smallest >= SMALLEST_EPSILON:
        least = f"{SMALLEST_EPSILON:g} or more, what float64 resolves"
        raise ValueError(f"argument --epsilons: expected {least}, not {smallest:g}")
    optimizers, (x, y) = chosen("optimizers", optimizers, CONDITIONERS), samples(data, crossover_data())
    problem = Problem(build_model("linear", x.shape[1], classes(y)), x, y, loss)
    predictions = linear_predictions(problem)
    directions = np.stack([predictions[norm]["direction"] for norm in ("linf", "l2")])
    lr, keys = flow_rates(optimizers, lr), [(name, eps) for name in optimizers for eps in epsilons]
    tasks = [(problem, name, CONDITIONERS[name](eps, b), lr[name], directions) for name, eps in keys]
    results = spread(crossover_job, tasks, jobs, report)
    slopes = {}
    for name in optimizers:
        mine = [r for r in results if r["optimizer"] == name and r["crossing"] is not None]
        crossed = np.array([(-math.log(r["eps"]), r["crossing"]) for r in mine])
        slopes[name] = np.polyfit(*crossed.T, 1)[0] if len(crossed) > 1 else None
    return {"data": {"x": x, "y": y}, "predictions": predictions, "results": results, "slopes": slopes}


def linear_predictions(problem):
    """The ℓ∞ and the L2 max-margin direction of a linear problem, what proves each, and their distance."""
    ones = np.ones((1, problem.model.size))
    corner, multipliers, unique = predict_linf(problem)
    svm = predict(problem, 0 * ones, ones)
    linf, l2 = unit(corner[None])[0], unit(svm)[0]
    margin, dual = problem.margins(corner).min(), np.abs(multipliers @ problem.jacobian(0 * ones)[0]).sum()
    proof = {"gap": dual / margin - 1, "multipliers": multipliers, "unique": unique}
    l2_margin, residual = normalised_margin(problem, svm)[0], certificate(problem, svm, ones)[0]
    return {
        "linf": {"direction": linf, "margin": margin} | proof,
        "l2": {"direction": l2, "margin": l2_margin, "kkt_residual": residual},
        "distance": norm(linf - l2),
    }


def crossover_job(task):
    """One flow from w = 0 with its distances to both directions.

    S falls below ε at about log 1/L = ½ log 1/ε; the flow goes on to six times that, and 50 more. Before that
    S forgets at the rate 1 - b: an lr well below it lets S follow g², and h ⊙ g the signs, while a larger one
    keeps the proportions that S once had.
    """
    problem, optimizer, conditioner, lr, directions = task
    end, path = -50 + 3 * min(0, math.log(conditioner.eps)), []
    done = lambda state: (state.log_loss <= end) | (state.steps >= 5 * SEPARATES_WITHIN)
    origin = start(problem, conditioner, np.zeros((1, problem.model.size)))
    for state in trajectory(Flow(problem, conditioner, lr), origin, done):
        say(how_far(f"{optimizer}, ε = {conditioner.eps:g},", state))
        if state.steps and not state.overflow[0]:
            path.append((-state.log_loss[0], *norm(unit(state.w) - directions)))
    log_inverse, linf, l2 = np.reshape(path, (-1, 3)).T
    finished = state.log_loss[0] <= end
    nearer = np.flatnonzero(linf < l2 - 1e-9)  # neither is, where the two coincide
    turned = finished and len(nearer) and nearer[-1] < len(path) - 1
    status = "ok" if finished else "overflow" if state.overflow[0] else "not finished"
    return {
        "optimizer": optimizer,
        "eps": conditioner.eps,
        "status": status,
        "log_inverse_loss": log_inverse,
        "distance_linf": linf,
        "distance_l2": l2,
        "crossing": log_inverse[nearer[-1]] if turned else None,
    }


DIAL = tuple(float(10.0**k) for k in range(-6, 11))  # AdaGrad's ε: from its own problem to gradient descent's
DIAL_STARTS = 40  # of each radius


def starts(
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
    """Maps of where every start of a neuron ends, and a dial that turns AdaGrad into gradient descent.

    For the slide "Discussions": AdaGrad is sensitive to initialization.
    radii     the lengths of the starts; `starts` of them are spread evenly over the sphere of each
    data      as in `direction`, of two classes in the plane
    lr        of the flow: a dict optimizer -> number, a number for all, None for 1, the slides' flow
    All else is as in `direction`.
    Returns {"data", "kkt_points": of the L2 problem, "results": one for each optimizer and radius, "dial":
    one for each ε of AdaGrad and radius}. In the dial `moved` is max_j ∫ g_j² dt / ε, how far h has come from
    GD's, and `ratio` the limit's L2 margin over the largest with its sign of v.
    Raises ValueError for data that are not two classes in the plane.
    """
    optimizers, radii = chosen("optimizers", optimizers, CONDITIONERS), np.ravel(radii).tolist()
    check_counts(starts=starts)
    check_positive(**{f"radius {k}": radius for k, radius in enumerate(radii, 1)})
    x, y = samples(data, default_data(seed))
    if x.shape[1] != 2 or classes(y) != 1:
        about = f"{x.shape[1]} features and {max(2, classes(y))} classes"
        raise ValueError(f"the map of starts is for two classes in the plane, not for {about}")
    problem = Problem(build_model("neuron", 2, classes(y)), x, y, loss)
    lr = flow_rates(optimizers, lr)
    keys = [(name, eps, radius, starts) for name in optimizers for radius in radii]
    points, number = kkt_points(problem), len(keys)
    if "adagrad" in optimizers and len(points):
        keys += [("adagrad", e, radius, DIAL_STARTS) for e in DIAL for radius in radii]
    tasks = [(problem, name, CONDITIONERS[name](e, b), lr[name], radius, n) for name, e, radius, n in keys]
    found = spread(starts_job, tasks, jobs, report)
    maps, dial = found[:number], found[number:]
    where = {(r["optimizer"], r["radius"]): r["w"] for r in maps}
    for r in maps:
        gd = where.get(("gd", r["radius"]), np.nan * r["w"])
        both = np.isfinite(r["w"] + gd).all(-1)
        r["limits"] = len(distinct(r["w"]))
        r["differs_from_gd"] = (norm(r["w"] - gd)[both] > SAME).mean() if both.any() else None
    for r in dial:
        with np.errstate(over="ignore"):
            r["moved"] = (r["S"] / r["eps"]).max(-1)
        r["ratio"] = share_of_best(problem, r["w"], points)
    for r in found:
        del r["S"]
        numbers = {"w", "kkt_residual", "margin", "moved", "ratio"} & set(r)
        r |= {name: with_nulls(r[name]) for name in numbers}
    kkt = {"w": points, "margin": normalised_margin(problem, points)}
    return {"data": {"x": x, "y": y}, "kkt_points": kkt, "results": maps, "dial": dial}


def starts_job(task):
    """All runs of one optimizer from n starts of one radius, with the seconds that they took."""
    problem, optimizer, conditioner, lr, radius, n = task
    w0 = radius * sphere(n)
    found, seconds = timed(ends, problem, conditioner, w0, lr)
    about = {"optimizer": optimizer, "eps": conditioner.eps, "radius": radius, "starts": w0}
    return about | found | {"seconds": seconds}
