"""The experiments on MNIST with the CNN: the slides' "Observation of Margin" and "Effect of ε".

Each study trains many runs with the whole training set at each step, and asks whether the slides' claims
show, by a rule that was fixed beforehand. Runs leave checkpoints and go on from them.
"""

import math
import pathlib
import time

import numpy as np

from checks import check_counts, chosen, learning_rates
from cnn import CNN, Blocks
from datasets import read_images
from limits import LateFlow
from minibias import alignment, unit
from momentum import update
from optimizers import CONDITIONERS, Flow, State, start, trajectory
from runs import fingerprint, resume, silent, with_nulls

SHIPPED = pathlib.Path(__file__).with_name("data") / "mnist.npz"  # a balanced part of MNIST
FLOW_END = -1000.0  # log L that form `flow` passes
FLOW_C = 0.3  # a step of its first part changes log L by no more
FLOW_LATE = -25.0  # log L from which on h has settled: AdaGrad adds some e^-25 to it, the others keep e^-50
ALIGNED = ("alignment", "alignment_unweighted")  # with h, and with h = 1: `minibias.alignment`
RECORDS = ("step", "log_loss", "margin", "train_accuracy", "test_accuracy", *ALIGNED)
PROBLEMS = {}  # what this process has made of the images it works on


def rates(optimizers, lr=None):
    """Learning rates as in `checks.learning_rates`, by default 0.0002 for GD and 0.01 for the others."""
    return learning_rates(optimizers, lr, 0.01, gd=0.0002)


def margin(optimizers=None, eps=1e-5, steps=400, **settings):
    """Margins and accuracies of all optimizers (slide "Observation of Margin"): is AdaGrad below the others?

    optimizers  names in CONDITIONERS, None for all of them; the other settings are those of `study`
    """
    optimizers = chosen("optimizers", optimizers, CONDITIONERS)
    keys = [(optimizer, eps) for optimizer in optimizers]
    pairs = [(f"{o}'s is larger than adagrad's", (o, eps), ("adagrad", eps)) for o in ("rmsprop", "adam")]
    return study("margin", keys, pairs, steps, **settings)


def epsilon(optimizers=("rmsprop", "adam"), epsilons=(1e-6, 1e-4, 1e-2, 1.0, 100.0), steps=300, **settings):
    """Margins and accuracies against ε (slide "Effect of ε"): are they larger with a larger ε?

    epsilons    two or more, rising; the other settings are those of `study`
    """
    optimizers = chosen("optimizers", optimizers, CONDITIONERS)
    keys = [(optimizer, eps) for optimizer in optimizers for eps in epsilons]
    low, high = epsilons[0], epsilons[-1]
    pairs = [
        (f"{o}'s is larger with ε = {high:g} than with {low:g}", (o, high), (o, low)) for o in optimizers
    ]
    return study("epsilon", keys, pairs, steps, **settings)


def study(
    name,
    keys,
    pairs,
    steps,
    b=0.9,
    lr=None,
    momentum=0.0,
    loss="log",
    seed=0,
    seeds=3,
    width=(8, 16, 64),
    train=1000,
    test=2000,
    images=None,
    flow=False,
    folder=None,
    jobs=1,
    dask=None,
    fresh=False,
    report=silent,
):
    """Train a run for each (optimizer, ε) in `keys` and each seed, and answer the claims in `pairs`.

    pairs    (claim, larger, smaller): two keys that the slides compare
    steps    full-batch steps
    lr       a dict optimizer -> learning rate, a number for all, None as in `rates`
    momentum of the steps, in [0, 1); the flow has none
    seed     the first of `seeds` seeds; the initial w depend on the seed alone
    images   as `read_images` gives them; None reads the shipped ones, the first `train` and `test` of them
    flow     whether the runs that separate the training images go on with the flow to log L < -1000
    folder   where checkpoints are kept, by default results/NAME.runs
    jobs, dask, fresh, report   as in `runs.resume`
    Returns {"results": one for each run and form, "answers": one for each claim, "remarks": lines on what
    went wrong}.
    """
    check_counts(steps=steps, seeds=seeds, train=train, test=test)
    images = read_images(SHIPPED, train, test) if images is None else images
    folder = f"results/{name}.runs" if folder is None else folder
    lr = rates({optimizer for optimizer, _ in keys}, lr)
    shared = {"steps": steps, "loss": loss, "b": b, "momentum": momentum, "width": tuple(width)}
    stamp = fingerprint(name, shared, keys, lr, seed, seeds, flow, images.scale, *images[:4])
    shared |= {"images": images, "stamp": stamp.hex(), "form": "discrete", "start": None}
    tasks = {
        f"{optimizer}-{eps}-{k}": shared
        | {"optimizer": optimizer, "eps": eps, "seed": k, "lr": lr[optimizer]}
        | {"conditioner": CONDITIONERS[optimizer](eps, b)}
        for optimizer, eps in keys
        for k in range(seed, seed + seeds)
    }
    states = resume(train_run, tasks, folder, stamp, jobs, dask, fresh, report)
    if flow:
        separated = [name for name in tasks if states[name]["rows"][-1][2] > 0]
        late = {f"{name}-flow": tasks[name] | {"form": "flow", "start": states[name]} for name in separated}
        states |= resume(train_run, late, folder, stamp, jobs, dask, fresh, report)
        tasks |= late
    results = [result(task, states[name]) for name, task in tasks.items()]
    verdicts = [a for pair in pairs for form in ("discrete", "flow") for a in answers(results, form, *pair)]
    return {"results": results, "answers": verdicts, "remarks": list(remarks(tasks, states))}


