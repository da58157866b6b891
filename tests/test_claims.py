"""The table of the slides' statements: it holds, and it notices what is wrong."""

import dataclasses
import inspect
import pathlib
import re

import numpy as np
import pytest

import claims
from claims import Case, Qian
from models import LOSSES
from optimizers import CONDITIONERS, GD, AdaGrad, Conditioner, RMSProp


class Outside(RMSProp):
    """ε outside the root."""

    def inverse_square(self, S, t):
        return (np.sqrt(S) + self.eps) ** 2


class OneSum(AdaGrad):
    """AdaGrad with one sum for all coordinates, so that h is isotropic at every time."""

    longest = Conditioner.longest

    def inverse_square(self, S, t):
        return self.eps + S.sum(-1, keepdims=True) + 0 * S


def case(name, conditioner):
    return Case(name, "exp", conditioner(1e-5, 0.9), 0.001 if name == "gd" else 0.1, 0, 5)


# what the tables below are made of; the longest come first, so that two processes end together
SUBJECTS = [case(name, CONDITIONERS[name]) for name in ("adagrad", "adam", "rmsprop", "gd")]
SUBJECTS += [case("onesum", OneSum), case("rmsprop", Outside), case("adagrad", GD)]
SUBJECTS += [Qian(lr, optimizer(1e-8), 2000) for optimizer in (AdaGrad, GD) for lr in claims.QIAN_RATES]
RECORDED = (160, 1600, 2000, 2500, 4000, 5000, 8000, 10_000, 16_000)  # half as many steps as in the study
SLOW = (
    "networks",
    "several",
    "momentum",
    "loss",
    "h_of",
    "h_becomes",
    "discrete",
    "starts",
    "large",
    "limits",
)
JOB = claims.job  # which some tests replace


def key(subject):
    return type(subject.conditioner), str(dataclasses.replace(subject, conditioner=None))


def measure_for_the_tables(subject):
    """A worker's job. Networks and momentum take seconds, those of one optimizer are enough here."""
    whole = isinstance(subject, Qian) or type(subject.conditioner) is AdaGrad
    return measure_lightly(subject, () if whole else SLOW if subject.optimizer == "adagrad" else SLOW[:3])


