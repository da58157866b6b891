"""The study `crossover`: what ε hides. RMSProp and Adam turn from one max-margin direction to another."""

import math

import numpy as np

from datasets import classes, crossover_data, given
from jobs import say, silent, spread
from limits import EXPLAINED
from minibias import Problem, certificate, norm, normalised_margin, predict, unit
from models import Linear
from optimizers import SEPARATES_WITHIN, Flow, conditioners, learning_rates, start, trajectory, with_epsilon
from plots import FAR, colour, groups, named, new_figure, panel
from solvers import largest_linf_margin

RATES = {None: 1.0}  # learning rates of the flow: the slides' flow
SMALLEST_EPSILON = 1e-290  # S must be resolved beside ε, and float64 ends at 1e-308


def measure(
    optimizers=("rmsprop", "adam"),
    epsilons=(1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3),
    data=None,
    b=0.9,
    lr=None,
    loss="exp",
    jobs=1,
    report=silent,
):
    """What ε hides: first towards the ℓ∞ max-margin direction, in the end towards the L2 one.

    The flow of a linear model from w = 0 for several ε, from 1e-290 on, by default on eight points in the
    plane. While ε is small beside the squared gradients RMSProp and Adam follow their signs, towards the ℓ∞
    max-margin direction; once the gradients are small beside sqrt(ε) they turn to the L2 one. The crossing is
    the last log 1/L that is nearer to ℓ∞. The smaller --lr is beside 1 - b, the closer S follows the squared
    gradients, and the flow the signs.

    example: python experiments.py crossover --lr 0.01 --epsilons 1e-5,1e-40,1e-80

    optimizers  names in CONDITIONERS, or a dict name -> conditioner, each of which is taken at every ε
    data        as in `direction.measure`, of two classes or more
    lr          of the flow: a dict optimizer -> number, a number for all, None as in `RATES`
    b, loss, jobs, report   as in `direction.measure`
    Returns {"data", "predictions": both directions with their proofs, "results": one for each optimizer and
    ε, "slopes": optimizer -> slope of the crossings against log 1/ε}. Raises ValueError for an ε that float64
    cannot resolve, NotSeparable for data that no linear model separates.
    """
    epsilons = np.ravel(epsilons).tolist()
    smallest = min(epsilons, default=0)
    if not smallest >= SMALLEST_EPSILON:
        least = f"{SMALLEST_EPSILON:g} or more, what float64 resolves"
        raise ValueError(f"argument --epsilons: expected {least}, not {smallest:g}")
    optimizers, (x, y) = conditioners(optimizers, b=b), given(data, crossover_data())
    problem = Problem(Linear(x.shape[1], classes(y)), x, y, loss)
    predictions = predict_both(problem)
    directions = np.stack([predictions[name]["direction"] for name in ("linf", "l2")])
    lr = learning_rates(optimizers, lr, RATES)
    tasks = [
        (problem, name, with_epsilon(conditioner, eps), lr[name], directions)
        for name, conditioner in optimizers.items()
        for eps in epsilons
    ]
    results = spread(job, tasks, jobs, report)
    slopes = {name: slope(own) for name, own in groups(results, "optimizer").items()}
    return {"data": {"x": x, "y": y}, "predictions": predictions, "results": results, "slopes": slopes}


def table(found):
    """Both predictions, a row for each optimizer and ε, and the slopes: lines."""
    linf, l2, results = found["predictions"]["linf"], found["predictions"]["l2"], found["results"]
    yield f"ℓ∞ max margin {linf['margin']:.6g}, duality gap {linf['gap']:.1e}"
    yield f"L2 max margin {l2['margin']:.6g}, KKT residual {l2['kkt_residual']:.1e}"
    yield f"distance between the two directions {found['predictions']['distance']:.4f}"
    if not linf["unique"]:
        yield "the ℓ∞ max-margin direction may not be the only one, so distances to it say little"
    yield (
        f"{'optimizer':9} {'ε':>7} {'½ log 1/ε':>10} {'distance to ℓ∞ there':>21} {'crossing at log 1/L':>20}"
        f" {'distance to L2 at the end':>26}"
    )
    for r in results:
        half, at = -math.log(r["eps"]) / 2, "none" if r["crossing"] is None else f"{r['crossing']:.1f}"
        about = f"{r['optimizer']:9} {r['eps']:7g} {half:>10.1f}"
        if r["status"] != "ok":
            reached = max(r["log_inverse_loss"], default=0)
            yield f"{about} {EXPLAINED[r['status']]}, at log 1/L = {reached:.3g}"
            continue
        before = r["distance_linf"][np.searchsorted(r["log_inverse_loss"], half)]
        yield f"{about} {before:>21.4f} {at:>20} {r['distance_l2'][-1]:>26.4f}"
    for optimizer, value in found["slopes"].items():
        shown = "undefined" if value is None else f"{value:.3f}"
        yield f"{optimizer}: crossing against log 1/ε, slope {shown}"
    if any(r["status"] == "ok" and r["crossing"] is None for r in results):
        yield "none: the run was never nearer to ℓ∞, or still is at its end"


