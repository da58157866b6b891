"""The dynamics: an optimizer is its conditioner h, and it has two clocks, the discrete update and the flow.

`naive` below is the discrete update in six lines, and `Discrete` must equal it. A `State` holds all runs at
one moment. `Discrete` and `Flow` are steps, which turn a state into the next, and `trajectory` drives any of
them. To change the clock is to go on with another step.
"""

from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from minibias import Problem, as_runs, check_positive, norm


def naive(problem, conditioner, w, lr, steps):
    """The slides' discrete update: w (runs, p) after so many steps. A test holds `Discrete` to it."""
    S = conditioner.begin(w)
    for t in range(1, steps + 1):
        log_loss, u = problem.gradient(w)
        g = np.exp(log_loss)[:, None] * u
        S = conditioner.add(S, g**2)
        h = 1 / np.sqrt(conditioner.inverse_square(S, t))
        w = w - lr * h * g
    return w


class Conditioner:
    """How an optimizer gathers squared gradients in a sum S, and the h that it computes from S.

    S is the slide's sum (discrete form) or integral (continuous form), (runs, p). A subclass may `begin` with
    any other array whose first axis is the runs. It has to define three methods:

    add(S, g2)                     the slide's sum after one more gradient
    relax(S, g2, log_g2, log_dt)   the slide's integral after a time dt at a constant gradient
    inverse_square(S, t)           h^-2 > 0 (runs, p), from S at the time t >= 0

    Times are in steps. g2 = ∂L² is (runs, p), beside which its logarithm stands since g2 underflows. t and
    log_dt are numbers or (runs, 1): an S with more axes has to reshape them.

    eps      ε > 0, inside the root as on the slides; PyTorch and Keras add theirs (about 1e-8) outside it
    b        the decay in (0, 1): RMSProp's and Adam's sum forgets by e^-(1-b) a step, common libraries by b
    `isotropic` is whether the components of h_∞ are equal whatever the path, so that the problem is L2's.
    Raises ValueError for eps or b out of range.
    """

    isotropic = False

    def __init__(self, eps=1e-5, b=0.9):
        check_positive(eps=eps)
        if not 0 < b < 1:
            raise ValueError(f"b must lie between 0 and 1, both excluded, not {b:g}")
        self.eps, self.b = eps, b

    def begin(self, w):
        """S before the first gradient, any array whose first axis is the runs: zeros like w (runs, p)."""
        return np.zeros_like(w)

    def inverse_square_at_0(self, g2):
        """h^-2 of the flow at t = 0. Override it only if S = 0 and t = 0 give 0/0; g2 is for its limit."""
        return self.inverse_square(self.begin(g2), 0.0)

    def longest(self, S, t, g2, log_g2, fraction):
        """log of the longest dt in which no h_j^-2 changes by more than `fraction` of itself: by bisection.

        (runs, 1) here, or (runs, p) where a closed form gives it coordinate by coordinate.
        """
        now, low, high = self.inverse_square(S, t), np.full((len(S), 1), -700.0), np.full((len(S), 1), 700.0)
        for _ in range(40):
            middle = (low + high) / 2
            then = self.inverse_square(self.relax(S, g2, log_g2, middle), t + np.exp(middle))
            far = (abs(then / now - 1) > fraction).any(-1, keepdims=True)
            low, high = np.where(far, (low, middle), (middle, high))
        return low


class GD(Conditioner):
    """Gradient descent, h = 1 for ever: the yardstick, with no use for ε and b."""

    isotropic = True

    def add(self, S, g2):
        return S

    def relax(self, S, g2, log_g2, log_dt):
        return S

    def inverse_square(self, S, t):
        return np.ones_like(S)

    def longest(self, S, t, g2, log_g2, fraction):
        return np.full_like(S, np.inf)


class AdaGrad(Conditioner):
    """AdaGrad: S_t = S_{t-1} + g_t², h = 1 / sqrt(ε + S), whose limit depends on the path."""

    def add(self, S, g2):
        return S + g2

    def relax(self, S, g2, log_g2, log_dt):
        return S + np.exp(log_dt + log_g2)

    def inverse_square(self, S, t):
        return self.eps + S

    def longest(self, S, t, g2, log_g2, fraction):
        return np.log(fraction * self.inverse_square(S, t)) - log_g2


