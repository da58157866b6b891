"""What is trained: homogeneous models Φ(w, x), and the losses ℓ(q) of their margins q.

Homogeneous means that scaling w by α > 0 scales the output by α^D. D is the model's `degree`.

A model takes all its parameters as one flat vector and cuts it into layers itself, so that nothing outside
this file ever sees a layer. It moves many runs at once: w is (..., p) with any leading axes of runs, x is
(N, d), and the output is (..., N), or (..., N, K) for K > 1 classes.

The kinks of these networks are σ and max. Each is a choice times something linear: σ(z) = s z with s in
{1, slope}, and max(a) = c . a with one c_j = 1. A network whose choices are held is smooth. `recorded` and
`held` work for every model that is written with `leaky`, `relu` and `largest`, one's own included.
"""

import math
import numbers
from contextlib import contextmanager
from itertools import cycle

import autograd.numpy as anp
import numpy as np
from autograd.core import make_vjp
from autograd.extend import defvjp, notrace_primitive, primitive
from autograd.tracer import isbox


class MLP:
    """Φ(w, x) = W_D σ(W_{D-1} ... σ(W_1 x)), a network of D layers without biases: homogeneous of degree D.

    sizes    (d, width, ..., outputs), D + 1 integers. (d, outputs) is the linear model. (d, 1, 1) is the
             single neuron v σ(w . x), whose flat parameters are (w_1, ..., w_d, v).
    slope    the slope below 0, in [0, 1], of the leaky ReLU σ(z) = max(z, slope z)
    clarke   σ'(0), any number of Clarke's subdifferential [slope, 1] of σ at 0; None takes the slope

    `size` is p, the number of parameters. W_1 comes first in w, and each W is (out, in) in C order.
    Up to two layers, backpropagation's derivative lies in Clarke's subdifferential of Φ(., x_i) for each
    sample. In deeper networks it is a product of elements of σ's subdifferentials. Such a product need not
    lie in Φ's subdifferential.
    Raises ValueError for sizes below 1, a slope or a Clarke choice out of range.
    """

    def __init__(self, sizes, slope=0.5, clarke=None):
        if np.ndim(sizes) != 1 or len(sizes) < 2 or not all(size == int(size) >= 1 for size in sizes):
            raise ValueError(f"the sizes of a network must be two or more integers from 1 on, not {sizes}")
        self.sizes, self.slope = tuple(map(int, sizes)), slope
        self.clarke = slope if clarke is None else clarke
        if not 0 <= slope <= self.clarke <= 1:
            raise ValueError(f"0 <= slope <= Clarke choice <= 1 must hold, not {slope} and {self.clarke}")
        shapes = [(rows, columns) for columns, rows in zip(self.sizes, self.sizes[1:])]
        starts = [sum(map(math.prod, shapes[:k])) for k in range(len(shapes))]
        self.layers = list(zip(starts, shapes))
        self.size = sum(map(math.prod, shapes))
        self.degree = len(shapes)

    def init(self, rng, runs):
        """`runs` initial parameter vectors, uniform in (-1, 1)^p: (runs, p)."""
        return rng.uniform(-1, 1, (runs, self.size))

    def __call__(self, w, x):
        """Φ at w (..., p) for x (N, d), or (..., N, d) if each run has its own: (..., N), or (..., N, K)."""
        a = x.swapaxes(-1, -2)
        for start, shape in self.layers[:-1]:
            a = leaky(layer(w, a, start, shape), self.slope, self.clarke)
        phi = layer(w, a, *self.layers[-1])
        return phi.swapaxes(-1, -2) if self.sizes[-1] > 1 else the_one(phi)


def Linear(d, outputs=1):
    """The linear model w . x on d features, of degree 1: the network of one layer."""
    return MLP((d, outputs))


def linear(model):
    """Whether a model is known to be linear, in w and in x; one's own of degree 1 need not be."""
    return isinstance(model, MLP) and len(model.sizes) == 2


# Kinks, each a choice times something linear. Autograd takes a choice for a constant.


def leaky(z, slope, clarke=None):
    """The leaky ReLU σ(z) = max(z, slope z) of an array, with σ'(0) = `clarke`; None takes the slope."""
    return choose(times, z, derivative, slope, slope if clarke is None else clarke)


def relu(z, clarke=0.0):
    """The ReLU max(z, 0) of an array, with the derivative `clarke` in [0, 1] at 0."""
    return leaky(z, 0.0, clarke)


def largest(a, axis=-1):
    """max(a) along an axis; of equal entries the first has all of the derivative."""
    return choose(lambda chosen, a: anp.sum(times(chosen, a), axis), a, winner, axis)


@primitive
def times(s, z):
    """s z for constant s: autograd's own product costs twice as much on small arrays."""
    return s * z


@notrace_primitive
def derivative(z, slope, clarke):
    """σ'(z): 1 above 0, `slope` below, and `clarke` at 0."""
    s = np.maximum(z > 0, slope, dtype=z.dtype)
    if clarke != slope:
        s[z == 0] = clarke
    return s


