"""Processes, checkpoints and result files, without any theory. Files appear whole or not at all."""

import ctypes
import hashlib
import io
import json
import math
import multiprocessing
import os
import pathlib
import platform
import re
import signal
import threading
import time
import uuid
import warnings
from concurrent import futures
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np

CHECKPOINT_EVERY = 10.0  # seconds
# the files that the numbers of a study with checkpoints depend on, in the order of their imports
ROOMS = "models datasets solvers kinks minibias optimizers limits cnn training"
LIBRARY = [f"{room}.py" for room in ROOMS.split()]
NO_GUARD = (
    'no worker process could begin; in a script wrap the call in `if __name__ == "__main__":`, or use jobs=1'
)
KILLED = "a worker process was killed, perhaps for want of memory; fewer --jobs need less"

# ------------------------------------------------------------------------------------ files


def prepare(out, *names):
    """The folder `out`, made if missing, proven writable and swept of what killed processes left behind.

    Raises OSError where that is not possible, or where a folder has one of the `names` of the files to come.
    """
    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise OSError(f"{out}: expected a folder, but it is a file")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for leftover in out.glob(".*.tmp"):
            pid = re.fullmatch(r"\..*\.(\d+)\.[0-9a-f]{32}\.tmp", leftover.name)
            if pid and not alive(int(pid[1])):
                leftover.unlink(missing_ok=True)
        write(out / "probe", lambda path: path.write_bytes(b"")).unlink()
    except OSError as problem:
        why = problem.strerror or problem
        raise OSError(f"{out}: expected a folder that can be written in, but {why}") from None
    for name in names:
        if (out / name).is_dir():
            raise OSError(f"{out / name} is a folder, expected a file or nothing there")
    return out


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def write(path, fill):
    """Let `fill` write a file beside `path`, then rename it: `path` is whole or untouched.

    Raises OSError, which names `path`, where that is not possible.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        fill(beside)
        os.replace(beside, path)
    except OSError as problem:
        if problem.strerror is None:
            raise  # it names a path already
        raise OSError(f"cannot write {path}: {problem.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return path


def write_json(path, content):
    """Write `content` as a JSON file, arrays as lists, and return the path.

    A NaN or an infinity in it is a bug of the study and raises ValueError.
    """
    text = json.dumps(content, indent=1, allow_nan=False, default=lambda a: a.tolist()) + "\n"
    return write(path, lambda beside: beside.write_text(text))


def with_nulls(a):
    """The array with None, JSON's null, in place of what is not finite."""
    return np.where(np.isfinite(a), a, None)