def remarks(tasks, states):
    """A line for each run that overflowed or does not separate the training images."""
    for name, task in tasks.items():
        state, form = states[name], task["form"]
        about = (
            f"{task['optimizer']}, ε = {task['eps']:g}, seed {task['seed']}, {form}, {state['steps']} steps"
        )
        if state["overflow"][0]:
            yield f"{about}: overflow, the next step is beyond the precision; a smaller --lr helps"
        elif form == "discrete" and state["rows"][-1][2] <= 0:
            yield f"{about}: does not separate the training images; more --steps or another --lr help"


def train_run(task, saved, seconds):
    """Go on with one run for about so many seconds, for `runs.resume`: its new checkpoint.

    Form `discrete` makes task["steps"] steps. Form `flow` goes on from a discrete run's end, task["start"],
    until log L < -1000: Euler steps until h has settled, then Runge-Kutta-Chebyshev steps. The model computes
    in float32 on a w kept in float64. In the flow it computes in float64 too, since a rounding error of 1e-6
    of q = 1000 would show in e^-q.
    """
    flow, conditioner, lr = task["form"] == "flow", task["conditioner"], task["lr"]
    problem, test = image_problems(task, np.float64 if flow else np.float32)
    discrete = update(task["momentum"])(problem, conditioner, lr)
    early, late = Flow(problem, conditioner, lr, FLOW_C), LateFlow(problem, lr)
    settled = min(FLOW_LATE, math.log(task["eps"]) / 2 - 15)

    def step(state):
        return (discrete if not flow else late if state.log_loss[0] < settled else early)(state)

    def done(state):
        return state.log_loss < FLOW_END if flow else state.steps >= task["steps"]

    def record():
        w = unit(state.w)
        q = problem.margins(w)
        good = accuracy(q), accuracy(test.margins(w))
        with np.errstate(invalid="ignore"):  # a gradient of 0 has no direction
            aligned = [alignment(w, h, state.u)[0] for h in (state.h, np.ones_like(state.h))]
        rows.append((state.steps, state.log_loss[0], q.min(), *good, *aligned))

    rows, spent = [], 0.0
    if saved:
        state, rows, spent = restored(saved), list(saved["rows"]), float(saved["seconds"])
    elif flow:
        state = restored(task["start"])
        log_loss, u = problem.gradient(state.w)  # in the higher precision
        fresh = np.isfinite(log_loss) & np.isfinite(u).all(-1)
        empty = np.zeros((1, 0))  # the flow has no use for momentum
        state = state._replace(log_loss=log_loss, u=u, steps=0, alive=fresh, overflow=~fresh, memory=empty)
        record()
    else:
        state = start(problem, conditioner, problem.model.init(np.random.default_rng([task["seed"], 1]), 1))
    recorded = set(np.geomspace(1, task["steps"], 50).round())
    path, until, first = trajectory(step, state, done), time.monotonic() + seconds, state.steps
    state = next(path)
    while state.alive[0] and (state.steps == first or time.monotonic() < until):
        clock = time.perf_counter()
        state = next(path)
        spent += time.perf_counter() - clock
        log_loss, lowest = state.log_loss[0], min((row[1] for row in rows), default=math.inf)
        level = min(1.1 * lowest, lowest - 1) if flow else lowest - 0.5
        if not state.alive[0] or log_loss <= level or (not flow and state.steps in recorded):
            record()  # often enough to see where log L falls through a level for the first time
    finished, rows = not state.alive[0], np.array(rows).reshape(-1, len(RECORDS))
    share = np.clip(state.log_loss[0] / FLOW_END, 0, 1) if flow else state.steps / task["steps"]
    share = 1.0 if finished else share
    return state._asdict() | {"rows": rows, "seconds": spent, "done": finished, "share": share}


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


