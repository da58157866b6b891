"""Jobs and result files: what every study needs and no theory. Files appear whole or not at all."""

import json
import multiprocessing
import os
import pathlib
import platform
import re
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version


def prepare(out):
    """The folder `out`, made if missing, proven writable and swept of what killed processes left half-written.

    Raises OSError where that is not possible.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):
        pid = re.fullmatch(r"\..*\.(\d+)\.[0-9a-f]{32}\.tmp", leftover.name)
        if pid and not alive(int(pid[1])):
            leftover.unlink(missing_ok=True)
    write(out / "probe", lambda path: path.write_bytes(b"")).unlink()
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
    """Let `fill` write a file beside `path` under a name of its own, then rename it: `path` is whole or untouched."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        fill(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def write_json(path, content):
    """`content` as JSON, arrays as lists; a NaN or an infinity is a bug of the study and raises ValueError."""
    text = json.dumps(content, indent=1, allow_nan=False, default=lambda a: a.tolist())
    return write(path, lambda beside: beside.write_text(text + "\n"))


def versions():
    """The versions that a result depends on."""
    packages = ("numpy", "autograd", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def stop_with_parent(parent):
    """Worker set-up: a worker whose parent is gone ends at once, so that no orphan goes on writing or computing."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def spread(job, tasks, jobs):
    """job(task) for every task in order, lazily, over `jobs` processes; 1 stays in this process."""
    if jobs == 1 or len(tasks) == 1:
        yield from map(job, tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # fork would copy a process that has threads
    with ProcessPoolExecutor(min(jobs, len(tasks)), spawn, stop_with_parent, (os.getpid(),)) as pool:
        yield from pool.map(job, tasks)
