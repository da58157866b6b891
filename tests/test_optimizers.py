"""Facts about the conditioners, the discrete update and the flow."""

from itertools import islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from datasets import default_data
from limits import ascend, implicit_step
from minibias import Problem, certificate, norm, predict, unit
from models import MLP, Linear
from optimizers import (
    CONDITIONERS,
    GD,
    AdaGrad,
    Adam,
    Conditioner,
    Discrete,
    Flow,
    RMSProp,
    descend,
    follow,
    naive,
    start,
    trajectory,
)
from training import LateFlow

EPS, B = 1e-5, 0.9
ADAPTIVE = ["adagrad", "rmsprop", "adam"]


def neuron(runs, seed=0):
    model = MLP((2, 1, 1))
    return Problem(model, *default_data(seed)), model.init(np.random.default_rng([seed, 1]), runs)


def linear():
    """A smooth problem: no kinks on the way."""
    x, y = default_data(0)
    return Problem(Linear(2), x[::10], y[::10]), np.array([[0.3, -0.4]])


def slides_h(name, gradients):
    """h after the gradients g_1 .. g_t, by the slide's sums written out."""
    t = len(gradients)
    if name == "adagrad":
        total = sum(g**2 for g in gradients)
    else:
        total = sum((1 - B) * np.exp(-(1 - B) * (t - k)) * g**2 for k, g in enumerate(gradients, 1))
        if name == "adam":
            total = total / (1 - B**t)
    return 1 / np.sqrt(EPS + total)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_discrete_conditioner_is_the_slides_sum(name):
    problem, w = neuron(5)
    conditioner = CONDITIONERS[name](EPS, B)
    step, state, gradients = Discrete(problem, conditioner, 0.1), start(problem, conditioner, w), []
    for _ in range(30):
        before = state.w
        gradients.append(np.exp(state.log_loss)[:, None] * state.u)
        state = step(state)
        np.testing.assert_allclose(state.h, slides_h(name, gradients), rtol=1e-12)
        np.testing.assert_allclose(state.w, before - 0.1 * state.h * gradients[-1], rtol=1e-12)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_the_discrete_update_is_the_naive_loop(name):
    problem, w = neuron(5)
    lr = 0.001 if name == "gd" else 0.1
    state, _ = descend(problem, CONDITIONERS[name](EPS, B), w, lr, 50)
    np.testing.assert_array_equal(state.w, naive(problem, CONDITIONERS[name](EPS, B), w, lr, 50))
    still, _ = descend(problem, CONDITIONERS[name](EPS, B), w, lr, 50, momentum=0.0)
    assert still.memory.shape == (5, 0)


class AMSGrad(RMSProp):
    """RMSProp with the largest average so far under the root (Reddi, Kale and Kumar 2018).

    S (runs, 2, p) holds the average and its maximum.
    """

    isotropic = False
    longest = Conditioner.longest

    def begin(self, w):
        return np.zeros((len(w), 2, w.shape[1]))

    def add(self, S, g2):
        average = super().add(S[:, 0], g2)
        return np.stack([average, np.maximum(S[:, 1], average)], 1)

    def relax(self, S, g2, log_g2, log_dt):
        average = super().relax(S[:, 0], g2, log_g2, log_dt)
        return np.stack([average, np.maximum(S[:, 1], average)], 1)

    def inverse_square(self, S, t):
        return self.eps + S[:, 1]


def test_a_conditioner_may_begin_with_a_sum_of_another_shape():
    """Discrete, flow and a run that overflows; the flow's h only falls, and ends away from 1/√ε."""
    problem, w = neuron(4)
    w[1] *= 1e3
    state, _ = descend(problem, AMSGrad(EPS, B), w[2:], 0.1, 50)
    np.testing.assert_array_equal(state.w, naive(problem, AMSGrad(EPS, B), w[2:], 0.1, 50))
    state, _, h, reached = follow(problem, AMSGrad(EPS, B), w)
    assert state.S.shape == (4, 2, 3) and state.overflow.tolist() == [False, True, False, False]
    good = [0, 2, 3]
    assert reached[:, good].all() and (h[1, good] <= h[0, good]).all()
    assert (state.h[good] * np.sqrt(EPS) < 0.5).any()


