"""Facts about the ends of the margin flow, at kinks and away from them."""

import autograd.numpy as anp
import numpy as np
import pytest
import reference

import direction
import experiments
from cnn import CNN
from datasets import default_data, three_classes
from kinks import Choices
from limits import TURN, Project, begin, h_settled, margin_flow
from minibias import NotSeparable, Problem, certificate, certify, norm, predict, unit
from models import MLP, Linear, largest, leaky
from optimizers import GD, AdaGrad, RMSProp, descend, follow, start, trajectory


def exclusive_or(seed=0):
    """Four clusters of five points around (±1, ±1)."""
    centres = np.repeat([(1, 1), (-1, -1), (1, -1), (-1, 1)], 5, 0)
    return centres + np.random.default_rng(seed).uniform(-0.4, 0.4, (20, 2)), np.repeat([1, 1, -1, -1], 5)


def separating(problem, conditioner, runs, seed=1, steps=1500):
    """w and h of the runs, out of so many, that separate the data after some discrete updates."""
    w = problem.model.init(np.random.default_rng([seed, 1]), runs)
    state, _ = descend(problem, conditioner, w, 0.1, steps)
    good = problem.margins(state.w).min(-1) > 0
    return state.w[good], state.h[good]


def corner():
    """The problem, w and h that lead to the kink of the test below, for three different h."""
    x = np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    problem = Problem(MLP((2, 2, 1), slope=0), x, np.array([1, -1]))
    w = np.array([[1.0, 0.2, 0.3, 1.0, 2.0, -2.0]])
    h = 10 ** np.random.default_rng(0).uniform(-0.2, 0.2, (3, 6))
    h[0] = 1
    return problem, np.repeat(w, 3, 0), h


def test_the_smallest_limit_on_a_kink_is_its_closed_form():
    """Two samples of length 1 at 60°, labels +1 and -1, and two ReLU units (w_a, v_a > 0) and (w_b, v_b <
    0).

    One unit has no such limit: where it is at its kink the margin is 0. With a = v_a w_a and b = -v_b w_b the
    margins are σ(a·x_1) - σ(b·x_1) and σ(b·x_2) - σ(a·x_2). By symmetry let a·x_2 = b·x_1 = t. If t >= 0,
    then a·x_1 = 1 + t and |a|² = ((1 + t)² - t (1 + t) + t²) / sin² 60°, which grows with t. If t <= 0, then
    a·x_1 = 1 and |a|² = (1 - t + t²) / sin² 60°, which falls. So t = 0: both samples lie on a kink. The four
    equations fix a and b for other h too, as long as it is not too uneven. v_a shares the norm with w_a: v_a⁴
    = h_v ||h_w^-1/2 a||².
    """
    problem, w, h = corner()
    state = margin_flow(problem, w, h)
    expected = []
    for factor in h:
        a, b = np.array([1, -1 / np.sqrt(3)]), np.array([0, 2 / np.sqrt(3)])
        v_a, v_b = (factor[k + 4] * (c * c / factor[2 * k : 2 * k + 2]).sum() for k, c in enumerate((a, b)))
        v_a, v_b = v_a**0.25, v_b**0.25
        expected.append([*(a / v_a), *(b / v_b), v_a, -v_b])
    np.testing.assert_allclose(state.w, expected, atol=1e-10)
    assert certify(problem, state.w, h).kinks.tolist() == [2, 2, 2] and state.settled.all()
    assert certificate(problem, state.w, h).max() < 1e-12
    assert certificate(problem, state.w, h, kinks=False).min() > 0.05
    np.testing.assert_allclose(predict(problem, w, h), expected, atol=1e-10)


@pytest.mark.parametrize("size", [0.01, 0.3, 0.6])
def test_a_projection_step_from_a_kkt_point_does_not_turn_it(size):
    """It only stretches it: the least margin, in units of the step before, grows by c^-D."""
    x, y = default_data(0)
    network, neuron = corner(), Problem(MLP((2, 1, 1)), x, y)
    for problem, w, h in (network, (neuron, *separating(neuron, AdaGrad(), 10, steps=200))):
        end = begin(problem, margin_flow(problem, w, h).w)
        after = Project(problem, h)(end._replace(size=np.full(len(w), size)))
        assert norm(unit(after.w) - unit(end.w)).max() < 1e-10
        np.testing.assert_allclose(after.far - end.far, -2 * np.log10(1 - size), atol=1e-12)


