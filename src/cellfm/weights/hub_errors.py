"""What the hub's answers mean, and what to do about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm import settings
from cellfm.errors import CellFMError, WeightsError
from cellfm.weights.hub_names import HubName


@contextmanager
def explained(
    name: HubName, file: str = "", part: Path | None = None, *, upload: bool = False
) -> Iterator[None]:
    """Turn the errors of the library into ones that say what to do.

    Parameters
    ----------
    name
        What was asked for.
    file
        Which of its files.
    part
        What has come of it.
    upload
        Whether it goes there instead.
    """
    from huggingface_hub import errors

    # httpx in version 1 of the library, httpx2 in version 2: whichever, it is the base of the library's own errors.
    http_error: type[BaseException] = next(
        base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
    )
    try:
        yield
    except CellFMError:
        raise
    except errors.HfHubHTTPError as error:
        raise WeightsError(_answer(error, name, file)) from error
    except (errors.OfflineModeIsEnabled, http_error, OSError) as error:
        raise WeightsError(_broken(error, name, part, upload=upload)) from error
    except RuntimeError as error:  # what the library makes of a failed upload of a large file
        if not upload:
            raise
        raise WeightsError(_broken(error.__cause__ or error, name, part, upload=True)) from error


def _answer(error: Exception, name: HubName, file: str) -> str:
    """Say what an answer of the hub means."""
    from huggingface_hub import errors

    endpoint = settings.hub_endpoint()
    page = f"{endpoint}/{name.repo_id}"
    log_in = _log_in(endpoint)
    if isinstance(error, errors.GatedRepoError):  # a kind of the next
        return f"{name} is gated: its owners ask who takes it. Accept their terms on {page}, then {log_in}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} has no repository {name.repo_id}, or it is private. Check the name on {page}; for a private one, {log_in}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repo_id} has no revision {name.revision!r}. Choose one of the commits and tags on {page}/commits/main."
    if isinstance(error, errors.EntryNotFoundError):
        return (
            f"{name} holds no weights of this package: it has no file {file}. Expected what 'cellfm weights upload' writes; check the name and "
            "the revision."
        )
    return _status(error, f"{file} of {name}" if file else str(name))


def _status(error: Exception, what: str) -> str:
    """Say what a status of HTTP means where the hub says no more."""
    endpoint = settings.hub_endpoint()
    status = getattr(getattr(error, "response", None), "status_code", "unknown")
    if status in (401, 403):
        return f"{endpoint} does not let you at {what} (status {status}). If you may, {_log_in(endpoint)}."
    if status == 404:
        return f"{endpoint} has no {what} (status 404). Check the name, and that this is the address of a hub."
    return f"{endpoint} answered status {status} for {what}, again and again. Try later; what has come is kept, and the same command goes on."


def _log_in(endpoint: str) -> str:
    if settings.hub_takes_token():
        return "log in with 'hf auth login' (or set HF_TOKEN) and try again"
    return f"log in with 'hf auth login' and set HF_ENDPOINT={endpoint}: a mirror that only CELLFM_HUB names, or one without https, gets no token"


def _broken(error: BaseException, name: HubName, part: Path | None, *, upload: bool) -> str:
    """Say that the network failed, and what is left of the file."""
    kept = ""
    if part is not None and part.is_file() and part.stat().st_size:
        kept = f" {part.stat().st_size:,} bytes have come and are kept: the same command goes on from there."
    what = "uploaded to" if upload else "fetched from"
    why = (str(error) or "no answer").splitlines()[0]
    return (
        f"{name} could not be {what} {settings.hub_endpoint()}: {type(error).__name__}: {why}.{kept} Check the network and try again. Slow: raise "
        "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds); a mirror: set CELLFM_HUB."
    )