def test_gradient_descent_is_plain():
    problem, w = neuron(5)
    state = start(problem, GD(), w)
    g = np.exp(state.log_loss)[:, None] * state.u
    state = Discrete(problem, GD(), 1e-3)(state)
    np.testing.assert_allclose(state.w, w - 1e-3 * g, rtol=1e-14)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_flows_conditioner_is_its_integral(name):
    """Over a piecewise constant gradient, with the integral done by the midpoint rule on a fine grid."""
    conditioner, rng = CONDITIONERS[name](EPS, B), np.random.default_rng(0)
    g, lengths = rng.normal(size=6), rng.uniform(0.5, 3, 6)
    S, now = np.zeros((1, 1)), 0.0
    for value, dt in zip(g, lengths):
        g2 = np.array([[value**2]])
        S, now = conditioner.relax(S, g2, np.log(g2), np.log(dt)), now + dt
        tau = (np.arange(200_000) + 0.5) * now / 200_000
        g_of_tau = g[np.minimum(np.searchsorted(np.cumsum(lengths), tau), 5)]
        kernel = 1 if name == "adagrad" else (1 - B) * np.exp(-(1 - B) * (now - tau))
        integral = (kernel * g_of_tau**2).sum() * now / 200_000 / (1 - B**now if name == "adam" else 1)
        np.testing.assert_allclose(conditioner.inverse_square(S, now), EPS + integral, rtol=1e-4)


def test_adams_quotient_has_the_stated_limit_at_time_zero():
    conditioner, g2 = Adam(EPS, B), np.array([[4.0]])
    early = conditioner.inverse_square(
        conditioner.relax(np.zeros((1, 1)), g2, np.log(g2), np.log(1e-6)), 1e-6
    )
    np.testing.assert_allclose(early, conditioner.inverse_square_at_0(g2), rtol=1e-6)


def crossing(problem, conditioner, w, c, key, target, lr=1.0):
    """w and h of the flow where `key` of the state passes `target`, interpolated linearly, an error of
    second order.
    """
    path = trajectory(Flow(problem, conditioner, lr, c), start(problem, conditioner, w))
    for before, state in pairwise(path):
        a, b = getattr(before, key)[0], getattr(state, key)[0]
        if min(a, b) <= target <= max(a, b):
            s = (target - a) / (b - a) if np.isfinite(a) else 1.0
            return (1 - s) * before.w + s * state.w, (1 - s) * before.h + s * state.h


