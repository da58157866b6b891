"""Mistakes with the library are told at once, in a sentence: what is wrong and what is expected."""

import re

import autograd.numpy as anp
import numpy as np
import pytest

import experiments
import minibias
import optimizers
from datasets import default_data
from limits import ascend, hessian, margin_flow, to_rest
from minibias import Problem, approximate_kkt, certificate, certify, predict
from models import MLP, Linear
from optimizers import GD, AdaGrad, Conditioner, Flow, RMSProp, descend, follow
from training import LateFlow, alignment

X, Y = default_data(0)


class Own:
    """A model of one's own, (u . x) v, of degree 2, with something wrong."""

    size, degree = 3, 2

    def __init__(self, call=None, **wrong):
        self.call = call or (lambda w, x: (w[..., :2] @ x.T) * w[..., 2:])
        self.__dict__ |= wrong

    def __call__(self, w, x):
        return self.call(w, x)


def plain(w, x):
    """It leaves autograd's sight: what it returns does not depend on w for it."""
    w = np.array(getattr(w, "_value", w))
    return (w[..., :2] @ x.T) * w[..., 2:]


WRONG_MODELS = {
    "degree": (Own(degree=3), "is not homogeneous of degree 3"),
    "no degree": (Own(degree=None), "whole number `degree`"),
    "constant": (Own(lambda w, x: (w[..., :2] @ x.T) * w[..., 2:] + 1), "is not homogeneous"),
    "numpy": (Own(lambda w, x: np.cbrt((w[..., :2] @ x.T) ** 3) * w[..., 2:]), "autograd.numpy"),
    "untraced": (Own(plain), "Euler's identity"),
    "features": (MLP((3, 1, 1)), "takes 3 features, but the data have 2"),
    "outputs": (Linear(2, 3), "must return (2, 3)"),
    "size": (Own(size=2), "cannot be evaluated"),
    "mixed runs": (Own(lambda w, x: anp.sum(w[..., :2]) * w[..., 2:] * x[:, 0]), "mixes the runs"),
    "a class": (Own, "must be an object, not the class: Own(...)"),
    "nan": (Own(lambda w, x: np.nan * (w[..., :2] @ x.T) * w[..., 2:]), "must be finite"),
}


