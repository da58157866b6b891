"""The slides' statements: theorems, discussions and experiments, each beside what it measures.

A statement is a generator. Its docstring is the slide's claim in a line. It yields rows of the table of
claims, each with a bound, whose reason stands in a comment above it. `claims.py` measures what several share.

To add a statement, write it here, under `@about(...)` what it is about. The file's order is the table's. What
it asserts of every conditioner must hold for one that somebody adds to CONDITIONERS. What it asserts of some
alone asks for their names.
"""

import math
from itertools import pairwise

import numpy as np
from autograd.core import make_vjp

from datasets import default_data, exclusive_or, three_classes
from limits import TURN, Project, begin, margin_flow
from minibias import certificate, certify, norm, normalised_margin, predict, unit
from models import MLP, Linear
from optimizers import AdaGrad, Flow, follow
from starts import distinct, ends, kkt_points, share_of_best, sphere

PROOF, THEOREM, EXTENSIONS = "Proof Sketch", "Main Theorem", "Extensions"
DISCUSSIONS, MOMENTUM = "Discussions", "not on the slides: Wang et al. (2022)"
LYU, QIAN = "Related Work: Lyu and Li (2019)", "Related Work: Qian and Qian (2019)"
LEVELS = 10.0 ** np.arange(3, 14)  # log 1/L on the way to the limit
STATEMENTS = {}  # what statements are about -> the statements, in the order of this file


def about(subject):
    """A decorator that registers a statement under what it is about: see `claims.measure`."""

    def register(statement):
        STATEMENTS.setdefault(subject, []).append(statement)
        return statement

    return register


def row(id, slide, statement, measured, relation, bound, kind="theorem"):
    """A row of the table, as in the result files. What is not finite is None and does not hold.

    statement   what is measured, in words
    kind        "theorem", which must hold, or "observation", which the slides make in experiments
    """
    finite = math.isfinite(measured)
    holds = finite and bool(measured <= bound if relation == "<=" else measured >= bound)
    named = {"id": id, "slide": slide, "statement": statement, "kind": kind}
    value = float(measured) if finite else None
    return named | {"measured": value, "relation": relation, "bound": bound, "holds": holds}


@about("the models")
def models_are_homogeneous(seed):
    """Slide "Assumptions": the neural network is homogeneous with respect to its parameters."""
    rng, defects = np.random.default_rng([seed, 0]), []
    for sizes in ((2, 1), (2, 1, 1), (3, 4, 1), (2, 5, 4, 1), (2, 4, 3)):
        for slope, clarke in ((0.5, 0.5), (0.5, 0.8), (0.5, 1), (0, 0), (0, 1)):
            model = MLP(sizes, slope, clarke)
            w, x = (  # half of them multiples of 1/2, so that units are at kinks
                np.concatenate([rng.normal(size=(5, d)), rng.integers(-1, 2, (5, d)) / 2])
                for d in (model.size, sizes[0])
            )
            backward, phi = make_vjp(lambda w: model(w, x), w)
            weights = rng.normal(size=phi.shape)
            outputs = (weights * phi).reshape(len(w), -1).sum(-1)
            euler = (w * backward(weights)).sum(-1) - model.degree * outputs
            scaled = model(3 * w, x) / 3**model.degree - phi
            defects.append([np.abs(a).max() / np.abs(phi).max() for a in (scaled, euler)])
    scaled, euler = np.max(defects, axis=0)
    # 1e-12: four layers of sums of a few products, each rounded to 1e-16
    yield row("homogeneity", "Assumptions", "Φ(αw, x) = α^D Φ(w, x), relative defect", scaled, "<=", 1e-12)
    text = "<w, ∂Φ> = D Φ for every Clarke choice, relative defect"
    yield row("euler", "Assumptions", text, euler, "<=", 1e-12)


@about("a case")
def loss_tends_to_zero(case):
    """Slide "Proof Sketch": the loss converges to zero."""
    # the flow is followed to there: a run that stalls stays above
    text = "largest log L that the flow reaches"
    yield row(f"loss_to_zero.flow.{case}", PROOF, text, case.flow.log_loss.max(), "<=", -50.0)
    # L ~ 1/t or faster would give -log 2 over a doubling of t; half of it leaves room for logarithms
    fall = case.snapshots[10_000].log_loss - case.snapshots[5000].log_loss
    text = "change of log L from step 5,000 to 10,000, largest"
    yield row(f"loss_to_zero.discrete.{case}", THEOREM, text, fall.max(), "<=", -0.35)


