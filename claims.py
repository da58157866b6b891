"""The study `claims`: every statement of the slides that a computer can check, measured.

The statements stand in `statements.py`. What several share is measured here, once for an optimizer and a loss
as a `Case`, and for Qian and Qian's example.
"""

import re
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from datasets import default_data
from jobs import silent, spread, versions
from limits import AT_REST, ascend, margin_flow, margin_path, to_rest
from minibias import Problem, approximate_kkt, certificate, norm, predict, surrogate_margin, unit
from models import LOSSES, MLP, Linear
from optimizers import (
    CONDITIONERS,
    Conditioner,
    Discrete,
    Flow,
    State,
    descend,
    learning_rates,
    start,
    trajectory,
)
from plots import FAR, colour, entry, name_above, new_figure, panel
from statements import LEVELS, STATEMENTS

HALF = AT_REST / 2  # log L from which on the flow counts as late
RECORDED = (300, 2000, 2500, 3000, 4000, 5000, 8000, 10_000, 16_000, 30_000)  # discrete steps
RATES = {None: 0.1, "gd": 0.001}  # learning rates of the discrete form, None for all others
QIAN_RATES, QIAN_STEPS = (0.5, 0.1), 100_000  # Qian and Qian's learning rates; they made 1e8 steps


def measure(seed=0, eps=1e-5, b=0.9, lr=None, runs=100, jobs=1, losses=None, report=silent):
    """Every statement of the slides that a computer can check, as a table of claims.

    Measures every checkable statement of the slides on the authors' data, for all optimizers and both losses.
    The rows are also written as a page, OUT/claims.md. Exits 1 if a theorem fails. It takes about a minute on
    two cores. The bounds are meant for the default flags: a small --lr, say, needs more steps.

    example: python experiments.py claims --seed 3

    lr       of the discrete update: a dict optimizer -> learning rate, a number for all, None as in `RATES`
    runs     initialisations of the neuron; networks have ten
    losses   some of LOSSES; None takes all
    jobs     processes; `report` gets how far they are, as in `jobs.spread`
    Returns {"claims": a list of `statements.row`s, "proof": what the figure shows of each optimizer, the
    `Case.proof` of run 0 with the exponential loss}.
    """
    lr, losses = learning_rates(CONDITIONERS, lr, RATES), tuple(losses or LOSSES)
    subjects = [
        Case(name, loss, conditioner(eps, b), lr[name], seed, runs)
        for name, conditioner in CONDITIONERS.items()
        for loss in losses
    ]
    subjects += [Qian(rate, CONDITIONERS["adagrad"](1e-8), QIAN_STEPS) for rate in QIAN_RATES]
    measured = spread(job, subjects, jobs, report)
    cases, examples = ([(m, rows) for m, rows in measured if isinstance(m, kind)] for kind in (Case, Qian))
    adagrad = {case.loss: case for case, _ in cases if case.optimizer == "adagrad"}
    beside = [(case, adagrad[loss]) for loss in losses for case, _ in cases if case.loss == loss]

    rows = made("the models", seed) + [row for _, rows in cases for row in rows]
    rows += [row for pair in beside for row in made("a case beside AdaGrad's", *pair)]
    rows += [row for _, rows in examples for row in rows]
    rows += made("two examples", *(example for example, _ in examples))
    for case, other in beside:
        rows += made("a case in experiments", case, other) if case.loss == "exp" else []
    return {"claims": rows, "proof": {case.optimizer: case.proof for case, _ in cases if case.loss == "exp"}}


def table(found):
    """A line for each claim, and a summary."""
    rows = found["claims"]
    for row in rows:
        verdict, measured = judged(row)
        about = f"{measured:>10} {row['relation']} {row['bound']:<7g} {row['statement']}"
        yield f"{verdict:9} {row['id']:34} {about}"
    yield summary(rows)
    if failing(rows):
        why = "with others, finite steps may not be enough for one"
        yield f"the bounds are meant for the default flags; {why}"


def figure(found):
    """The proof at work: run 0 of every optimizer with the exponential loss."""
    figure = new_figure(9.5, 7.2)
    (time, surrogate), (beta, kkt) = figure.subplots(2, 2)
    for optimizer, m in found["proof"].items():
        log_t, log_loss, margin, h = (m[name] for name in ("log_t", "log_loss", "surrogate", "h"))
        width = {"adagrad": 3.0, "rmsprop": 3.5}.get(optimizer, 1.5)  # GD's and Adam's often lie on theirs
        style = {"color": colour(optimizer), "lw": width, "zorder": 3 - width / 10}
        time.plot(log_t[1:] / np.log(10), log_loss[1:], **style)
        positive = log_loss < -1
        surrogate.plot(-log_loss[positive], margin[positive] / margin[positive][0], **style)
        gap = np.abs(h / h[-1] - 1).max(-1)[positive]
        beta.plot(-log_loss[positive], np.where(gap > 1e-16, gap, np.nan), **style)
        kkt.plot(m["levels"], m["epsilons"], **style)
        deltas = np.where(m["deltas"] > 1e-16, m["deltas"], np.nan)
        kkt.plot(m["levels"], deltas, ls="--", color=colour(optimizer))
    panel(time, r"$\log_{10} t$ (steps)", r"$\log L$", "the loss tends to 0")
    title = "the surrogate margin is bounded below"
    panel(surrogate, FAR, "surrogate margin / first value", title, xscale="log", yscale="log")
    title = r"$\beta = h / h_\infty$ tends to 1 (GD's is 1)"
    panel(beta, FAR, r"$\max_j |\beta_j - 1|$", title, yscale="log")
    panel(kkt, FAR, "KKT defects of the proof", "approximate KKT points", xscale="log", yscale="log")
    labels = (("-", r"$\varepsilon_i$"), ("--", r"$\delta_i$"))
    kinds = [entry(label, color="0.3", ls=dash) for dash, label in labels]
    kkt.legend(handles=kinds, fontsize=9, frameon=False, loc="lower left")
    name_above(figure, found["proof"])
    return figure


