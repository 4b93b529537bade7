"""Gene names to tokens, for all inputs."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cellfm.errors import GeneMatchError
from cellfm.genes import GeneTable, Vocabulary, resolve
from cellfm.genes.species import has_mouse_style

QUICK = settings(derandomize=True, deadline=None, max_examples=60)

TABLE = GeneTable.load()
APPROVED = [gene.symbol for gene in TABLE.genes]
WITH_ENSEMBL = [g for g in TABLE.genes if len(TABLE.ensembl.get(g.ensembl_id, ())) == 1]
OTHER_NAMES = sorted({*TABLE.previous, *TABLE.aliases})
AMBIGUOUS = [
    name for name in OTHER_NAMES if name not in TABLE.approved and len(TABLE.candidates(name)) > 1
]
UNIQUE_PREVIOUS = [name for name, genes in TABLE.previous.items() if len(genes) == 1]

# Vocabularies hold approved and earlier symbols, as a list of some years ago does.
vocabularies = st.lists(
    st.one_of(st.sampled_from(APPROVED[:3000]), st.sampled_from(UNIQUE_PREVIOUS[:1000])),
    min_size=1,
    max_size=40,
    unique_by=str.upper,
).map(Vocabulary.from_symbols)
known_names = st.one_of(
    st.sampled_from(APPROVED[:3000]),
    st.sampled_from(UNIQUE_PREVIOUS[:1000]),
    st.sampled_from(OTHER_NAMES),
    st.sampled_from([gene.ensembl_id for gene in WITH_ENSEMBL[:3000]]),
)
names = st.one_of(known_names, known_names.map(lambda name: f"{name}-1"), st.text(max_size=12))
inputs = st.lists(names, min_size=1, max_size=40)


def tokens(given_names: list[str], vocabulary: Vocabulary) -> list[int]:
    try:
        return resolve(given_names, vocabulary, min_matched=0).token.tolist()
    except GeneMatchError as error:
        assume("look like those of" not in str(error))
        raise


@QUICK
@given(inputs, vocabularies)
def test_tokens_are_in_the_vocabulary_and_every_name_is_accounted_for(given_names, vocabulary):
    found = tokens(given_names, vocabulary)
    report = resolve(given_names, vocabulary, min_matched=0).report
    assert len(found) == len(given_names) == report.n_input
    assert all(0 <= token <= len(vocabulary) for token in found)
    assert report.n_matched == np.count_nonzero(found) == sum(report.by_rule.values())
    assert report.n_matched + len(report.ambiguous) + len(report.unmatched) == report.n_input
    assert report.vocabulary_matched == len({*found} - {0})
    assert report.n_summed == sum(map(len, report.summed.values()))


@QUICK
@given(inputs, vocabularies, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(given_names, vocabulary, random):
    order = list(range(len(given_names)))
    random.shuffle(order)
    found = tokens(given_names, vocabulary)
    shuffled = tokens([given_names[i] for i in order], vocabulary)
    assert shuffled == [found[i] for i in order]


@QUICK
@given(st.lists(known_names, min_size=1, max_size=40), vocabularies)
def test_case_does_not_matter(given_names, vocabulary):
    # Title case is how mouse genes are told apart, so it alone has a meaning.
    assume(not any(has_mouse_style(name) for name in given_names))
    found = tokens([name.upper() for name in given_names], vocabulary)
    assert tokens(given_names, vocabulary) == found
    assert tokens([name.lower() for name in given_names], vocabulary) == found


@QUICK
@given(
    st.lists(st.sampled_from(WITH_ENSEMBL[:3000]), min_size=1, max_size=20, unique=True),
    st.data(),
)
def test_ensembl_version_does_not_matter(genes, data):
    vocabulary = Vocabulary.from_symbols([gene.symbol for gene in genes])
    versions = data.draw(st.lists(st.integers(1, 99), min_size=len(genes), max_size=len(genes)))
    plain = [gene.ensembl_id for gene in genes]
    versioned = [f"{name}.{version}" for name, version in zip(plain, versions, strict=True)]
    expected = list(range(1, len(genes) + 1))
    assert tokens(plain, vocabulary) == expected
    assert tokens(versioned, vocabulary) == expected
    assert tokens([gene.symbol for gene in genes], vocabulary) == expected


@QUICK
@given(st.lists(st.sampled_from(APPROVED), min_size=1, max_size=40), st.data())
def test_approved_symbol_never_maps_to_another_gene(symbols, data):
    # The harder half: genes of the vocabulary that have the input's symbols as other names.
    traps = [gene.symbol for name in symbols for gene in TABLE.candidates(name.upper())]
    listed = data.draw(st.lists(st.sampled_from(APPROVED[:3000]), min_size=1, max_size=20))
    vocabulary = Vocabulary.from_symbols(list(dict.fromkeys([*traps, *listed])))
    for symbol, token in zip(symbols, tokens(symbols, vocabulary), strict=True):
        if token:
            assert vocabulary.hgnc_ids[token - 1] == TABLE.approved[symbol.upper()].hgnc_id


def test_no_approved_symbol_maps_to_another_gene_in_any_vocabulary():
    """All of them at once, against a vocabulary of all genes that share a name with another."""
    sharing = {g.symbol for name in APPROVED for g in TABLE.candidates(name.upper())}
    vocabulary = Vocabulary.from_symbols(sorted(sharing))
    match = resolve(APPROVED, vocabulary, min_matched=0)
    assert match.report.n_matched == len(vocabulary) > 500
    assert all(
        vocabulary.symbols[token - 1] == symbol
        for symbol, token in zip(APPROVED, match.token.tolist(), strict=True)
        if token
    )


@QUICK
@given(st.lists(st.sampled_from(AMBIGUOUS), min_size=1, max_size=20, unique=True), st.data())
def test_ambiguous_name_is_never_mapped(ambiguous, data):
    one_of_each = [data.draw(st.sampled_from(TABLE.candidates(name))).symbol for name in ambiguous]
    vocabulary = Vocabulary.from_symbols(list(dict.fromkeys(one_of_each)))
    match = resolve(ambiguous, vocabulary, min_matched=0)
    assert not match.token.any()
    # NA, NAN and the like are no names at all.
    told = {name for name in ambiguous if not re.fullmatch(r"NA|NAN|NONE|\d+", name)}
    assert told <= {*match.report.ambiguous}


@QUICK
@given(vocabularies)
def test_vocabulary_survives_its_file(vocabulary):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "genes.tsv"
        vocabulary.write(path)
        again = Vocabulary.read(path)
    assert again == vocabulary
    assert again.hash == vocabulary.hash


@QUICK
@given(vocabularies)
def test_every_symbol_of_a_vocabulary_finds_itself(vocabulary):
    assert tokens(list(vocabulary.symbols), vocabulary) == list(range(1, len(vocabulary) + 1))


@pytest.mark.parametrize("text", ["ENSG" * 5000, "A" * 50_000, "a-" * 20_000 + "1", "_" * 50_000])
def test_monstrous_names_take_no_time(text: str):
    vocabulary = Vocabulary.from_symbols(["ACTB"])
    assert resolve(["ACTB", text], vocabulary).token.tolist() == [1, 0]