@notrace_primitive
def winner(a, axis):
    """1 at the first of the largest entries along an axis, 0 elsewhere, in the shape of a."""
    first = np.expand_dims(a.argmax(axis), axis)
    one = np.zeros_like(a)
    np.put_along_axis(one, first, 1, axis)
    return one


TAPE = []  # a stack, whose last entry, of the innermost `recorded`, `held` or `compared`, chooses


def choose(use, z, make, *args):
    """use(choice, z), linear in z, with the choice make(z, *args), an array or a tuple of arrays."""
    return TAPE[-1](use, z, make, *args) if TAPE else use(make(z, *args), z)


@contextmanager
def recorded():
    """`with recorded() as choices: model(w, x)` fills a list with the choices that the call makes."""
    choices = []

    def record(use, z, make, *args):
        choices.append(make(z, *args))
        return use(choices[-1], z)

    with tape(record):
        yield choices


@contextmanager
def held(choices):
    """`with held(choices): model(w, x)` makes the call with these choices, in the order of `recorded`.

    A second call begins with the first choice again.
    """
    turns = cycle(choices)
    with tape(lambda use, z, make, *args: use(next(turns), z)):
        yield


@contextmanager
def compared(choices):
    """`with compared(choices) as pairs: model(w, x)` makes the call with its own choices.

    It fills a list with pairs: what each of these choices makes of its z, and what the call's own makes.
    """
    pairs, turns = [], cycle(choices)

    def compare(use, z, make, *args):
        own = use(make(z, *args), z)
        pairs.append((use(next(turns), z), own))
        return own

    with tape(compare):
        yield pairs


@contextmanager
def tape(decide):
    """`choose` asks `decide` for as long as this lasts."""
    TAPE.append(decide)
    try:
        yield
    finally:
        TAPE.pop()


# The layer z = W a and its derivative. The matrix W (out, in) lies in the flat w from entry `start` on. The
# number <g, W a> is linear in each of g, W and a, so that its three derivatives are `layer`,
# `layer_transpose` and `outer`, and the derivatives of these three are these three again. Newton's method
# needs them: it differentiates twice.


def matrix(w, start, shape):
    """W (..., out, in), which w (..., p) holds from entry `start` on."""
    return w[..., start : start + math.prod(shape)].reshape(*w.shape[:-1], *shape)


def matmul(W, a):
    """W @ a for W (..., out, in) and a (..., in, N), or (in, N) for all runs, by the quickest route."""
    if W.shape[-1] == 1:
        return W * a  # an outer product: many tiny BLAS calls cost three times as much
    if a.ndim == 2:  # the data: one product for all runs
        return (W.reshape(-1, W.shape[-1]) @ a).reshape(*W.shape[:-1], a.shape[1])
    return W @ a


@primitive
def layer(w, a, start, shape):
    """z = W a: w (..., p), a (..., in, N) or the data (in, N) -> (..., out, N)."""
    return matmul(matrix(w, start, shape), a)


@primitive
def layer_transpose(w, g, start, shape):
    """W^T g, the derivative of <g, W a> in a: g (..., out, N) -> (..., in, N)."""
    return matmul(matrix(w, start, shape).swapaxes(-1, -2), g)


@primitive
def outer(g, a, start, size):
    """g a^T, the derivative of <g, W a> in W, as a vector (..., p) that is 0 outside W; `size` is p."""
    W = matmul(g, a.swapaxes(-1, -2))
    end = start + W.shape[-2] * W.shape[-1]
    w = np.zeros((*W.shape[:-2], size), W.dtype)
    w[..., start:end] = W.reshape(*W.shape[:-2], end - start)
    return w


@primitive
def the_one(phi):
    """The one output of a network: (..., 1, N) -> (..., N)."""
    return phi[..., 0, :]


@primitive
def as_one(phi):
    """The derivative of <g, the_one(phi)> in phi: (..., N) -> (..., 1, N)."""
    return phi[..., None, :]


defvjp(times, lambda ans, s, z: lambda g: times(s, g), argnums=(1,))
defvjp(the_one, lambda ans, phi: as_one)
defvjp(as_one, lambda ans, phi: the_one)
defvjp(
    layer,
    lambda z, w, a, start, shape: lambda g: outer(g, a, start, w.shape[-1]),
    lambda z, w, a, start, shape: lambda g: layer_transpose(w, g, start, shape),
    argnums=(0, 1),
)
defvjp(
    layer_transpose,
    lambda ans, w, g, start, shape: lambda a: outer(g, a, start, w.shape[-1]),
    lambda ans, w, g, start, shape: lambda a: layer(w, a, start, shape),
    argnums=(0, 1),
)
defvjp(
    outer,
    lambda ans, g, a, start, size: lambda w: layer(w, a, start, (g.shape[-2], a.shape[-2])),
    lambda ans, g, a, start, size: lambda w: layer_transpose(w, g, start, (g.shape[-2], a.shape[-2])),
    argnums=(0, 1),
)


