"""Where every start of a neuron ends: starts spread over a sphere, and the certified limits of their flows.

The slide "Discussions" calls AdaGrad "sensitive to initialization". A neuron of two features has three
parameters, so that its starts of one length are a sphere, which can be searched as a whole.
"""

import numpy as np

from limits import CERTIFIED, margin_flow, rest
from minibias import certificate, norm, normalised_margin, predict, unit
from optimizers import GD

SAME = 1e-6  # directions no farther from each other count as one


def sphere(n):
    """n points spread evenly over the unit sphere, (n, 3): equal steps in height, golden angles around."""
    k = np.arange(n) + 0.5
    height, angle = 1 - 2 * k / n, np.pi * (3 - np.sqrt(5)) * k
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


def ends(problem, conditioner, w0, lr=1.0):
    """The certified limits of the flow from w0 (runs, p): a dict of arrays over the runs.

    `w` (runs, p) holds unit directions, `kkt_residual` their certificates for the problem of h_∞, `margin`
    their q_min, and `S` (runs, p) the conditioner's sum when the flow is at rest. `status` is "ok", or what
    hinders the run: then its w and margin are NaN.
    """
    flow, status = rest(problem, conditioner, w0, lr)
    good = status == "ok"
    w, residual = np.full(flow.w.shape, np.nan), np.full(len(flow.w), np.nan)
    w[good] = unit(margin_flow(problem, flow.w[good], flow.h[good]).w)
    residual[good] = certificate(problem, w[good], flow.h[good])
    lost = good & ~(residual <= CERTIFIED)
    status[lost], w[lost] = "still turning", np.nan
    margin = normalised_margin(problem, w)
    return {"w": w, "kkt_residual": residual, "margin": margin, "S": flow.S, "status": status}


def kkt_points(problem):
    """The KKT points of the L2 problem that gradient descent finds from thirty starts: (points, p), unit."""
    flow, status = rest(problem, GD(), sphere(30))
    w = flow.w[status == "ok"]
    return distinct(unit(predict(problem, w, np.ones_like(w))))


def distinct(w):
    """The different ones among the directions w (runs, p), those that are NaN left out: (k, p)."""
    w, found = w[np.isfinite(w).all(-1)], []
    while len(w):
        found.append(w[0])
        w = w[norm(w - w[0]) > SAME]
    return np.reshape(found, (len(found), w.shape[-1]))


def share_of_best(problem, w, points):
    """The L2 margins of limits w (runs, 3) over the largest that a neuron of the same sign of v has: (runs,).

    The largest ones are those of the KKT `points`, one for each sign. NaN where there is none.
    """
    same = np.sign(w[:, None, -1]) == np.sign(points[:, -1])
    best = np.where(same, normalised_margin(problem, points), 0).max(-1, initial=0)
    return normalised_margin(problem, w) / np.where(best > 0, best, np.nan)
