"""Facts about the conditioners, the discrete update and the flow."""

from itertools import islice, pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from datasets import default_data
from limits import ascend, implicit_step
from minibias import Problem, certificate, norm, predict, unit
from models import MLP, Linear
from optimizers import CONDITIONERS, Conditioner, Discrete, Flow, descend, follow, naive, start, trajectory
from training import LateFlow

EPS, B = 1e-5, 0.9
FOUR = {name: conditioner(EPS, B) for name, conditioner in CONDITIONERS.items()}
ADAPTIVE = ["adagrad", "rmsprop", "adam"]
LIMITS = [(name, *kind) for name in FOUR for kind in (((2, 1, 1), "log"), ((2, 1), "exp"), ((2, 1), "log"))]
LATE = [(name, sizes) for name in ("gd", "adagrad", "rmsprop") for sizes in ((2, 1, 1), (2, 8, 1))]
LR = {"gd": 0.001} | dict.fromkeys(ADAPTIVE, 0.1)
SMOOTH, BEGUN = Problem(Linear(2), *(a[::10] for a in default_data(0))), np.array([[0.3, -0.4]])  # no kinks


def neuron(runs, sizes=(2, 1, 1), loss="exp", seed=0):
    """A problem with kinks, and where its runs start."""
    model = MLP(sizes)
    return Problem(model, *default_data(seed), loss), model.init(np.random.default_rng([seed, 1]), runs)


def slides_h(name, gradients):
    """h after the gradients g_1 .. g_t, by the slide's sums written out."""
    if name == "gd":
        return np.ones_like(gradients[0])
    t = len(gradients)
    kernel = 1 if name == "adagrad" else (1 - B) * np.exp(-(1 - B) * np.arange(t)[::-1, None, None])
    return 1 / np.sqrt(EPS + (kernel * np.square(gradients)).sum(0) / (1 - B**t if name == "adam" else 1))


@pytest.mark.parametrize("name", FOUR)
def test_the_discrete_update_is_the_slides_sum_and_the_naive_loop(name):
    problem, w = neuron(5)
    step, state, gradients = Discrete(problem, FOUR[name], LR[name]), start(problem, FOUR[name], w), []
    for _ in range(50):
        before = state.w
        gradients.append(np.exp(state.log_loss)[:, None] * state.u)
        state = step(state)
        assert_allclose(state.h, slides_h(name, gradients), rtol=0 if name == "gd" else 1e-12)
        assert_allclose(state.w, before - LR[name] * state.h * gradients[-1], rtol=1e-14)
    assert_array_equal(state.w, naive(problem, FOUR[name], w, LR[name], 50))
    still, _ = descend(problem, FOUR[name], w, LR[name], 50, momentum=0.0)
    assert (still.w == state.w).all() and still.memory.shape == (5, 0)


class AMSGrad(CONDITIONERS["rmsprop"]):
    """The largest average so far under the root: S (runs, 2, p) holds both (Reddi, Kale and Kumar 2018)."""

    longest = Conditioner.longest

    def begin(self, w):
        return np.zeros((len(w), 2, w.shape[1]))

    def both(self, S, average):
        return np.stack([average, np.maximum(S[:, 1], average)], 1)

    def add(self, S, g2):
        return self.both(S, super().add(S[:, 0], g2))

    def relax(self, S, *args):
        return self.both(S, super().relax(S[:, 0], *args))

    def inverse_square(self, S, t):
        return self.eps + S[:, 1]


def test_a_conditioner_may_begin_with_a_sum_of_another_shape():
    """Discrete, flow and a run that overflows; the flow's h only falls, and ends away from 1/√ε."""
    problem, w = neuron(4)
    w[1] *= 1e3
    state, _ = descend(problem, AMSGrad(EPS, B), w[2:], 0.1, 50)
    assert_array_equal(state.w, naive(problem, AMSGrad(EPS, B), w[2:], 0.1, 50))
    state, _, h, reached = follow(problem, AMSGrad(EPS, B), w)
    assert state.S.shape == (4, 2, 3) and state.overflow.tolist() == [False, True, False, False]
    good = [0, 2, 3]
    assert reached[:, good].all() and (h[1, good] <= h[0, good]).all()
    assert (state.h[good] * np.sqrt(EPS) < 0.5).any()


