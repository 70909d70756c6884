"""How many threads the libraries of this process may compute with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def limit_threads(threads: int) -> None:
    """Holds torch and every loaded BLAS to so many threads.

    More than one slows small networks down, and ruins whoever shares the machine.
    """
    # Loads the BLAS that numba's products run on, which is found below only once it is loaded.
    import scipy.linalg.cython_blas  # noqa: F401

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)


@contextmanager
def half_of_the_threads() -> Iterator[None]:
    """Has torch compute with half as many threads, one at least, so that others find a core free."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
