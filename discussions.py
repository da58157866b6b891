"""What the slides discuss, observe in experiments and cite, each statement beside what it measures.

The statements are made as in `theorems.py`.
"""

import math

import numpy as np

from cases import row
from minibias import certificate, norm, normalised_margin, unit
from optimizers import AdaGrad
from starts import distinct, ends, kkt_points, share_of_best, sphere

DISCUSSIONS, QIAN = "Discussions", "Related Work: Qian and Qian (2019)"
MOMENTUM = "not on the slides: Wang et al. (2022)"


def adagrad_does_not_maximise_the_margin(case):
    """Slide "Discussions": RMSProp, Adam and GD share their margin, while AdaGrad has worse performance."""
    if case.optimizer == "adagrad":
        w = case.end
        # far from the 1e-6 that the others' limits keep
        residual = np.median(certificate(case.problem, w, np.ones_like(w)))
        text = "the limit's KKT residual for the unweighted problem, median"
        yield row(f"not_l2.{case}", DISCUSSIONS, text, residual, ">=", 0.1)


def margin_is_at_least_adagrads(case, adagrad):
    """Slide "Discussions": in terms of margin AdaGrad has worse performance than RMSProp and Adam."""
    same = np.sign(case.prediction[:, 2]) == np.sign(adagrad.prediction[:, 2])
    if case.optimizer in ("rmsprop", "adam") and same.any():
        margin, other = (normalised_margin(c.problem, c.prediction) for c in (case, adagrad))
        text = "L2 margin at the prediction minus AdaGrad's, smallest over the runs that end with "
        text += f"its sign of v ({same.sum()} of {len(same)})"
        # equal margins are possible; 1e-9 is the prediction's own accuracy
        yield row(f"margin.{case}", DISCUSSIONS, text, (margin - other)[same].min(), ">=", -1e-9)


def directions_of_h(case, adagrad):
    """Slide "Directions of h_∞": RMSProp's and Adam's are isotropic, AdaGrad's varies with initialization."""
    slide, name = "Directions of h_∞", f"h_varies.{case.optimizer}"
    h, text = unit(case.flow.h), "distance between directions of h_∞, largest from run 0"
    if case.optimizer in ("rmsprop", "adam"):  # rounding, as in `h_becomes_isotropic`
        yield row(name, slide, text, norm(h - h[0]).max(), "<=", 1e-8, "observation")
    if case.optimizer == "adagrad":  # 6°, which one sees in a figure
        yield row(name, slide, text, norm(h - h[0]).max(), ">=", 0.1, "observation")
        w = unit(case.end)
        alike = np.sign(w[:, 2]) == np.sign(w[0, 2])
        text = "distance between limit directions with one sign of v, largest from run 0"
        distance = norm(w[alike] - w[0]).max()
        yield row("direction_varies.adagrad", slide, text, distance, ">=", 0.1, "observation")


def forgetting_and_epsilon_speed_training_up(case, adagrad):
    """Slide "Discussions": the exponential weighted design and ε accelerate training before convergence."""
    if case.optimizer not in ("rmsprop", "adam"):
        return
    conditioners = [type(case.conditioner)(eps, case.conditioner.b) for eps in (1e-3, 1e-7)]
    large, small = map(case.steps_to_separate, conditioners)
    than_adagrad = "it separates sooner than AdaGrad at learning rate 0.1"
    for name, sooner, later, what in (
        ("faster_than_adagrad", case.separation, adagrad.separation, than_adagrad),
        ("epsilon_speeds_up", large, small, "ε = 1e-3 separates sooner than 1e-7"),
    ):
        text = f"sign test that {what}, medians {np.median(sooner):g} and {np.median(later):g} steps"
        # chance alone does as well once in a hundred
        chance = sign_test(sooner, later)
        yield row(f"{name}.{case.optimizer}", DISCUSSIONS, text, chance, "<=", 0.01, "observation")


