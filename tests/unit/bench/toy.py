"""A task of coin tosses: what the harness does, without any network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellfm.bench.datasets import Dataset
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role, Score
from cellfm.corpus.split import TEST
from cellfm.genes import Vocabulary
from cellfm.weights import folder as weights
from cellfm.weights.folder import Pretrained

GENES = ("ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7", "PPBP", "FCGR3A", "CD8A", "IL7R", "GNLY", "B2M")  # fmt: skip
CONTROLS = ("random_weights", "pca", "classical", "negative", "shuffled_labels")


def toy_model() -> Pretrained:
    return weights.new("debug", Vocabulary.from_symbols(GENES))


def toy_cells(n: int = 90) -> AnnData:
    """Cells of three types and three donors; a gene for each type."""
    rng = np.random.default_rng(0)
    code = np.arange(n) % 3
    rate = np.full((n, len(GENES)), 2.0)
    rate[np.arange(n), code * 2] = 12.0
    obs = pd.DataFrame(
        {
            "cell_type": np.array(["B", "NK", "T"])[code],
            "donor": np.array(["d1", "d2", "d3"])[np.arange(n) // 3 % 3],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=list(GENES)))


def toy_dataset(**options: str) -> Dataset:
    return Dataset(
        name="toy", maker=toy_cells, **{"label": "cell_type", "donor": "donor", **options}
    )


def half_right(case: Case, context: Context) -> Answer:
    return Answer(arrays={"hit": np.arange(len(case.part)) % 2 == 0}, notes=("half",))


def never_right(case: Case, context: Context) -> Answer:
    return Answer(arrays={"hit": np.zeros(len(case.part), bool)})


def method(name: str, *roles: Role, run=half_right, **options: object) -> Method:
    return Method(
        name=name, summary=name, setting="zero_shot", roles=frozenset(roles), run=run, **options
    )


def methods(*more: Method) -> tuple[Method, ...]:
    controls = tuple(method(role, role) for role in CONTROLS if role != "negative")
    return (*more, *controls, method("never", "negative", run=never_right))


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    name: str = "toy"
    summary: str = "tosses"
    metrics: tuple[Metric, ...] = (Metric(name="hits", summary="share of hits"),)
    methods: tuple[Method, ...] = methods(method("ours", "candidate"))
    negative: str = "never"
    positive: str | None = None
    required: frozenset[Role] = frozenset(CONTROLS)

    def refuses(self, dataset: Dataset) -> str | None:
        return None if dataset.label else "it has no labels"

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        adata = dataset.cells
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        yield Case(
            dataset=dataset,
            adata=adata,
            rows=np.arange(adata.n_obs),
            split="intra",
            split_hash="0" * 64,
            part=np.where(np.arange(adata.n_obs) % 2, TEST, 0).astype(np.int8),
            seed=seed,
            labels=labels,
            classes=tuple(sorted(set(labels))),
        )

    def views(self, case: Case) -> Sequence[Case]:
        return [case.view()]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        hit = answers[0].arrays["hit"].astype(float)
        drawn = resample(np.zeros(len(hit), int), n_draws=50, seed=case.seed)
        values = drawn.weights @ hit / len(hit)
        score = Score(value=values[0], draws=values[1:], n_units=drawn.n_units, unit=drawn.unit)
        return Outcome(scores={"hits": score}, notes=answers[0].notes)
