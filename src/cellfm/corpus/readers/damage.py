"""What libraries say of a damaged file, put into words."""

import csv
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import CellFMError, SourceError

LIBRARY_ERRORS = (
    OSError,
    ValueError,  # includes UnicodeDecodeError and the parser errors of pandas
    KeyError,
    EOFError,
    RuntimeError,  # HDF5 with a broken tree
    OverflowError,
    MemoryError,  # sizes that a damaged header made up
    zlib.error,
    struct.error,
    csv.Error,
)
"""Raised by h5py, anndata, scipy, pandas, gzip and csv on bad input; wrapped only around calls of these."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what our own checks raise into a `SourceError`; everything else passes."""
    try:
        yield
    except SourceError:
        raise
    except CellFMError as error:
        raise SourceError(str(error)) from error


@contextmanager
def reading(path: Path, part: str = "") -> Iterator[None]:
    """Turn what a library raises while it reads into a `SourceError`; other errors pass.

    Parameters
    ----------
    path
        The file that is read.
    part
        What of it; used in messages.

    Raises
    ------
    SourceError
        The file is not there, not allowed, damaged or of another form.
    """
    what = f"{part} of {path}" if part else str(path)
    try:
        with refusing():
            yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        msg = f"There is no file {path} (unreachable source). Correct the path, or take it out of the list."
        raise SourceError(msg) from error
    except PermissionError as error:
        msg = f"{path} may not be read (no permission: {error}). Change its mode or owner."
        raise SourceError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{what} holds text that is not UTF-8 ({error}). Convert it, for example with iconv."
        raise SourceError(msg) from error
    except LIBRARY_ERRORS as error:
        said = f"{type(error).__name__}: {error}"
        msg = f"{what} cannot be read ({said}). It is damaged, cut short or of another format: get it again, or name its format."
        raise SourceError(msg) from error