def starts_over_a_sphere(case):
    """Slide "Discussions": AdaGrad is sensitive to initialization; RMSProp and Adam share GD's problem."""
    w = ends(case.problem, case.conditioner, sphere(200))["w"]
    count = np.isfinite(w).all(-1).sum()
    if case.conditioner.isotropic:
        points = kkt_points(case.problem)
        # both are good to rounding; 1e-6 is what a limit of any model is held to
        text = f"limits from {count} starts: distance to the nearest of GD's {len(points)} KKT points"
        text += ", largest"
        distance = np.fmax.reduce(norm(w[:, None] - points).min(1)) if count >= 180 else np.nan
        yield row(f"starts.isotropic.{case}", DISCUSSIONS, text, distance, "<=", 1e-6)
    if case.optimizer == "adagrad":
        # half of the starts; the other optimizers' problem has two KKT points
        text = f"limits from {count} starts: how many are different, told apart at 1e-6"
        yield row(f"starts.{case}", DISCUSSIONS, text, len(distinct(w)), ">=", 100, "observation")


def large_epsilon_turns_adagrad_into_gd(case):
    """Slide "Discussions": AdaGrad's margin is worse; with ε far above ∫ g², though, its h is GD's."""
    if case.optimizer == "adagrad":
        eps, points = 1e10, kkt_points(case.problem)
        found = ends(case.problem, AdaGrad(eps), sphere(40))
        near = (found["S"] / eps).max(-1) < 1e-3
        ratio = share_of_best(case.problem, found["w"], points)[near]
        # the components of h differ by 1e-3 at most, and the margin is flat where it is largest
        text = f"L2 margin over the largest where max ∫ g² dt / ε < 1e-3, smallest of {len(ratio)} runs"
        yield row(f"dial.{case}", DISCUSSIONS, text, ratio.min(initial=np.inf), ">=", 0.999, "observation")


def momentum_changes_no_rate(case):
    """Slide "Main Theorem": Adam is without momentum there; Wang et al. (2022) have it for linear models."""
    last, moved = max(case.snapshots), case.with_momentum
    some = len(moved[last].w)
    both = moved[last], case.snapshots[last]
    with_it, plain = (case.residual(s.w[:some], s.h[:some]) for s in both)
    # at one rate in log 1/L the ratio tends to a constant, which hangs on what the first steps do to the
    # direction: a factor of two is left for it, where another rate would have no bound
    text = f"KKT residual at step {last:,} with momentum 0.9 over that without, median of {some} runs"
    yield row(f"momentum.{case}", MOMENTUM, text, np.nanmedian(with_it / plain), "<=", 2.0, "observation")


def sign_test(sooner, later):
    """The probability of at least as many runs with sooner < later by chance alone; ties are left out."""
    wins, losses = int((sooner < later).sum()), int((sooner > later).sum())
    return sum(math.comb(wins + losses, k) for k in range(wins, wins + losses + 1)) / 2 ** (wins + losses)


def direction_of_adagrad_for_a_linear_model(example):
    """Slide "Related Work": Qian and Qian prove the convergent direction of AdaGrad for linear models."""
    w, weighted, unweighted = example.directions
    text = f"AdaGrad, linear, learning rate {example.lr:g}: the limit, at {example.degrees[0]:.2f}°, "
    text += "from its weighted max-margin direction"
    # the linear model's limit is exact to 1e-12; 1e-6 is what the other limits are held to
    yield row(f"qian.predicted.{example.lr:g}", QIAN, text, norm(w - weighted), "<=", 1e-6)
    # it is 14° = 0.25 away; the rest of S beyond 1e5 steps moves it by less than 1e-4
    text = f"the same limit from the L2 max-margin direction, at {example.degrees[2]:.2f}°"
    yield row(f"qian.not_l2.{example.lr:g}", QIAN, text, norm(w - unweighted), ">=", 0.1)


def direction_of_adagrad_depends_on_the_learning_rate(one, other):
    """Slide "Related Work": the same, where the direction varies with the learning rate."""
    text = f"the limits of the learning rates {one.lr:g} and {other.lr:g} from each other, "
    text += f"{abs(one.degrees[0] - other.degrees[0]):.2f}°"
    # a tenth of a degree; the rest of S moves either limit by 0.003°
    distance = norm(one.directions[0] - other.directions[0])
    yield row("qian.learning_rate", QIAN, text, distance, ">=", 0.0017, "observation")
