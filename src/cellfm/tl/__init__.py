"""Tools: AnnData in, AnnData written."""

from cellfm.tl._annotate import AnnotatedColumn, AnnotationResult, annotate, train_annotator
from cellfm.tl._annotator import Annotator
from cellfm.tl._annotator_file import annotate_file, train_annotator_file
from cellfm.tl._denoise import DenoiseSummary, denoise, denoise_file
from cellfm.tl._drug.model import DrugModel
from cellfm.tl._drug.train import train_drugs
from cellfm.tl._embed import embed
from cellfm.tl._embed_file import EmbedSummary, embed_file
from cellfm.tl._genes.embeddings import gene_embeddings
from cellfm.tl._genes.function import GeneFunction, classify_genes
from cellfm.tl._genes.function_tuned import GeneTuning
from cellfm.tl._genes.influence import InfluencedGenes, influenced_genes
from cellfm.tl._genes.program_changes import ProgramChanges, program_changes
from cellfm.tl._genes.program_scores import program_scores
from cellfm.tl._genes.program_study import GenePrograms, gene_programs
from cellfm.tl._genes.similar import similar_genes
from cellfm.tl._genes.specific import SpecificGenes, specific_genes
from cellfm.tl._integrate import integrate
from cellfm.tl._integrate_file import IntegrateSummary, integrate_file
from cellfm.tl._map import map_to_reference, search
from cellfm.tl._map_file import MapSummary, map_file
from cellfm.tl._markers import marker_genes
from cellfm.tl._network.differential import DifferentialNetwork, differential_network
from cellfm.tl._network.network import GeneNetwork, gene_network
from cellfm.tl._network.study import NetworkCheck, check_network
from cellfm.tl._perturb.model import PerturbationModel, train_perturbation
from cellfm.tl._pretrain import pretrain, pretrain_file
from cellfm.tl._reference_build import build_reference
from cellfm.tl._screen.screen import screen
from cellfm.tl._whiten import fit_whitening

__all__ = [
    "AnnotatedColumn",
    "AnnotationResult",
    "Annotator",
    "DenoiseSummary",
    "DifferentialNetwork",
    "DrugModel",
    "EmbedSummary",
    "GeneFunction",
    "GeneNetwork",
    "GenePrograms",
    "GeneTuning",
    "InfluencedGenes",
    "IntegrateSummary",
    "MapSummary",
    "NetworkCheck",
    "PerturbationModel",
    "ProgramChanges",
    "SpecificGenes",
    "annotate",
    "annotate_file",
    "build_reference",
    "check_network",
    "classify_genes",
    "denoise",
    "denoise_file",
    "differential_network",
    "embed",
    "embed_file",
    "fit_whitening",
    "gene_embeddings",
    "gene_network",
    "gene_programs",
    "influenced_genes",
    "integrate",
    "integrate_file",
    "map_file",
    "map_to_reference",
    "marker_genes",
    "pretrain",
    "pretrain_file",
    "program_changes",
    "program_scores",
    "screen",
    "search",
    "similar_genes",
    "specific_genes",
    "train_annotator",
    "train_annotator_file",
    "train_drugs",
    "train_perturbation",
]
