"""Checkpoints: what is whole, what is damaged, and that the pieces a task is done in do not show."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

import jobs

STAMP = bytes(range(32))


def count_to(task, state, seconds):
    """A task that adds up 1/k, a term at a time, some terms in each piece."""
    if task.get("forbidden"):
        raise AssertionError("a finished task ran again")
    k, total = (int(state["k"]), float(state["total"])) if state else (0, 0.0)
    for _ in range(task["piece"]):
        if k < task["end"]:
            k, total = k + 1, total + 1 / (k + 1)
    return {"k": k, "total": total, "done": k == task["end"], "share": k / task["end"]}


def totals(states):
    return {name: float(state["total"]) for name, state in states.items()}


@pytest.mark.parametrize("number", [1, 2])
def test_pieces_and_jobs_do_not_show(tmp_path, number):
    whole = jobs.resume(count_to, {n: {"end": 7, "piece": 7} for n in "abc"}, tmp_path / "a", STAMP, 1)
    seen = []
    hear = lambda shares, word="": seen.append(shares)
    tasks = {n: {"end": 7, "piece": 2} for n in "abc"}
    pieces = jobs.resume(count_to, tasks, tmp_path / "b", STAMP, number, report=hear)
    assert totals(whole) == totals(pieces) and 5 <= len(seen) <= 13
    assert (seen[0], seen[-1]) == ([0, 0, 0], [1, 1, 1])


def test_a_task_goes_on_from_its_checkpoint_and_a_finished_one_is_not_repeated(tmp_path):
    def dies(task, state, seconds):
        if state is not None and state["k"] >= 4:
            raise KeyboardInterrupt
        return count_to(task, state, seconds)

    with pytest.raises(KeyboardInterrupt):
        jobs.resume(dies, {"a": {"end": 7, "piece": 2}}, tmp_path, STAMP, 1)
    begun = []

    def goes_on(task, state, seconds):
        begun.append(int(state["k"]))
        return count_to(task, state, seconds)

    states = jobs.resume(goes_on, {"a": {"end": 7, "piece": 2}}, tmp_path, STAMP, 1)
    assert begun == [4, 6] and states["a"]["total"] == sum(1 / (k + 1) for k in range(7))
    again = jobs.resume(count_to, {"a": {"end": 7, "piece": 2, "forbidden": True}}, tmp_path, STAMP, 1)
    assert totals(again) == totals(states)
    with pytest.raises(AssertionError, match="ran again"):
        jobs.resume(count_to, {"a": {"forbidden": True}}, tmp_path, STAMP, 1, fresh=True)


def test_damaged_or_foreign_states_count_as_missing(tmp_path):
    path, state = tmp_path / "a", {"w": np.arange(5.0), "done": False}
    jobs.save_state(path, state, STAMP)
    np.testing.assert_array_equal(jobs.load_state(path, STAMP)["w"], state["w"])
    assert jobs.load_state(path, bytes(32)) is None
    content = path.read_bytes()
    flipped = [bytearray(content) for _ in range(0, len(content), 7)]
    for k, damaged in enumerate(flipped):
        damaged[7 * k] ^= 1
    for damaged in (*flipped, content[:-9], b"", b"junk"):
        path.write_bytes(damaged)
        assert jobs.load_state(path, STAMP) is None


def test_two_tasks_cannot_take_each_others_state(tmp_path):
    jobs.resume(count_to, {"a": {"end": 3, "piece": 3}, "b": {"end": 5, "piece": 5}}, tmp_path, STAMP, 1)
    os.replace(tmp_path / "a", tmp_path / "b")
    states = jobs.resume(count_to, {"b": {"end": 5, "piece": 5}}, tmp_path, STAMP, 1)
    assert states["b"]["k"] == 5


def test_fingerprint_depends_on_all_parts_and_the_library_files(tmp_path, monkeypatch):
    x = np.arange(6)
    parts = [("a", x), ("b", x), ("a", x.reshape(2, 3)), ("a", x.astype(float)), ("a", x + 1), ("a", x, x)]
    assert len({jobs.fingerprint(*p) for p in parts}) == len(parts)
    before = jobs.fingerprint("a")
    assert jobs.fingerprint("a") == before
    for name in jobs.LIBRARY:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(jobs, "__file__", str(tmp_path / "jobs.py"))
    copied = jobs.fingerprint("a")
    (tmp_path / "minibias.py").write_text("changed")
    assert len({before, copied, jobs.fingerprint("a")}) == 3


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    jobs.save_state(path, {"k": 1}, STAMP)

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
        jobs.save_state(path, {"k": 2}, STAMP)
    assert jobs.load_state(path, STAMP)["k"] == 1 and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_json_file_is_whole_or_untouched(tmp_path):
    path = jobs.write_json(tmp_path / "s.json", {"a": np.arange(2)})
    assert path.read_text() == '{\n "a": [\n  0,\n  1\n ]\n}\n'
    with pytest.raises(ValueError):
        jobs.write_json(path, {"a": np.nan})
    assert '"a": [' in path.read_text() and [p.name for p in tmp_path.iterdir()] == ["s.json"]
    (tmp_path / "t.png").mkdir()
    with pytest.raises(OSError, match="is a folder"):
        jobs.prepare(tmp_path, "t.json", "t.png")


def kill(task, state, seconds):
    os._exit(9)


def test_a_worker_that_dies_is_an_error_with_a_reason(tmp_path):
    with pytest.raises(OSError, match="killed"):
        jobs.resume(kill, {"a": {}, "b": {}}, tmp_path, STAMP, 2)


NO_GUARD = """
import sys

sys.path.insert(0, sys.argv[1])
import direction

direction.measure(["gd", "adam"], ["discrete"], runs=2, steps=3, jobs=2)
"""


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    """Its workers import it, and so call the study again before they can begin."""
    (tmp_path / "script.py").write_text(NO_GUARD)
    command = [sys.executable, str(tmp_path / "script.py"), str(pathlib.Path(jobs.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and 'wrap the call in `if __name__ == "__main__":`, or use jobs=1' in last


def talk(task):
    """A job that says what it is at, and takes a moment."""
    for k in range(3):
        jobs.spoken[0] = -np.inf  # as if a second had passed
        jobs.say(f"{task} at {k}")
        jobs.say("too soon")
        time.sleep(0.3)
    return task


@pytest.mark.parametrize("number", (1, 2))
def test_what_a_job_says_on_its_way_reaches_the_report_once_a_second_at_most(number):
    heard = []
    hear = lambda shares, word="": heard.append((len(shares), word))
    assert jobs.spread(talk, ["a", "b"], number, hear) == ["a", "b"]
    words = {word for _, word in heard}
    assert {number for number, _ in heard} == {2} and "too soon" not in words
    assert {"", "a at 0", "a at 1", "b at 0", "b at 1"} <= words and not jobs.LISTENERS