class RMSProp(Conditioner):
    """RMSProp: S_t = e^-(1-b) S_{t-1} + (1-b) g_t², h = 1 / sqrt(ε + S), so h_∞ = 1/√ε in every coordinate.

    The integral of the flow relaxes to g² at the rate 1-b, here exactly for constant g. The slide's sum
    is larger than its integral by (1-b) / (1 - e^-(1-b)), 1.05 at b = 0.9. PyTorch and Keras use b in
    place of e^-(1-b).
    """

    isotropic = True

    def add(self, S, g2):
        return np.exp(self.b - 1) * S + (1 - self.b) * g2

    def relax(self, S, g2, log_g2, log_dt):
        x = (self.b - 1) * np.exp(log_dt)
        # expm1, since 1 - e^x would be 0 where g2 is huge and dt therefore tiny
        return np.exp(x) * S - np.expm1(x) * g2

    def inverse_square(self, S, t):
        return self.eps + S

    def longest(self, S, t, g2, log_g2, fraction):
        share = fraction * self.inverse_square(S, t) / np.abs(g2 - S)
        return np.log(-np.log1p(-np.minimum(share, 1)) / (1 - self.b))  # infinite from a share of 1 on


class Adam(RMSProp):
    """Adam without momentum: RMSProp's S divided by 1 - b^t, h = 1 / sqrt(ε + S / (1 - b^t)).

    t counts gradients from 1: the slide's t = 0 term would divide by zero. In the flow the quotient has the
    limit (1-b) / (-log b) g² at t = 0. The correction b^t and the decay e^-(1-b)t are the slide's; PyTorch
    has b^t in both.
    """

    def inverse_square(self, S, t):
        return self.eps + S / -np.expm1(t * np.log(self.b))

    def inverse_square_at_0(self, g2):
        return self.eps + (1 - self.b) / -np.log(self.b) * g2

    def longest(self, S, t, g2, log_g2, fraction):
        """To first order in dt: with two decays the quotient's change has no inverse in closed form."""
        correction = -np.expm1(t * np.log(self.b))
        decay = S / correction * np.log(self.b) * np.exp(t * np.log(self.b))
        rate = np.abs(((1 - self.b) * (g2 - S) + decay) / correction)
        return np.where(t > 0, np.log(fraction * self.inverse_square(S, t)) - np.log(rate), np.inf)


METHODS = ("begin", "add", "relax", "inverse_square", "inverse_square_at_0", "longest")
CONDITIONERS = {"gd": GD, "adagrad": AdaGrad, "rmsprop": RMSProp, "adam": Adam}


def chosen(about, names, known):
    """Some of the `known` names as a list: None is all of them, and a string is one."""
    names = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    if not names or not set(names) <= set(known):
        raise ValueError(
            f"{about} must be some of {', '.join(known)}, not {', '.join(map(repr, names)) or 'none'}"
        )
    return names


def learning_rates(optimizers, lr, usual):
    """A dict optimizer -> learning rate: what `lr` has, a number for all or a dict of some, else `usual`.

    usual    a dict of some optimizers' rates, and of the others' under None
    Raises ValueError for a rate of an optimizer that is not there.
    """
    given = lr if isinstance(lr, dict) else {} if lr is None else dict.fromkeys(optimizers, lr)
    if not set(given) <= set(optimizers):
        raise ValueError(f"lr must name some of {', '.join(optimizers)}, not {', '.join(given)}")
    return {name: given.get(name, usual.get(name, usual[None])) for name in optimizers}


def conditioners(optimizers, eps=1e-5, b=0.9):
    """The conditioners of a study: a dict name -> object.

    optimizers   names in CONDITIONERS, which get ε and b; None for all of them; or such a dict, with one's
                 own conditioners, which stay as they are
    """
    if optimizers and isinstance(optimizers, dict):
        return dict(optimizers)
    return {name: CONDITIONERS[name](eps, b) for name in chosen("optimizers", optimizers, CONDITIONERS)}


def with_epsilon(conditioner, eps):
    """The same conditioner with another ε."""
    check_positive(eps=eps)
    other = copy(conditioner)
    other.eps = eps
    return other


