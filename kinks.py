"""Pieces: margins with the choices at their kinks held, and the small quadratic problem of a step over them.

With its choices held (see `models.choose`) a margin is a smooth function of w, one of its pieces. There may
be 2^k of them. Nobody lists them: a search adds the piece in which it finds a margin, and drops those that
the margin has left.
"""

import warnings
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from autograd.core import make_vjp

from models import compared, held, recorded
from solvers import conjugate, norm, on_active, quadratic, unit


class Pieces(NamedTuple):
    """Up to K pieces of margins for each run; what is not `real` is padding."""

    margin: np.ndarray  # (runs, K) which margin
    choices: np.ndarray  # (runs, K, C) the choices that are held, one after the other
    real: np.ndarray  # (runs, K)
    weight: np.ndarray  # (runs, K) the multiplier λ, for a guess at the active ones


class Rows(NamedTuple):
    """Pieces and what a step from w has to know of them."""

    margin: np.ndarray
    choices: np.ndarray
    real: np.ndarray
    weight: np.ndarray
    value: np.ndarray  # (runs, K) at w
    G: np.ndarray  # (runs, K, p) the gradients g_k = h^1/2 ∂piece_k at w


# Both are tuples of arrays (runs, K, ...), for which these functions are.


def packed(pieces):
    """The same with the padding last, and no longer than it must be."""
    if pieces.real.all():
        return pieces
    order = np.argsort(~pieces.real, axis=1, kind="stable")[:, : max(1, pieces.real.sum(1).max(initial=0))]
    return type(pieces)(*(along(a, order) for a in pieces))


def joined(pieces, others):
    """The pieces of both."""
    return packed(type(pieces)(*(np.concatenate(pair, 1) for pair in zip(pieces, others))))


def taken(pieces, runs):
    """The pieces of some runs, a mask or indices."""
    return packed(type(pieces)(*(a[runs] for a in pieces)))


def scattered(parts, runs):
    """Pieces of so many runs, from a list of (some runs, their pieces); a later part replaces an earlier."""
    longest = max(some.real.shape[1] for _, some in parts)
    full = [np.zeros((runs, longest, *a.shape[2:]), a.dtype) for a in parts[0][1]]
    for where, some in parts:
        for a, part in zip(full, some):
            a[where] = 0
            a[where, : part.shape[1]] = part
    return packed(type(parts[0][1])(*full))


def samples(few, many):
    """The axis of the samples in arrays of a call with two samples, beside those of one with three."""
    axes = []
    for a, b in zip(few, many):
        axis = [k - a.ndim for k in range(a.ndim) if a.shape[k] != b.shape[k]]
        if a.ndim != b.ndim or len(axis) != 1 or len(few) != len(many):
            about = f"one has shape {a.shape} for two samples and {b.shape} for three"
            raise ValueError(f"a choice of a model must have one axis of samples, {about}")
        axes.append(axis[0])
    return axes


