r"""A graph head for the response of every gene to a perturbation, after GEARS.

Roohani, Huang & Leskovec, *Predicting transcriptional outcomes of novel multigene perturbations with GEARS*, Nat Biotechnol 2024
(doi:10.1038/s41587-023-01905-6), with CellFM's vectors in place of learned embeddings: contextual states of the genes that
respond, and embeddings of the genes that are perturbed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cellfm.nn.decoder import Affine
from cellfm.nn.primitives import Projection, unset

FOCUS = 2.0
"""γ of the published loss."""
DIRECTION = 0.1
"""λ of the published loss."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneGraph:
    r"""Weighted edges into genes, and the simplified graph convolution over them (Wu et al. 2019, arXiv:1902.07153, eq. 8).

    .. math:: \hat A = D^{-1/2} (A + I) D^{-1/2}, \qquad d_i = 1 + \sum_j a_{ij}

    A gene that has edges into it, but none out of it, is smoothed without changing the others: this is how genes that were not there
    at training join.
    """

    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    n_genes: int

    def smooth(self, x: Float[Tensor, "gene dim"], n_hops: int) -> Float[Tensor, "gene dim"]:
        r"""Return :math:`\hat A^K X`.

        Parameters
        ----------
        x
            A vector for each gene.
        n_hops
            K; 0 returns `x`.
        """
        ones = torch.ones(self.n_genes, dtype=x.dtype, device=x.device)
        degree = ones.index_add(0, self.target, self.weight.to(x.dtype))
        root = degree.rsqrt()
        weight = self.weight.to(x.dtype) * root[self.source] * root[self.target]
        for _ in range(n_hops):
            x = (x / degree[:, None]).index_add(0, self.target, weight[:, None] * x[self.source])
        return x


class TwoLayers(nn.Module):
    r""":math:`W_2\, \mathrm{dropout}(\mathrm{ReLU}(W_1 x + b_1)) + b_2`."""

    def __init__(self, n_in: int, hidden: int, n_out: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = Affine(n_in, hidden)
        self.second = Affine(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "row n_in"]) -> Float[Tensor, "row n_out"]:
        """Map the last axis."""
        return self.second(self.dropout(functional.relu(self.first(x))))