@pytest.mark.filterwarnings("ignore:Output seems independent")
@pytest.mark.parametrize("model, said", WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_a_wrong_model_is_told_when_the_problem_is_made(model, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Problem(model, X, Y)


def functions(problem):
    """Every public function that takes w, or w and h."""
    yield from ((problem.margins, 1), (problem.gradient, 1), (problem.jacobian, 1))
    yield lambda w: minibias.normalised_margin(problem, w), 1
    yield lambda w: descend(problem, AdaGrad(), w, 0.1, 1), 1
    yield lambda w: follow(problem, AdaGrad(), w, (5.0,)), 1
    yield lambda w: to_rest(problem, AdaGrad(), w), 1
    for function in (certificate, certify, predict, approximate_kkt, margin_flow, ascend):
        yield lambda w, h, function=function: function(problem, w, h), 2


def test_w_and_h_of_another_shape_are_told_by_every_public_function_and_lists_are_arrays():
    problem = Problem(MLP((2, 1, 1)), X, Y)
    good = [[2.0, 1.0, 3.0], [3.0, 0.5, 2.0]]
    for function, arguments in functions(problem):
        function(*[good] * arguments)
        for bad in (np.ones((2, 4)), np.ones((3, 2)), [[1.0, 2.0]]):
            with pytest.raises(ValueError, match="must be"):
                function(*[bad] * arguments)
        if arguments == 2:
            for h in (np.ones((2, 2)), np.ones((3, 3)), np.ones(3), np.array([[1.0, 0, 1], [1, 1, 1]])):
                with pytest.raises(ValueError, match="h must be"):
                    function(good, h)


def test_predictions_and_limits_start_from_w_that_separate():
    problem = Problem(MLP((2, 1, 1)), X, Y)
    for function in (predict, margin_flow):
        with pytest.raises(ValueError, match="w must separate the data, but the least margin of run 1"):
            function(problem, [[2.0, 1, 3], [-2, 1, 3]], np.ones((2, 3)))


def broken(base, **methods):
    return type("Mine", (base,), methods)()


def remember(self, S, t):
    """h^-2 of the largest S so far, which is wrongly kept in self."""
    self.largest = np.maximum(getattr(self, "largest", 0), S)
    return self.eps + self.largest


class TwoSums(Conditioner):
    """S is (runs, 2, p), and log_dt (runs, 1) is not reshaped to it: with two runs it would fit by chance."""

    def begin(self, w):
        return np.zeros((len(w), 2, w.shape[1]))

    def add(self, S, g2):
        return S + g2[:, None]

    def relax(self, S, g2, log_g2, log_dt):
        return S + np.exp(log_dt) * g2[:, None]

    def inverse_square(self, S, t):
        return self.eps + S[:, 0]


WRONG_CONDITIONERS = {
    "class": (AdaGrad, "must be an object, not the class: AdaGrad()"),
    "no methods": (object(), "object is no conditioner, it lacks the method begin"),
    "one method": (broken(Conditioner, add=AdaGrad.add), "Mine is no conditioner, it lacks the method relax"),
    "a root": (broken(AdaGrad, inverse_square=lambda self, S, t: 1 / np.sqrt(self.eps + S)), "must not fall"),
    "one number": (
        broken(AdaGrad, inverse_square=lambda self, S, t: self.eps + S.sum(-1)),
        "Mine.inverse_square must return shape (3, 3), not (3,)",
    ),
    "dt for its log": (broken(AdaGrad, relax=lambda self, S, g2, log_g2, dt: S + dt * g2), "agree with add"),
    "another sum": (broken(AdaGrad, add=RMSProp.add), "agree with add"),
    "no forgetting": (
        broken(RMSProp, relax=lambda self, S, g2, l, d: S + (1 - self.b) * np.exp(l + d)),
        "agree with add",
    ),
    "mixed runs": (
        broken(AdaGrad, inverse_square=lambda self, S, t: self.eps + S.sum() + 0 * S),
        "Mine.inverse_square mixes the runs (is an axis=-1 missing?)",
    ),
    "no epsilon": (
        broken(AdaGrad, inverse_square=lambda self, S, t: 1.0 * S),
        "Mine.inverse_square must be h^-2, finite and above 0, also at S = 0: is ε missing?",
    ),
    "shapes that do not fit": (
        broken(AdaGrad, add=lambda self, S, g2: S + np.ones(5)),
        "Mine fails at three runs of 3 parameters: operands could not be broadcast",
    ),
    "no runs in S": (
        broken(AdaGrad, begin=lambda self, w: np.zeros(3)),
        "add must return a new S of the same shape",
    ),
    "log_dt not reshaped": (
        TwoSums(),
        "fails at three runs of 3 parameters: operands could not be broadcast",
    ),
    "in place": (broken(AdaGrad, add=lambda self, S, g2: np.add(S, g2, out=S)), "add must return a new S"),
    "no eps": (broken(AdaGrad, __init__=lambda self: None), "has no attribute 'eps'"),
    "state in self": (broken(AdaGrad, inverse_square=remember), "nothing in self"),
}


@pytest.mark.parametrize("conditioner, said", WRONG_CONDITIONERS.values(), ids=WRONG_CONDITIONERS)
def test_a_wrong_conditioner_is_refused_before_it_moves_anything(conditioner, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        descend(Problem(MLP((2, 1, 1)), X, Y), conditioner, np.ones((1, 3)), 0.1, 1)


class Looping(Own):
    """A model of one's own that goes through its runs one by one, and is not made for none."""

    def __call__(self, w, x):
        assert len(w) and x.shape[-2]
        return anp.stack([(x @ v[:2]) * v[2] for v in w])

    def init(self, rng, runs):
        return rng.uniform(-1, 1, (runs, 3))


@pytest.mark.parametrize("labels", [Y, np.tile([1.0, -1.0], 50)])
def test_a_model_is_never_called_without_runs(labels, monkeypatch):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 200)  # no run does with the second labels
    problem = Problem(Looping(), X, labels)
    none = np.zeros((0, 3))
    for function, arguments in functions(problem):
        function(*[none] * arguments)
    assert problem.margins(none).shape == (0, 100) and problem.jacobian(none).shape == (0, 100, 3)
    assert problem.slopes(none, none).shape == (0, 100) and hessian(problem, none).shape == (0, 3, 3)
    state, _ = descend(problem, GD(), none, 0.1, 1)
    assert LateFlow(problem)(state).w.shape == (0, 3)
    assert minibias.surrogate_margin(problem, state.log_loss, none, none + 1).shape == (0,)
    assert alignment(none, none + 1, state.u).shape == (0,)
    # neither where no run separates the data
    w = np.array([[1.0, 1, -1], [-2, 0.5, 1]])
    assert (problem.margins(w).min(-1) < 0).all() and np.isnan(certificate(problem, w, np.ones((2, 3)))).all()
    found = experiments.direction(model=Looping(), data=(X, labels), runs=2, steps=3, optimizers="gd")
    assert len(found["results"]) == 3
    with pytest.raises(ValueError, match="no samples"):
        Problem(Looping(), X[:0], Y[:0], outputs=1)


def test_masked_arrays_are_refused_wherever_arrays_enter():
    masked = lambda a: np.ma.array(a, mask=np.arange(np.size(a)).reshape(np.shape(a)) == 1)
    for data in ((masked(X), Y), (X, masked(Y)), (list(masked(X)), Y)):
        for door in (lambda: Problem(MLP((2, 1, 1)), *data), lambda: experiments.direction(data=data)):
            with pytest.raises(ValueError, match="has masked entries"):
                door()
    problem, good = Problem(MLP((2, 1, 1)), np.ma.array(X), np.ma.array(Y)), np.array([[2.0, 1.0, 3.0]])
    assert type(problem.x) is type(problem.y) is np.ndarray  # nothing is masked there
    for function, arguments in functions(problem):
        for k in range(arguments):
            with pytest.raises(ValueError, match="wh"[k] + " has masked entries"):
                function(*[masked(good) if j == k else good for j in range(arguments)])


def test_numbers_out_of_range_are_told():
    problem, w = Problem(MLP((2, 1, 1)), X, Y), np.ones((1, 3))
    for wrong, said in (
        (lambda: Flow(problem, GD(), c=-1), "c must be a finite number above 0, not -1"),
        (lambda: Flow(problem, GD(), lr=0), "lr must be a finite number above 0, not 0"),
        (lambda: AdaGrad("1e-5"), "eps must be a finite number above 0, not '1e-5'"),
        (lambda: follow(problem, GD(), w, (-50, -25)), "levels of log L must fall"),
        (lambda: follow(problem, GD(), w, ()), "levels of log L must fall"),
        (lambda: descend(problem, GD(), w, 0.1, 5, record=(2, 9)), "record must hold steps up to 5"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            wrong()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"forms": ["limits"]}, "forms must be some of discrete, flow, limit, not 'limits'"),
        ({"optimizers": []}, "optimizers must be some of gd, adagrad, rmsprop, adam, not none"),
        ({"model": Own()}, "Own must have init(rng, runs)"),
        ({"model": "mlp"}, "the model must be neuron, linear or mlp:WIDTH[,WIDTH...], not 'mlp'"),
        ({"runs": 0}, "runs must be a whole number from 1 on, not 0"),
        ({"steps": 2.5}, "steps must be a whole number from 1 on, not 2.5"),
        ({"optimizers": {}}, "optimizers must be some of gd, adagrad, rmsprop, adam, not none"),
        ({"lr": 0}, "lr must be a finite number above 0, not 0"),
        ({"lr": {"gdd": 1.0}}, "lr must name some of gd, adagrad, rmsprop, adam, not gdd"),
        ({"data": ([[1.0, 2.0], [2.0, 1.0]], [1, -1, 1])}, "x must be (N, d) and y (N,) with one N"),
    ],
)
def test_a_study_in_a_notebook_tells_mistakes_as_the_command_does(arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        experiments.direction(**{"runs": 2, "steps": 5} | arguments)


def test_a_study_takes_a_name_for_a_list_lists_for_arrays_and_a_model_of_ones_own():
    wanted = {"optimizers": "gd", "forms": "discrete", "runs": 3, "steps": 5}
    one = experiments.direction(model=MLP((2, 1, 1)), data=(X.tolist(), Y.tolist()), **wanted)["results"][0]
    other = experiments.direction(**wanted | {"optimizers": ["gd"], "forms": ["discrete"]})["results"][0]
    np.testing.assert_array_equal(one["w"], other["w"])


@pytest.mark.parametrize("name", optimizers.CONDITIONERS)
def test_the_slides_conditioners_pass_for_any_eps_and_b(name):
    rng = np.random.default_rng(0)
    for _ in range(50):
        conditioner = optimizers.CONDITIONERS[name](10 ** rng.uniform(-60, 8), rng.uniform(0.001, 0.999))
        optimizers.check_conditioner(conditioner)


def test_random_networks_pass_at_any_scale_of_the_data():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = (2, *rng.integers(1, 6, rng.integers(0, 4)), 1)
        Problem(MLP(sizes, rng.uniform()), 10 ** rng.uniform(-40, 40) * X, Y)
        Problem(MLP(sizes), X.astype(np.float32), Y)
