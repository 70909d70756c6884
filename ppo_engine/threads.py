"""How many threads the libraries of this process may compute with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_info, threadpool_limits


def limit_threads(threads: int) -> None:
    """Holds torch and every loaded BLAS to so many threads.

    More than one slows small networks down, and ruins whoever shares the machine.
    """
    # Loads the BLAS that numba's products run on, which is found below only once it is loaded.
    import scipy.linalg.cython_blas  # noqa: F401

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)


def blas_kernels() -> str:
    """The BLAS libraries of this process, and for which CPU each chose its kernels, when it was loaded.

    The compiled loops take half their speed from them; see `ppo_engine.machine.misleading`.
    """
    import scipy.linalg.cython_blas  # noqa: F401

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = {f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip() for one in libraries}
    return ", ".join(sorted(names))


@contextmanager
def half_of_the_threads() -> Iterator[None]:
    """Has torch compute with half as many threads, one at least, so that others find a core free."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
