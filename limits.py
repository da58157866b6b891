"""Where the flow ends: the margin flow to its limit, implicit Euler on the loss."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from autograd.core import make_vjp

from kinks import SLACK, Choices, Climbed, Pieces, along, climb, longest, newton, scattered, taken
from minibias import (
    Problem,
    as_runs,
    certificate,
    check_positive,
    check_separates,
    norm,
    normalised_margin,
    scaled,
)
from optimizers import SEPARATES_WITHIN, follow, trajectory

AT_REST = -50.0  # log L where the flow counts as at rest, that is its h: see `to_rest`
LATE = -30.0  # log L that is late enough for a limit, if the flow runs out of steps on its way to rest
H_SETTLED = 1e-8  # the largest relative change of h from half of AT_REST to there that counts as settled
SETTLED = 1e-12  # the last move of a direction at rest
CERTIFIED = 1e-6  # the largest KKT residual of a limit that counts as reached


ANEW = 5  # times that a run may begin anew
PATIENCE = 100  # steps without a residual that halves after which a certified run has ended
NEAR = 1e-4  # the residual from which on Newton's step is tried
SHORTEST = 1e-9  # 1 - c of the shortest step
TURN = 0.05  # radians that the direction may turn in a step until it is at rest: see `margin_flow`


class Limit(NamedTuple):
    """All runs of the margin flow at one moment."""

    w: np.ndarray  # (runs, p) the parameters, scaled to q_min = 1
    far: np.ndarray  # (runs,) log10 of log 1/L
    size: np.ndarray  # (runs,) 1 - c of the next step
    last_move: np.ndarray  # (runs,) of the direction w / ||w||, by the last step
    residual: np.ndarray  # (runs,) the KKT residual that the last step found, from above
    lowest: np.ndarray  # (runs,) the residual when it last fell to half of this
    since: np.ndarray  # (runs,) steps since then
    reach: np.ndarray  # (runs,) how far Newton's step may turn the direction
    alive: np.ndarray  # (runs,) whether the run still moves
    begun: np.ndarray  # (runs,) how often it has begun anew
    pieces: Pieces  # that carried the last step
    steps: int  # made so far

    @property
    def settled(self):
        """(runs,) whether the direction came to rest, or its residual to where it falls no more."""
        return (self.residual < SETTLED) | (self.residual <= CERTIFIED) & (self.since >= PATIENCE)

    @property
    def reason(self):
        """Why each run ended: a list of sentences."""
        out = f"out of steps after {self.steps}, with a residual of %.1e; more steps help"
        stuck = (
            "no step succeeds, down to 1 - c = %.0e, with a residual of %.1e; is each kink of the model one "
        )
        stuck += "of models.leaky, relu and largest?"
        words = zip(self.settled, self.size, self.residual)
        return ["settled" if ok else stuck % (c, r) if c <= SHORTEST else out % r for ok, c, r in words]


@dataclass(frozen=True)
class Project:
    """A step of the margin flow: w goes to the nearest point at which every margin is at least ρ q_min(w).

    As L -> 0, log 1/L = q_min + O(log N), and the flow becomes dw/dτ ∈ h ⊙ ∂q_min(w), with Clarke's ∂ and h
    at its limit. Its implicit Euler step is that projection, nearest in the norm ||h^-1/2 .||.

    Why its fixed directions are the KKT points of min ||h^-1/2 w||² s.t. q_i(w) >= 1: the projection v of w
    has multipliers λ_i >= 0, above 0 only where q_i(v) is least, with h^-1 (v - w) = Σ λ_i ∂q_i(v). If the
    direction stays, v = w / c with c < 1, then h^-1 v = Σ λ_i / (1 - c) ∂q_i(v), the KKT condition; and so
    back. That is the theorem.

    Up to its length, and linearised, the step is h^-1/2 w' = c h^-1/2 w + Σ λ_k h^1/2 ∂q_k: `kinks.climb`.
    Its size 1 - c grows while steps are easy, and is halved where one fails. The direction turns by no more
    than `turn` in a step. w is scaled back to q_min = 1 after each step, so that nothing overflows. Every
    tenth step near the end is Newton's: see `sooner`.
    """

    problem: Problem
    h: np.ndarray  # (runs, p)
    turn: float = TURN

    @cached_property
    def choices(self):
        return Choices(self.problem)

    def __call__(self, state):
        runs, D = np.flatnonzero(state.alive), self.problem.model.degree
        h, size = self.h[runs], state.size[runs]
        w, pieces, far, reach = state.w[runs], taken(state.pieces, runs), state.far[runs], state.reach[runs]
        with np.errstate(all="ignore"):
            end = climb(self.choices, w, h, pieces, size, self.turn, state.last_move[runs])
            if state.steps % 10 == 9:
                end, w, reach = self.sooner(end, w, h, pieces, size, reach)
        good = end.good
        room = 0.9 * self.turn / np.maximum(end.turned, 1e-300)
        easier = np.clip(np.where(end.rounds <= 2, 1.3, 1.0), 0.5, np.maximum(room, 0.5))
        harder = np.where(end.turned > self.turn, np.clip(room, 0.1, 0.9), 0.5)
        grown = np.minimum(size * np.where(good, easier, harder), longest(D))
        move = np.where(good, end.turned, state.last_move[runs])
        far = far - np.where(good, D * np.log10(1 - size), 0)
        fell = end.residual < state.lowest[runs] / 2
        lowest = np.where(fell, end.residual, state.lowest[runs])
        since = np.where(fell, 0, state.since[runs] + 1)
        stays = (end.residual <= CERTIFIED) & (since >= PATIENCE)
        alive = (end.residual >= SETTLED) & (grown > SHORTEST) & ~stays
        new = Limit(
            *(end.w, far, grown, move, end.residual, lowest, since, reach, alive, state.begun[runs]),
            *(None, state.steps + 1),
        )
        pieces = scattered([(slice(None), state.pieces), (runs, end.pieces)], len(state.w))
        changed = [put(a, runs, b) for a, b in zip(state[:-2], new)]
        return self.anew(Limit(*changed, pieces, new.steps), runs[~alive])

    def anew(self, state, ended):
        """The state in which the runs `ended` that are at no KKT point begin anew, without their pieces.

        All choices of a piece may be ties at w that the model never makes together, near as one may look: it
        holds a run where the margin flow would go on.
        """
        ended = ended[state.begun[ended] < ANEW]
        if len(ended):
            pieces = taken(state.pieces, ended)
            own = along(self.choices.made(state.w[ended], self.problem.x), self.problem.sample(pieces.margin))
            ended = ended[((pieces.choices != own).any(-1) & pieces.real).any(1)]
            ended = ended[~(certificate(self.problem, state.w[ended], self.h[ended]) <= CERTIFIED)]
        if not len(ended):
            return state
        first = begin(self.problem, state.w[ended])._replace(
            far=state.far[ended], begun=state.begun[ended] + 1
        )
        changed = [put(a, ended, b) for a, b in zip(state[:-2], first)]
        pieces = scattered([(slice(None), state.pieces), (ended, first.pieces)], len(state.w))
        return Limit(*changed, pieces, state.steps)

    def sooner(self, end, w, h, pieces, size, reach):
        """`end`, w and `reach`, or where a step leads from Newton's, and that, if it leads on further."""
        some = np.flatnonzero(end.good & (end.residual < NEAR) & (end.residual >= SETTLED))
        if not len(some):
            return end, w, reach
        radius = np.minimum(np.maximum(reach[some], 10 * end.turned[some]), self.turn)
        there, minimum = newton(self.choices, end.w[some], h[some], taken(end.pieces, some), radius)
        right = minimum & (self.problem.margins(there).min(-1) > 0.5)
        there = scaled(self.problem, np.where(right[:, None], there, end.w[some]))
        now = size[some], self.turn, end.turned[some]
        after = climb(self.choices, there, h[some], taken(end.pieces, some), *now)
        length = lambda w: norm(w / np.sqrt(h[some]))
        gain = self.problem.model.degree * np.log(length(end.w[some]) / length(after.w))
        closer = after.residual < end.residual[some] / 2
        better = right & after.good & (closer & (gain > -SLACK) | (gain > SLACK))
        reach = put(reach, some, np.where(better, 3 * radius, radius / 3))
        some, there, after = some[better], there[better], select(after, better)
        pieces = scattered([(slice(None), end.pieces), (some, after.pieces)], len(w))
        changed = [
            put(a, some, b) for a, b in zip(end._replace(pieces=end.good), after._replace(pieces=after.good))
        ]
        return Climbed(*changed)._replace(pieces=pieces), put(w, some, there), reach