@about("a case")
def h_of_adagrad_converges(case):
    """Slide "Proof Sketch": for AdaGrad h_∞ exists and is non-zero."""
    if case.optimizer != "adagrad":
        return
    # what is left of ∫ g² after log L = -25 is of the order e^-25 = 1e-11
    text = "relative change of h from log L = -25 to -50, largest"
    yield row(f"h_exists.flow.{case}", PROOF, text, case.settled.max(), "<=", 1e-8)
    # S would have to reach 1e12, as it does in the end if h tends to 0
    yield row(f"h_positive.flow.{case}", PROOF, "smallest component of h_∞", case.flow.h.min(), ">=", 1e-6)
    # g_t² ~ 1/t² makes the ratio 1/2, a divergent sum of 1/t would make it 1: three quarters is between
    early, now, late = (case.snapshots[t].h ** -2 for t in (2500, 5000, 10_000))
    with np.errstate(invalid="ignore"):  # 0/0 if h does not move
        growth = np.median((late - now) / (now - early))
    text = "(S_2T - S_T) / (S_T - S_T/2) at T = 5,000, median"
    yield row(f"h_exists.discrete.{case}", PROOF, text, growth, "<=", 0.75)


@about("a case")
def adagrad_does_not_maximise_the_margin(case):
    """Slide "Discussions": RMSProp, Adam and GD share their margin, while AdaGrad has worse performance."""
    if case.optimizer == "adagrad":
        w = case.end
        # far from the 1e-6 that the others' limits keep
        residual = np.median(certificate(case.problem, w, np.ones_like(w)))
        text = "the limit's KKT residual for the unweighted problem, median"
        yield row(f"not_l2.{case}", DISCUSSIONS, text, residual, ">=", 0.1)


@about("a case")
def h_becomes_isotropic(case):
    """Slide "Proof Sketch": for RMSProp and Adam h_∞ is 1/√ε in every component."""
    if case.optimizer not in ("rmsprop", "adam"):
        return
    gap = lambda state: np.abs(state.h * np.sqrt(case.conditioner.eps) - 1).max(-1)
    # S has relaxed to g² ~ e^-100 by then: what is left is rounding
    text = "|h sqrt(ε) - 1| at log L = -50, largest"
    yield row(f"h_isotropic.flow.{case}", PROOF, text, gap(case.flow).max(), "<=", 1e-8)
    # S ~ g² ~ t^-2, with logarithms that make the local slope somewhat shallower
    slopes = np.diff(np.log2([gap(case.snapshots[t]) for t in (2000, 4000, 8000, 16_000)]), axis=0)
    text = "local slope of |h sqrt(ε) - 1| in t from step 2,000, largest"
    yield row(f"h_isotropic.discrete.{case}", PROOF, text, slopes.max(), "<=", -1.9)


@about("a case")
def squared_gradients_are_integrable(case):
    """Slide "Proof Sketch": the key observation is that ∫ ||∂L(w(t))||² dt from 0 to ∞ is finite."""
    log_t, log_loss, u = case.path.log_t, case.path.log_loss[:-1], case.path.u[:-1]
    with np.errstate(all="ignore"):  # a run that has stopped takes steps of length 0
        log_dt = log_t[1:] + np.log(-np.expm1(log_t[:-1] - log_t[1:]))
    square = np.exp(log_dt + 2 * log_loss) * (u * u).sum(-1)
    share = (case.late * square).sum(0) / square.sum(0)
    # after log L = -25 the integrand has lost e^-25 of itself or more
    text = "share of ∫ ||∂L||² dt after log L = -25, largest"
    yield row(f"square_integrable.{case}", PROOF, text, share.max(), "<=", 1e-8)


