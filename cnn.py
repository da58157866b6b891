"""The four-layer CNN on square grey images: a homogeneous model of degree 4.

It computes in float32 inside; what it takes and gives is float64. Activations are laid out (row, channel,
column, sample), so that every slice and maximum runs along contiguous samples, and any k rows of all channels
are one contiguous block: the k x k convolution is a matrix times overlapping blocks of an array that was
unfolded along the columns alone. A block of `CNN.block` samples stays in the processor's cache.

Each primitive stands beside its derivative. All of them are linear in every argument that has a derivative,
and each one's derivative is another of them, so that second derivatives exist.
"""

import math

import numpy as np
from autograd.core import make_vjp
from autograd.extend import defvjp, notrace_primitive, primitive
from autograd.numpy import concatenate, stack
from numpy.lib.stride_tricks import as_strided

from minibias import Problem
from models import choose, derivative, relu


@primitive
def split(w, shapes, dtype):
    """The weights of all layers, arrays of `shapes` and `dtype`, from the flat w (p,).

    They lie in it one after the other. They are cut all at once, so that the gradient is made as one vector
    (p,) and not as a sum of one per layer.
    """
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = zip(np.split(w, ends[:-1]), shapes)
    return tuple(part.astype(dtype, copy=False).reshape(shape) for part, shape in parts)


@primitive
def join(weights, dtype):
    """The transpose of `split`: a tuple of arrays -> one flat vector (p,) of `dtype`."""
    w, start = np.empty(sum(part.size for part in weights), dtype), 0
    for part in weights:
        w[start : start + part.size].reshape(part.shape)[...] = part
        start += part.size
    return w


defvjp(split, lambda ans, w, shapes, dtype: lambda g: join(g, w.dtype), argnums=(0,))
defvjp(
    join,
    lambda ans, weights, dtype: lambda g: split(g, [part.shape for part in weights], weights[0].dtype),
    argnums=(0,),
)


@primitive
def unfold(a, k):
    """a (R, c, C, N) with its k neighbours along the columns: (R, c k, C-k+1, N).

    Entry (r, c k + j, q, n) is a[r, c, q+j, n].
    """
    rows, channels, columns, samples = a.shape
    p = np.empty((rows, channels, k, columns - k + 1, samples), a.dtype)
    for j in range(k):
        p[:, :, j] = a[:, :, j : j + p.shape[3]]
    return p.reshape(rows, channels * k, *p.shape[3:])