def result(task, state):
    columns = dict(zip(RECORDS, state["rows"].T))
    columns["step"] = columns["step"].astype(int)
    columns |= {name: with_nulls(columns[name]) for name in ALIGNED}
    about = {key: task[key] for key in ("optimizer", "eps", "seed", "form")}
    return about | columns | {"seconds": float(state["seconds"])}


def at_level(result, key, level):
    """result[key] where log L first fell through `level`, linear in log L between two records."""
    log_loss, values = result["log_loss"], result[key]
    k = int(np.argmax(log_loss <= level))
    if log_loss[k] > level or k == 0:
        return values[-1 if log_loss[k] > level else 0]
    share = (log_loss[k - 1] - level) / (log_loss[k - 1] - log_loss[k])
    return values[k - 1] + share * (values[k] - values[k - 1])


def common_level(results):
    """The lowest log L that all of them reach."""
    return max(min(r["log_loss"]) for r in results)


def verdict(differences):
    """`shown` if all differences are positive and their mean is over twice its standard error; `opposite`."""
    error = np.std(differences, ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    for name, sign in (("shown", 1), ("opposite", -1)):
        if (sign * differences > 0).all() and sign * differences.mean() > 2 * error:
            return name, error
    return "not distinguishable", error


def answers(results, form, claim, larger, smaller):
    """The verdicts on one claim, at the last step and at the lowest log L that all of both kinds reach."""
    groups = [
        [r for r in results if (r["optimizer"], r["eps"]) == key and r["form"] == form]
        for key in (larger, smaller)
    ]
    seeds = sorted(set.intersection(*({r["seed"] for r in group} for group in groups)))
    if not seeds:
        return []
    common, rows = common_level(groups[0] + groups[1]), []
    for metric in ("margin", "test_accuracy"):
        for level, at in ((-math.inf, "last step"), (common, f"log L = {common:.4g}")):
            by_seed = [{r["seed"]: at_level(r, metric, level) for r in group} for group in groups]
            differences = np.array([by_seed[0][seed] - by_seed[1][seed] for seed in seeds])
            name, error = verdict(differences)
            about = {"claim": f"{claim}: {metric.replace('_', ' ')}", "at": f"{form} form, {at}"}
            about |= {"form": form, "metric": metric}
            about |= {"larger": larger, "smaller": smaller, "seeds": seeds, "differences": differences}
            error = error if math.isfinite(error) else None
            rows.append(about | {"mean": differences.mean(), "standard_error": error, "answer": name})
    return rows


def summarise(results):
    """For each optimizer, ε and form, arrays over the seeds: the last step, and `_same` at a common log L.

    Of the flow's alignments it is the largest. An explicit step swings the weights p of the samples of least
    margin. <w, u> is -D Σ p_i q_i whatever they are, while u = -Σ p_i ∂q_i is shortest where they are in
    balance: a swing lowers the cosine, and what is largest is nearest to that of the flow itself.
    """
    rows = []
    for key in dict.fromkeys((r["optimizer"], r["eps"], r["form"]) for r in results):
        group = [r for r in results if (r["optimizer"], r["eps"], r["form"]) == key]
        level = common_level([r for r in results if r["form"] == key[2]])
        row = dict(zip(("optimizer", "eps", "form"), key)) | {"level": level}
        row |= {name: np.array([r[name][-1] for r in group], float) for name in RECORDS}
        if key[2] == "flow":
            aligned = {name: [np.fmax.reduce(r[name].astype(float)) for r in group] for name in ALIGNED}
            row |= {name: np.array(values) for name, values in aligned.items()}
        for name in ("margin", "test_accuracy"):
            row[f"{name}_same"] = np.array([at_level(r, name, level) for r in group])
        first = [r["step"][np.argmax(r["margin"] > 0)] if r["margin"][-1] > 0 else math.inf for r in group]
        row["separates"] = max(first)
        row["seconds"] = np.mean([r["seconds"] for r in group])
        rows.append(row)
    return rows
