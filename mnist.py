"""The studies on MNIST with the CNN: the slides' "Observation of Margin" and "Effect of ε".

Each study trains many runs with the whole training set at each step, and asks whether the slides' claims
show, by a rule that was fixed beforehand. Runs leave checkpoints and go on from them.
"""

import math
import pathlib
from functools import reduce

import numpy as np

from datasets import read_images
from jobs import fingerprint, resume, silent, with_nulls
from minibias import check_positive
from optimizers import CONDITIONERS, chosen, learning_rates
from plots import FAR, colour, entry, groups, name_above, new_figure, panel
from training import ALIGNED, DELTAS, FLOW_END, FORMS, LIMIT_BEGINS, RECORDS, train_run

SHIPPED = pathlib.Path(__file__).with_name("data") / "mnist.npz"  # a balanced part of MNIST
RATES = {None: 0.01, "gd": 0.0002}  # learning rates, None for all others
DASHES = {"discrete": "-", "flow": "--", "limit": ":"}
MARGIN = r"normalised margin $q_{\min}/\|w\|^4$"


def margin(optimizers=None, eps=1e-5, steps=400, **settings):
    """Margins and accuracies of all optimizers on MNIST with the four-layer CNN.

    The slides' "Observation of Margin": full-batch training with every optimizer from the same
    initialisations. Is AdaGrad below the others? Prints a table and whether RMSProp's and Adam's margin and
    test accuracy exceed AdaGrad's, at the last step and at the same training loss. Checkpoints are in
    OUT/margin.runs: killed and started again it goes on from the last one. It takes about two minutes on two
    cores.

    example: python experiments.py margin --optimizers adagrad,rmsprop --seeds 1 --steps 100

    optimizers  names in CONDITIONERS, None for all of them; the other settings are those of `study`
    """
    optimizers = chosen("optimizers", optimizers, CONDITIONERS)
    keys = [(optimizer, eps) for optimizer in optimizers]
    pairs = [(f"{o}'s is larger than adagrad's", (o, eps), ("adagrad", eps)) for o in ("rmsprop", "adam")]
    return study("margin", keys, pairs, steps, **settings)


def epsilon(optimizers=("rmsprop", "adam"), epsilons=(1e-6, 1e-4, 1e-2, 1.0, 100.0), steps=300, **settings):
    """The effect of ε on margin and accuracy on MNIST with the four-layer CNN.

    The slides' "Effect of ε": full-batch training with several ε from the same initialisations. Prints a
    table and whether margin and test accuracy are larger with the largest ε than with the smallest, at the
    last step and at the same training loss. Checkpoints are in OUT/epsilon.runs: killed and started again it
    goes on from the last one. It takes about four minutes on two cores.

    example: python experiments.py epsilon --optimizers rmsprop --epsilons 1e-7,1e-5,1e-3 --seeds 1

    epsilons    two or more, rising; the other settings are those of `study`
    """
    optimizers = chosen("optimizers", optimizers, CONDITIONERS)
    keys = [(optimizer, eps) for optimizer in optimizers for eps in epsilons]
    low, high = epsilons[0], epsilons[-1]
    pairs = [
        (f"{o}'s is larger with ε = {high:g} than with {low:g}", (o, high), (o, low)) for o in optimizers
    ]
    return study("epsilon", keys, pairs, steps, **settings)