class Choices:
    """How a model's calls lay out their choices: which axis is the samples', and how many there are.

    Two calls with two and with three samples tell. A choice that does not depend on the samples has no such
    axis; then `ValueError` is raised.
    """

    def __init__(self, problem):
        self.problem, self.runs = problem, problem.takes_runs
        w = np.random.default_rng(0).normal(size=(1, problem.model.size))
        calls = []
        for n in (2, 3):
            x = problem.x[np.zeros(n, int)]
            with recorded() as choices:
                problem.model(w, x)
            with compared(choices) as pairs:
                problem.model(w, x)
            calls.append((choices, [own for _, own in pairs]))
        (choices, outputs), (more, others) = calls
        self.tuples = [len(c) if isinstance(c, tuple) else 0 for c in choices]
        few, many = flat(choices), flat(more)
        self.axes, self.output_axes = samples(few, many), samples(outputs, others)
        self.dtypes, self.shapes = [a.dtype for a in few], []
        for a, axis in zip(few, self.axes):
            rest = np.moveaxis(a, axis, 0).shape[1:]
            self.shapes.append(rest[1:] if self.runs else rest)
        self.ends = list(accumulate(int(np.prod(shape)) for shape in self.shapes))

    def none(self, runs):
        """No pieces, for so many runs."""
        nothing = np.zeros((runs, 1))
        choices = np.zeros((runs, 1, self.ends[-1] if self.ends else 0))
        return Pieces(nothing.astype(int), choices, nothing > 0, nothing)

    def made(self, w, x):
        """The choices of a call at w (runs, p), with x (N, d) or (runs, N, d): (runs, N, C)."""
        with recorded() as choices:
            self.problem.model(w, x)
        parts = [np.moveaxis(a, axis, int(self.runs)) for a, axis in zip(flat(choices), self.axes)]
        shape = len(w), x.shape[-2], -1
        return np.concatenate([np.zeros((*shape[:2], 0)), *(a.reshape(shape) for a in parts)], -1)

    def to_hold(self, choices):
        """What `models.held` wants, of choices (runs, K, C)."""
        parts = []
        for start, end, shape, axis, dtype in zip(
            [0, *self.ends], self.ends, self.shapes, self.axes, self.dtypes
        ):
            part = choices[..., start:end].astype(dtype)
            part = part.reshape(*part.shape[:2], *shape) if self.runs else part.reshape(-1, *shape)
            parts.append(np.moveaxis(part, int(self.runs), axis))
        parts = iter(parts)
        return [tuple(next(parts) for _ in range(n)) if n else next(parts) for n in self.tuples]

    def values(self, w, pieces):
        """The pieces at w (runs, p): (runs, K)."""
        x = self.problem.x[self.problem.sample(pieces.margin)]
        with held(self.to_hold(pieces.choices)):
            phi = self.problem.model(w, x if self.runs else x[0])
        contrast = self.problem.contrast(pieces.margin)
        return (phi.reshape(contrast.shape) * contrast).sum(-1)

    def apart(self, w, pieces):
        """How far w (runs, p) is from where the choices of pieces are a call's own: (runs, K).

        It is the most that a choice misses what the call's own makes of the same input, relative to the
        largest that the own choice makes of all inputs for that sample. It is 0 where all are equal, or tie.
        """
        x, far = self.problem.x[self.problem.sample(pieces.margin)], np.zeros(pieces.margin.shape)
        with compared(self.to_hold(pieces.choices)) as pairs:
            self.problem.model(w, x if self.runs else x[0])
        for (there, own), axis in zip(pairs, self.output_axes):
            missed, size = (
                np.moveaxis(abs(a), axis, int(self.runs)).reshape(*far.shape, -1).max(-1)
                for a in (there - own, own)
            )
            far = np.maximum(far, missed / np.maximum(size, 1e-300))
        return far

    def gradients(self, w, pieces):
        """Their gradients at w (runs, p): (runs, K, p)."""

        def context(part):
            choices = pieces.choices[part]
            each = choices.shape[0] * choices.shape[1], 1, choices.shape[2]
            return held(self.to_hold(choices.reshape(each)))

        return self.problem.rows(w, pieces.margin, context)


MEMORY = 2e7  # numbers that the gradients of a step may be
MOST = 200  # margins of a run that a step sees to begin with
ROUNDS = 8  # of adding pieces to a step
LEFT = 1e-9  # how far above a piece its margin has left it, where the least margin is 1
TIE = 1e-6  # how far a choice may be from a tie at its kink, relative to its layer
SADDLE = -1e-3  # the lowest curvature that counts as none
SLACK = 1e-10  # in the log of the margin: gains vanish like the residual squared


class Climbed(NamedTuple):
    """What a step led to, arrays over the runs."""

    w: np.ndarray  # (runs, p) scaled to q_min = 1; where no step was good, where it came from
    pieces: Pieces  # with their multipliers, those alone that are above 0
    good: np.ndarray  # (runs,) whether the margin grew as it should
    turned: np.ndarray  # (runs,) by how much the direction w / ||w|| turned, also where that was too far
    residual: np.ndarray  # (runs,) the KKT residual at w before the step, from above
    rounds: np.ndarray  # (runs,) how many rounds it took


