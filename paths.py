"""The ways of a neuron in the plane to its limits, for pictures: of many runs, and the film of one."""

import numpy as np

from datasets import classes, default_data
from limits import AT_REST, ascend
from minibias import Problem, norm, predict, unit
from models import MLP
from optimizers import CONDITIONERS, Flow, follow, start, trajectory

WAY = (-1.0, -1.5, -2.0, -3.0, -5.0, -10.0, AT_REST / 2, AT_REST)  # log L where the flow is recorded
LEVELS = np.logspace(0, 13, 79)  # log 1/L at the film's frames


def way(passed, fallen, path):
    """The way of many runs: {"far": log10 of log 1/L, (places, runs), "w": (places, runs, 3)}.

    passed   w (levels, runs, 3) where the flow on the loss passed each of WAY, the last one where it ended
    fallen   log 1/L (runs,) where it ended
    path     the states of the margin flow, which goes on from the last of them
    """
    far = np.repeat(np.log10(-np.array(WAY))[:, None], passed.shape[1], axis=1)
    far[-1] = np.log10(fallen)
    return {
        "far": np.concatenate([far, *(state.far[None] for state in path)]),
        "w": np.concatenate([passed, *(state.w[None] for state in path)]),
    }


def film(optimizers, runs=100, model="neuron", slope=0.5, data=None, eps=1e-5, b=0.9, loss="exp", seed=0):
    """What the film of `direction` shows: one start under each optimizer, at log 1/L from 1 to 1e13.

    Of the `runs` starts it is the one that has the farthest to turn, to predictions that differ most, while
    all have one sign of v: a KKT point for the other sign, which the problem has too, would say nothing new.
    Returns {"data", "run", "levels", "paths": optimizer -> what `path` returns}.
    Raises ValueError for anything but a neuron of two features, or where no run separates the data.
    """
    x, y = default_data(seed) if data is None else data
    if model != "neuron" or x.shape[1] != 2 or classes(y) > 1:
        about = "of a neuron of two features, which tells two classes apart"
        raise ValueError(f"argument --film: the film shows the decision lines {about}")
    problem = Problem(MLP((2, 1, 1), slope), x, y, loss)
    conditioners = {name: CONDITIONERS[name](eps, b) for name in optimizers}
    w0 = problem.model.init(np.random.default_rng([seed, 1]), runs)
    ends = [follow(problem, conditioner, w0)[0] for conditioner in conditioners.values()]
    good = np.flatnonzero(np.all([end.log_loss <= AT_REST for end in ends], axis=0))
    if not len(good):
        raise ValueError(f"argument --film: no run comes to log L = {AT_REST:g} under every optimizer")
    predicted = np.array([unit(predict(problem, end.w[good], end.h[good])) for end in ends])
    lines = unit(predicted[..., :2] * np.sign(predicted[..., 2:]))
    to_turn = norm(unit(w0[good, :2] * np.sign(w0[good, 2:])) - lines).min(0)
    apart = norm(lines[:, None] - lines).max((0, 1))
    alike = np.ptp(np.sign(predicted[..., 2]), axis=0) == 0
    best = np.nan_to_num(to_turn * apart * alike, nan=-1).argmax()
    run = good[best]
    paths = {
        name: path(problem, conditioner, w0[run : run + 1], goal)
        for (name, conditioner), goal in zip(conditioners.items(), predicted[:, best])
    }
    return {"data": {"x": x, "y": y}, "run": run, "levels": LEVELS, "paths": paths}


def path(problem, conditioner, w0, predicted):
    """One run of one optimizer: by Euler steps to log L = -50, then by implicit ones with h at its limit.

    Returns w and h (levels, 3), the `distance` (levels,) of w's direction to the predicted one, and that; and
    h on the whole `way`, with `at` (levels,), where on it the levels are.
    """
    done = lambda state: state.log_loss <= AT_REST
    states = list(trajectory(Flow(problem, conditioner), start(problem, conditioner, w0), done))
    fallen, way = np.array([-state.log_loss[0] for state in states]), np.array([s.h[0] for s in states])
    at = np.array([(fallen >= min(level, -AT_REST)).argmax() for level in LEVELS])
    w, late = [states[k].w for k in at[LEVELS <= -AT_REST]], states[-1].w
    for level in LEVELS[len(w) :]:
        late, _ = ascend(problem, late, states[-1].h, level, growth=LEVELS[1] / LEVELS[0])
        w.append(late)
    w = np.concatenate(w)
    found = {"w": w, "h": way[at], "distance": norm(unit(w) - predicted), "predicted": predicted}
    return found | {"way": way, "at": at}
