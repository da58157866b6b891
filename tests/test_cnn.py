"""Facts about the CNN: its primitives and itself against direct loops, derivatives, Euler's identity."""

import math
from itertools import product

import numpy as np
import pytest
from autograd.core import make_vjp
from autograd.test_util import check_grads

from cnn import CNN, conv, conv_transpose, correlate, fold, pool, unfold, unpool, winners
from limits import hessian
from minibias import Problem

SIZES = [(3, 5, 7, 4), (1, 6, 5, 1), (2, 4, 4, 3)]  # channels, rows, columns, samples


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def inner(a, b):
    return (a * b).sum()


def outputs(model, w, x):
    """Φ and its backward pass at w."""
    backward, phi = make_vjp(lambda w: model(w, x), w)
    return phi, backward


# Direct loops over (channel, row, column).


def direct_conv(W, a):
    """The valid convolution, W (out, c, k, k) over one sample a (c, R, C), entry by entry."""
    k = W.shape[-1]
    z = np.zeros((len(W), a.shape[1] - k + 1, a.shape[2] - k + 1))
    for o, r, q in np.ndindex(*z.shape):
        z[o, r, q] = sum(W[o, c, i, j] * a[c, r + i, q + j] for c, i, j in np.ndindex(*W.shape[1:]))
    return z


