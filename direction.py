"""The study `direction`: h_∞, margins and limits of many starts (slide "Directions of h_∞")."""

import copy
import math
from collections import deque
from functools import cache

import numpy as np

import plots
from datasets import classes, default_data, given
from jobs import say, silent, spread, timed, with_nulls
from limits import AT_REST, CERTIFIED, EXPLAINED, fate, margin_path, put, to_rest
from minibias import (
    Problem,
    certificate,
    certify,
    check_positive,
    norm,
    normalised_margin,
    predict,
    unit,
)
from models import MLP, Linear, linear
from optimizers import chosen, conditioners, descend, learning_rates
from plots import FAR, angle_of, colour, groups, new_figure, normal

RATES = {None: 0.1, "gd": 0.001}  # learning rates of the discrete form, None for all others
FORMS = ("discrete", "flow", "limit")
WAY = -np.geomspace(1, -AT_REST, 25)  # log L where a way to a limit is recorded


def measure(
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
    """The directions of h_∞ and the margins of many initialisations on a 2-D data set.

    The slides' "Directions of h_∞": every optimizer from many initialisations on a small data set, by default
    the authors', as the discrete update, as the flow (until log L <= -50) and in the limit of the flow, a KKT
    point of the max-margin problem. It is certified, at kinks of a network with Clarke's subdifferential, and
    compared with a predicted one. With several hidden units there are many KKT points: the predicted one is
    then the one found from where the flow stopped, not a promise. RMSProp's and Adam's h_∞ is isotropic,
    AdaGrad's is not.

    example: python experiments.py direction --data points.csv --model mlp:8 --runs 20

    optimizers  names in CONDITIONERS, None for all of them, or a dict name -> conditioner
    forms       some of "discrete", `steps` updates; "flow", until log L <= -50; "limit", where the flow ends
    runs        initialisations, the same for all optimizers
    model       a name as in `build_model`, with σ's `slope` in [0, 1] below 0, or a model of one's own
    data        (x, y), x (N, d) and y (N,), or the name of a file; None for the authors' data
    constant    whether a feature of ones is appended to x
    eps, b, loss   as in `optimizers.Conditioner` and `Problem`; a dict of optimizers has its own ε and b
    lr          a dict optimizer -> learning rate of the discrete form, a number for all, None as in `RATES`
    momentum    of the discrete form, in [0, 1)
    seed        of the starts and of the authors' data
    jobs        processes; `report` gets how far they are, as in `jobs.spread`
    Returns {"data": {x, y}, "results": a dict for each optimizer and form, arrays over the runs, "ways":
    optimizer -> the `way` of its runs to their limits, for a neuron of two features, "model": the object}.
    Raises ValueError for values out of range.
    """
    optimizers, forms = conditioners(optimizers, eps, b), chosen("forms", forms, FORMS)
    check_positive(whole=True, runs=runs, steps=steps)
    x, y = given(data, default_data(seed))
    x = np.column_stack([x, np.ones(len(x))]) if constant else x
    model = build_model(model, x.shape[1], classes(y), slope) if isinstance(model, str) else model
    problem = Problem(model, x, y, loss)
    if momentum and "discrete" not in forms:
        raise ValueError("argument --momentum: it is the discrete form's, expected --forms with discrete")
    if not hasattr(problem.model, "init"):
        raise ValueError(f"{type(model).__name__} must have init(rng, runs), which returns w (runs, p)")
    w0 = problem.model.init(np.random.default_rng([seed, 1]), runs)
    lr = learning_rates(optimizers, lr, RATES)
    tasks = [(problem, name, h, w0, forms, lr[name], steps, momentum) for name, h in optimizers.items()]
    done = spread(job, tasks, jobs, report)
    results = [result for results, _ in done for result in results]
    ways = {name: way for name, (_, way) in zip(optimizers, done) if way}
    return {"data": {"x": x, "y": y}, "results": results, "ways": ways, "model": model}


def table(found):
    """A row for each optimizer and form, then what the limits show, then what went wrong: lines."""
    results = found["results"]
    yield (
        f"{'optimizer':9} {'form':8} {'separated':>9} {'angle of h to (1, ..., 1)':>25}"
        f" {'normalised margin':>31}  seconds"
    )
    yield (
        f"{'':9} {'':8} {'runs':>9} {'median':>12} {'largest':>12}"
        f" {'median':>9} {'smallest':>10} {'largest':>10}"
    )
    for r in results:
        angle, margin = angle_to_ones(r["h_inf"]), r["margin"]
        yield (
            f"{r['optimizer']:9} {r['form']:8} {r['separated'].sum():>5}/{len(margin):<3} "
            f"{np.median(angle):>11.2g}° {angle.max():>11.2g}° "
            f"{np.median(margin):>9.4g} {margin.min():>10.4g} {margin.max():>10.4g} {r['seconds']:>8.2f}"
        )
    for r in results:
        if r["form"] == "limit" and (r["status"] == "ok").any():
            yield from about_limits(r)
    for r in results:
        about = f"{r['optimizer']}, {r['form']}:"
        for status in sorted(set(r["status"]) - {"ok"}):
            mine = r["status"] == status
            yield f"{about} {mine.sum()} of {len(mine)} runs: {reason(status, r, mine, found['data']['x'])}"
        still = (r["status"] == "ok") & (r["w"] == r["w0"]).all(-1)
        if r["form"] == "flow" and still.any():
            yield f"{about} {still.sum()} of {len(still)} runs begin below log L = {AT_REST:g}"
    if not any(r["separated"].any() for r in results):
        yield "no run separates the data, so the theorem says nothing about them"


def figure(found):
    """Directions of h_∞, normalised margins, errors and, for two classes in the plane, decisions.

    A neuron in the plane has its h_∞ on the positive octant and its ways to the limits too.
    """
    if in_the_plane(found["model"]):
        heights = [3, 2.8, 3.7] if found["ways"] and predicted(found) else [3, 3.7]
        figure = new_figure(11, sum(heights))
        top, *middle, bottom = figure.subfigures(len(heights), 1, height_ratios=heights)
        optimizers = groups(found["results"], "optimizer").values()
        for axes, own in zip(top.subplots(1, len(optimizers), squeeze=False)[0], optimizers):
            plots.octant(axes, own)
        words = r"directions of $h_\infty$ of all runs on the positive octant; star: $(1,1,1)/\sqrt{3}$"
        top.suptitle(words, fontsize=11)
        for part in middle:
            draw_ways(part, found)
        *left, right = bottom.subplots(1, 3 if predicted(found) else 2)
        plots.decisions(right, *found["data"].values(), found["results"], found["model"], neuron=True)
    else:
        plane = found["data"]["x"].shape[1] == 2 and set(found["data"]["y"]) == {-1, 1}
        panels = 2 + bool(predicted(found)) + plane
        figure = new_figure(*((11, 7.6) if panels == 4 else (14, 3.8)))
        right, *left = figure.subplots(*((2, 2) if panels == 4 else (1, panels))).ravel()
        angle = lambda r: angle_to_ones(r["h_inf"])
        plots.strips(right, found["results"], angle, r"angle of $h_\infty$ to $(1,\ldots,1)$ (degrees)")
        if plane:
            plots.decisions(left[-1], *found["data"].values(), found["results"], found["model"])
    draw_margins(left[0], found)
    if predicted(found):
        label = "distance of the limit's direction\nto the predicted one"
        plots.strips(left[1], predicted(found), errors, label)
        left[1].set_yscale("log")
    return figure


# ------------------------------------------------------------------------------------ what is measured


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


def job(task):
    """Every form asked for of one optimizer: a list of results, and the `way` of its runs or None."""
    problem, optimizer, conditioner, w0, forms, lr, steps, momentum = task
    rested = cache(lambda scale: timed(flow_to_rest, problem, conditioner, w0, scale))
    results, way = [], None
    for form in forms:
        extra = {}
        if form == "discrete":
            args = problem, conditioner, w0, lr, steps, (), momentum
            (end, _), seconds = timed(descend, *args)
            w, h, log_loss, status = end.w, end.h, end.log_loss, fate(problem, end)
        else:
            (w, h, status, states), seconds = rested(safe_scale(problem, conditioner, form))
            log_loss = states[-1].log_loss
        if form == "flow":
            status = np.where((status == "ok") & (log_loss > AT_REST), "h still moving", status)
        if form == "limit":
            good = status == "ok"
            (w, extra, path), more = timed(limit, problem, w, h, good)
            way = ways(states, path, good) if in_the_plane(problem.model) else None
            status = np.where(good & ~(extra["kkt_residual"] <= CERTIFIED), "still turning", status)
            extra = {name: with_nulls(values) for name, values in extra.items()}
            extra["reason"] = put(np.full(len(w), None), good, path[-1].reason)
            log_loss, seconds = np.full(len(w), None), seconds + more
        margin = normalised_margin(problem, w)
        results.append(
            {"optimizer": optimizer, "form": form, "w0": w0, "w": w, "h_inf": h, "log_loss": log_loss}
            | {"margin": margin, "separated": margin > 0, "status": status, "seconds": seconds}
            | extra
        )
    return results, way


def flow_to_rest(problem, conditioner, w0, scale):
    """The flow to rest on x / scale: w, h and status, for x, and its states, all for a neuron's way."""
    small = copy.copy(problem)
    small.x = problem.x / scale
    states = deque(maxlen=None if in_the_plane(problem.model) else 1)

    def watch(state):
        states.append(state)
        say(how_far(type(conditioner).__name__, state))

    w, h, status = to_rest(small, conditioner, w0, watch=watch)
    return w / scale, h, status, states


def how_far(name, state):
    """A few words on a flow that is under way."""
    highest = state.log_loss[state.alive].max(initial=-np.inf)
    return f"{name} at log L = {highest:.4g} after {state.steps} steps"


def safe_scale(problem, conditioner, form):
    """What to divide x by before the flow that leads to a limit, 1 if nothing is needed.

    With large data the loss at the start is beyond float64. The limit of a linear model is that of any other
    scale of x, if h_∞ is isotropic whatever the path.
    """
    largest = float(abs(problem.x).sum(1).max())  # that a margin can be at w in (-1, 1)^d
    if form != "limit" or not linear(problem.model) or not conditioner.isotropic or largest < 100:
        return 1.0
    return 2.0 ** round(math.log2(largest))


def limit(problem, w, h, good):
    """Where the flow of the `good` runs (runs,) ends, from w (runs, p) with h at its limit.

    Returns w, scaled to q_min = 1 in these runs; what was measured, a dict of arrays over the runs, NaN in
    the others; and the states of the margin flow, of the `good` runs alone, all of them for a neuron in the
    plane, else the last.
    """
    at, h = w[good], h[good]
    path = deque(margin_path(problem, at, h), None if in_the_plane(problem.model) else 1)
    end = path[-1]
    try:
        goal = unit(predict(problem, at, h))
    except ValueError:  # no prediction, since the data are too badly scaled for one
        goal = np.full(at.shape, np.nan)
    found = certify(problem, end.w, h)
    measured = {
        "predicted": goal,
        "direction_error": norm(unit(end.w) - goal),
        "kkt_residual": found.residual,
        "kkt_residual_unweighted": certificate(problem, end.w, np.ones_like(h)),
        "kkt_residual_one_gradient": found.one_gradient,
        "kinks": found.kinks,
        "log10_log_inverse_loss": end.far,
        "last_move": end.last_move,
    }
    nothing = lambda values: np.full((len(w), *values.shape[1:]), np.nan)
    return put(w, good, end.w), {k: put(nothing(v), good, v) for k, v in measured.items()}, path


def in_the_plane(model):
    """Whether a model is a neuron of two features, whose ways to its limits are shown."""
    return isinstance(model, MLP) and model.sizes == (2, 1, 1)


def ways(states, path, good):
    """The ways of the `good` runs: {"far": log10 of log 1/L, (places, runs), "w": (places, runs, 3)}.

    They have the places where the flow passes each of WAY, then all `states` of the margin flow's `path`.
    """
    log_loss = np.array([state.log_loss[good] for state in states])
    passed = np.array([(log_loss <= level).argmax(0) for level in WAY])
    passed[-1] = len(states) - 1  # where the flow ends
    w = np.array([state.w[good] for state in states])[passed, np.arange(log_loss.shape[1])]
    far = np.repeat(np.log10(-WAY)[:, None], log_loss.shape[1], axis=1)
    far[-1] = np.log10(-log_loss[-1])
    return {
        "far": np.concatenate([far, *(state.far[None] for state in path)]),
        "w": np.concatenate([w, *(state.w[None] for state in path)]),
    }


# ------------------------------------------------------------------------------------ what is printed


def angle_to_ones(h):
    """The angle in degrees between h (..., p) and (1, ..., 1): (...), exact for small angles too."""
    return 2 * np.degrees(np.arcsin(norm(unit(h) - unit(np.ones(h.shape[-1]))) / 2))


def about_limits(r):
    """What the limits in a result show, of the runs that have a certified one."""
    ok, optimizer = r["status"] == "ok", r["optimizer"]
    numbers = lambda *names: [r[name][ok].astype(float) for name in names]
    error, kinks, far = numbers("direction_error", "kinks", "log10_log_inverse_loss")
    residuals = "kkt_residual", "kkt_residual_unweighted", "kkt_residual_one_gradient"
    residual, unweighted, one_gradient = numbers(*residuals)
    known = np.isfinite(error)
    words = f"direction error at most {error[known].max():.1e}" if known.any() else "no prediction"
    if 0 < known.sum() < len(error):
        words += f" ({known.sum()} of {len(error)} predicted)"
    if error[known].max(initial=0) > 1e-3:
        words += " (another KKT point, of which a network has many)"
    yield (
        f"{optimizer}, limit: {words}, KKT residual at most {residual.max():.1e} with h_∞, "
        f"median {np.median(unweighted):.1e} with h = 1"
    )
    if kinks.any():
        yield (
            f"{optimizer}, limit: {np.count_nonzero(kinks)} of {len(kinks)} runs on kinks, where one "
            f"gradient per sample leaves a residual of {np.median(one_gradient[kinks > 0]):.1e}, median"
        )
    yield f"{optimizer}, limit: reached at log 1/L up to 10^{far.max():.0f}"


def reason(status, r, mine, x):
    """What stopped these runs of a result on the data x, as far as the result shows it."""
    started = (r["w"] == r["w0"]).all(-1) & mine  # and never moved
    if status in ("overflow", "not separated") and started.any() and abs(x).max() > 1e3:
        return (
            f"{status}, {started.sum()} at the start: float64 cannot follow the loss of data as large as "
            f"{abs(x).max():.0e}; divide the features by that"
        )
    if status == "not separated" and not x.any(-1).all():
        zero = np.flatnonzero(~x.any(-1))[0] + 1
        return f"not separated, since sample {zero} is all zeros: its margin is 0 for every w"
    if status == "not separated" and r["form"] != "discrete" and started.any():
        return f"{EXPLAINED[status]}; {started.sum()} have no gradient at their start, another may do better"
    if status == "still turning":
        return f"{EXPLAINED[status]}; run {mine.argmax()}: {r['reason'][mine.argmax()]}"
    return EXPLAINED[status]


# ------------------------------------------------------------------------------------ what is drawn


def errors(r):
    """The distances of a limit's directions to the predicted ones, for a logarithmic axis."""
    return np.maximum(r["direction_error"].astype(float), 1e-17)


def predicted(found):
    """The results of form limit with a prediction."""
    return [r for r in found["results"] if r["form"] == "limit" and np.isfinite(errors(r)).any()]


def draw_ways(part, found):
    """The angle of the decision normal on the ways of the first thirty runs, against log 1/L.

    The predictions are triangles at the right edge.
    """
    x, y = found["data"]["x"], found["data"]["y"]
    angle = lambda w: angle_of(normal(w), middle=y @ x)  # within 90° of every normal that separates
    limits = [r for r in found["results"] if r["form"] == "limit"]
    row = part.subplots(1, len(limits), squeeze=False, sharey=True)[0]
    for axes, r in zip(row, limits):
        way, hue = found["ways"][r["optimizer"]], colour(r["optimizer"])
        goals = r["predicted"].astype(float)
        goals = goals[np.isfinite(goals).all(-1)][:30]
        axes.plot(10 ** way["far"][:, :30], angle(way["w"])[:, :30], color=hue, lw=0.7, alpha=0.7)
        edge = {"color": hue, "transform": axes.get_yaxis_transform(), "clip_on": False}
        if len(goals):  # no mark at all would let the layout collapse
            axes.plot(0 * goals[:, 0] + 1.035, angle(goals), "<", ms=7, mec="white", mew=0.5, **edge)
        axes.set(xscale="log", xlim=(1, 1e6), xlabel=FAR)
        axes.grid(color="0.92")
    row[0].set_ylabel("angle of the decision\nline's normal (degrees)")
    words = "the way there (30 runs at most; margin flow from log 1/L = 50 on), triangles: predicted"
    part.suptitle(words, fontsize=11)


def draw_margins(axes, found):
    """The normalised margins, with a legend of the forms."""
    margin = lambda r: r["margin"]
    plots.strips(axes, found["results"], margin, r"normalised margin $q_{\min}/\|w\|^D$")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.3 * high) if high > 0 else low)  # far below 0 are runs that do not separate
    for form in groups(found["results"], "form"):
        axes.plot([], [], plots.MARKS[form], color="0.3", mfc="none", label=form)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
