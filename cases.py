"""What the slides' statements share: all runs of one optimizer with one loss, and Qian and Qian's example.

Both are measured once, in a worker, and then remember: what several statements ask for is a cached
property.
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import numpy as np

import minibias
import optimizers
from datasets import default_data
from limits import ascend, margin_flow, margin_path
from minibias import Problem, certificate, norm, predict, unit
from models import MLP, Linear
from momentum import Momentum
from optimizers import Conditioner, Discrete, Flow, descend, start, trajectory

HALF, END = -25.0, -50.0  # log L where the flow counts as late, and where it stops
LEVELS = 10.0 ** np.arange(3, 14)  # log 1/L on the way to the limit
RECORDED = (300, 2000, 2500, 3000, 4000, 5000, 8000, 10_000, 16_000, 30_000)  # discrete steps


@dataclass(frozen=True)
class Case:
    """All runs of one optimizer with one loss: the neuron on the authors' data."""

    optimizer: str
    loss: str
    conditioner: Conditioner
    lr: float  # of the discrete update
    seed: int
    runs: int

    about = "a case"  # what STATEMENTS calls it

    def __str__(self):
        return f"{self.optimizer}.{self.loss}"

    def conclude(self):
        """Measure what is asked of the case later, and forget the path: hundreds of states of all runs."""
        for name in ("flow", "end", "prediction", "proof", "separation"):
            getattr(self, name)
        del vars(self)["path"]

    @cached_property
    def problem(self):
        return Problem(MLP((2, 1, 1)), *default_data(self.seed), self.loss)

    @cached_property
    def w0(self):
        return self.initial(self.problem.model, self.runs)

    def initial(self, model, runs):
        """As many initial w of a model: the first ones are the same however many there are."""
        return model.init(np.random.default_rng([self.seed, 1]), runs)

    def followed(self, model, data, starts=10):
        """The limits of the first ten of the `starts` of another model that separate its data: `Limits`."""
        problem = Problem(model, *data, self.loss)
        first = start(problem, self.conditioner, self.initial(model, starts))
        # those that separate need some 700 steps
        done = lambda s: (s.log_loss <= END) | (s.steps >= 2000)
        *_, state = trajectory(Flow(problem, self.conditioner), first, done)
        there = np.flatnonzero(state.log_loss <= END)[:10]
        return Limits(problem, state.w[there], state.h[there], self.weights(state.h[there]))

    @cached_property
    def path(self):
        """The flow from t = 0 to log L = -50: a state whose arrays have the times as an axis in front."""
        first = start(self.problem, self.conditioner, self.w0)
        done = lambda s: (s.log_loss <= END) | (s.steps >= optimizers.SEPARATES_WITHIN)
        states = trajectory(Flow(self.problem, self.conditioner), first, done)
        return optimizers.State(*map(np.array, zip(*states)))

    @cached_property
    def late(self):
        """Whether log L was at most -25 before each of the path's steps: (times - 1, runs)."""
        return self.path.log_loss[:-1] <= HALF

    @cached_property
    def flow(self):
        """The state where the flow stops, whose h is h_∞ but for what e^-50 can change."""
        return optimizers.State(*(a[-1].copy() for a in self.path))

    @cached_property
    def settled(self):
        """The largest relative change of a component of h from log L = -25 to the end: (runs,)."""
        h = self.path.h[self.late.argmax(0) - 1, np.arange(self.runs)]
        return np.abs(h / self.flow.h - 1).max(-1)

    @cached_property
    def surrogate(self):
        """The surrogate margin along the path: (times, runs)."""
        return minibias.surrogate_margin(self.problem, self.path.log_loss, self.path.w, self.path.h)

    @cached_property
    def end(self):
        """Where the margin flow ends, the limit: (runs, p)."""
        return margin_flow(self.problem, self.flow.w, self.flow.h).w

    @cached_property
    def limit(self):
        """w on the way, where log 1/L is each of LEVELS, and whether it was found: (levels, runs, ..)."""
        way = [(self.flow.w, None)]
        for level in LEVELS:
            way.append(ascend(self.problem, way[-1][0], self.flow.h, level))
        return tuple(map(np.array, zip(*way[1:])))

    @cached_property
    def prediction(self):
        """The KKT point of the problem weighted with h_∞, found from where the flow stops: (runs, p)."""
        return predict(self.problem, self.flow.w, self.flow.h)

    @cached_property
    def defects(self):
        """The proof's (ε_i, δ_i) on the way to the limit, NaN where that was not found: (2, levels, runs)."""
        w, found = self.limit
        defects = [minibias.approximate_kkt(self.problem, at, self.flow.h) for at in w]
        return np.where(found, np.swapaxes(defects, 0, 1), np.nan)

    @cached_property
    def proof(self):
        """What the figure shows of run 0: a dict of arrays over the times or the levels."""
        along = {"log_t": self.path.log_t, "log_loss": self.path.log_loss, "surrogate": self.surrogate}
        along |= {"h": self.path.h, "epsilons": self.defects[0], "deltas": self.defects[1]}
        return {"levels": LEVELS} | {name: a[:, 0] for name, a in along.items()}

    @cached_property
    def discrete(self):
        """The states of the discrete update after each number of steps in RECORDED: a dict.

        They are those of all runs and, behind them, of the first ten again with momentum 0.9: a step of all
        together costs hardly more than one of ten.
        """
        w = np.concatenate([self.w0, self.w0[:10]])
        beta = np.where(np.arange(len(w)) < self.runs, 0.0, 0.9)[:, None]
        rule = partial(Momentum, beta=beta)
        return descend(self.problem, self.conditioner, w, self.lr, RECORDED[-1], RECORDED, rule)[1]

    @property
    def snapshots(self):
        """`discrete` without momentum."""
        return {t: part(state, slice(self.runs)) for t, state in self.discrete.items()}

    @property
    def with_momentum(self):
        """The first ten runs with momentum."""
        return {t: part(state, slice(self.runs, None)) for t, state in self.discrete.items()}

    @cached_property
    def separation(self):
        """`steps_to_separate` with the case's own conditioner."""
        return self.steps_to_separate(self.conditioner)

    def steps_to_separate(self, conditioner, most=5000):
        """After how many discrete steps at learning rate 0.1 each run first separates, or `most`: (runs,)."""
        first = start(self.problem, conditioner, self.w0)
        separates = lambda state: self.problem.margins(state.w).min(-1) > 0
        steps = 0
        for state in islice(trajectory(Discrete(self.problem, conditioner, 0.1), first, separates), most):
            steps = steps + state.alive
        return np.where(state.overflow, most, steps)

    @property
    def weighting(self):
        """Of the max-margin problem that the theorem speaks of."""
        return "unweighted" if self.conditioner.isotropic else "weighted"

    def weights(self, h):
        """What h is in that problem: itself, or 1 if it is isotropic."""
        return np.ones_like(h) if self.conditioner.isotropic else h

    def residual(self, w, h):
        """The KKT residual for that problem, on the case's own data: (runs,)."""
        return certificate(self.problem, w, self.weights(h))