@pytest.mark.parametrize("name", ADAPTIVE)
def test_flows_conditioner_is_its_integral_with_the_stated_limit_at_time_zero(name):
    """Over a piecewise constant gradient, with the primitive of the kernel on each piece."""
    conditioner, rng, S = FOUR[name], np.random.default_rng(0), np.zeros((1, 1))
    g2, edges = rng.normal(size=6) ** 2, np.cumsum([0, *rng.uniform(0.5, 3, 6)])
    for k, now in enumerate(edges[1:], 1):
        one = g2[None, k - 1 : k]
        S = conditioner.relax(S, one, np.log(one), np.log(now - edges[k - 1]))
        primitive = edges if name == "adagrad" else np.exp(-(1 - B) * (now - edges))
        integral = np.diff(primitive)[:k] @ g2[:k] / (1 - B**now if name == "adam" else 1)
        assert_allclose(conditioner.inverse_square(S, now), [[EPS + integral]], rtol=1e-12)
    early = conditioner.relax(0 * S, one, np.log(one), np.log(1e-13))
    assert_allclose(conditioner.inverse_square(early, 1e-13), conditioner.inverse_square_at_0(one), rtol=1e-6)


def crossing(conditioner, c, key, target, lr=1.0):
    """w and h of the smooth flow where `key` of the state passes `target`, interpolated to second order."""
    path = trajectory(Flow(SMOOTH, conditioner, lr, c), start(SMOOTH, conditioner, BEGUN))
    for before, state in pairwise(path):
        a, b = getattr(before, key)[0], getattr(state, key)[0]
        if min(a, b) <= target <= max(a, b):
            s = (target - a) / (b - a) if np.isfinite(a) else 1.0
            return (1 - s) * before.w + s * state.w, (1 - s) * before.h + s * state.h


@pytest.mark.parametrize("name", FOUR)
def test_euler_flow_converges_at_first_order_in_w_and_h(name):
    runs = [crossing(FOUR[name], c, "log_loss", -3.0) for c in (0.04, 0.02, 0.01, 0.0025)]
    for k in range(1 if name == "gd" else 2):
        errors = [np.abs(r[k] / runs[-1][k] - 1).max() for r in runs[:-1]]
        if max(errors) > 1e-9:  # h of RMSProp may have settled on its limit by then
            assert all(1.6 < a / b < 2.6 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("name, scale", [("gd", lambda lr: 1 / lr), ("adagrad", lambda lr: 1 / lr**2)])
def test_discrete_update_tends_to_the_flow_at_first_order(name, scale):
    """At the same learning rate and the same time, at which the path has come equally far."""
    errors = []
    for lr in (0.04, 0.02, 0.01):
        steps = round(scale(lr) * 0.4)
        flow, _ = crossing(FOUR[name], 0.002, "log_t", np.log(steps), lr)
        errors.append(np.abs(descend(SMOOTH, FOUR[name], BEGUN, lr, steps)[0].w - flow).max())
    assert all(1.6 < a / b < 2.6 for a, b in pairwise(errors)), errors


def gaps(name):
    """How far h of some runs is from its limit after 2000, 4000 and 8000 discrete updates."""
    problem, w = neuron(10)
    _, snapshots = descend(problem, FOUR[name], w, 0.1, 8000, (2000, 4000, 8000))
    return [np.abs(state.h * np.sqrt(EPS) - 1).max(-1) for state in snapshots.values()]


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_h_tends_to_its_limit_like_t_to_the_minus_two_in_the_discrete_update(name, computed_ahead):
    slopes = np.diff(np.log2(computed_ahead[AHEAD.index((gaps, name))]), axis=0)
    assert (slopes > -2.3).all() and (slopes < -1.9).all(), slopes


@pytest.mark.parametrize("name", FOUR)
def test_a_batch_of_runs_equals_the_runs_one_by_one(name):
    problem, w = neuron(6)
    update = lambda w: descend(problem, FOUR[name], w, LR[name], 200)[0].w
    flow = lambda w: follow(problem, FOUR[name], w, (-2.0,))[0].w
    for end in (update, flow):
        assert_allclose(np.concatenate([end(w[k : k + 1]) for k in range(6)]), end(w), rtol=1e-9)


def test_a_run_that_overflows_keeps_its_last_finite_state_and_leaves_the_others_alone():
    """An infinite sum of squares counts as overflow too, and not as a step of length 0."""
    problem, w = neuron(8)
    w[3] *= 40
    state, alone = (descend(problem, FOUR["gd"], some, 0.001, 100)[0] for some in (w, np.delete(w, 3, 0)))
    assert state.overflow.tolist() == [k == 3 for k in range(8)]
    assert np.isfinite(state.w).all() and np.isfinite(state.log_loss).all()
    assert_allclose(np.delete(state.w, 3, 0), alone.w, rtol=1e-9)
    state, _ = descend(problem, FOUR["adagrad"], np.array([[20.0, 20, -20]]), 0.1, 3)
    assert state.overflow.all() and state.h.min() > 0


def test_data_that_cannot_be_separated_stop_the_flow(monkeypatch):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 200)
    problem = Problem(Linear(1), np.array([[1.0], [2.0], [1.5]]), np.array([1, -1, 1]))
    state, _, _, reached = follow(problem, FOUR["rmsprop"], np.array([[0.5]]))
    assert state.steps == 200 and not reached.any() and np.isfinite(state.w).all()


