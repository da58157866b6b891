"""Least distance, the largest margin in a cube, quadratic problems, conjugate gradients: linear algebra.

The first two ask `nearest_point`: which point of a polyhedron is nearest to a given one? Columns may differ
in size by 1e8, rows by any factor. Its answers are checked, relative to the sizes of the terms they are of.
"""

import numpy as np

EXTENDED = np.longdouble  # 64 bits on most processors; where it has only 53, fewer problems pass the checks
GOOD = 1e-10  # what residuals are checked to; v is then good to about 1e-8
PROOF = 2e-15  # what a proof that there is none is checked to; rounding of its multipliers alone makes 2e-16


class NotSeparable(ValueError):
    """No v satisfies G v >= c: `multipliers` λ >= 0 (N,), Σ λ_i c_i = 1, Σ λ_i G_i = 0, prove it (Farkas)."""

    def __init__(self, multipliers):
        super().__init__(
            "the constraints cannot hold: some combination of them with weights >= 0 says 0 >= 1"
        )
        self.multipliers = multipliers


def least_norm(G, c, active=()):
    """The v of least ||v|| with G v >= c: G (N, p), c (N,) -> (p,). The rest is as in `nearest_point`."""
    return nearest_point(np.zeros(G.shape[1]), G, c, active)[0]


def largest_linf_margin(Z):
    """The v with ||v||_inf <= 1 of largest t = min_i (Z v)_i: Z (N, p) -> v (p,), multipliers λ (N,), unique.

    Any λ >= 0 of sum 1 bounds t: min_i (Z v)_i <= Σ λ_i (Z v)_i <= ||Z^T λ||_1. Equality certifies v and λ.
    `unique`, if true, proves that no other v reaches t: p + 1 independent constraints have multipliers > 0.
    A step goes up in t from (v, t), then to the nearest point with Z v >= t and ||v||_inf <= 1. Finitely many
    of these proximal steps lead to the end (Rockafellar 1976). Since they grow, and t is measured in its own
    unit, three to five do.
    Raises NotSeparable if no v has a positive margin, and ValueError as `nearest_point` does.
    """
    N, p = Z.shape
    cube = np.vstack([np.eye(p, p + 1), -np.eye(p, p + 1)])
    bounds, up = np.append(np.zeros(N), -np.ones(2 * p)), np.append(np.zeros(p), 1.0)
    unit, v, t, active, multipliers = abs(Z).max() or 1.0, np.zeros(p), 0.0, (), np.zeros(N + 2 * p)
    for k in range(15):
        unit = 2.0 ** np.frexp(unit)[1]  # a power of two: dividing by it rounds nothing
        G = np.vstack([np.column_stack([Z / unit, -np.ones(N)]), cube])
        end, weights = nearest_point(np.append(v, t / unit + 10.0 ** (k + 1)), G, bounds, active)
        v, t, active = end[:p], end[p] * unit, np.flatnonzero(weights)
        # optimal if up = -Σ found_i A_i with found >= 0
        A = G[active]
        off, found, _ = on_equality(up, A, np.zeros(len(A)), factor(A), EXTENDED)
        shares = abs(found)[:, None] * abs(A)
        noise = 1e-15 * (shares.sum(0) + abs(G).max(0))
        found = np.where((shares <= noise).all(1), 0, found)
        if (abs(off) <= GOOD * shares.sum(0) + noise).all() and (found >= 0).all():
            multipliers[active] = found / found[active < N].sum()
            if (abs(multipliers[:N] @ Z) <= PROOF * (multipliers[:N] @ abs(Z))).all():
                raise NotSeparable(multipliers[:N])
            if satisfies(end, G, bounds, active, abs(end)):
                return v, multipliers[:N], int((found > 0).sum()) == p + 1
        if t > 0:
            unit = t / abs(v).max()  # the margin of v stretched to the cube
    raise refusal(Z)


