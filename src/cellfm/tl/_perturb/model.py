"""Genetic perturbation: train on a screen, predict what other perturbations would do."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.conditions import Condition, Protocol, parse_condition
from cellfm.errors import DataError
from cellfm.genes.sets import GeneSets, read_gene_sets
from cellfm.tl._perturb.cells import predicted_cells
from cellfm.tl._perturb.contexts import judge_transfer
from cellfm.tl._perturb.data import PerturbData, PerturbOptions, read_perturbations, resolve_targets
from cellfm.tl._perturb.judge import Head, Judged, Progress, Validation, fit_head, judge, verdict
from cellfm.tl._perturb.reverse import candidates_of, rank_candidates, wanted_change
from cellfm.tl._perturb.store import load_perturbation, save_perturbation
from cellfm.tl._response.baselines import Prediction, Predictor
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.interaction import cosine
from cellfm.tl._response.responses import Responses
from cellfm.tl._states import as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbationModel:
    """Responses that were learned, and how good predictions of unseen ones were.

    Attributes
    ----------
    model
        Weights it was trained with.
    head
        How responses are predicted.
    predictor
        Fitted to all conditions.
    responses
        What it was fitted to.
    features
        Vectors of genes.
    table
        Scores of the cross-validation: a row for the model, each control and the ceiling.
    transfer
        The same for responses in one context predicted from those in the others; None without several contexts.
    training
        Columns and parameters of the training.
    notes
        What was left out, and warnings.
    judged
        Everything about the cross-validation, where it was just trained; None when read from a folder.
    """

    model: Pretrained
    head: Head
    predictor: Predictor
    responses: Responses
    features: GeneFeatures
    table: "pd.DataFrame"
    transfer: "pd.DataFrame | None"
    training: Mapping[str, object]
    notes: tuple[str, ...] = ()
    judged: Judged | None = None

    @property
    def verdict(self) -> str:
        """What the scores show and what they do not."""
        return verdict(self.table)

    def respond(self, perturbations: Sequence[str]) -> Prediction:
        """Predict responses: changes of mean log1p(counts per 10⁴), shape (perturbation, gene), with standard deviations.

        Parameters
        ----------
        perturbations
            ``GENE`` or ``GENE1+GENE2``.

        Raises
        ------
        DataError
            A name is no perturbation, or a gene is not in the vocabulary; near names are suggested.
        """
        return self.predictor.predict(self.conditions_of(perturbations))

    def conditions_of(self, perturbations: Sequence[str]) -> tuple[Condition, ...]:
        """Return what names of perturbations mean, under vocabulary symbols.

        Parameters
        ----------
        perturbations
            ``GENE`` or ``GENE1+GENE2``.

        Raises
        ------
        DataError
            There are none, a name is no perturbation or the control, or a gene is not in the vocabulary.
        """
        raw = [parse_condition(name) for name in perturbations]
        if not raw or not all(each.genes for each in raw):
            msg = f"The perturbations asked for are {list(perturbations)}; expected at least one, each GENE or GENE1+GENE2. Give a number in that range."
            raise DataError(msg)
        symbol = resolve_targets(
            sorted({gene for each in raw for gene in each.genes}), self.model.vocabulary
        )
        return tuple(Condition.of(symbol[gene] for gene in each.genes) for each in raw)

    def interactions(self, perturbations: Sequence[str]) -> "pd.DataFrame":
        """Compare predicted responses to pairs with the sum of the responses to their genes.

        Parameters
        ----------
        perturbations
            Pairs; others are passed over.

        Returns
        -------
        A row for each pair: ``size`` of the predicted response (Euclidean norm), ``additive_size``, ``ratio`` of the two (below 1 buffering,
        above 1 synergy), ``cosine`` between the two, ``likeness`` (cosine of the two single responses) and ``distance``
        between predicted and additive.
        """
        import pandas as pd

        pairs = [each for each in self.conditions_of(perturbations) if len(each.genes) == 2]
        rows = []
        for pair in pairs:
            both = self.predictor.predict([pair]).delta[0]
            first, second = self._single(pair.singles[0]), self._single(pair.singles[1])
            total = first + second
            size, of_sum = float(np.linalg.norm(both)), float(np.linalg.norm(total))
            rows.append(
                {
                    "size": size,
                    "additive_size": of_sum,
                    "ratio": size / of_sum if of_sum else float("nan"),
                    "cosine": cosine(both, total),
                    "likeness": cosine(first, second),
                    "distance": float(np.linalg.norm(both - total)),
                }
            )
        names = ["size", "additive_size", "ratio", "cosine", "likeness", "distance"]
        index = pd.Index([pair.name for pair in pairs], name="perturbation")
        return pd.DataFrame(rows, index=index, columns=names)

    def predict(  # noqa: PLR0913 - the arguments of a user's question
        self,
        adata: "AnnData",
        perturbations: Sequence[str],
        *,
        n_cells: int | None = None,
        perturbation: str | None = None,
        control: str | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        transfer: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> "AnnData":
        """Predict counts of perturbed cells, each from a real control cell; the input is not changed.

        Parameters
        ----------
        adata
            Control cells; where it has the column of perturbations, those that are called controls in it.
        perturbations
            ``GENE`` or ``GENE1+GENE2``.
        n_cells
            Cells of each perturbation; None takes every control cell once.
        perturbation, control
            Column with the perturbations, and what controls are called in it; None as in the training.
        layer, use_raw, gene_names
            As in `embed`.
        transfer
            Move responses to the expression of these cells (:mod:`cellfm.tl._response.transfer`); without effect on cells like those of the training.
        seed
            Of the sampling.
        progress
            Called with (perturbations done, perturbations in all).

        Returns
        -------
        Cells × all genes of the input, int32 counts in ``X``: the control cells used and those predicted. ``obs`` has ``perturbation`` and ``source``
        (the control cell it came from) with the columns of that cell; ``varm["delta"]`` and ``varm["delta_sd"]`` the predicted responses, gene ×
        perturbation, NaN for genes that the training data did not have; ``uns["cellfm"]`` provenance and warnings.

        Raises
        ------
        DataError
            There are no control cells, or too few genes of the training data.
        CountsError
            The values are no counts.
        """
        asked, called = self.training["perturbation"], self.training["control"]
        options = PerturbOptions(
            perturbation=perturbation or str(asked),
            control=control or (None if called is None else str(called)),
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
        )
        return predicted_cells(
            self,
            adata,
            self.respond(perturbations),
            n_cells=n_cells,
            options=options,
            transfer=transfer,
            seed=seed,
            progress=progress,
        )

    def reverse(  # noqa: PLR0913 - the arguments of a user's question
        self,
        adata: "AnnData",
        *,
        groupby: str,
        target: str,
        start: str | None = None,
        genes: Sequence[str] | None = None,
        doubles: bool = True,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        progress: Progress | None = None,
    ) -> "pd.DataFrame":
        """Rank perturbations by how far they would move cells from a start to a target state.

        Parameters
        ----------
        adata
            Cells × genes with raw counts, of both states.
        groupby
            Column of ``obs`` with the states.
        target, start
            Entries of it; without `start` the controls of the training data.
        genes
            Genes that may be perturbed; None for all that the training data perturbed.
        doubles
            Rank pairs of them too.
        layer, use_raw, gene_names
            As in `embed`.
        progress
            Called with (candidates done, candidates in all).

        Returns
        -------
        A row for each candidate, best first: ``rank`` (from 1), ``score`` (cosine), ``size`` of the predicted response relative to the wanted change,
        ``seen`` (what the training data has of it), and the ranks by two simple methods: ``additive_rank`` (sum of the measured
        responses to its genes) and ``centroid_rank`` (measured response to the training condition most like it).

        Raises
        ------
        DataError
            There is no such column or entry, a state has too few cells, too few genes are shared, or a gene is not in the vocabulary.
        CountsError
            The values are no counts.
        """
        options = PerturbOptions(layer=layer, use_raw=use_raw, gene_names=gene_names)
        wanted, kept = wanted_change(
            self, adata, groupby=groupby, names=(target, start), options=options
        )
        candidates = candidates_of(self, genes, doubles=doubles)
        return rank_candidates(self, candidates, wanted, kept, progress=progress)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write an artifact folder, complete or not at all; it does not hold the weights of CellFM.

        Parameters
        ----------
        folder
            To make.
        overwrite
            Replace an artifact that is there.
        """
        save_perturbation(self, Path(folder), overwrite=overwrite)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        model: Pretrained | str | Path | None = None,
        *,
        device: str | None = None,
    ) -> "PerturbationModel":
        """Read a folder of `save`.

        Parameters
        ----------
        folder
            Of `save`.
        model
            The weights it was trained with; None looks where they were then, and in the package.
        device
            Where to compute.

        Raises
        ------
        WeightsError
            The folder is none or damaged, or the weights are others.
        """
        return cls(**load_perturbation(Path(folder), model, device=device))

    def _single(self, condition: Condition) -> "NDArray[np.float64]":
        return self.predictor.predict([condition]).delta[0]


