"""The documentation site: ``sphinx-build -W -n -b html docs docs/_build/html``."""

import re
import typing
from importlib import metadata
from pathlib import Path
from types import GenericAlias

from sphinx.util.nodes import make_refnode

from cellfm.cli import app as commands

project = "CellFM"
author = "The CellFM developers"
copyright = "The CellFM developers, BSD-3-Clause"
release = metadata.version("cellfm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "sphinx_book_theme"
html_title = "CellFM"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "show_navbar_depth": 1}
html_static_path: list[str] = []
templates_path = ["_templates"]

# Tutorials run when the site is built, with the packaged model, offline. What has not changed is not run again.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_excludepatterns: list[str] = []
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_use_type_comments = False

# Types in signatures are named; those of other libraries and of private modules are not linked: the site is built without the network,
# so other inventories cannot be read. Every reference to a public name of this package must lead somewhere.
nitpick_ignore_regex = [
    (r"py:class", r"(?!cellfm\.).*"),
    (r"py:.*", r"cellfm\.(\w+\.)*_\w+(\..*)?"),
    (r"py:.*", r"(torch|anndata|scanpy|sklearn|scipy|numpy|pandas|rich|plotly|matplotlib)\..*"),
    (r"py:(exc|obj)", r"(torch|rich|pydantic|typing)\..*"),
    (
        r"py:.*",
        r"cellfm\.(config\.load\.ConfigT|train\.finetune\.Batch(_co)?|bench\.states\.Kept)",
    ),  # variables of types
]
# In annotations that are only strings docutils takes these for links: let them be some.
rst_epilog = "\n".join(
    f".. _np.{name}: https://numpy.org/doc/stable/reference/arrays.scalars.html"
    for name in ("bool", "object", "str")
)
suppress_warnings = ["ref.python"]  # a name in an annotation that several modules have


def resolve_by_name(app, env, node, content):
    """Link a name that is documented under exactly one public path: annotations and *Raises* name it as the code imports it."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    objects = env.domains["py"].objects
    found = [path for path in objects if path.rpartition(".")[2] == name]
    public = [path for path in found if path.count(".") == min(p.count(".") for p in found)]
    if len(public) != 1:
        return None
    entry = objects[public[0]]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, content, public[0]
    )


def write_commands(app, config):
    """Write the page of commands from the command line itself."""
    text = commands.generate_docs(output_format="markdown")
    text = text[re.search(r"^## cellfm ", text, re.MULTILINE).start() :]
    text = re.sub(r"\n(?:\*\*Commands\*\*|\*\*Arguments)[^#]*?(?=\n#|\Z)", "\n", text)
    Path(app.srcdir, "reference", "generated-cli.txt").write_text(text, encoding="utf-8")


def skip_aliases(app, what, name, thing, skip, options):
    """Leave out aliases of types: they are read where they are used."""
    is_alias = (
        isinstance(thing, (GenericAlias, typing.TypeVar)) or typing.get_origin(thing) is not None
    )
    return True if is_alias else skip


def setup(app):
    """Connect what is above."""
    app.connect("config-inited", write_commands)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("missing-reference", resolve_by_name)
