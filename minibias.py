"""The theory: margins, losses at any size, gradients of log L, the max-margin problem, its certificate, its prediction."""

import autograd.numpy as np
from autograd.core import make_vjp
from autograd.extend import defvjp, notrace_primitive, primitive

LOSSES = ("exp", "log")


def classes(y):
    """How many outputs the labels y (N,) call for: 1 if they are ±1, K if they are all of 0..K-1, K >= 3.

    Raises ValueError for anything else, a single class included.
    """
    values = np.unique(y)
    if np.array_equal(values, [-1, 1]):
        return 1
    if len(values) >= 3 and np.array_equal(values, np.arange(len(values))):
        return len(values)
    shown = ", ".join(f"{v:g}" for v in values[:5]) + (", ..." if len(values) > 5 else "")
    raise ValueError(f"the labels must be -1 and +1, or every integer 0..K-1 with K >= 3, both or all present, not {{{shown}}}")


def check_data(x, y):
    """x (N, d) and y (N,) as float arrays; ValueError unless shapes agree, all is finite and the labels are classes."""
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or x.shape[1] < 1:
        raise ValueError(f"x must be (N, d) and y (N,) with one N and d >= 1, not {x.shape} and {y.shape}")
    if len(x) == 0:
        raise ValueError("the data hold no samples, at least one of each class is needed")
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        raise ValueError(f"the data must be real numbers, not {x.dtype} and {y.dtype}")
    x, y = x.astype(float), y.astype(float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the data must be finite, but hold NaN or infinite values")
    classes(y)
    return x, y


@primitive
def contrast(phi, label, other):
    """Φ_{y_i} - Φ_j for every sample i and class j != y_i: (..., N, K) -> (..., N (K-1)), by flat places in (N, K)."""
    flat = phi.reshape(*phi.shape[:-2], -1)
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


@notrace_primitive
def smallest(q):
    """min over the last axis, which stays: a shift that leaves the result alone, so not traced."""
    return q.min(-1, keepdims=True)


@notrace_primitive
def harmless(q):
    """Whether e^-q neither overflows nor vanishes anywhere, so that the search for the smallest q can be saved."""
    return q.size > 0 and -300 < q.min() and q.max() < 300


def log_sum_exp(q):
    """log Σ_i e^-q_i over the last axis, and e, total: the gradient is -e / total. (..., N) -> (...), (..., N), (..., 1)."""
    low = 0.0 if harmless(q) else smallest(q)
    e = np.exp(low - q)
    total = (e @ np.ones(q.shape[-1]))[..., None]  # BLAS adds faster than sum() does
    return (np.log(total) - low)[..., 0], e, total


@primitive
def log_logistic(q):
    """log ℓ(q) of the logistic loss ℓ(q) = log(1 + e^-q): about -q far right and log(-q) far left, exact in between."""
    t = np.exp(-abs(q))
    with np.errstate(invalid="ignore"):
        right = np.where(t > 0, np.log(np.log1p(t) / t), 0.0) - q
    return np.where(q > 0, right, np.log(np.log1p(t) + abs(q)))


def logistic_weight(q, log_loss):
    """-d/dq log ℓ(q) = 1 / ((1 + e^q) ℓ(q)) in (0, 1), given log ℓ(q): 1 far right, about -1/q far left."""
    return np.exp(-np.logaddexp(0.0, q) - log_loss)


defvjp(log_logistic, lambda ans, q: lambda g: -g * logistic_weight(q, ans))


class Problem:
    """A model, the data and a loss: L(w) = Σ_i ℓ(q_i(w)), with the margins q_i = y_i Φ(w, x_i), for all runs at once.

    model    from models.py; x (N, d) and y (N,) the data, y in ±1 or, for a model with K >= 3 outputs, in 0..K-1
    loss     "exp", ℓ(q) = e^-q, or "log", ℓ(q) = log(1 + e^-q) (slide "Problem setups"; a sum, not a mean)

    With K classes the margins are the N (K-1) pairs Φ_{y_i} - Φ_j, j != y_i (slide "Extensions"), and "log" is the
    cross-entropy, the logistic loss of -log Σ_j e^-(Φ_{y_i} - Φ_j); "exp" is Σ_ij e^-(Φ_{y_i} - Φ_j).
    Raises ValueError for data that `check_data` refuses or a loss of another name.
    """

    def __init__(self, model, x, y, loss="exp"):
        if loss not in LOSSES:
            raise ValueError(f"the loss must be exp or log, not {loss!r}")
        self.model, self.kind = model, loss
        self.x, self.y = check_data(x, y)
        self.outputs = classes(self.y)
        if self.outputs > 1:
            each = self.y.astype(int)[:, None]
            rows = np.arange(len(each))[:, None] * self.outputs
            others = (each + np.arange(1, self.outputs)) % self.outputs
            self.label, self.other = np.repeat(rows + each, self.outputs - 1), (rows + others).ravel()

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

    def loss(self, q):
        """log L (...), weights (..., N) and total (..., 1) with ∂ log L / ∂q = -weights / total: finite for any finite q.

        weights / total are the proof's multipliers: positive, and their Σ_i p_i ∂q_i is -u. The division is left to
        the caller, who has p parameters to divide and not N weights.
        """
        if self.kind == "exp":
            return log_sum_exp(q)
        if self.outputs == 1:
            each = log_logistic(q)
            log_loss, e, total = log_sum_exp(-each)
            return log_loss, e * logistic_weight(q, each), total
        lowest, shares, sums = log_sum_exp(q.reshape(*q.shape[:-1], -1, self.outputs - 1))
        each = log_logistic(-lowest)
        log_loss, e, total = log_sum_exp(-each)
        return log_loss, ((e * logistic_weight(-lowest, each))[..., None] * (shares / sums)).reshape(*q.shape), total

    def gradient(self, w):
        """log L (...) and u = ∂ log L = ∂L / L (..., p), which stays finite when L is not: one autograd call for all runs."""
        backward, phi = make_vjp(lambda w: self.model(w, self.x), w)
        log_loss, weights, total = self.loss(self.pairs(phi))
        return log_loss, backward(self.pairs_transpose(weights)) / -total

    def hessian(self, w):
        """∂² log L: (..., p, p), by p backward passes over the gradient's graph."""
        backward, u = make_vjp(lambda w: self.gradient(w)[1], w)
        return np.stack([backward(np.broadcast_to(row, u.shape)) for row in np.eye(u.shape[-1])], axis=-2)

    def jacobian(self, w):
        """∂q_i(w): (..., N, p). The backward pass is linear in what it is given; its own derivative is ∂q, a column a time."""
        backward, q = make_vjp(self.margins, w)
        forward, u = make_vjp(backward, np.zeros(q.shape))
        return np.stack([forward(np.broadcast_to(row, u.shape)) for row in np.eye(u.shape[-1])], axis=-1)


def norm(a):
    """Euclidean length over the last axis."""
    return np.sqrt((a * a).sum(-1))


def normalised_margin(q, w, degree):
    """min_i q_i / ||w||^L: (...), positive if and only if w separates the data; the quantity of slide "Observation of margin"."""
    return q.min(-1) / norm(w) ** degree