def select(climbed, runs):
    parts = [a[runs] for a in climbed._replace(pieces=climbed.good)]
    return Climbed(*parts)._replace(pieces=taken(climbed.pieces, runs))


def put(a, runs, b):
    """The array a (all runs, ...) with b at the `runs`."""
    a = a.copy()
    a[runs] = b
    return a


def begin(problem, w):
    """The margin flow's first state, from w (runs, p), which must separate the data."""
    runs, far = len(w), np.log10(problem.margins(w).min(-1))
    none = Choices(problem).none(runs)
    endless = np.full(runs, np.inf)
    size, since, alive = np.full(runs, 0.1), np.zeros(runs, int), np.ones(runs, bool)
    return Limit(
        *(scaled(problem, w), far, size, endless, endless, endless, since, 0 * size, alive, since),
        *(none, 0),
    )


def margin_flow(problem, w, h, steps=3000, turn=TURN):
    """Where the margin flow ends from w (runs, p), with h (runs, p): a `Limit`, whose `reason` says why.

    w must separate the data. The flow on the loss should have come to log L <= -50 or so, where log 1/L is
    hardly more than q_min. A run ends when its KKT residual is below 1e-12. It is given up after so many
    `steps`, or where even the shortest step fails. `certificate` says how good an end is, settled or not.

    turn      radians, the most that the direction may turn in a step. A long step can jump to another KKT
              point than the flow's own; with a quarter of the default the limits are the same
    """
    *_, state = margin_path(problem, w, h, steps, turn)
    return state


