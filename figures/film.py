"""Makes direction.gif beside it: one start of a neuron, whose decision lines turn to the predicted ones.

python figures/film.py; in a notebook measure(...) and animation(found), for other data or optimizers.
"""

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter

from datasets import classes, default_data, given
from jobs import write
from limits import AT_REST, ascend
from minibias import Problem, norm, predict, unit
from models import MLP
from optimizers import Flow, conditioners, follow, start, trajectory
from plots import (
    EAST,
    FAR,
    NORTH,
    colour,
    decision_line,
    entry,
    globe,
    name_above,
    new_figure,
    normal,
    panel,
    points,
)

# log 1/L at the film's frames; from 10^4 on the lines hardly move, and the clock runs faster
LEVELS = np.concatenate([np.logspace(0, 4, 61), np.logspace(5, 13, 9)])


def measure(
    optimizers=("gd", "adagrad", "rmsprop"), runs=100, data=None, eps=1e-5, b=0.9, loss="exp", seed=0
):
    """One start under each optimizer, at log 1/L from 1 to 1e13, on data as in `direction.measure`.

    Of the `runs` starts it is the one that has the farthest to turn, to predictions that differ most, while
    all have one sign of v: a KKT point for the other sign, which the problem has too, would show nothing new.
    Adam is left out by default, since its line lies on RMSProp's.
    Returns {"data", "run", "levels", "paths": optimizer -> what `path` returns}.
    Raises ValueError for data that are not two classes in the plane, or where no run separates them.
    """
    x, y = given(data, default_data(seed))
    if x.shape[1] != 2 or classes(y) > 1:
        about = "of a neuron of two features, which tells two classes apart"
        raise ValueError(f"the film shows the decision lines {about}")
    problem, optimizers = Problem(MLP((2, 1, 1)), x, y, loss), conditioners(optimizers, eps, b)
    w0 = problem.model.init(np.random.default_rng([seed, 1]), runs)
    ends = [follow(problem, conditioner, w0)[0] for conditioner in optimizers.values()]
    good = np.flatnonzero(np.all([end.log_loss <= AT_REST for end in ends], axis=0))
    if not len(good):
        raise ValueError(f"no run comes to log L = {AT_REST:g} under every optimizer")
    predicted = np.array([unit(predict(problem, end.w[good], end.h[good])) for end in ends])
    lines = unit(normal(predicted))
    to_turn = norm(unit(normal(w0[good])) - lines).min(0)
    apart = norm(lines[:, None] - lines).max((0, 1))
    alike = np.ptp(np.sign(predicted[..., 2]), axis=0) == 0
    best = np.nan_to_num(to_turn * apart * alike, nan=-1).argmax()
    run = good[best]
    paths = {
        name: path(problem, conditioner, w0[run : run + 1], goal)
        for (name, conditioner), goal in zip(optimizers.items(), predicted[:, best])
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
        late, _ = ascend(problem, late, states[-1].h, level, growth=1.5)
        w.append(late)
    w = np.concatenate(w)
    found = {"w": w, "h": way[at], "distance": norm(unit(w) - predicted), "predicted": predicted}
    return found | {"way": way, "at": at}


def animation(found):
    """The decision lines turning to the predicted ones, with a clock in log 1/L: a matplotlib animation.

    Beside the lines: the direction of h settling, and how far the direction of w still is from the predicted
    one.
    """
    (x, y), levels, paths = found["data"].values(), found["levels"], found["paths"]
    figure = new_figure(8.4, 4.5)
    axes = figure.subplot_mosaic("ph;pc", width_ratios=(1.35, 1), height_ratios=(1.4, 1))
    plane, octant, clock = (axes[letter] for letter in "phc")
    reach = 1.15 * np.linalg.norm(x, axis=1).max()
    points(plane, x, y)
    globe(octant)
    octant.plot(0, 0, "*", ms=15, mfc="none", mec="#CC79A7", mew=1.3)
    octant.set_title(r"direction of $h$ since $t = 0$ (star: $(1,1,1)/\sqrt{3}$)", fontsize=9)
    widths = {"gd": 1.3, "rmsprop": 3.4}  # one of the two lines ends on the other
    moving = {}
    for optimizer, path in paths.items():
        style = {"color": colour(optimizer), "lw": widths.get(optimizer, 2.0)}
        style["zorder"] = 4 - style["lw"] / 10
        halo = style | {"lw": style["lw"] + 7, "alpha": 0.2, "zorder": 1, "solid_capstyle": "butt"}
        plane.plot(*decision_line(path["predicted"], reach), **halo)
        clock.plot(levels, path["distance"], color=colour(optimizer), lw=0.6, alpha=0.35)
        trail = style | {"lw": style["lw"] / 2}
        head = style | {"marker": "o", "ls": "", "ms": 3 + style["lw"]}
        # the first steps of RMSProp and AdaGrad are alike: one shows between the dashes of the other
        trail["ls"] = style["ls"] = (0, (4, 2)) if optimizer == "adagrad" else "-"
        places = (plane, style), (octant, trail), (octant, head), (clock, trail), (clock, head)
        moving[optimizer] = [axes.plot([], [], **how)[0] for axes, how in places]
    span = 1.02 * reach
    plane.set(aspect="equal", xlim=(-span, span), ylim=(-span, span), xlabel="$x_1$", ylabel="$x_2$")
    title = plane.set_title(" ", fontsize=10)
    panel(clock, FAR, None, xscale="log", yscale="log")
    clock.set_title("distance of the direction of $w$ to the predicted one", fontsize=9)
    classes_of_points = plane.get_legend_handles_labels()[0][:2]
    name_above(figure, paths, entry("predicted line", color="0.8", lw=9), *classes_of_points)

    def draw(k):
        title.set_text(rf"$\log\,1/L = 10^{{{np.log10(levels[k]):.1f}}}$")
        for optimizer, (line, trail, head, error, now) in moving.items():
            path = paths[optimizer]
            line.set_data(*decision_line(path["w"][k], reach))
            way = unit(path["way"][: path["at"][k] + 1])
            trail.set_data(way @ EAST, way @ NORTH)
            head.set_data(way[-1:] @ EAST, way[-1:] @ NORTH)
            error.set_data(levels[: k + 1], path["distance"][: k + 1])
            now.set_data(levels[k : k + 1], path["distance"][k : k + 1])
        return []

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, and not again for each frame
    return FuncAnimation(figure, draw, frames=len(levels), init_func=lambda: [], interval=100)


class Gif(PillowWriter):
    """Writes an animation as a GIF: one small palette for all frames, and three seconds for the last one."""

    def finish(self):
        frames = [frame.convert("RGB") for frame in self._frames]
        palette = frames[len(frames) // 2].quantize(64)
        first, *others = [frame.quantize(palette=palette, dither=0) for frame in frames]
        durations = [1000 // self.fps] * len(others) + [3000]
        first.save(self.outfile, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def main():
    film, path = animation(measure()), pathlib.Path(__file__).with_name("direction.gif")
    write(path, lambda beside: film.save(beside, writer=Gif(fps=10), dpi=100))
    print("wrote", path)


if __name__ == "__main__":
    main()
