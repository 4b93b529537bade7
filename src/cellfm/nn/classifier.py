"""A network with a head for each column of labels."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.annotation import AnnotationHead
from cellfm.nn.encoder import CellFM, Layout
from cellfm.nn.heads import MlpHead

HeadKind = Literal["clusters", "mlp"]


class CellClassifier(nn.Module):
    """A network and one head for each column of labels.

    Heads of one kind: class queries that read all last-layer rows of a cell (``"clusters"``,
    :class:`~cellfm.nn.annotation.AnnotationHead`), or a perceptron on the state of [CLS] (``"mlp"``), for which the last
    layer need not compute any other row.

    Parameters
    ----------
    network
        The encoder.
    heads
        One for each column, all of one kind.
    """

    def __init__(self, network: CellFM, heads: Sequence[AnnotationHead | MlpHead]) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList(heads)

    def logits(self, batch: CellBatch) -> tuple[Float[Tensor, "cell _"], ...]:
        """Return the scores of the classes of each column.

        Parameters
        ----------
        batch
            Cells on the device of the network.
        """
        if not all(isinstance(head, AnnotationHead) for head in self.heads):
            state = self.network.encode(batch, wanted="cell").cell
            return tuple(head(state) for head in self.heads)
        layout = Layout.of(batch, self.network.config.n_prefix)
        rows = self.network.last_states(batch, layout, None)
        return tuple(head(rows, layout.lengths) for head in self.heads)

    def forward(self, batch: CellBatch) -> tuple[Float[Tensor, "cell _"], ...]:
        """Return the scores of the classes of each column."""
        return self.logits(batch)


def new_head(kind: HeadKind, network: CellFM, n_classes: int) -> AnnotationHead | MlpHead:
    """Return a head that fits a network; its parameters are NaN until they are filled.

    Parameters
    ----------
    kind
        Which head.
    network
        Gives width and number of retention heads.
    n_classes
        Scores it gives.
    """
    config = network.config
    if kind == "clusters":
        return AnnotationHead(config.dim, config.n_heads, n_classes)
    return MlpHead(config.dim, config.dim, n_classes)


def class_loss(
    logits: tuple[Float[Tensor, "cell _"], ...],
    codes: Int[Tensor, "cell column"],
    weights: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, ""]:
    r"""Sum over the columns of the weighted cross-entropy, averaged over the cells that have a label there.

    .. math:: L = \sum_c \frac{1}{n_c} \sum_{i:\, y_{ic} \ge 0} w_{c, y_{ic}} \big(-\log p_{ic}(y_{ic})\big)

    A column without any label in the batch adds 0.

    Parameters
    ----------
    logits
        Scores of each column.
    codes
        Class of each cell in each column; -1 for none.
    weights
        Weight w of each class of each column.
    """
    total = torch.zeros((), device=codes.device)
    for column, (scores, weight) in enumerate(zip(logits, weights, strict=True)):
        code = codes[:, column]
        known = code >= 0
        each = functional.cross_entropy(scores, code.clamp(min=0), reduction="none")
        total = total + (each * weight[code.clamp(min=0)] * known).sum() / known.sum().clamp(min=1)
    return total


def multi_label_loss(
    logits: Float[Tensor, "cell class"],
    codes: Int[Tensor, "cell class"],
    positive_weight: Float[Tensor, " class"],
) -> Float[Tensor, ""]:
    r"""Binary cross-entropy of each class by itself, averaged over classes and cells.

    .. math:: L = -\frac{1}{|K|} \sum_{(i,k) \in K} w_k\, y_{ik} \log p_{ik} + (1 - y_{ik}) \log(1 - p_{ik})

    over the pairs K whose code is known.

    Parameters
    ----------
    logits
        Scores of the one column.
    codes
        1 where the cell has the label, 0 where it has not, -1 where nobody knows.
    positive_weight
        Weight w of the cells that have it.
    """
    known = codes >= 0
    each = functional.binary_cross_entropy_with_logits(
        logits, codes.clamp(min=0).to(logits), reduction="none", pos_weight=positive_weight
    )
    return (each * known).sum() / known.sum().clamp(min=1)