def images_for(limit):
    """How many training images a study has by default: 200 where runs go on to their limit, else 1000."""
    return 200 if limit else 1000


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
    train=None,
    test=2000,
    images=None,
    flow=False,
    limit=False,
    residual=1e-2,
    folder=None,
    jobs=1,
    dask=None,
    fresh=False,
    report=silent,
):
    """Train a run for each (optimizer, ε) in `keys` and each seed, and answer the claims in `pairs`.

    pairs    (claim, larger, smaller): two keys that the slides compare
    steps    full-batch steps
    lr       a dict optimizer -> learning rate, a number for all, None as in `RATES`
    momentum of the steps, in [0, 1); the flow has none
    seed     the first of `seeds` seeds; the initial w depend on the seed alone
    train    training images, None as in `images_for`; `test` test images
    images   as `read_images` gives them; None reads the first `train` and `test` of the shipped ones
    flow     whether the runs that separate the training images go on with the flow to log L < -1000
    limit    whether they go on from the flow, or from its log L < -60 without `flow`, by the margin flow to a
             KKT residual of `residual`
    folder   where checkpoints are kept, by default results/NAME.runs
    jobs, dask, fresh, report   as in `runs.resume`
    Returns {"results": one for each run and form, "answers": one for each claim, "remarks": lines on what
    went wrong}.
    """
    train = images_for(limit) if train is None else train
    check_positive(whole=True, steps=steps, seeds=seeds, train=train, test=test)
    check_positive(residual=residual)
    images = read_images(SHIPPED, train, test) if images is None else images
    folder = f"results/{name}.runs" if folder is None else folder
    lr = learning_rates([optimizer for optimizer, _ in keys], lr, RATES)
    shared = {"steps": steps, "loss": loss, "b": b, "momentum": momentum, "width": tuple(width)}
    shared |= {"flow_end": FLOW_END if flow else LIMIT_BEGINS, "residual": residual}
    stamp = fingerprint(name, shared, keys, lr, seed, seeds, flow, limit, images.scale, *images[:4])
    shared |= {"images": images, "stamp": stamp.hex(), "form": "discrete", "start": None}
    tasks = {
        f"{optimizer}-{eps}-{k}": shared
        | {"optimizer": optimizer, "eps": eps, "seed": k, "lr": lr[optimizer]}
        | {"conditioner": CONDITIONERS[optimizer](eps, b)}
        for optimizer, eps in keys
        for k in range(seed, seed + seeds)
    }
    states, earlier = {}, tasks
    for form in FORMS if limit else ("discrete", "flow") if flow else ("discrete",):
        if form != "discrete":  # goes on from where the form before ended, if that separates the images
            ends = {name: states[name] for name in earlier if states[name]["rows"][-1][2] > 0}
            new = {end: {"form": form, "start": states[end]} for end in ends}
            earlier = {f"{end.removesuffix('-flow')}-{form}": tasks[end] | new[end] for end in ends}
            tasks |= earlier
        states |= resume(train_run, earlier, folder, stamp, jobs, dask, fresh, report)
    results = [result(task, states[name]) for name, task in tasks.items()]
    verdicts = [a for pair in pairs for form in FORMS for a in answers(results, form, *pair)]
    return {"results": results, "answers": verdicts, "remarks": list(remarks(tasks, states))}


def remarks(tasks, states):
    """A line for each run that overflowed, does not separate the images or falls short of its limit."""
    for name, task in tasks.items():
        state, form = states[name], task["form"]
        about = (
            f"{task['optimizer']}, ε = {task['eps']:g}, seed {task['seed']}, {form}, {state['steps']} steps"
        )
        if form == "limit":
            if state["residual"][0] > task["residual"]:
                yield f"{about}: still turning, with a residual of {state['residual'][0]:.2g}"
        elif state["overflow"][0]:
            yield f"{about}: overflow, the next step is beyond the precision; a smaller --lr helps"
        elif form == "discrete" and state["rows"][-1][2] <= 0:
            yield f"{about}: does not separate the training images; more --steps or another --lr help"


def result(task, state):
    columns = dict(zip(FORMS[task["form"]].records, state["rows"].T))
    columns["step"] = columns["step"].astype(int)
    columns |= {name: with_nulls(columns[name]) for name in (*ALIGNED, "residual") if name in columns}
    about = {key: task[key] for key in ("optimizer", "eps", "seed", "form")}
    if task["form"] == "limit":
        good = state["residual"][0] <= task["residual"]
        columns |= {"status": "ok" if good else "still turning", "delta": list(DELTAS)}
        columns |= {name: with_nulls(state[name]) for name in ("kkt_residual", "kkt_residual_unweighted")}
    return about | columns | {"seconds": float(state["seconds"])}