def direct_pool(z, clarke=0.0):
    """ReLU(max) over the 2 x 2 windows of one sample z (c, R, C), and a dict window -> (winner, slope)."""
    value, chosen = np.zeros((z.shape[0], z.shape[1] // 2, z.shape[2] // 2)), {}
    for c, r, q in np.ndindex(*value.shape):
        places = [(c, 2 * r + i, 2 * q + j) for i, j in product(range(2), range(2))]
        winner = max(places, key=lambda place: z[place])  # the first of equals
        value[c, r, q] = max(z[winner], 0)
        chosen[c, r, q] = winner, 1 if z[winner] > 0 else clarke if z[winner] == 0 else 0
    return value, chosen


def direct(model, w, image):
    """Φ at one w (p,) for one image (side²,)."""
    weights, start = [], 0
    for shape in model.shapes:
        weights.append(w[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    a = image.reshape(1, model.side, model.side)
    for W in weights[:2]:
        a, _ = direct_pool(direct_conv(W, a))
    return weights[3] @ np.maximum(weights[2] @ a.ravel(), 0)


def laid_out(a):
    """(N, c, R, C) as the layout of cnn.py: (R, c, C, N)."""
    return np.ascontiguousarray(a.transpose(2, 1, 3, 0))


@pytest.mark.parametrize("channels, rows, columns, samples", SIZES)
@pytest.mark.parametrize("k", [1, 3, 4])
def test_convolution_is_the_direct_loop_and_its_derivatives_are_its_transposes(
    channels, rows, columns, samples, k
):
    a, W = normal(samples, channels, rows, columns), normal(2, channels, k, k)
    p = unfold(laid_out(a), k)
    z = conv(W, p)
    np.testing.assert_allclose(
        z, laid_out(np.array([direct_conv(W, one) for one in a])), rtol=1e-12, atol=1e-13
    )
    g, other = normal(*z.shape, seed=1), normal(*p.shape, seed=2)
    assert inner(g, z) == pytest.approx(inner(conv_transpose(W, g), p), abs=1e-11)
    assert inner(g, z) == pytest.approx(inner(correlate(g, p, W.shape), W), abs=1e-11)
    assert inner(other, p) == pytest.approx(inner(fold(other, k), laid_out(a)), abs=1e-11)


def test_first_and_second_derivatives_of_the_convolution_against_differences():
    a, W, g = normal(4, 2, 5, 2), normal(3, 2, 3, 3), normal(2, 3, 3, 2)
    p = unfold(a, 3)
    for f, *arguments in [
        (lambda a: unfold(a, 3), a),
        (lambda p: fold(p, 3), p),
        (conv, W, p),
        (conv_transpose, W, g),
        (lambda g, p: correlate(g, p, W.shape), g, p),
    ]:
        check_grads(f, modes=["rev"], order=2)(*arguments)


@pytest.mark.parametrize("channels, rows, columns, samples", SIZES)
@pytest.mark.parametrize("clarke", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_and_its_derivative_are_the_direct_loop_ties_and_kinks_included(
    channels, rows, columns, samples, clarke, dtype
):
    z = np.random.default_rng(rows).integers(-2, 2, (samples, channels, rows, columns)).astype(dtype)
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


def test_first_and_second_derivatives_of_pooling_against_differences():
    z = normal(5, 2, 7, 3)
    choice = winners(z, 0.0)
    check_grads(lambda z: pool(choice, z), modes=["rev"], order=2)(z)
    check_grads(lambda g: unpool(g, choice, z.shape), modes=["rev"], order=2)(normal(2, 2, 3, 3))
    check_grads(lambda z: pool(winners(z, 0.0), z), modes=["rev"], order=2)(z)  # the choice is constant


@pytest.mark.parametrize("width, side", [((1, 1, 2), 12), ((2, 3, 4), 18), ((3, 2, 5), 13), ((1, 2, 1), 17)])
def test_network_is_the_direct_loop_in_the_documented_order_of_parameters(width, side):
    model = CNN(width, side, outputs=3, dtype=np.float64)
    w, x = model.init(np.random.default_rng(0), 1)[0], normal(2, side**2)
    phi = model(w, x)
    assert abs(phi).max() > 0
    np.testing.assert_allclose(phi, [direct(model, w, image) for image in x], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(CNN(width, side, outputs=3)(w, x), phi, rtol=1e-4, atol=1e-5 * abs(phi).max())


def kinked(model, samples=6, runs=3):
    """Small-integer w (runs, p) and images with constant regions: many ties and exact zeros."""
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
        np.testing.assert_allclose(
            model(alpha * w, x), alpha**4 * phi, rtol=100 * eps, atol=100 * eps * alpha**4 * abs(phi).max()
        )
    g = normal(*phi.shape)  # <w, Σ g ∂Φ> = 4 Σ g Φ for every weighting g
    scale = abs(g * phi).sum((1, 2))
    np.testing.assert_allclose(
        (w * backward(g)).sum(-1) / scale, 4 * (g * phi).sum((1, 2)) / scale, atol=100 * eps
    )


def test_points_of_the_test_above_hit_ties_and_kinks_that_the_clarke_choice_decides():
    models = [CNN((3, 4, 5), 18, clarke=clarke) for clarke in (0.0, 1.0)]
    w, x = kinked(models[0])
    z = conv(w[0, :75].reshape(3, 1, 5, 5).astype(np.float32), models[0].patches(x))
    assert (z[0::2, :, 0::2] == z[1::2, :, 1::2]).any() and (winners(z, 0.0)[0] > 0).any()
    backward = [outputs(model, w, x)[1](np.ones((3, 6, 10))) for model in models]
    assert (backward[0] != backward[1]).any()


def test_hidden_units_at_the_kink_have_the_slope_of_the_clarke_choice():
    """With W_3 = 0 every hidden unit is at 0, and W_3's derivative is the choice times W_4^T g a^T."""
    derivatives = {}
    for clarke in (0.0, 0.3, 1.0):
        model = CNN((3, 4, 5), 18, clarke=clarke, dtype=np.float64)
        w, x = model.init(np.random.default_rng(1), 1)[0], normal(6, 18**2)
        third = slice(75 + 108, 75 + 108 + 5 * 16)
        w[third] = 0
        phi, backward = outputs(model, w, x)
        derivatives[clarke] = backward(np.ones_like(phi))[third]
    assert abs(derivatives[1.0]).max() > 0.1
    np.testing.assert_allclose(derivatives[0.3], 0.3 * derivatives[1.0], rtol=1e-13)
    np.testing.assert_array_equal(derivatives[0.0], 0)


def test_float32_gradient_is_the_float64_one_to_the_rounding_of_its_sums():
    """Rounding of 6e-8 in sums of up to 576 x 20 terms, whose errors add up like a random walk: some 1e-6."""
    x, w = np.random.default_rng(0).random((20, 784)), CNN().init(np.random.default_rng(0), 1)[0]
    y = np.arange(20) % 10
    (log_loss, u), (exact_loss, exact) = (
        Problem(CNN(dtype=dtype), x, y, "log").gradient(w) for dtype in (np.float32, np.float64)
    )
    assert u.dtype == np.float64
    assert log_loss == pytest.approx(exact_loss, rel=1e-5)
    start = 0
    for shape in CNN().shapes:
        layer = slice(start, start := start + math.prod(shape))
        assert np.linalg.norm(u[layer] - exact[layer]) < 1e-5 * np.linalg.norm(exact[layer])


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


def test_runs_one_by_one_and_at_once_are_the_same_and_may_have_several_axes():
    model = CNN((2, 3, 4), 14, outputs=3)
    w, x = model.init(np.random.default_rng(0), 6).reshape(2, 3, -1), normal(5, 14**2)
    phi, backward = outputs(model, w, x)
    g = normal(*phi.shape)
    assert phi.shape == (2, 3, 5, 3)
    for run in np.ndindex(2, 3):
        one, back = outputs(model, w[run], x)
        np.testing.assert_array_equal(phi[run], one)
        np.testing.assert_array_equal(backward(g)[run], back(g[run]))


def test_blocks_of_samples_add_up_to_the_whole_to_rounding():
    model = CNN((2, 3, 4), 16)
    w, x = model.init(np.random.default_rng(0), 1)[0], normal(150, 256)
    phi, backward = outputs(model, w, x)
    patches = model.patches(x)  # made beforehand they change nothing
    assert patches.ndim == 4 and patches.dtype == np.float32 and (model(w, patches) == phi).all()
    g, total = normal(*phi.shape), 0
    for start in range(0, 150, model.block):
        part = slice(start, start + model.block)
        one, back = outputs(model, w, x[part])
        np.testing.assert_allclose(one, phi[part], rtol=1e-4, atol=1e-5 * abs(phi).max())
        total = total + back(g[part])
    whole = backward(g)
    assert np.linalg.norm(total - whole) < 1e-5 * np.linalg.norm(whole)


def test_numbers_of_parameters():
    assert CNN().size == 25 * 8 + 9 * 8 * 16 + 25 * 16 * 64 + 64 * 10
    assert CNN((32, 64, 1024)).size == 25 * 32 + 9 * 32 * 64 + 1600 * 1024 + 10 * 1024
    assert CNN((1, 2, 3), side=12, outputs=4).size == 25 + 9 * 2 + 2 * 3 + 3 * 4
    assert CNN().degree == 4 and CNN().outputs == 10


def test_initialisation_has_variance_2_over_fan_in_and_its_first_runs_do_not_depend_on_how_many_are_drawn():
    model = CNN()
    few, many = (model.init(np.random.default_rng([0, 1]), runs) for runs in (2, 30))
    np.testing.assert_array_equal(few, many[:2])
    start = 0
    for shape in model.shapes:
        layer = many[:, start : start + math.prod(shape)]
        start += math.prod(shape)
        assert layer.var() == pytest.approx(2 / math.prod(shape[1:]), rel=0.06)  # 6000 or more numbers
        assert abs(layer).max() <= math.sqrt(6 / math.prod(shape[1:]))


WRONG = [
    *({"width": width} for width in ((8, 16), (8, 16, 64, 10), (8, 0, 64))),
    *({"clarke": clarke} for clarke in (-0.1, 1.1, math.nan)),
    *({"side": 11}, {"outputs": 1}, {"dtype": np.float16}),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(ValueError, match=r"CNN|Clarke"):
        CNN(**wrong)


@pytest.mark.parametrize("shape", [(3, 783), (3, 28, 28), (784,)])
def test_images_of_another_size_are_refused(shape):
    with pytest.raises(ValueError):
        CNN().patches(np.zeros(shape))
