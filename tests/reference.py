"""Small problems solved by trying every active set, in exact rationals: what `solvers` has to agree with.

Nothing is shared with `solvers`. A float is a fraction with a power of two below the line, so that data go in
without rounding, and an answer is rounded once, at its end. The cost is exponential: take at most 30 rows in
the plane, 10 in space.
"""

from fractions import Fraction
from itertools import combinations

import numpy as np


def exact(a):
    """An array of numbers as nested lists of fractions."""
    return (
        [exact(row) for row in a]
        if np.ndim(a)
        else Fraction(a)
        if isinstance(a, Fraction)
        else Fraction(float(a))
    )


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


def subsets(n, most):
    """Every set of at most `most` of the numbers 0..n-1, the small ones first."""
    return (some for size in range(min(n, most) + 1) for some in combinations(range(n), size))


def rounded(values):
    return np.array([float(a) for a in values])


def nearest(f, G, c):
    """The v nearest to f with G v >= c and its multipliers, as fractions, or None where no v satisfies all.

    v = f + Σ λ_i G_i over an active set A with λ >= 0, G_A v = c_A and G v >= c: these conditions suffice.
    """
    f, G, c = exact(f), exact(G), exact(c)
    for active in subsets(len(G), len(f)):
        multipliers = solve(
            [[dot(G[i], G[j]) for j in active] for i in active], [c[i] - dot(G[i], f) for i in active]
        )
        if multipliers is None or min(multipliers, default=0) < 0:
            continue
        v = [a + sum(m * G[i][k] for m, i in zip(multipliers, active)) for k, a in enumerate(f)]
        if all(dot(row, v) >= bound for row, bound in zip(G, c)):
            return v, [multipliers[active.index(i)] if i in active else Fraction(0) for i in range(len(G))]
    return None


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
    rows, bounds = (
        [[*z, Fraction(-1)] for z in Z] + sides,
        [Fraction(0)] * len(Z) + [Fraction(-1)] * len(sides),
    )
    best, found = Fraction(-1), []
    for some in combinations(range(len(rows)), p + 1):
        vertex = solve([rows[i] for i in some], [bounds[i] for i in some])
        if vertex is None or vertex[-1] < best or any(dot(row, vertex) < b for row, b in zip(rows, bounds)):
            continue
        found = [vertex[:-1]] if vertex[-1] > best else found + [vertex[:-1]] * (vertex[:-1] not in found)
        best = vertex[-1]
    return best, found
