"""A network that tells genes apart by their states in cells."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cellfm.batch import CellBatch
from cellfm.nn.decoder import Affine
from cellfm.nn.encoder import CellFM


class GeneClassifier(nn.Module):
    r"""Label scores of a gene: the mean over cells of a linear map of its last-layer state.

    .. math:: y_g = \frac{1}{|C_g|} \sum_{c \in C_g} W\, \frac{h_{gc} - \mu}{\sigma} + b

    over the cells :math:`C_g` that express it. μ and σ are buffers that are not trained.

    Parameters
    ----------
    network
        The encoder.
    mean, sd
        μ and σ of the states, shape (dim,).
    weight, offset
        W and b to begin with, shapes (label, dim) and (label,).
    """

    def __init__(
        self,
        network: CellFM,
        *,
        mean: Float[Tensor, " dim"],
        sd: Float[Tensor, " dim"],
        weight: Float[Tensor, "label dim"],
        offset: Float[Tensor, " label"],
    ) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.sd: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.head = Affine(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.head.weight = nn.Parameter(weight.clone())
            self.head.bias = nn.Parameter(offset.clone())

    def forward(self, batch: CellBatch) -> Float[Tensor, "scored label"]:
        """Return the scores of each scored gene of each cell by itself."""
        state = self.network.encode(batch, wanted="scored").gene
        return self.head((state - self.mean) / self.sd)


def mean_by_gene(
    values: Float[Tensor, "scored k"], gene: Int[Tensor, " scored"], n_genes: int
) -> tuple[Float[Tensor, "gene k"], Float[Tensor, " gene"]]:
    """Average over the cells of a batch; 0 for a gene of none.

    Parameters
    ----------
    values
        Of each scored gene of each cell.
    gene
        Number of the gene of each row.
    n_genes
        How many there are.

    Returns
    -------
    Means, and how many cells each is of.
    """
    total = values.new_zeros(n_genes, values.shape[1]).index_add(0, gene, values)
    count = values.new_zeros(n_genes).index_add(0, gene, values.new_ones(len(gene)))
    return total / count.clamp(min=1)[:, None], count