@pytest.mark.parametrize("eps, b, lr", [(0, 0.9, 1), (np.nan, 0.9, 1), (1, 0, 1), (1, 1, 1), (1, 0.9, 0)])
def test_parameters_out_of_range_are_refused(eps, b, lr):
    with pytest.raises(ValueError):
        Discrete(SMOOTH, CONDITIONERS["adam"](eps, b), lr)


def test_implicit_euler_solves_its_equation_and_converges_at_first_order():
    """One sample, Φ = w: the flow is w² = w_0² + 2t, one implicit step w = (w_0 + sqrt(w_0² + 4Δ)) / 2."""
    x = np.array([[1.0], [-1e9]])  # the second sample never matters
    problem, errors = Problem(Linear(1), x, np.array([1, -1])), []
    for steps in (10, 20, 40):
        w, delta = np.array([[60.0]]), 60.0**2 / steps
        for _ in range(steps):
            before = w
            w, found = implicit_step(problem, w, np.full((1, 1), np.sqrt(delta)), 1.0, 50)
            assert found.all()
            assert_allclose(w, (before + np.sqrt(before**2 + 4 * delta)) / 2, rtol=1e-9)
        errors.append(abs(w[0, 0] - np.sqrt(3) * 60))
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors)), errors


def limits(name, sizes, loss):
    """A problem, h of runs of its flow at its levels, w at log 1/L >= 1e13, and whether all got there."""
    problem, w = neuron(10, sizes, loss, seed=1)
    flow, _, h, reached = follow(problem, FOUR[name], w)
    w, solved = ascend(problem, flow.w, flow.h, growth=64.0)
    return problem, h, w, reached.all() and solved.all()


@pytest.mark.parametrize("name, sizes, loss", LIMITS)
def test_the_flow_ends_at_the_predicted_and_certified_kkt_point_of_its_h(name, sizes, loss, computed_ahead):
    """A neuron with the exponential loss is in the table of claims, and so in `test_all_theorems_hold`."""
    problem, (early, h), w, there = computed_ahead[AHEAD.index((limits, name, sizes, loss))]
    assert there and problem.gradient(w)[0].max() <= -1e13
    assert_allclose(h, early, rtol=1e-8)
    assert norm(unit(w) - unit(predict(problem, w, h))).max() <= 1e-6
    assert certificate(problem, w, h).max() <= 1e-6
    unweighted = np.median(certificate(problem, w, np.ones_like(w)))
    if name != "adagrad":
        assert unweighted <= 1e-6
        assert_allclose(h * np.sqrt(1 if name == "gd" else EPS), 1, rtol=0, atol=1e-8)
    elif sizes == (2, 1, 1):
        assert unweighted >= 0.1 and np.ptp(unit(h), axis=0).max() > 0.1


