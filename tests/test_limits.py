"""Facts about the ends of the margin flow, at kinks and away from them."""

import autograd.numpy as anp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

import direction
import experiments
from cnn import CNN
from datasets import default_data, three_classes
from kinks import Choices
from limits import Project, begin, h_settled, margin_flow
from minibias import Problem, certificate, certify, norm, predict, unit
from models import MLP, Linear, largest, leaky
from optimizers import GD, AdaGrad, RMSProp, descend, follow, start, trajectory


def exclusive_or(seed=0):
    """Four clusters of five points around (±1, ±1)."""
    centres = np.repeat([(1, 1), (-1, -1), (1, -1), (-1, 1)], 5, 0)
    return centres + np.random.default_rng(seed).uniform(-0.4, 0.4, (20, 2)), np.repeat([1, 1, -1, -1], 5)


class Own:
    """A model of one's own: its number of parameters, its degree and its call."""

    def __init__(self, size, degree, call):
        self.size, self.degree, self.call = size, degree, call

    def init(self, rng, runs):
        return rng.uniform(-1, 1, (runs, self.size))

    def __call__(self, w, x):
        return self.call(w, x)


def convolution(w, x):
    """Three filters of width 3 on x (N, 8), the largest output of each, and a leaky unit on top."""
    windows = np.stack([x[:, j : j + 3] for j in range(6)], -1)  # (N, 3, 6)
    z = anp.einsum("rfk,nkp->rfnp", w[:, :9].reshape(len(w), 3, 3), windows)
    return anp.einsum("rf,rfn->rn", w[:, 9:], leaky(largest(z), 0.5))


POOLED = Own(12, 2, convolution)
SQUARES = Own(2, 2, lambda w, x: (w * abs(w)) @ x.T)  # no kinks to choose at
MAXIMA = Own(4, 1, lambda w, x: largest(w[:, None, :2] * x, -1) - largest(w[:, None, 2:] * x, -1))
NORMS = Own(2, 1, lambda w, x: w @ x.T + anp.sqrt((w**2).sum(-1, keepdims=True)) * anp.tanh(x[:, 0]) / 2)
IMAGES = np.random.default_rng(0).normal(size=(12, 8)), np.repeat([1.0, -1], 6)
WIDE = np.random.default_rng(0).normal(size=(100, 40))


def separating(problem, conditioner, runs, steps=1500):
    """w and h of the runs, out of so many, that separate the data after some discrete updates."""
    w = problem.model.init(np.random.default_rng([1, 1]), runs)
    state, _ = descend(problem, conditioner, w, 0.1, steps)
    good = problem.margins(state.w).min(-1) > 0
    return state.w[good], state.h[good]


def corner():
    """The problem, w and h that lead to the kink of the test below, for three different h."""
    problem = Problem(MLP((2, 2, 1), slope=0), np.array([[1, 0], [0.5, np.sqrt(0.75)]]), np.array([1, -1]))
    h = np.vstack([np.ones(6), 10 ** np.random.default_rng(0).uniform(-0.2, 0.2, (2, 6))])
    return problem, np.tile([1.0, 0.2, 0.3, 1.0, 2.0, -2.0], (3, 1)), h


def test_the_smallest_limit_on_a_kink_is_its_closed_form():
    """Two samples of length 1 at 60°, labels +1 and -1, and two ReLU units, v_a > 0 and v_b < 0.

    With a = v_a w_a and b = -v_b w_b the margins are σ(a·x_1) - σ(b·x_1) and σ(b·x_2) - σ(a·x_2). By symmetry
    let a·x_2 = b·x_1 = t. |a|² sin² 60° is 1 + t + t² for t >= 0 and 1 - t + t² for t <= 0. So t = 0: both
    samples lie on a kink, also for other h that are not too uneven. v_a⁴ = h_v ||h_w^-1/2 a||².
    """
    problem, w, h = corner()
    state, expected = margin_flow(problem, w, h), []
    for factor in h:
        a, b = np.array([1, -1 / np.sqrt(3)]), np.array([0, 2 / np.sqrt(3)])
        parts = zip((a, b), (factor[:2], factor[2:4]), factor[4:])
        v_a, v_b = ((h_v * (c * c / h_w).sum()) ** 0.25 for c, h_w, h_v in parts)
        expected.append([*(a / v_a), *(b / v_b), v_a, -v_b])
    assert_allclose(state.w, expected, atol=1e-10)
    assert certify(problem, state.w, h).kinks.tolist() == [2, 2, 2] and state.reason == ["settled"] * 3
    assert certificate(problem, state.w, h).max() < 1e-12
    assert certificate(problem, state.w, h, kinks=False).min() > 0.05
    assert_allclose(predict(problem, w, h), expected, atol=1e-10)


