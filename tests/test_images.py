"""The studies on MNIST: image files, runs that are killed and go on, Dask, the verdicts."""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import jobs
import mnist
from experiments import main
from mnist import answers, at_level, verdict

ROOT = pathlib.Path(__file__).parents[1]
TINY = "--train 20 --test 20 --width 2,3,8 --steps 60 --seeds 1 --optimizers adagrad,rmsprop".split()

GOOD = {"x_train": np.zeros((40, 28, 28), int), "y_train": np.arange(40) % 10}
GOOD |= {"x_test": np.zeros((12, 28, 28), int), "y_test": np.arange(12) % 10}
BAD_NPZ = {
    "names": ({"x": np.zeros(3)}, "arrays named x_train"),
    "scalar": (GOOD | {"x_train": 3}, "(N, 28, 28)"),
    "float": (GOOD | {"x_train": np.zeros((40, 28, 28))}, "whole numbers"),
    "pixels": (GOOD | {"x_test": np.full((12, 28, 28), 256)}, "0..255"),
    "labels": (GOOD | {"y_test": np.full(12, -1)}, "0..9"),
    "few": (GOOD | {"x_train": GOOD["x_test"], "y_train": GOOD["y_test"]}, "asks for more"),
    "classes": (GOOD | {"y_train": np.arange(40) % 9}, "lack 9"),
    "folder": (None, "the four IDX files"),
    "missing": (None, "No such file"),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_bad_image_files_end_in_one_line_and_status_2(tmp_path, capsys, name):
    path, (arrays, word) = tmp_path / "mnist.npz", BAD_NPZ[name]
    if arrays:
        np.savez(path, **arrays)
    elif name == "folder":
        path.mkdir()
    flags = ["--data", str(path), "--train", "30", "--test", "12", "--out", str(tmp_path / "out")]
    assert main(["margin", *flags]) == 2 and not list((tmp_path / "out").glob("*"))
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(path) in error and word in error


BAD_FLAGS = f"""margin --width 8,16|margin --width 8,0,4|margin --train 0|margin --train 5001|margin --seeds 0
margin --epsilons 1,2|epsilon --epsilons 1e-3|epsilon --epsilons 1,1|epsilon --epsilons 0,1|epsilon --eps 1
margin --steps 1{400 * "0"}|margin --dask nowhere|margin --out /dev/null/x"""


@pytest.mark.parametrize("flags", BAD_FLAGS.replace("\n", "|").split("|"))
def test_bad_flags_end_in_one_line_and_status_2(tmp_path, capsys, flags):
    pytest.importorskip("distributed")
    study, *flags = flags.split()
    assert main([study, "--out", str(tmp_path), *TINY, *flags]) == 2 and not list(tmp_path.glob("*.json"))
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_dask_without_its_package_names_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["margin", *TINY, "--dask", "tcp://127.0.0.1:1", "--out", str(tmp_path)]) == 2
    assert "pip install distributed" in capsys.readouterr().err


def written(out, study="margin"):
    """What a study wrote, which must be JSON without NaN."""
    return json.loads((out / f"{study}.json").read_text(), parse_constant=pytest.fail)


