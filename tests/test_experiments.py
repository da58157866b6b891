"""The command line as a user meets it."""

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import direction
import experiments
import jobs
from datasets import default_data, exclusive_or, three_classes
from experiments import main
from limits import margin_path
from minibias import unit
from models import MLP

ROOT = pathlib.Path(__file__).parents[1]
SHORT = "direction --optimizers gd --runs 2 --forms discrete --steps 3 --jobs 1".split()


def run(out, *flags):
    """What a small direction study writes."""
    assert main(["direction", *"--runs 4 --steps 60 --jobs 1 --out".split(), str(out), *flags]) == 0
    return content_of(out / "direction.json")


def content_of(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def refusal(capsys, *command):
    """The one line with which a command ends, at status 2."""
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def data(folder, *content):
    """Flags that ask for data: the text of a .csv, or x and y of an .npz."""
    if len(content) == 2:
        np.savez(folder / "d.npz", x=content[0], y=content[1])
        return "--data", str(folder / "d.npz")
    (folder / "d.csv").write_text(*content)
    return "--data", str(folder / "d.csv")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small study: its folder, what it wrote there, and what it said to stdout and stderr."""
    out, said, errors = tmp_path_factory.mktemp("small"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        content = run(out)
    return out, content, said.getvalue(), errors.getvalue()


def test_default_study_writes_what_design_says(small):
    out, content, said, errors = small
    assert list(content) == ["config", "versions", "data", "results"]
    config = content["config"]
    assert config["lr"] == {"gd": 0.001, "adagrad": 0.1, "rmsprop": 0.1, "adam": 0.1}
    assert (config["model"], config["eps"], config["data"]) == ("neuron", 1e-5, None)
    assert set(content["versions"]) == {"python", "numpy", "autograd", "matplotlib"}
    assert [(r["optimizer"], r["form"]) for r in content["results"]] == [
        (o, f) for o in ("gd", "adagrad", "rmsprop", "adam") for f in ("discrete", "flow", "limit")
    ]
    x, y = (np.array(content["data"][k]) for k in "xy")
    for r in content["results"]:
        w, h = np.array(r["w"]), np.array(r["h_inf"])
        assert np.shape(r["w0"]) == w.shape == h.shape == (4, 3) and not any("way" in key for key in r)
        z = w[:, :2] @ x.T
        q = y * w[:, 2:] * np.where(z > 0, z, z / 2)
        low = q.min(1, keepdims=True)
        if r["form"] != "limit":
            np.testing.assert_allclose(r["log_loss"], np.log(np.exp(low - q).sum(1)) - low[:, 0], rtol=1e-9)
        else:
            assert r["log_loss"] == [None] * 4 and min(r["log10_log_inverse_loss"]) > 3  # float64 ends at 2.9
            np.testing.assert_allclose(low, 1, rtol=1e-12)
            for name in ("direction_error", "kkt_residual", "kkt_residual_one_gradient"):
                assert max(r[name]) < 1e-10
            assert r["kinks"] == [0] * 4 and max(r["last_move"]) < 1e-12
            error = np.linalg.norm(unit(w) - r["predicted"], axis=1)
            np.testing.assert_allclose(error, r["direction_error"], atol=1e-15)
            assert (max(r["kkt_residual_unweighted"]) > 0.01) == (r["optimizer"] == "adagrad")
        np.testing.assert_allclose(r["margin"], q.min(1) / (w**2).sum(1), rtol=1e-9)
        assert r["separated"] == (q.min(1) > 0).tolist()
        assert r["status"] == ["ok" if good else "not separated" for good in r["separated"]]
        assert r["form"] != "flow" or max(r["log_loss"]) <= -50
    assert (out / "direction.png").stat().st_size > 20_000
    assert sorted(p.name for p in out.iterdir()) == ["direction.json", "direction.png"]
    assert str(out / "direction.json") in said and errors == ""


def test_numbers_depend_on_the_seed_and_not_on_jobs_other_forms_or_more_runs(small, tmp_path, unrendered):
    timeless = lambda content: [r | {"seconds": 0} for r in content["results"]]
    usual, again = timeless(small[1]), lambda *flags: timeless(run(tmp_path, *flags))
    assert again("--jobs", "2") == usual
    assert again("--forms", "flow") == [r for r in usual if r["form"] == "flow"]
    for few, many in zip(again("--runs", "2", "--optimizers", "adam"), usual[-3:], strict=True):
        assert few["w0"] == many["w0"][:2]
        np.testing.assert_allclose(few["w"], many["w"][:2], rtol=1e-9)
    other = again("--seed", "1", "--optimizers", "gd")
    assert [r["optimizer"] for r in other] == 3 * ["gd"] and other[0]["w0"] != usual[0]["w0"]


@pytest.mark.parametrize(
    "model, d, p", [("linear", 2, 2), ("mlp:3", 2, 9), ("mlp:3,2", 4, 20), ("neuron", 5, 6)]
)
def test_own_data_of_any_dimension_are_studied_with_any_model_and_drawn(tmp_path, model, d, p):
    y = np.repeat([1, -1], 4)
    x = np.random.default_rng(0).uniform(0.1, 1, (8, d)) * y[:, None]
    content = run(tmp_path, "--model", model, *data(tmp_path, x, y), "--optimizers", "adagrad")
    assert content["data"] == {"x": x.tolist(), "y": y.tolist()}
    assert np.shape(content["results"][0]["w"]) == (4, p) and (tmp_path / "direction.png").exists()


def test_three_classes_have_linear_limits_though_the_loss_overflows_at_the_start(tmp_path):
    """At 300 times the usual scale log L is in the hundreds there."""
    x, y = three_classes(0)
    flags = "--model linear --optimizers rmsprop".split()
    _, flow, limit = run(tmp_path, *data(tmp_path, 300 * x, y), *flags)["results"]
    assert "overflow" in flow["status"] and set(limit["status"]) == {"ok"}


ZERO = "not separated, since sample 3 is all zeros: its margin is 0 for every w"
LARGE = "4 at the start: float64 cannot follow the loss of data as large as 1e+09"
STOPPED = {  # what is said: table, flags, status
    "no run separates the data": ("1,0,1/1,0,-1/0,1,1", "", "not separated"),
    ZERO: ("1,2,1/2,1,1/0,0,1/-1,-2,-1", "--model linear --optimizers rmsprop", "not separated"),
    LARGE: ("1e9,0,0/-1e9,1e9,1/-1e9,-1e9,2", "--model linear --optimizers adagrad", "overflow"),
    "have no gradient at their start": ("1,1/2,-1", "--slope 0 --forms flow --runs 20 --optimizers gd", ""),
}


@pytest.mark.parametrize("said", STOPPED)
def test_what_stopped_the_runs_is_told_and_is_no_error(tmp_path, capsys, monkeypatch, said):
    """They have no prediction, nor a residual; three classes overflow like two."""
    table, flags, status = STOPPED[said]
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 20_000 if status == "overflow" else 100)
    content = run(tmp_path, *data(tmp_path, table.replace("/", "\n")), *flags.split())
    assert said in capsys.readouterr().out
    for r in content["results"]:
        assert not status or r["form"] == "discrete" or r["status"] == [status] * 4
        if r["form"] == "limit":
            assert {number for goal in r["predicted"] for number in goal} == {None}
            assert r["direction_error"] == r["kkt_residual"] == [None] * 4


def test_limits_of_a_network_on_kinks_are_reached_and_told(tmp_path, capsys, monkeypatch, unrendered):
    """Exclusive or: points on two diagonals."""
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 2000)
    flags = "--model mlp:4 --optimizers adagrad --forms limit --runs 8".split()
    (limit,) = run(tmp_path, *data(tmp_path, *exclusive_or()), *flags)["results"]
    ok = np.array(limit["status"]) == "ok"
    assert ok.sum() >= 4 and set(limit["status"]) <= {"ok", "not separated"}
    keys = "kkt_residual", "kkt_residual_one_gradient", "kinks"
    residual, one, kinks = (np.array(limit[k])[ok].astype(float) for k in keys)
    assert residual.max() < 1e-10 and np.median(one) > 0.05 and kinks.min() > 0
    printed = capsys.readouterr().out
    assert "runs on kinks" in printed and "log 1/L up to 10^" in printed


@pytest.mark.parametrize("slope", ["0", "1"])
def test_slope_and_constant_are_used(tmp_path, slope, monkeypatch, unrendered):
    """Two points on one side of 0 on a line, which the constant separates; σ has the slope asked for."""
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 2000)
    flags = "--constant --model mlp:2 --runs 12 --optimizers gd --forms limit --slope".split()
    content = run(tmp_path, *data(tmp_path, "1,1\n2,-1\n"), *flags, slope)
    (limit,) = content["results"]
    x, y = (np.array(content["data"][k]) for k in "xy")
    assert x.tolist() == [[1, 1], [2, 1]] and content["config"]["slope"] == float(slope)
    ok = np.array(limit["status"]) == "ok"
    q = y * MLP((2, 2, 1), float(slope))(np.array(limit["w"])[ok], x)
    assert ok.sum() >= 2
    np.testing.assert_allclose(q.min(1), 1, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_data_of_other_scales_are_followed_or_reported(tmp_path, scale, monkeypatch, unrendered):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 500 if scale == 1e4 else 2000)
    x, y = default_data(0)
    for r in run(tmp_path, *data(tmp_path, scale * x, y), "--forms", "flow")["results"]:
        assert scale == 1e4 or r["status"] == ["ok"] * 4
        for status, separated in zip(r["status"], r["separated"]):
            assert separated or status in ("overflow", "not separated")
        assert np.min(r["h_inf"]) > 0


BAD_FILES = {
    "missing.csv": (None, "No such file"),
    "folder.csv": ("folder", "is a folder"),
    "header.csv": ("a,b,label\n", "no samples"),
    "ragged.csv": ("1,2,1\n-1,-2,-1\n1,1\n", "line 3 has 2 columns"),
    "huge.csv": ("1e60,2,1\n-1,-2,-1\n", "scale the data"),
    "zero.csv": ("0,0,1\n0,0,-1\n", "scale the data"),
    "text.npz": ("hello", "whole .npz"),
    "long.npz": ({"x": np.array([[np.longdouble("1e4000")], [1]]), "y": [1, -1]}, "finite"),
    "complex.npz": ({"x": [[1j], [1]], "y": [1, -1]}, "real numbers"),
    "encrypted.npz": ({"x": np.eye(2), "y": [1, -1]}, "encrypted"),
    "inseparable.csv": ("1,0,1\n1,0,-1\n0,1,1\n", "no linear model without constant separates"),
    "data.txt": ("1,2,1\n-1,-2,-1\n", ".npz or .csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_files_end_in_one_line_and_status_2(tmp_path, capsys, name):
    path, (content, word) = tmp_path / name, BAD_FILES[name]
    if content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        path.write_text(content)
    elif content:
        np.savez(path, **content)
    if name == "encrypted.npz":
        archive = bytearray(path.read_bytes())
        archive[archive.find(b"PK\1\2") + 8] |= 1  # the first member's flag in the central directory
        path.write_bytes(archive)
    error = refusal(capsys, "crossover", "--data", str(path), "--out", str(tmp_path / "out"))
    assert name in error and word in error and not list((tmp_path / "out").glob("*"))


BAD_FLAGS = """--eps 0|--eps nan|--eps x|--b 1|--slope 2|--runs 0|--steps 1.5|--seed -1|--loss hinge|stray
--optimizers sgd|--optimizers gd,gd|--optimizers |--forms smooth|--model cnn|--model mlp:|--model mlp:3,,2
--step 5|--unknown|--data |--out |--out /dev/null/x
--epsilons 1e-3|--epsilons 1e-3,1e-3|--epsilons 1e-3,0|--epsilons 1e-3,1e-300"""


@pytest.mark.parametrize("flags", re.split(r"[|\n]", BAD_FLAGS))
def test_bad_flags_end_in_one_line_and_status_2(tmp_path, capsys, flags):
    study = "crossover" if "epsilons" in flags else "direction"
    result = tmp_path / f"{study}.json"
    result.write_text("{}")
    refusal(capsys, study, "--out", str(tmp_path), *flags.split(" "))
    assert result.read_text() == "{}"


def test_a_study_must_be_named(capsys):
    refusal(capsys)
    refusal(capsys, "nonsense")


@pytest.mark.parametrize("study", experiments.STUDIES)
def test_help_names_every_flag_and_its_default(capsys, study):
    """All that a study takes is a flag, but what only a notebook needs."""
    with pytest.raises(SystemExit) as stop:
        main([study, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and f"example: python experiments.py {study}" in text and "--out" in text
    for name, default in experiments.parameters(experiments.measure_of(study)).items():
        if name not in ("report", "folder", "losses", "name", "keys", "pairs"):
            assert f"--{'data' if name == 'images' else name}" in text, name
        if isinstance(default, float):
            assert f"({default:g})" in text, name


def test_progress_goes_to_a_terminal_alone_and_tells_the_time_left(monkeypatch, capsys):
    """Half of the work in ten seconds leaves five for the last quarter."""
    said = [
        "",
        "study: 0 of 2 done, 25 %",
        "study: 1 of 2 done, 75 %, about 5 s left",
        "study: 2 of 2 done, 100 %, about 0 s left",
        "study: 0 of 2 done, 25 %; GD at log L = -3",
    ]
    clock = iter(range(0, 1000, 10))  # seconds
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for terminal, expected in ((False, [""]), (True, said)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress = experiments.Progress("study")
        for shares in ([0.0, 0.5], [1.0, 0.5], [1.0, 1.0]):
            progress(shares)
        progress([0.0, 0.5], "GD at log L = -3")
        assert [line.strip() for line in capsys.readouterr().err.split("\r")] == expected


def test_a_long_flow_says_its_log_loss(monkeypatch):
    """To whoever follows the study: here with no second between two words."""
    heard = []
    monkeypatch.setattr("jobs.SAY_EVERY", -1.0)
    hear = lambda shares, word="": heard.append(word)
    experiments.direction(("gd",), ("flow",), runs=2, report=hear)
    experiments.crossover(("adam",), (1e-5, 1e-3), report=hear)
    assert any(re.fullmatch(r"GD at log L = -4\d\.\d+ after \d+ steps", word) for word in heard)
    assert any(word.startswith("adam, ε = 1e-05, at log L = -") for word in heard)


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), RuntimeError("no\nLaTeX")])
def test_a_figure_that_fails_costs_no_number(tmp_path, capsys, monkeypatch, problem):
    def savefig(figure, path, **how):
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    assert main([*SHORT, "--out", str(tmp_path)]) == 2
    said, error = capsys.readouterr()
    assert "normalised margin" in said and content_of(tmp_path / "direction.json")["results"]
    assert error.startswith("error: the figure could not be drawn, ") and error.count("\n") == 1
    assert error.endswith(f"; the numbers are in {tmp_path / 'direction.json'}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["direction.json"]


def test_neither_a_closed_pipe_nor_the_users_matplotlibrc_spoils_a_command(tmp_path):
    """Nobody reads the table, and the matplotlibrc asks for LaTeX, which need not be there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    pipe, end = os.pipe()
    os.close(pipe)
    command, env = [sys.executable, "experiments.py", *SHORT], os.environ | {"MATPLOTLIBRC": str(tmp_path)}
    how = {"cwd": ROOT, "env": env, "stdout": end, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([*command, "--out", str(tmp_path)], **how)
    os.close(end)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "direction.json").exists() and (tmp_path / "direction.png").exists()


def test_leftovers_of_killed_processes_are_swept(tmp_path, unrendered):
    dead, living = (tmp_path / f".a.json.{pid}.{'0' * 32}.tmp" for pid in (999_999_999, os.getpid()))
    for leftover in (dead, living):
        leftover.write_text("half")
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    assert living.exists() and not dead.exists()


def crossover(out, *flags):
    """What a crossover study writes, and (optimizer, ε) -> result."""
    assert main(["crossover", "--jobs", "1", "--out", str(out), *flags]) == 0
    content = content_of(out / "crossover.json")
    return content, {(r["optimizer"], r["eps"]): r for r in content["results"]}


def crossover_without_flags():
    """The same by default, in a folder of its own."""
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        return crossover(pathlib.Path(out))


def test_crossover_turns_from_linf_to_l2_later_the_smaller_epsilon(computed_ahead):
    """At the corner (1, 1) the point (0.3, 1) has the least margin.

    The L2 direction (1, 3)/√10 gives it and (0.6, 0.9) the same, 3.3/√10.
    """
    content, results = computed_ahead[-1]
    assert set(content) == {"config", "versions", "data", "predictions", "results", "slopes"}
    assert content["config"]["lr"] == {"rmsprop": 1.0, "adam": 1.0} and content["config"]["b"] == 0.9
    assert content["config"]["epsilons"] == [1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3]
    linf, l2 = content["predictions"]["linf"], content["predictions"]["l2"]
    np.testing.assert_allclose(linf["direction"], np.sqrt([0.5, 0.5]), atol=1e-15)
    np.testing.assert_allclose(l2["direction"], np.array([1, 3]) / np.sqrt(10), atol=1e-15)
    np.testing.assert_allclose(l2["margin"], 3.3 / np.sqrt(10), rtol=1e-14)
    np.testing.assert_allclose([linf["margin"], linf["gap"], l2["kkt_residual"]], [1.3, 0, 0], atol=1e-15)
    assert linf["unique"] and content["predictions"]["distance"] >= 0.3
    for optimizer in ("rmsprop", "adam"):
        mine = [results[optimizer, eps] for eps in content["config"]["epsilons"]]
        assert [r["status"] for r in mine] == ["ok"] * 6
        assert max(np.diff([r["crossing"] for r in mine])) < -2
        assert 0.5 < content["slopes"][optimizer] < 0.65  # at the slides' lr; the next test has the theory
        for r in mine:
            at, near, far = (np.array(r[key]) for key in ("log_inverse_loss", "distance_linf", "distance_l2"))
            assert len(at) == len(near) == len(far) and at[-1] >= 3 * -np.log(r["eps"])
            assert r["crossing"] == at[near < far][-1]
            assert far[-1] < 0.1 and near[-1] > 0.35  # of 0.46; the signs' share fades like 1 / log(1/L)


def test_crossover_of_a_slow_learner_is_where_the_theory_has_it(tmp_path, unrendered):
    """With lr << 1 - b the signs lead to w = a (1, 1), 1.3 a = ½ log 1/ε. From there h = 1/√ε and the
    gradient leads along (0.3, 1), the point of least margin, to w = (a + 0.3 s, a + s), as near to the one
    direction as to the other, and log 1/L = 1.3 a + 1.09 s.
    """
    flags = "--lr 0.01 --epsilons 1e-80,1e-40 --optimizers rmsprop".split()
    content, results = crossover(tmp_path, *flags)
    early, late = (results["rmsprop", eps] for eps in (1e-40, 1e-80))
    middle = np.add(*(content["predictions"][norm]["direction"] for norm in ("linf", "l2")))
    tangent = middle[1] / middle[0]  # (a + s) / (a + 0.3 s)
    s_over_a = (tangent - 1) / (1 - 0.3 * tangent)
    slope = (late["crossing"] - early["crossing"]) / np.log(1e40)
    np.testing.assert_allclose(slope, (1 + 1.09 / 1.3 * s_over_a) / 2, rtol=0.01)  # Euler: 0.1 of 92
    np.testing.assert_allclose(content["slopes"]["rmsprop"], slope, rtol=1e-12)
    assert late["distance_linf"][np.searchsorted(late["log_inverse_loss"], 80)] < 0.005


def test_gradient_descent_knows_no_epsilon_and_never_crosses(tmp_path, unrendered):
    content, results = crossover(tmp_path, "--optimizers", "gd", "--epsilons", "1e-5,1e-3")
    assert content["slopes"] == {"gd": None}
    one, other = (results["gd", eps] for eps in (1e-5, 1e-3))
    assert one["crossing"] is other["crossing"] is None
    few = len(other["distance_l2"])
    assert one["distance_l2"][:few] == other["distance_l2"] and one["distance_l2"][-1] < 0.1


def test_crossover_of_own_data_whatever_the_jobs(tmp_path, capsys, unrendered):
    """The second component of w may be anything for ℓ∞."""
    flags = [*data(tmp_path, "1,0,1\n-1,0,-1\n"), "--epsilons", "1e-3,1e-5", "--loss", "log"]
    one, two = (crossover(tmp_path, *flags, "--jobs", n)[0] for n in "12")
    assert one["results"] == two["results"] and one["config"]["epsilons"] == [1e-5, 1e-3]
    assert not one["predictions"]["linf"]["unique"] and "may not be the only one" in capsys.readouterr().out
    np.testing.assert_allclose(one["predictions"]["l2"]["direction"], [1, 0], atol=1e-15)


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("seconds", [0, 1])
def test_ctrl_c_ends_a_command_and_its_workers_at_once(tmp_path, seconds):
    """Where the workers are still importing, and where they have begun; each run would take minutes."""
    flags = "--model mlp:60,60 --steps 1000000 --jobs 2 --out".split()
    command = [sys.executable, "experiments.py", "direction", *flags, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    loaded = lambda pid: "numpy" in pathlib.Path(f"/proc/{pid}/maps").read_text()
    try:
        if not children.exists():
            pytest.skip("needs /proc")
        wait_until(lambda: len(children.read_text().split()) == 3, 60)  # two and the resource tracker
        workers = children.read_text().split()
        wait_until(lambda: sum(map(loaded, workers)) == 2, 60)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert (process.returncode, error) == (130, "error: interrupted, no result file was touched\n")
    wait_until(lambda: not any(jobs.alive(int(pid)) for pid in workers), 20)
    assert not (tmp_path / "direction.json").exists()


def linear_limits(scale):
    """Those of GD, RMSProp and Adam on the authors' data times `scale`."""
    x, y = default_data(0)
    study = {"optimizers": ["gd", "rmsprop", "adam"], "forms": ["limit"], "runs": 4, "model": "linear"}
    return experiments.direction(data=(scale * x, y), **study)["results"]


SCALES = [1, 1e-40, 1e-20, 1e14, 1e40]
AHEAD = [(linear_limits, scale) for scale in SCALES] + [(crossover_without_flags,)]


@pytest.mark.parametrize("scale", SCALES[1:])
def test_linear_l2_limits_do_not_depend_on_the_scale_of_the_data(scale, computed_ahead):
    """With large data the loss at the start is beyond float64."""
    for one, other in zip(computed_ahead[0], computed_ahead[SCALES.index(scale)]):
        assert other["status"].tolist() == ["ok"] * 4
        np.testing.assert_allclose(other["margin"] / scale, one["margin"], rtol=1e-12)
        np.testing.assert_allclose(unit(other["w"]), unit(one["w"]), atol=1e-12)


def test_a_tiny_margin_in_large_units_has_a_certificate(tmp_path, monkeypatch, unrendered):
    """A time in milliseconds since 1970 beside a signal: w = (0, 1) separates with margins of 0.1."""
    monkeypatch.setattr("crossover.SEPARATES_WITHIN", 100)  # the flow itself would take half a minute
    flags = data(tmp_path, "time,signal,y\n1.7e12,0.1,1\n1.70000006e12,-0.1,-1\n")
    content, _ = crossover(tmp_path, *flags, "--epsilons", "1e-5,1e-3", "--optimizers", "gd")
    linf, l2 = content["predictions"]["linf"], content["predictions"]["l2"]
    assert l2["kkt_residual"] < 1e-9
    np.testing.assert_allclose([linf["margin"], l2["margin"]], 0.1, rtol=1e-9)
    np.testing.assert_allclose([linf["direction"], l2["direction"]], [[0, 1], [0, 1]], atol=1e-12)


def test_a_limit_is_sought_where_h_has_settled_though_the_flow_ran_out_of_steps(monkeypatch):
    """From log L = -30 or less it is the limit from -50; form flow says that it has not come to there."""
    study = {"optimizers": ["gd"], "forms": ["flow", "limit"], "runs": 5}
    usual = experiments.direction(**study)["results"][1]
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 100)
    flow, limit = experiments.direction(**study)["results"]
    assert set(flow["status"]) == {"h still moving"} and set(limit["status"]) == {"ok"}
    assert (-50 < flow["log_loss"]).all() and (flow["log_loss"] < -30).all()
    np.testing.assert_allclose(unit(limit["w"]), unit(usual["w"]), rtol=0, atol=1e-10)


def test_a_limit_that_is_not_reached_gives_its_reason(monkeypatch):
    monkeypatch.setattr("direction.margin_path", lambda *args: margin_path(*args, steps=3))
    found = direction.measure(["adagrad"], ["limit"], 2, model="mlp:8")
    (r,) = found["results"]
    some = np.flatnonzero(r["status"] == "still turning")
    assert len(some) and all(r["reason"][k].startswith("out of steps after 3") for k in some)
    assert any(f"run {some[0]}: out of steps after 3, with" in line for line in direction.table(found))