def page(found):
    """The claims as the table of docs/claims.md, the same statement about several optimizers together."""
    rows = found["claims"]
    about = lambda row: re.split(rf"\.(?:{'|'.join(CONDITIONERS)})\b", row["id"])[0]
    order = list(dict.fromkeys(map(about, rows)))
    yield "<!-- the table: from here on this page is results/claims.md -->"
    made = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "matplotlib")
    yield f"{summary(rows)} ({made}):"
    yield ""
    yield "| claim | from | what is measured | measured | bound | verdict |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: order.index(about(row))):
        verdict, measured = judged(row)
        bound = f"{'≤' if row['relation'] == '<=' else '≥'} {row['bound']:g}"
        source = row["slide"].removeprefix("Related Work: ")
        cells = f"`{row['id']}`", source, row["statement"], measured, bound, verdict
        yield "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |"


def status(found):
    """The command's exit status."""
    return 1 if failing(found["claims"]) else 0


# ------------------------------------------------------------------------------------ what is printed


def judged(row):
    """The verdict on a claim and its measured value, in words."""
    verdict = "holds" if row["holds"] else "FAILS" if row["kind"] == "theorem" else "not shown"
    return verdict, "undefined" if row["measured"] is None else f"{row['measured']:.3g}"


def failing(rows):
    """The ids of theorems that fail."""
    return [row["id"] for row in rows if row["kind"] == "theorem" and not row["holds"]]


def summary(rows):
    failed, hold = failing(rows), sum(row["holds"] for row in rows)
    theorems = f"{len(failed)} theorem{'s' * (len(failed) != 1)} fail"
    return " ".join([f"{len(rows)} claims, {hold} hold, {theorems}", *failed])


# ------------------------------------------------------------------------------------ what is measured


def job(subject):
    """A worker's job: the case or example, which remembers what it measured, and the rows about it alone."""
    rows = made(subject.about, subject)
    if isinstance(subject, Case):
        subject.conclude()
    return subject, rows


def made(about, *subject):
    """The rows of the statements about such a thing, when they are made of this subject."""
    return [row for statement in STATEMENTS[about] for row in statement(*subject)]


@dataclass(frozen=True)
class Case:
    """All runs of one optimizer and loss: the neuron on the authors' data. Properties are measured once."""

    optimizer: str
    loss: str
    conditioner: Conditioner
    lr: float  # of the discrete update
    seed: int
    runs: int

    about = "a case"  # where STATEMENTS has the statements about it

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
        """The first ten of the `starts` of another model that come to log L = -50 on its data: `Ends`."""
        problem, last = Problem(model, *data, self.loss), deque(maxlen=1)
        first = self.initial(model, starts)
        # those that separate need some 700 steps
        w, h, _ = to_rest(problem, self.conditioner, first, watch=last.append, most=2000)
        there = np.flatnonzero(last[0].log_loss <= AT_REST)[:10]
        return Ends(problem, w[there], h[there], self.weights(h[there]))

    @cached_property
    def path(self):
        """The flow from t = 0 to log L = -50: a state whose arrays have the times as an axis in front."""
        states = []
        to_rest(self.problem, self.conditioner, self.w0, watch=states.append)
        return State(*map(np.array, zip(*states)))

    @cached_property
    def late(self):
        """Whether log L was at most -25 before each of the path's steps: (times - 1, runs)."""
        return self.path.log_loss[:-1] <= HALF

    @cached_property
    def flow(self):
        """The state where the flow stops, whose h is h_∞ but for what e^-50 can change."""
        return State(*(a[-1].copy() for a in self.path))

    @cached_property
    def settled(self):
        """The largest relative change of a component of h from log L = -25 to the end: (runs,)."""
        h = self.path.h[self.late.argmax(0) - 1, np.arange(self.runs)]
        return np.abs(h / self.flow.h - 1).max(-1)

    @cached_property
    def surrogate(self):
        """The surrogate margin along the path: (times, runs)."""
        return surrogate_margin(self.problem, self.path.log_loss, self.path.w, self.path.h)

    @cached_property
    def end(self):
        """The limit, where the margin flow ends: (runs, p)."""
        return margin_flow(self.problem, self.flow.w, self.flow.h).w

    @cached_property
    def ascent(self):
        """w on the way to the limit, at each of LEVELS, and whether it was found: (levels, runs, ..)."""
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
        w, found = self.ascent
        defects = [approximate_kkt(self.problem, at, self.flow.h) for at in w]
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
        momentum = np.where(np.arange(len(w)) < self.runs, 0.0, 0.9)[:, None]
        return descend(self.problem, self.conditioner, w, self.lr, RECORDED[-1], RECORDED, momentum)[1]

    @property
    def snapshots(self):
        """The runs without momentum."""
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
class Ends:
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
        *_, state = trajectory(flow, state, lambda state: state.log_loss <= AT_REST)
        w = margin_flow(problem, state.w, state.h).w
        weighted, unweighted = (predict(problem, state.w, h) for h in (state.h, np.ones((1, 2))))
        return [unit(v)[0] for v in (w, weighted, unweighted)]

    @property
    def degrees(self):
        """The angles of the directions."""
        return [np.degrees(np.arctan2(v[1], v[0])) for v in self.directions]


def part(state, runs):
    """The state of some runs."""
    return State(*(a[runs] if np.ndim(a) else a for a in state))
