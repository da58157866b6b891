"""The studies on MNIST: image files, runs that are killed and go on, jobs and Dask, the verdicts."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import pytest
from test_datasets import images

import jobs
import mnist
from experiments import main
from mnist import answers, at_level, verdict

ROOT = pathlib.Path(__file__).parents[1]
TINY = "--train 20 --test 20 --width 2,3,8 --steps 60 --seeds 1 --optimizers adagrad,rmsprop".split()


BAD_NPZ = {
    "names": ({"x": np.zeros(3)}, "arrays named x_train"),
    "shape": (images(40) | {"x_train": np.zeros((40, 784), np.uint8)}, "(N, 28, 28)"),
    "scalar": (images(40) | {"x_train": np.uint8(3)}, "(N, 28, 28)"),
    "float": (images(40) | {"x_train": np.zeros((40, 28, 28))}, "whole numbers"),
    "pickle": (images(40) | {"y_train": np.array([None] * 40)}, "pickle"),
    "pixels": (images(40) | {"x_test": np.full((12, 28, 28), 256)}, "0..255"),
    "labels": (images(40) | {"y_train": np.arange(40) % 11}, "0..9"),
    "negative": (images(40) | {"y_test": np.full(12, -1)}, "0..9"),
    "few": (images(20), "asks for more"),
    "classes": (images(40) | {"y_train": np.arange(40) % 9}, "lack 9"),
}


@pytest.mark.parametrize("name", [*BAD_NPZ, "text", "truncated", "missing", "npy", "empty folder"])
def test_bad_image_files_end_in_one_line_and_status_2(tmp_path, capsys, name):
    path, out = tmp_path / "mnist.npz", tmp_path / "out"
    if name == "empty folder":
        path.mkdir()
    elif name == "text":
        path.write_text("hello")
    elif name == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif name != "missing":
        np.savez(path, **BAD_NPZ.get(name, (images(40), ""))[0])
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    assert main(f"margin --data {path} --train 30 --test 12 --out {out}".split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(path) in error
    assert BAD_NPZ.get(name, (0, ""))[1] in error and not list(out.glob("*"))


BAD_FLAGS = """
margin --width 8,16
margin --width 8,0,4
margin --train 0
margin --epsilons 1,2
epsilon --epsilons 1e-3
epsilon --epsilons 1,1
epsilon --epsilons 0,1
epsilon --eps 1
margin --train 5001
margin --dask nowhere
margin --out /dev/null/x
"""


@pytest.mark.parametrize("flags", [*BAD_FLAGS.split("\n")[1:-1], "margin --steps 1" + 400 * "0"])
def test_bad_flags_end_in_one_line_and_status_2(tmp_path, capsys, flags):
    pytest.importorskip("distributed")
    study, *flags = flags.split(" ")
    assert main([study, "--out", str(tmp_path), *TINY, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_dask_without_its_package_names_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["margin", *TINY, "--dask", "tcp://127.0.0.1:1", "--out", str(tmp_path)]) == 2
    assert "pip install distributed" in capsys.readouterr().err


def without_seconds(path):
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(content) == {"config", "versions", "results", "answers"}
    for result in content["results"]:
        assert result.pop("seconds") > 0
    return content["results"], content["answers"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The study of the tiny network, in this process."""
    out = tmp_path_factory.mktemp("tiny")
    assert main(["margin", *TINY, "--jobs", "1", "--flow", "--out", str(out)]) == 0
    return out


