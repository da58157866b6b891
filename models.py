"""Homogeneous models Φ(w, x): scaling w by α > 0 scales the output by α^D, and D is the model's `degree`.

A model takes all its parameters as one flat vector and cuts it into layers itself, so that nothing outside
this file ever sees a layer. It moves many runs at once: w is (..., p) with any leading axes of runs, x is
(N, d), and the output is (..., N), or (..., N, K) for K > 1 classes.

The kinks of these networks are σ and max. Each is a choice times something linear: σ(z) = s z with s in
{1, slope}, and max(a) = c . a with one c_j = 1. A network whose choices are held is smooth. `recorded` and
`held` work for every model that is written with `leaky`, `relu` and `largest`, one's own included.
"""

import math
from contextlib import contextmanager
from itertools import cycle

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, notrace_primitive, primitive


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


TAPE = []  # the innermost `recorded`, `held` or `compared`, last: what it makes of each call of `choose`


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