def climb(choices, w, h, pieces, size, turn, moved):
    """One step of the margin flow from w (runs, p), scaled to q_min = 1, with h (runs, p): `Climbed`.

    choices   the problem's `Choices`
    pieces    what the last step left: they are in the step from its beginning
    size      1 - c (runs,), in (0, 1)
    turn      the most that the direction may turn, (runs,) or a number
    moved     how far the last step turned it, (runs,): pieces whose kinks are much farther away are dropped

    With v = h^-1/2 w and the gradients g_k = h^1/2 ∂piece_k, the step is v' = c v + Σ λ_k g_k, with the
    λ >= 0 for which the linearised pieces are at least 1 at v'. A second solution takes the curvature of the
    pieces into account, by what the linearisation missed. A v' at which a margin is violated has met another
    piece of it: that is added, and the step is tried again.
    """
    turn, some = np.broadcast_to(turn, len(w)), groups(choices.problem, len(w))
    if len(some) > 1:
        of = lambda runs: (w[runs], h[runs], taken(pieces, runs), size[runs], turn[runs], moved[runs])
        return together([(runs, climb(choices, *of(runs))) for runs in some], len(w))
    problem, D, root = choices.problem, choices.problem.model.degree, np.sqrt(h)
    v, s, left = w / root, norm(w / root), np.arange(len(w))
    rows = begin(choices, w, root, pieces, 1 + D * size, TIE + 10 * moved)
    found = Climbed(w.copy(), None, np.zeros(len(w), bool), *(np.full(len(w), a) for a in (0.0, np.inf, 0.0)))
    kept = []
    for k in range(ROUNDS):
        c = 1 - size[left, None]
        straight, end, weight = solve(choices, v[left], root[left], rows, c)
        there, rows = root[left] * end, rows._replace(weight=weight)
        q = problem.margins(there)
        least = q.min(-1)
        gain = np.where(least > 0, np.log(np.maximum(least, 1e-300)), -np.inf)
        gain -= D * np.log(norm(end) / s[left])
        fine = (gain >= 0.3 * D * np.log(s[left] / norm(straight)) - SLACK) & np.isfinite(gain)
        turned = norm(unit(there) - unit(w[left]))
        # the margins that are violated in a piece that is not in the problem
        value = choices.values(there, rows)
        own, (run, j) = np.full(q.shape, np.inf), np.nonzero(rows.real)
        np.minimum.at(own, (run, rows.margin[run, j]), value[run, j])
        new = q < np.minimum(own, 1) - 1e-12
        done = fine | ~new.any(1) | (k == ROUNDS - 1)

        over, good = left[done], fine & (turned <= turn[left])
        found.w[left[good]] = there[good] / least[good, None] ** (1 / D)
        found.good[left[good]] = True
        found.turned[over], found.rounds[over] = turned[done], k + 1
        off = norm(v[left] - end), (weight * np.where(rows.real, abs(rows.value - 1), 0)).sum(1) / s[left]
        found.residual[over] = (np.hypot(*off) / (size * s)[left])[done]
        kept.append((over, Pieces(*(a[done] for a in rows[:4]))))
        if done.all():
            break
        # left behind, unless the trial was a bad one
        behind = (along(q, rows.margin) > value + LEFT) & (gain > 0)[:, None] & (weight <= 0)
        rows = Rows(*(a[~done] for a in rows._replace(real=rows.real & ~behind)))
        left, order = left[~done], np.argsort(~new[~done], axis=1, kind="stable")
        order = order[:, : new[~done].sum(1).max()]
        made = along(choices.made(there[~done], problem.x), problem.sample(order))
        met = Pieces(order, made, along(new[~done], order), np.ones(order.shape))
        rows = joined(rows, evaluated(choices, w[left], root[left], met))
    kept = scattered(kept, len(w))
    return found._replace(pieces=packed(kept._replace(real=kept.real & (kept.weight > 0))))


def begin(choices, w, root, pieces, most, near):
    """The rows of a step: the least margins up to `most`, and those pieces that still are their own.

    A margin has left a piece that is below it, and one with a kink farther away than `near`: see
    `Choices.apart`. Both are (runs,).
    """
    q, made = choices.problem.margins(w), choices.made(w, choices.problem.x)
    least = np.argsort(q, axis=1)[:, :MOST]
    least = least[:, : max(1, (along(q, least) <= most[:, None]).sum(1).max())]
    own = lambda margin: along(made, choices.problem.sample(margin))
    fresh = Pieces(least, own(least), along(q, least) <= most[:, None], np.zeros(least.shape))
    left = along(q, pieces.margin) > choices.values(w, pieces) + LEFT
    if (pieces.choices != own(pieces.margin))[pieces.real].any():
        left |= choices.apart(w, pieces) > near[:, None]
    return evaluated(choices, w, root, merged(fresh, pieces._replace(real=pieces.real & ~left)))


def evaluated(choices, w, root, pieces):
    """Pieces as `Rows` at w."""
    G = choices.gradients(w, pieces) * root[:, None] * pieces.real[..., None]
    return Rows(*pieces, choices.values(w, pieces), G)


def solve(choices, v, root, rows, c):
    """The v' of a step as linearised, the same corrected for the pieces' curvature, and its multipliers."""
    D, times = choices.problem.model.degree, lambda v: (rows.G @ v[..., None])[..., 0]
    gram = rows.G @ rows.G.swapaxes(1, 2)
    b = np.where(rows.real, 1 + (D - 1 - c * D) * rows.value, -1.0)
    weight = quadratic(gram, b, rows.weight > 0)
    straight = c * v + (weight[:, None] @ rows.G)[:, 0]
    missed = choices.values(root * straight, rows) - rows.value - times(straight - v)
    weight = quadratic(gram, np.where(rows.real, b - missed, -1.0), weight > 0)
    return straight, c * v + (weight[:, None] @ rows.G)[:, 0], weight


