"""One run of the CNN on MNIST, in pieces with checkpoints: discrete steps, the flow, the margin flow.

Nothing in it is about a study. A form of training knows where it begins, how it steps, when it is done and
what it records; `train_run` drives any of them.
"""

import math
import time
from dataclasses import dataclass

import numpy as np

from cnn import CNN, Blocks
from kinks import Pieces
from limits import TURN, Limit, Project, begin
from minibias import Problem, certificate, norm, unit
from optimizers import Discrete, Flow, State, choose, start, trajectory

FLOW_END = -1000.0  # log L that form `flow` passes
LIMIT_BEGINS = -60.0  # log L that it passes where only form `limit` goes on from there
FLOW_C = 0.3  # a step of the flow's first part changes log L by no more
FLOW_LATE = -25.0  # log L from which on h has settled: AdaGrad adds some e^-25 to it, the others keep e^-50
LIMIT_STEPS = 3000  # of the margin flow, at most
DELTAS = (1e-3, 1e-5)  # how far the certificate at the end looks: the kinks are that far from an unsettled w
ALIGNED = ("alignment", "alignment_unweighted")  # with h, and with h = 1: `minibias.alignment`
RECORDS = ("step", "log_loss", "margin", "train_accuracy", "test_accuracy", *ALIGNED)
FAR_RECORDS = ("step", "log10_log_inverse_loss", *RECORDS[2:], "margin_weighted", "residual")
PROBLEMS = {}  # what this process has made of the images it works on


def train_run(task, saved, seconds):
    """Go on with one run for about so many seconds, for `runs.resume`: its new checkpoint.

    The model computes on a w kept in float64. Form `discrete` computes in float32. The other two compute in
    float64: a rounding error of 1e-6 of q = 1000 would show in e^-q, and kinks are met to rounding.
    """
    run, spent = FORMS[task["form"]](task), 0.0
    if saved:
        state, rows, spent = run.restored(saved), list(saved["rows"]), float(saved["seconds"])
    else:
        state = run.begin()
        rows = [run.record(state)] if run.goes_on else []
    path, until, first = trajectory(run.step, state, run.done), time.monotonic() + seconds, state.steps
    state = next(path)
    while state.alive[0] and (state.steps == first or time.monotonic() < until):
        clock = time.perf_counter()
        state = next(path)
        spent += time.perf_counter() - clock
        if not state.alive[0] or run.due(state, rows):
            rows.append(run.record(state))
    finished = not state.alive[0]
    share, word = (1.0, "") if finished else run.progress(state, rows)
    about = {"rows": np.array(rows).reshape(-1, len(run.records)), "seconds": spent, "done": finished}
    return (
        run.checkpoint(state) | about | {"share": share, "word": word} | (run.end(state) if finished else {})
    )


class Steps:
    """Form `discrete`: task["steps"] updates from an initialisation."""

    records, goes_on, dtype = RECORDS, False, np.float32

    def __init__(self, task):
        self.task = task
        self.problem, self.test = image_problems(task, self.dtype)
        self.recorded = set(np.geomspace(1, task["steps"], 50).round())
        self.step = Discrete(self.problem, task["conditioner"], task["lr"], task["momentum"])

    def begin(self):
        w = self.problem.model.init(np.random.default_rng([self.task["seed"], 1]), 1)
        return start(self.problem, self.task["conditioner"], w)

    def done(self, state):
        return state.steps >= self.task["steps"]

    def due(self, state, rows):
        """Often enough to see where log L falls through a level for the first time."""
        return state.log_loss[0] <= lowest(rows) - 0.5 or state.steps in self.recorded

    def record(self, state):
        with np.errstate(invalid="ignore"):  # a gradient of 0 has no direction
            aligned = [alignment(state.w, h, state.u)[0] for h in (state.h, np.ones_like(state.h))]
        return state.steps, state.log_loss[0], *self.margin_and_accuracies(state.w), *aligned

    def margin_and_accuracies(self, w):
        """Normalised margin, accuracy on the training and on the test images."""
        q = self.problem.margins(unit(w))
        return q.min(), accuracy(q), accuracy(self.test.margins(unit(w)))

    def progress(self, state, rows):
        return state.steps / self.task["steps"], ""

    def checkpoint(self, state):
        return state._asdict()

    def restored(self, checkpoint):
        return restored(checkpoint)

    def end(self, state):
        return {}


