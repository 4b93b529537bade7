"""Public names, signatures, and the command line that mirrors them."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from cyclopts import App

import cellfm
from cellfm import cli, pl, pp, tl
from cellfm.cli import split_docstring

NAMES = {"Pretrained", "__version__", "load", "pl", "pp", "tl"}
TOOLS = {
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
}
PLOTS = {
    "annotation_report",
    "calibration",
    "confusion",
    "corpus",
    "embedding",
    "genes",
    "learning_curve",
    "network",
    "perturbation_deltas",
    "perturbation_report",
    "programs",
    "screen",
    "specific_genes",
}
CHECKS = {"FileCheck", "check_counts", "check_file", "match_genes"}
COMMANDS = {
    "annotate",
    "annotate train",
    "bench compare",
    "bench export",
    "bench list",
    "bench report",
    "bench run",
    "convert",
    "corpus add",
    "corpus build",
    "corpus check",
    "corpus contains",
    "corpus describe",
    "demo",
    "denoise",
    "doctor",
    "embed",
    "genes check",
    "genes classify",
    "genes embed",
    "genes influence",
    "genes network",
    "genes plot",
    "genes programs",
    "genes similar",
    "genes specific",
    "integrate",
    "map build",
    "map query",
    "map search",
    "markers",
    "perturb predict",
    "perturb predict-drugs",
    "perturb reverse",
    "perturb screen",
    "perturb train",
    "perturb train-drugs",
    "pretrain",
    "simulate",
    "view",
    "weights export",
    "weights get",
    "weights import",
    "weights list",
    "weights new",
    "weights official",
    "weights show",
    "weights upload",
    "weights whiten",
}


def test_public_names() -> None:
    assert set(cellfm.__all__) == NAMES
    assert set(dir(cellfm)) == NAMES
    assert set(tl.__all__) == TOOLS
    assert set(pp.__all__) == CHECKS
    assert set(pl.__all__) == PLOTS
    for room in (cellfm, tl, pp, pl):
        for name in room.__all__:
            assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'embedd'"):
        getattr(cellfm, "embedd")  # noqa: B009 - what a mistyped name does


@pytest.mark.parametrize(
    "function",
    [getattr(room, name) for room in (tl, pp) for name in room.__all__ if name[0].islower()],
    ids=lambda function: function.__name__,
)
def test_functions_follow_the_contract_of_scanpy(function: Callable[..., object]) -> None:
    """Data first, then model and place; all other parameters by keyword, typed and documented."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[0] in ("adata", "source", "model", "embeddings")
    assert len(positional) <= 3
    assert set(positional) <= {
        "adata",
        "source",
        "target",
        "out",
        "model",
        "config",
        "index",
        "annotator",
        "embeddings",
        "labels",
        "gene",
    }
    text = inspect.getdoc(function) or ""
    for parameter in parameters:
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in text
    assert "\nParameters\n---" in text


def names(function: Callable[..., object]) -> dict[str, object]:
    """Names and defaults of the parameters, but for those only Python can pass."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("progress", "vocabulary")
    }


def test_commands_mirror_the_functions() -> None:
    from cellfm.cli.embed import embed
    from cellfm.cli.genes import check
    from cellfm.cli.genes import embed as embed_genes
    from cellfm.cli.pretrain import pretrain

    assert names(embed) == names(tl.embed_file)
    assert list(names(embed)) == list(names(tl.embed_file))
    assert names(check) == names(pp.check_file)
    options = set(names(tl.gene_embeddings)) - {"adata"}
    assert set(names(embed_genes)) == {*options, "source", "target", "overwrite"}
    # A recipe and its overrides make the config; the data come by name.
    own, theirs = names(pretrain), names(tl.pretrain_file)
    assert set(own) - {"recipe", "overrides", "data", "plan"} == set(theirs) - {"config", "source"}
    # The command names the run folder after the recipe.
    assert all(own[name] == theirs[name] for name in (set(own) & set(theirs)) - {"out"})


def test_embedding_a_file_is_embedding_an_anndata() -> None:
    in_memory, on_disk = names(tl.embed), names(tl.embed_file)
    assert {"adata", *list(on_disk)[2:]} == set(in_memory)
    assert all(in_memory[name] == on_disk[name] for name in set(in_memory) & set(on_disk))


def commands(app: App = cli.app, *path: str) -> Iterator[tuple[str, str, App]]:
    """Path, summary as it was registered and resolved app of each command."""
    for name in app:
        if name.startswith("-"):
            continue
        spec = app._commands[name]  # the summary that is shown before the module is loaded
        sub = app[name]
        yield from commands(sub, *path, name)
        if sub.default_command is not None:
            yield " ".join([*path, name]), spec.help or "", sub


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    found = {path: (summary, sub.default_command) for path, summary, sub in commands()}
    assert set(found) == COMMANDS
    for path, (summary, function) in found.items():
        assert function is not None
        description, examples = split_docstring(function.__doc__ or "")
        # A subcommand of a command that is loaded late brings its whole docstring.
        assert split_docstring(summary)[0].splitlines()[0] == description.splitlines()[0]
        assert f"cellfm {path}" in examples
        capsys.readouterr()
        assert cli.run([*path.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        assert summary.split(maxsplit=1)[0] in shown
        assert shown.index("Examples:") < shown.index(f"cellfm {path}", shown.index("Examples:"))


def test_split_docstring() -> None:
    text = """Do it.

    In a
    way.

    Parameters
    ----------
    x
        A number.

    Examples
    --------
    cellfm do 3

    cellfm do 4
    """
    assert split_docstring(text) == ("Do it.\n\nIn a way.", "  cellfm do 3\n\n  cellfm do 4")
    assert split_docstring("Do it.") == ("Do it.", "")


def test_lazy_names_are_those_of_their_modules() -> None:
    folder = import_module("cellfm.weights.folder")
    assert cellfm.load is folder.load
    assert cellfm.Pretrained is folder.Pretrained
