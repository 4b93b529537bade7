"""What a task of the benchmark is made of.

A task takes a dataset apart into cases. Of each case every method sees *views*, in which the answers are absent, and gives
an answer to each; the task scores the answers with the truth, which only the case holds. So no method can look.

How to add a task: write ``bench/tasks/NAME.py`` with a class that has the members of :class:`Task` and an instance ``TASK``;
add the line to :data:`cellfm.bench.registry.TASKS`. Its methods are :class:`Method` objects whose `run` takes a view and a
:class:`Context` and returns an :class:`Answer`; raise any error to be printed as failed. Give every method its roles:
the union over the methods must cover `required`, and :data:`MINIMUM` is always required. Scores carry bootstrap draws made by
:mod:`cellfm.bench.resample` with the case's seed, so that differences between methods are paired. Metrics belong into
``bench/metrics/``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.corpus.split import TEST

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.bench.states import States
    from cellfm.corpus.store import Store
    from cellfm.weights.folder import Pretrained

Setting = Literal["zero_shot", "frozen_probe", "few_shot", "finetune", "from_scratch", "fitted"]
"""`zero_shot`: no gradient on the dataset and no trained head; `fitted`: a classical method fitted on its training cells."""
Role = Literal[
    "candidate", "random_weights", "pca", "classical", "shuffled_labels", "negative", "positive"
]
"""What a method is to a task."""
MINIMUM: frozenset[Role] = frozenset({"random_weights", "pca", "classical", "negative"})
"""Without these no result says anything; a task that trains on labels also requires shuffled ones."""
HIDDEN = ""
"""Label of a cell whose label a method must not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that tells how good an answer is."""

    name: str
    summary: str
    higher: bool = True
    """Whether more is better."""
    best: float = 1.0
    """Value of the oracle."""
    chance: float | None = None
    """Documented value of an uninformative predictor; None where the negative control measures it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """Value of a metric and its bootstrap draws; methods of a case share the resamples."""

    value: float
    draws: "NDArray[np.float64]" = field(default_factory=lambda: np.empty(0))
    """May be empty: then there is no interval."""
    n_units: int
    unit: str
    """What was drawn: ``"donor"``, ``"batch"``, ``"cell"``, ``"gene"``, …"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a method says about a view; which arrays it must have, the task says."""

    arrays: "Mapping[str, NDArray[Any]]"
    notes: tuple[str, ...] = ()
    """What was chosen on the training cells, and whatever else a reader must know."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Scores of a method on a case."""

    scores: Mapping[str, Score]
    """By name of the metric."""
    notes: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    """For the report: curves, confusion; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A dataset under a protocol; also the views of it, in which labels are hidden.

    Attributes
    ----------
    dataset
        Where the cells come from.
    adata
        Cells × genes: what `dataset.cells` is, or some of its cells. In ``X`` the values on the scale of the dataset; not to
        be changed.
    rows
        Row of each cell in `dataset.cells`.
    split
        Protocol: ``"donor"``, ``"batch"`` (whole ones are held out), ``"intra"`` (cells of the same donors on both sides: never a
        headline), or a task's own name.
    split_hash
        SHA-256 of what is held out.
    part
        0 training, 1 validation, 2 test, for each cell; in a case of several folds 2 wherever some fold tests.
    seed
        Of everything drawn.
    fold
        Name of the held-out group of a view.
    k
        Labels per class of a few-shot case.
    labels
        Label of each cell, ``""`` where it is hidden or absent.
    classes
        Labels in the order of the columns of probabilities.
    group
        Donor, or batch, of each cell: the independent unit; None without one.
    notes
        What was left out, and why.
    """

    dataset: Dataset
    adata: "AnnData"
    rows: "NDArray[np.int64]"
    split: str
    split_hash: str
    part: "NDArray[np.int8]"
    seed: int
    fold: str = ""
    k: int | None = None
    labels: "NDArray[np.str_] | None" = None
    classes: tuple[str, ...] = ()
    group: "NDArray[np.str_] | None" = None
    notes: tuple[str, ...] = ()

    def view(
        self,
        part: "NDArray[np.int8] | None" = None,
        *,
        labels: "NDArray[np.str_] | None" = None,
        fold: str = "",
    ) -> "Case":
        """Return what a method may see: labels of test cells hidden, and no labels in ``obs``.

        Parameters
        ----------
        part
            Of the fold; None for that of the case.
        labels
            Fewer labels than the case has; those of test cells are hidden in any case.
        fold
            Name of the held-out group.
        """
        from anndata import AnnData

        part = self.part if part is None else part
        known = self.labels if labels is None else labels
        if known is not None:
            known = np.where(part == TEST, HIDDEN, known)
        keys = [key for key in (self.dataset.batch, self.dataset.donor) if key is not None]
        shown = AnnData(
            self.adata.X, obs=self.adata.obs[list(dict.fromkeys(keys))].copy(), var=self.adata.var
        )
        blind = self.dataset.blind()
        return replace(self, dataset=blind, adata=shown, part=part, labels=known, fold=fold)

    @property
    def code(self) -> "NDArray[np.int64]":
        """Class of each cell as a number, -1 where the label is hidden or no class."""
        if self.labels is None:
            return np.full(len(self.part), -1, np.int64)
        number = {name: i for i, name in enumerate(self.classes)}
        return np.array([number.get(str(label), -1) for label in self.labels], np.int64)

    @property
    def known(self) -> "NDArray[np.bool_]":
        """Which cells may be fitted on: outside of the test part, with a label."""
        return (self.part != TEST) & (self.code >= 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """What methods work with."""

    model: "Pretrained"
    states: "States"
    """Frozen states and fitted profiles, computed once."""
    store: "Store | None" = None
    """The corpus the model was pretrained on."""
    seed: int = 0
    work: Path
    """Folder for what a method wants to keep."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A way to answer a task."""

    name: str
    summary: str
    setting: Setting
    roles: frozenset[Role]
    run: Callable[[Case, Context], Answer]
    needs: tuple[str, ...] = ()
    """Optional packages, as they are imported."""
    trains: bool = False
    """Takes minutes: only when asked for by name or with --slow."""
    corpus: bool = False
    """Needs the pretraining corpus; left out without one."""
    against: tuple[str, ...] = ()
    """Methods of the task that it is to be compared with in pairs."""
    detail: str = ""
    """Options that change its answers: outcomes of other details are not used again."""


class Task(Protocol):
    """Cases, methods, and how to score."""

    @property
    def name(self) -> str:
        """Lower case, a word."""

    @property
    def summary(self) -> str:
        """A line for `cellfm bench list`."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The first is the primary one."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """Candidates and controls."""

    @property
    def negative(self) -> str:
        """Name of the method that is the uninformative baseline *b* of the normalised score."""

    @property
    def positive(self) -> str | None:
        """Name of the method that is the ceiling *r*; None where it is each metric's best value."""

    @property
    def required(self) -> frozenset[Role]:
        """Roles without which a group of results is none; at least :data:`MINIMUM`."""

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used; None if it can."""

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield the protocols of a dataset; each becomes a group of results."""

    def views(self, case: Case) -> Sequence[Case]:
        """Return what methods see: one view for each fold, made by :meth:`Case.view`."""

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge the answers to all views of a case, in their order."""