@dataclass(frozen=True)
class Limits:
    """The limits of some runs of a network: where the margin flow leads from w (runs, p) with h (runs, p)."""

    problem: Problem
    start: np.ndarray
    h: np.ndarray
    weights: np.ndarray  # h in the problem that the theorem speaks of, see `Case.weights`

    @cached_property
    def path(self):
        """w along the margin flow and how far it has gone: (steps, runs, p) and (steps, runs)."""
        w, far = zip(*((state.w, state.far) for state in margin_path(self.problem, self.start, self.h)))
        return np.array(w), np.array(far)

    @property
    def w(self):
        return self.path[0][-1]

    @cached_property
    def residual(self):
        """Their KKT residuals: (runs,)."""
        return certificate(self.problem, self.w, self.weights)

    @property
    def settles_at(self):
        """log10 of log 1/L from which on the direction stays within 1e-3 of its limit: (runs,)."""
        w, far = self.path
        away = norm(unit(w) - unit(w[-1])) > 1e-3
        last = len(w) - 1 - away[::-1].argmax(0)  # the last step that is still away
        return np.where(away.any(0), far[np.minimum(last + 1, len(w) - 1), np.arange(len(last))], far[0])


@dataclass(frozen=True)
class Qian:
    """Qian and Qian's example: AdaGrad with one learning rate, the linear model, two points in the plane."""

    lr: float
    conditioner: Conditioner
    steps: int  # of the discrete update

    about = "an example"

    def conclude(self):
        """There is nothing to forget: what the statements ask for is all there is."""

    @cached_property
    def directions(self):
        """The limit's direction, and the max-margin ones weighted with h_∞ and unweighted: (2,) each.

        After 1e5 discrete steps the rest of S turns the limit by 0.003° at most. From there the flow of the
        same learning rate goes on. Steps of c = 0.02 are good to a hundredth of that rest, and the flow
        itself to about L = 1e-3 of it.
        """
        angle, y = np.pi / np.array([8, 20]), np.array([1.0, -1.0])
        problem = Problem(Linear(2), y[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), y)
        state, _ = descend(problem, self.conditioner, np.zeros((1, 2)), self.lr, self.steps)
        flow = Flow(problem, self.conditioner, self.lr, c=0.02)
        *_, state = trajectory(flow, state, lambda state: state.log_loss <= END)
        w = margin_flow(problem, state.w, state.h).w
        weighted, unweighted = (predict(problem, state.w, h) for h in (state.h, np.ones((1, 2))))
        return [unit(v)[0] for v in (w, weighted, unweighted)]

    @property
    def degrees(self):
        """The angles of the directions."""
        return [np.degrees(np.arctan2(v[1], v[0])) for v in self.directions]


def part(state, runs):
    """The state of some runs."""
    return optimizers.State(*(a[runs] if np.ndim(a) else a for a in state))


def row(id, slide, statement, measured, relation, bound, kind="theorem"):
    """A row of the table, as in the result files. What is not finite is None and does not hold.

    statement   what is measured, in words
    kind        "theorem", which must hold, or "observation", which the slides make in experiments
    """
    finite = math.isfinite(measured)
    holds = finite and bool(measured <= bound if relation == "<=" else measured >= bound)
    named = {"id": id, "slide": slide, "statement": statement, "kind": kind}
    value = float(measured) if finite else None
    return named | {"measured": value, "relation": relation, "bound": bound, "holds": holds}


def rate(values):
    """The slope of log values (levels, runs) in log log 1/L, before rounding shows: (runs,)."""
    early = LEVELS <= 1e8
    return np.polyfit(np.log(LEVELS[early]), np.log(values[early]), 1)[0]