def train_perturbation(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    perturbation: str = "perturbation",
    control: str | None = None,
    context: str | None = None,
    batch_key: str | None = None,
    drop: Sequence[str] = (),
    head: Head = "kernel",
    gene_sets: GeneSets | str | Path | None = None,
    protocol: Protocol = "singles",
    n_folds: int = 5,
    n_repeats: int = 1,
    min_cells: int = 10,
    drop_unknown: bool = False,
    missing_singles: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PerturbationModel:
    """Learn responses to genetic perturbations, and measure how well unseen ones are predicted.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    model
        From `cellfm.load`, or a weights folder or name; None for the model of the package.
    perturbation
        Column of ``obs``: ``ctrl``, ``GENE``, ``GENE+ctrl`` or ``GENE1+GENE2``.
    control
        What controls are called, besides ctrl, control, non-targeting and the like.
    context, batch_key
        Columns with the cell type or line, and with the replicate: cells are compared with controls of the same.
    drop
        Entries whose cells are left out.
    head
        ``"kernel"``: Gaussian processes over perturbed genes, which choose what vectors to use; ``"graph"``: a graph network in the manner
        of GEARS (Roohani et al. 2024) on CellFM's gene states, an ensemble of three.
    gene_sets
        Sets of genes (GO terms, pathways, an interaction table), or a file that `cellfm.genes.sets.read_gene_sets` reads.
    protocol
        What the cross-validation holds out: ``"singles"`` (perturbed genes) or ``"doubles"`` (pairs).
    n_folds, n_repeats
        Of the cross-validation: folds, and how often they are dealt anew; each condition's scores are averaged over repeats.
    min_cells
        Conditions with fewer cells are left out.
    drop_unknown
        Leave out perturbations of genes that are not in the vocabulary, instead of refusing them.
    missing_singles
        Take pairs of which a gene was not perturbed alone.
    layer, use_raw, gene_names, min_matched, device
        As in `embed`.
    seed
        Of folds, random weights of the control and the graph head.
    progress
        Called with (fits done, fits in all).

    Returns
    -------
    The model, fitted to all conditions; its ``table`` holds the scores of the cross-validation, where no condition was predicted by
    what had seen it. Nothing is written to `adata`.

    Raises
    ------
    DataError
        There are no or too few controls, too few conditions, an unknown perturbed gene, a double without its singles, no such column.
    CountsError, GeneMatchError
        As in `embed`.

    Examples
    --------
    >>> trained = cellfm.tl.train_perturbation(adata, perturbation="gene")  # doctest: +SKIP
    >>> trained.table  # doctest: +SKIP
    >>> trained.predict(controls, ["STAT1", "IRF1+STAT1"])  # doctest: +SKIP
    """
    pretrained = as_model(model, device)
    options = PerturbOptions(
        perturbation=perturbation,
        control=control,
        context=context,
        batch=batch_key,
        drop=tuple(drop),
        min_cells=min_cells,
        drop_unknown=drop_unknown,
        missing_singles=missing_singles,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        min_matched=min_matched,
    )
    validation = Validation(protocol=protocol, n_folds=n_folds, n_repeats=n_repeats, seed=seed)
    sets = read_gene_sets(gene_sets) if isinstance(gene_sets, str | Path) else gene_sets
    data = read_perturbations(adata, pretrained.vocabulary, options)
    return _trained(data, pretrained, options, validation, head=head, sets=sets, progress=progress)


def _trained(
    data: PerturbData,
    model: Pretrained,
    options: PerturbOptions,
    validation: Validation,
    *,
    head: Head,
    sets: GeneSets | None,
    progress: Progress | None,
) -> PerturbationModel:
    """Judge by cross-validation, then fit to all conditions."""
    seed, responses = validation.seed, Responses.of(data)
    features, twin = (
        GeneFeatures.of(data, each, gene_sets=sets, seed=seed)
        for each in (model, random_twin(model, seed=seed))
    )
    judged = judge(data, responses, features, twin, validation, head=head, progress=progress)
    moved = judge_transfer(data, features, seed=seed) if len(data.contexts) > 1 else None
    return PerturbationModel(
        model=model,
        head=head,
        predictor=fit_head(head, responses, features, validation=None, seed=seed),
        responses=responses,
        features=features,
        table=judged.table,
        transfer=None if moved is None else moved[0],
        training={
            "perturbation": options.perturbation,
            "control": options.control,
            "context": options.context,
            "batch": options.batch,
            **asdict(validation),
            "n_cells": len(data.code),
            "n_control": responses.n_control,
            "n_conditions": len(responses.conditions),
            "split_hash": judged.hash,
            "contexts_held_out": [] if moved is None else list(moved[1]),
            "gene_sets": None if sets is None else len(sets),
        },
        notes=(*data.notes, *judged.warnings),
        judged=judged,
    )
