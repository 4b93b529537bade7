"""Counts of cells whose truth is known: types, programs, batches, depth and perturbations.

The count of gene *g* in cell *c* is gamma-Poisson, the form of Splatter (Zappia, Phipson & Oshlack 2017,
doi:10.1186/s13059-017-1305-0); the rest of the model and the code are our own::

    x_cg ~ Poisson(λ_cg · G_cg),   G_cg ~ Gamma(shape 1/φ_g, scale φ_g)      mean λ, variance λ + φ λ²
    λ_cg = N_c · [ (1 − α_b) · r_cg + α_b · A_bg ]
    log r_cg = log P_tg + Σ_k W_gk (d_ck + Δ_pk) − ½ v_tg + β_bg + γ_ig + own_pg

==========  ======================================================================================
``N_c``     depth of the cell: log N ~ Normal(log depth + shift_b, depth_spread²)
``P_tg``    expected share of gene *g* in cells of type *t*: gene mean × lineage effect × type effect ×
            what the type's mean activities make of the programs
``W_gk``    loading of the gene in program *k*: Gamma, sparse; one more program holds the mitochondrial genes
``d_ck``    deviation of the cell's activity from its type's mean μ_tk: Normal(0, B_t B_tᵀ), so that programs
            vary together, in each type in its own way; the activity is ``a_ck = μ_tk + d_ck + Δ_pk``
``v_tg``    ``(W B_t B_tᵀ Wᵀ)_gg``, so that the mean of ``exp(W d − v/2)`` is 1 and the profile stays P
``β, γ``    effects of the batch *b* and of the donor *i* on genes, Normal with mean of the exponential 1
``α, A``    share and profile of the ambient RNA of a batch: its mean cell
``Δ, own``  what the perturbation *p* does to programs (by the signed graph from regulators to programs) and to the
            gene itself (log(1 − efficiency) when knocked down, log(overexpression) when over-expressed)
==========  ======================================================================================

The model is linear in the logarithm, so the truth of a perturbation, ``WΔ + own``, is the expected log-fold change of
the cell's own RNA of each gene in every cell. A double is the sum of its singles, times ``1 + η`` on the programs where
the two interact. Where the effect depends on the context, the weights of a regulator are times a gain in each type. An
effect of 0 with an efficiency of 0 (or an over-expression of 1) makes a world in which nothing happens. A doublet has the sum of the rates of two cells of a batch, an empty droplet ambient RNA only.

With a reference matrix P, φ, the types and the distribution of N are estimated from it, and the loadings are shrunk
where the reference varies less than they would make it.
"""

from cellfm.corpus.simulate.config import PerturbationConfig, SimulationConfig
from cellfm.corpus.simulate.reference import Reference
from cellfm.corpus.simulate.simulation import Simulation, simulate

__all__ = ["PerturbationConfig", "Reference", "Simulation", "SimulationConfig", "simulate"]
