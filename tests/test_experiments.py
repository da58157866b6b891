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
import optimizers
from datasets import default_data, exclusive_or, three_classes
from experiments import main
from limits import margin_path
from minibias import unit

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ["--runs", "4", "--steps", "60", "--jobs", "1"]


def run(out, *flags):
    """Status of a small direction study and its JSON, if it wrote one."""
    status = main(["direction", *SMALL, "--out", str(out), *flags])
    path = out / "direction.json"
    return status, json.loads(path.read_text(), parse_constant=pytest.fail) if path.exists() else None


def without_seconds(content):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in content["results"]]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small study: its folder, what it wrote there, and what it said to stdout and stderr."""
    out, said, errors = tmp_path_factory.mktemp("small"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        status, content = run(out)
    assert status == 0
    return out, content, said.getvalue(), errors.getvalue()


def test_default_study_writes_what_design_says(small):
    out, content, said, errors = small
    assert set(content) == {"config", "versions", "data", "results"}
    assert content["config"]["lr"] == {"gd": 0.001, "adagrad": 0.1, "rmsprop": 0.1, "adam": 0.1}
    assert (
        content["config"]["model"] == "neuron"
        and content["config"]["eps"] == 1e-5
        and content["config"]["data"] is None
    )
    assert set(content["versions"]) == {"python", "numpy", "autograd", "matplotlib"}
    assert [(r["optimizer"], r["form"]) for r in content["results"]] == [
        (o, f) for o in ("gd", "adagrad", "rmsprop", "adam") for f in ("discrete", "flow", "limit")
    ]
    x, y = (np.array(content["data"][k]) for k in "xy")
    for r in content["results"]:
        w, h = np.array(r["w"]), np.array(r["h_inf"])
        assert np.shape(r["w0"]) == w.shape == h.shape == (4, 3)
        z = w[:, :2] @ x.T
        q = y * w[:, 2:] * np.where(z > 0, z, z / 2)
        low = q.min(1, keepdims=True)
        if r["form"] != "limit":
            np.testing.assert_allclose(r["log_loss"], np.log(np.exp(low - q).sum(1)) - low[:, 0], rtol=1e-9)
        else:
            assert (
                r["log_loss"] == [None] * 4 and min(r["log10_log_inverse_loss"]) > 3
            )  # float64 ends at log 1/L = 745
            np.testing.assert_allclose(low, 1, rtol=1e-12)
            assert max(r["direction_error"]) < 1e-10 and max(r["kkt_residual"]) < 1e-10
            assert r["kinks"] == [0] * 4 and max(r["kkt_residual_one_gradient"]) < 1e-10
            assert max(r["last_move"]) < 1e-12
            u = w / np.linalg.norm(w, axis=1, keepdims=True)
            np.testing.assert_allclose(
                np.linalg.norm(u - r["predicted"], axis=1), r["direction_error"], atol=1e-15
            )
            assert (max(r["kkt_residual_unweighted"]) > 0.01) == (r["optimizer"] == "adagrad")
        np.testing.assert_allclose(r["margin"], q.min(1) / (w**2).sum(1), rtol=1e-9)
        assert r["separated"] == (q.min(1) > 0).tolist()
        assert all(
            s == "ok" if good else s == "not separated" for s, good in zip(r["status"], r["separated"])
        )
        assert r["form"] != "flow" or max(r["log_loss"]) <= -50
    picture = (out / "direction.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    assert sorted(p.name for p in out.iterdir()) == ["direction.json", "direction.png"]
    assert str(out / "direction.json") in said and errors == ""


def test_same_seed_same_numbers_whatever_the_jobs(small, tmp_path, unrendered):
    one, two = small[1], run(tmp_path / "2", "--jobs", "2")[1]
    assert without_seconds(one) == without_seconds(two)
    other = without_seconds(run(tmp_path / "s", "--seed", "1", "--optimizers", "gd")[1])
    assert [r["optimizer"] for r in other] == 3 * ["gd"] and other != without_seconds(one)[:3]


def test_more_runs_leave_the_first_ones_alone(tmp_path, unrendered):
    few, many = (run(tmp_path / n, "--runs", n, "--optimizers", "adam")[1]["results"] for n in ("2", "5"))
    for a, b in zip(few, many):
        assert a["w0"] == b["w0"][:2]
        np.testing.assert_allclose(a["w"], b["w"][:2], rtol=1e-9)


def test_a_form_needs_none_of_the_others(small, tmp_path, unrendered):
    flow = run(tmp_path, "--forms", "flow")[1]
    assert [r for r in without_seconds(small[1]) if r["form"] == "flow"] == without_seconds(flow)


@pytest.mark.parametrize("header", [False, True])
def test_own_data_from_csv_and_npz_are_the_same(tmp_path, header, unrendered):
    x, y = default_data(3)
    rows = (["a,b,label"] if header else []) + [f"{a!r},{b!r},{int(c)}" for (a, b), c in zip(x.tolist(), y)]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    np.savez(tmp_path / "points.npz", x=x, y=y.astype(int))
    contents = [
        run(tmp_path / k, "--data", str(tmp_path / f"points.{k}"), "--optimizers", "adagrad")[1]
        for k in ("csv", "npz")
    ]
    assert contents[0]["data"] == contents[1]["data"] == {"x": x.tolist(), "y": y.tolist()}
    assert without_seconds(contents[0]) == without_seconds(contents[1])


@pytest.mark.parametrize(
    "model, d, p", [("linear", 2, 2), ("mlp:3", 2, 9), ("mlp:3,2", 4, 20), ("neuron", 5, 6)]
)
def test_other_models_and_dimensions(tmp_path, model, d, p):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, (8, d)) * np.repeat([[1], [-1]], 4, 0)
    np.savez(tmp_path / "d.npz", x=x, y=np.repeat([1, -1], 4))
    status, content = run(
        tmp_path / "out", "--model", model, "--data", str(tmp_path / "d.npz"), "--optimizers", "adagrad"
    )
    assert status == 0 and np.shape(content["results"][0]["w"]) == (4, p)
    assert (tmp_path / "out" / "direction.png").exists()


def test_three_classes(tmp_path):
    angle = np.repeat([0, 2, 4], 5) + np.linspace(-0.3, 0.3, 15)
    np.savez(tmp_path / "d.npz", x=np.stack([np.cos(angle), np.sin(angle)], 1), y=np.repeat([0, 1, 2], 5))
    flags = ["--model", "linear", "--optimizers", "rmsprop", "--loss", "log"]
    status, content = run(tmp_path, *flags, "--data", str(tmp_path / "d.npz"))
    assert status == 0 and content["results"][1]["separated"] == [True] * 4


def test_runs_that_all_overflow_are_reported_for_several_classes_too(tmp_path):
    np.savez(tmp_path / "huge.npz", x=1e9 * np.array([[1.0, 0], [-1, 1], [-1, -1]]), y=np.arange(3))
    status, content = run(
        tmp_path, "--data", str(tmp_path / "huge.npz"), "--model", "linear", "--optimizers", "adagrad"
    )
    limit = content["results"][-1]
    assert (
        status == 0
        and limit["form"] == "limit"
        and limit["status"] == ["overflow"] * 4
        and limit["direction_error"] == [None] * 4
    )


def test_no_separation_is_said_plainly_and_is_no_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 100)
    (tmp_path / "d.csv").write_text("1,0,1\n1,0,-1\n0,1,1\n")
    status, content = run(tmp_path, "--data", str(tmp_path / "d.csv"))
    assert status == 0 and "no run separates the data" in capsys.readouterr().out
    assert {s for r in content["results"] for s in r["status"]} == {"not separated"}
    limit = content["results"][2]
    assert (
        limit["predicted"] == [[None] * 3] * 4
        and limit["direction_error"] == limit["kkt_residual"] == [None] * 4
    )


def test_limits_of_a_network_on_kinks_are_reached_and_told(tmp_path, capsys, monkeypatch, unrendered):
    """Exclusive or: points on two diagonals."""
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 2000)
    x, y = exclusive_or()
    np.savez(tmp_path / "xor.npz", x=x, y=y)
    flags = [
        "--data",
        str(tmp_path / "xor.npz"),
        "--model",
        "mlp:4",
        "--optimizers",
        "adagrad",
        "--forms",
        "limit",
    ]
    status, content = run(tmp_path, *flags, "--runs", "8")
    (limit,) = content["results"]
    ok = np.array(limit["status"]) == "ok"
    assert status == 0 and ok.sum() >= 4 and set(limit["status"]) <= {"ok", "not separated"}
    residual, one, kinks = (np.array(limit[k])[ok].astype(float) for k in KINK_KEYS)
    assert residual.max() < 1e-10 and np.median(one) > 0.05 and kinks.min() > 0
    printed = capsys.readouterr().out
    assert "runs on kinks" in printed and "log 1/L up to 10^" in printed


KINK_KEYS = ("kkt_residual", "kkt_residual_one_gradient", "kinks")


@pytest.mark.parametrize("slope", ["0", "0.5", "1"])
def test_slope_and_constant_are_used(tmp_path, slope, monkeypatch, unrendered):
    """Two points on one side of 0 on a line, which the constant separates; σ has the slope asked for."""
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 2000)
    (tmp_path / "d.csv").write_text("1,1\n2,-1\n")
    flags = [
        "--data",
        str(tmp_path / "d.csv"),
        "--constant",
        "--slope",
        slope,
        "--model",
        "mlp:2",
        "--runs",
        "12",
    ]
    status, content = run(tmp_path, *flags, "--optimizers", "gd", "--forms", "limit")
    (limit,) = content["results"]
    x, y, w = np.array(content["data"]["x"]), np.array(content["data"]["y"]), np.array(limit["w"])
    assert status == 0 and x.tolist() == [[1, 1], [2, 1]] and content["config"]["slope"] == float(slope)
    ok = np.array(limit["status"]) == "ok"
    z = w[ok, :4].reshape(-1, 2, 2) @ x.T
    q = y * (w[ok, 4:, None] * np.maximum(z, float(slope) * z)).sum(1)
    assert ok.sum() >= 2
    np.testing.assert_allclose(q.min(1), 1, rtol=1e-12)


def test_two_points_and_two_units_give_results_whoever_has_no_prediction(tmp_path, monkeypatch, unrendered):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 1000)
    (tmp_path / "two.csv").write_text("10,2,1\n10,1,-1\n")
    status, content = run(
        tmp_path, "--data", str(tmp_path / "two.csv"), "--model", "mlp:2", "--optimizers", "gd,adagrad"
    )
    assert status == 0
    for r in content["results"]:
        for residual, state in zip(r.get("kkt_residual", ()), r["status"]):
            assert (residual is not None and residual <= 1e-6) == (state == "ok")


def test_an_h_that_has_not_settled_is_said_and_not_guessed(tmp_path, unrendered):
    status, content = run(tmp_path, "--eps", "1e-60", "--optimizers", "rmsprop", "--forms", "limit")
    assert status == 0 and content["results"][0]["status"] == ["h still moving"] * 4
    assert content["results"][0]["predicted"] == [[None] * 3] * 4


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_data_of_other_scales_are_followed_or_reported(tmp_path, scale, monkeypatch, unrendered):
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 500 if scale == 1e4 else 2000)
    x, y = default_data(0)
    np.savez(tmp_path / "d.npz", x=scale * x, y=y)
    status, content = run(tmp_path, "--data", str(tmp_path / "d.npz"), "--forms", "flow")
    assert status == 0
    for r in content["results"]:
        assert scale == 1e4 or r["status"] == ["ok"] * 4
        assert all(
            status in ("overflow", "not separated") or ok for status, ok in zip(r["status"], r["separated"])
        )
        assert np.min(r["h_inf"]) > 0


GOOD = "1,2,1\n-1,-2,-1\n"
BAD_FILES = {
    "missing.csv": (None, "No such file"),
    "folder.csv": ("folder", "is a folder"),
    "empty.csv": ("", "no samples"),
    "header.csv": ("a,b,label\n", "no samples"),
    "word.csv": (GOOD + "1,zwei,1\n", "line 3 holds 'zwei'"),
    "ragged.csv": (GOOD + "1,1\n", "line 3 has 2 columns"),
    "narrow.csv": ("1\n-1\n", "columns"),
    "nan.csv": (GOOD + "nan,1,1\n", "finite"),
    "inf.csv": (GOOD + "inf,1,1\n", "finite"),
    "labels.csv": ("1,2,1\n-1,-2,2\n", "labels"),
    "one.csv": ("1,2,1\n-1,-2,1\n", "labels"),
    "quote.csv": ('1,"2,1\n-1,-2,-1\n', "separated by commas"),
    "cell.csv": (f'1,"{200_000 * "a"}",1\n', "separated by commas"),
    "bars.csv": ("1|2|1\n-1|-2|-1\n", "separated by commas"),
    "huge.csv": ("1e60,2,1\n-1,-2,-1\n", "scale the data"),
    "zero.csv": ("0,0,1\n0,0,-1\n", "scale the data"),
    "binary.csv": (b"\xff\xfe\x00\xd8", "can't decode"),
    "text.npz": ("hello", "whole .npz"),
    "long.npz": ({"x": np.array([[np.longdouble("1e4000")], [1]]), "y": np.array([1, -1])}, "finite"),
    "data.txt": (GOOD, ".npz or .csv"),
    "names.npz": ({"a": np.ones(2)}, "named x and y"),
    "pickle.npz": ({"x": np.array([[None], [1]], object), "y": np.array([1, -1])}, "pickle"),
    "shapes.npz": ({"x": np.ones((3, 2)), "y": np.array([1, -1])}, "must be"),
    "strings.npz": ({"x": np.array([["a"], ["b"]]), "y": np.array([1, -1])}, "real numbers"),
    "complex.npz": ({"x": np.array([[1j], [1]]), "y": np.array([1, -1])}, "real numbers"),
}


@pytest.mark.parametrize("name", [*BAD_FILES, "truncated.npz", "encrypted.npz"])
def test_bad_data_files_end_in_one_line_and_status_2(tmp_path, capsys, name):
    path = tmp_path / name
    content, word = BAD_FILES.get(name, (None, ""))
    if content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        np.savez(path, **content)
    elif name == "truncated.npz":
        x, y = default_data(0)
        np.savez(path, x=x, y=y)
        path.write_bytes(path.read_bytes()[:900])
    elif name == "encrypted.npz":
        np.savez(path, x=np.eye(2), y=np.array([1, -1]))
        content = bytearray(path.read_bytes())
        content[content.find(b"PK\1\2") + 8] |= 1  # the first member's flag in the central directory
        path.write_bytes(content)
    status, result = run(tmp_path / "out", "--data", str(path))
    error = capsys.readouterr().err
    assert status == 2 and result is None
    assert error.startswith("error: ") and error.count("\n") == 1 and name in error and word in error


BAD_FLAGS = """--eps 0|--eps nan|--eps x|--b 1|--slope 2|--runs 0|--steps 1.5|--seed -1|--loss hinge|stray
--optimizers sgd|--optimizers gd,gd|--optimizers |--forms smooth|--model cnn|--model mlp:|--model mlp:3,,2
--step 5|--unknown|--data |--out """


@pytest.mark.parametrize("flags", re.split(r"[|\n]", BAD_FLAGS))
def test_bad_flags_end_in_one_line_and_status_2(tmp_path, capsys, flags):
    (tmp_path / "direction.json").write_text("{}")
    status, result = run(tmp_path, *flags.split(" "))
    error = capsys.readouterr().err
    assert status == 2 and result == {}
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["direction", "--out", "/dev/null/x"]])
def test_bad_commands_end_in_one_line_and_status_2(argv, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_real_process_says_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "experiments.py", "direction", "--eps", "0"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: argument --eps")


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
    said = [
        "",
        "study: 0 of 2 done, 25 %",
        "study: 1 of 2 done, 75 %, about 5 s left",
        "study: 2 of 2 done, 100 %, about 0 s left",
    ]
    clock = iter(range(0, 1000, 10))  # seconds
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress = experiments.Progress("study")
        for shares in (
            [0.0, 0.5],
            [1.0, 0.5],
            [1.0, 1.0],
        ):  # half of the work in ten seconds leaves five for the last quarter
            progress(shares)
        progress([0.0, 0.5], "GD at log L = -3")
        lines = [line.strip() for line in capsys.readouterr().err.split("\r")]
        word = "study: 0 of 2 done, 25 %; GD at log L = -3"
        assert lines == ([*said, word] if terminal else [""])


def test_a_long_flow_says_its_log_loss():
    """To whoever follows the study: here with no second between two words."""
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.SAY_EVERY", -1.0)
        hear = lambda shares, word="": heard.append(word)
        experiments.direction(("gd",), ("flow",), runs=2, report=hear)
        experiments.crossover(("adam",), (1e-5, 1e-3), report=hear)
    assert any(re.fullmatch(r"GD at log L = -4\d\.\d+ after \d+ steps", word) for word in heard)
    assert any(word.startswith("adam, ε = 1e-05, at log L = -") for word in heard)


def test_a_reader_who_stops_reading_the_table_is_no_error(tmp_path):
    command = [sys.executable, "experiments.py", "direction", "--optimizers", "gd", "--runs", "2"]
    flags = ["--forms", "discrete", "--steps", "3", "--out", str(tmp_path)]
    pipe, end = os.pipe()
    os.close(pipe)
    process = subprocess.run([*command, *flags], cwd=ROOT, stdout=end, stderr=subprocess.PIPE, text=True)
    os.close(end)
    assert process.returncode == 0 and not process.stderr and (tmp_path / "direction.json").exists()


SHORT = "direction --optimizers gd --runs 2 --forms discrete --steps 3 --jobs 1".split()


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), RuntimeError("no\nLaTeX")])
def test_a_figure_that_fails_costs_no_number(tmp_path, capsys, monkeypatch, problem):
    def savefig(figure, path, **how):
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    assert main([*SHORT, "--out", str(tmp_path)]) == 2
    said, error = capsys.readouterr()
    assert "normalised margin" in said and json.loads((tmp_path / "direction.json").read_text())["results"]
    assert error.startswith("error: the figure could not be drawn, ") and error.count("\n") == 1
    assert error.endswith(f"; the numbers are in {tmp_path / 'direction.json'}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["direction.json"]


def test_figures_are_drawn_under_matplotlibs_own_defaults(tmp_path):
    """Also where the user's matplotlibrc asks for LaTeX, which need not be there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    command = [sys.executable, "experiments.py", *SHORT, "--out", str(tmp_path / "out")]
    env = os.environ | {"MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "out" / "direction.png").exists()


def test_leftovers_of_killed_processes_are_swept(tmp_path, unrendered):
    dead = tmp_path / f".direction.json.999999999.{'0' * 32}.tmp"
    living = tmp_path / f".direction.json.{os.getpid()}.{'0' * 32}.tmp"
    for leftover in (dead, living):
        leftover.write_text("half")
    run(tmp_path, "--optimizers", "gd")
    assert living.exists() and not dead.exists()


def crossover(out, *flags):
    """Status of a crossover study, its JSON if it wrote one, and (optimizer, ε) -> result."""
    status = main(["crossover", "--jobs", "1", "--out", str(out), *flags])
    path = out / "crossover.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail) if path.exists() else None
    return status, content, {(r["optimizer"], r["eps"]): r for r in content["results"]} if content else None


def crossover_and_files():
    """The same of a study without flags, and its folder, its files' names, its picture and what it said."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()) as said:
        out = pathlib.Path(name)
        found = crossover(out)
        files = sorted(path.name for path in out.iterdir())
        return *found, out, files, (out / "crossover.png").read_bytes(), said.getvalue()


def test_crossover_turns_from_linf_to_l2_later_the_smaller_epsilon(computed_ahead):
    status, content, results, out, files, picture, said = computed_ahead[-1]
    assert status == 0 and set(content) == {"config", "versions", "data", "predictions", "results", "slopes"}
    assert content["config"]["lr"] == {"rmsprop": 1.0, "adam": 1.0} and content["config"]["b"] == 0.9
    assert content["config"]["epsilons"] == [1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3]
    linf, l2 = content["predictions"]["linf"], content["predictions"]["l2"]
    np.testing.assert_allclose(linf["direction"], np.sqrt([0.5, 0.5]), atol=1e-15)
    # at the corner (1, 1) the point (0.3, 1) has the least margin; (1, 3)/√10 gives it and (0.6, 0.9) the
    # same, 3.3/√10
    np.testing.assert_allclose(l2["direction"], np.array([1, 3]) / np.sqrt(10), atol=1e-15)
    np.testing.assert_allclose(l2["margin"], 3.3 / np.sqrt(10), rtol=1e-14)
    np.testing.assert_allclose([linf["margin"], linf["gap"], l2["kkt_residual"]], [1.3, 0, 0], atol=1e-15)
    assert linf["unique"] and content["predictions"]["distance"] >= 0.3
    for optimizer in ("rmsprop", "adam"):
        mine = [results[optimizer, eps] for eps in content["config"]["epsilons"]]
        assert [r["status"] for r in mine] == ["ok"] * 6
        crossings = [r["crossing"] for r in mine]
        assert crossings == sorted(crossings, reverse=True) and min(np.diff(crossings[::-1])) > 2
        assert (
            0.5 < content["slopes"][optimizer] < 0.65
        )  # at the slides' learning rate; the next test has the theory
        for r in mine:
            at, near, far = (np.array(r[key]) for key in ("log_inverse_loss", "distance_linf", "distance_l2"))
            assert len(at) == len(near) == len(far) and at[-1] >= 3 * -np.log(r["eps"])
            assert r["crossing"] == at[near < far][-1]
            assert (
                far[-1] < 0.1 and near[-1] > 0.35
            )  # of 0.46 between the two: what the signs have built fades like 1 / log(1/L)
    assert files == ["crossover.json", "crossover.png"] and picture.startswith(b"\x89PNG")
    assert str(out / "crossover.png") in said


def test_crossover_of_a_slow_learner_is_where_the_theory_has_it(tmp_path, unrendered):
    """With lr << 1 - b the signs lead to w = a (1, 1), 1.3 a = ½ log 1/ε. From there h = 1/√ε and the
    gradient leads along (0.3, 1), the point of least margin, to w = (a + 0.3 s, a + s), as near to the one
    direction as to the other, and log 1/L = 1.3 a + 1.09 s.
    """
    _, content, results = crossover(
        tmp_path, "--lr", "0.01", "--epsilons", "1e-80,1e-40", "--optimizers", "rmsprop"
    )
    middle = np.add(*(content["predictions"][norm]["direction"] for norm in ("linf", "l2")))
    tangent = middle[1] / middle[0]  # (a + s) / (a + 0.3 s)
    s_over_a = (tangent - 1) / (1 - 0.3 * tangent)
    slope = (results["rmsprop", 1e-80]["crossing"] - results["rmsprop", 1e-40]["crossing"]) / np.log(1e40)
    np.testing.assert_allclose(
        slope, (1 + 1.09 / 1.3 * s_over_a) / 2, rtol=0.01
    )  # Euler's steps: 0.1 for each crossing, of 92
    np.testing.assert_allclose(content["slopes"]["rmsprop"], slope, rtol=1e-12)
    half = np.searchsorted(results["rmsprop", 1e-80]["log_inverse_loss"], 80)
    assert results["rmsprop", 1e-80]["distance_linf"][half] < 0.005


def test_gradient_descent_knows_no_epsilon_and_never_crosses(tmp_path, unrendered):
    status, content, results = crossover(tmp_path, "--optimizers", "gd", "--epsilons", "1e-5,1e-3")
    assert status == 0 and content["slopes"] == {"gd": None}
    one, other = (results["gd", eps] for eps in (1e-5, 1e-3))
    assert one["crossing"] is other["crossing"] is None
    few = len(other["distance_l2"])
    assert one["distance_l2"][:few] == other["distance_l2"] and one["distance_l2"][-1] < 0.1


def test_crossover_of_own_data_whatever_the_jobs(tmp_path, capsys, unrendered):
    (tmp_path / "d.csv").write_text("1,0,1\n-1,0,-1\n")  # the second component of w may be anything for ℓ∞
    flags = ["--data", str(tmp_path / "d.csv"), "--epsilons", "1e-3,1e-5", "--loss", "log"]
    one, two = (crossover(tmp_path / n, *flags, "--jobs", n)[1] for n in ("1", "2"))
    assert one["results"] == two["results"] and one["config"]["epsilons"] == [1e-5, 1e-3]
    assert not one["predictions"]["linf"]["unique"] and "may not be the only one" in capsys.readouterr().out
    np.testing.assert_allclose(one["predictions"]["l2"]["direction"], [1, 0], atol=1e-15)


@pytest.mark.parametrize(
    "flags",
    [
        "--epsilons 1e-3",
        "--epsilons 1e-3,1e-3",
        "--epsilons 1e-3,0",
        "--epsilons 1e-3,1e-300",
        "--epsilons 1e-3,",
        "--eps 1e-3",
        "--data missing.csv",
    ],
)
def test_bad_flags_of_crossover_end_in_one_line_and_status_2(tmp_path, capsys, flags):
    status, content, _ = crossover(tmp_path, *flags.split(" "))
    error = capsys.readouterr().err
    assert status == 2 and content is None and error.startswith("error: ") and error.count("\n") == 1


def test_crossover_refuses_data_that_no_line_through_0_separates(tmp_path, capsys):
    (tmp_path / "d.csv").write_text("1,0,1\n1,0,-1\n0,1,1\n")
    status, content, _ = crossover(tmp_path, "--data", str(tmp_path / "d.csv"))
    error = capsys.readouterr().err
    assert status == 2 and content is None and error.count("\n") == 1 and "d.csv: no linear model" in error


@pytest.mark.parametrize("seconds", [0, 1])
def test_ctrl_c_ends_a_command_and_its_workers_at_once(tmp_path, seconds):
    """Where the workers are still importing, and where they have begun; each run would take minutes."""
    flags = ["direction", "--model", "mlp:60,60", "--steps", "1000000", "--jobs", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "experiments.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc")
    while len(workers := children.read_text().split()) < 3:  # two and the resource tracker
        assert process.poll() is None
        time.sleep(0.01)
    loaded = lambda pid: "numpy" in pathlib.Path(f"/proc/{pid}/maps").read_text()
    while sum(map(loaded, workers)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        error = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert (process.returncode, error) == (130, "error: interrupted, no result file was touched\n")
    end = time.monotonic() + 20
    while any(jobs.alive(int(pid)) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (tmp_path / "direction.json").exists()


def linear_limits(scale):
    """Those of GD, RMSProp and Adam on the authors' data times `scale`."""
    x, y = default_data(0)
    study = {"optimizers": ["gd", "rmsprop", "adam"], "forms": ["limit"], "runs": 4, "model": "linear"}
    return experiments.direction(data=(scale * x, y), **study)["results"]


SCALES = [1, 1e-40, 1e-20, 1e14, 1e40]
AHEAD = [(linear_limits, scale) for scale in SCALES] + [(crossover_and_files,)]


@pytest.mark.parametrize("scale", SCALES[1:])
def test_linear_l2_limits_do_not_depend_on_the_scale_of_the_data(scale, computed_ahead):
    """With large data the loss at the start is beyond float64."""
    for one, other in zip(computed_ahead[0], computed_ahead[SCALES.index(scale)]):
        assert other["status"].tolist() == ["ok"] * 4
        np.testing.assert_allclose(other["margin"] / scale, one["margin"], rtol=1e-12)
        np.testing.assert_allclose(unit(other["w"]), unit(one["w"]), atol=1e-12)


def test_what_stopped_a_run_is_called_what_it_is(tmp_path, capsys, monkeypatch, unrendered):
    """A sample of zeros, a loss too large at the start, a start without gradient."""
    monkeypatch.setattr("optimizers.SEPARATES_WITHIN", 500)
    (tmp_path / "zero.csv").write_text("1,2,1\n2,1,1\n0,0,1\n-1,-2,-1\n")
    run(tmp_path, "--data", str(tmp_path / "zero.csv"), "--model", "linear", "--optimizers", "rmsprop")
    assert (
        "not separated, since sample 3 is all zeros: its margin is 0 for every w" in capsys.readouterr().out
    )
    (tmp_path / "hertz.csv").write_text("1.5e14,3e13,1\n2e14,-1e13,1\n-1.2e14,2e13,-1\n-1.8e14,-3e13,-1\n")
    run(tmp_path, "--data", str(tmp_path / "hertz.csv"), "--model", "linear", "--optimizers", "adagrad")
    assert "at the start: float64 cannot follow the loss of data as large as 2e+14" in capsys.readouterr().out
    (tmp_path / "dead.csv").write_text("1,1\n2,-1\n")
    flags = ["--data", str(tmp_path / "dead.csv"), "--slope", "0", "--forms", "flow", "--runs", "20"]
    run(tmp_path, *flags, "--optimizers", "gd")
    assert "have no gradient at their start" in capsys.readouterr().out


def test_a_tiny_margin_in_large_units_has_a_certificate(tmp_path, monkeypatch, unrendered):
    """A time in milliseconds since 1970 beside a signal: w = (0, 1) separates with margins of 0.1."""
    monkeypatch.setattr("crossover.SEPARATES_WITHIN", 100)  # the flow itself would take half a minute
    (tmp_path / "millis.csv").write_text("time,signal,y\n1.7e12,0.1,1\n1.70000006e12,-0.1,-1\n")
    flags = ["--data", str(tmp_path / "millis.csv"), "--epsilons", "1e-5,1e-3", "--optimizers", "gd"]
    status, content, _ = crossover(tmp_path, *flags)
    linf, l2 = content["predictions"]["linf"], content["predictions"]["l2"]
    assert status == 0 and l2["kkt_residual"] < 1e-9
    np.testing.assert_allclose([linf["margin"], l2["margin"]], 0.1, rtol=1e-9)
    np.testing.assert_allclose([linf["direction"], l2["direction"]], [[0, 1], [0, 1]], atol=1e-12)


def test_a_loss_that_overflows_at_the_start_costs_no_linear_limit():
    """Three classes at 300 times the usual scale, where log L is in the hundreds at the start."""
    x, y = three_classes(0)
    study = {"optimizers": ["rmsprop"], "forms": ["flow", "limit"], "runs": 4, "model": "linear"}
    flow, limit = experiments.direction(data=(300 * x, y), **study)["results"]
    assert "overflow" in flow["status"] and set(limit["status"]) == {"ok"}


def test_a_limit_is_sought_where_h_has_settled_though_the_flow_ran_out_of_steps(monkeypatch):
    """From log L = -30 or less it is the limit from -50; form flow says that it has not come to there."""
    study = {"optimizers": ["gd"], "forms": ["flow", "limit"], "runs": 5}
    usual = experiments.direction(**study)["results"][1]
    monkeypatch.setattr(optimizers, "SEPARATES_WITHIN", 100)
    flow, limit = experiments.direction(**study)["results"]
    assert set(flow["status"]) == {"h still moving"} and set(limit["status"]) == {"ok"}
    assert (-50 < flow["log_loss"]).all() and (flow["log_loss"] < -30).all()
    np.testing.assert_allclose(unit(limit["w"]), unit(usual["w"]), rtol=0, atol=1e-10)


def test_a_limit_that_is_not_reached_gives_its_reason(monkeypatch):
    monkeypatch.setattr("direction.margin_path", lambda *args: margin_path(*args, steps=3))
    found = direction.measure(["adagrad"], ["limit"], 2, model="mlp:8")
    (r,) = found["results"]
    some = np.flatnonzero(r["status"] == "still turning")
    assert len(some) and all(r["reason"][some[0]].startswith("out of steps after 3") for k in some)
    assert any(f"run {some[0]}: out of steps after 3, with" in line for line in direction.table(found))
