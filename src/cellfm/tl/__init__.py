"""Tools: AnnData in, AnnData written."""

from cellfm.tl._embed import embed, gene_embeddings
from cellfm.tl._embed_file import EmbedSummary, embed_file
from cellfm.tl._pretrain import pretrain, pretrain_file

__all__ = ["EmbedSummary", "embed", "embed_file", "gene_embeddings", "pretrain", "pretrain_file"]
