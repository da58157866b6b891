"""Margins as smooth functions: its pieces at kinks, and the nearest point where all reach a level.

At a kink of a hidden unit a margin has no one gradient. It is there the smaller or the larger of two smooth
functions, its pieces, in which σ' of that unit is held at its value on one of the two sides. With k such
units there are 2^k.
"""

import autograd.numpy as np
from autograd.core import make_vjp

from solvers import least_norm, nnls

AT_KINK = 1e-9  # the cosine of a unit's weights and its input below which a sample counts as on the kink
FADED = 1e-15  # a unit that adds less than this share to a margin is below rounding, and so are its pieces
MOST_UNITS = 10  # of a sample at kinks: 2^10 pieces


class Margins:
    """Functions (runs, M) to stand as constraints: here each margin once, which is right away from kinks.

    real      (runs, M): runs differ in the number of functions, and what fills the array up is not real
    crowded   (runs,): whether a sample of the run has more pieces than anyone wants to name
    """

    def __init__(self, problem, w):
        self.problem = problem
        self.real = np.ones(problem.margins(w).shape, bool)
        self.crowded = np.zeros(len(w), bool)

    def values(self, w):
        """The functions at w (..., runs, p): (..., runs, M)."""
        return self.problem.margins(w)

    def gradients(self, w):
        """Their gradients at w (runs, p): (runs, M, p)."""
        return self.problem.jacobian(w)

    def curvature(self, w, weights):
        """The Hessian of Σ weights values, with weights (runs, M): (runs, p, p), by one backward pass."""
        if linear(self.problem.model):
            return np.zeros((*w.shape, w.shape[-1]))
        copies = np.broadcast_to(w, (w.shape[-1], *w.shape))
        weights = np.broadcast_to(weights, (len(copies), *weights.shape))
        backward, _ = make_vjp(lambda w: make_vjp(self.values, w)[0](weights), copies)
        return backward(np.broadcast_to(np.eye(len(copies))[:, None], copies.shape)).swapaxes(0, 1)


class Pieces(Margins):
    """The pieces of the `chosen` margins (runs, N) at the kinks of `units` (runs, units, N), two masks.

    Every piece is a margin of a model with all σ' held, at a sample that it has for itself.
    """

    def __init__(self, problem, w, chosen, units, slopes):
        self.problem = problem
        many = units.sum(1) > MOST_UNITS
        self.crowded = (chosen & many).any(-1)
        run, margin = np.nonzero(chosen & ~many)
        number = 2 ** units[run, :, margin].sum(-1)
        before = np.cumsum(number) - number
        which = np.arange(number.sum()) - np.repeat(before, number)  # 0 .. number - 1 of each
        run, margin = np.repeat(run, number), np.repeat(margin, number)
        # the digits of `which` in base 2 say on which side of its kinks each piece is
        units = units[run, :, margin]
        upper = which[:, None] >> np.maximum(units.cumsum(-1) - 1, 0) & 1
        held = np.where(units, np.where(upper, 1.0, problem.model.slope), slopes[run, :, margin])
        # one row of the arrays for each run, filled up with zeros
        place = np.arange(len(run)) - np.searchsorted(run, run)
        x, contrast = problem.contrasts()
        shape = len(w), place.max(initial=0) + 1
        self.real = np.zeros(shape, bool)
        self.x = np.zeros((*shape, problem.x.shape[1]))
        self.contrast = np.zeros((*shape, problem.outputs))
        self.slopes = np.zeros((shape[0], slopes.shape[1], shape[1]))
        self.real[run, place] = True
        self.x[run, place], self.contrast[run, place] = x[margin], contrast[margin]
        self.slopes[run, :, place] = held

    def values(self, w):
        phi = self.problem.model(w, self.x, self.slopes)
        return phi * self.contrast[..., 0] if self.problem.outputs == 1 else (phi * self.contrast).sum(-1)

    def gradients(self, w):
        """One backward pass, for which each piece is a run of its own with one sample."""
        copies = np.broadcast_to(w[:, None], (*self.real.shape, w.shape[-1]))
        x, slopes = self.x[:, :, None], self.slopes.swapaxes(1, 2)[..., None]
        backward, phi = make_vjp(lambda w: self.problem.model(w, x, slopes), copies)
        return backward(self.contrast.reshape(phi.shape))


