"""Settings of the documentation: ``make docs`` writes it to build/docs. Nothing is fetched from a network.

The source folder is the repository, so that pages and studies link to each other in the same way here and in the files.
"""

import pkgutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
import covid_xray  # noqa: E402
from covid_xray import cli  # noqa: E402
from covid_xray.data.importers import importers  # noqa: E402

project = "covid-xray"
author = "the covid-xray contributors"
release = covid_xray.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/api/*.md", "**/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["README.md", ".*", "build", "dist", "outputs", "data", "tests"]
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_copyright = False
highlight_language = "none"
html_extra_path = ["front"]  # index.html, which leads to docs/index.html
html_theme = "furo"
html_title = f"covid-xray {release}"
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp"
# Completes names in docstrings, such as `covid_xray.fit`; other text in single backticks is code.
default_role = "py:obj"
# Names of other projects; constants and type variables of ours.
nitpick_ignore_regex = [("py:.*", r"(?!covid_xray\.).*"), ("py:.*", r"covid_xray\..*\.[A-Z_]+")]
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["mlflow", "wandb"]  # extras whose imports take long, or fail under Sphinx
napoleon_use_ivar = True  # the fields of a dataclass are listed once; their types are in the signature
napoleon_attr_annotations = False
html_math_renderer = "mathml"


class PublicNames(SphinxDirective):
    """The table of the names in ``covid_xray``, from its ``__init__.py``: it cannot become out of date."""

    def run(self) -> list[nodes.Node]:
        """Return the table as Markdown that Sphinx parses."""
        rows = ["| name | what it is | room |", "|---|---|---|"]
        for name, module in covid_xray._MODULES.items():
            summary = (getattr(covid_xray, name).__doc__ or "").strip().split("\n")[0].replace("``", "`")
            rows.append(f"| {{py:obj}}`cx.{name} <covid_xray.{module}.{name}>` | {summary} | {module.split('.')[0]} |")
        return self.parse_text_to_nodes("\n".join(rows))


class Room(SphinxDirective):
    """Every public module of a room of ``covid_xray``, documented from its docstrings."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a section for each module."""
        room = f"covid_xray.{self.arguments[0]}"
        package = ROOT / room.replace(".", "/")
        found = [module.name for module in pkgutil.walk_packages([str(package)], f"{room}.")]
        lines = []
        for module in [room] if not package.is_dir() else found:
            title = module.removeprefix("covid_xray.")
            lines += [f"## {title}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Commands(SphinxDirective):
    """The table of the commands, with the help line of each."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [f"| `{name}` | {text} |" for name, text in cli.commands().items()]
        return self.parse_text_to_nodes("\n".join(["| command | what it does |", "|---|---|", *rows]))


class Importers(SphinxDirective):
    """A section for each importer, from its docstring."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        lines = []
        for name in importers():
            module = f"covid_xray.data.importers.{name}"
            lines += [f"### {name}", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-index:", "```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def visit_math(self: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def skip_inherited(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool:
    """Leave out what other libraries add to a class, such as matplotlib's ``set``."""
    return skip or not str(getattr(member, "__module__", None) or "covid_xray").startswith("covid_xray")


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("autodoc-skip-member", skip_inherited)
    app.add_directive("public-names", PublicNames)
    app.add_directive("room", Room)
    app.add_directive("importers", Importers)
    app.add_directive("commands", Commands)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
