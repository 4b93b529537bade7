"""A trained model of drug responses: what it predicts, and its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.counts import check_counts
from cellfm.errors import DataError
from cellfm.tl._drug.baselines import DrugTraining, same_drug
from cellfm.tl._drug.data import Treatment
from cellfm.tl._drug.features import DrugFeatures
from cellfm.tl._drug.head import DrugHead, KernelWeights
from cellfm.tl._drug.judge import DrugScore
from cellfm.tl._drug.responses import Contexts, DrugResponses
from cellfm.tl._drug.transport import (
    CellMap,
    Latent,
    LatentKind,
    dense_values,
    potential_tensors,
    stored_map,
)
from cellfm.tl._embed import frozen_states
from cellfm.tl._perturb.data import NO_COLUMN, levels_of
from cellfm.tl._response.cells import sample_cells
from cellfm.tl._states import EmbedOptions, as_model, default_pool
from cellfm.weights.artifact import load_artifact, save_artifact
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]

DrugMethod = Literal["transport", "conditional", "shift"]
KIND = "drug-model"
HEAD_ARRAYS = ("target", "relative", "noise", "smoothing")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugModel:
    """Predicts what drugs do to cells.

    Attributes
    ----------
    method
        ``"transport"``: an optimal-transport map of cells for each drug, of the log dose; ``"conditional"``: a Gaussian process over structure,
        dose and context, for drugs that were not measured too; ``"shift"``: the measured mean response, moved to the context.
    genes
        Names, in the order of the training data.
    training
        Responses, features and contexts of all treatments that were given.
    head
        Of the conditional method.
    latent, maps
        Of the transport method, maps by drug.
    scores
        Of held-out treatments, ours beside its controls; of models fitted without these.
    hold_out, split_hash
        What was held out for the scores.
    weights_hash
        Of the CellFM model whose states are used.
    notes
        What was left out and chosen.
    """

    method: DrugMethod
    genes: tuple[str, ...]
    training: DrugTraining
    head: DrugHead | None = None
    latent: Latent | None = None
    maps: Mapping[str, CellMap]
    scores: tuple[DrugScore, ...] = ()
    hold_out: str = ""
    split_hash: str = ""
    weights_hash: str = ""
    notes: tuple[str, ...] = ()

    @property
    def drugs(self) -> tuple[str, ...]:
        """Drugs that were trained on."""
        return tuple(sorted({t.drug for t in self.training.responses.treatments}))

    def predict(  # noqa: PLR0913 - the arguments of a user's question
        self,
        control_adata: "AnnData",
        drug: str,
        dose: float,
        *,
        model: Pretrained | str | Path | None = None,
        context: str | None = None,
        smiles: str | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        device: str | None = None,
        seed: int = 0,
    ) -> "AnnData":
        """Predict what untreated cells would be under a drug.

        Parameters
        ----------
        control_adata
            Untreated cells × genes, counts.
        drug
            Its name.
        dose
            In the unit of the training data.
        model
            The CellFM model that it was trained with; None for the one of the package.
        context
            Column of ``obs`` with the cell type or line, each predicted on its own; None if the cells are of one.
        smiles
            Structure of a drug that was not trained on.
        layer, use_raw, gene_names
            Where the counts are, as in `embed`.
        device
            To compute states on.
        seed
            Of the sampled counts.

        Returns
        -------
        The same cells × the same genes: in ``X`` sampled counts (int32), in ``layers["log1p"]`` the predicted log1p of counts per 10⁴
        (float32), in ``varm["drug_delta"]`` and ``varm["drug_delta_sd"]`` the mean change by context (columns in
        ``uns["cellfm"]["drug_response"]["contexts"]``), its standard deviation where the method gives one. Genes that the model does not have
        stay as they are.

        Raises
        ------
        DataError
            The dose is no number above 0, the drug cannot be predicted, the model's genes are missing, or the model is another one.
        CountsError
            The values are no counts.
        """
        if not 0 < dose < float("inf"):
            msg = f"The dose is {dose}; expected a number above 0 in the unit of the training data. Untreated cells need no prediction. Give such a dose, or leave the untreated cells out."
            raise DataError(msg)
        rows = self._known(drug, smiles)
        counts, columns, names = self._counts(control_adata, (layer, use_raw, gene_names))
        contexts, of = levels_of(control_adata, context, np.arange(control_adata.n_obs))
        if context is None:
            contexts = self._only_context()
        pretrained = self._pretrained(model, device)
        states = self._states(control_adata, pretrained, (layer, use_raw, gene_names))
        told = Contexts.of(counts[:, columns], of, contexts, states)
        asked = [Treatment(drug, float(dose), name) for name in contexts]
        values = dense_values(counts[:, columns])
        if self.method == "transport":
            moved = self._transported(drug, dose, values, states)
            delta = np.stack([(moved - values)[of == i].mean(axis=0) for i in range(len(contexts))])
            sd = np.full(delta.shape, np.nan)
        else:
            delta, sd = self._deltas(asked, told, rows)
            moved = np.maximum(values + delta[of], 0.0)
        return self._result(
            control_adata, (counts, columns, names), (contexts, of), predicted=(delta, sd, moved), asked=(drug, dose, seed)
        )  # fmt: skip

    def save(self, folder: str | Path, *, overwrite: bool = False) -> str:
        """Write the model as a folder of JSON and safetensors, complete or not at all; return the hash of its tensors.

        Parameters
        ----------
        folder
            To make.
        overwrite
            Replace a model that is there.

        Raises
        ------
        OutputExistsError
            The folder exists, and `overwrite` is false or it is no model.
        """
        return save_artifact(folder, self._description(), self._tensors(), kind=KIND, overwrite=overwrite)  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> "DrugModel":
        """Read a model's folder.

        Parameters
        ----------
        folder
            Of `save`.

        Raises
        ------
        WeightsError
            It is no such folder, or damaged.
        """
        stored = load_artifact(folder, kind=KIND)
        return _restored(stored.description, dict(stored.tensors))

    def _known(self, drug: str, smiles: str | None) -> "dict[str, NDArray[np.float32]]":
        """Features of the drug; refuse what the method cannot predict."""
        if self.method == "conditional":
            return {drug: self.training.features.row(drug, smiles)}
        if drug not in self.drugs:
            msg = (
                f"The drug {drug!r} was not trained on, and the method {self.method!r} knows measured drugs only: {', '.join(self.drugs[:8])}"
                f"{', …' if len(self.drugs) > 8 else ''}. Train with method='conditional' and structures to ask about others."
            )
            raise DataError(msg)
        return {}

    def _only_context(self) -> tuple[str, ...]:
        """Name of the context of cells that are all of one: the one of the training cells, if there is one."""
        names = self.training.contexts.names
        return names if len(names) == 1 else (NO_COLUMN,)

    def _pretrained(self, model: Pretrained | str | Path | None, device: str | None) -> Pretrained:
        pretrained = as_model(model, device)
        if pretrained.hash != self.weights_hash:
            msg = f"This was trained with the CellFM weights {self.weights_hash[:12]}, and those given are {pretrained.hash[:12]}; states of two models are not comparable. Give the same ones."
            raise DataError(msg)
        return pretrained

    def _counts(
        self, adata: "AnnData", where: tuple[str | None, bool, str | None]
    ) -> "tuple[csr_matrix, NDArray[np.int64], tuple[str, ...]]":
        """Return counts, columns of the model's genes, and names."""
        layer, use_raw, gene_names = where
        source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
        counts = source.read(0, source.n_rows)
        check_counts(counts)
        names = tuple(str(name) for name in gene_names_of(var, gene_names))
        place = {name: number for number, name in enumerate(names)}
        lacking = [gene for gene in self.genes if gene not in place]
        if lacking:
            msg = (
                f"{len(lacking)} of the {len(self.genes):,} genes that the model was trained on are not in the cells, such as {', '.join(lacking[:5])}. "
                "Give cells with the same gene names; genes without counts may be columns of zeros."
            )
            raise DataError(msg)
        return counts, np.array([place[gene] for gene in self.genes], np.int64), names

    def _states(
        self, adata: "AnnData", model: Pretrained, where: tuple[str | None, bool, str | None]
    ) -> "NDArray[np.float32]":
        """States of the cells, where anything depends on them."""
        needed = (self.head is not None and self.head.weights.context > 0) or (
            self.latent is not None and self.latent.kind != "expression"
        )
        width = self.training.contexts.state.shape[1]
        if not needed:
            return np.zeros((adata.n_obs, width), np.float32)
        layer, use_raw, gene_names = where
        options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, pool=default_pool(model), min_matched=0.0)  # fmt: skip
        return frozen_states(adata, model, options)[0]

    def _deltas(
        self,
        asked: list[Treatment],
        told: Contexts,
        rows: "Mapping[str, NDArray[np.float32]]",
    ) -> "tuple[Floats, Floats]":
        if self.head is not None:
            return self.head.predict(asked, told, rows)
        known = self.training.contexts
        new = [i for i, name in enumerate(told.names) if name not in known.names]
        joined = Contexts(
            names=(*known.names, *(told.names[i] for i in new)),
            control=np.vstack([known.control, told.control[new]]),
            sensitivity=np.vstack([known.sensitivity, told.sensitivity[new]]),
            state=np.vstack([known.state, told.state[new]]),
        )
        train = DrugTraining(
            responses=self.training.responses, features=self.training.features, contexts=joined, block=self.training.block,
        )  # fmt: skip
        delta = np.maximum(same_drug(train, asked), -told.control)
        return delta, np.full(delta.shape, np.nan)

    def _transported(
        self, drug: str, dose: float, values: "Floats", states: "NDArray[np.float32]"
    ) -> "Floats":
        assert self.latent is not None
        z = self.latent.encode(values, states)
        change = self.maps[drug](z, np.array([np.log10(dose)])) - z
        return np.maximum(values + change @ self.latent.decoder, 0.0)

    def _result(
        self,
        adata: "AnnData",
        cells: "tuple[csr_matrix, NDArray[np.int64], tuple[str, ...]]",
        where: "tuple[tuple[str, ...], NDArray[np.int64]]",
        *,
        predicted: "tuple[Floats, Floats, Floats]",
        asked: tuple[str, float, int],
    ) -> "AnnData":
        """Write predictions beside sampled counts."""
        from anndata import AnnData
        from scipy import sparse

        (counts, columns, names), (contexts, of), (delta, sd, moved) = cells, where, predicted
        drug, dose, seed = asked
        full = np.zeros((len(contexts), len(names)))
        full[:, columns] = delta
        blocks, order = [], []
        for number in range(len(contexts)):
            rows = np.flatnonzero(of == number)
            rng = np.random.default_rng([seed, number])
            blocks.append(sample_cells(counts[rows].astype(np.int32), full[number], rng=rng).counts)
            order.append(rows)
        sampled = sparse.vstack(blocks, format="csr")[np.argsort(np.concatenate(order))]
        log = dense_values(counts)
        log[:, columns] = moved
        result = AnnData(sampled, obs=adata.obs.copy())
        result.var_names = list(names)
        result.obs["predicted_drug"], result.obs["predicted_dose"] = drug, dose
        result.layers["log1p"] = log.astype(np.float32)
        result.varm["drug_delta"] = full.T.astype(np.float32)
        wide = np.full(full.shape, np.nan)
        wide[:, columns] = sd
        result.varm["drug_delta_sd"] = wide.T.astype(np.float32)
        told = {"contexts": np.array(contexts, dtype=str), "drug": drug, "dose": dose, "method": self.method,
                "weights_hash": self.weights_hash, "cellfm_version": __version__, "seed": seed}  # fmt: skip
        result.uns["cellfm"] = {"drug_response": told}
        return result

    def _description(self) -> dict[str, object]:
        known = self.training.responses
        return {
            "cellfm_version": __version__,
            "method": self.method,
            "genes": list(self.genes),
            "treatments": [[t.drug, t.dose, t.context] for t in known.treatments],
            "features": {"kind": self.training.features.kind, "names": list(self.training.features.names),
                         "scaffolds": list(self.training.features.scaffolds)},
            "contexts": list(self.training.contexts.names),
            "head": None if self.head is None else {**asdict(self.head.weights), "error": self.head.error},
            "spaces": [] if self.head is None else sorted(self.head.spaces),
            "latent": None if self.latent is None else self.latent.kind,
            "maps": [[drug, each.value] for drug, each in self.maps.items()],
            "scores": [{name: _json(value) for name, value in asdict(score).items()}
                       for score in self.scores],
            "hold_out": self.hold_out,
            "split_hash": self.split_hash,
            "weights_hash": self.weights_hash,
            "notes": list(self.notes),
        }  # fmt: skip

    def _tensors(self) -> dict[str, torch.Tensor]:
        known, contexts = self.training.responses, self.training.contexts
        arrays: dict[str, NDArray[np.generic]] = {
            "delta": known.delta, "tau": known.tau, "spread": known.spread, "n_cells": known.n_cells,
            "block": self.training.block, "features": self.training.features.table,
            "control": contexts.control, "sensitivity": contexts.sensitivity, "state": contexts.state,
        }  # fmt: skip
        if self.head is not None:
            arrays |= {f"head.{name}": getattr(self.head, name) for name in HEAD_ARRAYS}
            arrays |= {f"space.{name}": basis for name, basis in self.head.spaces.items()}
        if self.latent is not None:
            arrays |= {f"latent.{name}": getattr(self.latent, name) for name in ("centre", "basis", "decoder")}  # fmt: skip
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}  # fmt: skip
        return tensors | potential_tensors(tuple(self.maps.values()))


