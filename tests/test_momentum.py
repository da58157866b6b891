"""The step with momentum: its formula, its special case, and what becomes of it in the studies."""

import json

import numpy as np
import pytest

import experiments
import mnist
from datasets import crossover_data, default_data
from experiments import main
from minibias import Problem, approximate_kkt, norm, predict, unit
from models import MLP, Linear
from optimizers import CONDITIONERS, GD, Discrete, descend
from training import alignment


@pytest.fixture(scope="module")
def problem():
    return Problem(MLP((2, 1, 1)), *default_data(0))


def some_w(problem, runs=4):
    return problem.model.init(np.random.default_rng(0), runs)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_three_steps_are_those_of_the_formula(problem, name):
    """m = β m + (1 - β) g from m = 0, w - lr h ⊙ m, and h of all gradients as without momentum."""
    conditioner, w, beta, lr = CONDITIONERS[name](), some_w(problem), 0.7, 0.01
    state, _ = descend(problem, conditioner, w, lr, 3, momentum=beta)
    m, S = 0, np.zeros_like(w)
    for t in (1, 2, 3):
        log_loss, u = problem.gradient(w)
        g = np.exp(log_loss)[:, None] * u
        S = conditioner.add(S, g**2)
        m = beta * m + (1 - beta) * g
        w = w - lr * m / np.sqrt(conditioner.inverse_square(S, t))
    np.testing.assert_allclose(state.w, w, rtol=1e-14)
    np.testing.assert_allclose(state.memory, m, rtol=1e-14)


def test_each_run_may_have_its_own_momentum(problem):
    conditioner, w, beta = CONDITIONERS["adam"](), some_w(problem, 2), np.array([[0.0], [0.9]])
    both, _ = descend(problem, conditioner, w, 0.01, 30, momentum=beta)
    for k in range(2):
        alone, _ = descend(problem, conditioner, w[k : k + 1], 0.01, 30, momentum=float(beta[k, 0]))
        np.testing.assert_allclose(both.w[k], alone.w[0], rtol=1e-12)


def test_with_a_constant_gradient_m_is_1_minus_beta_to_the_t_of_it():
    """Steps so small that the gradient stays: the steps add up to lr g Σ (1 - β^k)."""
    problem, beta, lr, steps = Problem(Linear(2), *crossover_data()), 0.8, 1e-12, 5
    w = np.array([[0.3, 0.1]])
    log_loss, u = problem.gradient(w)
    g = np.exp(log_loss)[:, None] * u
    state, _ = descend(problem, GD(), w, lr, steps, momentum=beta)
    np.testing.assert_allclose(state.memory, (1 - beta**steps) * g, rtol=1e-9)
    total = sum(1 - beta**k for k in range(1, steps + 1))
    np.testing.assert_allclose((w - state.w) / lr, total * g, rtol=1e-3)  # what float64 keeps of 1e-12


def test_on_a_linear_model_it_heads_for_the_l2_margin_at_the_rate_without_it():
    """Wang et al. 2022: the distance to the L2 max-margin direction falls, and in the end as without."""
    problem = Problem(Linear(2), *crossover_data())
    w0, best = np.array([[0.5, -0.4]]), unit(predict(problem, np.zeros((1, 2)), np.ones((1, 2))))
    for conditioner in (GD(), CONDITIONERS["rmsprop"]()):
        distances = []
        for beta in (0.0, 0.9):
            _, seen = descend(problem, conditioner, w0, 0.01, 1000, (10, 100, 1000), beta)
            distances.append([norm(unit(state.w) - best)[0] for state in seen.values()])
        without, with_it = np.array(distances)
        assert (np.diff(with_it) < 0).all() and abs(with_it[-1] / without[-1] - 1) < 0.02


def test_a_run_whose_next_step_would_not_be_finite_keeps_its_last_state(problem):
    w = np.array([[0.1, 0.2, 0.3], [1e160, 1e160, -1e160]])
    for lr in (0.1, 1e300):  # at the start, and after a step
        state, _ = descend(problem, GD(), w, lr, 3, momentum=0.9)
        assert state.overflow[1] and np.isfinite(state.w).all() and np.isfinite(state.memory).all()


@pytest.mark.parametrize("beta", (-0.1, 1.0, np.nan, np.array([[0.0], [1.0]])))
def test_a_momentum_out_of_range_is_refused(problem, beta):
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), not"):
        Discrete(problem, GD(), 0.1, beta)


def test_alignment_is_the_cosine_that_the_proofs_epsilon_is_of(problem):
    rng = np.random.default_rng(1)
    w, h = 3 * some_w(problem, 20), rng.uniform(0.1, 5, (20, 3))
    w = w[problem.margins(w).min(-1) > 0]
    assert len(w) >= 3
    h = h[: len(w)]
    cosine = alignment(w, h, problem.gradient(w)[1])
    epsilon, _ = approximate_kkt(problem, w, h)
    np.testing.assert_allclose(cosine, 1 - epsilon**2 / 2, atol=1e-14)


def test_alignment_is_1_at_a_kkt_point_with_one_support_vector_far_out(problem):
    w = predict(problem, np.array([[0.7, 0.3, 0.8]]), np.ones((1, 3)))
    q = np.sort(problem.margins(w)[0])
    assert q[1] > 1.001  # one support vector
    far = 100 * w
    np.testing.assert_allclose(alignment(far, np.ones((1, 3)), problem.gradient(far)[1]), 1, atol=1e-12)
    other = alignment(far, np.array([[1.0, 9.0, 1.0]]), problem.gradient(far)[1])
    assert other < 0.99  # of another problem it is none


def test_the_studies_take_momentum_for_the_discrete_form_alone():
    plain, moved = (
        experiments.direction(("adagrad",), ("discrete", "flow"), runs=3, steps=20, momentum=beta)["results"]
        for beta in (0.0, 0.5)
    )
    assert (plain[0]["w"] != moved[0]["w"]).all()
    np.testing.assert_array_equal(plain[1]["w"], moved[1]["w"])


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def test_training_with_momentum_records_alignment_and_goes_on_with_the_flow(whole):
    assert list(whole) == ["discrete", "flow"]
    for r in whole.values():
        for name in ("alignment", "alignment_unweighted"):
            assert len(r[name]) == len(r["step"]) and np.abs(r[name].astype(float)).max() <= 1
    # RMSProp's h has become isotropic
    weighted, unweighted = (whole["flow"][name][-1] for name in ("alignment", "alignment_unweighted"))
    np.testing.assert_allclose(weighted, unweighted, atol=1e-6)


def test_training_with_momentum_that_is_killed_goes_on_to_the_last_bit(whole, tmp_path, monkeypatch):
    """m is in the checkpoint: killed after 40 of 80 steps, the study ends with the same numbers."""
    job = mnist.train_run

    def killed(task, saved, seconds):
        if saved and saved["steps"] >= 40:
            raise KeyboardInterrupt
        return job(task, saved, 0.0)  # one step

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mnist, "train_run", killed)
        train(tmp_path)
    for form, columns in train(tmp_path).items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, whole[form][name])


def test_the_command_writes_momentum_and_alignment(tmp_path):
    flags = "--train 30 --test 20 --width 2,3,8 --steps 4 --seeds 1 --optimizers gd --momentum 0.5 --jobs 1"
    assert main(["margin", *flags.split(), "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "margin.json").read_text(), parse_constant=pytest.fail)
    (r,) = content["results"]
    assert content["config"]["momentum"] == 0.5
    assert r["alignment"] == r["alignment_unweighted"] and len(r["alignment"]) == len(r["step"])
