import json
import time
from pathlib import Path

import numpy as np
import pytest

from cellfm.errors import ConfigError, GeneMatchError
from cellfm.genes import GeneMatch, GeneTable, Vocabulary, resolve


def matched(match: GeneMatch, vocabulary: Vocabulary) -> list[str | None]:
    return [vocabulary.symbols[t - 1] if t else None for t in match.token.tolist()]


@pytest.mark.parametrize(
    ("name", "symbol", "rule"),
    [
        ("ACTB", "ACTB", "symbol"),
        (" ACTB\n", "ACTB", "symbol"),
        ("actb", "ACTB", "case"),
        ("C1ORF21", "C1orf21", "case"),
        ("ENSG00000141510", "TP53", "ensembl"),
        ("ENSG00000141510.18", "TP53", "ensembl"),
        ("ensg00000141510.18", "TP53", "ensembl"),
        ("ENSG00000141510.18_PAR_Y", "TP53", "ensembl"),
        ("MARCH1", "MARCHF1", "previous"),
        ("SEPT2", "SEPTIN2", "previous"),  # also an alias of SEPTIN6
        ("march1", "MARCHF1", "previous"),
        ("CD20", "MS4A1", "previous"),
        ("p53", "TP53", "alias"),
        ("P53", "TP53", "alias"),
        ("b1", "MS4A1", "alias"),
        ("TP53", "TP53", "symbol"),  # though NOISE1 has it as an alias
        ("GRCh38_ACTB", "ACTB", "symbol"),
        ("hg19___ENSG00000141510", "TP53", "ensembl"),
        ("mt-nd1", "MT-ND1", "case"),
    ],
)
def test_rules(everything: Vocabulary, table: GeneTable, *, name: str, symbol: str, rule: str):
    match = resolve([name], everything, table=table)
    assert matched(match, everything) == [symbol]
    assert match.report.by_rule == {rule: 1}
    assert match.token.dtype == np.int32


@pytest.mark.parametrize("name", ["SHARED", "OLD1", "ENSG00000000009", "shared"])
def test_ambiguous_names_are_left_out_and_told(everything: Vocabulary, table: GeneTable, name: str):
    match = resolve([name, "ACTB"], everything, table=table)
    assert matched(match, everything) == [None, "ACTB"]
    assert match.report.ambiguous == (name,)
    assert match.report.unmatched == ()


def test_ambiguous_stays_so_if_one_candidate_is_in_the_vocabulary(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["NOISE1", "ACTB", "TWIN2"], table=table)
    match = resolve(["SHARED", "ACTB", "ENSG00000000009"], vocabulary, table=table)
    assert match.token.tolist() == [0, 2, 0]
    assert match.report.ambiguous == ("SHARED", "ENSG00000000009")


def test_ambiguous_between_genes_that_do_not_matter_is_unmatched(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["ACTB"], table=table)
    match = resolve(["SHARED", "ACTB"], vocabulary, table=table)
    assert match.report.ambiguous == ()
    assert match.report.unmatched == ("SHARED",)


def test_approved_symbol_is_no_alias_of_a_gene_in_the_vocabulary(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["NOISE1", "ACTB"], table=table)
    match = resolve(["TP53", "tp53", "ACTB"], vocabulary, table=table)
    assert match.token.tolist() == [0, 0, 2]
    assert match.report.unmatched == ("TP53", "tp53")


@pytest.mark.parametrize(
    "name", ["MARCH1", "march1", "MARCHF1", "marchf1", "RNF171", "ENSG00000145416.3"]
)
def test_earlier_symbol_in_the_vocabulary_stands_for_its_gene(table: GeneTable, name: str):
    vocabulary = Vocabulary.from_symbols(["ACTB", "MARCH1"], table=table)
    assert resolve([name], vocabulary, table=table).token.tolist() == [2]


def test_current_name_of_a_gene_with_an_earlier_symbol_counts_as_previous(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["SEPT2"], table=table)
    match = resolve(["SEPTIN2"], vocabulary, table=table)
    assert match.report.by_rule == {"previous": 1}
    # The vocabulary's own spelling is no alias, whatever other gene goes by it.
    assert resolve(["SEPT2"], vocabulary, table=table).report.by_rule == {"symbol": 1}


def test_approved_symbol_stands_for_a_gene_listed_twice(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["MARCH1", "MARCHF1"], table=table)
    names = ["MARCHF1", "MARCH1", "RNF171", "marchf1", "ENSG00000145416"]
    assert resolve(names, vocabulary, table=table).token.tolist() == [2, 1, 2, 2, 2]