def nearest_point(f, G, c, active=()):
    """The v nearest to f with G v >= c, and its multipliers λ: f (p,), G (N, p), c (N,) -> (p,), (N,).

    v = f + Σ λ_i G_i with λ >= 0, and λ_i > 0 only where G_i v = c_i: no other v is nearest.
    active   indices of the constraints that are probably active; a good guess saves most of the work
    Raises NotSeparable if no v satisfies all, and ValueError, which names the scales, if rounding leaves no
    answer that is good to 1e-8.
    """
    rows = 2.0 ** np.frexp(abs(G).max(1))[1]
    scaled, bounds = G / rows[:, None], c / rows
    with np.errstate(all="ignore"):  # what overflows does not pass the checks
        likely = search(f, scaled, bounds, list(active), float)[0]  # fast, and nearly always right
        for guess in (likely, []):
            try:
                found, v, weights, error = search(f, scaled, bounds, guess, EXTENDED)
            except NotSeparable as proof:
                multipliers = proof.multipliers / rows
                raise NotSeparable(multipliers / (multipliers @ c)) from None
            multipliers = np.zeros(len(G))
            multipliers[found] = weights
            if is_nearest(f, scaled, bounds, found, v, multipliers, error):
                return v, multipliers / rows
    raise refusal(G)


def shortened(A):
    """Q and R with A = Q R and orthonormal columns in Q; of a wide or a small A, Q is 1.

    A least-squares problem in A's columns is one in R's, which are short.
    """
    if len(A) < 2 * A.shape[1] or len(A) < 500:
        return np.eye(len(A)), A
    return np.linalg.qr(A)


def satisfies(v, G, c, active, sizes):
    """Whether G v >= c, with equality where active, to `GOOD` relative to |c_i| and the terms of G_i v.

    A term counts with the size of its column: as |G_ij| / columns_j times the largest of columns_k sizes_k.
    """
    columns = abs(G).max(0)
    reach = (abs(G) / np.where(columns > 0, columns, 1)).max(1)
    missing, room = c - G @ v, GOOD * (abs(c) + reach * (columns * sizes).max())
    return (missing <= room).all() and (abs(missing[active]) <= room[active]).all()


def is_nearest(f, G, c, active, v, multipliers, error):
    """Whether v and λ meet what `nearest_point` promises to `GOOD`, and v's last correction is as small.

    Corrections end where rounding makes them, so that their size says how many digits of v are right.
    """
    columns, sizes = abs(G).max(0), abs(v) + abs(f)
    off = abs(v - f - multipliers @ G)
    return (
        satisfies(v, G, c, active, sizes)
        and (multipliers >= 0).all()
        and (off <= GOOD * (sizes + columns * multipliers.max())).all()
        and (columns * abs(error)).max() <= GOOD * (columns * sizes).max()
    )


def refusal(G):
    """The error to raise where rounding leaves no answer."""
    sizes = abs(G).max(0)
    return ValueError(
        f"the columns span from {sizes[sizes > 0].min(initial=np.inf):.0e} to {sizes.max():.0e} and are too "
        "nearly dependent for an answer good to 1e-8; rescale them, or subtract what the entries of one share"
    )