def _json(value: object) -> object:
    """JSON has no NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _restored(told: Mapping[str, object], tensors: dict[str, torch.Tensor]) -> DrugModel:
    """Put a model together again."""
    array = {name: tensor.numpy() for name, tensor in tensors.items()}
    treatments = tuple(Treatment(str(a), float(b), str(c)) for a, b, c in cast("list[tuple[str, float, str]]", told["treatments"]))  # fmt: skip
    responses = DrugResponses(
        treatments=treatments, delta=array["delta"], tau=array["tau"], spread=array["spread"], n_cells=array["n_cells"],
        halves=np.stack([array["delta"]] * 2), split=np.stack([array["delta"]] * 2), split_tau=array["tau"],
    )  # fmt: skip
    about = cast("dict[str, list[str]]", told["features"])
    features = DrugFeatures(
        kind=cast("Literal['morgan', 'table', 'identity']", about["kind"]), names=tuple(about["names"]),
        table=array["features"], scaffolds=tuple(about["scaffolds"]),
    )  # fmt: skip
    contexts = Contexts(
        names=tuple(cast("list[str]", told["contexts"])), control=array["control"],
        sensitivity=array["sensitivity"], state=array["state"],
    )  # fmt: skip
    head, latent = None, None
    if told["head"] is not None:
        settings = dict(cast("dict[str, float]", told["head"]))
        error = settings.pop("error")
        spaces = {name: array[f"space.{name}"] for name in cast("list[str]", told["spaces"])}
        head = DrugHead(
            weights=KernelWeights(**settings), treatments=treatments, features=features, contexts=contexts,  # type: ignore[arg-type]
            spaces=spaces, error=error, **{name: array[f"head.{name}"] for name in HEAD_ARRAYS},
        )  # fmt: skip
    if told["latent"] is not None:
        parts = {name: array[f"latent.{name}"] for name in ("centre", "basis", "decoder")}
        latent = Latent(kind=cast("LatentKind", told["latent"]), **parts)
    maps = {
        drug: stored_map(tensors, number, value=value)
        for number, (drug, value) in enumerate(cast("list[tuple[str, float]]", told["maps"]))
    }
    scores = [
        DrugScore(**{name: float("nan") if value is None else value for name, value in each.items()})  # type: ignore[arg-type]
        for each in cast("list[dict[str, float | None]]", told["scores"])
    ]  # fmt: skip
    return DrugModel(
        method=cast("DrugMethod", told["method"]),
        genes=tuple(cast("list[str]", told["genes"])),
        training=DrugTraining(responses=responses, features=features, contexts=contexts, block=array["block"]),
        head=head,
        latent=latent,
        maps=maps,
        scores=tuple(scores),
        hold_out=str(told["hold_out"]),
        split_hash=str(told["split_hash"]),
        weights_hash=str(told["weights_hash"]),
        notes=tuple(cast("list[str]", told["notes"])),
    )  # fmt: skip
