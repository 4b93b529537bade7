"""What a machine has: packages, devices, memory, disk, weights, and whether cells can be embedded on it."""

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from cellfm._version import __version__
from cellfm.settings import cache_dir
from cellfm.tl._doctor.self_test import N_CELLS
from cellfm.weights.folder import PACKAGED
from cellfm.weights.hub_cache import all_cached
from cellfm.weights.layout import CONFIG, WEIGHTS

PACKAGES = ("cellfm", "torch", "anndata", "numpy", "scipy", "pandas", "h5py", "zarr", "scanpy")
"""Versions that a report of a fault should have."""
EXTRAS_OF_DEVELOPERS = ("dev", "docs", "test")

_REQUIREMENT = re.compile(
    r"^([A-Za-z0-9._-]+)(\[[^\]]*\])?[^;]*(?:;.*extra\s*==\s*['\"]([^'\"]+)['\"])?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """Optional packages that belong together."""

    name: str
    missing: tuple[str, ...]
    install: str
    """The line that installs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A weights folder that has a name."""

    name: str
    path: str
    n_bytes: int
    packaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Something to compute on."""

    name: str
    """As ``--device`` takes it."""
    about: str
    memory: int | None
    """Bytes of its own; None for what shares the memory of the machine."""
    memory_free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found of a machine; sizes in bytes, None where not known."""

    python: str
    system: str
    packages: Mapping[str, str | None]
    installed: str | None
    """Version as which cellfm was installed; None where it runs from a folder."""
    missing: tuple[str, ...]
    """Packages that it needs and that are not there."""
    extras: tuple[Extra, ...]
    devices: tuple[Device, ...]
    n_cores: int
    n_threads: int
    blas: str
    memory: int | None
    memory_free: int | None
    cache: str
    cache_bytes: int
    disk_free: int
    weights: tuple[Weights, ...]
    self_test_cells: int
    self_test_seconds: float | None


def facts_of(device_seconds: float | None) -> Machine:
    """Collect what this machine has.

    Parameters
    ----------
    device_seconds
        What the self-test took; None where it failed.
    """
    cache = cache_dir()
    memory, memory_free = machine_memory()
    needed = [name for name, _, extra in _requirements() if extra is None]
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages={name: version_of(name) for name in PACKAGES} | {"cellfm": __version__},
        installed=version_of("cellfm"),
        missing=tuple(name for name in needed if version_of(name) is None),
        extras=tuple(_extras()),
        devices=tuple(_devices()),
        n_cores=n_cores(),
        n_threads=torch.get_num_threads(),
        blas=_blas(),
        memory=memory,
        memory_free=memory_free,
        cache=str(cache),
        cache_bytes=_size_of(cache),
        disk_free=shutil.disk_usage(existing(cache)).free,
        weights=tuple(_weights(cache / "models")),
        self_test_cells=N_CELLS,
        self_test_seconds=device_seconds,
    )


def version_of(distribution: str) -> str | None:
    """Return the installed version of a package.

    Parameters
    ----------
    distribution
        Its name in the index of packages.
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def n_cores() -> int:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_memory() -> tuple[int | None, int | None]:
    """Return all memory and what is free of it in bytes, within the limit of a container; None where the system does not tell."""
    total = free = None
    with suppress(OSError, ValueError):
        table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (1024 * int(table[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    if total is None and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total = limit if total is None else min(total, limit)
        free = limit - used if free is None else min(free, max(limit - used, 0))
    return total, free


def _requirements() -> Iterator[tuple[str, str, str | None]]:
    """Yield package, extras of it and the extra of ours that brings it; None for what is always needed."""
    try:
        lines = metadata.requires("cellfm") or ()
    except metadata.PackageNotFoundError:  # it runs from a folder
        return
    for line in lines:
        if found := _REQUIREMENT.match(line):
            yield found[1], (found[2] or "").strip("[]"), found[3]


def _extras() -> Iterator[Extra]:
    """Extras with what is not installed of them."""
    wanted: dict[str, list[str]] = {}
    nested: dict[str, list[str]] = {}
    for name, inner, extra in _requirements():
        if extra and name == "cellfm":
            nested.setdefault(extra, []).extend(inner.split(","))
            wanted.setdefault(extra, [])
        elif extra:
            wanted.setdefault(extra, []).append(name)
    for extra in sorted(set(wanted) - set(EXTRAS_OF_DEVELOPERS)):
        names = [*wanted[extra], *(n for inner in nested.get(extra, ()) for n in wanted.get(inner.strip(), ()))]  # fmt: skip
        missing = tuple(dict.fromkeys(name for name in names if version_of(name) is None))
        yield Extra(name=extra, missing=missing, install=f"pip install 'cellfm[{extra}]'")


def _devices() -> Iterator[Device]:
    """CPU first, then what accelerates."""
    yield Device(name="cpu", about=f"{n_cores()} cores, {torch.get_num_threads()} threads, {_blas()}", memory=None, memory_free=None)  # fmt: skip
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            yield Device(name=f"cuda:{number}", about=torch.cuda.get_device_name(number), memory=total, memory_free=free)  # fmt: skip
    if torch.backends.mps.is_available():
        yield Device(name="mps", about="Apple GPU", memory=None, memory_free=None)


def _blas() -> str:
    """Libraries that multiply matrices."""
    names = [("MKL", torch.backends.mkl), ("oneDNN", torch.backends.mkldnn), ("OpenMP", torch.backends.openmp)]  # fmt: skip
    return " + ".join(name for name, library in names if library.is_available()) or "none known"


def _weights(cached: Path) -> Iterator[Weights]:
    for shelf, packaged in ((PACKAGED, True), (cached, False)):
        for config in sorted(shelf.glob(f"*/{CONFIG}")):
            file = config.with_name(WEIGHTS)
            size = file.stat().st_size if file.is_file() else 0
            yield Weights(name=config.parent.name, path=str(config.parent), n_bytes=size, packaged=packaged)  # fmt: skip
    for fetched in all_cached():
        size = (fetched.path / WEIGHTS).stat().st_size
        yield Weights(name=str(fetched.name), path=str(fetched.path), n_bytes=size, packaged=False)


def _size_of(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def existing(path: Path) -> Path:
    """Return the folder, or the nearest above it that is there.

    Parameters
    ----------
    path
        Of a folder that may not be there yet.
    """
    return next((each for each in (path, *path.parents) if each.is_dir()), Path.cwd())