def search(f, G, c, active, precision):
    """Which constraints are active at the v nearest to f, this v, their λ, and v's last correction.

    `active` is a guess at them. It is Lawson and Hanson's search (1974). The most violated constraint, `new`,
    becomes active. Then λ moves towards what makes all active ones hold with equality, until it is there or
    some λ_i is 0, which is active no more. Where G_new depends on the active rows there is no such λ. Then λ
    moves along the dependence, and if no λ_i falls there, no v satisfies all.
    """
    tolerance = 1e-12 if precision is float else 100 * float(np.finfo(precision).eps)
    sizes, lengths, bounds, exact = abs(G), norm(G).clip(0.5), abs(c), G.astype(precision, copy=False)
    columns = sizes.max(0)
    allowed = np.full(len(c), tolerance)  # grows where a constraint returns, lest rounding goes in circles
    idle = np.zeros(len(c), bool)  # violated by rounding alone
    rounding = 4 * float(np.finfo(precision).eps) * sizes @ abs(f)
    if np.linalg.matrix_rank(G[active] / columns.clip(1e-300)) < len(active):
        active = []
    weights, new = np.zeros(len(active)), None
    for _ in range(20 * sum(G.shape)):
        A = G[active]
        factors = factor(A)
        v, goal, error = on_equality(f, A, c[active], factors, precision)
        falls = np.flatnonzero(goal < 0)
        if len(falls) and new is None:  # of a wrong guess those with λ >= 0 stay
            active, weights = [i for i, weight in zip(active, goal) if weight >= 0], goal[goal >= 0]
            continue
        if len(falls):
            shares = weights[falls] / (weights[falls] - goal[falls])
            gone = falls[shares.argmin()]
            if active[gone] == new:
                idle[new] = True
            active, weights = without(gone, active, weights + shares.min() * (goal - weights))
            continue
        if new in active:
            idle[:] = False
        weights, missing = goal, (c - exact @ v).astype(float)
        missing[active] = 0
        violated = (missing > allowed * (bounds + sizes @ abs(v.astype(float))) + rounding) & ~idle
        if not violated.any():
            break
        new, weight = int(np.where(violated, missing / lengths, 0).argmax()), 0.0
        allowed[new] *= 4
        z, shifts, _ = on_equality(G[new], A, np.zeros(len(A)), factors, precision)
        noise = 100 * tolerance * (sizes[new] + abs(shifts) @ sizes[active] + columns)
        if len(A) == len(f) or (abs(z) <= noise).all():  # G_new = -Σ shifts_i G_i
            if precision is EXTENDED:
                refute(G, c, [*active, new], np.append(shifts, 1), noise)
            falls = np.flatnonzero(shifts < 0)
            total, terms = c[new] + shifts @ c[active], bounds[new] + abs(shifts) @ bounds[active]
            if not len(falls) or total <= tolerance * terms:
                idle[new] = True
                continue
            shares = weights[falls] / -shifts[falls]
            weight = shares.min()
            active, weights = without(falls[shares.argmin()], active, weights + weight * shifts)
        active, weights = [*active, new], np.append(weights, weight)
    return active, v.astype(float), weights, error


def without(i, active, weights):
    return active[:i] + active[i + 1 :], np.delete(weights, i)


def refute(G, c, rows, weights, noise):
    """Raises NotSeparable if the weights of the rows, but for those that are mere `noise` (p,), prove it."""
    real = (abs(weights)[:, None] * abs(G[rows]) > noise).any(1)
    real[-1] = True
    proof = np.zeros(len(G))
    proof[rows] = np.where(real, np.maximum(weights, 0), 0)
    if (abs(proof @ G) <= PROOF * (proof @ abs(G))).all() and proof @ c > 1e-12 * (proof @ abs(c)):
        raise NotSeparable(proof)


def factor(A):
    """Q (p, k) and R^-1 with A^T = Q R. Large coordinates come first: so small ones keep their digits."""
    order = np.argsort(-abs(A).max(0, initial=0))
    Q, R = np.linalg.qr(A.T[order])
    return Q[np.argsort(order)], np.linalg.inv(R + np.diag(R.diagonal() == 0))  # a 0 does not pass the checks


def on_equality(f, A, c, factors, precision):
    """The v nearest to f with A v = c, λ in v = f + A^T λ, and v's last correction, from A's `factors`.

    v is an unknown of its own beside λ: where it is small beside Σ |A_i λ_i|, the sum has lost its digits.
    Residuals are in this precision, corrections are floats (Björck 1967).
    """
    Q, inverse = factors
    f, A, c = (a.astype(precision, copy=False) for a in (f, A, c))
    v, multipliers = f, np.zeros(len(A), precision)
    for _ in range(1 if precision is float else 3):
        off, missing = (f - v + multipliers @ A).astype(float), (c - A @ v).astype(float)
        along = missing @ inverse - off @ Q
        error = off + Q @ along
        v, multipliers = v + error, multipliers + inverse @ along
    return v, multipliers.astype(float), error


# For many runs at once, and less exactly: the problems of a step of the margin flow (see kinks.py).


def quadratic(K, b, guess):
    """The λ >= 0 of least λKλ/2 - bλ: K (runs, k, k), b (runs, k) -> (runs, k).

    guess     (runs, k), which λ are above 0. Corrected a few times, it is tried for all runs at once. The
              runs for which it fails are solved one by one, by a descending active set
    """
    lengths = np.sqrt(np.einsum("rkk->rk", K))
    scale = np.where(lengths > 0, lengths, 1)
    K, b = K / scale[:, :, None] / scale[:, None], np.where(lengths > 0, b / scale, 0)
    active, found, solved = guess.copy(), np.zeros(b.shape), np.zeros(len(b), bool)
    for _ in range(6):
        todo = np.flatnonzero(~solved)
        if not len(todo):
            break
        x, slack = on_active(K[todo], b[todo], active[todo])
        wrong = active[todo] & (x < 0) | ~active[todo] & (slack > TIGHT * abs(b[todo]).max(1, keepdims=True))
        good = ~wrong.any(1)
        found[todo[good]], solved[todo[good]] = x[good], True
        active[todo] ^= wrong
    for run in np.flatnonzero(~solved):
        found[run] = descend(K[run], b[run], guess[run])
    return found / scale


