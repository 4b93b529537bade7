"""Fine-tuned classifiers: a network, adapters or all of it, and a head for each column of labels."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cellfm.batch import CellBatch
from cellfm.corpus.draw import generator as generator_of
from cellfm.corpus.draw import key_of
from cellfm.corpus.tune_batches import ShuffledBatches, ordered_batches
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.nn import CellFM, initialise
from cellfm.nn.classifier import (
    CellClassifier,
    HeadKind,
    class_loss,
    multi_label_loss,
    new_head,
)
from cellfm.nn.heads import MlpHead, initialise_head
from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.lora import add_lora, lora_parameters, merge_adapters, train_only_lora
from cellfm.tl._states import GPU_TOKENS, MOST_CPU_TOKENS, TABLE_PAYS
from cellfm.train.finetune import EpochRecord, TuneConfig, TuneResult, tune
from cellfm.weights.names import check_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells
    from cellfm.weights.folder import Pretrained

Strength = Literal["lora", "finetune"]
TRAIN, VALIDATION = 0, 1
HEAD_EPOCHS, HEAD_CELLS = 60, 64
"""Epochs at most, and cells of a step, when heads are trained on frozen states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneShape:
    """What a tuned classifier consists of; enough to build it again around the same model."""

    strength: Strength
    """Adapters, or all parameters."""
    head: HeadKind
    """Kind of the heads."""
    rank: int
    """Of the adapters; 0 without."""
    n_classes: tuple[int, ...]
    """Scores of each head."""
    multi_label: bool = False
    """Each class is a question of its own."""
    from_scratch: bool = False
    """The network began with random weights."""

    def __post_init__(self) -> None:
        for name, allowed in (("strength", ("lora", "finetune")), ("head", ("clusters", "mlp"))):
            if getattr(self, name) not in allowed:
                msg = f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, allowed))}. Choose one of these."
                raise ConfigError(msg)
        if not self.n_classes or min(self.n_classes) < 1 + (not self.multi_label):
            msg = f"n_classes is {self.n_classes}; each column needs at least {1 + (not self.multi_label)}. A column with one label has nothing to learn. Give a number in that range."
            raise ConfigError(msg)
        if self.multi_label and len(self.n_classes) != 1:
            msg = f"n_classes is {self.n_classes}; multi_label has one entry, the number of labels. Give one number."
            raise ConfigError(msg)
        if self.from_scratch and self.strength == "lora":
            msg = 'from_scratch=True trains all of a random network, so strength="lora" cannot go with it; say strength="finetune".'
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedClassifier:
    """A trained classifier."""

    module: CellClassifier
    """In evaluation mode."""
    shape: TuneShape
    weights_hash: str
    """Of the model it began with; adapters mean nothing without it."""
    result: TuneResult | None
    """How training went; None for one that was restored."""

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """What each epoch has seen."""
        return self.result.history if self.result else ()

    def logits(
        self, cells: "InMemoryCells", *, progress: Callable[[int, int], None] | None = None
    ) -> "list[NDArray[np.float32]]":
        """Return the scores of cells, an array (cell, class) for each column; all genes of a cell are read.

        Parameters
        ----------
        cells
            On the vocabulary of the model.
        progress
            Called with (cells done, cells in all).
        """
        if (
            self.shape.head == "mlp"
        ):  # nothing but the cells' states is needed, and these have a faster path
            device = next(self.module.parameters()).device
            states = torch.from_numpy(self.states(cells, progress=progress)).to(device)
            with torch.inference_mode():
                return [head(states).cpu().numpy() for head in self.module.heads]
        parts = list(_each(self.module, self.module.logits, cells, progress=progress))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def states(
        self, cells: "InMemoryCells", *, progress: Callable[[int, int], None] | None = None
    ) -> "NDArray[np.float32]":
        """Return the tuned network's state of [CLS] of each cell, shape (cell, dim).

        Parameters
        ----------
        cells, progress
            As in `logits`.
        """
        return _states(self.module, cells, progress=progress)

    def merged(self) -> CellFM:
        """Return a copy of the tuned network whose weights hold the adapters, :math:`W + BA`."""
        network = deepcopy(self.module.network)
        merge_adapters(network)
        return network.requires_grad_(requires_grad=False).eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be stored: adapters and heads, or everything when all parameters were trained."""
        return {name: tensor.detach() for name, tensor in _stored(self.module, self.shape)}

    def description(self) -> dict[str, object]:
        """Return what `restore` needs beside the tensors, for JSON."""
        return {**asdict(self.shape), "weights_hash": self.weights_hash}

    @classmethod
    def restore(
        cls, model: "Pretrained", tensors: Mapping[str, Tensor], description: Mapping[str, object]
    ) -> "TunedClassifier":
        """Build a classifier again, on the device of the model.

        Parameters
        ----------
        model
            The one that was tuned.
        tensors, description
            Of `tensors` and `description`.

        Raises
        ------
        WeightsError
            The model is another one, or the tensors do not fit.
        """
        shape = _shape_of(description)
        weights_hash = str(description.get("weights_hash"))
        if weights_hash != model.hash:
            msg = (
                f"The classifier was tuned on weights with the hash {weights_hash}, but the model has {model.hash}; "
                "what was learned means nothing on others. Give the model it was tuned on."
            )
            raise WeightsError(msg)
        module = _build(model, shape, seed=0)
        expected = dict(_stored(module, shape))
        check_tensors(
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            {name: tuple(tensor.shape) for name, tensor in expected.items()},
            source="the tuned classifier",
        )
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(tensors[name])
        return cls(module=module.eval(), shape=shape, weights_hash=weights_hash, result=None)


def fit_classifier(  # noqa: PLR0913 - one keyword for each choice of a fit
    model: "Pretrained",
    cells: "InMemoryCells",
    codes: "NDArray[np.int64]",
    parts: "NDArray[np.int8]",
    *,
    n_classes: tuple[int, ...],
    strength: Strength,
    head: HeadKind = "mlp",
    rank: int = 8,
    balanced: bool = True,
    multi_label: bool = False,
    from_scratch: bool = False,
    config: TuneConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TunedClassifier:
    """Tune a copy of a model to tell cells apart; the model stays as it is.

    Training ends when the loss on the validation part has not fallen for ``config.patience`` epochs; the epoch with the
    lowest one is kept. Without a labelled validation cell all epochs are trained and the last is kept.

    Parameters
    ----------
    model
        Weights, on the device to compute on.
    cells
        On the vocabulary of the model.
    codes
        Class of each cell in each column, shape (cell, column), -1 for none. With `multi_label` shape (cell, class): 1, 0,
        or -1 where nobody knows.
    parts
        0 for training cells, 1 for validation cells; others are not looked at.
    n_classes
        Classes of each column; with `multi_label` one entry, the number of labels.
    strength
        ``"lora"`` trains adapters of rank `rank` and the heads and freezes all else, ``"finetune"`` trains everything.
    head
        ``"mlp"`` on the state of [CLS], or ``"clusters"``: class queries that read all genes' states.
    rank
        Of the adapters.
    balanced
        Weigh each class by the inverse of its frequency among the training cells.
    multi_label
        A cell may have several labels of one column, or none of them.
    from_scratch
        Begin with random weights instead of the model's; with ``"finetune"`` only.
    config
        How to train.
    progress
        Called with (epochs done, epochs at most).

    Raises
    ------
    ConfigError
        A choice does not exist or does not go with another.
    DataError
        Codes, parts and cells do not fit each other, or a column has no labelled training cell.
    NonFiniteLossError
        The loss is not finite.
    """
    config = config or TuneConfig()
    shape = TuneShape(
        strength=strength,
        head=head,
        rank=rank if strength == "lora" else 0,
        n_classes=tuple(n_classes),
        multi_label=multi_label,
        from_scratch=from_scratch,
    )
    rows = _check(cells, codes, parts, shape)
    module = _build(model, shape, seed=config.seed)
    objective = _Objective(module, codes, rows[TRAIN], shape, balanced=balanced)
    if head == "mlp":
        _fit_heads(module, objective, cells, rows=rows, config=config)
    train = ShuffledBatches(
        cells,
        rows[TRAIN],
        token_budget=config.token_budget,
        seed=config.seed,
        max_genes=config.max_genes,
    )
    held = cells.select(rows[VALIDATION]) if len(rows[VALIDATION]) else None
    result = tune(
        module,
        objective,
        train=train,
        validate=None if held is None else lambda: objective.over(held, rows[VALIDATION]),
        config=config,
        keep_start=not from_scratch,
        progress=progress,
    )
    return TunedClassifier(module=module, shape=shape, weights_hash=model.hash, result=result)


class _Objective:
    """The loss of a batch, and of a whole part."""

    def __init__(
        self,
        module: CellClassifier,
        codes: "NDArray[np.int64]",
        train: "NDArray[np.int64]",
        shape: TuneShape,
        *,
        balanced: bool,
    ) -> None:
        self._module, self._multi_label = module, shape.multi_label
        self._codes = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64))
        of = _positive_weights if shape.multi_label else _class_weights
        weights = of(codes[train], shape.n_classes, balanced=balanced)
        self.device = next(module.parameters()).device
        self._weights = [torch.from_numpy(weight).to(self.device) for weight in weights]

    def __call__(self, batch: CellBatch, rows: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        return self.of(self._module.logits(batch), rows)

    def over(self, cells: "InMemoryCells", rows: "NDArray[np.int64]") -> float:
        """Return the mean loss of all these cells, whose rows these are."""
        parts = list(_each(self._module, self._module.logits, cells))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        logits = tuple(torch.from_numpy(column).to(self.device) for column in columns)
        return float(self.of(logits, torch.from_numpy(rows)))

    def of(self, logits: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        """Return the mean loss of scores."""
        codes = self._codes[rows].to(self.device)
        if self._multi_label:
            return multi_label_loss(logits[0].float(), codes, self._weights[0])
        return class_loss(tuple(scores.float() for scores in logits), codes, self._weights)


def _class_weights(
    codes: "NDArray[np.int64]", n_classes: tuple[int, ...], *, balanced: bool
) -> "list[NDArray[np.float32]]":
    """Return n / (K · n_k) for each of the K classes that occur among the training cells."""
    weights = []
    for column, n in enumerate(n_classes):
        code = codes[:, column]
        number = np.bincount(code[code >= 0], minlength=n)
        share = number.sum() / (np.count_nonzero(number) * np.maximum(number, 1))
        weights.append(np.where(balanced & (number > 0), share, 1.0).astype(np.float32))
    return weights


def _positive_weights(
    codes: "NDArray[np.int64]", n_classes: tuple[int, ...], *, balanced: bool
) -> "list[NDArray[np.float32]]":
    """Return the cells without a label for each cell with it."""
    has, lacks = (codes == 1).sum(axis=0), (codes == 0).sum(axis=0)
    known = balanced & (has > 0) & (lacks > 0)
    weight = np.where(known, lacks / np.maximum(has, 1), 1.0).astype(np.float32)
    return [weight[: n_classes[0]]]


def _check(
    cells: "InMemoryCells",
    codes: "NDArray[np.int64]",
    parts: "NDArray[np.int8]",
    shape: TuneShape,
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Return the labelled rows of the training and the validation part."""
    n_columns = shape.n_classes[0] if shape.multi_label else len(shape.n_classes)
    if codes.shape != (len(cells), n_columns) or parts.shape != (len(cells),):
        msg = (
            f"codes has the shape {codes.shape} and parts {parts.shape}; expected ({len(cells)}, {n_columns}) and "
            f"({len(cells)},) for {len(cells)} cells. Give one row of codes and one part for each cell."
        )
        raise DataError(msg)
    most = np.full(n_columns, 2) if shape.multi_label else np.array(shape.n_classes)
    if (codes < -1).any() or (codes >= most).any():
        msg = f"codes go from {codes.min()} to {codes.max()}; expected -1 (no label) to {most.max() - 1}, the last class. Give labels that are numbered so."
        raise DataError(msg)
    known = codes >= 0
    labelled = known[parts == TRAIN].any(axis=0)
    if not labelled.all():
        msg = f"Column {int(np.argmin(labelled))} of codes has no labelled training cell (part 0); every column needs some. Check the split."
        raise DataError(msg)
    rows = [np.flatnonzero((parts == part) & known.any(axis=1)) for part in (TRAIN, VALIDATION)]
    return rows[0], rows[1]