def margin_path(problem, w, h, steps=3000, turn=TURN):
    """The same flow from its start to its end: an iterator over its states."""
    w, h = as_runs(problem.model, w, h)
    check_positive(turn=turn)
    check_separates(problem.margins(w))
    return trajectory(Project(problem, h, turn), begin(problem, w), lambda state: state.steps >= steps)


def h_settled(state, h, reached):
    """Whether h hardly changed since half of AT_REST, while log L fell on to LATE at least: (runs,).

    h (levels, runs, p) and `reached` (levels, runs) are what `follow` returns beside the state, for levels
    that end with AT_REST / 2 and AT_REST. At kinks Euler's steps are short, and may not lead to AT_REST.
    """
    change = np.abs(h[-2] / state.h - 1).max(-1)
    return reached[-2] & (state.log_loss <= LATE) & (change <= H_SETTLED)


def fate(problem, state, settled=True):
    """What became of each run of a state: "ok", or what hinders it, (runs,)."""
    with np.errstate(invalid="ignore"):  # w = 0 has no direction, nor any margin
        separates = normalised_margin(problem, state.w) > 0
    told = [state.overflow, ~separates, ~np.broadcast_to(settled, len(separates))]
    return np.select(told, ["overflow", "not separated", "h still moving"], "ok").astype(object)


def ascend(problem, w, h, target=1e13, growth=4.0, iterations=100):
    """The flow on the loss, with h held at its limit, to log 1/L >= target.

    It is implicit Euler in the time of φ = -log log 1/L. Each step solves w_new = w - Δ h ⊙ ∂φ(w_new), that
    is, minimises φ(w_new) + ||h^-1/2 (w_new - w)||² / (2 Δ), by Newton's method, with Δ proportional to
    ||h^-1/2 w||² such that log 1/L grows about `growth`-fold. w, h (runs, p), L(w) < 1; returns w and
    `solved` (runs,): whether Newton's method converged in every step.
    """
    D = problem.model.degree
    w, h = as_runs(problem.model, w, h)
    ratio = growth ** (1 / D)
    w, solved = np.array(w), np.ones(len(w), bool)
    with np.errstate(all="ignore"):
        while True:
            todo = np.flatnonzero(solved & (problem.gradient(w)[0] > -target))
            if not len(todo):
                return w, solved
            at = w[todo]
            stretch = np.sqrt(h[todo] * ratio * (ratio - 1) / D) * norm(at / np.sqrt(h[todo]))[:, None]
            w[todo], solved[todo] = implicit_step(problem, at, stretch, ratio, iterations)


