"""Draws the theorem in one picture: python figures/one_picture.py writes figures/one_picture.png.

A linear model with two weights, so that the plane of the picture is the space of w. Each sample allows the
half-plane y w·x >= 1. What the theorem minimises grows in circles for gradient descent, and in ellipses for
AdaGrad, whose h_∞ depends on the start. A limit is where the smallest circle or ellipse touches what all
samples allow.
"""

import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from limits import margin_flow  # noqa: E402
from minibias import Problem  # noqa: E402
from models import Linear  # noqa: E402
from optimizers import GD, AdaGrad, follow  # noqa: E402

X, Y = np.array([[0.6, 0.8], [1.6, 0.3], [-0.3, -1.6], [-1.2, -1.4]]), np.array([1, 1, -1, -1])
RUNS = (
    ("GD, any start", GD(), (0.0, 0.0), "#000000"),
    ("AdaGrad, start (-2, 2)", AdaGrad(), (-2.0, 2.0), "#D55E00"),
    ("AdaGrad, start (2, -2)", AdaGrad(), (2.0, -2.0), "#CC79A7"),
)


def figure():
    problem = Problem(Linear(2), X, Y)
    drawn = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes, angle = drawn.subplots(), np.linspace(0, 2 * np.pi, 400)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.4, 3, 600)] * 2), -1)
    allowed = (problem.margins(grid.reshape(-1, 2)).min(-1) >= 1).reshape(grid.shape[:2])
    axes.contourf(*np.moveaxis(grid, -1, 0), allowed, levels=[0.5, 1.5], colors=["0.92"])
    for x, y in zip(X, Y):  # the line y w·x = 1
        foot, along = y * x / (x @ x), np.array([-x[1], x[0]]) / np.sqrt(x @ x)
        axes.plot(*np.transpose([foot - 5 * along, foot + 5 * along]), color="0.6", lw=0.8)
    for name, conditioner, w0, colour in RUNS:
        flow, *_ = follow(problem, conditioner, np.array([w0]))
        (limit,), (h,) = margin_flow(problem, flow.w, flow.h).w, flow.h
        size = np.sqrt((limit**2 / h).sum())
        axes.plot(*(size * np.sqrt(h)[:, None] * [np.cos(angle), np.sin(angle)]), color=colour, lw=1.2)
        axes.plot(*limit, "o", color=colour, ms=7, label=f"{name}: h∞ ∝ (1, {h[1] / h[0]:.2f})")
    axes.set(xlim=(-0.4, 2.1), ylim=(-0.2, 1.9), aspect="equal", xlabel="$w_1$", ylabel="$w_2$")
    axes.text(2.0, 1.8, "all margins ≥ 1", ha="right", va="top", color="0.35")
    drawn.legend(loc="outside lower center", frameon=False, fontsize=9)
    return drawn


if __name__ == "__main__":
    figure().savefig(HERE / "one_picture.png", dpi=110)
