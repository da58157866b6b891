"""Linear algebra without a word of networks: non-negative least squares, least distance, the simplex method."""

import numpy as np


def nnls(A, b):
    """The x >= 0 that minimises ||A x - b||, by Lawson and Hanson's active sets: A (m, n), b (m,) -> (n,).

    Columns are scaled to length 1 first, which leaves the answer alone and makes its zeros sharp.
    """
    lengths = np.sqrt((A * A).sum(0))
    lengths[lengths == 0] = 1
    A = A / lengths
    x, passive = np.zeros(A.shape[1]), np.zeros(A.shape[1], bool)
    barred = passive.copy()  # a column that rounding alone invited in is barred until the solution has moved
    for _ in range(10 * sum(A.shape)):
        residual = b - A @ x
        descent = np.where(passive | barred, -np.inf, A.T @ residual)
        new = descent.argmax()
        if descent[new] <= 4e-16 * np.sqrt(len(b)) * (np.linalg.norm(b) + abs(x).sum()):
            break
        passive[new] = True
        while True:
            trial = np.zeros_like(x)
            trial[passive] = np.linalg.lstsq(A[:, passive], b, rcond=None)[0]
            out = passive & (trial <= 0)
            if not out.any():
                x, barred = trial, np.zeros_like(barred)
                break
            if out[new] and x[new] == 0:
                passive[new], barred[new] = False, True
                break
            rows = np.flatnonzero(out)
            shares = x[rows] / (x[rows] - trial[rows])
            x = x + shares.min() * (trial - x)
            passive &= ~(out & (x <= 1e-14 * x.max()))
            passive[rows[shares.argmin()]] = False  # whatever rounding says
            x[~passive] = 0
    return x / lengths


class NotSeparable(ValueError):
    """No v satisfies G v >= c: `multipliers` λ >= 0, Σ λ_i c_i = 1, Σ λ_i G_i = 0 prove it (Farkas)."""

    def __init__(self, multipliers):
        super().__init__(
            "the constraints cannot hold: some combination of them with weights >= 0 says 0 >= 1"
        )
        self.multipliers = multipliers


def least_norm(G, c):
    """The v of least ||v|| with G v >= c: G (N, p), c (N,) not all <= 0 -> (p,). Raises NotSeparable if there
    is none.

    Lawson and Hanson's least distance programming: the non-negative combination of the vectors (G_i, c_i) that is nearest to
    (0, 1) leaves a residual parallel to (-v, 1), or none at all. The active constraints then give v to rounding.
    """
    scale = np.abs(G).max() or 1.0
    size = 1.0
    for _ in range(3):  # v of length 1 keeps the two parts of the residual in balance
        E = np.vstack([G.T / scale * size, c])
        target = np.append(np.zeros(G.shape[1]), 1.0)
        multipliers = nnls(E, target)
        residual = target - E @ multipliers
        if np.linalg.norm(residual) < 1e-13:
            raise NotSeparable(multipliers / (multipliers @ c))
        v = -residual[:-1] / (
            residual @ residual
        )  # which is the residual's last entry, without its cancellation
        if 0.3 < np.linalg.norm(v) < 3:
            break
        size *= np.linalg.norm(v)
    active = multipliers > 0
    return np.linalg.lstsq(G[active], c[active], rcond=None)[0]


def largest_linf_margin(Z):
    """The v with ||v||_∞ <= 1 of largest min_i (Z v)_i: Z (N, p) -> v (p,), multipliers λ >= 0 (N,) of sum 1,
    `unique`.

    The λ come from the simplex method on min Σ_j (a_j + b_j) s.t. Σ λ_i Z_i = a - b, all >= 0; v is its dual, a vertex.
    A nudge of the right-hand side by 1e-10 leaves no vertex degenerate, so that it cannot cycle; the reduced costs, and
    so the last basis, do not depend on it. `unique`, if true, proves that there is no other such v.
    Raises NotSeparable where no v makes the least entry positive, ValueError where rounding defeats the method.
    """
    p = Z.shape[1]
    Z = Z / (np.abs(Z).max() or 1.0)
    N = len(Z)
    A = np.vstack([np.hstack([Z.T, -np.eye(p), np.eye(p)]), np.append(np.ones(N), np.zeros(2 * p))])
    cost, target = np.append(np.zeros(N), np.ones(2 * p)), np.append(np.zeros(p), 1.0)
    nudged = target + np.append(1e-10 * np.random.default_rng(0).uniform(-1, 1, p), 0)
    basis = np.append(0, N + np.arange(p) + p * (Z[0] < nudged[:p]))  # λ_1 = 1
    for _ in range(100 * (N + p)):  # a hundred points in ten dimensions need some twenty
        dual = np.linalg.solve(A[:, basis].T, cost[basis])
        reduced = cost - dual @ A
        reduced[basis] = 0  # but for rounding, which could let a column replace itself for ever
        new = reduced.argmin()
        if reduced[new] >= -1e-12:
            break
        x, column = np.linalg.solve(A[:, basis], np.stack([nudged, A[:, new]], 1)).T
        ratios = np.where(column > 1e-9, np.maximum(x, 0) / np.where(column > 1e-9, column, 1), np.inf)
        basis[ratios.argmin()] = new
    else:
        raise ValueError("the simplex method came to no end: the data span too many orders of magnitude")
    x = np.linalg.solve(A[:, basis], target)
    multipliers = np.zeros(N + 2 * p)
    multipliers[basis] = np.maximum(x, 0)
    if dual[-1] < 1e-13:
        raise NotSeparable(multipliers[:N])
    return -dual[:-1], multipliers[:N], bool(x.min() > 1e-12)