@about("a case")
def v_obeys_an_adaptive_gradient_flow(case):
    """Slide "Proof Sketch": v(t) = h_∞^-1/2 ⊙ w(t) obeys dv/dt = -β ⊙ ∂L̃(v), with β = h / h_∞."""
    problem, root, tiny = case.problem, np.sqrt(case.flow.h), 1e-6
    # both sides at log L = -2 and over L: the left one from a tiny step of the flow
    now, *_ = follow(problem, case.conditioner, case.w0, (-2.0,))
    then = Flow(problem, case.conditioner, c=tiny)(now._replace(alive=~now.overflow))
    L_dt = np.exp(now.log_loss + now.log_t) * np.expm1(then.log_t - now.log_t)
    left, v = (then.w - now.w) / root / L_dt[:, None], now.w / root
    # and the right one by central differences of log L̃, where L̃(v) = L(h_∞^1/2 ⊙ v)
    log_loss = lambda v: problem.gradient(root * v)[0]
    change = [log_loss(v + tiny * e) - log_loss(v - tiny * e) for e in np.eye(problem.model.size)]
    right = -now.h / case.flow.h * np.stack(change, -1) / (2 * tiny)
    # differences and a step of the flow of 1e-6 are good to about 1e-9
    text = "dv/dt = -β ⊙ ∂L̃(v), relative defect of a step of the flow against differences"
    yield row(f"agf.{case}", PROOF, text, (norm(right - left) / norm(right)).max(), "<=", 1e-6)


@about("a case")
def beta_tends_to_one(case):
    """Slide "Proof Sketch": β tends to 1, and d log β / dt is Lebesgue integrable."""
    # what is left to change is of the order e^-25 = 1e-11
    yield row(f"beta_to_one.{case}", PROOF, "|β - 1| at log L = -25, largest", case.settled.max(), "<=", 1e-8)
    # the same e^-25; a variation that diverged would go on at its pace
    change = case.late * np.abs(np.diff(np.log(case.path.h), axis=0)).max(-1)
    text = "total variation of log β after log L = -25, largest"
    yield row(f"beta_variation.{case}", PROOF, text, change.sum(0).max(), "<=", 1e-8)


@about("a case")
def surrogate_margin_is_bounded_below(case):
    """Slide "Proof Sketch": the surrogate margin ℓ^-1(L) / ||β^-1/2 ⊙ v||^D is lower bounded."""
    begun = case.problem.loss.inverse(case.path.log_loss) >= 1
    margin = np.where(begun, case.surrogate, np.nan)
    share = np.fmin.reduce(margin) / margin[begun.argmax(0), np.arange(case.runs)]
    # the proof lets it shrink as the components of h shrink; 2 % are for Euler's steps of 0.1 in log L
    shrinking = begun[:-1] * np.maximum(-np.diff(np.log(case.path.h), axis=0), 0).max(-1)
    floor = np.exp(-case.problem.model.degree / 2 * shrinking.sum(0))
    text = "smallest surrogate margin over its first value, over the proof's bound, smallest"
    yield row(f"surrogate.{case}", PROOF, text, (share / floor).min(), ">=", 0.98)


@about("a case")
def kkt_defects_tend_to_zero(case):
    """Slide "Proof Sketch": v(t_i) satisfies the (ε_i, δ_i) approximate KKT condition, ε_i -> 0, δ_i -> 0."""
    (epsilons, deltas), text = case.defects, "slope of ε_i in log 1/L from 1e3 to 1e8, largest"
    # one support vector gives -1/2, two give -1; 0.1 and 0.2 for the fit over five decades
    yield row(f"epsilon_falls.{case}", PROOF, text, rate(epsilons).max(), "<=", -0.4)
    yield row(f"epsilon_rate.{case}", PROOF, "the same, smallest", rate(epsilons).min(), ">=", -1.2)
    # δ is at most log(N) / log(1/L) up to a constant
    text = "δ_i at log 1/L = 1e8, largest"
    yield row(f"delta_falls.{case}", PROOF, text, deltas[LEVELS == 1e8].max(), "<=", 1e-6)