def check_conditioner(conditioner, size=3):
    """Raises ValueError unless an object can stand as a conditioner, by what it makes of random g² (3, size).

    What it gets wrong here would be a wrong number later, in silence.
    """
    if isinstance(conditioner, type):
        raise ValueError(f"the conditioner must be an object, not the class: {conditioner.__name__}()")
    about, g2 = type(conditioner).__name__, np.random.default_rng(0).uniform(0.4, 3, (3, size))
    for method in METHODS:
        if not callable(getattr(conditioner, method, None)):
            raise ValueError(f"{about} is no conditioner, it lacks the method {method}: see Conditioner")
    t, dt = np.array([[5.0], [7.0], [9.0]]), 1e-6 * np.array([[1.0], [2.0], [4.0]])  # as the flow passes them
    add, inverse, one = conditioner.add, conditioner.inverse_square, slice(1, 2)
    relax = lambda S, g2, dt: conditioner.relax(S, g2, np.log(g2), np.log(dt))
    try:
        with np.errstate(all="ignore"):
            zero, begun = (conditioner.begin(np.ones_like(g2)) for _ in range(2))
            S = add(zero, g2)
            first, at_0 = inverse(S, t), conditioner.inverse_square_at_0(0 * g2)
            above = all((a > 0).all() and np.isfinite(a).all() for a in (first, at_0))
            longest = np.shape(conditioner.longest(S, t, g2, np.log(g2), 0.1))
            after, alone = relax(S, g2, 1e6 * dt), relax(S[one], g2[one], 1e6 * dt[one])
            apart = np.allclose(inverse(add(begun[one], g2[one]), t[one]), first[one])
            # what forgets at the rate 1 - b in time forgets 1 - e^-(1-b) at once: up to 1.6 times less
            times = dt.reshape(3, *[1] * (S.ndim - 1))
            rates = [(add(a, b) - a, (relax(a, b, dt) - a) / times) for a, b in ((begun, g2), (S, 0 * g2))]
            agrees = all((abs(slow - once) <= 0.6 * abs(once) + 1e-6).all() for once, slow in rates)
            fresh = (inverse(S, t) == first).all() and (inverse(add(begun, g2), t) == first).all()
            facts = {
                "begin must return shape (3, ...), 3 being the runs": len(zero) == 3,
                "add must return a new S of the same shape (not S += ...)": S.shape == begun.shape
                and (zero == begun).all(),
                f"inverse_square must return shape {g2.shape}, not {first.shape}": first.shape == at_0.shape
                and first.shape == g2.shape,
                f"longest must return (3, {size}) or (3, 1), not {longest}": longest in (g2.shape, (3, 1)),
                "inverse_square must be h^-2, finite and above 0, also at S = 0: is ε missing?": above,
                "begin must begin anew: all that is remembered is in S, nothing in self": fresh,
                "inverse_square mixes the runs (is an axis=-1 missing?)": apart,
                "relax mixes the runs (is log_dt (runs, 1) to be reshaped?)": np.allclose(after[one], alone),
                "inverse_square must not fall as S grows: it is h^-2": (
                    (inverse(add(S, 2 * g2), t) >= first).all()
                ),
                "relax must agree with add to first order in time": agrees,
            }
    except Exception as problem:
        raise ValueError(f"{about} fails at three runs of {size} parameters: {problem}") from problem
    for expected, good in facts.items():
        if not good:
            raise ValueError(f"{about}.{expected}")


class State(NamedTuple):
    """All runs at one moment: arrays over the runs, never changed in place. `_asdict()` is a checkpoint."""

    w: np.ndarray  # (runs, p) the parameters
    S: np.ndarray  # (runs, ...) the conditioner's sum or integral, as its `begin` has it
    h: np.ndarray  # (runs, p) the conditioner: of the update just made, or of the flow's present time
    log_loss: np.ndarray  # (runs,) log L at w
    u: np.ndarray  # (runs, p) ∂ log L at w
    steps: int  # made so far
    log_t: np.ndarray  # (runs,) log of the time in steps, since the flow's steps grow like 1 / L
    alive: np.ndarray  # (runs,) whether the run still moves
    overflow: np.ndarray  # (runs,) whether it stopped where its next step, or its start, is not finite
    memory: np.ndarray  # (runs, any) what else a step has to remember: momentum's m