class LongFlow(Steps):
    """Form `flow`: from a discrete run's end, task["start"], until log L is below task["flow_end"].

    Euler steps lead to where h has settled, then Runge-Kutta-Chebyshev steps go on.
    """

    goes_on, dtype = True, np.float64

    def __init__(self, task):
        super().__init__(task)
        early = Flow(self.problem, task["conditioner"], task["lr"], FLOW_C)
        late = LateFlow(self.problem, task["lr"])
        settled = min(FLOW_LATE, math.log(task["eps"]) / 2 - 15)
        self.step = lambda state: (late if state.log_loss[0] < settled else early)(state)

    def begin(self):
        state = restored(self.task["start"])
        log_loss, u = self.problem.gradient(state.w)  # in the higher precision
        alive = np.isfinite(log_loss) & np.isfinite(u).all(-1)
        empty = np.zeros((1, 0))  # the flow has no use for momentum
        return state._replace(log_loss=log_loss, u=u, steps=0, alive=alive, overflow=~alive, memory=empty)

    def done(self, state):
        return state.log_loss < self.task["flow_end"]

    def due(self, state, rows):
        return state.log_loss[0] <= min(1.1 * lowest(rows), lowest(rows) - 1)

    def progress(self, state, rows):
        at = state.log_loss[0]
        return float(np.clip(at / self.task["flow_end"], 0, 1)), f"log L = {at:.4g}"


class ToLimit(Steps):
    """Form `limit`: the margin flow from a flow's end, task["start"], to a residual of task["residual"]."""

    records, goes_on, dtype = FAR_RECORDS, True, np.float64

    def __init__(self, task):
        super().__init__(task)
        self.h = task["start"]["h"]
        self.step = Project(self.problem, self.h, TURN)

    def begin(self):
        return begin(self.problem, self.task["start"]["w"])

    def done(self, state):
        return (state.residual <= self.task["residual"]) | (state.steps >= LIMIT_STEPS)

    def due(self, state, rows):
        return state.steps % 10 == 0

    def record(self, state):
        weighted = norm(state.w / np.sqrt(self.h)) ** -self.problem.model.degree  # q_min is 1
        size = self.margin_and_accuracies(state.w)
        return state.steps, state.far[0], *size, math.nan, math.nan, weighted[0], state.residual[0]

    def progress(self, state, rows):
        first = next((row[-1] for row in rows if math.isfinite(row[-1])), math.inf)
        at, goal = state.residual[0], self.task["residual"]
        share = math.log(first / at) / math.log(first / goal) if goal < at < first < math.inf else 0.0
        return share, f"residual {at:.2g}, to be {goal:g}"

    def checkpoint(self, state):
        pieces = {f"pieces_{name}": a for name, a in state.pieces._asdict().items()}
        return state._asdict() | pieces | {"pieces": ()}

    def restored(self, checkpoint):
        pieces = Pieces(*(checkpoint[f"pieces_{name}"] for name in Pieces._fields))
        state = Limit(*(checkpoint[name] for name in Limit._fields))
        return state._replace(pieces=pieces, steps=int(state.steps))

    def end(self, state):
        """The certificates with h and with h = 1, for each of DELTAS."""
        both = {"kkt_residual": self.h, "kkt_residual_unweighted": np.ones_like(self.h)}
        return {
            name: [certificate(self.problem, state.w, h, delta)[0] for delta in DELTAS]
            for name, h in both.items()
        }


def alignment(w, h, u):
    """The cosine of h^-1/2 ⊙ w and -h^1/2 ⊙ u with u = ∂ log L: (...). As L -> 0 it is 1 at KKT points alone.

    It is 1 - ε² / 2 with the ε of `approximate_kkt`, and so says nothing of δ, which vanishes with L.
    """
    root = np.sqrt(h)
    return -(w * u).sum(-1) / (norm(w / root) * norm(root * u))


FORMS = {"discrete": Steps, "flow": LongFlow, "limit": ToLimit}


def lowest(rows):
    """The lowest log L on record."""
    return min((row[1] for row in rows), default=math.inf)


def restored(checkpoint):
    """The state in a checkpoint."""
    state = State(*(checkpoint[name] for name in State._fields))
    return state._replace(steps=int(state.steps))


