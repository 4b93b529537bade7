"""Which tasks there are; none is loaded before it is asked for."""

from collections.abc import Mapping
from importlib import import_module

from cellfm.bench.task import MINIMUM, Task
from cellfm.errors import ConfigError, EvidenceError

TASKS: Mapping[str, str] = {
    "annotation": "cellfm.bench.tasks.annotation",
    "few_shot": "cellfm.bench.tasks.few_shot",
    "open_set": "cellfm.bench.tasks.open_set",
    "integration": "cellfm.bench.tasks.integration",
    "denoising": "cellfm.bench.tasks.denoising",
    "recovery": "cellfm.bench.tasks.recovery",
    "drugs": "cellfm.bench.tasks.drugs",
    "perturbation": "cellfm.bench.tasks.perturbation",
    "gene_function": "cellfm.bench.tasks.gene_function",
    "gene_programs": "cellfm.bench.tasks.gene_programs",
    "reverse": "cellfm.bench.tasks.reverse",
}
"""Name → module with ``TASK``."""


def load_task(name: str) -> Task:
    """Import a task.

    Parameters
    ----------
    name
        Of :data:`TASKS`.

    Raises
    ------
    ConfigError
        There is no such task.
    EvidenceError
        It requires less than every task must, or its methods do not cover what it requires.
    """
    if name not in TASKS:
        msg = f"There is no task {name!r}; the tasks are {', '.join(TASKS)}. Choose one of these."
        raise ConfigError(msg)
    task: Task = import_module(TASKS[name]).TASK
    check_task(task)
    return task


def check_task(task: Task) -> None:
    """Refuse a task whose results could not be evidence.

    Parameters
    ----------
    task
        The task.

    Raises
    ------
    EvidenceError
        It requires less than every task must, or its methods do not cover what it requires.
    """
    names = [method.name for method in task.methods]
    if len(set(names)) < len(names):
        msg = f"The task {task.name!r} has two methods of one name: {sorted(names)}. Rename one of them."
        raise EvidenceError(msg)
    if not task.required >= MINIMUM:
        msg = f"The task {task.name!r} does not require {sorted(MINIMUM - task.required)}; every task must. Add it to what the task requires."
        raise EvidenceError(msg)
    there = frozenset[str]().union(*(method.roles for method in task.methods))
    if not there >= task.required:
        msg = f"No method of the task {task.name!r} is {sorted(task.required - there)}, which it requires. Add one with that role."
        raise EvidenceError(msg)
    unknown = {name for name in (task.negative, task.positive) if name is not None} - set(names)
    if unknown:
        msg = f"The task {task.name!r} names the controls {sorted(unknown)}; its methods are {names}. Name controls that are methods of the task."
        raise EvidenceError(msg)
