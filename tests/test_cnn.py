"""The CNN: direct loops, derivatives, Euler's identity, precision."""

import math
from itertools import product

import numpy as np
import pytest
from autograd.core import make_vjp
from autograd.test_util import check_grads

from cnn import CNN, Blocks, conv, conv_transpose, correlate, fold, pool, unfold, unpool, winners
from limits import hessian
from minibias import Problem

SIZES = [(4, 3, 5, 7), (1, 1, 6, 5), (3, 2, 4, 4)]  # samples, channels, rows, columns


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def inner(a, b):
    return (a * b).sum()


def outputs(model, w, x):
    """Φ and its backward pass at w."""
    backward, phi = make_vjp(lambda w: model(w, x), w)
    return phi, backward


def layers(model, w):
    """The layers' weights in w (..., p), flat."""
    return np.split(w, np.cumsum([math.prod(shape) for shape in model.shapes])[:-1], axis=-1)


def direct_conv(W, a):
    """The valid convolution, W (out, c, k, k) over one sample a (c, R, C), entry by entry."""
    k = W.shape[-1]
    z = np.zeros((len(W), a.shape[1] - k + 1, a.shape[2] - k + 1))
    for o, r, q in np.ndindex(*z.shape):
        z[o, r, q] = sum(W[o, c, i, j] * a[c, r + i, q + j] for c, i, j in np.ndindex(*W.shape[1:]))
    return z


