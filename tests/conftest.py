"""The tests run as the commands do: BLAS with one thread, and freed memory kept."""

import pytest

import cli  # noqa: F401 (sets one BLAS thread before NumPy is imported)
import runs

runs.keep_freed_memory()


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made but not rendered, a third of a second each: for tests that look at numbers alone."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **how: path.write_bytes(b""))