def groups(problem, runs):
    """Slices of the runs that are stepped together: one at a time for a model that takes no x of each run.

    The gradients of a step of a group are `MEMORY` numbers or so at most.
    """
    rows = min(MOST, len(problem.y) * max(1, problem.outputs - 1))
    size = max(1, int(MEMORY / (rows * problem.model.size))) if problem.takes_runs else 1
    return [slice(start, start + size) for start in range(0, runs, size)]


def together(parts, runs):
    """One `Climbed` of so many runs, from a list of (some runs, theirs)."""
    arrays = zip(*(one._replace(pieces=one.good) for _, one in parts))
    pieces = scattered([(some, one.pieces) for some, one in parts], runs)
    return Climbed(*map(np.concatenate, arrays))._replace(pieces=pieces)


def newton(choices, w, h, pieces, reach):
    """Newton's step to the KKT point at which just these pieces are 1: w (runs, p) -> w.

    With v = h^-1/2 w and the gradients g_k = h^1/2 ∂piece_k, it is v + d for the d that minimises
    <d, B d> / 2 + <v - Σ λ_k g_k, d> where the linearised pieces are 1, with B = 1 - Σ λ_k h^1/2 ∂²piece_k
    h^1/2. d is found by conjugate gradients in the plane of these pieces, from products with B. It ends at
    the length `reach` ||v||, with reach (runs,), and goes to there where B is not positive (Steihaug 1983).

    Also returns whether B is positive in that plane, up to `SADDLE` (runs,). Where it is not, the flow comes
    near a KKT point and leaves it again: a unit that had nearly faded grows. Newton's step would end there.
    """
    some = groups(choices.problem, len(w))
    if len(some) > 1:
        of = lambda runs: (w[runs], h[runs], taken(pieces, runs), reach[runs])
        return tuple(map(np.concatenate, zip(*(newton(choices, *of(runs)) for runs in some))))
    root, real = np.sqrt(h), pieces.real
    v, G = w / root, choices.gradients(w, pieces) * root[:, None] * real[..., None]
    scale = np.where(real, np.where(norm(G) > 0, norm(G), 1), 1)
    A = G / scale[..., None]
    gram = A @ A.swapaxes(1, 2)
    times = lambda M, a: (M @ a[..., None])[..., 0]
    normal = lambda a: times(A.swapaxes(1, 2), on_active(gram, a, real)[0])
    once = lambda a: a - normal(times(A, a))
    plane = lambda a: once(once(a))  # twice, since the Gram matrix has half of the digits
    weight = on_active(gram, times(A, v), real)[0] / scale
    with warnings.catch_warnings():  # of pieces that are linear in w, whose Hessian is 0
        warnings.filterwarnings("ignore", "Output seems independent of input")
        inner, _ = make_vjp(lambda w: make_vjp(lambda w: choices.values(w, pieces), w)[0](weight), w)
    product = lambda a: a - root * inner(root * a)
    inside = lambda a: plane(product(a))
    d = normal((1 - choices.values(w, pieces)) / scale)
    r = plane(times(G.swapaxes(1, 2), weight) - v - product(d))
    d, _ = conjugate(inside, r, d, reach * norm(v), 100)
    anything = plane(np.broadcast_to(np.random.default_rng(0).normal(size=v.shape[1]), v.shape))
    _, lowest = conjugate(inside, anything, 0 * d, np.full(len(w), np.inf), 40)
    return root * (v + d), lowest >= SADDLE


def longest(degree):
    """The size 1 - c of the longest step: from 2/D on steps oscillate."""
    return min(1.2 / degree, 0.999)


def merged(fresh, old):
    """The pieces of both; an old one that is among the fresh only leaves its weight there."""
    same = (fresh.margin[:, :, None] == old.margin[:, None]) & fresh.real[:, :, None] & old.real[:, None]
    run, i, j = np.nonzero(same)
    equal = (fresh.choices[run, i] == old.choices[run, j]).all(-1)
    run, i, j = run[equal], i[equal], j[equal]
    weight, real = fresh.weight.copy(), old.real.copy()
    weight[run, i], real[run, j] = old.weight[run, j], False
    return joined(fresh._replace(weight=weight), old._replace(real=real))


def flat(choices):
    return [a for choice in choices for a in (choice if isinstance(choice, tuple) else (choice,))]


def along(a, order):
    """a (runs, K, ...) with its second axis in the order (runs, K')."""
    return np.take_along_axis(a, order.reshape(*order.shape, *[1] * (a.ndim - 2)), 1)