TIGHT = 1e-12  # how far a constraint may be off, of rows of length 1
RIDGE = 1e-14  # of rows of length 1, where rows depend on each other


def on_active(K, b, active):
    """λ with K λ = b on the active rows and 0 elsewhere, and b - K λ: (runs, k) each."""
    both = active[:, :, None] & active[:, None]
    M = np.where(both, K, 0) + np.eye(b.shape[1]) * np.where(active, RIDGE, 1)[:, None]
    x, slack = 0.0, b
    for _ in range(2):
        x = x + np.linalg.solve(M, np.where(active, slack, 0)[..., None])[..., 0]
        slack = b - (K @ x[..., None])[..., 0]
    return x, slack


def descend(K, b, guess):
    """The same for one run, as Lawson and Hanson: no step raises what is minimised, so that it ends.

    Several rows enter at a time, those that are missed by half as much as the worst, or, if none of these
    stays, the worst alone.
    """
    x, active, share = np.zeros(len(b)), guess.copy(), 0.5
    for _ in range(10 * len(b) + 10):
        before = x
        for _ in range(len(b) + 1):
            on = np.flatnonzero(active)
            some, y = K[np.ix_(on, on)] + RIDGE * np.eye(len(on)), np.zeros(len(b))
            for _ in range(2):
                y[on] += np.linalg.solve(some, (b - K[:, on] @ y[on])[on])
            falls = active & (y <= 0)
            if not falls.any():
                x = y
                break
            length = np.min(x[falls] / np.maximum(x[falls] - y[falls], 1e-300))
            x = np.where(active, x + length * (y - x), 0)
            gone = falls & (x <= 1e-15 * abs(x).max(initial=1e-300))
            active &= ~(gone if gone.any() else falls)
            x[~active] = 0
        slack = np.where(active, -np.inf, b - K @ x)
        if slack.max() <= TIGHT * abs(b).max():
            break
        share = 0.5 if (x != before).any() else 1.0
        active |= slack >= share * slack.max()
    return np.maximum(x, 0)


def conjugate(product, r, d, longest, most):
    """d + x for the x of B x = r, by conjugate gradients from 0, stopped where ||d + x|| is `longest`.

    product, r, d   a -> B a, and (runs, p); `longest` (runs,). It makes `most` steps at most (Steihaug 1983)
    Also returns the lowest curvature <a, B a> / <a, a> met, which for a random r soon comes near B's lowest.
    """
    direction, square, lowest = r, (r * r).sum(-1), np.full(len(r), np.inf)
    small = 1e-16 * np.maximum(square, 1e-300)
    going = square > small
    for _ in range(most):
        if not going.any():
            break
        image = product(direction)
        curve, own = (direction * image).sum(-1), (direction * direction).sum(-1)
        lowest = np.where(going, np.minimum(lowest, curve / own), lowest)
        # the length at which ||d + length direction|| is `longest`
        along_d, room = (d * direction).sum(-1), np.maximum(longest**2 - (d * d).sum(-1), 0)
        edge = (np.sqrt(along_d**2 + own * room) - along_d) / own
        far = going & ~(curve > square / edge)
        length = np.where(going, np.where(far, edge, square / curve), 0)[:, None]
        going &= ~far
        d, r = d + np.where(np.isfinite(length), length, 0) * direction, r - length * image
        last, square = square, np.where(going, (r * r).sum(-1), square)
        direction = np.where(going[:, None], r + (square / last)[:, None] * direction, direction)
        going &= square > small
    return d, lowest


def norm(a):
    """Euclidean length over the last axis."""
    return np.sqrt((a * a).sum(-1))


def unit(a):
    """a / ||a|| over the last axis, for any finite a but 0."""
    a = a / np.abs(a).max(-1, keepdims=True)
    return a / norm(a)[..., None]
