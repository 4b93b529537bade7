"""Gene programs: how many known sets are found in modules of genes, as many modules by every method.

A method gives a vector for each gene. The genes are clustered (Leiden, on the graph of nearest neighbours) into the same number of modules; the score is the
share of the gene sets that are significant in one (hypergeometric, Benjamini–Hochberg over all pairs), the mean over clusterings. Gene sets are resampled.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.gene_cells import GeneDataset
from cellfm.bench.methods.genes import GeneView, filled, gene_methods, genes_of, refuses_genes
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Method, Metric, Outcome, Role
from cellfm.bench.tasks.gene_function import gene_view, set_score
from cellfm.genes.sets import GeneSets
from cellfm.tl._genes.program_compare import Matched, SetTable

GENES_OF_A_PROGRAM = 400
"""On average: this sets the number of modules, between the least and the most."""
LEAST_PROGRAMS, MOST_PROGRAMS = 8, 25
N_CLUSTERINGS = 3
METRICS = (
    Metric(name="significant_sets", summary="share of gene sets that are significant in a module", chance=0.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProgramCase(GeneView):
    """Genes and what they do.

    Attributes
    ----------
    sets
        Under the symbols of the genes.
    n_programs
        Modules to make.
    """

    sets: GeneSets
    n_programs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenePrograms:
    """The task."""

    name: str = "gene_programs"
    summary: str = "known gene sets that are found in modules of genes"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "random-vectors"
    positive: str | None = None
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "negative", "shuffled_labels"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        return refuses_genes(dataset)

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield all genes at once: nothing is held out, nothing is learnt of the sets."""
        assert isinstance(dataset, GeneDataset)
        genes, columns, sets = genes_of(dataset)
        n = int(np.clip(len(genes) // GENES_OF_A_PROGRAM, LEAST_PROGRAMS, MOST_PROGRAMS))
        table = SetTable.of(genes, sets)
        text = f"{seed} {n} {genes} {table.names}"
        yield ProgramCase(
            dataset=dataset,
            adata=dataset.cells,
            rows=np.arange(dataset.cells.n_obs),
            split="all genes",
            split_hash=hashlib.sha256(text.encode()).hexdigest(),
            part=np.zeros(dataset.cells.n_obs, np.int8),
            seed=seed,
            notes=(f"{len(genes):,} genes, {len(table.names):,} gene sets, {n} modules",),
            genes=genes,
            columns=columns,
            sets=sets,
            n_programs=n,
        )

    def views(self, case: Case) -> Sequence[Case]:
        """Return the cells and the names of the genes."""
        return [gene_view(case)]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Cluster the genes by their vectors, and test the modules for the sets."""
        assert isinstance(case, ProgramCase)
        vectors, n_gaps = filled(answers[0].arrays["vectors"], len(case.genes))
        table = SetTable.of(case.genes, case.sets)
        # Genes without a vector lie together; a module of them would be one of what a method does not know.
        noise = np.random.default_rng(case.seed).standard_normal(vectors.shape)
        gap = ~np.isfinite(np.asarray(answers[0].arrays["vectors"])).all(axis=1)
        vectors[gap] += vectors[~gap].std(axis=0) * noise[gap].astype(np.float32)
        matched = Matched(vectors, case.genes)
        numbers, found = [], []
        for number in range(N_CLUSTERINGS):
            programs = matched.of_number(case.n_programs, seed=case.seed * N_CLUSTERINGS + number)
            numbers.append(programs.n)
            found.append(table.significant(programs)[0])
        share = np.stack(found).mean(axis=0)
        drawn = resample(np.zeros(len(share), np.int64), seed=case.seed)
        notes = [f"{' '.join(map(str, numbers))} modules"]
        if n_gaps:
            notes.append(f"{n_gaps} genes without a vector have random ones")
        return Outcome(
            scores={"significant_sets": set_score(share, drawn.weights)},
            notes=(*answers[0].notes, *notes),
        )


TASK = replace(GenePrograms(), methods=tuple(replace(m, needs=("igraph",)) for m in gene_methods("zero_shot")))  # fmt: skip
