"""CellFM trained on a task's own cells: adapters, all of it, and the same architecture from random weights."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.task import Answer, Case, Context, Method, Setting
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.split import TEST, TRAIN, VALIDATION, split_cells
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions
from cellfm.tl._tune import Strength, fit_classifier
from cellfm.train.finetune import TuneConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELD = 0.1
"""Share of the known cells that decides when training ends, where the view has no validation part of its own."""

BUDGET = TuneConfig(patience=2)
"""Minutes a fold for some thousand cells on one core. On 500 cells of pbmc3k the validation loss was lower with lr 1e-4 than with 2e-4."""

SCRATCH = TuneConfig(n_epochs=12, patience=4, lr=1e-3)
"""Random weights have further to go: more and longer steps than :data:`BUDGET`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Fit a classifier on the known cells of a view, and give each cell the probability of each class.

    Attributes
    ----------
    strength
        Adapters, or all parameters.
    from_scratch
        Begin with random weights.
    config
        How to train; the seed is the case's.
    """

    strength: Strength
    from_scratch: bool = False
    config: TuneConfig = field(default_factory=lambda: BUDGET)

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view with ``probability``, shape (cell, class); test cells are predicted and not otherwise seen."""
        from scipy.special import softmax

        options = EmbedOptions(scale=case.dataset.scale)
        source, var = anndata_source(case.adata)
        match = match_genes(var, context.model.vocabulary, options)
        cells = InMemoryCells.from_source(source, match.token, scale=options.scale)
        classes, code = np.unique(case.code[case.known], return_inverse=True)
        codes = np.full(len(case.part), -1, np.int64)
        codes[case.known] = code
        tuned = fit_classifier(
            context.model,
            cells,
            codes[:, None],
            parts_of(case),
            n_classes=(len(classes),),
            strength=self.strength,
            from_scratch=self.from_scratch,
            config=replace(self.config, seed=case.seed),
        )
        probability = np.zeros((len(codes), len(case.classes)), np.float32)
        probability[:, classes] = softmax(tuned.logits(cells)[0], axis=1)
        best = tuned.result.best_epoch + 1 if tuned.result else 0
        note = f"epoch {best} of at most {self.config.n_epochs}"
        return Answer(arrays={"probability": probability}, notes=(note,))


def parts_of(case: Case) -> "NDArray[np.int8]":
    """Return the parts of a view; known cells are set aside to stop on where it has no validation part.

    Parameters
    ----------
    case
        A view.
    """
    part, known = np.where(case.known, case.part, TEST).astype(np.int8), case.known
    if (part == VALIDATION).any() or case.labels is None:
        return part
    held = split_cells(
        case.labels[known],
        None if case.group is None else case.group[known],
        validation=HELD,
        test=0.0,
        seed=case.seed,
    )
    part[known] = np.where(held == VALIDATION, VALIDATION, TRAIN)
    return part


def _method(name: str, summary: str, setting: Setting, tuned: Tuned) -> Method:
    config = tuned.config
    return Method(
        name=name,
        summary=summary,
        setting=setting,
        roles=frozenset({"candidate"}) if not tuned.from_scratch else frozenset({"random_weights"}),
        run=tuned,
        trains=True,
        against=() if tuned.from_scratch else ("cellfm+linear", "cellfm from scratch", "hvg+l2"),
        detail=f"epochs={config.n_epochs} patience={config.patience} lr={config.lr} lora_lr={config.lora_lr} head_lr={config.head_lr}",
    )


METHODS = (
    _method("cellfm lora", "CellFM with adapters of rank 8", "finetune", Tuned(strength="lora")),
    _method("cellfm finetune", "CellFM, all parameters", "finetune", Tuned(strength="finetune")),
    _method(
        "cellfm from scratch",
        "the same architecture from random weights, trained on the cells of the task",
        "from_scratch",
        Tuned(strength="finetune", from_scratch=True, config=SCRATCH),
    ),
)
"""Of the annotation task."""
