"""Where to compute."""

import torch

from cellfm.errors import ConfigError


def choose_device(device: str | None) -> str:
    """Return the device asked for, or a GPU if there is one.

    Raises
    ------
    ConfigError
        The device is not here; better now than after hours of reading.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        msg = f"The device {chosen!r} cannot be used: {reason}. Give cpu, or a device that torch knows on this machine."
        raise ConfigError(msg) from error
    return chosen