@pytest.mark.parametrize("slope", [0.5, 0])
def test_gradients_nearby_are_the_gradients_of_the_pieces(slope):
    """Two of three units are at a kink of sample 0; nearby, all four sides are met."""
    problem = Problem(MLP((2, 3, 1), slope), np.array([[1.0, 2], [-1, 0.5]]), np.array([1, -1]))
    w = np.array([[2.0, -1, -4, 2, 1, 1, 1, -1, 3]])
    named = reference.named_gradients(problem, w, 0)
    nearby = w + 1e-7 * np.random.default_rng(0).normal(size=(200, 9))
    distances = norm(problem.jacobian(nearby)[:, :1] - named)
    assert len(named) == 4 and distances.min(1).max() < 1e-5 and set(distances.argmin(1)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "sizes, slope", [((2, 4, 1), 0.5), ((2, 4, 1), 0), ((2, 3, 2, 1), 0.5), ((2, 4, 3), 0.5)]
)
def test_the_certificate_is_that_of_all_named_pieces(sizes, slope):
    """On limits, where kinks are, for the wrong weights too; and at points that are no KKT points."""
    problem = Problem(MLP(sizes, slope), *(three_classes(0) if sizes[-1] == 3 else exclusive_or()))
    w, h = separating(problem, AdaGrad(), 12)
    end, middle = margin_flow(problem, w, h).w, margin_flow(problem, w, h, steps=10).w
    for at, weights in ((end, h), (end, np.ones_like(h)), (middle, h), (w, h)):
        expected = reference.named_certificate(problem, at, weights)
        np.testing.assert_allclose(certificate(problem, at, weights), expected, rtol=0, atol=1e-9)


def test_the_certificate_looks_both_ways_where_the_margin_rises():
    """One sample on the kink of a unit that raises its margin: ∂q holds what lies between both sides."""
    problem = Problem(MLP((2, 2, 1), 0.5), np.array([[1.0, 0], [0, 1]]), np.array([1, -1]))
    w = np.array([[0.0, 1, 1, -1, 1, -2]])
    w[0, 2:4] = -0.8, 2
    for turned in (w, w * [1, -1, 1, 1, 1, 1]):
        if (problem.margins(turned) > 0).all():
            np.testing.assert_allclose(
                certificate(problem, turned, np.ones((1, 6))),
                reference.named_certificate(problem, turned, np.ones((1, 6))),
                atol=1e-12,
            )


def test_the_end_is_the_same_in_any_order_of_units_and_samples_and_on_any_scale():
    x, y = exclusive_or()
    problem = Problem(MLP((2, 4, 1)), x, y)
    w, h = separating(problem, AdaGrad(), 20)
    end = margin_flow(problem, w, h)
    units, samples = np.array([2, 0, 3, 1]), np.random.default_rng(0).permutation(20)
    places = np.concatenate([np.arange(8).reshape(4, 2)[units].ravel(), 8 + units])
    other = margin_flow(Problem(problem.model, x[samples], y[samples]), w[:, places], h[:, places])
    assert len(w) > 3 and norm(unit(other.w) - unit(end.w)[:, places]).max() < 1e-9
    for scale in (1e-3, 1e3):
        other = margin_flow(Problem(problem.model, scale * x, y), w, h)
        assert norm(unit(other.w) - unit(end.w)).max() < 1e-9


def test_adagrads_end_depends_neither_on_where_the_margin_flow_starts_nor_on_its_first_step():
    x, y = default_data(0)
    problem = Problem(MLP((2, 2, 1)), x, y)
    w = problem.model.init(np.random.default_rng([0, 1]), 4)
    _, (early, late), (h, _), _ = follow(problem, AdaGrad(), w, (-50.0, -400.0))
    end = margin_flow(problem, early, h)
    slower = begin(problem, early)._replace(size=np.full(4, 0.02))
    *_, slower = trajectory(Project(problem, h), slower)
    assert end.settled.all() and certificate(problem, end.w, h).max() < 1e-10
    assert norm(unit(margin_flow(problem, late, h).w) - unit(end.w)).max() < 1e-9
    assert norm(unit(slower.w) - unit(end.w)).max() < 1e-9