def _build(model: "Pretrained", shape: TuneShape, *, seed: int) -> CellClassifier:
    """Return an untrained classifier around a copy of the model's network; what is frozen shares its memory."""
    generator = torch.Generator().manual_seed(seed)
    device = model.network.cls.device
    heads = [new_head(shape.head, model.network, n) for n in shape.n_classes]
    for head in heads:
        initialise_head(head, generator)
    if shape.strength == "lora":
        network = _sharing_copy(model.network)
        add_lora(network, shape.rank, generator)
        train_only_lora(network)
    elif shape.from_scratch:
        network = initialise(CellFM(model.network.config), generator).to(device)
    else:
        network = deepcopy(model.network).requires_grad_(requires_grad=True)
    return CellClassifier(network.eval(), [head.to(device) for head in heads])


def _sharing_copy(network: CellFM) -> CellFM:
    """Copy a network whose parameters are not going to change: they stay where they are in memory."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in network.parameters()
    }
    return deepcopy(network, memo)


def _fit_heads(
    module: CellClassifier,
    objective: _Objective,
    cells: "InMemoryCells",
    *,
    rows: "tuple[NDArray[np.int64], NDArray[np.int64]]",
    config: TuneConfig,
) -> None:
    """Train the perceptrons on the frozen states, standardised over the training cells, before the network moves.

    A random head would first drag the network's states about (Kumar et al. 2022, arXiv:2202.10054); and the states are
    computed once only, so that this takes seconds.
    """
    states = [
        torch.from_numpy(_states(module, cells, part, max_genes=config.max_genes)).to(
            objective.device
        )
        if len(part)
        else None
        for part in rows
    ]
    seen, held = states
    if seen is None:
        return
    heads = [head for head in module.heads if isinstance(head, MlpHead)]
    for head in heads:
        head.standardise(seen)

    def loss(batch: Tensor, of: Tensor) -> Tensor:
        return objective.of(tuple(head(batch) for head in heads), of)

    tune(
        module.heads,
        loss,
        train=_StateBatches(seen, rows[TRAIN], seed=config.seed),
        validate=None
        if held is None
        else lambda: float(loss(held, torch.from_numpy(rows[VALIDATION]))),
        config=replace(config, n_epochs=HEAD_EPOCHS, activation_checkpointing=False),
    )


class _StateBatches:
    """Shuffled batches of frozen states."""

    def __init__(self, states: Tensor, rows: "NDArray[np.int64]", *, seed: int) -> None:
        self._states, self._rows, self._seed = states, torch.from_numpy(rows), seed

    def n_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self._rows) // HEAD_CELLS)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, each with the rows of its cells."""
        draw = generator_of(key_of(self._seed), key_of(epoch))
        order = torch.from_numpy(draw.permutation(len(self._rows)))
        for at in order.split(HEAD_CELLS):
            yield self._states[at.to(self._states.device)], self._rows[at]


