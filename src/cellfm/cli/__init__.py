"""The command line: each command parses, calls one function and prints."""

import errno
import re
import sys
import traceback
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from importlib import metadata
from inspect import signature
from signal import SIGTERM

from cyclopts import App, CycloptsError, Parameter

from cellfm.cli.console import speaking
from cellfm.errors import CellFMError

FAILED, USER_ERROR, SET_ASIDE, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
HELP_FLAGS = ("--help", "-h")

GO_ON = ("embed", "corpus build", "corpus add", "weights get", "bench run")
"""Commands that take up what an interrupted one has done."""
QUOTES = "'\""
_ARGUMENT = re.compile(
    r"""(?<![\w"'./-])(?:(?P<name>[a-z][a-z_]*)=(?P<value>"[^"]*"|'[^']*'|[\w.…]*[\w…])|(?P<bare>[a-z]+(?:_[a-z]+)+)(?![\w"'=./(\[-]))"""
)
"""An argument of a Python function with its value, or its name alone where that is no English word."""
_TWICE = re.compile(r"((--[a-z-]+)(?: \S+)?)(?:, \2(?![\w-])| \(\2\))")
"""What was an argument and the option of the same name."""
_OVERWRITE = re.compile(r"((?:say|pass) )overwrite(?:=True)?(?: \(--overwrite\))?")

_EPILOGUE = (
    "Each command explains itself: cellfm embed --help. Exit codes: 0 done, 1 failed, 2 something in the input is wrong, "
    "3 done but some sources of a corpus were set aside, 130 interrupted, 143 ended by SIGTERM. Every command also takes --quiet (errors and "
    "warnings only), --json (one JSON object on standard output: tables, paths written, exit code, error) and --debug (shows where in the code). "
    "cellfm --install-completion completes commands and options in your shell."
)
_EVERYWHERE = "Every command also takes --quiet, --json and --debug: see cellfm --help."

_WAYS_OUT = {
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "Give a file instead of a folder.",
    errno.EACCES: "Change its mode or owner, or choose another place.",
    errno.EPERM: "Change its mode or owner, or choose another place.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOSPC: "Free some space, or choose a place on another disk.",
    errno.EMFILE: "Raise the number of open files (ulimit -n), or use fewer workers.",
    errno.EADDRINUSE: "Choose another port.",
}
"""What to do where the operating system refuses."""


def _version() -> str:
    return metadata.version("cellfm")


def _group(name: str, summary: str) -> App:
    group = App(name=name, help=summary, version_flags=())
    app.command(group)
    return group