def at_level(result, key, level):
    """result[key] where log L first fell through `level`, linear in log L between two records.

    At the last step, if that is -inf.
    """
    if level == -math.inf:
        return result[key][-1]
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
    """The verdicts on one claim, at the last step and at the lowest log L that all of both kinds reach.

    Runs of form `limit` have no log L, and are compared at the last step alone.
    """
    own = groups(results, "optimizer", "eps", "form")
    both = [own.get((*key, form), []) for key in (larger, smaller)]
    seeds = sorted(set.intersection(*({r["seed"] for r in group} for group in both)))
    if not seeds:
        return []
    levels, rows = [(-math.inf, "last step")], []
    if form != "limit":
        common = common_level(both[0] + both[1])
        levels.append((common, f"log L = {common:.4g}"))
    for metric in ("margin", "test_accuracy"):
        for level, at in levels:
            by_seed = [{r["seed"]: at_level(r, metric, level) for r in group} for group in both]
            differences = np.array([by_seed[0][seed] - by_seed[1][seed] for seed in seeds])
            name, error = verdict(differences)
            about = {"claim": f"{claim}: {metric.replace('_', ' ')}", "at": f"{form} form, {at}"}
            about |= {"form": form, "metric": metric}
            about |= {"larger": larger, "smaller": smaller, "seeds": seeds, "differences": differences}
            error = error if math.isfinite(error) else None
            rows.append(about | {"mean": differences.mean(), "standard_error": error, "answer": name})
    return rows


def summarise(results):
    """For each optimizer, ε and form but `limit`, arrays over the seeds.

    They are of the last step and, under names with `_same`, at a common log L.

    Of the flow's alignments it is the largest. An explicit step swings the weights p of the samples of least
    margin. <w, u> is -D Σ p_i q_i whatever they are, while u = -Σ p_i ∂q_i is shortest where they are in
    balance: a swing lowers the cosine, and what is largest is nearest to that of the flow itself.
    """
    rows, results = [], [r for r in results if r["form"] != "limit"]
    for key, group in groups(results, "optimizer", "eps", "form").items():
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


def table(found):
    """What went wrong, a row for each optimizer, ε and form, and the verdicts."""
    yield from found["remarks"]
    yield from steps_and_flow(summarise(found["results"]))
    yield from limits(found["results"])
    yield from verdicts(found["answers"])


def spread_of(values, form, scale=1):
    """Mean ± standard deviation over the seeds."""
    spread = f" ± {np.std(values, ddof=1) * scale:{form}}" if len(values) > 1 else ""
    return f"{np.mean(values) * scale:{form}}{spread}"


def steps_and_flow(summary):
    yield (
        f"{'':27} {'separates':>9} {'last step: normalised':>33} {'align-':>7} {'accuracy (%)':>21}"
        f"   {'at the same':>11}"
        f"  {'normalised':>12} {'test':>18}"
    )
    yield (
        f"{'optimizer':9} {'ε':>7}  {'form':8} {'at step':>9} {'log L':>13} {'margin':>19} {'ment':>7}"
        f" {'train':>6} {'test':>14}   {'log L':>11} {'margin':>19} {'accuracy (%)':>14}  seconds"
    )
    for r in summary:
        separates = "" if r["form"] == "flow" else "never" if r["separates"] == math.inf else r["separates"]
        yield (
            f"{r['optimizer']:9} {r['eps']:>7g}  {r['form']:8} {separates:>9}"
            f" {spread_of(r['log_loss'], '.1f'):>13} {spread_of(r['margin'], '.1e'):>19}"
            f" {r['alignment'].mean():>7.4f} {100 * r['train_accuracy'].mean():>6.2f}"
            f" {spread_of(r['test_accuracy'], '.2f', 100):>14}"
            f"   {r['level']:>11.4g} {spread_of(r['margin_same'], '.1e'):>19}"
            f" {spread_of(r['test_accuracy_same'], '.2f', 100):>14} {r['seconds']:>8.1f}"
        )


def limits(results):
    """How near each run came to a KKT point, and how much larger the L2 margins are than AdaGrad's."""
    ends = [r for r in results if r["form"] == "limit"]
    if not ends:
        return
    yield (
        f"{'optimizer':9} {'ε':>7} seed {'steps':>6} {'log10':>8} {'normalised':>11} {'KKT residual':>13}"
        f" {'with h = 1':>11} {'test':>9}"
    )
    yield (
        f"{'':9} {'':>7} {'':4} {'':>6} {'log 1/L':>8} {'margin':>11} {f'(δ = {DELTAS[0]:g})':>13}"
        f" {'':>11} {'accuracy':>9}  seconds"
    )
    for r in ends:
        residuals = [r[name][0] for name in ("kkt_residual", "kkt_residual_unweighted")]
        residual, unweighted = ("none" if value is None else f"{value:.1e}" for value in residuals)
        yield (
            f"{r['optimizer']:9} {r['eps']:>7g} {r['seed']:>4} {r['step'][-1]:>6}"
            f" {r['log10_log_inverse_loss'][-1]:>8.1f} {r['margin'][-1]:>11.2e} {residual:>13}"
            f" {unweighted:>11}"
            f" {100 * r['test_accuracy'][-1]:>7.2f} % {r['seconds']:>8.0f}"
        )
    adagrad = {(r["eps"], r["seed"]): r["margin"][-1] for r in ends if r["optimizer"] == "adagrad"}
    for (optimizer, eps), group in groups(ends, "optimizer", "eps").items():
        ratios = [r["margin"][-1] / adagrad[eps, r["seed"]] for r in group if (eps, r["seed"]) in adagrad]
        if optimizer != "adagrad" and ratios:
            shown = ", ".join(f"{ratio:.3g}" for ratio in ratios)
            yield f"{optimizer}'s L2 margin over adagrad's, seed by seed: {shown}"


