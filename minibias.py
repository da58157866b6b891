"""The theory: margins, losses of any size, the max-margin problem, its certificate and its prediction.

The theorem (Wang, Meng, Chen and Liu, ICML 2021): once training classifies all data, every limit point of the
direction of w is that of a KKT point of min ||h_∞^-1/2 ⊙ w||² subject to q_i(w) >= 1. The margins are
q_i = y_i Φ(w, x_i).
"""

from contextlib import suppress

import autograd.numpy as np
from autograd.core import make_vjp

from checks import as_parameters, as_runs, check_model, check_separates
from datasets import check_data, classes
from losses import LOSSES
from pieces import Margins, linear, nearest, norm, smooth
from solvers import NotSeparable, largest_linf_margin, least_norm, nearest_point  # noqa: F401 (theirs)


class Problem:
    """A model, the data and a loss: L(w) = Σ_i ℓ(q_i(w)), with the margins q_i = y_i Φ(w, x_i).

    model    from models.py, or any object with `size`, `degree` and a call Φ(w, x)
    x, y     (N, d) and (N,); y is ±1 or, for a model with K >= 3 outputs, 0..K-1
    loss     "exp", ℓ(q) = e^-q, or "log", ℓ(q) = log(1 + e^-q) (slide "Problem Setups"; a sum, not a mean)
    outputs  1 or K for data that are known to be good, such as a part of others; None checks and finds out

    With K classes the margins are the N (K-1) pairs Φ_{y_i} - Φ_j, j != y_i (slide "Extensions"). Then
    "log" is the cross-entropy, the logistic loss of -log Σ_j e^-(Φ_{y_i} - Φ_j), and "exp" is Σ_ij
    e^-(Φ_{y_i} - Φ_j). Raises ValueError for data that `check_data` refuses, or a loss of another name.
    """

    def __init__(self, model, x, y, loss="exp", outputs=None):
        if loss not in LOSSES:
            raise ValueError(f"the loss must be {' or '.join(LOSSES)}, not {loss!r}")
        if outputs is None:
            x, y = check_data(np.asarray(x), np.asarray(y))
            check_model(model, x, classes(y))
        self.model, self.loss, self.x, self.y = model, LOSSES[loss], x, y
        self.outputs = outputs or classes(y)
        K = self.outputs
        if K > 1:  # the rows e_k - e_j, j != k, for each class k
            self.sides = np.stack([np.eye(K)[k] - np.roll(np.eye(K), -k - 1, 0)[:-1] for k in range(K)])

    def margins(self, w):
        """q (..., N), or (..., N (K-1)) for K classes, at w (..., p)."""
        return self.pairs(self.model(as_parameters(self.model, w), self.x))

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

        The weights e / total > 0 are the proof's multipliers: Σ_i e_i / total ∂q_i = -u. A caller divides
        after the backward pass, since there are fewer parameters than samples.
        """
        return self.loss(q, max(1, self.outputs - 1))

    def gradient(self, w):
        """log L (...) and u = ∂ log L = ∂L / L (..., p), finite even where L is not: one autograd call."""
        w = as_parameters(self.model, w)
        backward, phi = make_vjp(lambda w: self.model(w, self.x), w)
        log_loss, e, total = self.weights(self.pairs(phi))
        return log_loss, backward(self.pairs_transpose(e)) / -total

    def jacobian(self, w):
        """∂q_i(w), (..., N, p): the derivative of the backward pass, a parameter a time."""
        backward, q = make_vjp(self.margins, as_parameters(self.model, w))
        forward, u = make_vjp(backward, np.zeros(q.shape))
        return np.stack([forward(np.broadcast_to(row, u.shape)) for row in np.eye(u.shape[-1])], axis=-1)

    def contrasts(self):
        """x (M, d) and c (M, outputs) with which the M margins are <c_i, Φ(w, x_i)>."""
        if self.outputs == 1:
            return self.x, self.y[:, None]
        return np.repeat(self.x, self.outputs - 1, axis=0), np.concatenate(self.sides[self.y.astype(int)])


def normalised_margin(problem, w):
    """q_min(w) / ||w||^D (runs,), the margin at w / ||w|| (slide "Observation of Margin")."""
    return problem.margins(unit(as_runs(problem.model, w))).min(-1)


def certificate(problem, w, h, kinks=True):
    """The KKT residual r (runs,) of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1 at w (runs, p), 0 at KKT points.

    With w scaled to q_min = 1 and s = ||h^-1/2 w||, r² is the least value over λ >= 0 of
    ||h^-1/2 w - Σ λ_i h^1/2 ∂q_i||² / s² + (Σ λ_i (q_i - 1) / s²)²: stationarity and complementarity in one
    non-negative least-squares problem. The scale of w does not matter. NaN where w does not separate.

    At a kink ∂q_i stands for the gradients of all smooth pieces of q_i and what lies between them. With one
    hidden layer that is Clarke's subdifferential. With more it is a conservative field (Bolte and Pauwels,
    2021), which may be larger. A sample of more than 2^10 pieces gives NaN (`crowded`), and so does a problem
    that rounding leaves without an answer. kinks=False takes backpropagation's one gradient instead.
    """
    w, h = as_runs(problem.model, w, h)
    r, root = np.full(len(w), np.nan), np.sqrt(h)
    good = np.flatnonzero(problem.margins(w).min(-1) > 0)
    w = scaled(problem, w[good])
    functions = smooth(problem, w) if kinks else Margins(problem, w)
    v, G, slack = w / root[good], functions.gradients(w) * root[good, None], functions.values(w) - 1
    for k in np.flatnonzero(~functions.crowded):
        s, real = norm(v[k]), functions.real[k]  # the rows that are no filling
        A, b = np.vstack([G[k, real].T / s, slack[k, real] / s**2]), np.append(v[k] / s, 0)
        guess = np.flatnonzero(slack[k, real] < 1e-9)
        # b - A λ is the point nearest to b with A^T (b - A λ) <= 0; subtracting would lose its digits
        with suppress(ValueError):
            r[good[k]] = norm(nearest_point(b, -A.T, np.zeros(A.shape[1]), guess)[0])
    return r


def predict(problem, w, h):
    """A KKT point of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1, found from w: (runs, p), with h (runs, p).

    It is exact for the linear model, whose constraints are linear. Otherwise the constraints, with the
    pieces at kinks, are linearised again and again, and the rows are scaled to q_min = 1. A row is NaN
    where no point with a residual of 1e-6 or less was found. A network of several units has many KKT
    points, and this one need not be where the flow ends. Raises NotSeparable for a linear model on data
    that it cannot separate, ValueError for a w of another model that does not separate them.
    """
    w, h = as_runs(problem.model, w, h)
    if problem.model.degree == 1:
        G = problem.jacobian(w) * np.sqrt(h)[:, None]
        w = np.array([least_norm(rows, np.ones(len(rows))) for rows in G]).reshape(w.shape) * np.sqrt(h)
        good = linear(problem.model) or certificate(problem, w, h)[:, None] <= 1e-6
        return np.where(good, w, np.nan)
    check_separates(problem.margins(w))
    found, runs = np.full(w.shape, np.nan), np.arange(len(w))  # those that still move
    here = scaled(problem, w)
    before, newton = here, np.zeros(len(w), bool)
    for k in range(25):
        if not len(runs):
            break
        # linearisations, each time half way, lead to where Newton's method converges
        with np.errstate(all="ignore"):
            pieces, rounds = smooth(problem, here, before), np.where(newton, 20, 1)
            there, solved = nearest(pieces, h[runs], 0 * here, here, 1.0, rounds)
            there = np.where(newton[:, None], there, (here + there) / 2)
            separates = problem.margins(there).min(-1) > 0
        runs, before, here = runs[separates], here[separates], scaled(problem, there[separates])
        found[runs], moves = here, norm(unit(here) - unit(before))
        on = ~solved[separates] | (moves > 1e-10)
        newton = newton[separates] | (moves < 1e-2) | (k >= 15)
        runs, before, here, newton = runs[on], before[on], here[on], newton[on]
    found[~(certificate(problem, found, h) <= 1e-6)] = np.nan
    return found


def scaled(problem, w):
    """w (runs, p) scaled so that the least margin, which must be positive, is 1."""
    return w / problem.margins(w).min(-1, keepdims=True) ** (1 / problem.model.degree)


def predict_linf(problem):
    """The w with ||w||_∞ <= 1 of largest min_i q_i(w) for a linear model, where the gradient's signs lead.

    Returns w (p,), multipliers λ >= 0 (N,) of sum 1, and `unique`, which if true proves that there is no
    other such w. By linear duality min_i q_i(w) <= ||Σ λ_i ∂q_i||_1 for any such w and λ: equality
    certifies both. Raises NotSeparable for data that the model cannot separate, ValueError for a model of
    degree above 1.
    """
    if problem.model.degree > 1:
        raise ValueError(
            f"the ℓ∞ max-margin direction is for linear models, not degree {problem.model.degree}"
        )
    return largest_linf_margin(problem.jacobian(np.zeros((1, problem.model.size)))[0])


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


def alignment(w, h, u):
    """The cosine of h^-1/2 ⊙ w and -h^1/2 ⊙ u with u = ∂ log L: (...). As L -> 0 it is 1 at KKT points alone.

    It is 1 - ε² / 2 with the ε of `approximate_kkt`, and so says nothing of δ, which vanishes with L.
    """
    root = np.sqrt(h)
    return -(w * u).sum(-1) / (norm(w / root) * norm(root * u))


def unit(a):
    """a / ||a|| over the last axis, for any finite a but 0."""
    a = a / np.abs(a).max(-1, keepdims=True)
    return a / norm(a)[..., None]


def angle_to_ones(h):
    """The angle in degrees between h (..., p) and (1, ..., 1): (...), exact for small angles too."""
    return 2 * np.degrees(np.arcsin(norm(unit(h) - unit(np.ones(h.shape[-1]))) / 2))