app = App(
    name="cellfm",
    help="CellFM: cell and gene embeddings of single-cell counts.",
    version=_version,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(
    help="Complete commands and options in this shell: writes a script and, for bash and zsh, a line in its startup file."
)
# Import strings: no command's module is loaded before it is asked for. The summaries are the docstrings' first lines.
app.command("cellfm.cli.demo:demo", help="Show on real cells what CellFM does, offline.")
app.command(
    "cellfm.cli.doctor:doctor",
    help="Say whether this machine, and a file, are ready, and what to do next.",
)
app.command(
    "cellfm.cli.convert:convert",
    help="Write counts of any readable format (10x h5, mtx, csv, h5ad) as an h5ad file.",
)
app.command("cellfm.cli.embed:embed", help="Embed the cells of an h5ad file.")
app.command(
    "cellfm.cli.annotate:app",
    name="annotate",
    help='Label the cells of an h5ad file as a reference does, "unknown" where nothing fits.',
)
app.command(
    "cellfm.cli.view:view",
    help="Show the cells of an h5ad file on a page in the browser.",
)
app.command(
    "cellfm.cli.markers:markers",
    help="Write the genes by which an annotator tells each type from the others, with their expression, as a table.",
)
app.command(
    "cellfm.cli.denoise:denoise",
    help="Estimate the expected expression of genes in every cell of an h5ad file.",
)
app.command(
    "cellfm.cli.integrate:integrate",
    help="Embed the cells of an h5ad file so that its batches mix.",
)
app.command(
    "cellfm.cli.simulate:simulate", help="Write an h5ad file of simulated counts with known truth."
)
app.command(
    "cellfm.cli.pretrain:pretrain",
    help="Pretrain a model on a corpus store or on the counts of an h5ad file.",
)

genes = _group("genes", "Look at genes: their embeddings, and how those of a file match.")
genes.command(
    "cellfm.cli.genes:embed",
    help="Write the embeddings of the genes of a model as an h5ad file.",
)
genes.command(
    "cellfm.cli.genes:similar",
    help="Print the genes whose embeddings are nearest to that of a gene.",
)
genes.command(
    "cellfm.cli.genes:plot",
    help="Draw a map of genes (UMAP), coloured by kind, by family or by gene sets.",
)
genes.command(
    "cellfm.cli.genes_programs:programs",
    help="Cluster the genes that cells express into programs, and name them by known sets, beside co-expression.",
)
genes.command(
    "cellfm.cli.genes_network:network",
    help="Score which genes bear on which in some cells, and compare that with a known network, beside correlations.",
)
genes.command(
    "cellfm.cli.genes_classify:classify",
    help="Learn labels of genes from their embeddings, print how well that goes beside controls, and predict those of other genes.",
)
genes.command(
    "cellfm.cli.genes_influence:influence",
    help="Rank the genes that listen to a gene that is marked as perturbed, beside its known targets.",
)
genes.command(
    "cellfm.cli.genes_specific:specific",
    help="Rank the genes of each cell type, such as lncRNAs, by the attention of the annotator's class queries.",
)
genes.command(
    "cellfm.cli.genes:check", help="Report whether a file's genes and counts fit a model."
)

corpus = _group("corpus", "Make a corpus of count files to pretrain on, and look into one.")
corpus.command("cellfm.cli.corpus:build", help="Make a corpus of count files.")
corpus.command("cellfm.cli.corpus:add", help="Add sources to a corpus.")
corpus.command("cellfm.cli.corpus:check", help="Verify that a corpus is whole.")
corpus.command("cellfm.cli.corpus:describe", help="Print and draw what is in a corpus.")
corpus.command(
    "cellfm.cli.corpus:contains",
    help="Say whether a file, its cells and its donors are in a corpus.",
)

reference = _group("map", "Make a reference index of cells, and label or find cells by it.")
reference.command(
    "cellfm.cli.map:build", help="Make a reference index of the cells of an h5ad file."
)
reference.command(
    "cellfm.cli.map:query",
    help="Label the cells of an h5ad file by the cells of a reference index nearest to them.",
)
reference.command(
    "cellfm.cli.map:search",
    help="Find the cells of a reference index that are most like a cell.",
)

perturb = _group(
    "perturb", "Learn from perturbation screens, predict perturbations, and search them."
)
perturb.command(
    "cellfm.cli.perturb:train",
    help="Learn what genetic perturbations do from a screen, and measure how well unseen ones are predicted.",
)
perturb.command(
    "cellfm.cli.perturb:predict",
    help="Predict counts of cells under perturbations, each from a real control cell.",
)
perturb.command(
    "cellfm.cli.perturb:reverse",
    help="Rank perturbations, alone and in pairs, by how far they would move cells towards a state.",
)
perturb.command(
    "cellfm.cli.perturb_drugs:train_drugs",
    name="train-drugs",
    help="Learn what drugs do to cells, and print how well held-out drugs, doses or contexts are predicted, beside simple methods.",
)
perturb.command(
    "cellfm.cli.perturb_drugs:predict_drugs",
    name="predict-drugs",
    help="Predict what untreated cells would be under a drug.",
)
perturb.command(
    "cellfm.cli.perturb_screen:screen",
    help="Delete or raise genes in the input of real cells, one at a time, and write how the state of the cell moves.",
)

weights = _group("weights", "Get, make, convert and inspect weights folders.")
weights.command(
    "cellfm.cli.weights_hub:get",
    help="Download weights from the hub, unless they are here, and print the name that always means the same ones.",
)
weights.command(
    "cellfm.cli.weights_hub:list_",
    name="list",
    help="List the weights that are on this machine: those of the package, of the cache folder, and from the hub.",
)
weights.command(
    "cellfm.cli.weights_hub:official",
    help="Say where the official CellFM weights are and under which licence, or import the downloaded files.",
)
weights.command(
    "cellfm.cli.weights_hub:upload",
    help="Put a weights folder on the hub in one commit, with its card and the hash of every file.",
)
weights.command(
    "cellfm.cli.weights:import_",
    name="import",
    help="Make a weights folder of a MindSpore checkpoint, such as the official CellFM weights.",
)
weights.command(
    "cellfm.cli.weights:export",
    help="Write a weights folder as a checkpoint that MindSpore loads.",
)
weights.command("cellfm.cli.weights:show", help="Print what a weights folder holds.")
weights.command(
    "cellfm.cli.weights:whiten",
    help="Fit the whitening of a weights folder, which embed --pool whitened uses.",
)
weights.command(
    "cellfm.cli.weights:new",
    help="Make a weights folder with random weights over the default genes.",
)

bench = _group("bench", "Compare the model with controls and classical methods on tasks.")
bench.command(
    "cellfm.cli.bench:list_",
    name="list",
    help="List the tasks with their methods and what each needs, and the datasets.",
)
bench.command("cellfm.cli.bench:run", help="Run benchmark tasks and write their results.")
bench.command(
    "cellfm.cli.bench_report:compare",
    help="Compare two methods wherever both were scored on the same cells.",
)
bench.command("cellfm.cli.bench_report:report", help="Write the results of a run as one HTML page.")
bench.command(
    "cellfm.cli.bench_report:export",
    help="Write the results of a run in the form of Open Problems or of cz-benchmarks.",
)


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words after ``cellfm``.

    Returns
    -------
    The exit code: 0 done, 1 failed, 2 the user's input is wrong, 3 sources of a corpus were set aside, 130 interrupted, 143 ended by SIGTERM.
    """
    words = list(arguments)
    debug, quiet = _taken(words, "--debug"), _taken(words, "--quiet")
    if set(words) & set(HELP_FLAGS):
        return _run(words, debug=debug)[0]
    machines = not _has_own_json(words) and _taken(words, "--json")
    with speaking("machines" if machines else "quiet" if quiet else "people") as said:
        code, error = _run(words, debug=debug)
    if machines:
        message = "" if error is None else _message(error, words)
        named = " ".join(app.parse_commands(words)[0])
        with suppress(BrokenPipeError):  # of a reader that has seen enough
            sys.stdout.write(said.to_json(command=named, code=code, error=error, message=message) + "\n")  # fmt: skip
            sys.stdout.flush()
    return code


def _run(words: list[str], *, debug: bool) -> tuple[int, BaseException | None]:
    """Run one command; return its exit code and what ended it early, which is said."""
    try:
        if not words or set(words) & set(HELP_FLAGS):
            _complete_help(words)
        code = app(words, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:  # printed by cyclopts
        named = " ".join(["cellfm", *app.parse_commands(words)[0]])
        sys.stderr.write(f"What it takes: {named} --help\n")
        return USER_ERROR, error
    except KeyboardInterrupt as interrupt:
        by_signal = SIGTERM in interrupt.args
        _complain(f"{'Ended by SIGTERM' if by_signal else 'Interrupted'}. {_how_to_go_on(words)}")
        return (TERMINATED if by_signal else INTERRUPTED), interrupt
    except (CellFMError, OSError) as error:
        if debug:
            traceback.print_exc()
        _complain(_message(error, words))
        # A loss that is not finite is a failure of the run, not of what was asked for.
        inputs = isinstance(error, CellFMError) and not isinstance(error, ArithmeticError)
        return (USER_ERROR if inputs else FAILED), error
    return (code if isinstance(code, int) else 0), None  # most commands return nothing


def _how_to_go_on(words: Sequence[str]) -> str:
    """Say what an interrupted command has left behind."""
    command = " ".join(app.parse_commands(list(words))[0])
    if command == "pretrain":
        return "The same command with --resume goes on from the last checkpoint."
    if command in GO_ON:
        return "The same command given again goes on where this one was."
    return "What it was to write is not there; the same command given again begins anew."


def _taken(words: list[str], flag: str) -> bool:
    """Take a flag of all commands out of the words."""
    there = flag in words
    words[:] = [word for word in words if word != flag]
    return there


def _has_own_json(words: Sequence[str]) -> bool:
    """Whether a command has an option --json of its own, as those that print what is in a corpus do."""
    if "--json" not in words:
        return False
    _, apps, _ = app.parse_commands([word for word in words if word != "--json"])
    function = apps[-1].default_command
    return function is not None and "json" in signature(function).parameters


def _complete_help(words: Sequence[str]) -> None:
    """Give the command that is asked about its whole docstring, examples included."""
    _, apps, _ = app.parse_commands([word for word in words if word not in HELP_FLAGS])
    asked = apps[-1]
    if asked.default_command is None or not (text := asked.default_command.__doc__):
        app.help_epilogue = _EPILOGUE
        return
    description, examples = split_docstring(text)
    asked.help = description
    asked.help_epilogue = f"Examples:\n\n{examples}\n\n{_EVERYWHERE}" if examples else _EVERYWHERE


def split_docstring(text: str) -> tuple[str, str]:
    """Return what stands before the sections of a docstring, a line a paragraph, and its examples.

    Parameters
    ----------
    text
        numpydoc docstring whose last section is *Examples*.
    """
    from inspect import cleandoc

    text = cleandoc(text)
    before, _, examples = text.partition("\n\nExamples\n--------\n")
    description, _, _ = before.partition("\n\nParameters\n----------\n")
    paragraphs = [" ".join(lines.split("\n")) for lines in description.split("\n\n")]
    indented = [f"  {line}" if line else line for line in examples.splitlines()]
    return "\n\n".join(paragraphs), "\n".join(indented)


def _message(error: BaseException, words: Sequence[str] = ()) -> str:
    """Return what an error says, and its notes, to somebody who called it by a command."""
    notes = getattr(error, "__notes__", [])
    said = "\n".join([str(error) or type(error).__name__, *notes])
    if isinstance(error, OSError) and not isinstance(error, CellFMError):
        way_out = _WAYS_OUT.get(error.errno or 0, "Check the path and the disk.")
        said += f"\n{way_out} Where it happened in the program: --debug."
    return as_options(said, _options(words)) if isinstance(error, CellFMError) else said


def _options(words: Sequence[str]) -> set[str]:
    """Return the names of the parameters of a command."""
    _, apps, _ = app.parse_commands(list(words))
    function = apps[-1].default_command
    return set() if function is None else set(signature(function).parameters)


def as_options(text: str, parameters: AbstractSet[str]) -> str:
    """Return a text about Python arguments as one about options: ``scale="log1p"`` becomes ``--scale log1p``.

    Parameters
    ----------
    text
        Message of an error.
    parameters
        Names that are options; others stay as they are.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found["name"] or found["bare"], found["value"]
        if name not in parameters or value in ("False", "None"):
            return found[0]
        flag = f"--{name.replace('_', '-')}"
        return flag if value in (None, "True") else f"{flag} {value.strip(QUOTES)}"

    told = _ARGUMENT.sub(option, _OVERWRITE.sub(r"\g<1>overwrite=True", text))
    return _TWICE.sub(r"\1", told)


def _complain(message: str) -> None:
    """Print to standard error: in a frame for people, as it is for files and pipes."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Panel(Text(message), title="Error", title_align="left", border_style="red"))
    else:
        console.print(f"cellfm: {message}", soft_wrap=True, markup=False, highlight=False)
