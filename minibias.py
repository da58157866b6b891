"""The theory: margins, losses of any size, the max-margin problem, its certificate and its prediction.

The theorem (Wang, Meng, Chen and Liu, ICML 2021): once training classifies all data, every limit point of
w / ||w|| is the direction of a KKT point of min ||h_∞^-1/2 ⊙ w||² subject to q_i(w) >= 1. The margins are
q_i = y_i Φ(w, x_i).
"""

import numbers
from contextlib import nullcontext
from functools import cached_property
from typing import NamedTuple

import autograd.numpy as np
from autograd.core import make_vjp

from datasets import classes, labelled, unmasked
from kinks import Choices, climb, groups, longest, scattered, taken
from models import LOSSES, check_model, linear
from solvers import NotSeparable, least_norm, nearest_point, norm, shortened, unit  # noqa: F401


class Problem:
    """A model, the data and a loss: L(w) = Σ_i ℓ(q_i(w)), with the margins q_i = y_i Φ(w, x_i).

    model    from models.py, or any object with `size`, `degree` and a call Φ(w, x)
    x, y     the samples (N, d) and their labels (N,), ±1, 0 and 1, 0..K-1 or names: see `labelled`
    loss     "exp", ℓ(q) = e^-q, or "log", ℓ(q) = log(1 + e^-q) (slide "Problem Setups"; a sum, not a mean)
    outputs  1 or K skips validation of float x and y in ±1 or 0..K-1; None validates and finds out

    `y` becomes ±1 or, for a model with K >= 3 outputs, 0..K-1. `names` are the classes' names in that order,
    or None where the labels stay as they are.

    With K classes the margins are the N (K-1) pairs Φ_{y_i} - Φ_j, j != y_i (slide "Extensions"). Then
    "log" is the cross-entropy, the logistic loss of -log Σ_j e^-(Φ_{y_i} - Φ_j), and "exp" is Σ_ij
    e^-(Φ_{y_i} - Φ_j). Raises ValueError for data that `labelled` refuses, a model that `check_model`
    refuses, or a loss of another name.
    """

    def __init__(self, model, x, y, loss="exp", outputs=None):
        if loss not in LOSSES:
            raise ValueError(f"the loss must be {' or '.join(LOSSES)}, not {loss!r}")
        self.names = None
        if outputs is None:
            x, y, self.names = labelled(x, y)
            check_model(model, x, classes(y))
        elif not len(x):
            raise ValueError("the data hold no samples")
        self.model, self.loss, self.x, self.y = model, LOSSES[loss], x, y
        self.outputs = outputs or classes(y)
        K = self.outputs
        if K > 1:  # the rows e_k - e_j, j != k, for each class k
            self.sides = np.stack([np.eye(K)[k] - np.roll(np.eye(K), -k - 1, 0)[:-1] for k in range(K)])

    def margins(self, w):
        """q (..., N), or (..., N (K-1)) for K classes, at w (..., p)."""
        w = as_parameters(self.model, w)
        if not w.size:  # a model is never called without runs
            return np.zeros((*w.shape[:-1], self.count))
        return self.pairs(self.model(w, self.x))

    @property
    def count(self):
        """M, how many margins there are: N, or N (K-1) for K classes."""
        return len(self.y) * max(1, self.outputs - 1)

    def pairs(self, phi):
        """The margins of outputs Φ (..., N) or (..., N, K)."""
        if self.outputs == 1:
            return phi * self.y
        gaps = np.matmul(self.sides[self.y.astype(int)], phi[..., None])
        return gaps.reshape(*phi.shape[:-2], phi.shape[-2] * (self.outputs - 1))

    def pairs_transpose(self, weights):
        """What weights on the margins are as weights on the outputs."""
        if self.outputs == 1:
            return weights * self.y
        N, others = len(self.y), self.outputs - 1
        weights = weights.reshape(*weights.shape[:-1], N, 1, others)
        return np.matmul(weights, self.sides[self.y.astype(int)]).reshape(*weights.shape[:-3], N, others + 1)

    def weights(self, q):
        """log L (...), e (as q) and total (..., 1) with ∂ log L / ∂q = -e / total: finite for finite q.

        The weights e / total > 0 are the proof's multipliers: Σ_i e_i / total ∂q_i = -u. A caller divides by
        the total after the backward pass: that takes p divisions in place of one for each margin.
        """
        return self.loss(q, max(1, self.outputs - 1))

    def gradient(self, w):
        """log L (...) and u = ∂ log L = ∂L / L (..., p), finite even where L is not: one autograd call."""
        w = as_parameters(self.model, w)
        if not w.size:
            return np.zeros(w.shape[:-1]), np.zeros(w.shape)
        backward, phi = make_vjp(lambda w: self.model(w, self.x), w)
        log_loss, e, total = self.weights(self.pairs(phi))
        return log_loss, backward(self.pairs_transpose(e)) / -total

    def jacobian(self, w):
        """∂q_i(w) of all M margins: w (..., p) -> (..., M, p)."""
        w = as_parameters(self.model, w)
        each = w.reshape(-1, w.shape[-1])
        which = np.arange(self.count)
        rows = self.rows(each, np.broadcast_to(which, (len(each), len(which))))
        return rows.reshape(*w.shape[:-1], *rows.shape[1:])

    def slopes(self, w, direction):
        """<∂q_m(w), direction> of all M margins at w (runs, p): (runs, M). The backward pass is linear in its
        weights, so that its derivative in them is the forward pass.
        """
        if not len(w):
            return np.zeros((0, self.count))
        backward, q = make_vjp(self.margins, w)
        forward, _ = make_vjp(backward, np.zeros(q.shape))
        return forward(direction)

    def rows(self, w, which, context=lambda part: nullcontext()):
        """∂q_m(w) of the margins m = `which` (runs, K) at w (runs, p): (runs, K, p), by backpropagation.

        A model that takes x (runs, N, d) has each of them as a run of its own, with one sample. Another model
        is called for one sample after the other. `context(part)` is entered for each call, where `part`
        indexes the pairs (run, K) that it is for.
        """
        if not which.size:
            return np.zeros((*which.shape, w.shape[-1]))
        x, c = self.x[self.sample(which)], self.contrast(which)
        if self.takes_runs:
            copies = np.repeat(w, which.shape[1], 0)
            each = (slice(None), slice(None))
            with context(each):
                backward, phi = make_vjp(lambda w: self.model(w, x.reshape(len(copies), 1, -1)), copies)
            return backward(c.reshape(phi.shape)).reshape(*which.shape, -1)
        G = np.empty((*which.shape, w.shape[-1]))
        for run, k in np.ndindex(which.shape):
            with context((slice(run, run + 1), slice(k, k + 1))):
                one = x[run, k : k + 1]
                backward, phi = make_vjp(lambda w, one=one: self.model(w, one), w[run : run + 1])
            G[run, k] = backward(c[run, k].reshape(phi.shape))[0]
        return G

    def sample(self, which):
        """The samples that margins belong to."""
        return which // max(1, self.outputs - 1)

    def contrast(self, which):
        """The c (..., outputs) with which the margins `which` (...) are <c, Φ(w, x)>."""
        if self.outputs == 1:
            return self.y[which][..., None]
        others = self.outputs - 1
        return self.sides[self.y[which // others].astype(int), which % others]

    @cached_property
    def takes_runs(self):
        """Whether the model takes x (runs, N, d) too, which gives each run samples of its own."""
        w, x = np.random.default_rng(0).normal(size=(2, self.model.size)), self.x[[[0, -1], [-1, 0]]]
        alone = [self.model(w[k : k + 1], x[k])[0] for k in range(2)]
        try:
            together = self.model(w, x)
        except Exception:  # a model may fail in any way at what it is not made for
            return False
        return np.shape(together) == np.shape(alone) and np.allclose(together, alone, rtol=1e-6, atol=0)


def normalised_margin(problem, w):
    """q_min(w) / ||w||^D (runs,), the margin at w / ||w|| (slide "Observation of Margin")."""
    return problem.margins(unit(as_runs(problem.model, w))).min(-1)


def certificate(problem, w, h, delta=1e-7, kinks=True):
    """The KKT residual r (runs,) of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1 at w (runs, p), 0 at KKT points.

    With w scaled to q_min = 1 and s = ||h^-1/2 w||, r² is the least value over λ >= 0 of
    ||h^-1/2 w - Σ λ_k h^1/2 g_k||² / s² + (Σ λ_k (q_k - 1) / s²)²: stationarity and complementarity in one
    non-negative least-squares problem. The scale of w does not matter. NaN where w does not separate, or
    where the solver refuses the problem because of rounding.

    The g_k are gradients of margins at w and, since ∂q_i is more than one vector at a kink, also at distances
    of about `delta` s from it: see `certify`. So r is that of Goldstein's subdifferential, which contains
    Clarke's. In networks of more than two layers it is a conservative field (Bolte and Pauwels, 2021), which
    may be larger. kinks=False takes backpropagation's one gradient of each margin instead.
    """
    found = certify(problem, w, h, delta)
    return found.residual if kinks else found.one_gradient


class Certificate(NamedTuple):
    """What `certify` returns, (runs,) each."""

    residual: np.ndarray  # r, as `certificate` has it
    one_gradient: np.ndarray  # the same with the gradients at w alone
    kinks: np.ndarray  # how many margins need another gradient than backpropagation's at w


ROUNDS = 30  # of looking for gradients that lower the residual; three or four do
NEAREST = 200  # margins, the least, that a certificate begins with
GRADIENTS = 40  # that one round may add to a run
GAIN = 1e-10  # the cosine of a gradient and the residual from which on it is worth adding


def certify(problem, w, h, delta=1e-7):
    """The certificate of `certificate` with its details: a `Certificate`.

    It finds the gradients that it needs by looking where the residual points. A first search takes margins by
    their gradients at w, until no other margin's would lower the residual: the residual of one gradient. A
    second one does the same at the points that lie by ± `delta` s along the residual. Its gradients are
    2 g(δ) - g(2δ), from which curvature drops out.
    """
    w, h = as_runs(problem.model, w, h)
    check_positive(delta=delta)
    r, kinks = np.full((2, len(w)), np.nan), np.zeros(len(w), int)
    good = np.flatnonzero(problem.margins(w).min(-1) > 0) if len(w) else np.zeros(0, int)
    for some in groups(problem, len(good)):
        runs = good[some]
        search = Search(problem, scaled(problem, w[runs]), h[runs])
        for k, steps in enumerate(((0.0,), (delta, -delta))):
            search.run(steps)
            r[1 - k, runs] = search.residual
        kinks[runs] = search.kinks()
    return Certificate(*r, kinks)


class Search:
    """Gradients of margins, each run's own, and the multipliers with which they leave the least residual."""

    def __init__(self, problem, w, h):
        self.problem, self.w, self.root = problem, w, np.sqrt(h)
        self.v, self.slack = w / self.root, problem.margins(w) - 1
        self.s = norm(self.v)
        runs, p = w.shape
        self.which = [np.zeros(0, int)] * runs
        self.other = [np.zeros(0, bool)] * runs  # whether a gradient is not that of its margin at w
        self.A = [np.zeros((p + 1, 0))] * runs
        self.b = np.column_stack([self.v / self.s[:, None], np.zeros(runs)])
        self.rest, self.multipliers = self.b.copy(), [np.zeros(0)] * runs
        self.residual = norm(self.rest)
        which = np.argsort(self.slack, axis=1)[:, :NEAREST]
        for run, columns in enumerate(self.columns(np.arange(runs), which, 0.0)):
            self.solve(run, which[run], columns.T, np.zeros(len(columns), bool))

    def run(self, steps):
        """Add gradients at these steps along the residual, in units of s, until none lowers it."""
        going = np.ones(len(self.w), bool)
        for _ in range(ROUNDS):
            runs = np.flatnonzero(going & (self.residual > 1e-15))
            if not len(runs):
                return
            found = [self.candidates(runs, step) for step in steps]
            for k, run in enumerate(runs):
                parts = [np.concatenate([part[k][j] for part in found], -1) for j in range(3)]
                going[run] = len(parts[0]) > 0 and self.solve(run, *parts)

    def candidates(self, runs, step):
        """Each run's margins whose gradients there lower the residual, their columns of A, and `other`."""
        rest = self.rest[runs]
        along = self.root[runs] * rest[:, :-1] / np.maximum(norm(rest[:, :-1]), 1e-300)[:, None]
        slack = self.slack[runs] / self.s[runs, None] ** 2
        at = self.w[runs] + step * self.s[runs, None] * along
        slopes = self.problem.slopes(at, self.root[runs] * rest[:, :-1]) / self.s[runs, None]
        gain = slopes + slack * rest[:, -1:]
        chosen = np.argsort(-gain, axis=1)[:, :GRADIENTS]
        promising = np.take_along_axis(gain, chosen, 1) > GAIN / 10 * self.residual[runs, None]
        chosen = chosen[:, : max(1, promising.sum(1).max())]
        columns = self.columns(runs, chosen, step, along)
        better = (columns @ rest[..., None])[..., 0] > GAIN * norm(columns) * self.residual[runs, None]
        other = norm(columns - self.columns(runs, chosen, 0.0)) > 1e-6 * norm(columns)
        parts = zip(chosen, columns, other, better)
        return [(which[mask], part[mask].T, far[mask]) for which, part, far, mask in parts]

    def columns(self, runs, which, step, along=0.0):
        """What the margins `which` are as columns of A, with their gradients so far along the direction."""
        at = lambda size: self.w[runs] + size * self.s[runs, None] * along
        G = self.problem.rows(at(step), which)
        if step:
            G = 2 * G - self.problem.rows(at(2 * step), which)
        slack = np.take_along_axis(self.slack[runs], which, 1) / self.s[runs, None] ** 2
        return np.concatenate([G * (self.root / self.s[:, None])[runs, None], slack[..., None]], -1)

    def solve(self, run, which, columns, other):
        """The least residual of a run with more columns; whether it fell."""
        A = np.concatenate([self.A[run], columns], 1)
        new = len(self.multipliers[run]) + np.flatnonzero(self.slack[run, which] < 1e-9)
        guess = np.append(np.flatnonzero(self.multipliers[run]), new)
        try:
            # b - A λ is the point nearest to b with A^T (b - A λ) <= 0; subtracting would lose its digits
            Q, R, b = *shortened(A), self.b[run]
            rest, multipliers = nearest_point(Q.T @ b, -R.T, np.zeros(A.shape[1]), guess)
            rest = b + Q @ (rest - Q.T @ b)
        except ValueError:
            self.residual[run] = np.nan
            return False
        fell = norm(rest) < self.residual[run] * (1 - 1e-9)
        keep = multipliers > 0
        self.A[run], self.multipliers[run] = A[:, keep], multipliers[keep]
        self.which[run] = np.append(self.which[run], which)[keep]
        self.other[run] = np.append(self.other[run], other)[keep]
        self.rest[run], self.residual[run] = rest, norm(rest)
        return fell

    def kinks(self):
        """How many margins have another gradient with a multiplier that counts: (runs,)."""
        return [
            len(np.unique(which[other & (part > 1e-9 * part.sum())]))
            for which, other, part in zip(self.which, self.other, self.multipliers)
        ]


def scaled(problem, w):
    """w (runs, p) scaled so that the least margin, which must be positive, is 1."""
    return w / problem.margins(w).min(-1, keepdims=True) ** (1 / problem.model.degree)


def predict(problem, w, h):
    """A KKT point of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1, found from w: (runs, p), with h (runs, p).

    w only chooses which KKT point: a network of several units has many, and this one need not be where the
    flow ends. Nothing is trained here. The linear model has one, and its constraints are linear: it is found
    exactly, whatever w is. Otherwise the constraints, with their pieces at kinks, are linearised again and
    again, in the longest steps that the margin flow could take, not in those that follow it. A row is NaN
    where no point with a residual of 1e-6 or less was found. Raises NotSeparable for a linear model on data
    that it cannot separate, ValueError for a w of another model that does not separate them.
    """
    w, h = as_runs(problem.model, w, h)
    if problem.model.degree == 1:
        G = problem.jacobian(w) * np.sqrt(h)[:, None]
        w = np.array([least_norm(rows, np.ones(len(rows))) for rows in G]).reshape(w.shape) * np.sqrt(h)
        good = linear(problem.model) or certificate(problem, w, h)[:, None] <= 1e-6
        return np.where(good, w, np.nan)
    check_separates(problem.margins(w))
    if not len(w):
        return w
    w, choices, D = scaled(problem, w), Choices(problem), problem.model.degree
    pieces, size, going = choices.none(len(w)), np.full(len(w), longest(D)), np.ones(len(w), bool)
    moved = np.full(len(w), np.inf)
    for _ in range(400):
        runs = np.flatnonzero(going)
        if not len(runs):
            break
        with np.errstate(all="ignore"):
            end = climb(choices, w[runs], h[runs], taken(pieces, runs), size[runs], np.inf, moved[runs])
        w[runs], moved[runs] = end.w, end.turned
        pieces = scattered([(slice(None), pieces), (runs, end.pieces)], len(w))
        size[runs] = np.minimum(np.where(end.good, 1.3, 0.5) * size[runs], longest(D))
        going[runs] = (end.residual > 1e-13) & (size[runs] > 1e-6)
    return np.where(certificate(problem, w, h)[:, None] <= 1e-6, w, np.nan)


def surrogate_margin(problem, log_loss, w, h):
    """ℓ^-1(L) / ||h^-1/2 ⊙ w||^D (...): the slide "Proof Sketch" with v = h_∞^-1/2 ⊙ w and β = h / h_∞."""
    return problem.loss.inverse(log_loss) / norm(w / np.sqrt(h)) ** problem.model.degree


def approximate_kkt(problem, w, h):
    """(ε, δ) of the proof, (runs,) each: how far w (runs, p) is from KKT with the proof's multipliers.

    w is scaled to q_min = 1. λ_i is proportional to -ℓ'(q_i) and scaled so that ||Σ λ_i h^1/2 ∂q_i|| = s =
    ||h^-1/2 w||. Then ε is the distance of the unit vectors along h^-1/2 w and Σ λ_i h^1/2 ∂q_i = -h^1/2
    ∂log L, and δ = Σ λ_i (q_i - 1) / s² is, unscaled, Σ p_i (q_i - q_min) / (||h^-1/2 w|| ||h^1/2 u||) with
    p_i = -∂ log L / ∂q_i.
    """
    w, h = as_runs(problem.model, w, h)
    v, descent, q = w / np.sqrt(h), -np.sqrt(h) * problem.gradient(w)[1], problem.margins(w)
    _, e, total = problem.weights(q)
    epsilon = norm(v / norm(v)[..., None] - descent / norm(descent)[..., None])
    return epsilon, (e / total * (q - q.min(-1, keepdims=True))).sum(-1) / (norm(v) * norm(descent))


def check_positive(whole=False, **values):
    """Raises ValueError unless each value is a finite number above 0 or, if `whole`, a whole one."""
    kind, expected = numbers.Real, "a finite number above 0"
    if whole:
        kind, expected = numbers.Integral, "a whole number from 1 on"
    for name, value in values.items():
        if not (isinstance(value, kind) and 0 < value < np.inf):
            raise ValueError(f"{name} must be {expected}, not {value!r}")


def as_parameters(model, w):
    """w as an array (..., p), p being the model's number of parameters; a list is taken as an array."""
    w = unmasked("w", w).astype(float) if isinstance(w, (list, tuple)) or hasattr(w, "mask") else w
    if w.shape[-1:] != (model.size,):
        raise ValueError(f"w must be (runs, {model.size}), one row for each run, not {w.shape}")
    return w


def as_runs(model, w, h=None):
    """w, or w and h, as float arrays (runs, p), with the model's p and, for h, positive."""
    arrays = [unmasked(name, a).astype(float, copy=False) for name, a in zip("wh", (w, h)) if a is not None]
    for name, a in zip("wh", arrays):
        if a.ndim != 2 or a.shape[1] != model.size or len(a) != len(arrays[0]):
            asked = f"({len(arrays[0]) if name == 'h' else 'runs'}, {model.size})"
            raise ValueError(f"{name} must be {asked}, a row of all parameters for each run, not {a.shape}")
    if h is not None and not (arrays[1] > 0).all():
        raise ValueError("h must be positive in every component")
    return arrays[0] if h is None else arrays


def check_separates(q):
    """Raises ValueError unless the margins q (runs, N) of every run are positive."""
    for run in np.flatnonzero(~(q.min(-1) > 0))[:1]:
        least = f"the least margin of run {run} is {q[run].min() + 0.0:.3g}"  # a -0 becomes 0
        raise ValueError(f"w must separate the data, but {least}; keep the runs whose margins are above 0")