def figure(found):
    """Distances to both directions along log 1/L, darker for smaller ε, and the crossings against log 1/ε."""
    optimizers = groups(found["results"], "optimizer")
    epsilons = list(groups(found["results"], "eps"))
    figure = new_figure(max(6, 4.2 * len(optimizers)), 7.2)
    cells = figure.subplot_mosaic([list(optimizers), ["crossings"] * len(optimizers)], height_ratios=(1.3, 1))
    *panels, crossings = cells.values()
    for axes, (optimizer, own) in zip(panels, optimizers.items()):
        for r in own:
            depth = 1 - 0.55 * epsilons.index(r["eps"]) / max(1, len(epsilons) - 1)
            draw_distances(axes, r, depth)
        for dash, label in (("-", r"to $\ell_\infty$"), ("--", "to L2"), ("-o", "crossing")):
            axes.plot([], [], dash, color="0.3", ms=5, mec="white", label=label)
        panel(axes, FAR, "distance to max-margin direction", named(optimizer), xscale="log", ylim=(0, None))
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        draw_crossings(crossings, optimizer, crossed(own), found["slopes"][optimizer])
    title = r"last time nearer to $\ell_\infty$ than to L2"
    panel(crossings, r"$\log 1/\varepsilon$", r"crossing, $\log 1/L$", title)
    crossings.legend(fontsize=9, frameon=False)
    return figure


# ------------------------------------------------------------------------------------ what is measured


def predict_both(problem):
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


def predict_linf(problem):
    """The w with ||w||_∞ <= 1 of largest min_i q_i(w) for a linear model, to which sign descent converges.

    Returns w (p,), multipliers λ >= 0 (N,) of sum 1, and `unique`, which if true proves that there is no
    other such w. By linear duality min_i q_i(w) <= ||Σ λ_i ∂q_i||_1 for any such w and λ: equality
    certifies both. Raises NotSeparable for data that the model cannot separate, ValueError for a model of
    degree above 1.
    """
    if problem.model.degree > 1:
        raise ValueError(
            f"the ℓ∞ max-margin direction is for linear models, not degree {problem.model.degree}"
        )
    return largest_linf_margin(problem.jacobian(np.zeros((1, problem.model.size)))[0])


def job(task):
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
        at = f"log L = {state.log_loss[0]:.4g} after {state.steps} steps"
        say(f"{optimizer}, ε = {conditioner.eps:g}, at {at}")
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


def crossed(results):
    """log 1/ε and log 1/L of the crossings: (2, number)."""
    spots = [(-math.log(r["eps"]), r["crossing"]) for r in results if r["crossing"] is not None]
    return np.reshape(spots, (-1, 2)).T


def slope(results):
    """The slope of the crossings against log 1/ε, None for fewer than two."""
    spots = crossed(results)
    return np.polyfit(*spots, 1)[0] if spots.shape[1] > 1 else None


# ------------------------------------------------------------------------------------ what is drawn


def draw_distances(axes, r, depth):
    """Both distances of a run along log 1/L, with its crossing, in the optimizer's colour of some depth."""
    from matplotlib.colors import to_rgb

    shade = 1 - depth * (1 - np.array(to_rgb(colour(r["optimizer"]))))
    shown = r["log_inverse_loss"] >= 1
    at, linf, l2 = (r[key][shown] for key in ("log_inverse_loss", "distance_linf", "distance_l2"))
    axes.plot(at, linf, color=shade, lw=1.7, label=rf"$\varepsilon = 10^{{{np.log10(r['eps']):.3g}}}$")
    axes.plot(at, l2, "--", color=shade, lw=1.2)
    if r["crossing"] is not None:
        spot = r["crossing"], np.interp(r["crossing"], at, linf)
        axes.plot(*spot, "o", color=shade, ms=6, mec="white", mew=0.8, zorder=3)


def draw_crossings(axes, optimizer, spots, slope):
    """The crossings of an optimizer against log 1/ε, with the line of their slope."""
    line = "" if slope is None else f", slope {slope:.2f}".replace("-0.00", "0")
    axes.plot(*spots, "o", color=colour(optimizer), ms=5, mfc="none", label=named(optimizer) + line)
    if line:
        x, y = spots
        axes.plot(x, y.mean() + slope * (x - x.mean()), color=colour(optimizer), lw=1.2)