@pytest.mark.parametrize("width, slope", [(6, 0), (8, 0.5)])
def test_a_quarter_of_the_turn_leads_to_the_same_limits(width, slope):
    """The objective of nine of ten of AdaGrad's limits is the same to 1e-3: they are the flow's own."""
    problem = Problem(MLP((2, width, 1), slope), *exclusive_or())
    w, h = separating(problem, AdaGrad(), 24)
    usual, slow = (margin_flow(problem, w, h, turn=turn) for turn in (TURN, TURN / 4))
    a, b = (norm(end.w / np.sqrt(h)) ** 2 for end in (usual, slow))
    assert len(w) >= 10 and (abs(a / b - 1) <= 1e-3).mean() >= 0.9


@pytest.mark.parametrize("model", [MLP((2, 1, 1)), Linear(2), MLP((2, 1, 1), slope=0.1)])
@pytest.mark.parametrize("conditioner", [AdaGrad(), RMSProp()])
def test_neurons_and_linear_models_end_at_their_prediction(model, conditioner):
    x, y = default_data(0)
    problem = Problem(model, x, y)
    w, h = separating(problem, conditioner, 20, steps=300)
    end = margin_flow(problem, w, h)
    assert norm(unit(end.w) - unit(predict(problem, w, h))).max() < 1e-10
    np.testing.assert_allclose(problem.margins(end.w).min(-1), 1, rtol=1e-12)
    assert certificate(problem, end.w, h).max() < 1e-12


BENCH = [  # data, sizes, slope, conditioner, runs, least share that is certified of those that separate
    (exclusive_or(), (2, 4, 1), 0.5, AdaGrad(), 24, 0.9),
    (exclusive_or(5), (2, 4, 1), 0, AdaGrad(), 12, 0.9),
    (default_data(0), (2, 8, 1), 0.5, AdaGrad(), 3, 0.9),
    (exclusive_or(), (2, 4, 3, 1), 0.5, AdaGrad(), 8, 0.75),
    (three_classes(0), (2, 4, 3), 0.5, AdaGrad(), 4, 0.9),
    (three_classes(0), (2, 3), 0.5, AdaGrad(), 10, 1),
]


def network_limits(k):
    """The residuals of the limits of a row of BENCH, with one gradient too, and which lie on kinks."""
    data, sizes, slope, conditioner, runs, _ = BENCH[k]
    problem = Problem(MLP(sizes, slope), *data)
    w, h = separating(problem, conditioner, runs)
    found = certify(problem, margin_flow(problem, w, h).w, h)
    return found.residual, found.one_gradient, found.kinks > 0


AHEAD = [(network_limits, k) for k in range(len(BENCH))]


@pytest.mark.parametrize("k", range(len(BENCH)))
def test_networks_end_at_kkt_points(k, computed_ahead):
    residuals, one_gradient, on_kinks = computed_ahead[k]
    assert len(residuals) > 1 and (residuals <= 1e-6).mean() >= BENCH[k][-1] and np.median(residuals) < 1e-10
    assert np.all(one_gradient[~on_kinks & (residuals < 1e-10)] < 1e-9)


def test_two_points_that_one_unit_cannot_tell_apart_end_nothing():
    """(10, 2) and (10, 1) with different labels: many runs do not separate them, or have no prediction."""
    problem = Problem(MLP((2, 2, 1)), np.array([[10.0, 2], [10, 1]]), np.array([1, -1]))
    w, h = separating(problem, AdaGrad(), 30)
    never = np.array([[1.0, 1, 1, 1, 1, 1]])
    predicted = predict(problem, w, h)
    found = np.isfinite(predicted).all(1)
    with pytest.raises(ValueError, match="w must separate the data, but the least margin of run 0 is -22"):
        predict(problem, never, never)
    assert found.sum() > len(w) / 2
    assert (certificate(problem, predicted[found], h[found]) <= 1e-6).all()
    assert (certificate(problem, margin_flow(problem, w, h).w, h) <= 1e-6).mean() >= 0.9


def test_a_linear_model_that_cannot_separate_is_refused():
    problem = Problem(Linear(1), np.array([[1.0], [2.0]]), np.array([1, -1]))
    with pytest.raises(NotSeparable):
        predict(problem, np.ones((2, 1)), np.ones((2, 1)))


class Squares:
    """Φ = Σ w_j |w_j| x_j, a model of one's own: homogeneous of degree 2, with no kinks to choose at."""

    size, degree = 2, 2

    def __call__(self, w, x):
        return (w * abs(w)) @ x.T