def test_margin_writes_what_design_says(tiny):
    content = json.loads((tiny / "margin.json").read_text(), parse_constant=pytest.fail)
    wanted = {"width": [2, 3, 8], "train": 20, "flow": True, "dask": None, "loss": "log", "data": None}
    assert wanted | {"lr": {"adagrad": 0.01, "rmsprop": 0.01}} == {
        name: content["config"][name] for name in [*wanted, "lr"]
    }
    discrete = [r for r in content["results"] if r["form"] == "discrete"]
    assert [(r["optimizer"], r["seed"]) for r in discrete] == [("adagrad", 0), ("rmsprop", 0)]
    for r in content["results"]:
        assert len({len(r[name]) for name in mnist.RECORDS}) == 1 and r["eps"] == 1e-5
        assert r["step"] == sorted(set(r["step"]))
        for margin, accuracy in zip(r["margin"], r["train_accuracy"]):
            assert (margin > 0) == (accuracy == 1)
        assert r["form"] != "flow" or r["log_loss"][-1] < -1000
    assert all(r["step"][0] == 1 and r["step"][-1] == 60 for r in discrete)
    for a in content["answers"]:
        assert a["answer"] in ("shown", "opposite", "not distinguishable")
        assert len(a["differences"]) == len(a["seeds"])
    assert (tiny / "margin.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tiny.iterdir()) == ["margin.json", "margin.png", "margin.runs"]


def test_seeds_that_recorded_different_steps_are_drawn_together(tmp_path):
    flags = ["margin", *TINY, "--train", "40", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    assert main(flags) == 0
    results = json.loads((tmp_path / "margin.json").read_text())["results"]
    assert len({tuple(r["step"]) for r in results}) > 1


def test_jobs_do_not_show(tiny, tmp_path, unrendered):
    assert main(["margin", *TINY, "--jobs", "2", "--flow", "--out", str(tmp_path)]) == 0
    assert without_seconds(tmp_path / "margin.json") == without_seconds(tiny / "margin.json")


IN_PIECES = "import experiments as e, jobs, sys; jobs.CHECKPOINT_EVERY = 0.05; sys.exit(e.main(sys.argv[1:]))"


def start(*flags):
    """The study in a real process, with checkpoints every 0.05 seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", IN_PIECES, *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def checkpoints(out):
    """The checkpoints and their times, without the hidden files that are being written."""
    return {path: path.stat().st_mtime_ns for path in (out / "margin.runs").glob("[!.]*")}


def test_killed_at_two_moments_it_ends_with_the_same_numbers(tiny, tmp_path, monkeypatch, unrendered):
    flags = ["margin", *TINY, "--jobs", "2", "--flow", "--out", str(tmp_path)]
    for pause in (0.0, 0.25):
        before, process = checkpoints(tmp_path), start(*flags)
        while process.poll() is None and checkpoints(tmp_path) == before:
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    seen = checkpoints(tmp_path)
    assert seen and not (tmp_path / "margin.json").exists()
    time.sleep(0.5)  # ten pieces
    assert checkpoints(tmp_path) == seen  # whatever the killed process left behind does not write
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0.05)
    assert main([*flags, "--jobs", "1"]) == 0
    assert without_seconds(tmp_path / "margin.json") == without_seconds(tiny / "margin.json")
    assert not list(tmp_path.rglob(".*.tmp"))


def test_finished_runs_are_not_repeated_unless_asked_and_damaged_ones_are(
    tiny, tmp_path, monkeypatch, unrendered
):
    calls, job = [], mnist.train_run

    def counted(task, state, seconds):
        calls.append((task["optimizer"], task["seed"], task["form"]))
        return job(task, state, seconds)

    monkeypatch.setattr(mnist, "train_run", counted)
    tiny = pathlib.Path(shutil.copytree(tiny, tmp_path / "tiny"))
    flags = ["margin", *TINY, "--jobs", "1", "--flow", "--out", str(tiny)]
    before = without_seconds(tiny / "margin.json")
    (tiny / "margin.json").write_text("damaged")
    assert main(flags) == 0 and calls == [] and without_seconds(tiny / "margin.json") == before
    damaged = tiny / "margin.runs" / "rmsprop-1e-05-0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(flags) == 0 and calls == [("rmsprop", 0, "discrete")]
    assert without_seconds(tiny / "margin.json") == before
    calls.clear()
    adagrad = ["margin", *TINY, "--jobs", "1", "--optimizers", "adagrad", "--out", str(tmp_path)]
    for extra, count in (([], 1), ([], 1), (["--fresh"], 2), (["--b", "0.8"], 3)):
        assert (
            main([*adagrad, *extra]) == 0 and len(calls) == count
        )  # a finished run counts, if all is as it was


def test_workers_stop_when_their_parent_is_gone(tmp_path):
    process = start("margin", "--jobs", "2", "--train", "2000", "--out", str(tmp_path))
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc")
    while len(workers := [int(pid) for pid in children.read_text().split()]) < 3:  # and a resource tracker
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stderr.close()
    dead = lambda pid: not jobs.alive(pid) or "Z" in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]
    end = time.monotonic() + 20
    while not all(map(dead, workers)):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_dask_cluster_gives_the_same_numbers(tiny, tmp_path, unrendered):
    """A real scheduler and two workers, which find the library only through what they are sent."""
    pytest.importorskip("distributed")
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    silence = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    contact = tmp_path / "scheduler.json"  # the workers wait for it

    def begin(program, *flags):
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *flags]
        command += ["--scheduler-file", str(contact)]
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | one_thread, **silence)

    cluster = [begin("dask_worker", "--no-nanny", "--nthreads", "1") for _ in range(2)]
    cluster.append(begin("dask_scheduler", "--port", "0", "--host", "127.0.0.1"))
    try:
        while not contact.exists():
            assert cluster[-1].poll() is None
            time.sleep(0.05)
        address = json.loads(contact.read_text())["address"]
        assert main(["margin", *TINY, "--dask", address, "--flow", "--out", str(tmp_path / "out")]) == 0
    finally:
        for process in cluster:
            process.kill()
            process.wait()
    assert without_seconds(tmp_path / "out" / "margin.json") == without_seconds(tiny / "margin.json")


def test_epsilon_writes_one_result_per_run_and_its_answers(tmp_path):
    flags = "--jobs 1 --optimizers rmsprop --epsilons 1,1e-3 --seeds 1 --steps 4"  # too few to separate
    assert main(["epsilon", *TINY, *flags.split(), "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "epsilon.json").read_text(), parse_constant=pytest.fail)
    assert [r["eps"] for r in content["results"]] == content["config"]["epsilons"] == [1e-3, 1.0]
    verdicts = {(a["answer"], a["standard_error"]) for a in content["answers"]}
    assert verdicts == {("not distinguishable", None)}  # one seed shows nothing
    assert (tmp_path / "epsilon.png").stat().st_size > 10_000


def test_epsilon_is_drawn_with_the_flow_though_some_seeds_do_not_separate(tmp_path):
    columns = {"step": [1, 2], "margin": [-1, 1e-5], "log_loss": [3.0, -1]}
    columns |= {"train_accuracy": [0.5, 1], "test_accuracy": [0.4, 0.9]}
    result = {"optimizer": "adam", "seconds": 1.0} | {name: np.array(a) for name, a in columns.items()}
    result |= dict.fromkeys(mnist.ALIGNED, np.array([0.6, 0.5], object))
    found = [*product((0.1, 1.0), (0, 1), ("discrete", "flow"))][:-1]
    summary = mnist.summarise(
        [result | {"eps": eps, "seed": seed, "form": form} for eps, seed, form in found]
    )
    assert all(set(row["alignment"]) == {0.6 if row["form"] == "flow" else 0.5} for row in summary)
    mnist.figure_of_epsilons(summary).savefig(tmp_path / "epsilon.png")
    assert (tmp_path / "epsilon.png").read_bytes().startswith(b"\x89PNG")


LIMIT = {"train": 20, "test": 20, "width": (2, 3, 8), "steps": 60, "seeds": 1, "residual": 0.3}


@pytest.fixture(scope="module")
def limit(tmp_path_factory):
    """The tiny network's way to its limit, up to a residual of 0.3."""
    return mnist.margin(("gd", "rmsprop"), limit=True, folder=tmp_path_factory.mktemp("limit"), **LIMIT)


def test_form_limit_records_what_design_says(limit, tmp_path):
    assert {r["form"] for r in limit["results"]} == {"discrete", "flow", "limit"}
    flow, end = (next(r for r in limit["results"] if r["form"] == form) for form in ("flow", "limit"))
    assert -100 < flow["log_loss"][-1] < -60 and "log_loss" not in end
    assert end["status"] == "ok" and end["residual"][-1] <= 0.3 and end["delta"] == [1e-3, 1e-5]
    assert len(end["kkt_residual"]) == len(end["kkt_residual_unweighted"]) == 2
    far = end["log10_log_inverse_loss"]
    assert (np.diff(far) > 0).all() and 10 ** far[0] == pytest.approx(-flow["log_loss"][-1], rel=0.2)
    # the weighted margin never falls along the margin flow: that is what it climbs
    assert (np.diff(end["margin_weighted"]) > -1e-9 * end["margin_weighted"][:-1]).all()
    assert end["margin"][0] == pytest.approx(flow["margin"][-1])
    lines = "\n".join(mnist.table(limit))
    assert "with h = 1" in lines and "limit form, last step" not in lines  # AdaGrad was not asked for
    mnist.figure(limit).savefig(tmp_path / "limit.png")


def test_a_way_to_the_limit_that_is_killed_ends_with_the_same_numbers(limit, tmp_path, monkeypatch):
    """Pieces and multipliers are in the checkpoint: it goes on to the last bit."""
    job = mnist.train_run

    def killed(task, saved, seconds):
        if task["form"] == "limit" and saved and saved["steps"] >= 12:
            raise KeyboardInterrupt
        return job(task, saved, 0.0 if task["form"] == "limit" else seconds)  # one step

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mnist, "train_run", killed)
        mnist.margin(("gd", "rmsprop"), limit=True, folder=tmp_path, **LIMIT)
    again = mnist.margin(("gd", "rmsprop"), limit=True, folder=tmp_path, **LIMIT)
    for one, other in zip(again["results"], limit["results"]):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_limit_that_is_not_reached_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("training.LIMIT_STEPS", 3)
    found = mnist.margin(("rmsprop",), limit=True, folder=tmp_path, **LIMIT | {"residual": 1e-9})
    assert found["results"][-1]["status"] == "still turning"
    assert any("3 steps: still turning, with a residual of" in line for line in mnist.table(found))


SHOWN = [[1, 1, 1], [1, 2, 3], [0.16, 1, 1.84]]
NEITHER = [[0.11, 1, 1.89], [5, 6, -0.1], [1, 0.01, 0.01], [0, 1, 1], [0, 0, 0], [7]]


def test_verdicts_follow_the_rule():
    """All of the claimed sign, and the mean above twice its standard error: 0.34 < 2 * 0.33 is not."""
    of = lambda differences, sign=1: verdict(sign * np.array(differences, float))[0]
    assert {of(d) for d in SHOWN} == {"shown"} and {of(d, -1) for d in SHOWN} == {"opposite"}
    assert {of(d) for d in NEITHER} == {"not distinguishable"}


def test_values_at_a_training_loss_are_linear_between_records_and_from_the_first_fall():
    result = {"log_loss": np.array([5.0, 1, 3, -1, -2]), "margin": np.array([0.0, 4, 2, 6, 9])}
    values = [at_level(result, "margin", level) for level in (9.0, 2.0, 0.0, -1.0, -1.5, -2.0, -9.0)]
    assert values == [0, 3, 5, 6, 7.5, 9, 9]


def test_answers_pair_the_seeds_and_compare_at_the_last_step_and_at_the_same_loss():
    def run(optimizer, seed, log_loss, margin):
        columns = {"margin": [0.0, margin], "test_accuracy": [0.5, 0.5], "log_loss": [2.0, log_loss]}
        about = {"optimizer": optimizer, "eps": 1.0, "seed": seed, "form": "discrete"}
        return about | {name: np.array(a) for name, a in columns.items()}

    results = [run("adam", s, -2.0, 4.0 + s) for s in range(3)]
    results += [run("adagrad", s, 0.0, 3.0 + s) for s in range(3)]
    rows = answers(results, "discrete", "larger", ("adam", 1.0), ("adagrad", 1.0))
    last, same, *accuracy = rows
    assert last["differences"].tolist() == [1, 1, 1] and last["answer"] == "shown"
    assert same["differences"].tolist() == [2 - 3, 2.5 - 4, 3 - 5] and same["answer"] == "opposite"
    assert {row["answer"] for row in accuracy} == {"not distinguishable"}
