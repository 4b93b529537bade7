"""A trained perturbation model on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cellfm.corpus.conditions import Condition, parse_condition
from cellfm.errors import WeightsError
from cellfm.tl._bound_weights import check_weights, describe_weights, weights_of
from cellfm.tl._response.baselines import Predictor
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.graph import GraphConfig, GraphPredictor
from cellfm.tl._response.interaction import Interaction
from cellfm.tl._response.kernel import KernelPredictor
from cellfm.tl._response.responses import Responses
from cellfm.tl._stored_table import as_list, as_mapping, from_json, to_json
from cellfm.weights.artifact import load_artifact, part_of, save_artifact
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd

KIND = "perturbation model"
RESPONSES = ("control", "sensitivity", "spread", "delta", "tau", "n_cells")


class Stored(Protocol):
    """What is stored."""

    @property
    def model(self) -> Pretrained:
        """Weights."""

    @property
    def head(self) -> str:
        """Kind of the predictor."""

    @property
    def predictor(self) -> Predictor:
        """Fitted."""

    @property
    def responses(self) -> Responses:
        """What it was fitted to."""

    @property
    def features(self) -> GeneFeatures:
        """Vectors of genes."""

    @property
    def table(self) -> "pd.DataFrame":
        """Scores."""

    @property
    def transfer(self) -> "pd.DataFrame | None":
        """Scores between contexts."""

    @property
    def training(self) -> Mapping[str, object]:
        """Parameters."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings."""


def save_perturbation(trained: Stored, folder: Path, *, overwrite: bool) -> None:
    """Write an artifact.

    Parameters
    ----------
    trained
        What is stored.
    folder
        To make.
    overwrite
        Replace an artifact.
    """
    responses, features = trained.responses, trained.features
    arrays = {f"responses.{name}": getattr(responses, name) for name in RESPONSES}
    arrays |= {"features.state": features.state, "features.coexpression": features.coexpression}
    if (sets := features.sets) is not None:
        arrays |= {
            "sets.data": sets.data,
            "sets.indices": sets.indices,
            "sets.indptr": sets.indptr,
            "sets.shape": np.array(sets.shape),
        }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}  # fmt: skip
    fitted, about = _fitted(trained.predictor)
    tensors |= {f"predictor.{name}": tensor for name, tensor in fitted.items()}
    description = {
        **describe_weights(trained.model),
        "head": trained.head,
        "predictor": about,
        "genes": list(responses.genes),
        "symbols": list(responses.symbol),
        "conditions": [each.name for each in responses.conditions],
        "n_control": responses.n_control,
        "seed": features.seed,
        "table": to_json(trained.table),
        "transfer": None if trained.transfer is None else to_json(trained.transfer),
        "training": dict(trained.training),
        "notes": list(trained.notes),
    }
    save_artifact(folder, description, tensors, kind=KIND, overwrite=overwrite)


def load_perturbation(
    folder: Path, model: Pretrained | str | Path | None, *, device: str | None
) -> dict[str, Any]:
    """Read an artifact; return the arguments of `PerturbationModel`.

    Parameters
    ----------
    folder
        Of `save_perturbation`.
    model
        Weights; None looks where they were.
    device
        Where to compute.

    Raises
    ------
    WeightsError
        The folder is none, damaged, of another version, or the weights are others.
    """
    artifact = load_artifact(folder, kind=KIND)
    told, tensors = artifact.description, artifact.tensors
    weights = weights_of(model, told, device)
    check_weights(weights, told, who=str(folder), kind=KIND)
    try:
        responses = _responses(told, part_of(tensors, "responses."))
        features = _features(told, tensors, weights)
        predictor = _restored(told, part_of(tensors, "predictor."), responses, features)
        return {
            "model": weights,
            "head": told["head"],
            "predictor": predictor,
            "responses": responses,
            "features": features,
            "table": from_json(as_mapping(told["table"])),
            "transfer": None
            if (moved := told["transfer"]) is None
            else from_json(as_mapping(moved)),
            "training": as_mapping(told["training"]),
            "notes": tuple(map(str, as_list(told["notes"]))),
        }
    except KeyError as error:
        msg = f"The perturbation model {folder} has no {error.args[0]!r}; another version of cellfm wrote it. Train it again."
        raise WeightsError(msg) from error


