"""What to say where a file that was asked for is not there."""

import difflib
from pathlib import Path

from cellfm.errors import DataError

H5AD = "an h5ad file"


def refuse_no_file(path: Path, what: str = H5AD) -> None:
    """Refuse a path where no file is, and say which may be meant.

    Parameters
    ----------
    path
        Of the file.
    what
        What is expected there.

    Raises
    ------
    DataError
        There is nothing, or a folder.
    """
    if not path.is_file():
        raise DataError(_folder(path, what) if path.is_dir() else nothing_there(path, what))


def nothing_there(path: Path, what: str) -> str:
    """Say that there is no such file, and which may be meant.

    Parameters
    ----------
    path
        Of the file.
    what
        What is expected there.
    """
    said = f"There is no file {path}; expected {what}."
    folder = path.parent
    if not folder.is_dir():
        return f"{said} Not even the folder {folder} is there. Check the path."
    return f"{said}{near_names(path)} Check the path."


def near_names(path: Path) -> str:
    """Say which names in the folder of a path are like its own; nothing where none is.

    Parameters
    ----------
    path
        That is not there, in a folder that is.
    """
    names = [each.name for each in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3)
    return f" Near names there: {', '.join(near)}." if near else ""


def _folder(path: Path, what: str) -> str:
    # h5ad is what commands read and write; counts come in other forms as well.
    return (
        f"There is no file {path}, but a folder of that name; expected {what}. If it is a folder of Cell Ranger, make one of it: "
        f"cellfm convert {path} {path.resolve().name}.h5ad"
    )
