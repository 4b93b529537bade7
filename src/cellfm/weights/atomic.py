"""Files and folders that appear complete or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import OutputExistsError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, whose folder is made; move the file there when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, *, marker: str) -> Iterator[Path]:
    """Give a new empty folder beside `folder`; put it in the place of the old one when the block ends well.

    An old folder is only ever replaced when it holds the file `marker`: anything else was not made by us.
    """
    if folder.exists() and not is_free(folder) and not (folder / marker).is_file():
        msg = f"{folder} exists and holds no {marker}, so it is no weights folder and is not replaced; choose another name."
        raise OutputExistsError(msg)
    temporary, old = _beside(folder), _beside(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_free(path: Path) -> bool:
    """Whether nothing is lost by writing to `path`: it does not exist or is an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before work is done for an output that would replace something unasked."""
    if not overwrite and not is_free(path):
        msg = f"{path} exists already; choose another name or pass overwrite (--overwrite)."
        raise OutputExistsError(msg)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
