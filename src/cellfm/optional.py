"""Packages that only some functions need."""

from importlib.util import find_spec

from cellfm.errors import MissingDependencyError

EXTRAS = {
    "analysis": "scanpy, scikit-learn, matplotlib",
    "bench": "scib-metrics, harmonypy",
    "chem": "rdkit, POT",
    "hub": "huggingface_hub",
    "index": "faiss-cpu",
    "programs": "scanpy, igraph",
    "report": "plotly, jinja2",
    "serve": "starlette, uvicorn, plotly, scanpy",
}
"""What the extras of this package bring."""


def require(*packages: str, extra: str = "analysis") -> None:
    """Complain with the line that helps when a package of an extra is missing.

    Parameters
    ----------
    packages
        Names to import, such as ``"sklearn"``.
    extra
        The extra that they are in.

    Raises
    ------
    MissingDependencyError
        When one of them is not installed.
    """
    missing = [name for name in packages if not is_there(name)]
    if missing:
        msg = (
            f"{' and '.join(missing)} cannot be imported; this function needs the extra '{extra}' ({EXTRAS[extra]}). "
            f"Install it: pip install 'cellfm[{extra}]', or from a checkout: pip install -c constraints.txt -e '.[{extra}]'."
        )
        raise MissingDependencyError(msg)


def is_there(package: str) -> bool:
    """Whether a package can be imported; a folder without code, which pip leaves where files were cached in it, is none.

    Parameters
    ----------
    package
        Name to import.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
