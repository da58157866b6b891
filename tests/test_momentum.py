"""The step with momentum: its formula, its special case, and what becomes of it in the studies."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mnist
from datasets import crossover_data, default_data
from experiments import direction, main
from minibias import Problem, approximate_kkt, norm, predict, unit
from models import MLP, Linear
from optimizers import CONDITIONERS, GD, Discrete, RMSProp, descend
from training import alignment

PROBLEM, ONES = Problem(MLP((2, 1, 1)), *default_data(0)), np.ones((1, 3))
W = PROBLEM.model.init(np.random.default_rng(0), 20)


@pytest.mark.parametrize("name", CONDITIONERS)
@pytest.mark.parametrize("beta", (0.7, np.array([[0.0], [0.5], [0.7], [0.9]])))
def test_three_steps_are_those_of_the_formula_also_if_each_run_has_its_own_momentum(name, beta):
    """m = β m + (1 - β) g from m = 0, w - lr h ⊙ m, and h of all gradients as without momentum."""
    conditioner, w, m, S = CONDITIONERS[name](), W[:4], 0, 0 * W[:4]
    state, _ = descend(PROBLEM, conditioner, w, 0.01, 3, momentum=beta)
    for t in (1, 2, 3):
        log_loss, u = PROBLEM.gradient(w)
        g = np.exp(log_loss)[:, None] * u
        S = conditioner.add(S, g**2)
        m = beta * m + (1 - beta) * g
        w = w - 0.01 * m / np.sqrt(conditioner.inverse_square(S, t))
    assert_allclose(state.w, w, rtol=1e-14)
    assert_allclose(state.memory, m, rtol=1e-14)


def test_on_a_linear_model_it_heads_for_the_l2_margin_at_the_rate_without_it():
    """Wang et al. 2022: the distance to the L2 max-margin direction falls, and in the end as without."""
    problem = Problem(Linear(2), *crossover_data())
    w0, best = np.array([[0.5, -0.4]]), unit(predict(problem, np.zeros((1, 2)), ONES[:, :2]))
    for conditioner in (GD(), RMSProp()):
        args = problem, conditioner, w0, 0.01, 1000, (10, 100, 1000)
        seen = [descend(*args, beta)[1].values() for beta in (0.0, 0.9)]
        without, with_it = np.array([[norm(unit(state.w) - best)[0] for state in path] for path in seen])
        assert (np.diff(with_it) < 0).all() and abs(with_it[-1] / without[-1] - 1) < 0.02


def test_a_run_whose_next_step_would_not_be_finite_keeps_its_last_state():
    w = np.array([[0.1, 0.2, 0.3], [1e160, 1e160, -1e160]])
    for lr in (0.1, 1e300):  # at the start, and after a step
        state, _ = descend(PROBLEM, GD(), w, lr, 3, momentum=0.9)
        assert state.overflow[1] and np.isfinite(state.w).all() and np.isfinite(state.memory).all()


@pytest.mark.parametrize("beta", (-0.1, 1.0, np.nan, np.array([[0.0], [1.0]])))
def test_a_momentum_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), not"):
        Discrete(PROBLEM, GD(), 0.1, beta)


def test_alignment_is_the_cosine_that_the_proofs_epsilon_is_of():
    good = PROBLEM.margins(3 * W).min(-1) > 0
    w, h = 3 * W[good], np.random.default_rng(1).uniform(0.1, 5, (good.sum(), 3))
    assert len(w) >= 3
    epsilon, _ = approximate_kkt(PROBLEM, w, h)
    assert_allclose(alignment(w, h, PROBLEM.gradient(w)[1]), 1 - epsilon**2 / 2, atol=1e-14)


def test_alignment_is_1_at_a_kkt_point_with_one_support_vector_far_out():
    """And it is not at one of another problem."""
    w = predict(PROBLEM, np.array([[0.7, 0.3, 0.8]]), ONES)
    assert np.sort(PROBLEM.margins(w)[0])[1] > 1.001  # one support vector
    far, (_, u) = 100 * w, PROBLEM.gradient(100 * w)
    assert_allclose(alignment(far, ONES, u), 1, atol=1e-12)
    assert alignment(far, np.array([[1.0, 9.0, 1.0]]), u) < 0.99


def test_the_studies_take_momentum_for_the_discrete_form_alone():
    study = {"optimizers": ("adagrad",), "forms": ("discrete", "flow"), "runs": 3, "steps": 20}
    plain, moved = (direction(**study, momentum=beta)["results"] for beta in (0.0, 0.5))
    assert (plain[0]["w"] != moved[0]["w"]).all()
    assert_array_equal(plain[1]["w"], moved[1]["w"])


@pytest.mark.parametrize("study, beta", (("direction", "1"), ("margin", "-0.1"), ("epsilon", "nan")))
def test_bad_momentum_is_one_line(study, beta, tmp_path, capsys):
    assert main([study, "--momentum", beta, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: argument --momentum: expected a") and errors.count("\n") == 1


def train(folder):
    """A tiny network with momentum and the flow, which ends at log L = -40 here: results by form."""
    settings = {"train": 30, "test": 20, "width": (2, 3, 8), "steps": 80, "seeds": 1, "momentum": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "FLOW_END", -40.0)
        results = mnist.margin(("rmsprop",), flow=True, folder=folder, **settings)["results"]
    return {r["form"]: {name: r[name] for name in mnist.RECORDS} for r in results}


def test_training_with_momentum_records_alignment_and_goes_on_to_the_last_bit_if_killed(tmp_path):
    """After the discrete steps the flow goes on. m is in the checkpoint, here after 40 of 80 steps."""
    whole, job = train(tmp_path / "whole"), mnist.train_run
    assert list(whole) == ["discrete", "flow"]
    for r in whole.values():
        for name in ("alignment", "alignment_unweighted"):
            assert len(r[name]) == len(r["step"]) and np.abs(r[name].astype(float)).max() <= 1
    # RMSProp's h has become isotropic
    assert_allclose(whole["flow"]["alignment"][-1], whole["flow"]["alignment_unweighted"][-1], atol=1e-6)

    def killed(task, saved, seconds):
        if saved and saved["steps"] >= 40:
            raise KeyboardInterrupt
        return job(task, saved, 0.0)  # one step

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mnist, "train_run", killed)
        train(tmp_path)
    for form, columns in train(tmp_path).items():
        for name, values in columns.items():
            assert_array_equal(values, whole[form][name])


def test_the_command_writes_momentum_and_alignment(tmp_path):
    flags = "--train 30 --test 20 --width 2,3,8 --steps 4 --seeds 1 --optimizers gd --momentum 0.5 --jobs 1"
    assert main(["margin", *flags.split(), "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "margin.json").read_text(), parse_constant=pytest.fail)
    (r,) = content["results"]
    assert content["config"]["momentum"] == 0.5
    assert r["alignment"] == r["alignment_unweighted"] and len(r["alignment"]) == len(r["step"])