@pytest.mark.parametrize("name", list(CONDITIONERS))
def test_euler_flow_converges_at_first_order_in_w_and_h(name):
    problem, w = linear()
    runs = [
        crossing(problem, CONDITIONERS[name](EPS, B), w, c, "log_loss", -3.0)
        for c in (0.04, 0.02, 0.01, 0.0025)
    ]
    for k in range(1 if name == "gd" else 2):
        errors = [np.abs(r[k] / runs[-1][k] - 1).max() for r in runs[:-1]]
        if max(errors) > 1e-9:  # h of RMSProp may have settled on its limit by then
            assert all(1.6 < a / b < 2.6 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("name, scale", [("gd", lambda lr: 1 / lr), ("adagrad", lambda lr: 1 / lr**2)])
def test_discrete_update_tends_to_the_flow_at_first_order(name, scale):
    """At the same learning rate and the same time, at which the path has come equally far."""
    problem, w = linear()
    errors = []
    for lr in (0.04, 0.02, 0.01):
        steps = round(scale(lr) * 0.4)
        conditioner = CONDITIONERS[name](EPS, B)
        flow, _ = crossing(problem, conditioner, w, 0.002, "log_t", np.log(steps), lr)
        errors.append(np.abs(descend(problem, conditioner, w, lr, steps)[0].w - flow).max())
    assert all(1.6 < a / b < 2.6 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
@pytest.mark.parametrize("loss", ["exp", "log"])
def test_h_infinity_is_isotropic_and_known_for_rmsprop_and_adam_in_the_flow(name, loss):
    problem, w = neuron(20)
    problem = Problem(problem.model, problem.x, problem.y, loss)
    state, _, _, reached = follow(problem, CONDITIONERS[name](EPS, B), w)
    assert reached.all()
    np.testing.assert_allclose(state.h * np.sqrt(EPS), 1, rtol=0, atol=1e-8)


def gaps(name):
    """How far h of some runs is from its limit after 2000, 4000 and 8000 discrete updates."""
    problem, w = neuron(10)
    _, snapshots = descend(problem, CONDITIONERS[name](EPS, B), w, 0.1, 8000, (2000, 4000, 8000))
    return [np.abs(state.h * np.sqrt(EPS) - 1).max(-1) for state in snapshots.values()]


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_h_tends_to_its_limit_like_t_to_the_minus_two_in_the_discrete_update(name, computed_ahead):
    for early, late in pairwise(computed_ahead[AHEAD.index((gaps, name))]):
        slope = np.log2(late / early)
        assert (slope > -2.3).all() and (slope < -1.9).all(), slope


def test_adagrads_h_has_a_limit_in_the_flow_that_depends_on_the_initialisation():
    problem, w = neuron(20)
    state, _, h, reached = follow(problem, AdaGrad(EPS), w)
    assert reached.all()
    np.testing.assert_allclose(h[1], h[0], rtol=1e-8)
    directions = state.h / np.linalg.norm(state.h, axis=1, keepdims=True)
    assert np.ptp(directions, axis=0).max() > 0.1


@pytest.mark.parametrize("name", list(CONDITIONERS))
def test_a_batch_of_runs_equals_the_runs_one_by_one(name):
    problem, w = neuron(6)
    lr = 0.001 if name == "gd" else 0.1
    batch = descend(problem, CONDITIONERS[name](EPS, B), w, lr, 200)[0].w
    flows = follow(problem, CONDITIONERS[name](EPS, B), w, (-2.0,))[0].w
    for k in range(6):
        alone = w[k : k + 1]
        np.testing.assert_allclose(
            descend(problem, CONDITIONERS[name](EPS, B), alone, lr, 200)[0].w[0], batch[k], rtol=1e-9
        )
        np.testing.assert_allclose(
            follow(problem, CONDITIONERS[name](EPS, B), alone, (-2.0,))[0].w[0], flows[k], rtol=1e-9
        )


def test_a_run_that_overflows_keeps_its_last_finite_state_and_leaves_the_others_alone():
    problem, w = neuron(8)
    w[3] *= 40
    alone, _ = descend(problem, GD(), np.delete(w, 3, 0), 0.001, 100)
    state, _ = descend(problem, GD(), w, 0.001, 100)
    assert state.overflow.tolist() == [k == 3 for k in range(8)]
    assert np.isfinite(state.w).all() and np.isfinite(state.log_loss).all()
    np.testing.assert_allclose(np.delete(state.w, 3, 0), alone.w, rtol=1e-9)


def test_an_infinite_sum_of_squares_counts_as_overflow_and_not_as_a_step_of_length_zero():
    problem, _ = neuron(1)
    state, _ = descend(problem, AdaGrad(), 20 * np.array([[1.0, 1.0, -1.0]]), 0.1, 3)
    assert state.overflow.all() and state.h.min() > 0


def test_data_that_cannot_be_separated_stop_the_flow(monkeypatch):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 200)
    problem = Problem(Linear(1), np.array([[1.0], [2.0], [1.5]]), np.array([1, -1, 1]))
    state, _, _, reached = follow(problem, RMSProp(), np.array([[0.5]]))
    assert not reached.any() and np.isfinite(state.w).all()


@pytest.mark.parametrize(
    "eps, b, lr", [(0, 0.9, 1), (-1, 0.9, 1), (np.nan, 0.9, 1), (1e-5, 0, 1), (1e-5, 1, 1), (1e-5, 0.9, 0)]
)
def test_parameters_out_of_range_are_refused(eps, b, lr):
    problem, _ = neuron(1)
    with pytest.raises(ValueError):
        Discrete(problem, Adam(eps, b), lr)


def test_implicit_euler_solves_its_equation_and_converges_at_first_order():
    """One sample, Φ = w: φ = -log w, the flow w² = w_0² + 2t, and one implicit step w = (w_0 + sqrt(w_0²
    + 4Δ)) / 2.
    """
    problem = Problem(
        Linear(1), np.array([[1.0], [-1e9]]), np.array([1, -1])
    )  # the second sample never matters
    errors = []
    for steps in (10, 20, 40):
        w, delta = np.array([[60.0]]), 60.0**2 / steps
        for _ in range(steps):
            before = w
            w, found = implicit_step(problem, w, np.full((1, 1), np.sqrt(delta)), 1.0, 50)
            assert found.all()
            np.testing.assert_allclose(w, (before + np.sqrt(before**2 + 4 * delta)) / 2, rtol=1e-9)
        errors.append(abs(w[0, 0] - np.sqrt(3) * 60))
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors)), errors


