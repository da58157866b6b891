"""Facts about the solvers: against every active set of small problems in exact rationals."""

import numpy as np
import pytest
import reference
from reference import dot, exact

import solvers
from solvers import NotSeparable, largest_linf_margin, least_norm, nearest_point, quadratic

SPANS = [1.0, 1e4, 1e6, 1e7, 1e8]
KINDS = ["integers", "lattice", "duplicates", "offset", "rows", "tiny margin"]


def random_problem(rng, kind, span):
    """G (N, p) and c (N,): columns that span `span`, mostly with a v that satisfies all."""
    N, p = rng.integers(2, 7), rng.integers(2, 4)
    G = rng.integers(-2, 3, (N, p)) if kind == "lattice" else rng.integers(-9, 10, (N, p))
    side = G @ rng.integers(-3, 4, p)
    if rng.random() < 0.8:
        G = G * np.where(side < 0, -1, 1)[:, None]
    if kind == "duplicates":
        G = G[rng.integers(0, N, N)]
    G = G * span ** rng.choice([0, 0.5, 1], p)
    if kind == "offset":  # like a time since 1970: a large number in common, small differences
        G[:, 0] += np.round(span) * rng.choice([-1, 1], N)
    if kind == "rows":
        G = G * 10.0 ** rng.integers(-8, 9, (N, 1))
    if kind == "tiny margin":
        near = np.outer(rng.choice([-1, 1], N), rng.uniform(1, 2, p))
        G = np.round(1e3 * near * span ** (np.arange(p) % 2))
        G[:, 0] += rng.integers(1, 4, N)
    c = np.ones(N) if rng.random() < 0.6 else rng.integers(-3, 4, N).astype(float)
    return G, c


def answer(G, c, solve=least_norm):
    """What solve(G, c) finds, or None where it proves that there is none, up to rounding of its proof."""
    try:
        return solve(G, c)
    except NotSeparable as refusal:
        multipliers = exact(refusal.multipliers)
    assert min(multipliers) >= 0 and abs(dot(multipliers, exact(c)) - 1) <= 1e-12
    for column in zip(*exact(G)):
        assert abs(dot(multipliers, column)) <= 1e-12 * dot(multipliers, map(abs, column))


def assert_close(v, expected, G, rtol=1e-8):
    """The length of v, and each v_j in the unit of its column, to rtol of the largest."""
    for scale in (1, abs(G).max(0)):
        room = rtol * (scale * abs(expected)).max()
        np.testing.assert_allclose(scale * v, scale * expected, rtol=0, atol=room)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", KINDS)
def test_least_norm_is_the_exact_answer_or_proves_that_there_is_none(kind, span):
    rng = np.random.default_rng([KINDS.index(kind), SPANS.index(span)])
    for _ in range(20):
        G, c = random_problem(rng, kind, span)
        expected, v = reference.least_norm(G, c), answer(G, c)
        assert (v is None) == (expected is None)
        if v is not None:  # with a hair for a margin, a change of 1e-20 in it may move v by 1e-8
            assert_close(v, expected, G, 1e-7 if kind == "tiny margin" else 1e-8)