def _fitted(predictor: Predictor) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and JSON of a predictor."""
    from dataclasses import asdict

    if isinstance(predictor, GraphPredictor):
        return dict(predictor.tensors()), {"config": asdict(predictor.genes.config)}
    assert isinstance(predictor, KernelPredictor)
    names = list(predictor.weight)
    arrays = {
        "loading": predictor.loading,
        "scale": predictor.scale,
        "weight": np.stack([predictor.weight[name] for name in names]),
    }
    interaction = predictor.interaction
    about = {
        "kernels": names,
        "kinds": list(predictor.kinds),
        "response": predictor.response,
        "slope": predictor.slope,
        "own": None if np.isnan(predictor.own) else predictor.own,
        "interaction": {"beta": list(interaction.beta), "n_pairs": interaction.n_pairs, "gain": interaction.gain},
    }  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, about  # fmt: skip


def _restored(
    told: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    responses: Responses,
    features: GeneFeatures,
) -> Predictor:
    about = as_mapping(told["predictor"])
    if told["head"] == "graph":
        config = GraphConfig(**as_mapping(about["config"]))  # type: ignore[arg-type] # as it was stored
        return GraphPredictor.restore(tensors, train=responses, features=features, config=config)
    names = list(map(str, as_list(about["kernels"])))
    of_pairs = as_mapping(about["interaction"])
    beta = [float(str(value)) for value in as_list(of_pairs["beta"])]
    return KernelPredictor(
        train=responses,
        features=features,
        kinds=tuple(as_list(about["kinds"])),  # type: ignore[arg-type] # as it was stored
        response=bool(about["response"]),
        loading=tensors["loading"].numpy(),
        scale=tensors["scale"].numpy(),
        weight=dict(zip(names, tensors["weight"].numpy(), strict=True)),
        slope=float(str(about["slope"])),
        own=float("nan") if about["own"] is None else float(str(about["own"])),
        interaction=Interaction(
            beta=(beta[0], beta[1]),
            n_pairs=int(str(of_pairs["n_pairs"])),
            gain=float(str(of_pairs["gain"])),
        ),
    )


def _responses(told: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Responses:
    return Responses(
        genes=_names(told["genes"]),
        symbol=_names(told["symbols"]),
        conditions=tuple(_condition(name) for name in _names(told["conditions"])),
        n_control=int(str(told["n_control"])),
        **{name: tensors[name].numpy() for name in RESPONSES},
    )


def _features(
    told: Mapping[str, object], tensors: Mapping[str, Tensor], weights: Pretrained
) -> GeneFeatures:
    from scipy import sparse

    sets = part_of(tensors, "sets.") if "sets.shape" in tensors else None
    return GeneFeatures(
        vocabulary=weights.vocabulary,
        symbol=_names(told["symbols"]),
        embedding=weights.network.gene_embedding.weight.detach().cpu().numpy(),
        state=tensors["features.state"].numpy(),
        coexpression=tensors["features.coexpression"].numpy(),
        sets=None if sets is None else sparse.csr_matrix(
            (sets["data"].numpy(), sets["indices"].numpy(), sets["indptr"].numpy()),
            shape=tuple(sets["shape"].tolist()),
        ),
        seed=int(str(told["seed"])),
    )  # fmt: skip


def _condition(name: str) -> Condition:
    return parse_condition(name)


def _names(value: object) -> tuple[str, ...]:
    found: Sequence[object] = as_list(value)
    return tuple(map(str, found))
