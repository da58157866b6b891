"""The theorem in five tests, to be read: what it predicts and what training reaches (pytest -s prints it).

Each trains from random starts by the flow, until h has settled, and goes on to the limit by the margin flow.
"""

import numpy as np

from datasets import default_data, exclusive_or, three_classes
from limits import margin_flow
from minibias import Problem, certificate, norm, predict, unit
from models import MLP, Linear
from optimizers import GD, AdaGrad, RMSProp, follow


def limit(problem, conditioner, runs):
    """h_∞ and the limits (runs, p) of the runs that separate the data."""
    w0 = problem.model.init(np.random.default_rng([0, 1]), runs)
    flow, *_ = follow(problem, conditioner, w0)
    there = flow.log_loss <= -50
    return flow.h[there], margin_flow(problem, flow.w[there], flow.h[there]).w


def tell(what, predicted, reached):
    print(f"\n{what}")
    for name, w in (("predicted", predicted), ("reached", reached)):
        print(f"  {name:9} {unit(w).round(6).tolist()}")


def test_gd_and_rmsprop_share_the_l2_margin_of_a_linear_model_from_any_start():
    """(1, 3)/√10 has the margin 3.3/√10 at two points and more at the others: no direction does better."""
    x = np.array([[0.3, 1], [0.6, 0.9], [1.2, 1.3], [-0.33, -1.1]])
    problem, best = Problem(Linear(2), x, np.array([1, 1, 1, -1])), np.array([[1.0, 3.0]])
    for conditioner in (GD(), RMSProp()):
        _, w = limit(problem, conditioner, 3)
        tell(f"{type(conditioner).__name__}: the largest L2 margin", best, w)
        assert norm(unit(w) - unit(best)).max() < 1e-10


def test_adagrad_maximises_a_margin_of_its_own_that_depends_on_the_start():
    problem = Problem(Linear(2), *default_data(0))
    h, w = limit(problem, AdaGrad(), 3)
    weighted, l2 = predict(problem, w, h), predict(problem, w, np.ones_like(h))
    tell("AdaGrad: the largest margin with the weights h_∞", weighted, w)
    assert norm(unit(w) - unit(weighted)).max() < 1e-10 and norm(unit(w) - unit(l2)).min() > 1e-3
    assert norm(unit(h) - unit(h)[0])[1:].min() > 1e-3


def test_a_neuron_has_two_kkt_points_and_gd_ends_in_one_of_them():
    """One for each sign of v: the leaky ReLU bends the one class or the other."""
    problem = Problem(MLP((2, 1, 1)), *default_data(0))
    two = predict(problem, [[1.0, 0.5, 1.0], [-1, -0.5, -1]], np.ones((2, 3)))
    _, w = limit(problem, GD(), 20)
    tell("GD on a neuron: two KKT points", two, w[:4])
    distances = norm(unit(w)[:, None] - unit(two))
    assert distances.min(1).max() < 1e-10 and set(distances.argmin(1)) == {0, 1}


def test_the_limit_of_a_network_lies_on_a_kink_where_one_gradient_proves_nothing():
    """Exclusive or, four units: Clarke's subdifferential certifies what one gradient per sample cannot."""
    problem = Problem(MLP((2, 4, 1)), *exclusive_or())
    h, w = limit(problem, AdaGrad(), 3)
    residual, one = certificate(problem, w, h), certificate(problem, w, h, kinks=False)
    print("\nexclusive or: KKT residuals with Clarke's subdifferential", residual, "one gradient", one)
    assert len(w) and residual.max() < 1e-10 and one.min() > 0.05


def test_three_classes_have_the_pairs_of_outputs_as_margins():
    problem = Problem(Linear(2, 3), *three_classes(0), "log")
    for conditioner in (RMSProp(), AdaGrad()):
        h, w = limit(problem, conditioner, 2)
        best = predict(problem, w, h)
        tell(f"{type(conditioner).__name__}: three classes", best, w)
        assert norm(unit(w) - unit(best)).max() < 1e-10 and certificate(problem, w, h).max() < 1e-10
