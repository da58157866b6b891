"""Facts about the house: imports run one way, an import changes nothing, studies run from plain Python."""

import ast
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

import crossover
import direction
import experiments
import jobs
import mnist
import starts
from optimizers import CONDITIONERS, GD, AdaGrad, Conditioner

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = {path.stem: ast.parse(path.read_text()) for path in ROOT.glob("*.py")}
# from the rooms that know least to the one that knows all; a room imports only from rooms before it
THEORY = "models datasets solvers kinks minibias optimizers limits cnn training"
ORDER = f"{THEORY} jobs plots direction crossover starts mnist statements claims experiments".split()
STUDIES = {"direction", "crossover", "mnist", "claims"}  # statements speak of starts


def imports(room):
    """The rooms that a room imports at its top, the door of experiments.py apart."""
    names = set()
    for node in ast.walk(ast.Module([n for n in ROOMS[room].body if not isinstance(n, ast.If)], [])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names & set(ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_room_has_its_place_imports_run_one_way_and_no_study_knows_another(room):
    assert imports(room) <= set(ORDER[: ORDER.index(room)])
    assert room not in STUDIES or not imports(room) & STUDIES


EFFECTS = """
import os, sys
import numpy, autograd.numpy, concurrent.futures.process
before = dict(os.environ), list(numpy.geterr().items()), os.listdir(".")
import {rooms}
assert before == (dict(os.environ), list(numpy.geterr().items()), os.listdir("."))
assert "matplotlib" not in sys.modules
"""


def test_an_import_changes_nothing_in_the_process_prints_nothing_and_loads_no_matplotlib():
    """Not the environment, NumPy's error handling, the folder. A worker imports all, and draws nothing."""
    command = [sys.executable, "-B", "-c", EFFECTS.format(rooms=", ".join(ORDER))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_command_line_prints():
    for room, tree in ROOMS.items():
        calls = {getattr(n.func, "id", None) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert "print" not in calls or room == "experiments"


def test_a_study_runs_in_a_notebook_and_its_figure_is_a_figure():
    found = direction.measure(optimizers=["adagrad"], runs=3, steps=20)
    assert [r["form"] for r in found["results"]] == ["discrete", "flow", "limit"]
    assert found["results"][0]["w"].shape == (3, 3)
    assert any("KKT residual" in line for line in direction.table(found))
    assert type(direction.figure(found)).__module__ == "matplotlib.figure"
    assert experiments.direction is direction.measure and experiments.margin is mnist.margin


def test_resumed_numbers_depend_on_every_room_that_training_imports():
    """And on no other: what draws or reads flags may change between a run and its rest."""
    rooms = ["training"]
    for room in rooms:
        rooms += sorted(imports(room) - set(rooms))
    assert [f"{room}.py" for room in ORDER if room in rooms] == jobs.LIBRARY
    assert not {"plots", "experiments", "mnist"} & set(rooms)


def test_a_figure_is_laid_out_also_if_some_optimizer_has_no_limit():
    """With so small an ε the h of RMSProp still moves at log L = -25."""
    found = direction.measure(optimizers=["gd", "rmsprop"], runs=2, steps=5, eps=1e-30)
    gd, rmsprop = (set(r["status"]) for r in found["results"] if r["form"] == "limit")
    assert (gd, rmsprop) == ({"ok"}, {"h still moving"})
    direction.figure(found).draw_without_rendering()  # if this fails it warns, an error by pyproject.toml


@pytest.mark.parametrize("model", ["neuron", "mlp:3", "linear"])
def test_support_vectors_are_the_samples_of_least_margin(model):
    found = direction.measure(optimizers=["gd"], forms=["limit"], runs=2, model=model)
    figure, (r,), (x, y) = direction.figure(found), found["results"], found["data"].values()
    labels = {"support vectors", "GD", "y = +1", "y = -1"}
    (axes,) = (a for a in figure.axes if labels <= set(a.get_legend_handles_labels()[1]))
    rings = [line.get_xydata() for line in axes.lines if line.get_marker() == "o" and line.get_zorder() == 3]
    q = y * found["model"](r["w"] if model == "neuron" else r["w"][:1], x)
    least = (q <= (1 + 1e-6) * q.min(1, keepdims=True)).any(0)
    np.testing.assert_array_equal(rings[0], x[least])


class Norm(AdaGrad):
    """AdaGrad with one sum for all coordinates (Ward, Wu and Bottou 2019)."""

    longest = Conditioner.longest

    def inverse_square(self, S, t):
        return self.eps + S.sum(-1, keepdims=True) + 0 * S


def test_a_conditioner_of_ones_own_is_studied_like_the_four():
    """As an object with its own ε, in other processes too; its h is isotropic, so its limits are L2's."""
    found = direction.measure(optimizers={"gd": GD(), "norm": Norm(1e-4)}, runs=4, steps=10, jobs=2)
    limit = found["results"][-1]
    assert limit["optimizer"] == "norm" and max(limit["kkt_residual_unweighted"]) < 1e-6
    assert any(line.startswith("norm") for line in direction.table(found))
    direction.figure(found)
    np.testing.assert_allclose(np.ptp(limit["h_inf"], axis=1), 0, atol=1e-12)
    assert limit["h_inf"].max() < 1e2  # 1/√ε
    crossed = crossover.measure(optimizers={"norm": Norm()}, epsilons=[1e-3, 1e-2], jobs=2)
    assert {(r["eps"], r["status"]) for r in crossed["results"]} == {(1e-3, "ok"), (1e-2, "ok")}
    crossover.figure(crossed)
    mapped = starts.measure(optimizers={"norm": Norm()}, radii=[1.0], starts=10)
    assert [(r["optimizer"], r["limits"]) for r in mapped["results"]] == [("norm", 2)]
    starts.figure(mapped)


def test_a_name_in_conditioners_is_found_by_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(CONDITIONERS, "norm", Norm)
    flags = ["--optimizers", "norm", "--runs", "2", "--steps", "3", "--jobs", "2", "--out", str(tmp_path)]
    assert experiments.main(["direction", *flags]) == 0


def test_a_study_is_added_by_its_file_and_its_name_at_the_door(monkeypatch, tmp_path, capsys):
    def measure(runs=2, seed=0):
        """A study of one number."""
        return {"results": [{"number": runs + seed}], "model": "not written"}

    study = types.SimpleNamespace(
        measure=measure, table=lambda found: ["a line"], figure=lambda found: Figure()
    )
    monkeypatch.setitem(experiments.STUDIES, "added", study)
    assert experiments.main(["added", "--runs", "3", "--out", str(tmp_path)]) == 0
    assert "a line" in capsys.readouterr().out and (tmp_path / "added.png").exists()
    content = json.loads((tmp_path / "added.json").read_text())
    assert (content["config"]["runs"], content["results"]) == (3, [{"number": 3}]) and "model" not in content