def smooth(problem, w, before=None):
    """The margins at w (runs, p) as smooth functions: `Pieces`, or `Margins` for a model that names none.

    Without `before` these are all pieces at w. With `before` (runs, p), where the last step came from,
    they are what the next step may meet: the margins up to twice the least, with the pieces of units that
    may come to a kink and whose pull is negative. Where it is positive, the flow leaves the kink, and the
    margin keeps its side.
    """
    if plain(problem.model):
        return Margins(problem, w)
    q = problem.margins(w)
    slopes, cosines, pulls = problem.model.units(w, *problem.contrasts())
    shares = pulls / q[:, None]
    if before is None:
        units = (abs(cosines) <= AT_KINK) & (abs(shares) > FADED)
        chosen = np.ones_like(q, bool)
    else:
        # each unit's own last move counts: a fading one swings far while the direction of w hardly moves
        moved = abs(cosines - problem.model.units(before, *problem.contrasts())[1])
        units = (abs(cosines) <= np.maximum(3 * moved, 1e-6)) & (shares < -FADED)
        chosen = q <= 2 * q.min(-1, keepdims=True)
    return Pieces(problem, w, chosen, units & (problem.model.slope < 1), slopes)


def linear(model):
    """Whether a model is known to be linear, in w and in x; one's own of degree 1 need not be."""
    return model.degree == 1 and hasattr(model, "units")


def plain(model):
    """Whether a model names no pieces: one of one's own, or the linear one."""
    return linear(model) or not hasattr(model, "units")


def kinks(problem, w):
    """How many pairs of a unit and a sample of least margin lie on a kink: (runs,)."""
    if plain(problem.model):
        return np.zeros(len(w), int)
    q = problem.margins(w)
    _, cosines, pulls = problem.model.units(w, *problem.contrasts())
    least = (q <= (1 + 1e-6) * q.min(-1, keepdims=True))[:, None]
    on = least & (abs(cosines) <= AT_KINK) & (abs(pulls) > FADED * q[:, None])
    return on.reshape(*on.shape[:2], len(problem.y), max(1, problem.outputs - 1)).any(-1).sum((1, 2))