def test_a_run_that_ends_before_it_has_settled_says_why():
    assert margin_flow(*corner(), steps=3).reason[0].startswith("out of steps after 3, with a residual of ")


@pytest.mark.parametrize("size", [0.01, 0.3, 0.6])
def test_a_projection_step_from_a_kkt_point_does_not_turn_it(size):
    """It only stretches it: the least margin, in units of the step before, grows by c^-D."""
    neuron = Problem(MLP((2, 1, 1)), *default_data(0))
    for problem, w, h in (corner(), (neuron, *separating(neuron, AdaGrad(), 10, steps=200))):
        end = begin(problem, margin_flow(problem, w, h).w)
        after = Project(problem, h)(end._replace(size=np.full(len(w), size)))
        assert norm(unit(after.w) - unit(end.w)).max() < 1e-10
        assert_allclose(after.far - end.far, -2 * np.log10(1 - size), atol=1e-12)


@pytest.mark.parametrize("slope", [0.5, 0])
def test_gradients_nearby_are_the_gradients_of_the_pieces(slope):
    """Two of three units are at a kink of sample 0; nearby, all four sides are met."""
    problem = Problem(MLP((2, 3, 1), slope), np.array([[1.0, 2], [-1, 0.5]]), np.array([1, -1]))
    w = np.array([[2.0, -1, -4, 2, 1, 1, 1, -1, 3]])
    named = reference.named_gradients(problem, w, 0)
    nearby = w + 1e-7 * np.random.default_rng(0).normal(size=(200, 9))
    distances = norm(problem.jacobian(nearby)[:, :1] - named)
    assert len(named) == 4 and distances.min(1).max() < 1e-5 and set(distances.argmin(1)) == {0, 1, 2, 3}


@pytest.mark.parametrize("model", [MLP((2, 4, 1)), MLP((2, 4, 1), 0), MLP((2, 3, 2, 1)), MLP((2, 4, 3))])
def test_the_certificate_is_that_of_all_named_pieces(model):
    """On limits, where kinks are, for the wrong weights too; and at points that are no KKT points."""
    problem = Problem(model, *(three_classes(0) if model.sizes[-1] == 3 else exclusive_or()))
    w, h = separating(problem, AdaGrad(), 12)
    end, middle = margin_flow(problem, w, h).w, margin_flow(problem, w, h, steps=10).w
    for at, weights in ((end, h), (end, np.ones_like(h)), (middle, h), (w, h)):
        expected = reference.named_certificate(problem, at, weights)
        assert_allclose(certificate(problem, at, weights), expected, rtol=0, atol=1e-9)


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
    problem = Problem(MLP((2, 2, 1)), *default_data(0))
    w = problem.model.init(np.random.default_rng([0, 1]), 4)
    _, (early, late), (h, _), _ = follow(problem, AdaGrad(), w, (-50.0, -400.0))
    end = margin_flow(problem, early, h)
    slower = begin(problem, early)._replace(size=np.full(4, 0.02))
    *_, slower = trajectory(Project(problem, h), slower)
    assert end.settled.all() and certificate(problem, end.w, h).max() < 1e-10
    assert norm(unit(margin_flow(problem, late, h).w) - unit(end.w)).max() < 1e-9
    assert norm(unit(slower.w) - unit(end.w)).max() < 1e-9


@pytest.mark.parametrize("model", [MLP((2, 1, 1)), Linear(2), MLP((2, 1, 1), slope=0.1)])
@pytest.mark.parametrize("conditioner", [AdaGrad(), RMSProp()])
def test_neurons_and_linear_models_end_at_their_prediction(model, conditioner):
    problem = Problem(model, *default_data(0))
    w, h = separating(problem, conditioner, 20, steps=300)
    end = margin_flow(problem, w, h)
    assert norm(unit(end.w) - unit(predict(problem, w, h))).max() < 1e-10
    assert_allclose(problem.margins(end.w).min(-1), 1, rtol=1e-12)
    assert certificate(problem, end.w, h).max() < 1e-12


