"""The slides' statements as a table of claims.

The statements stand in `theorems.py` and `discussions.py`, each beside what it measures.

To add a statement, write its generator and name it in STATEMENTS. What it asserts of every conditioner must
hold for one that somebody adds to CONDITIONERS. What it asserts of some alone asks for their names.
"""

import discussions
import theorems
from cases import Case, Qian
from checks import learning_rates
from losses import LOSSES
from optimizers import CONDITIONERS
from runs import silent, spread

QIAN_RATES, QIAN_STEPS = (0.5, 0.1), 100_000  # Qian and Qian's learning rates; they went on to 1e8 steps


def claims(seed=0, eps=1e-5, b=0.9, lr=None, runs=100, jobs=1, losses=None, report=silent):
    """Measure every statement of the slides that a computer can check: a dict of "claims" and "proof".

    lr       of the discrete update: a dict of learning rates, those that it lacks are 0.1, and 0.001 for gd;
             or a number for all
    runs     initialisations of the neuron; networks have ten
    losses   some of LOSSES; None takes all
    jobs     processes; `report` hears how far they are, as in `runs.spread`

    The claims are a list of `row`s. The proof is what the figure shows of each optimizer:
    the `Case.proof` of run 0 with the exponential loss.
    """
    rates, losses = learning_rates(CONDITIONERS, lr, 0.1, gd=0.001), tuple(losses or LOSSES)
    subjects = [
        Case(optimizer, loss, conditioner(eps, b), rates[optimizer], seed, runs)
        for optimizer, conditioner in CONDITIONERS.items()
        for loss in losses
    ]
    subjects += [Qian(rate, CONDITIONERS["adagrad"](1e-8), QIAN_STEPS) for rate in QIAN_RATES]
    measured = spread(measure, subjects, jobs, report)
    cases, examples = ([(m, rows) for m, rows in measured if isinstance(m, kind)] for kind in (Case, Qian))
    adagrad = {case.loss: case for case, _ in cases if case.optimizer == "adagrad"}
    beside = [(case, adagrad[loss]) for loss in losses for case, _ in cases if case.loss == loss]

    rows = made("the models", seed) + [row for _, rows in cases for row in rows]
    rows += [row for pair in beside for row in made("a case beside AdaGrad's", *pair)]
    rows += [row for _, rows in examples for row in rows]
    rows += made("two examples", *(example for example, _ in examples))
    for case, other in beside:
        rows += made("a case in experiments", case, other) if case.loss == "exp" else []
    return {"claims": rows, "proof": {case.optimizer: case.proof for case, _ in cases if case.loss == "exp"}}


def measure(subject):
    """A worker's job: the case or example, which remembers what it measured, and the rows about it alone."""
    rows = made(subject.about, subject)
    subject.conclude()
    return subject, rows


def made(about, *subject):
    """The rows of the statements that STATEMENTS has under `about`, when they are made of this subject."""
    return [row for statement in STATEMENTS[about] for row in statement(*subject)]


# The table's order. Statements stand under what they are about, and are made one after the other.
STATEMENTS = {
    "the models": (theorems.models_are_homogeneous,),
    "a case": (
        theorems.loss_tends_to_zero,
        theorems.h_of_adagrad_converges,
        discussions.adagrad_does_not_maximise_the_margin,
        theorems.h_becomes_isotropic,
        theorems.squared_gradients_are_integrable,
        theorems.v_obeys_an_adaptive_gradient_flow,
        theorems.beta_tends_to_one,
        theorems.surrogate_margin_is_bounded_below,
        theorems.kkt_defects_tend_to_zero,
        theorems.limit_is_a_kkt_point,
        theorems.networks_tend_to_kkt_points,
        theorems.limits_are_the_flows_own,
        theorems.several_classes,
        theorems.discrete_update_heads_for_a_kkt_point,
        discussions.momentum_changes_no_rate,
        discussions.starts_over_a_sphere,
        discussions.large_epsilon_turns_adagrad_into_gd,
    ),
    "a case beside AdaGrad's": (discussions.margin_is_at_least_adagrads,),
    "an example": (discussions.direction_of_adagrad_for_a_linear_model,),
    "two examples": (discussions.direction_of_adagrad_depends_on_the_learning_rate,),
    "a case in experiments": (
        discussions.directions_of_h,
        discussions.forgetting_and_epsilon_speed_training_up,
    ),
}
