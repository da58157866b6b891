"""The theory: margins, losses of any size, the max-margin problem, its certificate and its prediction.

The theorem (Wang, Meng, Chen and Liu, ICML 2021): once training classifies all data, the direction of w tends
to that of a KKT point of min ||h_∞^-1/2 ⊙ w||² subject to q_i(w) >= 1, with the margins q_i = y_i Φ(w, x_i).
"""

import autograd.numpy as np
from autograd.core import make_vjp
from autograd.extend import defvjp, notrace_primitive, primitive

from datasets import check_data, classes
from solvers import NotSeparable, largest_linf_margin, least_norm, nnls  # noqa: F401 (NotSeparable is raised)


class Problem:
    """A model, the data and a loss: L(w) = Σ_i ℓ(q_i(w)) with the margins q_i = y_i Φ(w, x_i), for all runs at once.

    model    from models.py, or any object with `size`, `degree` and a call Φ(w, x)
    x, y     (N, d) and (N,); y is ±1 or, for a model with K >= 3 outputs, 0..K-1
    loss     "exp", ℓ(q) = e^-q, or "log", ℓ(q) = log(1 + e^-q) (slide "Problem Setups"; a sum, not a mean)
    outputs  1 or K for data that are known to be good, such as a part of others; None checks them and finds
             out

    With K classes the margins are the N (K-1) pairs Φ_{y_i} - Φ_j, j != y_i (slide "Extensions"). Then "log"
    is the cross-entropy, the logistic loss of -log Σ_j e^-(Φ_{y_i} - Φ_j), and "exp" is Σ_ij e^-(Φ_{y_i} -
    Φ_j). Raises ValueError for data that `check_data` refuses, or a loss of another name.
    """

    def __init__(self, model, x, y, loss="exp", outputs=None):
        if loss not in LOSSES:
            raise ValueError(f"the loss must be {' or '.join(LOSSES)}, not {loss!r}")
        if outputs is None:
            x, y = check_data(x, y)
        self.model, self.loss, self.x, self.y = model, LOSSES[loss], x, y
        self.outputs = outputs or classes(y)
        if self.outputs > 1:
            right = self.y.astype(int)[:, None]
            rows = np.arange(len(right))[:, None] * self.outputs
            others = (right + np.arange(1, self.outputs)) % self.outputs
            self.label, self.other = np.repeat(rows + right, self.outputs - 1), (rows + others).ravel()

    def margins(self, w):
        """q (..., N), or (..., N (K-1)) for K classes, at w (..., p); homogeneous in w, of the model's degree."""
        return self.pairs(self.model(w, self.x))

    def pairs(self, phi):
        """The margins of outputs Φ (..., N) or (..., N, K)."""
        return phi * self.y if self.outputs == 1 else contrast(phi, self.label, self.other)

    def pairs_transpose(self, weights):
        """What weights on the margins are as weights on the outputs."""
        if self.outputs == 1:
            return weights * self.y
        return contrast_transpose(weights, self.label, self.other, (len(self.y), self.outputs))

    def weights(self, q):
        """log L (...), e (..., N) and total (..., 1) with ∂ log L / ∂q = -e / total: finite for any finite q.

        e / total are the proof's multipliers: positive, and their Σ_i p_i ∂q_i is -u. The division is left to
        the caller, who has p parameters to divide and not N weights.
        """
        return self.loss(q, max(1, self.outputs - 1))

    def gradient(self, w):
        """log L (...) and u = ∂ log L = ∂L / L (..., p), which stays finite when L is not: one autograd call."""
        backward, phi = make_vjp(lambda w: self.model(w, self.x), w)
        log_loss, e, total = self.weights(self.pairs(phi))
        return log_loss, backward(self.pairs_transpose(e)) / -total

    def hessian(self, w):
        """∂² log L (runs, p, p): one backward pass over the gradients of p copies of w, a thousand at a time."""
        p, parts = w.shape[-1], []
        for some in np.array_split(w, len(w) * p // 1000 + 1):
            copies = np.repeat(some[:, None], p, 1)
            backward, _ = make_vjp(lambda w: self.gradient(w)[1], copies)
            parts.append(backward(np.broadcast_to(np.eye(p), copies.shape)))
        return np.concatenate(parts)

    def jacobian(self, w):
        """∂q_i(w): (..., N, p). The backward pass is linear in what it is given: its derivative is ∂q, by columns."""
        backward, q = make_vjp(self.margins, w)
        forward, u = make_vjp(backward, np.zeros(q.shape))
        return np.stack([forward(np.broadcast_to(row, u.shape)) for row in np.eye(u.shape[-1])], axis=-1)


def normalised_margin(problem, w):
    """q_min(w) / ||w||^D (...), the margin at w / ||w||: positive where w separates (slide "Observation of Margin")."""
    return problem.margins(unit(w)).min(-1)


def certificate(problem, w, h):
    """The KKT residual of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1 at w scaled to q_min = 1: r (runs,), 0 only there.

    With s = ||h^-1/2 w||, r² is the least value over λ >= 0 of
    ||h^-1/2 w - Σ λ_i h^1/2 ∂q_i||² / s² + (Σ λ_i (q_i - 1) / s²)², stationarity and complementarity in one
    non-negative least-squares problem; invariant to the scale of w. NaN where w does not separate the data.
    """
    r = np.full(len(w), np.nan)
    good = problem.margins(w).min(-1) > 0
    w, root = w[good], np.sqrt(h[good])
    w = w / problem.margins(w).min(-1, keepdims=True) ** (1 / problem.model.degree)
    v, G, slack = w / root, problem.jacobian(w) * root[:, None, :], problem.margins(w) - 1
    for run, row in enumerate(np.flatnonzero(good)):
        s = norm(v[run])
        A, b = np.vstack([G[run].T / s, slack[run] / s**2]), np.append(v[run] / s, 0)
        r[row] = norm(A @ nnls(A, b) - b)
    return r


def predict(problem, w, h, rounds=200):
    """A KKT point of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1, found from w: (runs, p), with h (runs, p), q_i(w) > 0.

    It is exact for the linear model, whose constraints are linear. Otherwise the constraints are linearised
    at w, the problem is solved, and w goes half way to the solution, again and again: undamped it can cycle
    for ever. The rows are scaled to q_min = 1. `certificate` says how good they are. Raises NotSeparable for
    a linear model on data that it cannot separate.
    """
    D, root = problem.model.degree, np.sqrt(h)
    w = w / problem.margins(w).min(-1, keepdims=True) ** (1 / D) if D > 1 else np.array(w, float)
    moving = np.arange(len(w))
    for _ in range(rounds):
        q, G = problem.margins(w[moving]), problem.jacobian(w[moving]) * root[moving][:, None, :]
        rows = zip(G, 1 + (D - 1) * q)
        solved = np.array([least_norm(*row) for row in rows]) * root[moving]
        if D == 1:
            return solved
        new = (w[moving] + solved) / 2
        new /= np.maximum(problem.margins(new).min(-1, keepdims=True), 1e-3) ** (1 / D)
        still = norm((new - w[moving]) / root[moving]) > 1e-14 * norm(new / root[moving])
        w[moving] = new
        moving = moving[still]
        if not len(moving):
            break
    return w


def predict_linf(problem):
    """The w with ||w||_∞ <= 1 of largest min_i q_i(w) for a linear model, where the flow of the gradient's signs heads.

    Returns w (p,), multipliers λ >= 0 (N,) of sum 1, and `unique`, which if true proves that there is no
    other such w. By linear duality min_i q_i(w) <= ||Σ λ_i ∂q_i||_1 for any such w and λ: equality certifies
    both. Raises NotSeparable for data that the model cannot separate, ValueError for a model of degree above
    1.
    """
    if problem.model.degree > 1:
        raise ValueError(
            f"the ℓ∞ max-margin direction is for linear models, not degree {problem.model.degree}"
        )
    return largest_linf_margin(problem.jacobian(np.zeros((1, problem.model.size)))[0])


def surrogate_margin(problem, log_loss, w, h):
    """ℓ^-1(L) / ||h^-1/2 ⊙ w||^D (...): slide "Proof Sketch" with v = h_∞^-1/2 ⊙ w and β = h / h_∞, in w and h(t)."""
    return problem.loss.inverse(log_loss) / norm(w / np.sqrt(h)) ** problem.model.degree


def approximate_kkt(problem, w, h):
    """(ε, δ) of the proof, (runs,) each: stationarity and complementarity with its own multipliers at q_min = 1.

    λ_i is proportional to -ℓ'(q_i) and scaled so that ||Σ λ_i h^1/2 ∂q_i|| = s = ||h^-1/2 w||. Then ε is the
    distance of the unit vectors along h^-1/2 w and Σ λ_i h^1/2 ∂q_i = -h^1/2 ∂log L, and δ = Σ λ_i (q_i - 1)
    / s² is, unscaled, Σ p_i (q_i - q_min) / (||h^-1/2 w|| ||h^1/2 u||) with p_i = -∂ log L / ∂q_i.
    """
    v, pull, q = w / np.sqrt(h), -np.sqrt(h) * problem.gradient(w)[1], problem.margins(w)
    _, e, total = problem.weights(q)
    epsilon = norm(v / norm(v)[..., None] - pull / norm(pull)[..., None])
    return epsilon, (e / total * (q - q.min(-1, keepdims=True))).sum(-1) / (norm(v) * norm(pull))


def norm(a):
    """Euclidean length over the last axis."""
    return np.sqrt((a * a).sum(-1))


def unit(a):
    """a / ||a|| over the last axis, for any finite a but 0."""
    a = a / np.abs(a).max(-1, keepdims=True)
    return a / norm(a)[..., None]


def angle_to_ones(h):
    """The angle in degrees between h (..., p) and (1, ..., 1), 0 if h is isotropic, exact for small ones too: (...)."""
    return 2 * np.degrees(np.arcsin(norm(unit(h) - unit(np.ones(h.shape[-1]))) / 2))


# The losses. Each is called with the margins q (..., M), `others` of them to a sample (K-1, or 1 for labels
# ±1), and returns log L, e and total as `Problem.weights` says; `inverse` is ℓ^-1(L), from log L.


class Exponential:
    """ℓ(q) = e^-q, so that log L = log Σ e^-q_i."""

    def __call__(self, q, others):
        return log_sum_exp(q)

    def inverse(self, log_loss):
        return -log_loss


class Logistic:
    """ℓ(q) = log(1 + e^-q), so that log L = log Σ exp(log ℓ(q_i)); for K classes the cross-entropy."""

    def __call__(self, q, others):
        if others == 1 and harmless(q):  # then ℓ itself can be formed, with a third of the work
            t = np.exp(-q)
            total = (np.log1p(t) @ np.ones(q.shape[-1]))[..., None]
            return np.log(total)[..., 0], t / (1 + t), total
        if others > 1:
            shape = q.shape
            lowest, shares, sums = log_sum_exp(q.reshape(*shape[:-1], shape[-1] // others, others))
            q = -lowest
        each = log_logistic(q)
        log_loss, e, total = log_sum_exp(-each)
        e = e * logistic_weight(q, each)
        return log_loss, (e[..., None] * (shares / sums)).reshape(*shape) if others > 1 else e, total

    def inverse(self, log_loss):
        """-log(e^L - 1), which is log 1/L once L is tiny."""
        return np.where(log_loss < -40, -log_loss, -np.log(np.expm1(np.exp(np.maximum(log_loss, -40)))))


LOSSES = {"exp": Exponential(), "log": Logistic()}


def log_sum_exp(q):
    """log Σ_i e^-q_i over the last axis, and e, total: the gradient is -e / total. (..., N) -> (...), (..., N), (..., 1)."""
    low = 0.0 if harmless(q) else smallest(q)
    e = np.exp(low - q)
    total = (e @ np.ones(q.shape[-1]))[..., None]  # BLAS adds faster than sum() does
    return (np.log(total) - low)[..., 0], e, total


@notrace_primitive
def harmless(q):
    """Whether e^-q neither overflows nor vanishes anywhere, so that the search for the smallest q can be saved."""
    return q.size > 0 and -300 < q.min() and q.max() < 300


@notrace_primitive
def smallest(q):
    """min over the last axis, which stays: a shift that leaves the result alone, so not traced."""
    return q.min(-1, keepdims=True)


@primitive
def log_logistic(q):
    """log ℓ(q) of the logistic loss: about -q far right and log(-q) far left, exact in between."""
    t = np.exp(-abs(q))
    with np.errstate(invalid="ignore"):
        right = np.where(t > 0, np.log(np.log1p(t) / t), 0.0) - q
    return np.where(q > 0, right, np.log(np.log1p(t) + abs(q)))


def logistic_weight(q, log_loss):
    """-d/dq log ℓ(q) = 1 / ((1 + e^q) ℓ(q)) in (0, 1), given log ℓ(q): 1 far right, about -1/q far left."""
    return np.exp(-np.logaddexp(0.0, q) - log_loss)


defvjp(log_logistic, lambda ans, q: lambda g: -g * logistic_weight(q, ans))


@primitive
def contrast(phi, label, other):
    """Φ_{y_i} - Φ_j for every sample i and class j != y_i: (..., N, K) -> (..., N (K-1)), by flat places in (N, K)."""
    flat = phi.reshape(*phi.shape[:-2], phi.shape[-2] * phi.shape[-1])  # no -1: there may be no runs
    return flat[..., label] - flat[..., other]


@primitive
def contrast_transpose(g, label, other, shape):
    """The transpose of `contrast`: (..., N (K-1)) -> (..., N, K)."""
    samples, outputs = shape
    flat = np.zeros((*g.shape[:-1], samples * outputs))
    flat[..., other] = -g
    flat[..., label[:: outputs - 1]] = g.reshape(*g.shape[:-1], samples, outputs - 1).sum(-1)
    return flat.reshape(*g.shape[:-1], samples, outputs)


defvjp(
    contrast,
    lambda ans, phi, label, other: lambda g: contrast_transpose(g, label, other, phi.shape[-2:]),
    argnums=(0,),
)
defvjp(
    contrast_transpose,
    lambda ans, g, label, other, shape: lambda outer: contrast(outer, label, other),
    argnums=(0,),
)
