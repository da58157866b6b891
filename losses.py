"""The losses ℓ(q) of a margin q, computed as log L, which is finite where L itself overflows or vanishes.

A loss is called with the margins q (..., M), `others` of them to a sample (K-1, or 1 for labels ±1). It
returns log L (...), e (..., M) and total (..., 1) with ∂ log L / ∂q = -e / total. `inverse` is ℓ^-1(L),
from log L.
"""

import autograd.numpy
import numpy as np
from autograd.extend import defvjp, notrace_primitive, primitive
from autograd.tracer import isbox


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
    return autograd.numpy if isbox(q) else np


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
    """log ℓ(q) of the logistic loss: about -q far right and log(-q) far left, exact in between."""
    t = np.exp(-abs(q))
    with np.errstate(invalid="ignore"):
        right = np.where(t > 0, np.log(np.log1p(t) / t), 0.0) - q
    return np.where(q > 0, right, np.log(np.log1p(t) + abs(q)))


def logistic_weight(q, log_loss):
    """-d/dq log ℓ(q) = 1 / ((1 + e^q) ℓ(q)) in (0, 1), given log ℓ(q): 1 far right, about -1/q far left."""
    functions = library(q)
    return functions.exp(-functions.logaddexp(0.0, q) - log_loss)


defvjp(log_logistic, lambda ans, q: lambda g: -g * logistic_weight(q, ans))
