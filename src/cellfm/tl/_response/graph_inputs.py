r"""What the graph head sees of genes: their vectors, and the graph that joins them.

Every gene is described by CellFM (its state in control cells where it responds, its embedding where it is perturbed) and by the components of
co-expression. Genes are joined where they vary together in control cells or share gene sets: the weight of an edge is the larger of the absolute
correlation (of the principal components that are kept) and of the cosine of their weighted memberships, each gene with its nearest.
Nothing of a perturbed cell enters the graph or the vectors of genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfm.corpus.conditions import Condition
from cellfm.errors import ConfigError
from cellfm.nn.response_graph import DIRECTION, GeneGraph, ResponseGraphHead, standardised
from cellfm.tl._response.gene_features import GeneFeatures, Kind
from cellfm.tl._response.responses import Responses
from cellfm.train.finetune import TuneConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

Edges = tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.floating]"]

LEAST_EDGE = 0.05
"""Weaker likeness joins no genes."""
OWN = 10.0
"""What stands for the identity of a gene: about as long as a vector of 100 standardised coordinates."""
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """How the graph head is made and trained.

    Attributes
    ----------
    hidden
        Width inside.
    n_hops
        K of the graph convolution.
    n_neighbours
        Edges from each gene, before they are made mutual.
    n_epochs, patience
        At most, and without a lower validation error.
    lr, weight_decay, dropout
        Of the training.
    focus, direction
        γ and λ of the loss. The published γ is 2, for single cells, whose errors are of the order of one; those of mean responses are
        smaller, and their fourth power teaches nothing (simulated knock-downs: no nearer to the truth than the mean response).
    augment
        Add the sampling noise of each response anew in every step.
    n_members
        Heads of the ensemble.
    seed
        Of everything random.
    """

    hidden: int = 64
    n_hops: int = 1
    n_neighbours: int = 20
    n_epochs: int = 150
    patience: int = 25
    lr: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    focus: float = 0.0
    direction: float = DIRECTION
    augment: bool = True
    n_members: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"hidden": 1, "n_hops": 0, "n_neighbours": 1, "n_members": 1, "focus": 0.0, "direction": 0.0}  # fmt: skip
        for name, number in least.items():
            if getattr(self, name) < number:
                msg = f"GraphConfig.{name} is {getattr(self, name)}; it must be at least {number}. Give a number in that range."
                raise ConfigError(msg)
        if not 0.0 <= self.dropout < 1.0:
            msg = f"GraphConfig.dropout is {self.dropout}; it must be in [0, 1). Give a number in that range."
            raise ConfigError(msg)
        self.tuning(0)  # refuses what it cannot work with

    def tuning(self, member: int) -> TuneConfig:
        """Return how one member is trained.

        Parameters
        ----------
        member
            Its number.
        """
        return TuneConfig(
            n_epochs=self.n_epochs,
            patience=self.patience,
            head_lr=self.lr,
            weight_decay=self.weight_decay,
            seed=self.seed + member,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphInputs:
    """What the heads see of genes.

    Attributes
    ----------
    symbol
        Genes that respond.
    states
        Their standardised CellFM states, and their co-expression, shape (gene, dim).
    nodes
        Genes of the graph: those that respond, and those perturbed in training.
    targets
        The latter.
    graph
        Mutual edges between nodes.
    likeness
        Of any gene to the nodes.
    features
        Vectors of genes.
    config
        Of the graph and the heads.
    """

    symbol: tuple[str, ...]
    states: Tensor
    nodes: tuple[str, ...]
    targets: tuple[str, ...]
    graph: GeneGraph
    likeness: "Likeness"
    features: GeneFeatures
    config: GraphConfig

    @classmethod
    def of(cls, train: Responses, features: GeneFeatures, config: GraphConfig) -> "GraphInputs":
        """Take them from the vectors of genes.

        Parameters
        ----------
        train
            Names of genes and conditions only.
        features
            Vectors of genes.
        config
            Of the graph and the heads.
        """
        targets = tuple(sorted({gene for each in train.conditions for gene in each.genes}))
        nodes = tuple(dict.fromkeys((*train.symbol, *targets)))
        likeness = Likeness(features, nodes)
        return cls(
            symbol=train.symbol,
            states=_vectors("state", features, train.symbol, n_fitted=len(train.symbol)),
            nodes=nodes,
            targets=targets,
            graph=likeness.graph(config.n_neighbours),
            likeness=likeness,
            features=features,
            config=config,
        )

    def head(self) -> ResponseGraphHead:
        """Return a head without parameters yet."""
        return ResponseGraphHead(
            state_dim=self.states.shape[1],
            embedding_dim=self.features.embedding.shape[1]
            + self.features.coexpression.shape[1]
            + len(self.targets),
            n_genes=len(self.symbol),
            hidden=self.config.hidden,
            dropout=self.config.dropout,
        )

    def perturbed(self, conditions: Sequence[Condition]) -> Tensor:
        """Return the sum of the smoothed vectors of each condition's genes, shape (condition, dim).

        A vector is the CellFM embedding, the co-expression of the gene, and which of the genes perturbed in training it is: W's columns are learned
        embeddings of these, as in GEARS, which smoothing shares with genes alike.

        Parameters
        ----------
        conditions
            Genes that are not in the graph join it with edges from it.
        """
        asked = {gene for condition in conditions for gene in condition.genes}
        new = sorted(asked - set(self.nodes))
        names = (*self.nodes, *new)
        static = _vectors("embedding", self.features, names, n_fitted=len(self.nodes))
        place = {gene: number for number, gene in enumerate(names)}
        own = torch.zeros(len(names), len(self.targets))
        own[[place[gene] for gene in self.targets], range(len(self.targets))] = OWN
        vectors = torch.cat([static, own], dim=1)
        smooth = self.likeness.joined(self.graph, new, self.config.n_neighbours).smooth(
            vectors, self.config.n_hops
        )
        sums = torch.zeros(len(conditions), vectors.shape[1])
        for row, condition in enumerate(conditions):
            sums[row] = smooth[[place[gene] for gene in condition.genes]].sum(dim=0)
        return sums


def _vectors(kind: Kind, features: GeneFeatures, genes: Sequence[str], *, n_fitted: int) -> Tensor:
    """Return vectors of CellFM, standardised over the first genes, beside loadings of co-expression; 0 where unknown."""
    table, known = features.table(kind, genes)
    own = standardised(torch.from_numpy(table).float(), torch.from_numpy(known), n_fitted=n_fitted)
    loading, _ = features.table("coexpression", genes)
    # of one size together: the first components say more than the last
    size = max(float(np.sqrt((features.coexpression.astype(np.float64) ** 2).mean())), 1e-12)
    return torch.cat([own, torch.from_numpy(loading / size).float()], dim=1)


class Likeness:
    """How alike any gene is to the nodes of a graph.

    Parameters
    ----------
    features
        Vectors of genes.
    nodes
        Genes of the graph.
    """

    def __init__(self, features: GeneFeatures, nodes: Sequence[str]) -> None:
        self._features = features
        self._place = {gene: number for number, gene in enumerate(nodes)}
        self._token = {g: t for t, g in enumerate(features.vocabulary.symbols, start=1)}
        self._loading, _ = features.table("coexpression", nodes)
        self._sets = self._memberships(nodes)

    def graph(self, k: int) -> GeneGraph:
        """Return the nodes' graph; an edge that one of two genes has, both have.

        Parameters
        ----------
        k
            Edges from each gene, before they are made mutual.
        """
        n = len(self._place)
        target, source, weight = self._nearest(tuple(self._place), k)
        pair = np.concatenate([target * n + source, source * n + target])
        unique, first = np.unique(pair, return_index=True)
        return GeneGraph(
            source=torch.from_numpy(unique % n),
            target=torch.from_numpy(unique // n),
            weight=torch.from_numpy(np.concatenate([weight, weight])[first]),
            n_genes=n,
        )

    def joined(self, graph: GeneGraph, new: Sequence[str], k: int) -> GeneGraph:
        """Return a graph to which genes were added, with edges into them only.

        Parameters
        ----------
        graph
            Of the nodes.
        new
            Other genes; they come behind the nodes.
        k
            Edges into each.
        """
        target, source, weight = map(torch.from_numpy, self._nearest(new, k))
        return GeneGraph(
            source=torch.cat([graph.source, source]),
            target=torch.cat([graph.target, target + graph.n_genes]),
            weight=torch.cat([graph.weight, weight]),
            n_genes=graph.n_genes + len(new),
        )

    def _nearest(self, genes: Sequence[str], k: int) -> Edges:
        """Return number of the gene, number of the node and weight of each edge."""
        found: list[Edges] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for start in range(0, len(genes), _BLOCK):
            like = self._block(genes[start : start + _BLOCK])
            best = np.argsort(-like, axis=1, kind="stable")[:, :k]
            weight = np.take_along_axis(like, best, axis=1)
            row, rank = np.nonzero(weight > LEAST_EDGE)
            found.append((row + start, best[row, rank], weight[row, rank]))
        target, source, weight = (np.concatenate(column) for column in zip(*found, strict=True))
        return target, source, weight.astype(np.float32)

    def _block(self, genes: Sequence[str]) -> "NDArray[np.float64]":
        loading, _ = self._features.table("coexpression", genes)
        # products of loadings are correlations, as far as the components that are kept go
        like = np.minimum(np.abs(loading @ self._loading.T), 1.0)
        sets = self._memberships(genes)
        if sets is not None and self._sets is not None:
            like = np.maximum(like, (sets @ self._sets.T).toarray())
        for row, gene in enumerate(genes):
            if gene in self._place:
                like[row, self._place[gene]] = 0.0
        return like

    def _memberships(self, genes: Sequence[str]) -> "csr_matrix | None":
        table = self._features.sets
        return None if table is None else table[[self._token.get(gene, 0) for gene in genes]]