def late_flows(name, sizes):
    """From log L = -25 to -150 by Euler's steps, by the late flow's and by short ones of it; gradients."""
    problem, w = neuron(6, sizes)
    gradient, calls = problem.gradient, []
    problem.gradient = lambda w: calls.append(1) or gradient(w)

    def to(end, step, state):
        calls.clear()
        state = state._replace(alive=~state.overflow)
        *_, state = trajectory(step, state, lambda state: state.log_loss <= end)
        return state, len(calls)

    early, _ = to(-25, Flow(problem, FOUR[name]), start(problem, FOUR[name], w))
    euler, most = to(-150, Flow(problem, FOUR[name]), early)
    coarse, fewer = to(-150, LateFlow(problem), early)
    fine, _ = to(-150, LateFlow(problem, growth=0.05 / 8), early)
    return euler, coarse, fine, most, fewer


@pytest.mark.parametrize("name, sizes", LATE)
def test_the_late_flow_ends_where_the_euler_flow_does_with_fewer_gradients(name, sizes, computed_ahead):
    """Euler must make short steps there; the difference vanishes with the steps of the late flow."""
    euler, coarse, fine, most, fewer = computed_ahead[AHEAD.index((late_flows, name, sizes))]
    far = norm(unit(coarse.w) - unit(euler.w)).max()
    # a step adds a twentieth: a first-order method's error is a small part of that
    assert far < 0.01 and fewer < most / 2
    assert norm(unit(fine.w) - unit(euler.w)).max() < far / 8
    assert_allclose(fine.log_t, euler.log_t, rtol=0.02)


AHEAD = [(gaps, name) for name in ("rmsprop", "adam")]
AHEAD += [(limits, *call) for call in LIMITS] + [(late_flows, *call) for call in LATE]


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("c", [0.1, 0.02])
def test_a_step_of_the_flow_changes_log_loss_w_and_h_by_no_more_than_it_may(name, c):
    """Log L by c, ||w|| by c max(1, ||w||), any h_j^-2 by 4 c of itself, and one of them nearly in full."""
    problem, w = neuron(20)
    first = start(problem, FOUR[name], w)
    most = 1 + np.array([[1e-9], [1e-9], [10 * c if name == "adam" else 1e-9]])  # Adam's h to first order
    for before, flow in islice(pairwise(trajectory(Flow(problem, FOUR[name], c=c), first)), 150):
        moved, limit = flow.w - before.w, c * np.maximum(1, norm(before.w))
        h = abs((flow.h / before.h) ** -2 - 1).max(-1) / (4 * c)
        used = np.stack([abs(before.u * moved).sum(-1) / c, norm(moved) / limit, h])
        assert (used <= most).all() and (used.max(0) > 0.5).all()


class Quadratic:
    """log L = -60 + Σ λ_j w_j² / 2 in place of a problem: the flow of each coordinate is known."""

    curvature, model = np.array([0.0, 1.0, 30.0, 200.0]), Linear(4)
    calls = 0

    def gradient(self, w):
        self.calls += 1
        return -60 + (self.curvature * w**2).sum(-1) / 2, self.curvature * w