class ResponseGraphHead(nn.Module):
    r"""Change of mean expression of every gene, from gene states and smoothed vectors of the perturbed genes.

    With :math:`s_u` the CellFM state of gene *u* in control cells and :math:`\tilde x_p = (\hat A^K X)_p` the smoothed embedding of a
    perturbed gene,

    .. math::
        h_u &= \mathrm{MLP}_1(s_u) & h_P &= \mathrm{MLP}_2\Big(\sum_{p \in P} W \tilde x_p\Big) \\
        z_u &= w_u^\top \mathrm{MLP}_3(h_u + h_P) + b_u & h_{cg} &= \mathrm{MLP}_4(z) \\
        \hat\delta_u &= v_u^\top [z_u ; h_{cg}] + c_u

    :math:`w_u, b_u, v_u, c_u` are of each gene its own. Each gene's own response comes from :math:`z_u`, what it owes to the others from
    :math:`h_{cg}`.

    Parameters
    ----------
    state_dim, embedding_dim
        Widths of the states and of the perturbed genes' vectors.
    n_genes
        Genes that respond.
    hidden
        Width of everything inside.
    dropout
        Inside the four MLPs, in training.
    """

    def __init__(
        self,
        *,
        state_dim: int,
        embedding_dim: int,
        n_genes: int,
        hidden: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.gene = TwoLayers(state_dim, hidden, hidden, dropout=dropout)
        self.convolution = Projection(embedding_dim, hidden)
        self.perturbation = TwoLayers(hidden, hidden, hidden, dropout=dropout)
        self.fused = TwoLayers(hidden, hidden, hidden, dropout=dropout)
        self.across = TwoLayers(n_genes, hidden, hidden, dropout=dropout)
        self.decoder_weight, self.decoder_bias = unset(n_genes, hidden), unset(n_genes)
        self.own_weight, self.across_weight = unset(n_genes), unset(n_genes, hidden)
        self.bias = unset(n_genes)

    def forward(
        self,
        states: Float[Tensor, "gene state_dim"],
        perturbed: Float[Tensor, "condition embedding_dim"],
    ) -> Float[Tensor, "condition gene"]:
        r"""Return :math:`\hat\delta`.

        Parameters
        ----------
        states
            Of the genes; zeros for one without a state.
        perturbed
            Sum of the smoothed vectors of each condition's genes; summed before W, which is linear.
        """
        n_genes, n_conditions = len(states), len(perturbed)
        h_gene = self.gene(states)
        h_perturbed = self.perturbation(self.convolution(perturbed))
        both = functional.relu(h_perturbed[:, None] + h_gene)
        fused = torch.unflatten(self.fused(both.flatten(0, 1)), 0, (n_conditions, n_genes))
        z = (fused * self.decoder_weight).sum(-1) + self.decoder_bias
        h_across = self.across(z)
        return z * self.own_weight + h_across @ self.across_weight.T + self.bias


@torch.no_grad()
def initialise_response_head(
    head: ResponseGraphHead, mean: Float[Tensor, " gene"], generator: torch.Generator
) -> None:
    r"""Fill a head, in place, so that it says `mean` for every perturbation.

    Maps inside are uniform :math:`\pm 1/\sqrt{n_\mathrm{in}}`, their biases 0; the gene-specific weights that come last begin at 0, :math:`z_u`
    passes straight through, and what is learned is how a perturbation differs from the mean one.

    Parameters
    ----------
    head
        On the CPU.
    mean
        Mean response of the training conditions.
    generator
        Source of all randomness.
    """
    for name, parameter in head.named_parameters():
        if name.endswith(".weight"):
            bound = parameter.shape[-1] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.zero_()
    head.own_weight.fill_(1.0)
    head.bias.copy_(mean)


def response_loss(
    predicted: Float[Tensor, "condition gene"],
    true: Float[Tensor, "condition gene"],
    weight: Float[Tensor, " condition"],
    *,
    focus: float = FOCUS,
    direction: float = DIRECTION,
) -> Float[Tensor, ""]:
    r"""Return the published loss, autofocus and direction, on responses.

    .. math::
        L = \frac{1}{\sum_p w_p} \sum_p w_p \frac1G \sum_u |\delta_{pu} - \hat\delta_{pu}|^{2 + \gamma}
            + \lambda\, (\operatorname{sign} \delta_{pu} - \operatorname{sign} \hat\delta_{pu})^2

    The sign of a prediction has no gradient, in the publication as here: the second term is reported and chosen by, not descended.

    Parameters
    ----------
    predicted, true
        Responses.
    weight
        Of each condition.
    focus
        γ; 0 is the squared error.
    direction
        λ.
    """
    error = (true - predicted).abs().pow(2.0 + focus)
    wrong = (true.sign() - predicted.sign()).square()
    return (weight * (error + direction * wrong).mean(-1)).sum() / weight.sum()


def standardised(
    x: Float[Tensor, "gene dim"], known: Bool[Tensor, " gene"], *, n_fitted: int | None = None
) -> Float[Tensor, "gene dim"]:
    """Standardise each coordinate over the genes that have a vector; the others become 0, the mean.

    Parameters
    ----------
    x
        Vectors of genes.
    known
        Which of them are vectors.
    n_fitted
        Take mean and spread from so many genes at the beginning; None for all.
    """
    some = x[:n_fitted][known[:n_fitted]]
    if not len(some):
        return torch.zeros_like(x)
    scale = some.std(dim=0, correction=0)
    standard = (x - some.mean(dim=0)) / torch.where(scale > 1e-6, scale, 1.0)
    return torch.where(known[:, None], standard, 0.0)
