"""Independent micro-batches side by side, one thread each."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Return a pool with one worker for each of PyTorch's CPU threads, whose products use one thread each.

    Threads that share every product meet at hundreds of barriers per micro-batch; when the machine is busy with
    something else, each barrier waits for the slower one. Workers on micro-batches of their own never meet. The
    number of threads is process-wide and put back on leaving. On a GPU there is one worker.

    Parameters
    ----------
    device
        Where the products run.
    """
    if device.type != "cpu":
        with ThreadPoolExecutor(1) as pool:
            yield pool
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)
