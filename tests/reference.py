"""Slow ways that leave nothing out: what the project's quick ways have to agree with.

Small problems are solved by trying every active set, in exact rationals; nothing of it is from `solvers`. A
float is a fraction, so that data go in without rounding, and an answer is rounded once, at its end. Take at
most 30 rows in the plane, 10 in space. At kinks all 2^k pieces of a margin with k units there are named.
"""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
from autograd.core import make_vjp

from minibias import scaled
from models import held, layer, layer_transpose, matrix, recorded
from solvers import nearest_point


def exact(a):
    """An array of numbers as nested lists of fractions."""
    if np.ndim(a):
        return [exact(row) for row in a]
    return a if isinstance(a, Fraction) else Fraction(float(a))


def dot(a, b):
    return sum((x * y for x, y in zip(a, b)), Fraction(0))


def solve(A, b):
    """x with A x = b for a square A of fractions, by Gauss' elimination, or None where A is singular."""
    rows = [[*row, value] for row, value in zip(A, b)]
    for j in range(len(rows)):
        pivot = next((i for i in range(j, len(rows)) if rows[i][j]), None)
        if pivot is None:
            return None
        rows[j], rows[pivot] = rows[pivot], rows[j]
        rows[j] = [a / rows[j][j] for a in rows[j]]
        for i in range(len(rows)):
            if i != j and rows[i][j]:
                rows[i] = [a - rows[i][j] * b for a, b in zip(rows[i], rows[j])]
    return [row[-1] for row in rows]


def rounded(values):
    return np.array([float(a) for a in values])


def nearest(f, G, c):
    """The v nearest to f with G v >= c and its multipliers, as fractions, or None where no v satisfies all.

    v = f + Σ λ_i G_i over an active set A with λ >= 0, G_A v = c_A and G v >= c: these conditions suffice.
    """
    f, G, c = exact(f), exact(G), exact(c)
    most = min(len(G), len(f))
    for active in (some for size in range(most + 1) for some in combinations(range(len(G)), size)):
        products = [[dot(G[i], G[j]) for j in active] for i in active]
        multipliers = solve(products, [c[i] - dot(G[i], f) for i in active])
        if multipliers is None or min(multipliers, default=0) < 0:
            continue
        v = [a + sum(m * G[i][k] for m, i in zip(multipliers, active)) for k, a in enumerate(f)]
        if all(dot(row, v) >= bound for row, bound in zip(G, c)):
            return v, [multipliers[active.index(i)] if i in active else Fraction(0) for i in range(len(G))]


def least_norm(G, c):
    """The v of least ||v|| with G v >= c (p,), or None."""
    found = nearest(np.zeros(np.shape(G)[1]), G, c)
    return found and rounded(found[0])


def nnls(A, b):
    """The x >= 0 of least ||A x - b||, and that length: the residual r is nearest to b with A^T r <= 0."""
    r, x = nearest(b, [[-a for a in column] for column in zip(*exact(A))], np.zeros(np.shape(A)[1]))
    return rounded(x), float(dot(r, r)) ** 0.5


def linf_margin(Z):
    """max over ||v||_inf <= 1 of min_i (Z v)_i, and every vertex v that reaches it, as fractions.

    The vertices of {(v, t): Z v >= t, -1 <= v <= 1} are where p + 1 of these constraints hold with equality.
    """
    Z, p = exact(Z), np.shape(Z)[1]
    sides = [[Fraction(sign * (k == j)) for k in range(p + 1)] for j in range(p) for sign in (1, -1)]
    rows = [[*z, Fraction(-1)] for z in Z] + sides
    bounds = [Fraction(0)] * len(Z) + [Fraction(-1)] * len(sides)
    best, found = Fraction(-1), []
    for some in combinations(range(len(rows)), p + 1):
        vertex = solve([rows[i] for i in some], [bounds[i] for i in some])
        if vertex is None or vertex[-1] < best or any(dot(row, vertex) < b for row, b in zip(rows, bounds)):
            continue
        found = [vertex[:-1]] if vertex[-1] > best else found + [vertex[:-1]] * (vertex[:-1] not in found)
        best = vertex[-1]
    return best, found


