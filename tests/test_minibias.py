"""Facts about margins and losses."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

import crossover
import direction
import minibias
from cnn import Blocks
from datasets import default_data
from minibias import NotSeparable, Problem, certificate, norm, normalised_margin, predict, unit
from models import LOSSES, MLP, Linear, log_logistic
from solvers import least_norm

TWO = np.array([1, -1])  # the labels of two samples


def high_precision(q):
    """log ℓ and d log ℓ / dq of the logistic loss, exact to 1e-40."""
    with localcontext(prec=60, Emin=-(10**17), Emax=10**17):
        q = Decimal(q)
        if q > 100:  # log(1 + t) = t (1 - t/2 ...), t < 1e-43
            return -q, Decimal(-1)
        small = (-abs(q)).exp() if abs(q) < 10**6 else Decimal(0)
        ell = (1 + small).ln() + max(-q, 0)
        return ell.ln(), -(small if q > 0 else 1) / (1 + small) / ell


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1e-300, 0.3, 1.0, 5.0, 18.0, 30.0, 40.0, 1e3, 1e8, 1e300])
def test_log_losses_and_their_gradients_at_any_size_of_the_margin(size, sign):
    q = sign * size
    for loss in ("exp", "log"):
        problem = Problem(Linear(1), np.array([[1.0], [-1.0]]), TWO, loss)  # both samples have the margin w
        log_one, slope = (-Decimal(q), Decimal(-1)) if loss == "exp" else high_precision(q)
        if loss == "log":
            assert_allclose(log_logistic(np.array(q)), float(log_one), rtol=1e-15, atol=1e-15)
        log_loss, u = problem.gradient(np.array([[q]]))
        assert_allclose(log_loss, float(log_one + Decimal(2).ln()), rtol=1e-15)
        assert_allclose(u, [[float(slope)]], rtol=3e-13)
        _, weights, total = problem.weights(np.array([[q, q]]))
        assert_allclose(-weights / total, np.full((1, 2), float(slope) / 2), rtol=3e-13)


@pytest.mark.parametrize("loss", ["exp", "log"])
def test_extreme_margins_side_by_side_stay_finite(loss):
    q = np.array([[1e300, -1e300, 0.0], [1e300, 1e299, 1e8], [-1e300, -1e300, -1e300]])
    found = Problem(Linear(1), np.ones((2, 1)), TWO, loss).weights(q)
    assert all(np.isfinite(a).all() for a in found) and (found[1] >= 0).all() and (found[2] > 0).all()


@pytest.mark.parametrize("loss", ["exp", "log"])
def test_several_classes_against_the_textbook_formula(loss):
    rng, y = np.random.default_rng(0), np.arange(7) % 4
    x, w = rng.normal(size=(7, 2)), rng.normal(size=(3, 8))
    problem = Problem(Linear(2, 4), x, y, loss)
    phi = np.einsum("rkd,nd->rnk", w.reshape(3, 4, 2), x)
    gaps = np.take_along_axis(phi, y[None, :, None], -1) - phi
    q, others = problem.margins(w), y[:, None] != np.arange(4)
    assert_allclose(np.sort(q.ravel()), np.sort(gaps[:, others].ravel()), rtol=1e-13)
    total = np.log(np.exp(-gaps).sum(-1)).sum(-1) if loss == "log" else np.exp(-q).sum(-1)
    assert_allclose(problem.gradient(w)[0], np.log(total), rtol=1e-13)


@pytest.mark.parametrize("extreme", [1e3, 1e8, 1e300])
def test_cross_entropy_at_extreme_logits(extreme):
    problem, corners = Problem(Linear(3, 3), np.eye(3), np.arange(3), "log"), np.eye(3).ravel()
    log_loss, u = problem.gradient(extreme * np.stack([corners, -corners]))
    wrong = np.log(3) + np.log(extreme + np.log(2))  # each of three samples loses log(1 + 2 e^extreme)
    assert_allclose(log_loss, [np.log(6) - extreme, wrong], rtol=1e-14)
    assert np.isfinite(u).all()


def test_normalised_margin_is_invariant_to_the_scale_of_w():
    problem, w = Problem(MLP((2, 4, 1)), *default_data(0)), np.random.default_rng(0).normal(size=(3, 12))
    expected = problem.margins(w).min(-1) / (w * w).sum(-1)
    for a in (1, 7):
        assert_allclose(normalised_margin(problem, a * w), expected, rtol=1e-12)


def test_angle_to_ones_is_the_angle_however_small():
    h = np.array([[2.0, 2, 2], [3, 0, 0], [1, 1, 0], [1 + 3e-12, 1, 1]])
    expected = np.degrees([0, np.arccos(np.sqrt(1 / 3)), np.arccos(np.sqrt(2 / 3)), np.sqrt(2) * 1e-12])
    assert_allclose(direction.angle_to_ones(h), expected, rtol=1e-3, atol=1e-15)


LABELS = [[1, 1], [0, 2, 3], [1, -1, 0.5], [0, 1, 2.5], [-1, 0, 1], [1, 2, 3]]
REFUSED = [(np.ones((len(y), 1)), np.array(y), "exp", "labels") for y in LABELS] + [
    (np.ones((3, 2)), TWO, "exp", "must be"),
    (np.ones(2), TWO, "exp", "must be"),
    (np.array([[np.inf], [1]]), TWO, "exp", "finite"),
    (np.ones((0, 2)), np.ones(0), "exp", "no samples"),
    (np.ones((2, 1)), TWO, "hinge", "exp or log"),
]


@pytest.mark.parametrize("x, y, loss, word", REFUSED)
def test_bad_data_and_losses_are_refused_with_the_reason(x, y, loss, word):
    with pytest.raises(ValueError, match=word):
        Problem(Linear(1), x, y, loss)


def separable(rng, samples, d):
    """Random data that a random direction separates, and h between 0.1 and 10."""
    x, y, w = rng.normal(size=(samples, d)), TWO[np.arange(samples) % 2], unit(rng.normal(size=d))
    along = x @ w
    return x + np.outer(y * (abs(along) + 0.3) - along, w), y, 10 ** rng.uniform(-1, 1, (1, d))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("span", [1, 1e8])
@pytest.mark.parametrize("samples, d", [(2, 2), (20, 2), (8, 3)])
def test_linear_prediction_is_the_exact_one_and_its_certificate_says_so(seed, samples, d, span):
    """min ||h^-1/2 w|| with q >= 1 is min ||v|| with w = h^1/2 v. The columns of x span from 1 to `span`."""
    x, y, h = separable(np.random.default_rng(seed), samples, d)
    x = x * np.append(np.ones(d - 1), span)
    problem = Problem(Linear(d), x, y)
    w = predict(problem, np.zeros((1, d)), h)
    root, columns = np.sqrt(h[0]), abs(x).max(0)
    expected = columns * root * reference.least_norm(y[:, None] * x * root, np.ones(samples))
    assert_allclose(columns * w[0], expected, rtol=0, atol=1e-8 * abs(expected).max())
    assert_allclose(problem.margins(w).min(), 1, rtol=1e-9)
    assert certificate(problem, w, h)[0] < 1e-9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("span", [1, 1e8])
def test_certificate_is_its_formula(seed, span):
    """The least ||b - A λ|| over λ >= 0, by every set of λ that may be positive."""
    x, y, h = separable(np.random.default_rng(seed), 8, 2)
    x, h = x * [1, span], 2.0 ** np.round(2 * np.log2(h))
    problem = Problem(Linear(2), x, y)
    best = predict(problem, np.zeros((1, 2)), h)
    for off in (0, 1e-3, 0.03):
        w = best * [1 + off, 1 - off / 3]
        w = w / problem.margins(w).min()
        v, G, slack = w[0] / np.sqrt(h[0]), y[:, None] * x * np.sqrt(h[0]), problem.margins(w)[0] - 1
        s = norm(v)
        _, length = reference.nnls(np.vstack([G.T / s, slack / s**2]), np.append(v / s, 0))
        assert_allclose(certificate(problem, w, h)[0], length, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("span", [1, 1e8])
@pytest.mark.parametrize("samples, d", [(2, 2), (10, 2), (5, 3)])
def test_linf_prediction_is_the_exact_one(seed, samples, d, span):
    x, y, _ = separable(np.random.default_rng(seed), samples, d)
    x = x * np.append(np.ones(d - 1), span)
    Z = y[:, None] * x
    best, vertices = reference.linf_margin(Z)
    w, multipliers, unique = crossover.predict_linf(Problem(Linear(d), x, y))
    assert_allclose((Z @ w).min(), float(best), rtol=1e-8)
    assert abs(abs(multipliers @ Z).sum() - float(best)) <= 1e-12 * (multipliers @ abs(Z)).sum()
    assert unique == (len(vertices) == 1)
    if unique:
        assert_allclose(w, reference.rounded(vertices[0]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e2])
@pytest.mark.parametrize("model", [Linear(2), MLP((2, 1, 1)), MLP((2, 3, 1))])
def test_certificate_is_zero_at_the_prediction_grows_away_from_it_and_is_nan_at_0(model, scale):
    x, y = default_data(0)
    problem, rng, p = Problem(model, scale * x, y), np.random.default_rng(0), model.size
    h = 10 ** rng.uniform(-1, 1, (1, p))
    start = {2: [1.0, 0.5], 3: [1.0, 0.5, 1], 9: [1.0, 0.5, 0.8, 0.6, -1, -0.4, 1, 1.2, -0.7]}[p]
    w = predict(problem, [start], h)
    at_0, there = certificate(problem, np.vstack([0 * w, w]), np.vstack([h, h]))
    assert np.isnan(at_0) and there < 1e-9
    assert_allclose(problem.margins(w).min(), 1, rtol=1e-9)
    nearby = [w * (1 + step * rng.permutation(np.linspace(-1, 1, p))) for step in (1e-4, 1e-2)]
    residuals = [certificate(problem, near, h)[0] for near in nearby]
    assert 1e-6 < residuals[0] < residuals[1]
    assert_allclose(certificate(problem, 7 * w, h), certificate(problem, w, h), atol=1e-12)
    off = w * (1 + 0.01 * np.arange(p))
    assert_allclose(certificate(problem, 7 * off, h), certificate(problem, off, h), rtol=1e-9)
    assert_allclose(certificate(problem, off, 5 * h), certificate(problem, off, h), rtol=1e-9)


def test_data_that_no_line_through_0_separates_are_refused_with_a_proof():
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.repeat([1, -1], 15)
    with pytest.raises(NotSeparable) as refusal:
        predict(Problem(Linear(2), x, y), np.zeros((1, 2)), np.ones((1, 2)))
    multipliers = refusal.value.multipliers
    assert multipliers.min() >= 0 and abs(multipliers.sum() - 1) <= 1e-12
    assert_allclose(multipliers @ (y[:, None] * x), 0, atol=1e-12)


@pytest.mark.parametrize("margin", 10.0 ** np.arange(-11, 3, 2))
def test_a_margin_that_is_tiny_beside_the_data_is_found_and_not_taken_for_none(margin):
    """Two opposite points of length 1, lifted by the margin: the least w is (0, 1 / margin)."""
    problem = Problem(Linear(2), np.array([[1, margin], [1, -margin]]), TWO)
    w = predict(problem, np.zeros((1, 2)), np.ones((1, 2)))[0]
    assert_allclose(w * margin, [0, 1], atol=1e-14 / min(margin, 1))


def test_neuron_prediction_is_the_weighted_svm_direction_with_v_in_balance():
    """v⁴ = h_v M², M the h-weighted norm of the support vector machine on σ(x), by elimination of v."""
    x, y = default_data(0)
    problem, h = Problem(MLP((2, 1, 1)), x, y), np.array([[0.3, 2.0, 5.0]])
    w = predict(problem, np.array([[1.0, 0.5, 1.0]]), h)[0]
    bent = x * np.where(x @ w[:2] > 0, 1, 0.5)[:, None] * y[:, None]
    svm = least_norm(bent * np.sqrt(h[0, :2]), np.ones(100))
    v = (h[0, 2] * norm(svm) ** 2) ** 0.25
    assert_allclose(w, [*(svm * np.sqrt(h[0, :2]) / v), v], rtol=1e-10)


@pytest.mark.parametrize("block", [1, 3, 4, 100])
@pytest.mark.parametrize("loss", ["exp", "log"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_blocks_change_nothing_beyond_rounding(block, loss, scale):
    """Scaled, one block's L is e^1000 and another's e^-1000, which neither sum can hold."""
    rng = np.random.default_rng(3)
    for model, y in ((MLP((3, 4, 1)), np.array([1, -1] * 5)), (Linear(3, 3), np.arange(10) % 3)):
        x, w = scale * rng.normal(size=(10, 3)), rng.normal(size=(2, model.size))
        whole, parts = Problem(model, x, y, loss), Blocks(model, x, y, loss, block=block)
        assert_allclose(parts.margins(w), whole.margins(w), rtol=1e-12, atol=1e-12 * scale)
        for a, b in zip(parts.gradient(w), whole.gradient(w)):
            assert_allclose(a, b, rtol=1e-11, atol=1e-11 * scale)


def is_least(w, h, G):
    """Whether w is the least in ||h^-1/2 w|| with G w >= 1: a sum of active rows with multipliers >= 0."""
    active, root = G @ w < 1 + 1e-9, np.sqrt(h)
    multipliers, *_ = np.linalg.lstsq((G[active] * root).T, w / root, rcond=None)
    off = norm(w / root - multipliers @ (G[active] * root)) / norm(w / root)
    return (G @ w).min() > 1 - 1e-12 and multipliers.min(initial=0) >= 0 and off < 1e-9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes, d, samples", [(3, 2, 4), (3, 2, 18), (4, 3, 24)])
def test_prediction_for_several_classes_meets_the_conditions_that_suffice(seed, classes, d, samples):
    rng, y, e = np.random.default_rng(seed), np.arange(samples) % classes, np.eye(classes)
    corners = np.linalg.svd(e - 1 / classes)[0][:, :d]  # of a regular simplex
    x = 2 * corners[y] + 0.2 * rng.normal(size=(samples, d))
    h = 10 ** rng.uniform(-1, 1, (1, classes * d))
    problem = Problem(Linear(d, classes), x, y)
    w = predict(problem, np.zeros_like(h), h)
    G = np.array([np.kron(e[a] - e[b], one) for one, a in zip(x, y) for b in range(classes) if b != a])
    assert is_least(w[0], h[0], G) and certificate(problem, w, h)[0] < 1e-9
    assert not is_least(w[0] * (1 + 1e-3 * np.arange(classes * d)), h[0], G)


def proven(problem, Z):
    """`unique` of `predict_linf` with its proof by duality checked, or None with the proof that none is."""
    try:
        w, multipliers, unique = crossover.predict_linf(problem)
    except NotSeparable as proof:
        weights = proof.multipliers
        assert weights.min() >= 0 and (abs(weights @ Z) <= 1e-9 * (weights @ abs(Z))).all()
        return None
    assert_allclose(np.abs(multipliers @ Z).sum(), (Z @ w).min(), rtol=1e-9)
    assert multipliers.min() >= 0 and abs(multipliers.sum() - 1) < 1e-9 and np.abs(w).max() <= 1 + 1e-12
    return unique


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("samples, d", [(2, 2), (30, 2), (30, 5), (200, 10)])
@pytest.mark.parametrize("lattice", [False, True])
def test_linf_prediction_is_proven(seed, samples, d, lattice):
    """On a lattice many vertices are degenerate, and more than one may be optimal."""
    rng = np.random.default_rng(seed)
    x, y, _ = separable(rng, samples, d)
    x = 10.0 ** rng.integers(-3, 4) * (np.round(2 * x) + y[:, None] if lattice else x)
    assert proven(Problem(Linear(d), x, y), y[:, None] * x) or lattice


@pytest.mark.parametrize("seed", range(20))
def test_linf_prediction_for_several_classes_among_degenerate_vertices(seed):
    """Points that coincide or lie on a lattice make the simplex method cycle unless something forbids it."""
    rng, classes, d = np.random.default_rng(seed), 3 + seed % 3, 3 + seed % 5
    y = np.arange(30) % classes
    x = 3 * rng.normal(size=(classes, d))[y] + rng.normal(size=(30, d))
    x = np.round(2 * x) if seed % 2 else x[y]
    problem = Problem(Linear(d, classes), x, y)
    proven(problem, problem.jacobian(np.zeros((1, classes * d)))[0])


def test_linf_prediction_says_where_it_may_not_be_the_only_one_and_what_it_refuses():
    linf = lambda model, x, y=TWO: crossover.predict_linf(Problem(model, np.array(x), y))
    w, multipliers, unique = linf(Linear(2), [[2.0, 0], [-1, 0]])
    assert w[0] == 1 and not unique and multipliers.tolist() == [0, 1]
    w, _, unique = linf(Linear(2), [[2.0, -3], [-1, 3]])
    assert unique and abs(w - [1, -1]).max() <= 1e-15
    x = np.array([[1.0, 0], [-1, 1], [-1, -1]])
    w, _, _ = linf(Linear(2, 3), x, np.arange(3))
    assert_allclose(Problem(Linear(2, 3), x, np.arange(3)).margins(w).min(), 2, rtol=1e-12)
    with pytest.raises(NotSeparable) as refusal:
        linf(Linear(1), [[1.0], [2.0]])
    assert_allclose(refusal.value.multipliers, [2 / 3, 1 / 3], rtol=1e-12)
    with pytest.raises(ValueError, match="linear"):
        linf(MLP((2, 1, 1)), np.eye(2))


@pytest.mark.parametrize("log_loss", [5.0, 0.0, -1e-3, -1.0, -30.0, -39.0, -41.0, -700.0])
def test_inverse_loss_undoes_both_losses(log_loss):
    assert LOSSES["exp"].inverse(log_loss) == -log_loss
    q = float(LOSSES["log"].inverse(log_loss))
    assert_allclose(float(high_precision(q)[0]), log_loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["exp", "log"])
def test_surrogate_margin_is_its_formula_and_tends_to_the_weighted_margin(loss):
    """ℓ^-1(L) / ||h^-1/2 w||², by loops; for L < 1 ℓ^-1(L) lies between q_min - log N and q_min."""
    x, y = np.array([[1.0, 2], [2, 1], [-1, -3]]), np.array([1, 1, -1])
    problem, h = Problem(MLP((2, 2, 1)), x, y, loss), 10 ** np.random.default_rng(0).uniform(-2, 2, (4, 6))
    w = np.array([1, 0.5, 0.5, 1, 1, 2.0]) * 10.0 ** np.array([[-0.5], [0], [0.5], [1]])
    values = minibias.surrogate_margin(problem, problem.gradient(w)[0], w, h)
    for value, one_w, one_h in zip(values, w, h):
        q = problem.margins(one_w)
        total = sum(np.exp(-q) if loss == "exp" else np.log1p(np.exp(-q)))
        inverse = -np.log(np.expm1(total) if loss == "log" and total > 1e-12 else total)
        assert_allclose(value, inverse / sum(a * a / b for a, b in zip(one_w, one_h)), rtol=1e-9)
    q = problem.margins(w[-1]).min()
    weighted = q / (w[-1] ** 2 / h[-1]).sum()
    assert weighted * (1 - np.log(3) / q) <= values[-1] <= weighted


SEPARATING = {(2, 1): [0.5, 1], (2, 2, 1): [1, 0.5, 0.5, 1, 1, 2], (2, 3): [0.3, 0.6, -0.7, -0.6, 0.4, -0.7]}


@pytest.mark.parametrize("loss", ["exp", "log"])
@pytest.mark.parametrize("sizes", SEPARATING)
def test_approximate_kkt_is_its_formula(loss, sizes):
    """With w scaled to q_min = 1 and λ_i proportional to -ℓ'(q_i), by differences, and by loops."""
    model, w, rng = MLP(sizes), np.array([SEPARATING[sizes]]), np.random.default_rng(1)
    x = np.array([[1.0, 2], [2, 1.5], [-1, -3], [1, -1.5]])
    y = np.array([1, 1, -1, -1] if sizes[-1] == 1 else [0, 0, 1, 2])
    problem, h = Problem(model, x, y, loss), 10 ** rng.uniform(-1, 1, (1, model.size))
    q, G, root = problem.margins(w)[0], problem.jacobian(w)[0], np.sqrt(h[0])
    assert q.min() > 0
    L = lambda q: np.exp(problem.weights(q[None])[0][0])
    pull = -np.array([(L(q + 1e-6 * e) - L(q - 1e-6 * e)) / 2e-6 for e in np.eye(len(q))])
    scale = q.min() ** (-1 / model.degree)
    v, G = scale * w[0] / root, scale ** (model.degree - 1) * G
    s = np.sqrt(sum(a * a for a in v))
    multipliers = pull * s / norm(sum(p * g * root for p, g in zip(pull, G)))
    epsilon = norm(v - sum(a * g * root for a, g in zip(multipliers, G))) / s
    delta = sum(a * (margin / q.min() - 1) for a, margin in zip(multipliers, q)) / s**2
    got, same = (np.ravel(minibias.approximate_kkt(problem, w, a * h)) for a in (1, 9))
    assert_allclose(got, [epsilon, delta], rtol=1e-6)  # differences of 1e-6 are good to 1e-8
    assert_allclose(same, got, rtol=1e-12)


def test_approximate_kkt_vanishes_at_a_kkt_point_whose_constraints_are_all_active():
    problem = Problem(Linear(2), np.array([[3.0, 4], [-3, -4]]), TWO)
    epsilon, delta = minibias.approximate_kkt(problem, np.array([[3.0, 4], [4, 3]]), np.ones((2, 2)))
    assert_allclose(epsilon, [0, np.sqrt(2 - 2 * 24 / 25)], atol=1e-15)  # the angle of (4, 3) and (3, 4)
    assert delta.tolist() == [0, 0]
