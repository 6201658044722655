"""Jobs beside each other, in processes of their own.

A new process imports this file before it is told anything: nothing heavy may enter it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def side_by_side(*jobs: Callable[[], object]) -> None:
    """Run jobs, each on its share of the cores, and raise what they raise; what they return is dropped.

    Small models keep one core busy and gain nothing from a second: two beside each other take half the time.
    """
    import torch

    threads = max(1, torch.get_num_threads() // len(jobs))
    loggers = logging.root.manager.loggerDict
    levels = {name: found.level for name, found in loggers.items() if isinstance(found, logging.Logger)}
    # Spawned, not forked: a fork would copy torch's thread pools in a state that can hang.
    with ProcessPoolExecutor(len(jobs), get_context("spawn"), _begin, (threads, levels)) as pool:
        for future in [pool.submit(_do, job) for job in jobs]:
            future.result()


def _begin(threads: int, levels: Mapping[str, int]) -> None:
    """A process as the one that started it: its share of the threads, and other libraries as talkative as there."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    import torch

    torch.set_num_threads(threads)


def _do(job: Callable[[], object]) -> None:
    job()