def at_kinks(model, w, x, c):
    """Which hidden units are at a kink at the sample x (1, d), and matter to <c, Φ>: (units,), w (1, p)."""
    a, cosines, lengths, slopes = x.T, [], [], []
    for start, shape in model.layers[:-1]:
        z = layer(w, a, start, shape)[0, :, 0]
        lengths.append(np.sqrt((matrix(w[0], start, shape) ** 2).sum(-1) * (a * a).sum()))
        cosines.append(z / np.where(lengths[-1] > 0, lengths[-1], 1))
        slopes.append(np.where(z > 0, 1, model.slope))
        a = (slopes[-1] * z)[:, None]
    pulls, g = [], c[:, None]
    for later, length, slope in zip(model.layers[:0:-1], lengths[::-1], slopes[::-1]):
        g = layer_transpose(w, g, *later)[0]
        pulls.insert(0, g[:, 0] * length)
        g = slope[:, None] * g
    share = np.concatenate(pulls) / abs(c @ np.ravel(model(w, x)))
    return (abs(np.concatenate(cosines)) <= 1e-9) & (abs(share) > 1e-15)  # what adds less is rounding


def named_gradients(problem, w, margin):
    """The gradients of all pieces of one margin at w (1, p): (pieces, p)."""
    which = np.array([margin])
    x, c = problem.x[problem.sample(which)], problem.contrast(which)[0]
    with recorded() as choices:
        problem.model(w, x)
    units, ends = at_kinks(problem.model, w, x, c), np.cumsum([s.size for s in choices])
    flat, rows = np.concatenate([s.ravel() for s in choices]), []
    for sides in product((problem.model.slope, 1.0), repeat=units.sum()):
        flat[units] = sides
        parts = [part.reshape(s.shape) for part, s in zip(np.split(flat, ends[:-1]), choices)]
        with held(parts):
            backward, phi = make_vjp(lambda w: problem.model(w, x), w)
        rows.append(backward(c.reshape(phi.shape))[0])
    return np.array(rows)


def named_certificate(problem, w, h):
    """The KKT residual of `certificate` with all pieces of all margins named: w, h (runs, p) -> (runs,)."""
    residuals = []
    for one, root in zip(scaled(problem, w), np.sqrt(h)):
        q, v = problem.margins(one[None])[0], one / root
        rows = [named_gradients(problem, one[None], i) for i in range(len(q))]
        slack, G = np.repeat(q - 1, list(map(len, rows))), np.concatenate(rows) * root
        s = np.sqrt(v @ v)
        A, b = np.vstack([G.T / s, slack / s**2]), np.append(v / s, 0)
        rest, _ = nearest_point(b, -A.T, np.zeros(A.shape[1]), np.flatnonzero(slack < 1e-9))
        residuals.append(np.sqrt(rest @ rest))
    return np.array(residuals)


def sampled_certificate(problem, w, h, radius=1e-6, points=30):
    """The KKT residual from the gradients at random points within `radius` of w (1, p), h (1, p).

    Near enough they are those of the pieces at w: Goldstein's subdifferential (Burke, Lewis, Overton 2005).
    """
    w, root = scaled(problem, w), np.sqrt(h[0])
    q, v = problem.margins(w)[0], w[0] / root
    s, near = np.sqrt(v @ v), np.flatnonzero(q < 1 + 1e-6)
    steps = np.random.default_rng(0).normal(size=(points, len(v)))
    steps *= radius * s / np.sqrt((steps**2).sum(1, keepdims=True))
    rows = np.concatenate([problem.rows(w + root * step, near[None])[0] for step in steps])
    slack = np.tile(q[near] - 1, points)
    A, b = np.vstack([(rows * root).T / s, slack / s**2]), np.append(v / s, 0)
    rest, _ = nearest_point(b, -A.T, np.zeros(A.shape[1]), np.arange(len(near)))
    return np.sqrt(rest @ rest)