def two_digits(value, percent):
    """The first two digits of a number, as an exponential or of the number in percent."""
    return f"{float(f'{100 * value:.2g}'):g}" if percent else f"{value:.1e}"


def verdicts(found):
    """A line for each answer, with the mean of the paired differences and its standard error."""
    width = max((len(a["claim"]) for a in found), default=0)
    if found:
        yield f"{'verdict':19}  {'claim':{width}}  {'at':33} {'mean difference':>15} ± standard error"
    for a in found:
        percent = a["metric"] == "test_accuracy"
        mean, *error = (two_digits(a[k], percent) for k in ("mean", "standard_error") if a[k] is not None)
        about = f"{a['answer']:19}  {a['claim']:{width}}  {a['at']:33} {mean:>15}"
        yield " ± ".join([about, *error]) + " %" * percent
    if any(a["standard_error"] is None for a in found):
        yield "one seed has no standard error: nothing is distinguishable with fewer than two"


def figure(found):
    """A matplotlib Figure: the way to the limit where runs went there, else training, or what ε does."""
    results = found["results"]
    if any(r["form"] == "limit" for r in results):
        return figure_of_limits(results)
    if len({r["eps"] for r in results}) > 1:
        return figure_of_epsilons(summarise(results))
    return figure_of_training(results)


def figure_of_limits(results):
    """The L2 margin and the KKT residual against log 1/L, from 10 on: steps, flow and margin flow."""
    figure = new_figure(10, 4.4)
    size, residual = figure.subplots(1, 2)
    for r in results:
        style = {"color": colour(r["optimizer"]), "lw": 1.2, "ls": DASHES[r["form"]]}
        if r["form"] == "limit":
            far = r["log10_log_inverse_loss"]
            residual.plot(far[1:], r["residual"][1:].astype(float), **style)
        else:
            far = np.log10(np.maximum(-r["log_loss"], 1e-300))
        late = far >= 1
        size.plot(far[late], r["margin"][late], **style)
    panel(size, FAR, MARGIN, yscale="log")
    panel(residual, FAR, "KKT residual of the margin flow", yscale="log")
    for axes in (size, residual):
        axes.set(xscale="log", xlabel=r"$\log 1/L$ (axis: $\log\log\log 1/L$)")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], [f"$10^{{{x}}}$" for x in (1, 2, 5, 10, 20, 50, 100)])
        axes.minorticks_off()
        axes.set_xlim(left=1)
    words = {"discrete": "steps", "flow": "flow", "limit": "margin flow"}
    kinds = [entry(words[form], color="0.3", ls=dash) for form, dash in DASHES.items()]
    name_above(figure, groups(results, "optimizer"), *kinds)
    return figure