@about("a case")
def limit_is_a_kkt_point(case):
    """Slide "Main Theorem": any limit point of the parameter direction w / ||w|| is a KKT point."""
    residual = case.residual(case.end, case.flow.h)
    # the margin flow ends at rounding; 1e-6 is what a limit of any model is held to
    text = f"the limit's KKT residual for the {case.weighting} problem, largest"
    yield row(f"kkt.{case}", LYU if case.optimizer == "gd" else THEOREM, text, residual.max(), "<=", 1e-6)
    text = "distance of the limit's direction to the predicted one, largest"
    error = norm(unit(case.end) - unit(case.prediction))
    yield row(f"predicted.{case}", THEOREM, text, error.max(), "<=", 1e-6)
    # -1/2 where no active constraint moves some direction, -1 elsewhere; 0.1 for the fit
    errors = norm(unit(case.ascent[0]) - unit(case.prediction))
    text = "slope of the direction error in log 1/L from 1e3 to 1e8, largest"
    yield row(f"error_rate.{case}", THEOREM, text, rate(errors).max(), "<=", -0.4)
    # the same slope leaves 3e-7 at 1e13
    text = "distance between the margin flow's end and the flow on the loss at log 1/L = 1e13, largest"
    distance = norm(unit(case.end) - unit(case.ascent[0][-1]))
    yield row(f"two_flows.{case}", THEOREM, text, distance.max(), "<=", 1e-6)
    # it is a fixed direction of the projection, but for the accuracy of one
    after = Project(case.problem, case.flow.h)(begin(case.problem, case.end))
    text = "how far a projection step turns the limit's direction, largest"
    turned = norm(unit(after.w) - unit(case.end))
    yield row(f"projection.{case}", THEOREM, text, turned.max(), "<=", 1e-10)


@about("a case")
def networks_tend_to_kkt_points(case):
    """Slide "Main Theorem": the same for any network, with Clarke's subdifferential at kinks."""
    eight = case.followed(MLP((2, 8, 1)), default_data(case.seed))
    # a limit that was not reached counts as infinitely far, and two of ten may be
    residual, said = eighth(eight.residual)
    text = f"eight neurons: the limit's KKT residual, eighth smallest of ten runs ({said})"
    yield row(f"network.{case}", THEOREM, text, residual, "<=", 1e-6)
    four = case.followed(MLP((2, 4, 1)), exclusive_or(), starts=40)
    residual, said = eighth(four.residual)
    found = certify(four.problem, four.w, four.weights)
    on_kinks = np.count_nonzero(found.kinks)
    text = f"exclusive or, four neurons: the same ({said}; {on_kinks} of them on kinks)"
    yield row(f"kinks.{case}", THEOREM, text, residual, "<=", 1e-6)
    # one gradient of many says little at a kink: this is far from what any limit is held to
    text = "the same limits with one gradient per sample, median"
    yield row(f"kinks.needed.{case}", THEOREM, text, np.median(found.one_gradient), ">=", 0.05)
    if case.optimizer == "adagrad":
        # float64 ends at e^-745: the loss itself could not be followed to there
        text = "eight neurons: log10 of log 1/L from which on the direction is within 1e-3 of its limit"
        text += ", median"
        yield row(f"slow.{case}", THEOREM, text, np.median(eight.settles_at), ">=", 20, "observation")


@about("a case")
def limits_are_the_flows_own(case):
    """Slide "Main Theorem": the limit is that of training itself, not of the steps that lead there."""
    # AdaGrad's limits are isolated; gradient descent's continuum ends elsewhere with steps of another length
    if (case.optimizer, case.loss) == ("adagrad", "exp"):
        for name, about, model in (
            ("relu", "six ReLU units", MLP((2, 6, 1), slope=0)),
            ("leaky", "eight leaky units", MLP((2, 8, 1))),
        ):
            usual = case.followed(model, exclusive_or(), starts=40)
            slow = margin_flow(usual.problem, usual.start, usual.h, turn=TURN / 4)
            a, b = (norm(w / np.sqrt(usual.weights)) ** 2 for w in (usual.w, slow.w))
            # where a run passes a saddle rounding decides: a change of 1e-13 in w alone turns up to 3 of 10
            off = np.sort(np.append(abs(a / b - 1), [np.inf] * 10))[:10]
            text = f"exclusive or, {about}: change of the objective at the limit if steps turn by a quarter "
            text += f"as much, seventh smallest of ten runs ({(off <= 1e-3).sum()} the same)"
            yield row(f"own_limit.{name}.{case}", THEOREM, text, off[6], "<=", 1e-3)