def direct_pool(z, clarke=0.0):
    """ReLU(max) over the 2 x 2 windows of z (c, R, C), and {window: (winner, slope)}."""
    value, chosen = np.zeros((z.shape[0], z.shape[1] // 2, z.shape[2] // 2)), {}
    for c, r, q in np.ndindex(*value.shape):
        places = [(c, 2 * r + i, 2 * q + j) for i, j in product(range(2), range(2))]
        winner = max(places, key=lambda place: z[place])  # the first of equals
        value[c, r, q] = max(z[winner], 0)
        chosen[c, r, q] = winner, 1 if z[winner] > 0 else clarke if z[winner] == 0 else 0
    return value, chosen


def direct(model, w, image):
    """Φ at one w (p,) for one image (side²,)."""
    weights = [part.reshape(shape) for part, shape in zip(layers(model, w), model.shapes)]
    a = image.reshape(1, model.side, model.side)
    for W in weights[:2]:
        a, _ = direct_pool(direct_conv(W, a))
    return weights[3] @ np.maximum(weights[2] @ a.ravel(), 0)


def laid_out(a):
    """(N, c, R, C) as the layout of cnn.py: (R, c, C, N)."""
    return np.ascontiguousarray(a.transpose(2, 1, 3, 0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 3, 4])
def test_convolution_is_the_direct_loop_and_its_derivatives_are_its_transposes(size, k):
    a, W = normal(*size), normal(2, size[1], k, k)
    p = unfold(laid_out(a), k)
    z, looped = conv(W, p), laid_out(np.array([direct_conv(W, one) for one in a]))
    np.testing.assert_allclose(z, looped, rtol=1e-12, atol=1e-13)
    g, other = normal(*z.shape, seed=1), normal(*p.shape, seed=2)
    assert inner(g, z) == pytest.approx(inner(conv_transpose(W, g), p), abs=1e-11)
    assert inner(g, z) == pytest.approx(inner(correlate(g, p, W.shape), W), abs=1e-11)
    assert inner(other, p) == pytest.approx(inner(fold(other, k), laid_out(a)), abs=1e-11)


def test_first_and_second_derivatives_of_the_primitives_against_differences():
    a, W, g = normal(4, 2, 5, 2), normal(3, 2, 3, 3), normal(2, 3, 3, 2)
    p, z = unfold(a, 3), normal(5, 2, 7, 3)
    choice = winners(z, 0.0)
    for f, *arguments in [
        (lambda a: unfold(a, 3), a),
        (lambda p: fold(p, 3), p),
        (conv, W, p),
        (conv_transpose, W, g),
        (lambda g, p: correlate(g, p, W.shape), g, p),
        (lambda z: pool(choice, z), z),
        (lambda g: unpool(g, choice, z.shape), normal(2, 2, 3, 3)),
        (lambda z: pool(winners(z, 0.0), z), z),  # the choice is constant
    ]:
        check_grads(f, modes=["rev"], order=2)(*arguments)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clarke", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_and_its_derivative_are_the_direct_loop_ties_and_kinks_included(size, clarke, dtype):
    z = np.random.default_rng(size[2]).integers(-2, 2, size).astype(dtype)
    choice = winners(laid_out(z), clarke)
    value = pool(choice, laid_out(z))
    g = normal(*value.shape).astype(dtype)
    direct_value, direct_derivative = [], np.zeros(z.shape, dtype)
    for n, one in enumerate(z):
        pooled, chosen = direct_pool(one, clarke)
        direct_value.append(pooled)
        for (c, r, q), (winner, slope) in chosen.items():
            direct_derivative[(n, *winner)] = dtype(slope) * g[r, c, q, n]
    np.testing.assert_array_equal(value, laid_out(np.array(direct_value)))
    backward, _ = make_vjp(lambda z: pool(choice, z), laid_out(z))
    np.testing.assert_allclose(backward(g), laid_out(direct_derivative), rtol=4 * np.finfo(dtype).eps)
    assert value.dtype == backward(g).dtype == dtype


@pytest.mark.parametrize("width, side", [((1, 1, 2), 12), ((2, 3, 4), 18), ((3, 2, 5), 13), ((1, 2, 1), 17)])
def test_network_is_the_direct_loop_in_the_documented_order_of_parameters(width, side):
    model = CNN(width, side, outputs=3, dtype=np.float64)
    w, x = model.init(np.random.default_rng(0), 1)[0], normal(2, side**2)
    phi = model(w, x)
    assert abs(phi).max() > 0
    np.testing.assert_allclose(phi, [direct(model, w, image) for image in x], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(CNN(width, side, outputs=3)(w, x), phi, rtol=1e-4, atol=1e-5 * abs(phi).max())


def kinked(model, samples=6, runs=3):
    """Small-integer w (runs, p), and images with constant regions: many ties and exact zeros."""
    rng = np.random.default_rng(3)
    w = rng.integers(-1, 2, (runs, model.size)).astype(float)
    x = rng.integers(0, 3, (samples, model.side, model.side)).astype(float)
    x[:, :, : model.side // 2] = 1  # the left half is 1, the corner 0
    x[:, :7, :7] = 0
    return w, x.reshape(samples, -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clarke", [0.0, 0.25, 0.7, 1.0])
@pytest.mark.parametrize("kinks", [False, True])
@pytest.mark.parametrize("side", [18, 21])
def test_homogeneity_and_eulers_identity(dtype, clarke, kinks, side):
    model = CNN((3, 4, 5), side, clarke=clarke, dtype=dtype)
    w, x = kinked(model) if kinks else (model.init(np.random.default_rng(1), 3), normal(6, side**2))
    phi, backward = outputs(model, w, x)
    assert phi.dtype == backward(phi).dtype == np.float64
    eps = np.finfo(dtype).eps
    for alpha in (0.5, 3.0):
        scaled = alpha**4 * phi
        np.testing.assert_allclose(
            model(alpha * w, x), scaled, rtol=100 * eps, atol=100 * eps * abs(scaled).max()
        )
    g = normal(*phi.shape)  # <w, Σ g ∂Φ> = 4 Σ g Φ for every weighting g
    radial, euler, scale = (w * backward(g)).sum(-1), 4 * (g * phi).sum((1, 2)), abs(g * phi).sum((1, 2))
    np.testing.assert_allclose(radial / scale, euler / scale, atol=100 * eps)


def test_points_of_the_test_above_hit_ties_and_kinks_that_the_clarke_choice_decides():
    derivatives = []
    for clarke in (0.0, 1.0):
        model = CNN((3, 4, 5), 18, clarke=clarke)
        w, x = kinked(model)
        z = conv(layers(model, w[0])[0].reshape(3, 1, 5, 5).astype(np.float32), model.patches(x))
        assert (z[0::2, :, 0::2] == z[1::2, :, 1::2]).any() and (winners(z, 0.0)[0] > 0).any()
        phi, backward = outputs(model, w, x)
        derivatives.append(backward(np.ones_like(phi)))
    assert (derivatives[0] != derivatives[1]).any()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_at_the_kink_has_the_slope_of_the_clarke_choice(layer):
    """With W = 0 that layer and those above are at 0: its derivative has the choice as a factor for each."""
    derivatives = {}
    for clarke in (0.0, 0.3, 1.0):
        model = CNN((3, 4, 5), 18, clarke=clarke, dtype=np.float64)
        w, x = model.init(np.random.default_rng(1), 1)[0], normal(6, 18**2)
        layers(model, w)[layer][:] = 0  # a view
        phi, backward = outputs(model, w, x)
        derivatives[clarke] = layers(model, backward(np.ones_like(phi)))[layer]
    assert abs(derivatives[1.0]).max() > 0.1
    np.testing.assert_allclose(derivatives[0.3], 0.3 ** (3 - layer) * derivatives[1.0], rtol=1e-13)
    np.testing.assert_array_equal(derivatives[0.0], 0)


def test_float32_gradient_is_the_float64_one_to_the_rounding_of_its_sums():
    """Sums of up to 576 x 20 terms, each with an error of 6e-8, are off by a few 1e-6."""
    x, w = np.random.default_rng(0).random((20, 784)), CNN().init(np.random.default_rng(0), 1)[0]
    problems = [Problem(CNN(dtype=d), x, np.arange(20) % 10, "log") for d in (np.float32, np.float64)]
    (log_loss, u), (exact_loss, exact) = (problem.gradient(w) for problem in problems)
    assert u.dtype == np.float64 and log_loss == pytest.approx(exact_loss, rel=1e-5)
    for layer, exact_layer in zip(layers(CNN(), u), layers(CNN(), exact)):
        assert np.linalg.norm(layer - exact_layer) < 1e-5 * np.linalg.norm(exact_layer)


@pytest.mark.parametrize("width, side", [((1, 1, 2), 14), ((1, 2, 2), 18)])
@pytest.mark.parametrize("loss", ["exp", "log"])
def test_derivatives_of_a_problem_against_differences_away_from_kinks(width, side, loss):
    model = CNN(width, side, outputs=3, dtype=np.float64)
    w, x = model.init(np.random.default_rng(0), 2), normal(5, side**2)
    problem = Problem(model, x, np.array([0, 1, 2, 0, 1]), loss)
    step = 1e-6

    def difference(f):
        return np.stack([(f(w + step * e) - f(w - step * e)) / (2 * step) for e in np.eye(model.size)], -1)

    u, second = problem.gradient(w)[1], hessian(problem, w)
    assert (abs(u).max(-1) > 0.1).all() and (abs(second).max((1, 2)) > 0.1).all()
    np.testing.assert_allclose(u, difference(lambda w: problem.gradient(w)[0]), atol=1e-7)
    np.testing.assert_allclose(second, difference(lambda w: problem.gradient(w)[1]), atol=1e-6)
    np.testing.assert_allclose(second, second.swapaxes(1, 2), atol=1e-11)
    np.testing.assert_allclose(problem.jacobian(w), difference(problem.margins), atol=1e-7)


def test_runs_one_by_one_and_at_once_are_the_same_with_several_axes_and_patches_made_beforehand():
    model = CNN((2, 3, 4), 15, outputs=3)
    w, x = model.init(np.random.default_rng(0), 6).reshape(2, 3, -1), normal(5, 15**2)
    phi, backward = outputs(model, w, x)
    g, patches = normal(*phi.shape), model.patches(x)
    assert phi.shape == (2, 3, 5, 3) and patches.ndim == 4 and patches.dtype == np.float32
    np.testing.assert_array_equal(model(w, patches), phi)
    for run in np.ndindex(2, 3):
        one, back = outputs(model, w[run], x)
        np.testing.assert_array_equal(phi[run], one)
        np.testing.assert_array_equal(backward(g)[run], back(g[run]))


def test_blocks_of_images_add_up_to_the_whole_to_rounding():
    model = CNN((2, 3, 4), 16)
    w, x = model.init(np.random.default_rng(0), 1)[0], normal(150, 256)
    whole, parts = (kind(model, x, np.arange(150) % 10, "log") for kind in (Problem, Blocks))
    assert [len(part.y) for part in parts.parts] == [model.block, model.block, 22]
    q, u = whole.margins(w), whole.gradient(w)[1]
    np.testing.assert_allclose(parts.margins(w), q, rtol=1e-4, atol=1e-5 * abs(q).max())
    assert np.linalg.norm(parts.gradient(w)[1] - u) < 1e-5 * np.linalg.norm(u)


def test_initialisation_has_variance_2_over_fan_in_and_its_first_runs_do_not_depend_on_how_many_are_drawn():
    model = CNN()
    assert model.size == 25 * 8 + 9 * 8 * 16 + 25 * 16 * 64 + 64 * 10
    few, many = (model.init(np.random.default_rng([0, 1]), runs) for runs in (2, 30))
    np.testing.assert_array_equal(few, many[:2])
    for layer, shape in zip(layers(model, many), model.shapes):
        assert layer.var() == pytest.approx(2 / math.prod(shape[1:]), rel=0.06)  # 6000 or more numbers
        assert abs(layer).max() <= math.sqrt(6 / math.prod(shape[1:]))


IMPOSSIBLE = {"width": [(8, 16), (8, 16, 64, 10), (8, 0, 64)], "side": [11], "outputs": [1]}
IMPOSSIBLE |= {"clarke": [-0.1, 1.1, math.nan], "dtype": [np.float16, int]}


@pytest.mark.parametrize("name, value", [(name, value) for name in IMPOSSIBLE for value in IMPOSSIBLE[name]])
def test_impossible_networks_are_refused(name, value):
    with pytest.raises(ValueError, match="must"):
        CNN(**{name: value})


@pytest.mark.parametrize("shape", [(3, 783), (3, 28, 28), (784,)])
def test_images_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="x must be"):
        CNN().patches(np.zeros(shape))
