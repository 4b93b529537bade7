"""What a machine has, in words, with what to do about it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from cellfm._version import __version__
from cellfm.tl._doctor.finding import Finding, size_text
from cellfm.tl._doctor.machine import Machine, existing

LITTLE_MEMORY, LITTLE_DISK = 2 * 2**30, 2 * 2**30
"""Below this a note is made: torch and embedding by the small model take about 0.7 GiB; caches and results need room."""
ELSEWHERE = "set CELLFM_CACHE to a folder on a disk with room that you may write to"


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Yield a line or two on each part of a machine.

    Parameters
    ----------
    machine
        What it has.
    """
    yield from _packages(machine)
    yield _extras(machine)
    yield from _devices(machine)
    yield _memory(machine.memory, machine.memory_free)
    yield _cache(machine)
    yield _weights(machine)


def _packages(machine: Machine) -> Iterator[Finding]:
    """Versions, and packages without which nothing works."""
    there = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    yield Finding(topic="packages", text=f"Python {machine.python}, {there}; {machine.system}")
    again = "pip install cellfm, or in a checkout: pip install -c constraints.txt -e ."
    if machine.installed is None:
        text = "cellfm runs from a folder and is not installed, so nothing says which packages it needs"
        yield Finding(topic="install", level="note", text=text, todo=again)
    elif machine.installed != __version__:
        text = f"cellfm is {__version__}, but was installed as {machine.installed}: what it needs may have changed"
        yield Finding(topic="install", level="note", text=text, todo=again)
    if machine.missing:
        text = f"packages that cellfm needs are not installed: {', '.join(machine.missing)}"
        todo = f"pip install {' '.join(machine.missing)}"
        yield Finding(topic="install", level="problem", text=text, todo=todo)


def _extras(machine: Machine) -> Finding:
    whole = ", ".join(extra.name for extra in machine.extras if not extra.missing) or "none"
    lacking = [extra for extra in machine.extras if extra.missing]
    if not lacking:
        return Finding(topic="extras", text=f"installed: {whole}")
    names = "; ".join(f"{extra.name} lacks {', '.join(extra.missing)}" for extra in lacking)
    todo = f"only if you need them: pip install 'cellfm[{','.join(each.name for each in lacking)}]'"
    return Finding(topic="extras", level="note", text=f"installed: {whole}; {names}", todo=todo)


def _devices(machine: Machine) -> Iterator[Finding]:
    for device in machine.devices:
        memory = ""
        if device.memory is not None and device.memory_free is not None:
            memory = f", {size_text(device.memory_free)} of {size_text(device.memory)} free"
        yield Finding(topic="device", text=f"{device.name}: {device.about}{memory}")
    if len(machine.devices) > 1:
        return
    if Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi"):
        text = f"there is an NVIDIA driver, but this torch ({torch.__version__}) finds no GPU"
        todo = "install the torch of your CUDA version: https://pytorch.org/get-started/locally"
        yield Finding(topic="device", level="note", text=text, todo=todo)
    if machine.n_threads > machine.n_cores:
        text = f"torch uses {machine.n_threads} threads on {machine.n_cores} cores, which is slow"
        todo = f"export OMP_NUM_THREADS={machine.n_cores}"
        yield Finding(topic="device", level="note", text=text, todo=todo)


def _memory(total: int | None, free: int | None) -> Finding:
    if total is None or free is None:
        said = "" if total is None else f"{size_text(total)} in all; "
        return Finding(topic="memory", text=f"{said}this system does not tell what is free")
    text = f"{size_text(free)} of {size_text(total)} free"
    if free >= LITTLE_MEMORY:
        return Finding(topic="memory", text=text)
    todo = "close other programs before large jobs"
    return Finding(topic="memory", level="note", text=f"{text}, which is little", todo=todo)


def _cache(machine: Machine) -> Finding:
    free = size_text(machine.disk_free)
    text = f"{machine.cache} holds {size_text(machine.cache_bytes)}, {free} of disk free there"
    if not os.access(existing(Path(machine.cache)), os.W_OK):
        text = f"{machine.cache} cannot be written to, so weights cannot be kept there"
        return Finding(topic="cache", level="problem", text=text, todo=ELSEWHERE)
    if machine.disk_free < LITTLE_DISK:
        return Finding(topic="cache", level="note", text=f"{text}, which is little", todo=ELSEWHERE)
    return Finding(topic="cache", text=text)


def _weights(machine: Machine) -> Finding:
    said = {}
    for packaged in (True, False):
        some = [each for each in machine.weights if each.packaged is packaged]
        said[packaged] = ", ".join(f"{each.name} ({size_text(each.n_bytes)})" for each in some)
    text = f"{said[True] or 'none'} in the package; {said[False] or 'none'} in the cache folder"
    if said[True]:
        return Finding(topic="weights", text=text)
    todo = "install cellfm again: its small model is missing"
    return Finding(topic="weights", level="problem", text=text, todo=todo)