def limits(name, kind, loss):
    """A problem, where some runs of its flow end, w at log 1/L >= 1e13, and whether all got there."""
    model = MLP((2, 1, 1)) if kind == "neuron" else Linear(2)
    problem, w0 = Problem(model, *default_data(1), loss), model.init(np.random.default_rng(1), 10)
    flow, _, _, reached = follow(problem, CONDITIONERS[name](EPS, B), w0)
    w, solved = ascend(problem, flow.w, flow.h, growth=64.0)
    return problem, flow, w, reached.all() and solved.all()


@pytest.mark.parametrize("name", list(CONDITIONERS))
@pytest.mark.parametrize("kind, loss", [("neuron", "log"), ("linear", "exp"), ("linear", "log")])
def test_limit_of_the_flow_is_the_predicted_and_certified_kkt_point(name, kind, loss, computed_ahead):
    """A neuron with the exponential loss is in the table of claims, and so in `test_all_theorems_hold`."""
    problem, flow, w, there = computed_ahead[AHEAD.index((limits, name, kind, loss))]
    assert there and problem.gradient(w)[0].max() <= -1e13
    predicted = predict(problem, flow.w, flow.h)
    assert norm(w / norm(w)[:, None] - predicted / norm(predicted)[:, None]).max() <= 1e-6
    assert certificate(problem, w, flow.h).max() <= 1e-6
    unweighted = np.median(certificate(problem, w, np.ones_like(w)))
    assert (
        unweighted >= 0.1
        if (name, kind) == ("adagrad", "neuron")
        else unweighted <= 1e-6 or name == "adagrad"
    )


def late_flows(name, sizes):
    """From log L = -25 to -150 by Euler's steps, by the late flow's and by short ones of it; gradients."""
    conditioner = CONDITIONERS[name]()
    problem, calls = Problem(MLP(sizes), *default_data(0)), 0
    counted = Problem(MLP(sizes), *default_data(0))

    def gradient(w):
        nonlocal calls
        calls += 1
        return problem.gradient(w)

    counted.gradient = gradient

    def follow_to(step, state, end):
        nonlocal calls
        calls = 0
        *_, state = trajectory(step, state, lambda state: state.log_loss <= end)
        return state

    w = problem.model.init(np.random.default_rng([0, 1]), 6)
    early = follow_to(Flow(problem, conditioner), start(problem, conditioner, w), -25)
    early = early._replace(alive=~early.overflow)
    euler = follow_to(Flow(counted, conditioner, 1.0, 0.1), early, -150)
    most = calls
    coarse = follow_to(LateFlow(counted, 1.0, 0.05), early, -150)
    fewer = calls
    return euler, coarse, follow_to(LateFlow(counted, 1.0, 0.05 / 8), early, -150), most, fewer