def test_a_model_of_ones_own_ends_at_its_kkt_point():
    """min ||w||² with w_1² + w_2² >= 1 for every sample: with x = (2, 1), the longest entry takes all."""
    problem = Problem(Squares(), np.array([[2.0, 1], [-2, -1]]), np.array([1, -1]))
    w, h = np.array([[3.0, 1], [1, 0.1]]), np.ones((2, 2))
    end = margin_flow(problem, w, h)
    np.testing.assert_allclose(end.w, [[np.sqrt(0.5), 0]] * 2, atol=1e-12)
    np.testing.assert_allclose(predict(problem, w, h), end.w, atol=1e-10)
    found = certify(problem, end.w, h)
    assert found.residual.max() < 1e-12 and found.kinks.tolist() == [0, 0]


class Maxima:
    """Φ = max(w_1 x_1, w_2 x_2) - max(w_3 x_1, w_4 x_2), of degree 1, one run at a time."""

    size, degree = 4, 1

    def __call__(self, w, x):
        each = [largest(w[:, None, k : k + 2] * x, -1) for k in (0, 2)]
        return each[0] - each[1]


def test_a_limit_on_a_kink_of_a_max_is_its_closed_form():
    """x = (1, 1) with both labels is not there, but x = (1, 1) with +1 and (-1, -1) with -1 are.

    Φ(1, 1) = max(a, b) - max(c, d) and -Φ(-1, -1) = min(a, b) - min(c, d) >= 1: by symmetry the least norm
    has a = b = 1/2 and c = d = -1/2, where both samples lie on two kinks.
    """
    problem = Problem(Maxima(), np.array([[1.0, 1], [-1, -1]]), np.array([1, -1]))
    w = np.array([[1.0, 0.8, -0.3, -0.7], [0.2, 0.9, -1, -0.4]])
    end = margin_flow(problem, w, np.ones((2, 4)))
    np.testing.assert_allclose(end.w, [[0.5, 0.5, -0.5, -0.5]] * 2, atol=1e-10)
    assert certificate(problem, end.w, np.ones((2, 4))).max() < 1e-10


class Pooled:
    """A convolution of three filters of width 3 on x (N, 8), its largest output each, a leaky unit on top."""

    size, degree = 12, 2

    def init(self, rng, runs):
        return rng.uniform(-1, 1, (runs, self.size))

    def __call__(self, w, x):
        windows = np.stack([x[:, j : j + 3] for j in range(6)], -1)  # (N, 3, 6)
        z = anp.einsum("rfk,nkp->rfnp", w[:, :9].reshape(len(w), 3, 3), windows)
        return anp.einsum("rf,rfn->rn", w[:, 9:], leaky(largest(z), 0.5))


def test_limits_of_ones_own_convolution_with_max_pooling_are_reached_on_its_kinks():
    rng = np.random.default_rng(0)
    problem = Problem(Pooled(), rng.normal(size=(12, 8)), np.repeat([1.0, -1], 6))
    w, h = separating(problem, RMSProp(), 10)
    found = certify(problem, margin_flow(problem, w, h).w, h)
    assert len(w) > 3 and (found.residual <= 1e-6).mean() >= 0.9 and np.median(found.kinks) > 0
    assert np.median(found.one_gradient) > 0.01


def test_many_units_at_kinks_of_one_sample_are_no_hindrance():
    """Thirty ReLU units on exclusive or."""
    problem = Problem(MLP((2, 30, 1), 0), *exclusive_or())
    w, h = separating(problem, AdaGrad(), 6)
    assert len(w) == 6 and (certificate(problem, margin_flow(problem, w, h).w, h) <= 1e-6).sum() >= 5


