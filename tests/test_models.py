"""Facts about the models: homogeneity, Euler's identity, the Clarke choice, derivatives."""

import numpy as np
import pytest
from autograd.core import make_vjp

from limits import hessian
from minibias import Problem
from models import MLP, Linear, held, largest, leaky, recorded, relu

SHAPES = [(2, 1, 1), (3, 4, 1), (2, 5, 4, 1), (2, 1, 1, 1), (2, 3), (2, 4, 3), (3, 1)]
SLOPES = [(0.5, None), (0.5, 0.8), (0.5, 1), (0, None), (0, 0.3), (0, 1), (1, None)]


def points(model, kinks, runs=4, samples=6):
    """w and x on a coarse grid, so that with `kinks` many pre-activations are exactly 0."""
    rng = np.random.default_rng(7)
    shapes = (runs, model.size), (samples, model.sizes[0])
    return [rng.integers(-1, 2, shape) / 2 if kinks else rng.normal(size=shape) for shape in shapes]


def outputs(model, w, x):
    """Φ and its backward pass at w."""
    backward, phi = make_vjp(lambda w: model(w, x), w)
    return phi, backward


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("slope, clarke", SLOPES)
@pytest.mark.parametrize("kinks", [False, True])
def test_homogeneity_and_eulers_identity(sizes, slope, clarke, kinks):
    model = MLP(sizes, slope, clarke)
    w, x = points(model, kinks)
    first = w[:, : sizes[1] * sizes[0]].reshape(-1, sizes[1], sizes[0]) @ x.T
    assert (first == 0).any() == kinks
    phi, backward = outputs(model, w, x)
    for alpha in (0.5, 3.0):
        np.testing.assert_allclose(model(alpha * w, x), alpha**model.degree * phi, rtol=1e-12, atol=1e-14)
    g = np.random.default_rng(0).normal(size=phi.shape)  # <w, Σ g ∂Φ> = L Σ g Φ for every weighting g
    euler, expected = (w * backward(g)).sum(-1), model.degree * (g * phi).reshape(len(w), -1).sum(-1)
    np.testing.assert_allclose(euler, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("slope, clarke", SLOPES)
@pytest.mark.parametrize("width", [1, 3])
def test_backpropagation_lies_in_the_clarke_subdifferential_of_two_layers_at_one_sample(width, slope, clarke):
    """At a kink of every hidden unit it is the box of v_k s_k x with s_k in [slope, 1], here s_k = clarke."""
    model = MLP((2, width, 1), slope, clarke)
    x, v = np.array([[1.0, 2.0]]), np.linspace(-1, 2, width)
    w = np.concatenate([np.tile([2.0, -1.0], width), v])[None]
    phi, backward = outputs(model, w, x)
    derivative = backward(np.ones_like(phi))[0]
    chosen = slope if clarke is None else clarke
    np.testing.assert_array_equal(derivative[: 2 * width].reshape(width, 2), chosen * v[:, None] * x)
    np.testing.assert_array_equal(derivative[2 * width :], 0)
    # and, as Clarke defines it, a convex combination of the gradients on the two sides
    sides = []
    for sign in (1, -1):
        nudged = w + sign * 1e-6 * np.concatenate([np.tile(x[0], width), np.zeros(width)])
        sides.append(outputs(model, nudged, x)[1](np.ones((1, 1)))[0, : 2 * width])
    share = (chosen - slope) / (1 - slope) if slope < 1 else 1
    np.testing.assert_allclose(derivative[: 2 * width], share * sides[0] + (1 - share) * sides[1], atol=1e-12)


def test_linear_model_neuron_and_network_are_their_formulas_in_the_documented_order_for_any_runs():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 2)), rng.normal(size=(2, 4, 3))
    z = w[..., :2] @ x.T
    np.testing.assert_allclose(Linear(2)(w[..., :2], x), z, rtol=1e-14)
    np.testing.assert_allclose(MLP((2, 1, 1))(w, x), w[..., 2:] * np.maximum(z, z / 2), rtol=1e-14)
    model, w = MLP((2, 3, 4, 2), slope=0), rng.normal(size=(2, 3, 2 * 3 + 3 * 4 + 4 * 2))
    one = w[1, 2]
    a = np.maximum(one[:6].reshape(3, 2) @ x.T, 0)
    a = np.maximum(one[6:18].reshape(4, 3) @ a, 0)
    expected = (one[18:].reshape(2, 4) @ a).T
    for phi in (model(one, x), model(w, x)[1, 2]):
        np.testing.assert_allclose(phi, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("loss", ["exp", "log"])
def test_derivatives_against_differences_away_from_kinks(sizes, loss):
    model = MLP(sizes)
    w, x = points(model, kinks=False)
    y = np.arange(6) % sizes[-1] if sizes[-1] > 1 else np.array([1, -1] * 3)
    problem, step = Problem(model, x, y, loss), 1e-6

    def difference(f):
        return np.stack([(f(w + step * e) - f(w - step * e)) / (2 * step) for e in np.eye(model.size)], -1)

    u = lambda w: problem.gradient(w)[1]
    np.testing.assert_allclose(u(w), difference(lambda w: problem.gradient(w)[0]), atol=1e-8)
    np.testing.assert_allclose(hessian(problem, w), difference(u), atol=1e-7)
    np.testing.assert_allclose(problem.jacobian(w), difference(problem.margins), atol=1e-8)
    np.testing.assert_allclose(hessian(problem, w), hessian(problem, w).swapaxes(1, 2), atol=1e-12)


def test_first_initialisations_do_not_depend_on_how_many_are_drawn():
    few, many = (MLP((2, 1, 1)).init(np.random.default_rng([0, 1]), runs) for runs in (3, 50))
    np.testing.assert_array_equal(few, many[:3])
    assert abs(many).max() < 1


def test_impossible_networks_are_refused():
    for sizes in (3, (2,), (2, 0, 1), (2, 1.5, 1)):
        with pytest.raises(ValueError, match="sizes of a network must be two or more integers from 1 on"):
            MLP(sizes)
    for slope, clarke in ((1.5, None), (0.5, 0.2), (0.5, 1.2)):
        with pytest.raises(ValueError, match="0 <= slope <= Clarke choice <= 1 must hold"):
            MLP((2, 1), slope, clarke)


@pytest.mark.parametrize("kinks", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 1), (2, 5, 4, 1), (2, 4, 3)])
def test_choices_recorded_and_held_reproduce_the_call_and_make_it_smooth(sizes, kinks):
    """With the choices of w held, the call is a polynomial in w: it continues from w where it was made."""
    model = MLP(sizes, 0.5, 0.8)
    w, x = points(model, kinks)
    with recorded() as choices:
        phi, backward = outputs(model, w, x)
    with held(choices):
        again, same = outputs(model, w, x)
        there = [model(w + t, x) for t in range(len(sizes) + 1)]
    np.testing.assert_array_equal(phi, again)
    np.testing.assert_array_equal(backward(np.ones_like(phi)), same(np.ones_like(phi)))
    # a polynomial of degree D in t has a vanishing difference of order D + 1
    difference = np.diff(np.stack(there), n=model.degree + 1, axis=0)
    np.testing.assert_allclose(difference, 0, atol=1e-9 * abs(there[-1]).max())


def test_the_kinks_functions_and_their_derivatives_are_their_formulas():
    a = np.array([[1.0, 3, 3], [-2, -5, -2]])
    for function, value, derivative in (
        (largest, [3.0, -2], [[0, 1, 0], [1, 0, 0]]),
        (lambda a: relu(a - 3, 0.25), np.maximum(a - 3, 0), [[0, 0.25, 0.25], [0, 0, 0]]),
        (lambda a: leaky(a + 2, 0.5), np.maximum(a + 2, (a + 2) / 2), [[1, 1, 1], [0.5, 0.5, 0.5]]),
    ):
        backward, found = make_vjp(function, a)
        np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(backward(np.ones_like(found)), derivative)