def image_problems(task, dtype):
    """The training and the test images as problems for the CNN, made once in each process."""
    key = (task["stamp"], task["width"], dtype)
    if key not in PROBLEMS:
        PROBLEMS.clear()
        model = CNN(task["width"], dtype=dtype)
        x_train, y_train, x_test, y_test, scale, _ = task["images"]
        PROBLEMS[key] = (
            Blocks(model, scaled(x_train, scale), y_train, task["loss"], 10, model.block),
            Blocks(model, scaled(x_test, scale), y_test, task["loss"], 10, model.block, keep=0),
        )
    return PROBLEMS[key]


def scaled(pixels, scale):
    return pixels.astype(np.float32) / scale


def accuracy(q):
    """The share of samples whose nine margins are all positive, from the margins (N 9,) of ten classes."""
    return float((q.reshape(-1, 9).min(-1) > 0).mean())


@dataclass(frozen=True)
class LateFlow:
    """A step of the flow with h held at its limit, for many parameters: Runge, Kutta and Chebyshev's.

    An explicit Euler step must be shorter than 2 over the largest curvature, which the samples of nearly
    least margin make steep. s stages, one gradient each, arranged by Chebyshev polynomials, are stable over
    about s² times that, to the same first order (van der Houwen and Sommeijer, 1980; damping 0.05). A step is
    to add the share `reach` (runs,) to log 1/L, `growth` at most, in the time τ = ∫ lr L dt, in which dw/dτ =
    -h ⊙ ∂ log L. A run whose log L would rise stays where it was and tries half of the step. Where log L
    falls by less than a quarter of what it should, the next step has more stages: `steep` (runs,) is the
    square of the stages for each unit by which log L is to fall. The state's `memory` (runs, 2) is (steep,
    reach), and its `overflow` says that no step, however short, falls any more. Needs log L < 0.
    """

    problem: Problem
    lr: float = 1.0
    growth: float = 0.05
    steep: float = 64.0  # to begin with
    damping: float = 0.05

    def __call__(self, state):
        fresh = np.tile((self.steep, self.growth), (len(state.w), 1))
        steep, reach = (state.memory if state.memory.size else fresh).T
        with np.errstate(all="ignore"):
            fall = -reach * state.log_loss
            tau = (fall / (state.h * state.u * state.u).sum(-1))[:, None]
            w = self.stages(state, tau, int(max(2, np.sqrt((steep * fall * state.alive).max(initial=0)))) + 1)
            log_loss, u = self.problem.gradient(w)
            fell = state.log_loss - log_loss
            good = state.alive & (fell > 0)
            # at a kink of Φ neither more stages nor shorter steps make a full fall, so that both have an end
            steep = np.minimum(steep * np.where(fell > fall / 4, 0.97, 1.5), 2000)
            shorter = np.where(state.alive, reach / 2, reach)
            reach = np.where(good, np.minimum(1.2 * reach, self.growth), shorter)
            overflow = state.overflow | (reach < 1e-9)
            # dt = dτ / (lr L), with log L falling evenly along the step
            log_dt = np.log(tau[:, 0]) - np.log(self.lr) - log_loss + np.log(-np.expm1(-fell) / fell)
            log_t = np.logaddexp(state.log_t, log_dt)
        memory = np.stack([steep, reach], 1)
        alive = state.alive & ~overflow
        state = state._replace(steps=state.steps + 1, overflow=overflow, alive=alive, memory=memory)
        return choose(good, state._replace(w=w, log_loss=log_loss, u=u, log_t=log_t), state)

    def stages(self, state, tau, s):
        """w after a step of length tau (runs, 1) in s stages."""
        w_0 = 1 + self.damping / s**2
        T, slope = [1.0, w_0], [0.0, 1.0]  # Chebyshev polynomials and their derivatives at w_0
        for _ in range(s - 1):
            slope.append(2 * T[-1] + 2 * w_0 * slope[-1] - slope[-2])
            T.append(2 * w_0 * T[-1] - T[-2])
        w_1 = T[s] / slope[s]
        before, w = state.w, state.w - w_1 / w_0 * tau * state.h * state.u
        for j in range(2, s + 1):
            pull = state.h * self.problem.gradient(w)[1]
            now = 2 * w_0 * w - 2 * w_1 * tau * pull
            before, w = w, (T[j - 1] * now - T[j - 2] * before) / T[j]
        return w