def nearest(functions, h, centre, w, level, rounds=20):
    """The point nearest to `centre`, in the norm ||h^-1/2 .||, where all functions are >= level.

    functions   Margins or Pieces; h, centre and w, where the search begins, (runs, p)
    level, rounds (at most)   numbers, or (runs,)
    Returns the point (runs, p) and `found` (runs,), which is false also where it is lost for good.

    It is Newton's method for v = h^-1/2 w. Each round linearises the functions q_i at v, and minimises over
    them, by least distance, the quadratic model of |v - centre|² / 2 - Σ λ_i q_i, with the multipliers λ of
    the last round.
    """
    root, level = np.sqrt(h), np.broadcast_to(level, len(w))[:, None]
    v, centre, eye = w / root, centre / root, np.eye(w.shape[-1])
    multipliers, active = np.zeros(functions.real.shape), None
    found, lost, last = np.zeros(len(w), bool), functions.crowded.copy(), np.inf
    for k in range(np.max(rounds)):
        going = ~found & ~lost & (k < rounds)
        q, G = functions.values(root * v), functions.gradients(root * v) * root[:, None]
        H = np.broadcast_to(eye, (len(w), *eye.shape))
        if k > 0:
            # Σ λ ∂q ∂q^T / level changes nothing at q = level, but keeps H positive along v for degrees > 2
            H = H - root[:, :, None] * functions.curvature(root * v, multipliers) * root[:, None]
            H = H + (G.swapaxes(1, 2) * (multipliers / level)[:, None]) @ G
        lost |= ~np.isfinite(q.sum(-1) + G.sum((1, 2)) + H.sum((1, 2)))
        H = np.where(lost[:, None, None], eye, H)
        values, vectors = np.linalg.eigh(H)
        half = vectors / np.sqrt(np.maximum(abs(values), 1e-6))[:, None]  # half half^T = H^-1
        pull = product(half.swapaxes(1, 2), centre - v)
        A = np.where(lost[:, None, None], 0, G @ half)
        b = np.where(functions.real, level - q - product(A, pull), -np.inf)
        if active is None:
            active = functions.real & (q < level * (1 + 1e-6))
        z, new, possible = least_norms(A, b, active, going & ~lost)
        lost |= ~possible
        active, going = new > 0, going & ~lost
        step = product(half, pull + z)
        v = np.where(going[:, None], v + step, v)
        new = np.maximum(new - multipliers * (1 - q / level), 0)  # without the share of the added term
        multipliers = np.where(going[:, None], new, multipliers)
        # in both norms: if h spans many orders of magnitude, one coordinate is nearly all of v, another of w
        size = np.maximum(norm(step) / norm(v), norm(root * step) / norm(root * v))
        rounding = (size < 1e-7) & (size > 0.3 * last)  # two pieces of a fading unit are told apart no better
        found |= going & ((size < 1e-13) | rounding)
        if not (going & ~found).any():
            break
        last = size
    return root * v, found


def least_norms(A, b, active, wanted):
    """For each run the z of least ||z|| with A z >= b, and z = A^T μ: A (runs, M, p), b (runs, M).

    A set of rows that is thought `active` (runs, M) gives z by one pseudo-inverse for all runs at once. It is
    right if μ >= 0 and A z >= b; the `wanted` runs (runs,) where it is not are solved one by one.
    Returns z (runs, p), μ (runs, M), and `possible` (runs,), which is false where no z meets A z >= b.
    """
    lengths = norm(A)
    lengths = np.where(lengths > 0, lengths, 1)
    A, b = A / lengths[..., None], b / lengths
    # the active rows alone, in front; pieces of a faded unit are nearly the same, so that A A^T will not do
    front = np.argsort(~active, axis=1, kind="stable")[:, : active.sum(1).max(initial=1)]
    here = np.take_along_axis(active, front, 1)
    inverse = np.linalg.pinv(np.take_along_axis(A, front[..., None], 1) * here[..., None], rcond=1e-15)
    z = product(inverse, np.where(here, np.take_along_axis(b, front, 1), 0))
    mu = np.zeros(b.shape)
    np.put_along_axis(mu, front, np.where(here, product(inverse.swapaxes(1, 2), z), 0), 1)
    right = (mu >= -1e-12 * abs(mu).max(1, keepdims=True)) & holds(A, z, b, 1e-11).all(1, keepdims=True)
    possible = np.ones(len(A), bool)
    for run in np.flatnonzero(wanted & ~right.all(1)):
        z[run], mu[run] = 0, 0
        real = np.flatnonzero(b[run] > -np.inf)
        if b[run].max() <= 0:
            continue
        try:
            z[run] = least_norm(A[run, real], b[run, real])
            tight = real[holds(-A[run, real], z[run], -b[run, real], 1e-9)]
            mu[run, tight] = nnls(A[run, tight].T, z[run])
        except (ValueError, np.linalg.LinAlgError):  # there is none, or rounding leaves none
            possible[run] = False
    return z, mu / lengths, possible


def holds(A, z, b, tolerance):
    """Which rows of A z >= b hold, for rows of length 1."""
    return product(A, z) >= b - tolerance * product(abs(A), abs(z))


def product(A, x):
    """A x for matrices A (..., m, n) and vectors x (..., n)."""
    return (A @ x[..., None])[..., 0]


def norm(a):
    """Euclidean length over the last axis."""
    return np.sqrt((a * a).sum(-1))