@primitive
def fold(p, k):
    """The transpose of `unfold`: (R, c k, C-k+1, N) -> (R, c, C, N), a sum of k shifted arrays."""
    rows, channels, columns, samples = p.shape
    p = p.reshape(rows, channels // k, k, columns, samples)
    a = np.zeros((rows, channels // k, columns + k - 1, samples), p.dtype)
    for j in range(k):
        a[:, :, j : j + columns] += p[:, :, j]
    return a


defvjp(unfold, lambda ans, a, k: lambda g: fold(g, k), argnums=(0,))
defvjp(fold, lambda ans, p, k: lambda g: unfold(g, k), argnums=(0,))


def windows(p, k):
    """All blocks of k rows, each a matrix: (R, q, C, N) -> (R-k+1, k q, C N), a read-only view.

    The blocks overlap in memory.
    """
    p = np.ascontiguousarray(p)
    rows, channels, columns, samples = p.shape
    shape = rows - k + 1, k * channels, columns * samples
    return as_strided(p, shape, (p.strides[0], p.strides[1], p.itemsize), writeable=False)


@primitive
def conv(W, p):
    """The valid k x k convolution of a: W (out, c, k, k), p = unfold(a, k) -> (R-k+1, out, C-k+1, N).

    As in PyTorch, the kernel is not flipped. One small product per row, on views: BLAS has kernels for small
    products that copy nothing, up to five times quicker than one large product with so few rows.
    """
    out, _, k, _ = W.shape
    z = W.swapaxes(1, 2).reshape(out, -1) @ windows(p, k)
    return z.reshape(len(z), out, *p.shape[2:])


@primitive
def conv_transpose(W, g):
    """The transpose of p -> conv(W, p): W (out, c, k, k), g (R-k+1, out, C, N) -> (R, c k, C, N).

    A convolution along the rows as well, of g between k-1 rows of zeros, with the rows of W in reverse order.
    """
    out, channels, k, _ = W.shape
    padded = np.zeros((len(g) + 2 * k - 2, *g.shape[1:]), g.dtype)
    padded[k - 1 : k - 1 + len(g)] = g
    p = W[:, :, ::-1].transpose(1, 3, 2, 0).reshape(channels * k, k * out) @ windows(padded, k)
    return p.reshape(*p.shape[:2], *g.shape[2:])


@primitive
def correlate(g, p, shape):
    """The transpose of W -> conv(W, p): g (R-k+1, out, C, N), p (R, c k, C, N) -> `shape` (out, c, k, k)."""
    out, channels, k, _ = shape
    each = g.reshape(*g.shape[:2], -1) @ windows(p, k).swapaxes(1, 2)
    return each.sum(0).reshape(out, k, channels, k).swapaxes(1, 2)


defvjp(
    conv,
    lambda ans, W, p: lambda g: correlate(g, p, W.shape),
    lambda ans, W, p: lambda g: conv_transpose(W, g),
)
defvjp(
    conv_transpose,
    lambda ans, W, g: lambda outer: correlate(g, outer, W.shape),
    lambda ans, W, g: lambda outer: conv(W, outer),
)
defvjp(
    correlate,
    lambda ans, g, p, shape: lambda outer: conv(outer, p),
    lambda ans, g, p, shape: lambda outer: conv_transpose(outer, g),
    argnums=(0, 1),
)


def left_right(z):
    """Views of the left and the right column of each window: z (R, c, C, N) -> two (2R', c, C', N).

    An odd last row or column is left out.
    """
    rows, columns = z.shape[0] // 2 * 2, z.shape[2] // 2 * 2
    return z[:rows, :, 0:columns:2], z[:rows, :, 1:columns:2]


@notrace_primitive
def winners(z, clarke):
    """The choice that ReLU(max over each 2 x 2 window of z), (R', c, C', N), amounts to, for `pool`.

    The maximum comes first: ReLU is monotone, so that the order makes no difference to the function, and a
    quarter of the work is left. The choice is `right` (2R', c, C', N), whether in a window's row the right
    entry wins, and the factors of the `upper` and the `lower` row, one of them 0 and the other ReLU's
    derivative at the maximum. Of equal entries the first in (row, column) order wins; if that is 0, its
    factor is `clarke`.
    """
    left, right = left_right(z)
    best = np.maximum(left, right)
    upper, lower = best[0::2], best[1::2]
    top = np.maximum(upper, lower)
    factor = derivative(top, 0.0, clarke)
    below = factor * (lower > upper)
    return right > left, factor - below, below


@primitive
def pool(choice, z):
    """The linear map that a choice of `winners` makes of z: (R, c, C, N) -> (R', c, C', N)."""
    right, upper, lower = choice
    chosen = np.where(right, *left_right(z)[::-1])
    return chosen[0::2] * upper + chosen[1::2] * lower


@primitive
def unpool(g, choice, shape):
    """The transpose of `pool`: (R', c, C', N) -> (R, c, C, N), which is `shape`, 0 but for the winners."""
    right, upper, lower = choice
    rows = np.empty(right.shape, g.dtype)
    np.multiply(g, upper, out=rows[0::2])
    np.multiply(g, lower, out=rows[1::2])
    z = np.empty(shape, g.dtype)
    z[2 * len(g) :] = 0
    z[:, :, 2 * g.shape[2] :] = 0
    left_column, right_column = left_right(z)
    right_column[...] = rows * right
    left_column[...] = rows - right_column
    return z


defvjp(pool, lambda ans, choice, z: lambda g: unpool(g, choice, z.shape), argnums=(1,))
defvjp(unpool, lambda ans, g, choice, shape: lambda outer: pool(choice, outer), argnums=(0,))


class CNN:
    """Φ(w, x) = W_4 σ(W_3 P(W_2 * P(W_1 * x))) without biases, homogeneous of degree 4.

    σ is ReLU, and P = σ(max over 2 x 2).

    width    (c_1, c_2, hidden): W_1 * is a 5 x 5 convolution from 1 to c_1 channels, W_2 * a 3 x 3 one to c_2
             channels, W_3 maps what is left, 25 c_2 numbers for side 28, to `hidden` units
    side     x is side x side pixels, row by row; convolutions are valid and pooling drops an odd last row and
             column
    outputs  the number K >= 2 of classes: W_4 maps to K outputs
    clarke   σ'(0), any number of the Clarke subdifferential [0, 1]; of equal entries in a pooling window the
             first in (row, column) order takes all of the derivative
    dtype    the precision inside, float32 or float64; w, Φ and the derivatives are float64 in both

    `size` is p, the number of parameters: W_1 first, each in C order and of PyTorch's shape, (out, in, row,
    column) for the convolutions and (out, in) for the others, where W_3's `in` counts (channel, row, column).
    `block` is the number of samples that it is best given at a time: the activations then stay in the cache,
    and the result is the same up to rounding. As in a deep MLP, backpropagation's derivative need not lie in
    the Clarke subdifferential of Φ. Raises ValueError for sizes below 1, a side below 12, which leaves
    nothing to W_3, one output, another dtype, a Clarke choice out of range.
    """

    degree = 4

    def __init__(self, width=(8, 16, 64), side=28, outputs=10, clarke=0.0, dtype=np.float32):
        self.width, self.side, self.outputs = tuple(width), side, outputs
        self.clarke, self.dtype = clarke, np.dtype(dtype)
        if len(self.width) != 3 or min(self.width) < 1:
            raise ValueError(
                "the width of a CNN must be three integers from 1 on (channels, channels, hidden units), "
                f"not {self.width}"
            )
        if side < 12:
            raise ValueError(f"the images of a CNN must have 12 or more pixels a side, not {side}")
        if outputs < 2:
            raise ValueError(f"a CNN must have 2 or more outputs, not {outputs}")
        if not 0 <= clarke <= 1:
            raise ValueError(f"0 <= Clarke choice <= 1 must hold, not {clarke}")
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"the dtype of a CNN must be float32 or float64, not {self.dtype}")
        first, second, hidden = self.width
        left = ((side - 4) // 2 - 2) // 2
        self.shapes = [(first, 1, 5, 5), (second, first, 3, 3), (hidden, second * left**2), (outputs, hidden)]
        self.size = sum(map(math.prod, self.shapes))
        # measured; with a million parameters the cast of w and the sum of the gradients, once a block, count
        # more than the cache
        self.block = 64 if self.size < 1e6 else 128

    def init(self, rng, runs):
        """`runs` initial parameter vectors, He's: uniform in ±sqrt(6 / fan in), (runs, p)."""
        bounds = [np.full(math.prod(shape), math.sqrt(6 / math.prod(shape[1:]))) for shape in self.shapes]
        return rng.uniform(-1, 1, (runs, self.size)) * np.concatenate(bounds)

    def patches(self, x):
        """The images x (N, side²) as the first layer wants them: (side, 5, side - 4, N) in `dtype`.

        Made once, they save time. Raises ValueError if x does not hold images of this size.
        """
        if x.ndim != 2 or x.shape[1] != self.side**2:
            raise ValueError(
                f"x must be (N, {self.side**2}), images of {self.side} x {self.side} pixels, not {x.shape}"
            )
        return unfold(x.T.astype(self.dtype, order="C").reshape(self.side, 1, self.side, -1), 5)

    def __call__(self, w, x):
        """Φ at w (..., p) for images x (N, side²) or their `patches`: (..., N, K), run after run."""
        p = self.patches(x) if x.ndim == 2 else x
        if w.ndim > 1 and len(w) == 1:  # so that the gradient is not added to zeros, as that of w[0] is
            return self(w.reshape(-1), p)[None]
        if w.ndim > 1:
            return stack([self(w[run], p) for run in range(len(w))])
        W_1, W_2, W_3, W_4 = split(w, self.shapes, self.dtype)
        a = self.pooled(conv(W_1, p))
        a = self.pooled(conv(W_2, unfold(a, 3)))
        z = W_3 @ a.swapaxes(0, 1).reshape(-1, a.shape[-1])
        return (W_4 @ relu(z, self.clarke)).T.astype(float)

    def pooled(self, z):
        """ReLU and pooling of z (R, c, C, N): (R', c, C', N)."""
        return choose(pool, z, winners, self.clarke)


class Blocks(Problem):
    """The same problem some samples at a time: memory grows with the block, not with samples times layers.

    block    samples at a time, from 1 on; x (N, d), y (N,), loss, outputs as in `Problem`
    keep     bytes; a model with `patches(x)`, what its first layer makes of the data, has them made once
             while they stay under this
    """

    def __init__(self, model, x, y, loss="exp", outputs=None, block=64, keep=1 << 28):
        super().__init__(model, x, y, loss, outputs)
        rows = [slice(start, start + block) for start in range(0, len(y), block)]
        self.parts = [Problem(model, self.x[r], self.y[r], loss, self.outputs) for r in rows]
        if hasattr(model, "patches") and len(y) * model.patches(self.x[:1]).nbytes < keep:
            for part in self.parts:
                part.x = model.patches(part.x)

    def margins(self, w):
        return concatenate([part.margins(w) for part in self.parts], -1)

    def gradient(self, w):
        """log L = logsumexp_B log L_B and u = Σ_B e^(log L_B - log L) u_B over the blocks B.

        The running unit is the largest log L_B so far.
        """
        highest, total, u = -np.inf, 0.0, 0.0
        for part in self.parts:
            backward, phi = make_vjp(lambda w, part=part: part.model(w, part.x), w)
            log_loss, weights, part_total = part.weights(part.pairs(phi))
            higher = np.maximum(highest, log_loss)
            before, share = np.exp(highest - higher)[..., None], np.exp(log_loss - higher)[..., None]
            total = before * total + share
            u = before * u - backward(part.pairs_transpose(share / part_total * weights))
            highest = higher
        return highest + np.log(total)[..., 0], u / total
