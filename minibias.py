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
    """x (N, d) and y (N,) as float arrays (float32 stays).

    Raises ValueError unless shapes agree, all is finite, squares neither overflow nor vanish, and the labels are `classes`.
    """
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        raise ValueError(f"the data must be real numbers, not {x.dtype} and {y.dtype}")
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or x.shape[1] < 1:
        raise ValueError(f"x must be (N, d) and y (N,) with one N and d >= 1, not {x.shape} and {y.shape}")
    if len(x) == 0:
        raise ValueError("the data hold no samples, at least one of each class is needed")
    with np.errstate(over="ignore"):
        x, y = x if x.dtype == np.float32 else x.astype(float), y.astype(float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the data must be finite, but hold NaN or infinite values")
    if not 1e-50 < abs(x).max() < 1e50:
        raise ValueError(f"the largest entry of x must lie between 1e-50 and 1e50 in size, not {abs(x).max():g}; scale the data")
    classes(y)
    return x, y


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
    outputs  1 or K, for data that are known to be good, such as a part of others; None checks the data and finds out

    With K classes the margins are the N (K-1) pairs Φ_{y_i} - Φ_j, j != y_i (slide "Extensions"), and "log" is the
    cross-entropy, the logistic loss of -log Σ_j e^-(Φ_{y_i} - Φ_j); "exp" is Σ_ij e^-(Φ_{y_i} - Φ_j).
    Raises ValueError for data that `check_data` refuses or a loss of another name.
    """

    def __init__(self, model, x, y, loss="exp", outputs=None):
        if loss not in LOSSES:
            raise ValueError(f"the loss must be exp or log, not {loss!r}")
        if outputs is None:
            x, y = check_data(x, y)
        self.model, self.kind, self.x, self.y = model, loss, x, y
        self.outputs = outputs or classes(y)
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
        if self.outputs == 1 and harmless(q):  # then ℓ itself can be formed, with a third of the work
            t = np.exp(-q)
            total = (np.log1p(t) @ np.ones(q.shape[-1]))[..., None]
            return np.log(total)[..., 0], t / (1 + t), total
        if self.outputs == 1:
            each = log_logistic(q)
            log_loss, e, total = log_sum_exp(-each)
            return log_loss, e * logistic_weight(q, each), total
        lowest, shares, sums = log_sum_exp(q.reshape(*q.shape[:-1], len(self.y), self.outputs - 1))
        each = log_logistic(-lowest)
        log_loss, e, total = log_sum_exp(-each)
        return log_loss, ((e * logistic_weight(-lowest, each))[..., None] * (shares / sums)).reshape(*q.shape), total

    def gradient(self, w):
        """log L (...) and u = ∂ log L = ∂L / L (..., p), which stays finite when L is not: one autograd call for all runs."""
        backward, phi = make_vjp(lambda w: self.model(w, self.x), w)
        log_loss, weights, total = self.loss(self.pairs(phi))
        return log_loss, backward(self.pairs_transpose(weights)) / -total

    def hessian(self, w):
        """∂² log L: (runs, p, p), by one backward pass over the gradients of p copies of w, a thousand at a time to save memory."""
        p, parts = w.shape[-1], []
        for some in np.array_split(w, len(w) * p // 1000 + 1):
            copies = np.repeat(some[:, None], p, 1)
            backward, _ = make_vjp(lambda w: self.gradient(w)[1], copies)
            parts.append(backward(np.broadcast_to(np.eye(p), copies.shape)))
        return np.concatenate(parts)

    def jacobian(self, w):
        """∂q_i(w): (..., N, p). The backward pass is linear in what it is given; its own derivative is ∂q, a column a time."""
        backward, q = make_vjp(self.margins, w)
        forward, u = make_vjp(backward, np.zeros(q.shape))
        return np.stack([forward(np.broadcast_to(row, u.shape)) for row in np.eye(u.shape[-1])], axis=-1)


class Blocks(Problem):
    """The same problem some samples at a time, so that memory grows with the block and not with the samples times the layers.

    block    samples at a time, from 1 on; x (N, d), y (N,), loss, outputs as in `Problem`
    keep     bytes; a model with `patches(x)`, what its first layer makes of the data, has them made once while they stay under this
    """

    def __init__(self, model, x, y, loss="exp", outputs=None, block=64, keep=1 << 28):
        super().__init__(model, x, y, loss, outputs)
        rows = [slice(start, start + block) for start in range(0, len(y), block)]
        self.parts = [Problem(model, self.x[r], self.y[r], loss, self.outputs) for r in rows]
        if hasattr(model, "patches") and len(y) * model.patches(self.x[:1]).nbytes < keep:
            for part in self.parts:
                part.x = model.patches(part.x)

    def margins(self, w):
        return np.concatenate([part.margins(w) for part in self.parts], -1)

    def gradient(self, w):
        """log L = logsumexp_B log L_B and u = Σ_B e^(log L_B - log L) u_B, with the largest log L_B so far as the running unit."""
        highest, total, u = -np.inf, 0.0, 0.0
        for part in self.parts:
            backward, phi = make_vjp(lambda w, part=part: part.model(w, part.x), w)
            log_loss, weights, part_total = part.loss(part.pairs(phi))
            higher = np.maximum(highest, log_loss)
            before, share = np.exp(highest - higher)[..., None], np.exp(log_loss - higher)[..., None]
            total = before * total + share
            u = before * u - backward(part.pairs_transpose(share / part_total * weights))
            highest = higher
        return highest + np.log(total)[..., 0], u / total


def norm(a):
    """Euclidean length over the last axis."""
    return np.sqrt((a * a).sum(-1))


def unit(a):
    """a / ||a|| over the last axis, for any finite a but 0."""
    a = a / np.abs(a).max(-1, keepdims=True)
    return a / norm(a)[..., None]


def angle_to_ones(h):
    """The angle in degrees between h (..., p) and (1, ..., 1), 0 if h is isotropic, exact for small angles too: (...)."""
    return 2 * np.degrees(np.arcsin(norm(unit(h) - unit(np.ones(h.shape[-1]))) / 2))


def normalised_margin(problem, w):
    """q_min(w) / ||w||^L (...), the margin at w / ||w||: positive if and only if w separates the data (slide "Observation of Margin")."""
    return problem.margins(unit(w)).min(-1)


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
        if descent[new] <= 4e-16 * np.sqrt(len(b)) * (norm(b) + abs(x).sum()):
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
        super().__init__("the constraints cannot hold: some combination of them with weights >= 0 says 0 >= 1")
        self.multipliers = multipliers


def least_norm(G, c):
    """The v of least ||v|| with G v >= c: G (N, p), c (N,) not all <= 0 -> (p,). Raises NotSeparable if there is none.

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
        if norm(residual) < 1e-13:
            raise NotSeparable(multipliers / (multipliers @ c))
        v = -residual[:-1] / (residual @ residual)  # which is the residual's last entry, without its cancellation
        if 0.3 < norm(v) < 3:
            break
        size *= norm(v)
    active = multipliers > 0
    return np.linalg.lstsq(G[active], c[active], rcond=None)[0]


def predict(problem, w, h, rounds=200):
    """A KKT point of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1, found from w: (runs, p), with h (runs, p), q_i(w) > 0.

    Exact for the linear model, whose constraints are linear. Otherwise the constraints are linearised at w, the
    problem is solved, and w goes half way to the solution, again and again: undamped it can cycle for ever.
    The rows are scaled to q_min = 1. `certificate` says how good they are. Raises NotSeparable for a linear model
    on data that it cannot separate.
    """
    L, root = problem.model.degree, np.sqrt(h)
    w = w / problem.margins(w).min(-1, keepdims=True) ** (1 / L) if L > 1 else np.array(w, float)
    moving = np.arange(len(w))
    for _ in range(rounds):
        q, G = problem.margins(w[moving]), problem.jacobian(w[moving]) * root[moving][:, None, :]
        rows = zip(G, 1 + (L - 1) * q)
        solved = np.array([least_norm(*row) for row in rows]) * root[moving]
        if L == 1:
            return solved
        new = (w[moving] + solved) / 2
        new /= np.maximum(problem.margins(new).min(-1, keepdims=True), 1e-3) ** (1 / L)
        still = norm((new - w[moving]) / root[moving]) > 1e-14 * norm(new / root[moving])
        w[moving] = new
        moving = moving[still]
        if not len(moving):
            break
    return w


def predict_linf(problem):
    """The w with ||w||_∞ <= 1 of largest min_i q_i(w) for a linear model, where the flow of the gradient's signs heads.

    Returns w (p,), multipliers λ >= 0 (N,) of sum 1 and `unique`, which if true proves that there is no other such w. By linear
    duality min_i q_i(w) <= ||Σ λ_i z_i||_1 with z_i = ∂q_i for any such w and λ: equality certifies both. The λ come from the simplex
    method on min Σ_j (a_j + b_j) s.t. Σ λ_i z_i = a - b, all >= 0; w is its dual, a vertex. A nudge of the right-hand side by 1e-10
    leaves no vertex degenerate, so that it cannot cycle; the reduced costs, and so the last basis, do not depend on it.
    Raises NotSeparable for data that the model cannot separate, ValueError for a model of degree above 1 or where rounding defeats the method.
    """
    p = problem.model.size
    if problem.model.degree > 1:
        raise ValueError(f"the ℓ∞ max-margin direction is for linear models, not one of degree {problem.model.degree}")
    Z = problem.jacobian(np.zeros((1, p)))[0]
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


def certificate(problem, w, h):
    """The KKT residual of min ||h^-1/2 ⊙ w||² s.t. q_i(w) >= 1 at w scaled to q_min = 1: r (runs,), 0 at a KKT point only.

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


def inverse_loss(log_loss, kind):
    """ℓ^-1(L) from log L: log 1/L for the exponential loss, -log(e^L - 1) for the logistic (the same once L is tiny)."""
    if kind == "exp":
        return -log_loss
    return np.where(log_loss < -40, -log_loss, -np.log(np.expm1(np.exp(np.maximum(log_loss, -40)))))


def surrogate_margin(log_loss, kind, w, h, degree):
    """ℓ^-1(L) / ||h^-1/2 ⊙ w||^L, (...): the slide "Proof Sketch" with v = h_∞^-1/2 ⊙ w and β = h / h_∞, written in w and h(t)."""
    return inverse_loss(log_loss, kind) / norm(w / np.sqrt(h)) ** degree


def approximate_kkt(problem, w, h):
    """(ε, δ) of the proof, (runs,) each: stationarity and complementarity with its own multipliers at w scaled to q_min = 1.

    λ_i is proportional to -ℓ'(q_i) and scaled so that ||Σ λ_i h^1/2 ∂q_i|| = s = ||h^-1/2 w||. Then ε is the distance of the
    unit vectors along h^-1/2 w and Σ λ_i h^1/2 ∂q_i = -h^1/2 ∂log L, and δ = Σ λ_i (q_i - 1) / s² is, unscaled,
    Σ p_i (q_i - q_min) / (||h^-1/2 w|| ||h^1/2 u||) with p_i = -∂ log L / ∂q_i.
    """
    v, pull, q = w / np.sqrt(h), -np.sqrt(h) * problem.gradient(w)[1], problem.margins(w)
    _, weights, total = problem.loss(q)
    epsilon = norm(v / norm(v)[..., None] - pull / norm(pull)[..., None])
    return epsilon, (weights / total * (q - q.min(-1, keepdims=True))).sum(-1) / (norm(v) * norm(pull))