@pytest.mark.parametrize("span", SPANS)
def test_nearest_point_is_the_exact_one_from_anywhere(span):
    rng = np.random.default_rng(SPANS.index(span))
    for _ in range(40):
        G, c = random_problem(rng, "integers", span)
        f = rng.integers(-5, 6, G.shape[1]) / abs(G).max(0).clip(1)
        found = reference.nearest(f, G, c)
        if found is not None:
            v, multipliers = nearest_point(f, G, c)
            assert_close(v, reference.rounded(found[0]), G)
            loose = abs(G @ v - c) > 1e-6 * (abs(c) + abs(G) @ abs(v))
            assert multipliers.min() >= 0 and (multipliers[loose] == 0).all()


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_multipliers_of_the_point_nearest_to_a_cone_solve_nnls(side, span):
    """They are the x >= 0 of least ||A x - b||, since b - A x is the r nearest to b with A^T r <= 0."""
    rng = np.random.default_rng([SPANS.index(span), side == "rows"])
    for _ in range(20):
        A, b = rng.integers(-9, 10, (3, rng.integers(1, 6))), rng.integers(-9, 10, 3).astype(float)
        scale = span ** rng.uniform(0, 1, A.shape[0 if side == "rows" else 1])
        A = A * (scale[:, None] if side == "rows" else scale)
        (_, x), (expected, length) = nearest_point(b, -A.T, np.zeros(A.shape[1])), reference.nnls(A, b)
        r = [bound - dot(row, exact(x)) for row, bound in zip(exact(A), exact(b))]
        assert x.min() >= 0
        assert float(dot(r, r)) ** 0.5 <= length + 1e-8 * (abs(A) @ expected + abs(b)).max()
        if A.shape[1] <= 2 and abs(A.T @ A - np.diag((A * A).sum(0))).max() < 0.9 * (A * A).sum(0).min():
            np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-8 * expected.max())  # it has no other


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", ["integers", "lattice", "offset"])
def test_largest_linf_margin_is_the_exact_one_and_unique_where_it_says_so(kind, span):
    rng = np.random.default_rng([KINDS.index(kind), SPANS.index(span)])
    for _ in range(8):
        Z = random_problem(rng, kind, span)[0][:5]
        best, vertices = reference.linf_margin(Z)
        found = answer(Z, np.ones(len(Z)), lambda Z, c: largest_linf_margin(Z))
        assert (found is None) == (best <= 0)
        if found is None:
            continue
        v, multipliers, unique = found
        np.testing.assert_allclose((Z @ v).min(), float(best), rtol=1e-8)
        assert abs(v).max() <= 1 + 1e-12 and multipliers.min() >= 0 and abs(multipliers.sum() - 1) < 1e-12
        bound = np.abs(multipliers @ Z).sum()
        assert abs(bound - float(best)) <= 1e-12 * (multipliers @ abs(Z)).sum()
        if unique:
            assert len(vertices) == 1
            np.testing.assert_allclose(v, reference.rounded(vertices[0]), atol=1e-8)


