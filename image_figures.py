"""Draws the experiments on images, as `figures.py` draws the others: results in, a matplotlib Figure out."""

from functools import reduce

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import FAR, colour, groups, name_above, panel

MARGIN = r"normalised margin $q_{\min}/\|w\|^4$"


def margin(results):
    """Training loss, margin and accuracy against steps; margin and alignment against the training loss."""
    discrete = [r for r in results if r["form"] == "discrete"]
    figure = Figure(figsize=(10, 10.6), layout="constrained")
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
            if r["form"] == "flow":  # see `mnist.summarise`
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


def epsilon(summary):
    """Training loss, margin and test accuracy against ε, mean and spread over the seeds; a row for a form."""
    forms = groups(summary, "form")
    optimizers = list(groups(summary, "optimizer"))
    figure = Figure(figsize=(12, 3.7 * len(forms) + 0.4), layout="constrained")
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
        Line2D([], [], color="0.3", ls=s[:-1], marker=s[-1], ms=4, label=n)
        for s, n in (("-o", "last step"), ("--s", "same training loss"))
    ]
    name_above(figure, optimizers, *kinds)
    return figure


def band(axes, x, lines, **style):
    """The mean of the lines (seeds, n) and, as a band, their spread from the lowest to the highest."""
    axes.plot(x, lines.mean(0), **style)
    axes.fill_between(x, lines.min(0), lines.max(0), color=style["color"], alpha=0.2, lw=0)