def implicit_step(problem, w, stretch, ratio, iterations):
    """w = stretch ⊙ v for the v of least F(v) = φ(stretch ⊙ v) + ||v - v_0||² / 2, and whether it was found.

    At large log 1/L, F is nearly piecewise smooth, with a crease wherever the sample of least margin changes.
    A step that overshoots a crease is therefore cut back by bisection of the slope along it, which ends on
    the crease, and not by halving until F falls, which would bounce from side to side.
    """
    v0 = w / stretch
    v, found = ratio * v0, np.zeros(len(w), bool)

    def slope(v, rows):
        """log L, ∂ φ(stretch ⊙ v) and ∂F for these rows; ∂F is NaN where φ does not exist, L >= 1."""
        log_loss, u = problem.gradient(stretch[rows] * v)
        log_loss = np.where(log_loss < 0, log_loss, np.nan)[:, None]
        du = stretch[rows] * u / -log_loss
        return log_loss, du, du + v - v0[rows]

    for _ in range(iterations):
        rows = np.flatnonzero(~found)
        if not len(rows):
            break
        here, scale = v[rows], stretch[rows]
        log_loss, du, gradient = slope(here, rows)
        curve = hessian(problem, scale * here) * scale[:, :, None] * scale[:, None] / -log_loss[:, :, None]
        curve += du[:, :, None] * du[:, None, :] + np.eye(w.shape[-1])
        broken = ~np.isfinite(curve).all((1, 2))
        values, vectors = np.linalg.eigh(np.where(broken[:, None, None], np.eye(w.shape[-1]), curve))
        step = np.einsum("rji,rj->ri", vectors, -gradient) / np.maximum(np.abs(values), 1e-3)
        step = np.einsum("rij,rj->ri", vectors, step)

        def along(length, some):
            """The slope of F along the step, at this share of it."""
            return (slope(here[some] + length[:, None] * step[some], rows[some])[2] * step[some]).sum(-1)

        short, long = np.zeros(len(rows)), np.ones(len(rows))
        beyond = np.flatnonzero(~(along(long, slice(None)) <= 1e-3 * np.abs(gradient * step).sum(-1)))
        for _ in range(50 if len(beyond) else 0):
            middle = (short[beyond] + long[beyond]) / 2
            rising = ~(along(middle, beyond) <= 0)
            long[beyond] = np.where(rising, middle, long[beyond])
            short[beyond] = np.where(rising, short[beyond], middle)
        length = np.where(long == 1, 1.0, (short + long) / 2)
        v[rows] = np.where(broken[:, None], here, here + length[:, None] * step)
        found[rows] = ~broken & (norm(step) <= 1e-11 * norm(here))
    return stretch * v, found


def hessian(problem, w):
    """∂² log L at w (runs, p): (runs, p, p), by a backward pass over p copies, a thousand at a time."""
    p, parts = w.shape[-1], []
    if not len(w):
        return np.zeros((0, p, p))
    for some in np.array_split(w, len(w) * p // 1000 + 1):
        copies = np.repeat(some[:, None], p, 1)
        backward, _ = make_vjp(lambda w: problem.gradient(w)[1], copies)
        parts.append(backward(np.broadcast_to(np.eye(p), copies.shape)))
    return np.concatenate(parts)


def to_rest(problem, conditioner, w, lr=1.0, watch=lambda state: None, most=None):
    """The flow from w (runs, p) until it is at rest: w, h and status, of which "ok" means that h has settled.

    At rest is log L <= -50; log L <= -30 is enough where the flow runs out of steps. The status of a run is
    its `fate`. `watch` gets each state, and `most` bounds the steps, as in `follow`.
    """
    levels = (AT_REST / 2, AT_REST)
    state, _, h, reached = follow(problem, conditioner, w, levels, lr, watch=watch, most=most)
    return state.w, state.h, fate(problem, state, h_settled(state, h, reached))


# what a run's status means: `fate`, or what a study finds in its limit
EXPLAINED = {
    "overflow": "overflow, float64 cannot hold the loss or h at the next step; "
    "smaller data or a smaller --lr help",
    "still turning": f"still turning, no limit with a KKT residual of {CERTIFIED:g} or less was reached",
    "not separated": "not separated, the end point misclassifies some sample",
    "h still moving": f"h still moving, by over {H_SETTLED:g} of itself since log L = {AT_REST / 2:g}, or "
    f"the flow did not come to {AT_REST:g} (for limits {LATE:g})",
    "not finished": f"not finished in {5 * SEPARATES_WITHIN} steps; features of one scale help",
}