def test_known_answers():
    """Milliseconds and seconds since 1970 beside a signal."""
    millis = np.array([[1.7e12, 0.1], [-1.70000006e12, 0.1]])
    np.testing.assert_allclose(least_norm(millis, np.ones(2)), [0, 10], rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(largest_linf_margin(millis)[0], [0, 1], rtol=1e-12, atol=1e-20)
    seconds = np.array([[1.7e9, 0.3], [-1.70000006e9, 0.4], [1.70000012e9, 0.5], [-1.70000018e9, 0.2]])
    np.testing.assert_allclose(least_norm(seconds, np.ones(4)), [-2 / 17e9, 4], rtol=1e-7)


@pytest.mark.parametrize("hair", 10.0 ** -np.arange(2, 13, 2))
def test_a_hair_decides_whether_a_problem_can_be_solved(hair):
    """Opposite rows, turned by a hair, leave a wedge: a third row that points out of it leaves nothing."""
    wedge, c = [[1, hair], [-1, hair]], np.ones(3)
    assert answer(np.array([*wedge, [0.5, -1]]), c) is None
    G = np.array([*wedge, [0.5, 1]])
    assert_close(answer(G, c), reference.least_norm(G, c), G)


def test_a_row_of_zeros_asks_for_nothing_or_for_too_much():
    G = np.array([[0.0, 0], [3, 4]])
    np.testing.assert_allclose(least_norm(G, np.array([-1.0, 5])), [0.6, 0.8], rtol=1e-15)
    with pytest.raises(NotSeparable) as refusal:
        least_norm(G, np.array([2.0, 5]))
    assert refusal.value.multipliers.tolist() == [0.5, 0]


def test_where_rounding_leaves_no_answer_the_scales_are_named():
    """Hilbert's matrix: its inverse has entries of 1e12, and its rows with equality ask for all of them."""
    H, c = 1 / (np.arange(10) + np.arange(10)[:, None] + 1.0), np.ones(10)
    with pytest.raises(ValueError, match=r"columns span from 1e-01 to 1e\+00 .* rescale") as refusal:
        least_norm(np.vstack([H, -H]), np.append(c, -c))
    assert not isinstance(refusal.value, NotSeparable)


@pytest.mark.parametrize("span", [1e10, 1e12, 1e14, 1e16])
@pytest.mark.parametrize("extended", [np.longdouble, np.float64])
def test_wider_spans_are_solved_or_refused_but_never_wrong_in_silence(span, extended, monkeypatch):
    monkeypatch.setattr(solvers, "EXTENDED", extended)
    rng = np.random.default_rng(int(np.log10(span)))
    for _ in range(25):
        G, c = random_problem(rng, "integers", span)
        try:
            v = answer(G, c)
        except ValueError as refusal:
            assert "columns span from" in str(refusal)
            continue
        if v is not None:
            expected = reference.least_norm(G, c)
            np.testing.assert_allclose(np.sqrt(v @ v), np.sqrt(expected @ expected), rtol=1e-8)
            columns = abs(G).max(0).clip(1)
            terms = (abs(G) / columns).max(1) * (columns * abs(v)).max()
            assert (G @ v >= c - 1e-8 * (abs(c) + terms)).all()


def separated(rng, N, p):
    G, w = rng.normal(size=(N, p)), rng.normal(size=p)
    return G * np.sign(G @ w)[:, None] + 0.3 * w


@pytest.mark.parametrize("p", [3, 24])
def test_a_guess_saves_work_and_changes_nothing(p, monkeypatch):
    """The right constraints, wrong ones, ones that depend on each other, and all of them."""
    rng = np.random.default_rng(p)
    G, c = separated(rng, 100, p), np.ones(100)
    G[50:] = G[:50]
    v, multipliers = nearest_point(np.zeros(p), G, c)
    right = np.flatnonzero(multipliers)
    for guess in (right, right[:-1], rng.permutation(100)[:p], [3, 53], range(100)):
        np.testing.assert_allclose(least_norm(G, c, guess), v, rtol=1e-12)
    calls, factor = [], solvers.factor
    monkeypatch.setattr(solvers, "factor", lambda A: calls.append(1) or factor(A))
    least_norm(G, c, right)
    assert len(calls) == 2  # one factorisation in each precision


@pytest.mark.parametrize("p", [3, 10, 24])
def test_units_of_rows_and_of_the_answer_do_not_matter(p):
    """G v >= c with each row in another unit is the same problem; and v grows with c, and shrinks with G."""
    rng = np.random.default_rng(p)
    G, c = separated(rng, 100, p), rng.uniform(-1, 2, 100)
    v, scale = least_norm(G, c), 10 ** rng.uniform(-8, 8, 100)
    np.testing.assert_allclose(least_norm(scale[:, None] * G, scale * c), v, rtol=1e-9)
    for size in (1e-100, 1e-40, 1e40, 1e100):
        np.testing.assert_allclose(least_norm(G, size * c) / size, v, rtol=1e-12)
        np.testing.assert_allclose(least_norm(size * G, c) * size, v, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_larger_nnls_meets_the_conditions_that_suffice(seed):
    """x >= 0, no column of A lowers the residual, and those with x > 0 are orthogonal to it."""
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(6, 40)) * 10 ** rng.uniform(-3, 3, 40), rng.normal(size=6)
    x = nearest_point(b, -A.T, np.zeros(40))[1]
    slope = A.T @ (b - A @ x) / np.linalg.norm(A, axis=0)
    assert x.min() >= 0 and slope.max() < 1e-10 and abs(slope[x > 0]).max(initial=0) < 1e-10


@pytest.mark.parametrize("span", SPANS)
def test_larger_problems_meet_the_conditions_that_suffice(span):
    """G v >= c, v = Σ λ_i G_i, λ >= 0, and λ_i > 0 only where G_i v = c_i."""
    rng = np.random.default_rng(SPANS.index(span))
    for N, p in ((100, 3), (100, 24), (200, 60)):
        G = separated(rng, N, p) * span ** rng.uniform(0, 1, p)
        v, multipliers = nearest_point(np.zeros(p), G, np.ones(N))
        q = G @ v
        assert q.min() > 1 - 1e-8 and multipliers.min() >= 0 and abs(q[multipliers > 0] - 1).max() < 1e-8
        assert (abs(v - multipliers @ G) <= 1e-10 * (multipliers @ abs(G))).all()
        np.testing.assert_allclose(v @ v, multipliers.sum(), rtol=1e-8)


def test_the_quadratic_problem_of_a_step_is_solved_from_any_guess_and_for_dependent_rows():
    """λ >= 0, K λ >= b and λ (K λ - b) = 0 suffice; ||G^T λ|| is unique also where λ is not."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        G = rng.normal(size=(4, 6, 3))
        G[:, 5] = G[:, 4]  # equal rows, in the plane of others
        K, b = G @ G.swapaxes(1, 2), (G @ rng.normal(size=(4, 3, 1)))[..., 0]
        found = [quadratic(K, b, guess) for guess in (np.zeros((4, 6), bool), rng.random((4, 6)) < 0.5)]
        for weight in found:
            slack = (K @ weight[..., None])[..., 0] - b
            assert (weight >= 0).all() and slack.min() > -1e-9 and abs(weight * slack).max() < 1e-9
        ends = [(weight[:, None] @ G)[:, 0] for weight in found]
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-8)
