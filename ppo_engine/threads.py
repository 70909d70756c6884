"""How many threads the libraries of this process may compute with."""

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
