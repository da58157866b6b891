"""Checkpoints, files that are whole or untouched, and workers."""

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
    for _ in range(min(task["piece"], task["end"] - k)):
        k, total = k + 1, total + 1 / (k + 1)
    return {"k": k, "total": total, "done": k == task["end"], "share": k / task["end"]}


def totals(states):
    return {name: float(state["total"]) for name, state in states.items()}


@pytest.mark.parametrize("number", [1, 2])
def test_pieces_and_jobs_do_not_show(tmp_path, number):
    seen = []
    hear = lambda shares, word="": seen.append(shares)
    whole, small = ({n: {"end": 7, "piece": piece} for n in "abc"} for piece in (7, 2))
    whole = jobs.resume(count_to, whole, tmp_path / "a", STAMP, 1)
    pieces = jobs.resume(count_to, small, tmp_path / "b", STAMP, number, report=hear)
    assert totals(whole) == totals(pieces)
    assert 5 <= len(seen) <= 13 and seen[0] == [0, 0, 0] and seen[-1] == [1, 1, 1]


def test_a_task_goes_on_from_its_checkpoint_and_a_finished_one_is_not_repeated(tmp_path):
    begun = []

    def dies(task, state, seconds):
        begun.append(int(state["k"]) if state else 0)
        if begun == [0, 2, 4]:
            raise KeyboardInterrupt
        return count_to(task, state, seconds)

    run = lambda job, **task: jobs.resume(job, {"a": {"end": 7, "piece": 2} | task}, tmp_path, STAMP, 1)
    with pytest.raises(KeyboardInterrupt):
        run(dies)
    states = run(dies)
    assert begun == [0, 2, 4, 4, 6] and states["a"]["total"] == sum(1 / (k + 1) for k in range(7))
    assert totals(run(count_to, forbidden=True)) == totals(states)
    with pytest.raises(AssertionError, match="ran again"):
        jobs.resume(count_to, {"a": {"forbidden": True}}, tmp_path, STAMP, 1, fresh=True)


def test_damaged_or_foreign_states_count_as_missing(tmp_path):
    path, state = tmp_path / "a", {"w": np.arange(5.0), "done": False}
    jobs.save_state(path, state, STAMP)
    np.testing.assert_array_equal(jobs.load_state(path, STAMP)["w"], state["w"])
    assert jobs.load_state(path, bytes(32)) is None
    content = path.read_bytes()
    flips = [content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :] for k in range(0, len(content), 7)]
    for damaged in (*flips, content[:-9], b"junk", b""):
        path.write_bytes(damaged)
        assert jobs.load_state(path, STAMP) is None


def test_two_tasks_cannot_take_each_others_state(tmp_path):
    tasks = {"a": {"end": 3, "piece": 3}, "b": {"end": 5, "piece": 5}}
    jobs.resume(count_to, tasks, tmp_path, STAMP, 1)
    os.replace(tmp_path / "a", tmp_path / "b")
    assert jobs.resume(count_to, tasks, tmp_path, STAMP, 1)["b"]["k"] == 5


def test_fingerprint_depends_on_all_parts_and_the_library_files(tmp_path, monkeypatch):
    x = np.arange(6)
    parts = [("a", x), ("b", x), ("a", x.reshape(2, 3)), ("a", x.view(float)), ("a", x + 1), ("a", x, x)]
    assert len({jobs.fingerprint(*p) for p in parts}) == len(parts)
    before = jobs.fingerprint("a")
    assert jobs.fingerprint("a") == before
    for name in jobs.LIBRARY:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(jobs, "__file__", str(tmp_path / "jobs.py"))
    copied = jobs.fingerprint("a")
    (tmp_path / jobs.LIBRARY[-1]).write_text("changed")
    assert len({before, copied, jobs.fingerprint("a")}) == 3


def test_files_are_whole_or_untouched_also_on_a_full_disk(tmp_path, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    state, table = tmp_path / "a", jobs.write_json(tmp_path / "s.json", {"a": np.arange(2)})
    with pytest.raises(ValueError):
        jobs.write_json(table, {"a": np.nan})
    jobs.save_state(state, {"k": 1}, STAMP)
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=f"cannot write {state}: No space left"):
        jobs.save_state(state, {"k": 2}, STAMP)
    assert jobs.load_state(state, STAMP)["k"] == 1
    assert table.read_text() == '{\n "a": [\n  0,\n  1\n ]\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "s.json"]


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "t.png").mkdir()
    with pytest.raises(OSError, match="is a folder"):
        jobs.prepare(tmp_path, "t.json", "t.png")


def test_a_worker_that_dies_is_an_error_with_a_reason(tmp_path):
    with pytest.raises(OSError, match="killed"):
        jobs.spread(os._exit, [9, 9], 2)


NO_GUARD = """
import sys
sys.path.insert(0, sys.argv[1])
import jobs
jobs.spread(abs, [1, 2], 2)
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