@about("a case")
def several_classes(case):
    """Slide "Extensions": the same for several classes, whose constraints are Φ_{y_i} - Φ_j >= 1."""
    linear = case.followed(Linear(2, 3), three_classes(case.seed))
    # both are exact to rounding, since the constraints are linear
    text = f"three classes, linear: the limit's KKT residual for the {case.weighting} problem, largest"
    yield row(f"several.kkt.{case}", EXTENSIONS, text, linear.residual.max(), "<=", 1e-6)
    text = "three classes, linear: distance of the limit's direction to the predicted one, largest"
    error = norm(unit(linear.w) - unit(predict(linear.problem, linear.w, linear.h)))
    yield row(f"several.predicted.{case}", EXTENSIONS, text, error.max(), "<=", 1e-6)
    # as for two classes
    five = case.followed(MLP((2, 5, 3)), three_classes(case.seed))
    residual, said = eighth(five.residual)
    text = f"three classes, five neurons: the limit's KKT residual, eighth smallest of ten runs ({said})"
    yield row(f"several.network.{case}", EXTENSIONS, text, residual, "<=", 1e-6)


@about("a case")
def discrete_update_heads_for_a_kkt_point(case):
    """Slide "Main Theorem": the same for the discrete form."""
    last = max(case.snapshots)
    decades = [case.snapshots[t] for t in (last // 100, last // 10, last)]
    residuals = [np.nanmedian(case.residual(state.w, state.h)) for state in decades]
    # log 1/L grows like log t, too slowly for more than that the residual falls
    ratio = max(late / early for early, late in pairwise(residuals))
    text = "KKT residual of the discrete update, median, over that ten times earlier, "
    text += f"t = {last // 100:,} to {last:,}, largest"
    yield row(f"discrete_heads.{case}", THEOREM, text, ratio, "<=", 1.0)


@about("a case")
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


@about("a case")
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


@about("a case")
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


@about("a case beside AdaGrad's")
def margin_is_at_least_adagrads(case, adagrad):
    """Slide "Discussions": in terms of margin AdaGrad has worse performance than RMSProp and Adam."""
    same = np.sign(case.prediction[:, 2]) == np.sign(adagrad.prediction[:, 2])
    if case.optimizer in ("rmsprop", "adam") and same.any():
        margin, other = (normalised_margin(c.problem, c.prediction) for c in (case, adagrad))
        text = "L2 margin at the prediction minus AdaGrad's, smallest over the runs that end with "
        text += f"its sign of v ({same.sum()} of {len(same)})"
        # equal margins are possible; 1e-9 is the prediction's own accuracy
        yield row(f"margin.{case}", DISCUSSIONS, text, (margin - other)[same].min(), ">=", -1e-9)


@about("an example")
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


@about("two examples")
def direction_of_adagrad_depends_on_the_learning_rate(one, other):
    """Slide "Related Work": the same, where the direction varies with the learning rate."""
    text = f"the limits of the learning rates {one.lr:g} and {other.lr:g} from each other, "
    text += f"{abs(one.degrees[0] - other.degrees[0]):.2f}°"
    # a tenth of a degree; the rest of S moves either limit by 0.003°
    distance = norm(one.directions[0] - other.directions[0])
    yield row("qian.learning_rate", QIAN, text, distance, ">=", 0.0017, "observation")


@about("a case in experiments")
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


@about("a case in experiments")
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


def rate(values):
    """The slope of log values (levels, runs) in log log 1/L, before rounding shows: (runs,)."""
    early = LEVELS <= 1e8
    return np.polyfit(np.log(LEVELS[early]), np.log(values[early]), 1)[0]


def eighth(residuals):
    """The eighth smallest residual, NaN counting as infinite, and words on all of them."""
    reached = residuals[residuals <= 1e-6]
    said = f"{len(reached)} of {len(residuals)} reached, to {reached.max(initial=0):.0e} at most"
    return np.sort(np.append(np.nan_to_num(residuals, nan=np.inf), [np.inf] * 10))[7], said


def sign_test(sooner, later):
    """The probability of at least as many runs with sooner < later by chance alone; ties are left out."""
    wins, losses = int((sooner < later).sum()), int((sooner > later).sum())
    return sum(math.comb(wins + losses, k) for k in range(wins, wins + losses + 1)) / 2 ** (wins + losses)