@pytest.mark.parametrize("name", ["gd", "adagrad", "rmsprop"])
@pytest.mark.parametrize("sizes", [(2, 1, 1), (2, 8, 1)])
def test_the_late_flow_ends_where_the_euler_flow_does_with_fewer_gradients(name, sizes, computed_ahead):
    """Euler must make short steps there; the difference vanishes with the steps of the late flow."""
    euler, coarse, fine, most, fewer = computed_ahead[AHEAD.index((late_flows, name, sizes))]
    far = norm(unit(coarse.w) - unit(euler.w)).max()
    # a step adds a twentieth: a first-order method's error is a small part of that
    assert far < 0.01 and fewer < most / 2
    assert norm(unit(fine.w) - unit(euler.w)).max() < far / 8
    np.testing.assert_allclose(fine.log_t, euler.log_t, rtol=0.02)


@pytest.mark.parametrize("name", list(CONDITIONERS))
@pytest.mark.parametrize("c", [0.1, 0.02])
def test_a_step_of_the_flow_changes_log_loss_w_and_h_by_no_more_than_it_may(name, c):
    """To first order log L by c, ||w|| by c max(1, ||w||), any h_j^-2 by 4 c of itself; each step by one of
    them in full, or nearly.
    """
    problem, conditioner = Problem(MLP((2, 1, 1)), *default_data(0)), CONDITIONERS[name]()
    first = start(problem, conditioner, problem.model.init(np.random.default_rng([0, 1]), 20))
    for before, flow in islice(pairwise(trajectory(Flow(problem, conditioner, c=c), first)), 150):
        w, u, square = before.w, before.u, before.h**-2
        moved = flow.w - w
        used = [abs(u * moved).sum(-1) / c, norm(moved) / (c * np.maximum(1, norm(w)))]
        used = np.stack([*used, abs(flow.h**-2 / square - 1).max(-1) / (4 * c)])
        assert used[:2].max() <= 1 + 1e-9 and used[2].max() <= (
            1 + 1e-9 if name != "adam" else 1 + 10 * c
        )  # Adam's to first order only
        assert (used.max(0) > 0.5).all()


class Quadratic:
    """log L = -60 + Σ λ_j w_j² / 2 in place of a problem: the flow of each coordinate is known."""

    curvature, model = np.array([0.0, 1.0, 30.0, 200.0]), SimpleNamespace(size=4)
    calls = 0

    def gradient(self, w):
        self.calls += 1
        return -60 + (self.curvature * w**2).sum(-1) / 2, self.curvature * w


@pytest.mark.parametrize("steep", [64.0, 900.0])
@pytest.mark.parametrize("lr", [1.0, 0.01])
def test_a_step_of_the_late_flow_is_its_chebyshev_polynomial_and_its_clock_that_of_the_flow(steep, lr):
    """w_j shrinks by T_s(w_0 - w_1 τ λ_j) / T_s(w_0), with w_0 = 1 + 0.05 / s² and w_1 = T_s(w_0) /
    T_s'(w_0); dt = dτ / (lr L).
    """
    problem, w = Quadratic(), np.array([[1.0, 2.0, 0.3, 0.1]])
    state = start(problem, GD(), w)
    log_loss, u, problem.calls = state.log_loss, state.u, 0
    tau = -0.05 * log_loss / (u * u).sum(-1)
    state = LateFlow(problem, lr, steep=steep)(state)
    s = problem.calls
    T, w_0 = np.polynomial.Chebyshev.basis(s), 1 + 0.05 / s**2
    w_1 = T(w_0) / T.deriv()(w_0)
    np.testing.assert_allclose(
        state.w, w * T(w_0 - w_1 * tau[:, None] * problem.curvature) / T(w_0), rtol=1e-9, atol=1e-12
    )
    between = np.linspace(log_loss, state.log_loss, 20_001)[:, 0]  # log L falls evenly along τ
    np.testing.assert_allclose(
        np.exp(state.log_t + log_loss), tau / lr * np.exp(log_loss - between).mean(), rtol=1e-3
    )


