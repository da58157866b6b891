"""The tests run as the commands do: BLAS with one thread, and freed memory kept."""

import cli  # noqa: F401 (sets one BLAS thread before NumPy is imported)
import runs

runs.keep_freed_memory()