# Losses ℓ(q) of a margin q, computed as log L, which is finite where L itself overflows or vanishes. A loss
# is called with the margins q (..., M), `others` of them to a sample (K-1, or 1 for labels ±1). It returns
# log L (...), e (..., M) and total (..., 1) with ∂ log L / ∂q = -e / total. `inverse` is ℓ^-1(L), from log L.


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
            functions = library(q)
            t = functions.exp(-q)
            total = (functions.log1p(t) @ np.ones(q.shape[-1]))[..., None]
            return functions.log(total)[..., 0], t / (1 + t), total
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
    """log Σ_i e^-q_i over the last axis (...), and e (..., N), total (..., 1): the gradient is -e / total."""
    low = 0.0 if harmless(q) else smallest(q)
    functions = library(q)
    e = functions.exp(low - q)
    total = (e @ np.ones(q.shape[-1]))[..., None]  # BLAS adds faster than sum() does
    return (functions.log(total) - low)[..., 0], e, total


def library(q):
    """NumPy, or autograd's NumPy where q is traced: its wrappers cost as much as a small array's exp."""
    return anp if isbox(q) else np


@notrace_primitive
def harmless(q):
    """Whether e^-q neither overflows nor vanishes anywhere: then the smallest q need not be found."""
    return q.size > 0 and -300 < q.min() and q.max() < 300


@notrace_primitive
def smallest(q):
    """min over the last axis, which stays: a shift that leaves the result alone, so not traced."""
    return q.min(-1, keepdims=True)


@primitive
def log_logistic(q):
    """log ℓ(q) of the logistic loss: it tends to -q far right and to log(-q) far left."""
    t = np.exp(-abs(q))
    with np.errstate(invalid="ignore"):
        right = np.where(t > 0, np.log(np.log1p(t) / t), 0.0) - q
    return np.where(q > 0, right, np.log(np.log1p(t) + abs(q)))


def logistic_weight(q, log_loss):
    """-d/dq log ℓ(q) = 1 / ((1 + e^q) ℓ(q)) in (0, 1), given log ℓ(q): 1 far right, about -1/q far left."""
    functions = library(q)
    return functions.exp(-functions.logaddexp(0.0, q) - log_loss)


defvjp(log_logistic, lambda ans, q: lambda g: -g * logistic_weight(q, ans))


# What is refused, since it would give wrong numbers in silence.


def check_model(model, x, outputs):
    """Raises ValueError unless Φ fits x (N, d) and `outputs` (1 or K) and is homogeneous of its degree.

    At two random w and three samples: Φ(2w, x) = 2^D Φ(w, x), Euler's identity <w, ∂Φ> = D Φ, and Φ of one w
    does not depend on the other.
    """
    about, x = type(model).__name__, x[:3]
    if isinstance(model, type):
        raise ValueError(f"the model must be an object, not the class: {model.__name__}(...)")
    for name in ("size", "degree"):
        value = getattr(model, name, None)
        if not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"{about} must have a whole number `{name}` from 1 on, not {value!r}")
    if isinstance(model, MLP) and model.sizes[0] != x.shape[1]:
        raise ValueError(f"{about} takes {model.sizes[0]} features, but the data have {x.shape[1]}")
    w, D = np.random.default_rng(0).normal(size=(2, model.size)), model.degree
    try:
        backward, phi = make_vjp(lambda w: model(w, x), w)
        slope = (w * backward(phi)).sum()
    except Exception as problem:
        at = f"{about} cannot be evaluated and differentiated at w {w.shape} and x {x.shape}"
        why = "the features must fit the model, and its functions be those of autograd.numpy"
        raise ValueError(f"{at}: {problem} ({why})") from problem
    shape = (2, len(x)) if outputs == 1 else (2, len(x), outputs)
    if np.shape(phi) != shape:
        asked = f"{shape} for 2 runs, {len(x)} samples and these labels"
        raise ValueError(f"{about} must return {asked}, not {np.shape(phi)}")
    size, tolerance = np.abs(phi).max(), 1e-3 if x.dtype == np.float32 else 1e-6
    if not np.isfinite(size):
        raise ValueError(f"{about} must be finite, but its outputs at a random w are not")
    alone = model(w[:1], x)
    if np.shape(alone) != (1, *shape[1:]) or np.abs(alone - phi[:1]).max() > 1e-3 * size:
        raise ValueError(f"{about} mixes the runs: one depends on the others (is an axis=-1 missing?)")
    doubled = np.abs(model(2 * w, x) - 2.0**D * phi).max()
    if doubled > tolerance * 2.0**D * size:
        off = f"Φ(2w) differs from 2^{D} Φ(w) by {doubled / size:.2g} times Φ"
        raise ValueError(f"{about} is not homogeneous of degree {D}: {off} (a bias, another degree?)")
    if np.abs(slope - D * (phi * phi).sum()) > tolerance * D * (phi * phi).sum():
        why = "autograd does not see all of it (are its functions those of autograd.numpy?)"
        raise ValueError(f"{about} breaks Euler's identity <w, ∂Φ> = {D} Φ: {why}")
