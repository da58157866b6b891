"""Homogeneous models Φ(w, x): scaling w by α > 0 scales the output by α^L, and L is the model's `degree`.

A model cuts its flat parameter vector itself, so nothing outside this file ever sees a layer. All runs go at once:
w is (..., p) with any leading run axes, and the output is (..., N), or (..., N, K) with K > 1 classes.

Each primitive stands beside its derivative, which is written in primitives and methods that autograd can
differentiate again: Newton's method needs the Hessian.
"""

import math
from functools import partial

import numpy as np
from autograd.extend import defvjp, notrace_primitive, primitive


def matrix_of(w, start, shape):
    """The matrix of `shape` (out, in) that w holds from entry `start` on, in C order, for every run: (..., out, in)."""
    return w[..., start : start + shape[0] * shape[1]].reshape(*w.shape[:-1], *shape)


cut = primitive(matrix_of)


@primitive
def paste(matrix, start, size):
    """The transpose of `cut`: a vector of `size` zeros that holds `matrix` from entry `start` on."""
    *runs, rows, columns = matrix.shape
    w = np.zeros((*runs, size), matrix.dtype)
    w[..., start : start + rows * columns] = matrix.reshape(*runs, rows * columns)
    return w


defvjp(cut, lambda ans, w, start, shape: lambda g: paste(g, start, w.shape[-1]), argnums=(0,))
defvjp(paste, lambda ans, matrix, start, size: lambda g: cut(g, start, matrix.shape[-2:]), argnums=(0,))


def times(matrix, a):
    """matrix @ a for (..., out, in) and (..., in, N), or a of (in, N) that all runs share, by the quickest route."""
    if matrix.shape[-1] == 1:
        return matrix * a  # an outer product: many tiny BLAS calls cost three times as much
    if a.ndim == 2:  # the data: one product for all runs
        return (matrix.reshape(-1, matrix.shape[-1]) @ a).reshape(*matrix.shape[:-1], a.shape[1])
    return matrix @ a


@primitive
def dense(w, a, start, shape):
    """W a, a layer without bias: W = cut(w, start, shape), a (..., in, N) or the data (in, N) -> (..., out, N)."""
    return times(matrix_of(w, start, shape), a)


defvjp(
    dense,
    lambda ans, w, a, start, shape: lambda g: paste(times(g, a.swapaxes(-1, -2)), start, w.shape[-1]),
    lambda ans, w, a, start, shape: lambda g: times(cut(w, start, shape).swapaxes(-1, -2), g),
)


@notrace_primitive
def activate(w, a, start, shape, slope, clarke):
    """σ(W a) and σ'(W a), both (..., out, N), of the leaky ReLU σ(z) = max(z, slope z), untraced.

    σ' is 1 above 0, `slope` below, and at 0 `clarke`, any number of the Clarke subdifferential [slope, 1]. It is piecewise
    constant, and σ(z) = σ'(z) z, so that the primitives below are products and sums once σ' is known.
    """
    z = times(matrix_of(w, start, shape), a)
    slopes = (z > 0).astype(z.dtype)
    slopes *= 1 - slope  # then 1 - slope + slope is 1 to the last bit
    slopes += slope
    if clarke != slope:
        slopes[z == 0] = clarke
    return z * slopes, slopes


@primitive
def hidden(w, a, start, shape, activation, slopes):
    """A hidden layer σ(W a): the activation that was made by `activate`, with the derivative of slopes ⊙ W a."""
    return activation


defvjp(
    hidden,
    lambda ans, w, a, start, shape, _, slopes: lambda g: paste(times(g * slopes, a.swapaxes(-1, -2)), start, w.shape[-1]),
    lambda ans, w, a, start, shape, _, slopes: lambda g: times(cut(w, start, shape).swapaxes(-1, -2), g * slopes),
)


@primitive
def head(w, a, start, shape, activation, slopes):
    """The last two layers of a network with one output, v . σ(W a), v behind W in w: (..., in, N) or (in, N) -> (..., N)."""
    v = matrix_of(w, start + math.prod(shape), (1, shape[0]))
    return times(v, activation)[..., 0, :]


def head_vjp(argnum, ans, w, a, start, shape, activation, slopes):
    """One product M = Σ_n g_n σ'(z_n) a_n^T serves both layers: v M for W and, as σ(z) = σ'(z) W a, M ⊙ W summed for v."""

    def backward(g):
        behind = start + math.prod(shape)
        W, v = cut(w, start, shape), cut(w, behind, (1, shape[0])).swapaxes(-1, -2)
        g = g[..., None, :] * slopes
        if argnum == 1:
            return times(W.swapaxes(-1, -2), v * g)
        M = times(g, a.swapaxes(-1, -2))
        return paste(v * M, start, w.shape[-1]) + paste((M * W).sum(-1)[..., None, :], behind, w.shape[-1])

    return backward


defvjp(head, partial(head_vjp, 0), partial(head_vjp, 1))


class MLP:
    """Φ(w, x) = W_L σ(W_{L-1} ... σ(W_1 x)) without biases, σ the leaky ReLU; homogeneous of degree L, its layers.

    sizes    (d, width, ..., outputs), L + 1 integers: (d, 1, 1) is the single neuron v σ(w . x), whose flat
             parameters are (w_1, ..., w_d, v); (d, outputs) is the linear model
    slope    σ's slope below 0, in [0, 1]
    clarke   σ'(0), any number of the Clarke subdifferential [slope, 1]; None takes the slope

    `size` is p, the number of parameters: W_1 first, each W (out, in) in C order. Backpropagation's derivative lies in
    the Clarke subdifferential of Φ at one sample for L <= 2; deeper nets only get some product of elements of σ's.
    Raises ValueError for sizes below 1, a slope or a Clarke choice out of range.
    """

    def __init__(self, sizes, slope=0.5, clarke=None):
        self.sizes, self.slope = tuple(sizes), slope
        self.clarke = slope if clarke is None else clarke
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"the sizes of a network must be two or more integers from 1 on, not {self.sizes}")
        if not 0 <= slope <= self.clarke <= 1:
            raise ValueError(f"0 <= slope <= Clarke choice <= 1 must hold, not slope {slope}, choice {self.clarke}")
        self.shapes = [(rows, columns) for columns, rows in zip(self.sizes, self.sizes[1:])]
        self.starts = [sum(map(math.prod, self.shapes[:k])) for k in range(len(self.shapes))]
        self.size = sum(map(math.prod, self.shapes))
        self.degree = len(self.shapes)

    def init(self, rng, runs):
        """`runs` initial parameter vectors, uniform in (-1, 1)^p: (runs, p)."""
        return rng.uniform(-1, 1, (runs, self.size))

    def __call__(self, w, x):
        """Φ at w (..., p) for the samples x (N, d): (..., N), or (..., N, K) for K > 1 outputs."""
        a, one = x.T, self.sizes[-1] == 1
        for k, layer in enumerate(zip(self.starts[:-1], self.shapes)):
            bent = activate(w, a, *layer, self.slope, self.clarke)
            if one and k == self.degree - 2:
                return head(w, a, *layer, *bent)
            a = hidden(w, a, *layer, *bent)
        a = dense(w, a, self.starts[-1], self.shapes[-1])
        return a.reshape(*w.shape[:-1], len(x)) if one else a.swapaxes(-1, -2)


def Linear(d, outputs=1):
    """The linear model w . x on d features, of degree 1: the network of one layer."""
    return MLP((d, outputs))