def without_seconds(out):
    content = written(out)
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
    content = written(tiny)
    wanted = {"width": [2, 3, 8], "train": 20, "flow": True, "dask": None, "loss": "log", "data": None}
    wanted |= {"lr": {"adagrad": 0.01, "rmsprop": 0.01}}
    assert wanted.items() <= content["config"].items()
    discrete = [r for r in content["results"] if r["form"] == "discrete"]
    assert [(r["optimizer"], r["seed"]) for r in discrete] == [("adagrad", 0), ("rmsprop", 0)]
    assert all(r["step"][0] == 1 and r["step"][-1] == 60 for r in discrete)
    for r in content["results"]:
        assert len({len(r[name]) for name in mnist.RECORDS}) == 1 and r["eps"] == 1e-5
        assert r["step"] == sorted(set(r["step"]))
        assert [margin > 0 for margin in r["margin"]] == [share == 1 for share in r["train_accuracy"]]
        assert r["form"] == "discrete" or r["log_loss"][-1] < -1000
    for a in content["answers"]:
        assert a["answer"] in ("shown", "opposite", "not distinguishable")
        assert len(a["differences"]) == len(a["seeds"])
    assert (tiny / "margin.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tiny.iterdir()) == ["margin.json", "margin.png", "margin.runs"]


def test_seeds_that_recorded_different_steps_are_drawn_together(tmp_path):
    flags = ["margin", *TINY, "--train", "40", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    assert main(flags) == 0
    assert len({tuple(r["step"]) for r in written(tmp_path)["results"]}) > 1


SILENCE = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
IN_PIECES = "import experiments as e, jobs, sys; jobs.CHECKPOINT_EVERY = 0.05; sys.exit(e.main(sys.argv[1:]))"


def start(*flags):
    """The study in a real process, with checkpoints every 0.05 seconds."""
    return subprocess.Popen([sys.executable, "-c", IN_PIECES, *flags], cwd=ROOT, **SILENCE)


def end(process):
    process.kill()
    process.wait()


def checkpoints(out):
    """The checkpoints and their times, without the hidden files that are being written."""
    return {path: path.stat().st_mtime_ns for path in (out / "margin.runs").glob("[!.]*")}


def test_killed_twice_it_ends_with_the_same_numbers_over_two_jobs(tiny, tmp_path, monkeypatch, unrendered):
    flags = ["margin", *TINY, "--jobs", "2", "--flow", "--out", str(tmp_path)]
    for pause in (0.0, 0.25):
        before, process = checkpoints(tmp_path), start(*flags)
        while process.poll() is None and checkpoints(tmp_path) == before:
            time.sleep(0.01)
        time.sleep(pause)
        end(process)
    seen = checkpoints(tmp_path)
    assert seen and not (tmp_path / "margin.json").exists()
    time.sleep(0.5)  # ten pieces
    assert checkpoints(tmp_path) == seen  # whatever the killed process left behind does not write
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0.05)
    assert main(flags) == 0 and without_seconds(tmp_path) == without_seconds(tiny)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_runs_are_repeated_only_if_asked_damaged_or_set_otherwise(tiny, tmp_path, monkeypatch, unrendered):
    calls, job = [], mnist.train_run

    def counted(task, state, seconds):
        calls.append((task["optimizer"], task["seed"], task["form"]))
        return job(task, state, seconds)

    def called(*flags):
        """The runs that a start of the study repeats."""
        calls.clear()
        assert main(["margin", *TINY, "--jobs", "1", "--out", str(out), *flags]) == 0
        return calls

    monkeypatch.setattr(mnist, "train_run", counted)
    out = pathlib.Path(shutil.copytree(tiny, tmp_path / "tiny"))
    (out / "margin.json").write_text("damaged")
    assert called("--flow") == [] and without_seconds(out) == without_seconds(tiny)
    damaged = out / "margin.runs" / "rmsprop-1e-05-0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert called("--flow") == [("rmsprop", 0, "discrete")] and without_seconds(out) == without_seconds(tiny)
    for flags, count in (([], 1), ([], 0), (["--fresh"], 1), (["--b", "0.8"], 1)):
        assert len(called("--optimizers", "adagrad", *flags)) == count


def running(pid):
    return jobs.alive(pid) and "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_workers_stop_when_their_parent_is_gone(tmp_path):
    process = start("margin", "--jobs", "2", "--train", "2000", "--out", str(tmp_path))
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc")
    while len(workers := children.read_text().split()) < 3:  # two and the resource tracker
        assert process.poll() is None
        time.sleep(0.01)
    end(process)
    until = time.monotonic() + 20
    while any(running(int(pid)) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_dask_cluster_gives_the_same_numbers(tiny, tmp_path, unrendered):
    """A real scheduler and two workers, which find the library only through what they are sent."""
    pytest.importorskip("distributed")
    contact, out = tmp_path / "scheduler.json", tmp_path / "out"  # the workers wait for it

    def begin(program, *flags):
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *flags]
        return subprocess.Popen([*command, "--scheduler-file", str(contact)], cwd=tmp_path, **SILENCE)

    cluster = [begin("dask_worker", "--no-nanny", "--nthreads", "1") for _ in range(2)]
    cluster.append(begin("dask_scheduler", "--port", "0", "--host", "127.0.0.1"))
    try:
        while not contact.exists():
            assert cluster[-1].poll() is None
            time.sleep(0.05)
        address = json.loads(contact.read_text())["address"]
        assert main(["margin", *TINY, "--dask", address, "--flow", "--out", str(out)]) == 0
    finally:
        for process in cluster:
            end(process)
    assert without_seconds(out) == without_seconds(tiny)


def test_epsilon_writes_one_result_per_run_and_its_answers(tmp_path):
    """One seed shows nothing, and four steps are too few to separate."""
    flags = "--jobs 1 --optimizers rmsprop --epsilons 1,1e-3 --steps 4".split()
    assert main(["epsilon", *TINY, *flags, "--out", str(tmp_path)]) == 0
    content = written(tmp_path, "epsilon")
    assert [r["eps"] for r in content["results"]] == content["config"]["epsilons"] == [1e-3, 1.0]
    verdicts = {(a["answer"], a["standard_error"]) for a in content["answers"]}
    assert verdicts == {("not distinguishable", None)}
    assert (tmp_path / "epsilon.png").stat().st_size > 10_000


def test_epsilon_is_drawn_with_the_flow_though_some_seeds_do_not_separate(tmp_path):
    result = {"optimizer": "adam", "step": np.array([1, 2]), "seconds": 1.0}
    result |= {"margin": np.array([-1, 1e-5]), "log_loss": np.array([3.0, -1])}
    result |= {"train_accuracy": np.array([0.5, 1]), "test_accuracy": np.array([0.4, 0.9])}
    result |= dict.fromkeys(mnist.ALIGNED, np.array([0.6, 0.5], object))
    runs = [(0.1, 0, "flow"), (0.1, 1, "flow"), (1.0, 0, "flow")]
    runs += [(eps, seed, "discrete") for eps in (0.1, 1.0) for seed in (0, 1)]
    summary = mnist.summarise([result | {"eps": eps, "seed": k, "form": form} for eps, k, form in runs])
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
    flow, last = (next(r for r in limit["results"] if r["form"] == form) for form in ("flow", "limit"))
    assert -100 < flow["log_loss"][-1] < -60 and "log_loss" not in last
    assert last["status"] == "ok" and last["residual"][-1] <= 0.3 and last["delta"] == [1e-3, 1e-5]
    assert len(last["kkt_residual"]) == len(last["kkt_residual_unweighted"]) == 2
    far = last["log10_log_inverse_loss"]
    assert (np.diff(far) > 0).all() and 10 ** far[0] == pytest.approx(-flow["log_loss"][-1], rel=0.2)
    # the weighted margin never falls along the margin flow: that is what it climbs
    assert (np.diff(last["margin_weighted"]) > -1e-9 * last["margin_weighted"][:-1]).all()
    assert last["margin"][0] == pytest.approx(flow["margin"][-1])
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

    run = lambda: mnist.margin(("gd", "rmsprop"), limit=True, folder=tmp_path, **LIMIT)["results"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mnist, "train_run", killed)
        run()
    for one, other in zip(run(), limit["results"], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_limit_that_is_not_reached_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("training.LIMIT_STEPS", 3)
    found = mnist.margin(("rmsprop",), limit=True, folder=tmp_path, **LIMIT | {"residual": 1e-9})
    assert found["results"][-1]["status"] == "still turning"
    assert any("3 steps: still turning, with a residual of" in line for line in mnist.table(found))


VERDICTS = {
    "shown": ([1, 1, 1], [0.16, 1, 1.84]),
    "opposite": ([-1, -1, -1], [-1, -2, -3]),
    "not distinguishable": ([0.11, 1, 1.89], [5, 6, -0.1], [1, 0.01, 0.01], [0, 1, 1], [0, 0, 0], [7]),
}


@pytest.mark.parametrize("answer", VERDICTS)
def test_verdicts_follow_the_rule(answer):
    """All of the claimed sign, and the mean above twice its standard error: 0.11, 1, 1.89 just fail."""
    assert {verdict(np.array(differences, float))[0] for differences in VERDICTS[answer]} == {answer}


def test_values_at_a_training_loss_are_linear_between_records_and_from_the_first_fall():
    log_loss, margin = np.array([[5.0, 1, 3, -1, -2], [0, 4, 2, 6, 9]])
    wanted = {9.0: 0.0, 2.0: 3.0, 0.0: 5.0, -1.0: 6.0, -1.5: 7.5, -2.0: 9.0, -9.0: 9.0}
    assert {
        level: at_level({"log_loss": log_loss, "margin": margin}, "margin", level) for level in wanted
    } == wanted


def test_answers_pair_the_seeds_and_compare_at_the_last_step_and_at_the_same_loss():
    def run(optimizer, seed, log_loss, margin):
        about = {"optimizer": optimizer, "eps": 1.0, "seed": seed, "form": "discrete"}
        about |= {"log_loss": np.array([2.0, log_loss]), "margin": np.array([0.0, margin])}
        return about | {"test_accuracy": np.array([0.5, 0.5])}

    results = [run("adam", s, -2.0, 4.0 + s) for s in range(3)]
    results += [run("adagrad", s, 0.0, 3.0 + s) for s in range(3)]
    last, same, *accuracy = answers(results, "discrete", "larger", ("adam", 1.0), ("adagrad", 1.0))
    assert last["differences"].tolist() == [1, 1, 1] and last["answer"] == "shown"
    assert same["differences"].tolist() == [2 - 3, 2.5 - 4, 3 - 5] and same["answer"] == "opposite"
    assert {row["answer"] for row in accuracy} == {"not distinguishable"}
