"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pygments.lexers.sql import PostgresLexer
from pygments.token import Name
from sphinx.pycode import ModuleAnalyzer

import sqlxmq

ROOT = Path(__file__).resolve().parent.parent
CONTROL = (ROOT / "extension" / "sqlxmq.control").read_text()

project = "sqlxmq"
version = release = re.findall(r"^default_version = '(.*)'$", CONTROL, re.MULTILINE)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["static"]
default_role = "literal"

# Every reference has to lead somewhere: one that does not is a warning, and a warning is an error.
nitpicky = True
# The names of other packages in signatures. Their documentation is elsewhere, and the build uses no network.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(psycopg|psycopg_pool|prometheus_client|opentelemetry|collections|datetime|inspect|types|typing|uuid)\..*",
    ),
    (
        "py:.*",
        r"Any|Callable|CollectorRegistry|Counter|Gauge|Histogram|Mapping|Sequence|UUID|datetime|optional|timedelta",
    ),
    # Type variables, and Self.
    ("py:.*", r"(.*\.)?(C|P|R|R_co|Self|T)"),
]

myst_heading_anchors = 4

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
# Unions that have a name are shown by it.
autodoc_type_aliases = {
    name: name
    for name in (
        "AsyncSender", "AsyncTestConnection", "Database", "Duration", "ErrorHandler", "Proto", "SyncSender",
        "TestConnection",
    )
}  # fmt: skip
maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"sqlxmq {release}"
html_static_path = ["static"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

# Names of types that the Python reference explains in words.
EXPLAINED = {"AnyJob", "AsyncTestConnection", "Database", "Duration", "ErrorHandler", "Proto", "TestConnection"}
# Classes whose objects the package makes itself.
MADE_BY_THE_PACKAGE = {
    "Batch", "BatchItem", "BatchJob", "CurrentJob", "Delivery", "Job", "MetricsServer", "RanJob", "SpawnedJob",
    "SyncBatch", "SyncCurrentJob",
}  # fmt: skip


class ScriptOfPsql(PostgresLexer):  # type: ignore[misc]
    """SQL with psql's own commands and variables."""

    tokens = {  # noqa: RUF012
        **PostgresLexer.tokens,
        "root": [
            (r"\\\w+", Name.Builtin),
            (r":'\w+'|:\w+\b(?!:)", Name.Variable),
            *PostgresLexer.tokens["root"],
        ],
    }


def for_readers(app: Any, page: str, source: list[str]) -> None:
    """Shows the name of a file above its text, and leaves out what only the tests need."""
    text = re.sub(r"<!-- file: (\S+) -->\n```(\w+)\n", r"```{code-block} \2\n:caption: \1\n", source[0])
    source[0] = re.sub(r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def signature(app: Any, kind: str, name: str, obj: Any, options: Any, arguments: str, returned: str) -> Any:
    """Shows the names of types, and no arguments of what nobody calls."""
    if kind == "exception" or (kind == "class" and name.rpartition(".")[2] in MADE_BY_THE_PACKAGE):
        return "", None

    def named(text: str | None) -> str | None:
        return text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text).replace("~", "")

    return named(arguments), named(returned)


def where_it_is_public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A class is defined in a private module, and documented where it is imported from."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if name in sqlxmq.__all__:
        python = env.get_domain("py")
        return python.resolve_xref(env, node["refdoc"], app.builder, "obj", f"sqlxmq.{name}", node, content)
    return content if name in EXPLAINED else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # Its overloads are for type checkers; readers want to see its arguments once.
    analyzer = ModuleAnalyzer.for_module("sqlxmq._job")
    analyzer.analyze()
    del analyzer.overloads["job"]
    app.add_lexer("sql", ScriptOfPsql)
    app.connect("source-read", for_readers)
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", where_it_is_public)
