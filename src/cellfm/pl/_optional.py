"""Packages that only some functions need."""

from importlib.util import find_spec

from cellfm.errors import MissingDependencyError


def require(*packages: str) -> None:
    """Complain with the line that helps when a package of the extra ``analysis`` is missing.

    Parameters
    ----------
    packages
        Names to import, such as ``"sklearn"``.

    Raises
    ------
    MissingDependencyError
        When one of them is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        msg = (
            f"{' and '.join(missing)} cannot be imported; this function needs the extra 'analysis' (scanpy, scikit-learn, "
            "matplotlib). Install it: pip install 'cellfm[analysis]', or from a checkout: "
            "pip install -c constraints.txt -e '.[analysis]'."
        )
        raise MissingDependencyError(msg)