def figure_of_training(results):
    """Training loss, margin and accuracy against steps; margin and alignment against the training loss."""
    discrete = [r for r in results if r["form"] == "discrete"]
    figure = new_figure(10, 10.6)
    (loss, size), (accuracy, fair), aligned = figure.subplots(3, 2)
    for optimizer, group in groups(discrete, "optimizer").items():
        style = {"color": colour(optimizer)}
        steps = reduce(np.intersect1d, (r["step"] for r in group))  # that all seeds recorded
        column = lambda key: np.array([r[key][np.isin(r["step"], steps)] for r in group])
        separated = (column("margin") > 0).all(0)
        band(loss, steps, column("log_loss"), **style)
        band(size, steps[separated], column("margin")[:, separated], **style)
        band(accuracy, steps, 100 * column("test_accuracy"), **style)
        accuracy.plot(steps, 100 * column("train_accuracy").mean(0), ":", **style)
    for r in results:
        since = np.append(np.flatnonzero(r["margin"] <= 0) + 1, 0).max()  # it separates from then on
        dash, at = "-" if r["form"] == "discrete" else "--", slice(since, None)
        style = {"color": colour(r["optimizer"]), "lw": 1, "ls": dash}
        fair.plot(-r["log_loss"][at], r["margin"][at], **style)
        for axes, name in zip(aligned, ("alignment", "alignment_unweighted")):
            values = r[name][at].astype(float)
            if r["form"] == "flow":  # see `summarise`
                axes.plot(-r["log_loss"][at], values, **style | {"lw": 0.5, "ls": "-", "alpha": 0.3})
                values = np.fmax.accumulate(values)
            axes.plot(-r["log_loss"][at], values, **style)
    late = len(results) > len(discrete)
    least = min(r["test_accuracy"][-1] for r in discrete)
    panel(loss, "step", r"training loss, $\log L$", xscale="log")
    panel(size, "step", MARGIN, "where all seeds separate")
    panel(accuracy, "step", "accuracy (%)", "test solid, training dotted", xscale="log")
    accuracy.set_ylim(max(0, 100 * least - 25), 101)
    panel(fair, FAR, MARGIN, "each seed" + ("; steps solid, flow dashed" if late else ""))
    label = "alignment" + (" (flow: largest so far)" if late else "")
    for axes, what in zip(aligned, ("weighted with $h$", "unweighted")):
        panel(axes, FAR, label, f"{what}; towards 1 at a KKT point", ylim=(None, 1))
    for axes in (size, fair, *aligned):
        if not any(line.get_xdata().size for line in axes.lines):
            said = "nowhere" if axes is size else "no run separates"
            axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center")
            axes.set(xticks=[], yticks=[])
        elif axes in (size, fair):
            axes.set_yscale("log")
    for axes in (fair, *aligned) if late else ():
        left = axes.get_xlim()[0]
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel(r"$\log 1/L$ (linear up to 10, then logarithmic)")
        axes.set_xlim(left=max(left, -9))  # L is below the number of samples once they are separated
    name_above(figure, groups(results, "optimizer"))
    return figure


def figure_of_epsilons(summary):
    """Training loss, margin and test accuracy against ε, mean and spread over the seeds; a row for a form."""
    forms = groups(summary, "form")
    optimizers = list(groups(summary, "optimizer"))
    figure = new_figure(12, 3.7 * len(forms) + 0.4)
    rows = figure.subplots(len(forms), 3, squeeze=False)
    for panels, (form, entries) in zip(rows, forms.items()):
        for optimizer, mine in groups(entries, "optimizer").items():
            for place, key, unit, style in (
                (0, "log_loss", 1, "-o"),
                (1, "margin", 1, "-o"),
                (1, "margin_same", 1, "--s"),
                (2, "test_accuracy", 100, "-o"),
                (2, "test_accuracy_same", 100, "--s"),
            ):
                values = [unit * row[key] for row in mine]  # of as many seeds as separate
                low, mean, high = np.array([(v.min(), v.mean(), v.max()) for v in values]).T
                # so that error bars do not hide each other
                shift = optimizers.index(optimizer) - len(optimizers) / 2 + 0.5 + (style == "--s") / 2
                eps = 1.4**shift * np.array([row["eps"] for row in mine])
                bars = np.stack([mean - low, high - mean])
                panels[place].errorbar(eps, mean, bars, fmt=style, ms=4, capsize=2, color=colour(optimizer))
        title = f"{form} form" if len(forms) > 1 else None
        for axes, label in zip(panels, (r"training loss, $\log L$", MARGIN, "test accuracy (%)")):
            panel(axes, r"$\varepsilon$", label, title, xscale="log")
    kinds = [
        entry(n, color="0.3", ls=s[:-1], marker=s[-1], ms=4)
        for s, n in (("-o", "last step"), ("--s", "same training loss"))
    ]
    name_above(figure, optimizers, *kinds)
    return figure


def band(axes, x, lines, **style):
    """The mean of the lines (seeds, n) and, as a band, their spread from the lowest to the highest."""
    axes.plot(x, lines.mean(0), **style)
    axes.fill_between(x, lines.min(0), lines.max(0), color=style["color"], alpha=0.2, lw=0)