def versions():
    """The versions that a result depends on."""
    packages = ("numpy", "autograd", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


# ------------------------------------------------------------------------------------ progress


def silent(shares, word=""):
    """The report of a study that shows no progress."""


SAY_EVERY = 1.0  # seconds
LISTENERS = []  # what this process's jobs speak to, the present one last
spoken = [-math.inf]  # when the last word was


def say(word):
    """Report how far a job is, in a few words. Words within a second of the last one are dropped."""
    if LISTENERS and time.monotonic() > spoken[0] + SAY_EVERY:
        spoken[0] = time.monotonic()
        LISTENERS[-1](word)


def timed(call, *args):
    """What call(*args) returns, and the seconds that it took."""
    clock = time.perf_counter()
    return call(*args), time.perf_counter() - clock


# ------------------------------------------------------------------------------------ where jobs run


class Here(futures.Executor):
    """Runs every call at once, in this process."""

    def submit(self, call, *args):
        future = futures.Future()
        future.set_result(call(*args))
        return future


def executor(jobs, tasks, dask=None, hear=lambda word: None):
    """A context of an executor for so many tasks, the number to keep under way, and the words of workers.

    With jobs=1 or a single task everything stays in this process. With more there are processes. `dask` is
    the address of a Dask cluster. `hear` gets what jobs in this process `say`.
    Raises ValueError where the package distributed is missing, OSError where the cluster or a worker is lost.
    """
    if dask:
        return cluster(dask, tasks)
    return here(hear) if jobs == 1 or tasks <= 1 else processes(min(jobs, tasks))


@contextmanager
def here(hear):
    LISTENERS.append(hear)
    try:
        yield Here(), 1, ()
    finally:
        LISTENERS.pop()


@contextmanager
def processes(count):
    spawn = multiprocessing.get_context("spawn")  # fork would copy a process that has threads
    begun, words = spawn.Value("i", 0), [spawn.RawArray(ctypes.c_wchar, 100) for _ in range(count)]
    try:
        with futures.ProcessPoolExecutor(count, spawn, begin_worker, (os.getpid(), begun, words)) as pool:
            try:
                yield pool, count, words
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()  # else the pool would wait for what they are at
                raise
            except Exception:
                pool.shutdown(cancel_futures=True)  # else it would go on with what waits
                raise
    except futures.BrokenExecutor:
        raise OSError(KILLED if begun.value else NO_GUARD) from None


def begin_worker(parent, begun, words):
    """Worker set-up: a worker whose parent is gone ends at once, so that no orphan goes on computing.

    Each worker takes one of `words`, where it leaves the last word of its jobs.
    """
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends its workers
    with begun.get_lock():
        mine = words[begun.value]
        begun.value += 1
    LISTENERS.append(lambda word: setattr(mine, "value", word[:99]))

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def cluster(address, tasks):
    """A Dask cluster, whose workers are sent the library files."""
    try:
        import distributed
    except ImportError:
        raise ValueError("--dask needs the package distributed: pip install distributed") from None
    try:
        with (
            warnings.catch_warnings(),
            distributed.Client(address, timeout=10, set_as_default=False) as client,
        ):
            # the images, some megabytes for each piece of ten seconds
            warnings.filterwarnings("ignore", "Sending large graph")
            for name in (*LIBRARY, "jobs.py"):
                client.upload_file(str(pathlib.Path(__file__).with_name(name)))
            client.run(keep_freed_memory)
            yield client.get_executor(), tasks, ()
    except (distributed.KilledWorker, futures.CancelledError) as problem:
        raise OSError(f"the Dask cluster {address} lost a task: {problem or 'cancelled'}") from None
    except ImportError as problem:
        raise OSError(f"the Dask workers lack a package: {problem}") from None


def keep_freed_memory():
    """Have this process keep the memory that it frees, which saves page faults.

    `experiments.py direction` takes 10.4 s with it and 14.7 s without. It sets M_TRIM_THRESHOLD and
    M_MMAP_THRESHOLD of glibc; elsewhere there is nothing to set.
    """
    try:
        for option in (-1, -3):
            ctypes.CDLL(None).mallopt(option, 1 << 25)
    except (AttributeError, OSError, TypeError):
        pass


def spread(job, tasks, jobs, report=silent):
    """The list of job(task) for every task, over `jobs` processes; 1 stays in this process.

    report(shares, word) gets the share of every task that is done, as in `resume`, and what a job may `say`.
    """
    results = []
    shares = lambda: [1.0] * len(results) + [0.0] * (len(tasks) - len(results))
    hear = lambda word: report(shares(), word)
    with executor(jobs, len(tasks), hear=hear) as (pool, at_once, words):
        report(shares())
        # pool.map would cancel what waits at Ctrl-C, and the pool's thread then fails to end what it has sent
        calls = (pool.submit(job, task) for task in tasks)
        for call in calls if at_once == 1 else list(calls):
            while futures.wait([call], 0.2).not_done:
                for word in words:
                    if word.value:
                        hear(word.value)
                        word.value = ""
            results.append(call.result())
            report(shares())
    return results


# ------------------------------------------------------------------------------------ checkpoints


def fingerprint(*parts):
    """SHA-256 of JSON-ready things and arrays, of the library files and of the versions.

    It is equal only if all that a number depends on is.
    """
    digest = hashlib.sha256()
    for part in (versions(), *parts):
        array = isinstance(part, np.ndarray)
        text = f"{part.dtype}{part.shape}" if array else json.dumps(part, sort_keys=True)
        digest.update(len(text).to_bytes(8, "big") + text.encode())
        digest.update(part.tobytes() if array else b"")
    for name in LIBRARY:
        digest.update(hashlib.sha256(pathlib.Path(__file__).with_name(name).read_bytes()).digest())
    return digest.digest()


def save_state(path, state, stamp):
    """The dict of arrays `state` as a file: a SHA-256 of what follows, the stamp of 32 bytes, an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **state)
    content = stamp + buffer.getvalue()
    write(path, lambda beside: beside.write_bytes(hashlib.sha256(content).digest() + content))


def load_state(path, stamp):
    """What `save_state` wrote with the same stamp; None if the file is missing, damaged or another run's."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if content[:32] != hashlib.sha256(content[32:]).digest() or content[32:64] != stamp:
        return None
    with np.load(io.BytesIO(content[64:]), allow_pickle=False) as arrays:
        return dict(arrays)


def resume(job, tasks, folder, stamp, jobs, dask=None, fresh=False, report=silent):
    """Take every task to its end, with a checkpoint every ten seconds or so: a dict name -> final state.

    job      job(task, state or None, seconds) goes on for about so many seconds and returns the new state, a
             dict of arrays in which `done` says whether the task is finished, and `share` about how much of
             it is; `word` may say a few words on it. Where the pieces end must not matter to any number in it
    tasks    a dict name -> task
    folder   where the states are kept; only this process writes there, so that whatever a killed one leaves
             running harms nothing
    stamp    32 bytes; states with another stamp count as missing. `fresh` does not look for any
    report   is called with the share of every task that is done, at the start and after every piece
    """
    folder = prepare(folder)
    stamps = {name: hashlib.sha256(stamp + name.encode()).digest() for name in tasks}
    states = {name: None if fresh else load_state(folder / name, stamps[name]) for name in tasks}
    waiting = [name for name in tasks if states[name] is None]
    waiting = [name for name in tasks if states[name] and not states[name]["done"]] + waiting
    shares = lambda: [0.0 if state is None else float(state["share"]) for state in states.values()]
    report(shares())
    with executor(jobs, len(waiting), dask if waiting else None) as (pool, at_once, _):
        under_way = {}
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                name = waiting.pop(0)
                under_way[pool.submit(job, tasks[name], states[name], CHECKPOINT_EVERY)] = name
            for future in futures.wait(under_way, return_when=futures.FIRST_COMPLETED).done:
                name = under_way.pop(future)
                states[name] = future.result()
                save_state(folder / name, states[name], stamps[name])
                if not states[name]["done"]:
                    waiting.insert(0, name)
            report(shares(), str(states[name].get("word", "")))
    return states