def test_a_rising_step_of_the_late_flow_is_refused_and_a_run_that_was_cleared_stays_as_it_is():
    """Far too few stages for a curvature of 200: T_s is beyond 1 there."""
    problem, w = Quadratic(), np.array([[9.0, 0, 0, 0.2], [9.0, 0.1, 0, 0.2]])
    state, step = start(problem, GD(), w), LateFlow(problem, steep=1e-9)
    state = state._replace(alive=np.array([False, True]))
    for _ in range(5):
        before, state = state, step(state)
        assert (state.log_loss <= before.log_loss).all()
    reach = state.memory[:, 1]
    assert (state.w[0] == w[0]).all() and not state.overflow.any() and reach[0] == 0.05 > reach[1]


@pytest.mark.parametrize("method, arguments", [("add", 2), ("relax", 4), ("inverse_square", 2)])
def test_a_conditioner_that_lacks_a_method_says_which_and_what_it_must_return(method, arguments):
    class Mine(Conditioner):
        pass

    with pytest.raises(
        NotImplementedError, match=rf"Mine must define {method}\(.*\), which returns .* as \(runs, p\)"
    ):
        getattr(Mine(), method)(*[np.ones((1, 1))] * arguments)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_longest_by_bisection_is_the_closed_form(name):
    """What a conditioner of one's own gets by default; Adam has a closed form to first order in the step
    only.
    """
    conditioner, rng, fraction = CONDITIONERS[name](EPS, B), np.random.default_rng(0), 1e-4
    S, g2, t = rng.uniform(0.1, 1, (5, 3)), rng.uniform(0.1, 1, (5, 3)), 7.0
    args = S, t, g2, np.log(g2), fraction
    closed, bisected = conditioner.longest(*args), Conditioner.longest(conditioner, *args)
    closed = closed.min(-1, keepdims=True)  # for all coordinates of a run
    assert bisected.shape == (5, 1) and (closed < 3).all()
    np.testing.assert_allclose(bisected, closed, atol=1e-3 if name == "adam" else 1e-6)


@pytest.mark.parametrize("make", [lambda p, c: Discrete(p, c, 0.1), Flow, lambda p, c: LateFlow(p)])
def test_a_step_leaves_its_state_as_it_was_and_does_not_depend_on_the_object(make):
    problem, w = neuron(5)
    w[1] *= 1e200  # this run overflows
    conditioner = AdaGrad(EPS)
    _, state = islice(trajectory(Flow(problem, conditioner), start(problem, conditioner, w)), 2)
    before = [np.array(a) for a in state]
    one, other = (make(problem, conditioner)(state) for _ in range(2))
    for a, b, c, d in zip(state, before, one, other):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(c, d)
    assert one.overflow.tolist() == [False, True, False, False, False] and one.steps == state.steps + 1


def test_the_flow_takes_over_from_the_discrete_update_by_a_change_of_step():
    """h is the same function of S and t for both clocks, so the first step of the flow starts at the last h
    of the update.
    """
    problem, w = neuron(5)
    for name in CONDITIONERS:
        conditioner = CONDITIONERS[name](EPS, B)
        state, _ = descend(problem, conditioner, w, 0.001, 50)
        assert state.log_t.tolist() == [np.log(50)] * 5
        np.testing.assert_allclose(state.h**-2, conditioner.inverse_square(state.S, 50.0), rtol=1e-12)
        later = Flow(problem, conditioner, 0.001)(state)
        ratio = (later.w - state.w) / (state.h * state.u)  # the same for all coordinates
        np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], 3, 1), rtol=1e-6)
        assert (later.log_t > state.log_t).all() and (later.log_loss < state.log_loss).all()


KINDS = [("neuron", "log"), ("linear", "exp"), ("linear", "log")]
AHEAD = [(gaps, name) for name in ("rmsprop", "adam")]
AHEAD += [(limits, name, *kind) for name in CONDITIONERS for kind in KINDS]
AHEAD += [
    (late_flows, name, sizes) for name in ("gd", "adagrad", "rmsprop") for sizes in ((2, 1, 1), (2, 8, 1))
]