def start(problem, conditioner, w):
    """The state of all runs at t = 0 with the parameters w (runs, p); w and the conditioner are checked."""
    w = np.array(as_runs(problem.model, w))
    check_conditioner(conditioner, problem.model.size)
    with np.errstate(all="ignore"):
        log_loss, u = problem.gradient(w)
        g2 = (np.exp(log_loss)[:, None] * u) ** 2
        h = 1 / np.sqrt(conditioner.inverse_square_at_0(g2))
        alive = np.isfinite(log_loss) & np.isfinite(u).all(-1) & (h > 0).all(-1)
        h = np.where(alive[:, None], h, 1 / np.sqrt(conditioner.inverse_square_at_0(0 * w)))
    log_t = np.full(len(w), -np.inf)
    nothing = np.zeros((len(w), 0))
    return State(w, conditioner.begin(w), h, log_loss, u, 0, log_t, alive, ~alive, nothing)


def move(problem, state, w, **new):
    """The state after a step to w, with `new` arrays. A run that would not be finite keeps its last state."""
    new["log_loss"], new["u"] = problem.gradient(w)
    new |= {"w": w, "steps": state.steps + 1}
    if state.alive.all() and np.isfinite(new["u"].sum() + new["S"].sum()):
        return state._replace(**new)
    finite = [np.isfinite(a).reshape(len(w), -1).all(-1) for a in new.values() if np.ndim(a)]
    alive = state.alive & np.all(finite, axis=0)
    overflow = state.overflow | (state.alive & ~alive)
    return choose(alive, state._replace(**new), state)._replace(alive=alive, overflow=overflow)


def choose(runs, new, old):
    """The state that is `new` for the `runs` (runs,) and `old` for the others."""
    pick = lambda a, b: np.where(runs.reshape(-1, *[1] * (a.ndim - 1)), a, b) if np.ndim(a) else a
    return State(*map(pick, new, old))


@dataclass(frozen=True)
class Discrete:
    """The discrete update w(t+1) = w(t) - lr h(t) ⊙ ∂L(w(t)) (slide "discrete form"), a step on states.

    momentum   β in [0, 1), or one for each run as (runs, 1). With β the step is w - lr h ⊙ m, where m begins
               at 0 and becomes β m + (1 - β) ∂L, and is the state's `memory`. h is made of ∂L as ever. The
               theorem has β = 0. For linear models Wang et al. prove that gradient descent and Adam with
               momentum keep the L2 margin ("Does Momentum Change the Implicit Regularization on Separable
               Data?", NeurIPS 2022).
    Raises ValueError for an lr that is not a finite number above 0, or a β out of range.
    """

    problem: Problem
    conditioner: Conditioner
    lr: float
    momentum: float | np.ndarray = 0.0

    def __post_init__(self):
        check_positive(lr=self.lr)
        if not np.all((np.asarray(self.momentum) >= 0) & (np.asarray(self.momentum) < 1)):
            raise ValueError(f"momentum must lie in [0, 1), not {self.momentum}")

    def __call__(self, state):
        with np.errstate(all="ignore"):
            t = state.steps + 1
            g = np.exp(state.log_loss)[:, None] * state.u
            S = self.conditioner.add(state.S, g * g)
            h = 1 / np.sqrt(self.conditioner.inverse_square(S, t))
            new = {"S": S, "h": h, "log_t": np.full(len(h), np.log(t))}
            m = g
            if np.any(self.momentum):
                state = state._replace(memory=state.memory if state.memory.size else np.zeros_like(g))
                m = new["memory"] = self.momentum * state.memory + (1 - self.momentum) * g
            return move(self.problem, state, state.w - self.lr * h * m, **new)


