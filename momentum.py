"""The discrete update with momentum, which the theorem leaves out: here it is measured only."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from minibias import Problem
from optimizers import Conditioner, Discrete, move


@dataclass(frozen=True)
class Momentum:
    """The discrete update w - lr h ⊙ m with m = β m + (1 - β) g, a step on states; h is made of g as ever.

    β is `beta` in [0, 1), or one for each run as (runs, 1); 0 is `Discrete`, to the last bit. m begins at 0
    and is the state's `memory`.

    For linear models Wang et al. prove that gradient descent and Adam with momentum keep the L2 margin ("Does
    Momentum Change the Implicit Regularization on Separable Data?", NeurIPS 2022).
    Raises ValueError for a β or an lr out of range.
    """

    problem: Problem
    conditioner: Conditioner
    lr: float
    beta: float | np.ndarray

    def __post_init__(self):
        Discrete.__post_init__(self)
        if not np.all((np.asarray(self.beta) >= 0) & (np.asarray(self.beta) < 1)):
            raise ValueError(f"momentum must lie in [0, 1), not {self.beta}")

    def __call__(self, state):
        with np.errstate(all="ignore"):
            t = state.steps + 1
            g = np.exp(state.log_loss)[:, None] * state.u
            S = self.conditioner.add(state.S, g * g)
            h = 1 / np.sqrt(self.conditioner.inverse_square(S, t))
            state = state._replace(memory=state.memory if state.memory.size else np.zeros_like(g))
            m = self.beta * state.memory + (1 - self.beta) * g
            log_t = np.full(len(h), np.log(t))
            return move(self.problem, state, state.w - self.lr * h * m, S=S, h=h, log_t=log_t, memory=m)


def update(momentum=0.0):
    """The discrete update with so much momentum: what makes a step of problem, conditioner and lr."""
    return partial(Momentum, beta=momentum) if momentum else Discrete