def _states(
    module: CellClassifier,
    cells: "InMemoryCells",
    rows: "NDArray[np.int64] | None" = None,
    *,
    max_genes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "NDArray[np.float32]":
    with torch.inference_mode():
        quick = CellStates(module.network)
        gene = cells.gene if len(cells) >= TABLE_PAYS else cells.gene[:0]
        if len(gene):
            quick.tabulate(torch.from_numpy(np.unique(gene).astype(np.int64)))

    def state(batch: CellBatch) -> tuple[Tensor]:
        return (quick(batch),)

    parts = _each(module, state, cells, rows, max_genes=max_genes, progress=progress)
    return np.concatenate([part for (part,) in parts])


def _each(
    module: CellClassifier,
    function: Callable[[CellBatch], tuple[Tensor, ...]],
    cells: "InMemoryCells",
    rows: "NDArray[np.int64] | None" = None,
    *,
    max_genes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Iterator[tuple[NDArray[np.float32], ...]]":
    """Yield what a function says of each batch of cells, in their order."""
    device = next(module.parameters()).device
    budget = MOST_CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
    done, n_cells = 0, len(cells) if rows is None else len(rows)
    batches = ordered_batches(cells, rows, token_budget=budget, max_genes=max_genes)
    for batch, _ in batches:
        with torch.inference_mode():
            found = function(batch.to(device))
        yield tuple(tensor.float().cpu().numpy() for tensor in found)
        done += batch.n_cells
        if progress is not None:
            progress(done, n_cells)


def _stored(module: CellClassifier, shape: TuneShape) -> Iterator[tuple[str, Tensor]]:
    """Yield what has to be stored, by its name in the module."""
    if shape.strength == "finetune":
        yield from module.state_dict(keep_vars=True).items()
        return
    for name, parameter in lora_parameters(module.network).items():
        yield f"network.{name}", parameter
    for name, tensor in module.heads.state_dict(keep_vars=True).items():
        yield f"heads.{name}", tensor


def _shape_of(description: Mapping[str, object]) -> TuneShape:
    """Read a shape; what it does not name is an error, what else there is is not looked at."""
    names = TuneShape.__slots__
    missing = [name for name in names if name not in description]
    if missing:
        msg = f"The description of the tuned classifier lacks {', '.join(missing)}; it is damaged or of another kind. Train the classifier again, or get the folder again."
        raise WeightsError(msg)
    fields = {name: description[name] for name in names}
    fields["n_classes"] = tuple(fields["n_classes"])  # type: ignore[arg-type] # a list in JSON
    return TuneShape(**fields)  # type: ignore[arg-type] # checked when it is made