def measure_lightly(subject, without=SLOW):
    """A worker's job without statements that take seconds."""
    light = [s for s in claims.STATEMENTS["a case"] if not s.__name__.startswith(without)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("claims.RECORDED", RECORDED)
        patch.setitem(claims.STATEMENTS, "a case", light)
        return JOB(subject)


AHEAD = [(measure_for_the_tables, subject) for subject in SUBJECTS]


@pytest.fixture(scope="module")
def measured(computed_ahead):
    """What workers return, by subject: each is measured once, however many tables it stands in."""
    return dict(zip(map(key, SUBJECTS), computed_ahead))


@pytest.fixture
def study(monkeypatch, measured):
    """A small study with the exponential loss, of the conditioners that there are when it is called."""
    monkeypatch.setattr("claims.job", lambda subject: measured[key(subject)])
    monkeypatch.setattr("claims.QIAN_STEPS", 2000)
    return lambda: claims.measure(runs=5, losses=["exp"])


def table(found):
    """Its rows, id -> row."""
    rows = {row["id"]: row for row in found["claims"]}
    assert len(rows) == len(found["claims"])
    return rows


def failing(rows):
    return {name for name, row in rows.items() if row["kind"] == "theorem" and not row["holds"]}


def test_all_theorems_hold(study):
    rows = table(study())
    assert not failing(rows) and len(rows) > 50
    assert "Lyu and Li" in rows["kkt.gd.exp"]["slide"] and "Qian and Qian" in rows["qian.not_l2.0.1"]["slide"]
    assert rows["qian.learning_rate"]["holds"]
    for row in rows.values():
        assert list(row) == ["id", "slide", "statement", "kind", "measured", "relation", "bound", "holds"]
        measured, bound = row["measured"], row["bound"]
        assert row["holds"] == (measured <= bound if row["relation"] == "<=" else measured >= bound)


def test_every_statement_quotes_a_slide_and_is_made_once():
    statements = [statement for some in claims.STATEMENTS.values() for statement in some]
    assert len(set(statements)) == len(statements)
    for statement in statements:
        assert inspect.isgeneratorfunction(statement)
        assert statement.__doc__.startswith('Slide "') and "\n" not in statement.__doc__


def test_the_proof_is_what_the_figure_draws(study):
    found = study()
    proof = found["proof"]
    assert list(proof) == list(CONDITIONERS)
    for m in proof.values():
        times = len(m["log_t"])
        assert m["h"].shape == (times, 3) and len(m["log_loss"]) == len(m["surrogate"]) == times
        assert m["levels"].shape == m["epsilons"].shape == m["deltas"].shape
        assert m["log_loss"][-1] <= -50 and m["epsilons"][3] < m["epsilons"][0]
    assert len(claims.figure(found).axes) == 4


def test_no_case_keeps_its_path(measured):
    """Hundreds of states of all runs, which would go from process to process and fill the memory of one."""
    for subject, _ in measured.values():
        assert "path" not in vars(subject)


def test_epsilon_outside_the_root_breaks_the_rows_about_h_infinity(monkeypatch, study):
    monkeypatch.setitem(CONDITIONERS, "rmsprop", Outside)
    rows = table(study())
    assert {"h_isotropic.flow.rmsprop.exp", "h_isotropic.discrete.rmsprop.exp"} <= failing(rows)
    assert not any(".gd." in name or ".adam." in name for name in failing(rows))


def test_adagrad_with_h_replaced_by_one_breaks_the_row_that_it_is_not_l2(monkeypatch, study):
    monkeypatch.setitem(CONDITIONERS, "adagrad", GD)
    rows = table(study())
    assert {"not_l2.adagrad.exp", "qian.not_l2.0.5"} <= failing(rows)
    assert not rows["qian.learning_rate"]["holds"]
    assert not any(".gd." in name for name in failing(rows)) and not rows["h_varies.adagrad"]["holds"]


def test_a_new_conditioner_is_held_to_what_holds_for_all(monkeypatch, study):
    monkeypatch.setitem(CONDITIONERS, "onesum", OneSum)
    rows = table(study())
    adams = {name for name in rows if name.endswith("adam.exp")}
    isotropic = "h_isotropic.flow", "h_isotropic.discrete", "margin", "starts.isotropic"
    adams -= {f"{name}.adam.exp" for name in isotropic}
    assert {name for name in rows if "onesum" in name} == {name.replace("adam", "onesum") for name in adams}
    assert not failing(rows) and "the weighted problem" in rows["kkt.onesum.exp"]["statement"]


def test_the_rows_are_the_same_whatever_the_jobs(monkeypatch):
    # AdaGrad and one of somebody's own are enough
    monkeypatch.setattr(claims, "CONDITIONERS", {"adagrad": AdaGrad, "onesum": OneSum})
    monkeypatch.setattr("claims.QIAN_STEPS", 200)
    monkeypatch.setattr("claims.job", measure_lightly)
    one, two = (claims.measure(runs=5, jobs=jobs, losses=["exp"]) for jobs in (1, 2))
    assert any("onesum" in row["id"] for row in one["claims"]) and set(one["proof"]) == {"adagrad", "onesum"}
    np.testing.assert_equal(one, two)


def test_qian_and_qian_the_limit_does_not_depend_on_where_the_flow_takes_over(measured):
    """It has an integral for the sum's rest Σ g², t > T: Euler-Maclaurin's next term is g_T²/2 ~ T^-2."""
    early, late = ([Qian(lr, AdaGrad(1e-8), steps) for lr in (0.5, 0.1)] for steps in (500, 2000))
    degrees = [(one.degrees[0], measured[key(other)][0].degrees[0]) for one, other in zip(early, late)]
    np.testing.assert_allclose(degrees, [[29.94, 29.94], [30.30, 30.30]], atol=0.01)


def test_steps_to_separate_are_counted_as_a_loop_would():
    case = Case("adagrad", "exp", AdaGrad(), 0.1, 0, 5)
    w, S, first = case.w0, 0, np.full(5, 5000)
    for t in range(200):
        first = np.where((first == 5000) & (case.problem.margins(w).min(-1) > 0), t, first)
        log_loss, u = case.problem.gradient(w)
        g = np.exp(log_loss)[:, None] * u
        S = S + g * g
        w = w - 0.1 * g / np.sqrt(1e-5 + S)
    assert first.max() < 5000 and case.separation.tolist() == first.tolist()
    assert case.steps_to_separate(AdaGrad(), most=first.max() - 1).max() == first.max() - 1


def statements(page):
    """The claims of a table in Markdown with their bounds, whatever optimizer and loss they are about."""
    rows = re.findall(r"(?m)^\| `(.*?)` \| (?:.*[^\\])?\| ([≤≥] \S+) \| [a-zA-Z ]+ \|$", page)
    assert len(rows) == page.count("\n| `") > 50
    about = rf"\b({'|'.join([*CONDITIONERS, *LOSSES])})\b"
    return {(re.sub(about, "*", name), bound) for name, bound in rows}


def test_the_page_has_the_rows_of_today_each_of_six_cells(study):
    """`docs/claims.md` says how its table is made anew; this fails where that was forgotten."""
    found, page = study(), (pathlib.Path(__file__).parents[1] / "docs" / "claims.md").read_text()
    head, mark, rows = page.partition("\n<!-- the table")
    today = "\n".join(claims.page(found))
    assert mark and "| `" not in head and statements(rows) == statements(today)
    lines = [line for line in today.splitlines() if line.startswith("| `")]
    assert len(lines) == len(found["claims"])
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 7 and "<" not in line, line