BENCH = [  # data, model, conditioner, runs, how many separate at least, least share certified of them
    (exclusive_or(), MLP((2, 4, 1)), AdaGrad(), 24, 2, 0.9),
    (exclusive_or(5), MLP((2, 4, 1), 0), AdaGrad(), 12, 2, 0.9),
    (default_data(0), MLP((2, 8, 1)), AdaGrad(), 3, 2, 0.9),
    (exclusive_or(), MLP((2, 4, 3, 1)), AdaGrad(), 8, 2, 0.75),
    (three_classes(0), MLP((2, 4, 3)), AdaGrad(), 4, 2, 0.9),
    (three_classes(0), Linear(2, 3), AdaGrad(), 10, 2, 1),
    (exclusive_or(), MLP((2, 30, 1), 0), AdaGrad(), 6, 6, 5 / 6),  # many units at kinks of one sample
    (
        (WIDE, np.sign(WIDE[:, 0] * WIDE[:, 1] + 0.3 * WIDE[:, 2])),
        MLP((40, 6, 1)),
        RMSProp(),
        1,
        1,
        1,
    ),  # 246 parameters, a hundred active pieces
    (IMAGES, POOLED, RMSProp(), 10, 4, 0.9),
]


def network_limits(k):
    """What `certify` finds at the limits of a row of BENCH."""
    data, model, conditioner, runs, *_ = BENCH[k]
    problem = Problem(model, *data)
    w, h = separating(problem, conditioner, runs)
    return certify(problem, margin_flow(problem, w, h).w, h)


AHEAD = [(network_limits, k) for k in range(len(BENCH))]


@pytest.mark.parametrize("k", range(len(BENCH)))
def test_networks_end_at_kkt_points_and_pooled_ones_at_kinks(k, computed_ahead):
    found, (_, model, *_, fewest, share) = computed_ahead[k], BENCH[k]
    assert len(found.residual) >= fewest and (found.residual <= 1e-6).mean() >= share
    assert np.median(found.residual) < 1e-10
    smooth = np.equal(found.kinks, 0) & (found.residual < 1e-10)
    assert np.all(found.one_gradient[smooth] < 1e-9)
    if model is POOLED:
        assert np.median(found.kinks) > 0 and np.median(found.one_gradient) > 0.01


def test_two_points_that_one_unit_cannot_tell_apart_end_nothing():
    """(10, 2) and (10, 1) with different labels: many runs do not separate them, or have no prediction."""
    problem = Problem(MLP((2, 2, 1)), np.array([[10.0, 2], [10, 1]]), np.array([1, -1]))
    w, h = separating(problem, AdaGrad(), 30)
    predicted = predict(problem, w, h)
    found = np.isfinite(predicted).all(1)
    with pytest.raises(ValueError, match="w must separate the data, but the least margin of run 0 is -22"):
        predict(problem, np.ones((1, 6)), np.ones((1, 6)))
    assert found.sum() > len(w) / 2
    assert (certificate(problem, predicted[found], h[found]) <= 1e-6).all()
    assert (certificate(problem, margin_flow(problem, w, h).w, h) <= 1e-6).mean() >= 0.9


OWN = [  # model, a sample that has both signs, two starts, the closed form of where they end
    (SQUARES, [2.0, 1], [[3.0, 1], [1, 0.1]], [np.sqrt(0.5), 0]),
    (MAXIMA, [1.0, 1], [[1.0, 0.8, -0.3, -0.7], [0.2, 0.9, -1, -0.4]], [0.5, 0.5, -0.5, -0.5]),
]


