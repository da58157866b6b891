"""The tests run as the commands do, BLAS with one thread and freed memory kept, and use a second core.

A module may say in AHEAD = [(function, *arguments), ...] what its fixture `computed_ahead` is to hold. A
process beside this one computes it, from the beginning, while this one runs the tests that do without.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[name] = "1"  # before NumPy is imported

import jobs  # noqa: E402

jobs.keep_freed_memory()


def pytest_collection_modifyitems(items):
    """Tests that wait for the process beside come last."""
    items.sort(key=waits)


def waits(item):
    return "computed_ahead" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session", autouse=True)
def beside(request):
    """The futures of every AHEAD that is asked for, by module."""
    ahead = dict.fromkeys(item.module for item in request.session.items if waits(item))
    others = {item.module for item in request.session.items} - set(ahead)
    with ProcessPoolExecutor(1 if others else 2, get_context("spawn"), jobs.keep_freed_memory) as pool:
        yield {m.__name__: [pool.submit(*call) for call in m.AHEAD] for m in ahead}
        pool.shutdown(cancel_futures=True)  # what nobody waits for any more, as after pytest -x


@pytest.fixture(scope="module")
def computed_ahead(request, beside):
    """The results of the module's own AHEAD, in its order."""
    return [future.result() for future in beside[request.module.__name__]]


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made but not rendered, a third of a second each: for tests that look at numbers alone."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **how: path.write_bytes(b""))