def test_a_larger_network_is_certified():
    """Forty features, a hundred samples, six units: 246 parameters, a hundred active pieces."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 40))
    problem = Problem(MLP((40, 6, 1)), x, np.sign(x[:, 0] * x[:, 1] + 0.3 * x[:, 2]))
    w, h = separating(problem, RMSProp(), 1)
    end = margin_flow(problem, w, h)
    assert len(w) == 1 and certificate(problem, end.w, h) <= 1e-6


def test_the_limit_of_a_cnn_is_certified_by_two_ways():
    """Four layers, pooling included: twelve images of three classes, 128 parameters, 8 margins on kinks."""
    rng, y = np.random.default_rng(1), np.arange(12) % 3
    x = rng.uniform(0, 1, (3, 144))[y] + 0.3 * rng.uniform(-1, 1, (12, 144))
    problem = Problem(CNN((2, 3, 4), side=12, outputs=3, dtype=np.float64), x, y, "log")
    flow, *_ = follow(problem, AdaGrad(), problem.model.init(np.random.default_rng([1, 1]), 1))
    end = margin_flow(problem, flow.w, flow.h)
    found = certify(problem, end.w, flow.h)
    assert (
        end.reason == ["settled"] and found.residual < 1e-6 and found.kinks > 3 and found.one_gradient > 0.1
    )
    assert reference.sampled_certificate(problem, end.w, flow.h) < 1e-6


def test_a_limit_does_not_depend_on_the_other_runs():
    problem = Problem(MLP((2, 4, 1)), *exclusive_or())
    w, h = separating(problem, RMSProp(), 12)
    together = margin_flow(problem, w, h).w
    alone = [margin_flow(problem, w[k : k + 1], h[k : k + 1]).w[0] for k in range(len(w))]
    np.testing.assert_allclose(unit(together), unit(np.array(alone)), rtol=0, atol=1e-9)


def test_the_reason_is_named_for_each_run():
    problem, w, h = corner()
    assert margin_flow(problem, w, h).reason == ["settled"] * 3
    (reason, *_) = margin_flow(problem, w, h, steps=3).reason
    assert reason.startswith("out of steps after 3, with a residual of ")


def test_pieces_are_the_margins_where_their_choices_are_made():
    for problem in (Problem(MLP((2, 4, 3), 0.3), *three_classes(0)), Problem(Pooled(), *pooled_data())):
        w = problem.model.init(np.random.default_rng(2), 1)
        choices, q = Choices(problem), problem.margins(w)
        which = np.arange(q.shape[1])[None]
        made = choices.made(w, problem.x)[:, problem.sample(which[0])]
        pieces = choices.none(1)._replace(margin=which, choices=made, real=which >= 0, weight=0.0 * which)
        np.testing.assert_allclose(choices.values(w, pieces), q, rtol=1e-12)
        np.testing.assert_allclose(choices.gradients(w, pieces), problem.jacobian(w), atol=1e-12)
        assert (abs(choices.values(w + 0.3, pieces) - problem.margins(w + 0.3)) > 1e-3).any()


def pooled_data():
    return np.random.default_rng(0).normal(size=(12, 8)), np.repeat([1.0, -1], 6)


def test_a_prediction_does_not_depend_on_the_other_runs():
    problem = Problem(MLP((2, 8, 1)), *default_data(0))
    flow, *_ = follow(problem, GD(), problem.model.init(np.random.default_rng([0, 1]), 10))
    together = unit(predict(problem, flow.w, flow.h))
    alone = [unit(predict(problem, flow.w[k : k + 1], flow.h[k : k + 1]))[0] for k in range(10)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-8)


def test_a_limit_is_sought_only_late_and_where_h_has_settled():
    """After log L = -25, at -30 or less, with h changed by 1e-8 of itself or less since."""
    problem = Problem(MLP((2, 1, 1)), *default_data(0))
    state = start(problem, GD(), np.ones((4, 3)))._replace(log_loss=np.array([-29.9, -30.1, -30.1, -30.1]))
    h = np.stack([state.h, state.h])
    h[0, 3] *= 1 + 2e-8
    reached = np.array([[True, True, False, True], [False] * 4])
    np.testing.assert_array_equal(h_settled(state, h, reached), [False, True, False, False])


class Norms:
    """w_1 x_1 + w_2 x_2 + ||w|| tanh(x_1) / 2, of degree 1 and linear neither in w nor in x."""

    size, degree = 2, 1

    def init(self, rng, runs):
        return rng.uniform(-1, 1, (runs, 2))

    def __call__(self, w, x):
        return w @ x.T + anp.sqrt((w**2).sum(-1, keepdims=True)) * anp.tanh(x[:, 0]) / 2


def test_a_model_of_degree_1_need_not_be_linear():
    """Its limits are certified, on large data too, and what is no KKT point is no prediction."""
    x, y = default_data(0)
    found = experiments.direction(["rmsprop"], ["limit"], 4, model=Norms(), data=(100 * x, y))
    (limit,) = found["results"]
    assert set(limit["status"]) == {"ok"} and "way" not in limit and not found["ways"]
    for error in limit["direction_error"]:
        assert error is None or error < 1e-6
    problem = Problem(Norms(), x, y)
    w = limit["w"] / 100
    predicted = predict(problem, w, np.ones_like(w))
    assert np.isnan(predicted).any(1).all() or certificate(problem, predicted, np.ones_like(w)).max() <= 1e-6
    figure = direction.figure(found)
    figure.draw_without_rendering()
