"""Artifacts belong to the weights they were fitted with: which those were, where they lie, and whether these are they."""

from collections.abc import Mapping
from pathlib import Path

from cellfm._version import __version__
from cellfm.errors import WeightsError
from cellfm.tl._states import as_model
from cellfm.weights.folder import HUB_KEY, Pretrained
from cellfm.weights.hub_cache import cached
from cellfm.weights.hub_names import is_hub_name, parse

N_SHOWN = 12  # characters of a hash in a message


def describe_weights(model: Pretrained) -> dict[str, object]:
    """Return what an artifact says of its weights, as JSON can hold it.

    Parameters
    ----------
    model
        The weights.
    """
    return {
        "cellfm_version": __version__,
        "weights_hash": model.hash,
        "weights": _place(model),
        "vocabulary_hash": model.vocabulary.hash,
    }


def weights_of(
    model: Pretrained | str | Path | None, description: Mapping[str, object], device: str | None
) -> Pretrained:
    """Return the weights given, or else those that lie where the artifact's lay, or else those of the package.

    Weights on the hub are taken when they are in the cache: an artifact alone makes no download.

    Parameters
    ----------
    model
        What the user says.
    description
        From `describe_weights`.
    device
        Where to compute.
    """
    recorded = description.get("weights")
    if model is None and isinstance(recorded, str) and _is_here(recorded):
        return as_model(recorded, device)
    return as_model(model, device)


def _place(model: Pretrained) -> str | None:
    """Return where the weights are found again; None for weights in memory."""
    if HUB_KEY in model.provenance:
        return model.name
    return None if model.path is None else str(model.path.resolve())


def _is_here(recorded: str) -> bool:
    if not is_hub_name(recorded):
        return Path(recorded).is_dir()
    name = parse(recorded)
    return name.commit is not None and cached(name) is not None


def check_weights(
    model: Pretrained, description: Mapping[str, object], *, who: str, kind: str
) -> None:
    """Refuse weights that an artifact was not fitted with.

    Parameters
    ----------
    model
        The weights.
    description
        From `describe_weights`.
    who
        The artifact, for the message.
    kind
        What it is.

    Raises
    ------
    WeightsError
        They are others.
    """
    pairs = (
        ("weights", str(description.get("weights_hash")), model.hash),
        ("gene list", str(description.get("vocabulary_hash")), model.vocabulary.hash),
    )
    for what, expected, found in pairs:
        if expected != found:
            was = description.get("weights") or "weights in memory"
            msg = (
                f"{who} is the wrong {kind} for the weights {model.path or 'in memory'}: it was trained with the {what} "
                f"{expected[:N_SHOWN]}… ({was}), and these have {found[:N_SHOWN]}…. Give the weights it was trained with, or train "
                "it again with these."
            )
            raise WeightsError(msg)