@dataclass(frozen=True)
class Flow:
    """A step of explicit Euler on the flow dw/dt = -lr h ⊙ ∂L (slide "continuous form": lr = 1).

    Each run takes the longest dt that changes log L by at most c to first order, ||w|| by at most
    c max(1, ||w||), and any h_j^-2 by at most a fraction 4c, or 1/2, of itself.
    Raises ValueError for an lr or a c that is not a finite number above 0.
    """

    problem: Problem
    conditioner: Conditioner
    lr: float = 1.0
    c: float = 0.1

    def __post_init__(self):
        check_positive(lr=self.lr, c=self.c)

    def __call__(self, state):
        with np.errstate(all="ignore"):
            # dw/dt = -lr L velocity, and d log L / dt = -lr L slope
            velocity, t = state.h * state.u, np.exp(state.log_t)[:, None]
            slope = (velocity * state.u).sum(-1)
            # a run without gradient has nowhere to go
            state = state._replace(alive=state.alive & (slope > 0))
            log_rate = np.log(self.lr) + state.log_loss
            log_g2 = 2 * (state.log_loss[:, None] + np.log(np.abs(state.u)))
            g2 = np.exp(log_g2)
            # how long each of the three bounds lets the step be
            reach = self.c * np.maximum(1, norm(state.w))
            way = np.minimum(self.c / slope, reach / norm(velocity))
            longest = self.conditioner.longest(state.S, t, g2, log_g2, min(4 * self.c, 0.5)).min(-1)
            log_dt = np.minimum(np.log(way) - log_rate, longest)
            # the conditioner goes along, exactly for a constant gradient
            log_t = np.logaddexp(state.log_t, log_dt)
            S = self.conditioner.relax(state.S, g2, log_g2, log_dt[:, None])
            h = 1 / np.sqrt(self.conditioner.inverse_square(S, np.exp(log_t)[:, None]))
            # Euler's step
            w = state.w - np.exp(log_dt + log_rate)[:, None] * velocity
            return move(self.problem, state, w, S=S, h=h, log_t=log_t)


def trajectory(step, state, done=lambda state: False):
    """Generate the state and those after each step until no run is alive; runs that are `done` stay."""
    while True:
        state = state._replace(alive=state.alive & ~np.asarray(done(state)))
        yield state
        if not state.alive.any():
            return
        state = step(state)


def descend(problem, conditioner, w, lr, steps, record=(), momentum=0.0):
    """The state after `steps` discrete updates from w (runs, p), and a dict of those at each in `record`."""
    if max(record, default=0) > steps:
        raise ValueError(f"record must hold steps up to {steps}, not {max(record)}")
    step, snapshots = Discrete(problem, conditioner, lr, momentum), {}
    for state in islice(trajectory(step, start(problem, conditioner, w)), steps + 1):
        if state.steps in record:
            snapshots[state.steps] = state
    return state, {t: snapshots.get(t, state) for t in record}  # all runs may have stopped before


SEPARATES_WITHIN = 20_000  # steps of the flow; the default study needs about 700


def follow(
    problem, conditioner, w, levels=(-25.0, -50.0), lr=1.0, c=0.1, watch=lambda state: None, most=None
):
    """The flow from w (runs, p) until log L of every run is at the last of the falling `levels`.

    Returns four things: the state at the end, w and h (levels, runs, p) where each run passed each level, and
    `reached` (levels, runs). A run that has not separated the data after 20,000 steps stops. So does one that
    is not at the last level after `most` steps, by default five times as many. `watch` gets each state.
    Raises ValueError for levels that do not fall.
    """
    most = 5 * SEPARATES_WITHIN if most is None else most
    levels = np.ravel(levels)
    if not (len(levels) and (np.diff(levels) < 0).all()):
        raise ValueError(f"the levels of log L must fall, not {levels}")

    def done(state):
        stop = state.log_loss <= levels[-1]
        if state.steps == SEPARATES_WITHIN:
            stop |= problem.margins(state.w).min(-1) <= 0
        return stop | (state.steps >= most)

    first = start(problem, conditioner, w)
    passed_w, passed_h = (np.repeat(a[None], len(levels), 0) for a in (first.w, first.h))
    reached = np.zeros((len(levels), len(first.w)), bool)
    for state in trajectory(Flow(problem, conditioner, lr, c), first, done):
        watch(state)
        for k, level in enumerate(levels):
            new = ~reached[k] & (state.log_loss <= level)
            passed_w[k, new], passed_h[k, new] = state.w[new], state.h[new]
            reached[k] |= new
    return state, passed_w, passed_h, reached