@pytest.mark.parametrize("model, x, w, expected", OWN)
def test_models_of_ones_own_end_at_their_kkt_point_in_closed_form(model, x, w, expected):
    """Of squares the longest entry takes all.

    The maxima's margins are max(w_1, w_2) - max(w_3, w_4) and min(w_1, w_2) - min(w_3, w_4). By symmetry the
    least norm has w_1 = w_2 = 1/2 and w_3 = w_4 = -1/2, on two kinks of both.
    """
    problem, h = Problem(model, np.outer([1, -1], x), np.array([1, -1])), np.ones_like(w)
    end = margin_flow(problem, w, h)
    assert_allclose(end.w, [expected] * 2, atol=1e-12)
    found = certify(problem, end.w, h)
    assert found.residual.max() < 1e-12
    if model is SQUARES:
        assert found.kinks.tolist() == [0, 0]
        assert_allclose(predict(problem, w, h), end.w, atol=1e-10)


def test_the_limit_of_a_cnn_is_certified_by_two_ways():
    """Four layers, pooling included: twelve images of three classes, 128 parameters, 8 margins on kinks."""
    rng, y = np.random.default_rng(1), np.arange(12) % 3
    x = rng.uniform(0, 1, (3, 144))[y] + 0.3 * rng.uniform(-1, 1, (12, 144))
    problem = Problem(CNN((2, 3, 4), side=12, outputs=3, dtype=np.float64), x, y, "log")
    flow, *_ = follow(problem, AdaGrad(), problem.model.init(np.random.default_rng([1, 1]), 1))
    end = margin_flow(problem, flow.w, flow.h)
    found = certify(problem, end.w, flow.h)
    assert end.reason == ["settled"] and found.residual < 1e-6
    assert found.kinks > 3 and found.one_gradient > 0.1
    assert reference.sampled_certificate(problem, end.w, flow.h) < 1e-6


def test_neither_a_limit_nor_a_prediction_depends_on_the_other_runs():
    problem = Problem(MLP((2, 4, 1)), *exclusive_or())
    w, h = separating(problem, RMSProp(), 12)
    for end in (lambda w, h: margin_flow(problem, w, h).w, lambda w, h: predict(problem, w, h)):
        alone = [unit(end(w[k : k + 1], h[k : k + 1]))[0] for k in range(len(w))]
        assert np.isfinite(alone).any()
        assert_allclose(unit(end(w, h)), alone, rtol=0, atol=1e-9)


def test_pieces_are_the_margins_where_their_choices_are_made():
    for problem in (Problem(MLP((2, 4, 3), 0.3), *three_classes(0)), Problem(POOLED, *IMAGES)):
        w = problem.model.init(np.random.default_rng(2), 1)
        choices, q = Choices(problem), problem.margins(w)
        which = np.arange(q.shape[1])[None]
        made = choices.made(w, problem.x)[:, problem.sample(which[0])]
        pieces = choices.none(1)._replace(margin=which, choices=made, real=which >= 0, weight=0.0 * which)
        assert_allclose(choices.values(w, pieces), q, rtol=1e-12)
        assert_allclose(choices.gradients(w, pieces), problem.jacobian(w), atol=1e-12)
        assert (abs(choices.values(w + 0.3, pieces) - problem.margins(w + 0.3)) > 1e-3).any()


def test_a_limit_is_sought_only_late_and_where_h_has_settled():
    """After log L = -25, at -30 or less, with h changed by 1e-8 of itself or less since."""
    problem = Problem(MLP((2, 1, 1)), *default_data(0))
    state = start(problem, GD(), np.ones((4, 3)))._replace(log_loss=np.array([-29.9, -30.1, -30.1, -30.1]))
    h = np.stack([state.h, state.h])
    h[0, 3] *= 1 + 2e-8
    reached = np.array([[True, True, False, True], [False] * 4])
    np.testing.assert_array_equal(h_settled(state, h, reached), [False, True, False, False])


def test_a_model_of_degree_1_need_not_be_linear():
    """Limits of one that is not are certified, on large data too; what is no KKT point is no prediction."""
    x, y = default_data(0)
    found = experiments.direction(["rmsprop"], ["limit"], 4, model=NORMS, data=(100 * x, y))
    (limit,) = found["results"]
    assert set(limit["status"]) == {"ok"} and "way" not in limit and not found["ways"]
    assert all(error is None or error < 1e-6 for error in limit["direction_error"])
    problem = Problem(NORMS, x, y)
    w = limit["w"] / 100
    predicted = predict(problem, w, np.ones_like(w))
    assert np.isnan(predicted).any(1).all() or certificate(problem, predicted, np.ones_like(w)).max() <= 1e-6
    direction.figure(found).draw_without_rendering()
