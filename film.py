"""Draws the film of `direction`: one start whose decision lines turn to the predicted ones."""

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import EAST, FAR, NORTH, colour, decision_line, globe, name_above, panel, samples
from minibias import unit


def film(x, y, run, levels, paths):
    """The decision lines of one start turning to the predicted ones, with a clock in log 1/L: an animation.

    The arguments are what `paths.film` returns. Beside the lines: the direction of h settling, and how
    far the direction of w still is from the predicted one.
    """
    figure = Figure(figsize=(8.4, 4.5), layout="constrained")
    axes = figure.subplot_mosaic("ph;pc", width_ratios=(1.35, 1), height_ratios=(1.4, 1))
    plane, octant, clock = (axes[letter] for letter in "phc")
    reach = 1.15 * np.linalg.norm(x, axis=1).max()
    samples(plane, x, y)
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
        places = (plane, style), (octant, trail), (octant, head), (clock, trail), (clock, head)
        moving[optimizer] = [axes.plot([], [], **how)[0] for axes, how in places]
    span = 1.02 * reach
    plane.set(aspect="equal", xlim=(-span, span), ylim=(-span, span), xlabel="$x_1$", ylabel="$x_2$")
    title = plane.set_title(" ", fontsize=10)
    panel(clock, FAR, None, xscale="log", yscale="log")
    clock.set_title("distance of the direction of $w$ to the predicted one", fontsize=9)
    name_above(figure, paths, Line2D([], [], color="0.8", lw=9, label="predicted line"))

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
