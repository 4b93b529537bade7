"""A gene table small enough to know by heart."""

import pytest

from cellfm.genes import GeneTable, Vocabulary

GENES = """hgnc_id\tsymbol\tensembl_id\taliases\tprevious\tlocus_group\tlocus_type
1\tACTB\t75624\tBRWS1\t\tprotein-coding gene\tgene with protein product
2\tTP53\t141510\tp53|LFS1\t\tprotein-coding gene\tgene with protein product
3\tMARCHF1\t145416\tRNF171\tMARCH1\tprotein-coding gene\tgene with protein product
4\tMS4A1\t156738\tCD20|B1\tCD20\tprotein-coding gene\tgene with protein product
5\tSEPTIN2\t168385\tDIFF6\tSEPT2\tprotein-coding gene\tgene with protein product
6\tSEPTIN6\t125354\tSEPT2|KIAA0128\tSEP2\tprotein-coding gene\tgene with protein product
7\tNOISE1\t1\tTP53|SHARED\t\tprotein-coding gene\tgene with protein product
8\tNOISE2\t2\tSHARED\tOLD1\tprotein-coding gene\tgene with protein product
9\tC1orf21\t116667\t\tOLD2\tprotein-coding gene\tgene with protein product
10\tTWIN1\t9\t\tOLD1\tnon-coding RNA\tRNA, long non-coding
11\tTWIN2\t9\t\t\tnon-coding RNA\tRNA, long non-coding
12\tPSEUDO1\t12\t\tOLD3|OLD4\tpseudogene\tpseudogene
13\tIGKC\t211592\t\t\tother\timmunoglobulin gene
14\tNKX2\t14\t\t\tprotein-coding gene\tgene with protein product
15\tNKX2-1\t15\t\t\tprotein-coding gene\tgene with protein product
16\tMT-ND1\t198888\t\t\tprotein-coding gene\tgene with protein product
17\tSCN11A\t168356\tNaN|225\tNA\tprotein-coding gene\tgene with protein product
"""


@pytest.fixture(scope="session")
def table() -> GeneTable:
    return GeneTable.parse(GENES, source_date="2024-10-18")


@pytest.fixture(scope="session")
def everything(table: GeneTable) -> Vocabulary:
    return Vocabulary.from_symbols([gene.symbol for gene in table.genes], table=table)