def test_gene_listed_by_two_earlier_symbols_is_ambiguous(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["OLD3", "OLD4"], table=table)
    match = resolve(["PSEUDO1", "OLD3", "ENSG00000000012"], vocabulary, table=table)
    assert match.token.tolist() == [0, 1, 0]
    assert match.report.ambiguous == ("PSEUDO1", "ENSG00000000012")


def test_symbols_that_differ_in_case_only(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["Clone1x", "CLONE1X", "other"], table=table)
    match = resolve(["CLONE1X", "Clone1x", "clone1x", "OTHER"], vocabulary, table=table)
    # The second is written as a mouse gene beside its human twin.
    assert match.token.tolist() == [2, 0, 0, 3]
    assert match.report.ambiguous == ("clone1x",)


def test_nothing_is_read_into_missing_names_and_numbers(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", "", "nan", "NaN", "NA", None, float("nan"), "225", "what"]
    match = resolve(names, everything, table=table, min_matched=0.1)
    assert match.token.tolist() == [1, *[0] * 8]
    assert len(match.report.unmatched) == 8


def test_names_for_one_token_are_summed(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", "BRWS1", "TP53", "TP53", "MARCH1", "nothing"]
    report = resolve(names, everything, table=table).report
    assert report.n_matched == 5
    assert report.n_summed == 4
    assert report.summed == {"ACTB": ("ACTB", "BRWS1"), "TP53": ("TP53", "TP53")}
    assert report.vocabulary_matched == 3
    assert report.vocabulary_size == len(everything)


def test_numbered_duplicates_are_summed(everything: Vocabulary, table: GeneTable):
    names = [
        "ACTB",
        "ACTB-1",
        "actb-2",
        "TP53",
        "TP53.1",
        "ENSG00000145416.2",
        "ENSG00000145416.2-1",
    ]
    match = resolve(names, everything, table=table)
    assert match.token.tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert match.report.by_rule == {"symbol": 2, "ensembl": 1, "suffix": 4}


def test_suffix_is_no_duplicate_of_an_absent_unknown_or_unnumbered_base(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["ACTB", "TP53", "NKX2", "NOISE1"], table=table)
    names = ["ACTB", "TP53-1", "ACTB.11", "NKX2", "NKX2-1", "SHARED", "SHARED-1", "x", "x-1"]
    match = resolve(names, vocabulary, table=table, min_matched=0.1)
    # NKX2-1 is a gene outside this vocabulary; SHARED is ambiguous; ACTB.11 has no ACTB.10.
    assert match.token.tolist() == [1, 0, 0, 3, 0, 0, 0, 0, 0]


def test_mouse_columns_of_a_mixed_reference_stay_out(everything: Vocabulary, table: GeneTable):
    names = ["GRCh38_ACTB", "GRCh38_TP53", "mm10_Actb", "ENSMUSG00000029580"]
    match = resolve(names, everything, table=table)
    assert match.token.tolist() == [1, 2, 0, 0]
    assert match.report.unmatched == ("mm10_Actb", "ENSMUSG00000029580")


def test_mouse_twin_of_a_human_gene_is_not_added_to_it(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", "Actb", "Actb-1", "TP53"]
    match = resolve(names, everything, table=table)
    assert match.token.tolist() == [1, 0, 0, 2]
    assert match.report.unmatched == ("Actb", "Actb-1")


def test_mouse_is_refused(everything: Vocabulary, table: GeneTable):
    with pytest.raises(GeneMatchError, match="look like those of mouse: 2 of 2 input names"):
        resolve(["Actb", "mt-Nd1"], everything, table=table, min_matched=0)


def test_too_few_matches_show_both_sides(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", *(f"gene{i}" for i in range(9))]
    message = (
        r"^Only 1 of 10 input genes \(10\.0%\) are in the vocabulary; at least 30\.0% are needed\. "
        r"The input starts with \['ACTB', 'gene0', 'gene1', 'gene2', 'gene3'\], the vocabulary of "
        r"17 genes with \['ACTB', 'TP53', 'MARCHF1', 'MS4A1', 'SEPTIN2'\]\. If a column of var has "
        r"symbols or Ensembl ids, name it by gene_names=…\. If so few genes are right, lower "
        r"min_matched\.$"
    )
    with pytest.raises(GeneMatchError, match=message):
        resolve(names, everything, table=table)
    assert resolve(names, everything, table=table, min_matched=0.1).report.n_matched == 1


def test_numbers_for_names_are_explained(everything: Vocabulary, table: GeneTable):
    with pytest.raises(GeneMatchError, match=r"Most names are numbers \(a row index or Entrez ids"):
        resolve([str(i) for i in range(10)], everything, table=table)


def test_no_genes_and_impossible_thresholds(everything: Vocabulary, table: GeneTable):
    with pytest.raises(GeneMatchError, match="The input has no genes"):
        resolve([], everything, table=table)
    for fraction in (-0.1, 30, float("nan")):
        with pytest.raises(ConfigError, match=r"min_matched is .*; it is a fraction"):
            resolve(["ACTB"], everything, table=table, min_matched=fraction)


def test_coverage(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", "nothing", "TP53"]
    full = resolve(names, everything, table=table, totals=np.array([60, 20, 20]))
    assert full.report.coverage == pytest.approx(0.8)
    assert resolve(names, everything, table=table).report.coverage is None
    assert resolve(names, everything, table=table, totals=[0, 0, 0]).report.coverage is None
    with pytest.raises(GeneMatchError, match=r"totals has shape \(2,\) for 3 input genes"):
        resolve(names, everything, table=table, totals=[1, 2])


def test_report_as_dict_and_text(everything: Vocabulary, table: GeneTable):
    names = ["ACTB", "BRWS1", "SHARED", *(f"gene{i}" for i in range(12))]
    report = resolve(names, everything, table=table, totals=np.ones(15), min_matched=0.1).report
    told = json.loads(json.dumps(report.to_dict()))
    assert told["n_input"] == 15
    assert told["n_matched"] == 2
    assert told["by_rule"] == {"symbol": 1, "alias": 1}
    assert told["summed"] == {"ACTB": ["ACTB", "BRWS1"]}
    assert (told["n_ambiguous"], told["ambiguous"]) == (1, ["SHARED"])
    assert told["n_unmatched"] == 12
    assert told["unmatched"] == [f"gene{i}" for i in range(10)]
    assert told["coverage"] == pytest.approx(2 / 15)
    assert report.to_text() == (
        "2 of 15 input genes matched (13.3%) with 13.3% of the counts; 1 of 17 vocabulary genes "
        "present\n"
        "  matched by: symbol 1, alias 1\n"
        "  summed: 2 (such as ACTB = ACTB + BRWS1)\n"
        "  ambiguous: 1 (such as SHARED)\n"
        "  unmatched: 12 (such as gene0, gene1, gene2)"
    )


def test_order_of_the_columns_of_the_token_array(everything: Vocabulary, table: GeneTable):
    names = np.array(["TP53", "ACTB"], dtype=object)
    assert resolve(names, everything, table=table).token.tolist() == [2, 1]


def test_sixty_thousand_names_are_resolved_quickly():
    vocabulary, table = Vocabulary.from_hgnc(), GeneTable.load()
    names = [gene.symbol for gene in table.genes]
    names += [f"{gene.ensembl_id}.1" for gene in table.genes][: 60_000 - len(names)]
    start = time.perf_counter()
    resolve(names, vocabulary)
    assert time.perf_counter() - start < 3  # 0.6 s on an idle core; other work may share it


@pytest.mark.parametrize(
    ("file", "least_matched", "least_coverage"),
    [
        ("pbmc3k/pbmc3k.h5ad", 0.90, 0.99),
        ("baron_pancreas_mini/baron_pancreas_mini.h5ad", 0.99, 0.95),
        ("tian_3celllines_2tech/tian_3celllines_2tech.h5ad", 0.61, 0.90),
        ("papalexi_thp1_crispr/papalexi_thp1_crispr.h5ad", 0.88, 0.98),
    ],
)
def test_real_data(shared_data: Path, file: str, least_matched: float, least_coverage: float):
    import h5py

    with h5py.File(shared_data / file) as h5:
        var, matrix = h5["var"], h5["X"]
        names = var[var.attrs["_index"]].asstr()[:]
        totals = np.bincount(matrix["indices"][:], weights=matrix["data"][:], minlength=len(names))
    report = resolve(names, Vocabulary.from_hgnc(), totals=totals).report
    assert report.n_matched / report.n_input > least_matched
    assert report.coverage is not None
    assert report.coverage > least_coverage
    assert report.n_matched + len(report.ambiguous) + len(report.unmatched) == report.n_input


def test_approved_spelling_stands_for_a_gene_listed_in_two_cases(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["TP53", "tp53"], table=table)
    names = ["ENSG00000141510", "TP53", "tp53", "LFS1"]
    assert resolve(names, vocabulary, table=table).token.tolist() == [1, 1, 2, 1]


def test_ensembl_ids_of_the_vocabulary_alone_are_known(table: GeneTable):
    vocabulary = Vocabulary(symbols=("new",), hgnc_ids=("",), ensembl_ids=("ENSG00000999999",))
    match = resolve(["ENSG00000999999.2", "ENSG00000141510"], vocabulary, table=table)
    assert match.token.tolist() == [1, 0]