@pytest.mark.parametrize("steep, lr", [(64.0, 1.0), (900.0, 0.01)])
def test_a_step_of_the_late_flow_is_its_chebyshev_polynomial_and_its_clock_that_of_the_flow(steep, lr):
    """w_j shrinks by T_s(w_0 - w_1 τ λ_j) / T_s(w_0), with the w_0 and w_1 below, and dt = dτ / (lr L)."""
    problem, w = Quadratic(), np.array([[1.0, 2.0, 0.3, 0.1]])
    state = start(problem, FOUR["gd"], w)
    log_loss, u, problem.calls = state.log_loss, state.u, 0
    tau = -0.05 * log_loss / (u * u).sum(-1)
    state = LateFlow(problem, lr, steep=steep)(state)
    s = problem.calls
    T, w_0 = np.polynomial.Chebyshev.basis(s), 1 + 0.05 / s**2
    w_1 = T(w_0) / T.deriv()(w_0)
    shrunk = T(w_0 - w_1 * tau[:, None] * problem.curvature) / T(w_0)
    assert_allclose(state.w, w * shrunk, rtol=1e-9, atol=1e-12)
    between = np.linspace(log_loss, state.log_loss, 20_001)[:, 0]  # log L falls evenly along τ
    time = tau / lr * np.exp(log_loss - between).mean()
    assert_allclose(np.exp(state.log_t + log_loss), time, rtol=1e-3)


def test_a_rising_step_of_the_late_flow_is_refused_and_a_run_that_was_cleared_stays_as_it_is():
    """Far too few stages for a curvature of 200: T_s is beyond 1 there."""
    problem, w = Quadratic(), np.array([[9.0, 0, 0, 0.2], [9.0, 0.1, 0, 0.2]])
    state = start(problem, FOUR["gd"], w)._replace(alive=np.array([False, True]))
    for _ in range(5):
        before, state = state, LateFlow(problem, steep=1e-9)(state)
        assert (state.log_loss <= before.log_loss).all()
    reach = state.memory[:, 1]
    assert (state.w[0] == w[0]).all() and not state.overflow.any() and reach[0] == 0.05 > reach[1]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_longest_by_bisection_is_the_closed_form(name):
    """What a conditioner of one's own gets by default; Adam's closed form is of first order in the step."""
    S, g2 = np.random.default_rng(0).uniform(0.1, 1, (2, 5, 3))
    args = S, 7.0, g2, np.log(g2), 1e-4
    closed = FOUR[name].longest(*args).min(-1, keepdims=True)  # for all coordinates of a run
    bisected = Conditioner.longest(FOUR[name], *args)
    assert bisected.shape == (5, 1) and (closed < 3).all()
    assert_allclose(bisected, closed, atol=1e-3 if name == "adam" else 1e-6)


@pytest.mark.parametrize("make", [lambda p, c: Discrete(p, c, 0.1), Flow, lambda p, c: LateFlow(p)])
def test_a_step_leaves_its_state_as_it_was_and_does_not_depend_on_the_object(make):
    problem, w = neuron(5)
    w[1] *= 1e200  # this run overflows
    first = start(problem, FOUR["adagrad"], w)
    state = Flow(problem, FOUR["adagrad"])(first)
    before = [np.array(a) for a in state]
    one, other = (make(problem, FOUR["adagrad"])(state) for _ in range(2))
    for a, b, c, d in zip(state, before, one, other):
        assert_array_equal(a, b)
        assert_array_equal(c, d)
    assert one.overflow.tolist() == [False, True, False, False, False] and one.steps == state.steps + 1


@pytest.mark.parametrize("name", FOUR)
def test_the_flow_takes_over_from_the_discrete_update_by_a_change_of_step(name):
    """h is the same function of S and t for both clocks: the flow starts at the last h of the update."""
    problem, w = neuron(5)
    state, _ = descend(problem, FOUR[name], w, 0.001, 50)
    assert state.log_t.tolist() == [np.log(50)] * 5
    assert_allclose(state.h**-2, FOUR[name].inverse_square(state.S, 50.0), rtol=1e-12)
    later = Flow(problem, FOUR[name], 0.001)(state)
    ratio = (later.w - state.w) / (state.h * state.u)  # the same for all coordinates
    assert_allclose(ratio, np.repeat(ratio[:, :1], 3, 1), rtol=1e-6)
    assert (later.log_t > state.log_t).all() and (later.log_loss < state.log_loss).all()
