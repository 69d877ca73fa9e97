"""Ways through the book: pages of one kind behind one entry of the contents, terms told where a pointer rests on them.

Of pages of one kind, such as those of the models, a select at their top goes on to the next.

The table of contents names the first; its `meta` names the others (`visualheads.book.build.written`). They are no
chapters of their own: figures have the same number on each, and the page before and after is the first one's.
"""

from __future__ import annotations

import html
from functools import cache
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SIBLINGS = "siblings"
"""Key in the contents' `meta`: first page → the others, as documents without a suffix."""
SCRIPT = "book.js"
GLOSSARY = "glossary"


def groups(app: Sphinx) -> dict[str, list[str]]:
    """The groups of pages by every member's name, the first page first."""
    told = app.config.external_site_map.meta.get(SIBLINGS, {})
    return {name: [first, *others] for first, others in told.items() for name in (first, *others)}


def include(app: Sphinx, config: Any) -> None:
    """Build the pages that the contents do not name."""
    named = {f"{name}.ipynb" for name in groups(app)}
    config.exclude_patterns = [pattern for pattern in config.exclude_patterns if pattern not in named]


def number(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give figures of all pages of a group the numbers of the first page's."""
    for name, members in groups(app).items():
        if name == members[0]:
            continue
        env.metadata[name]["orphan"] = True
        found = env.get_doctree(name).findall(nodes.figure)
        figures = [figure["ids"][0] for figure in found if figure["ids"] and any(figure.findall(nodes.caption))]
        numbers = list(env.toc_fignumbers.get(members[0], {}).get("figure", {}).values())
        while numbers and len(numbers) < len(figures):
            numbers.append((*numbers[-1][:-1], numbers[-1][-1] + 1))
        env.toc_fignumbers[name] = {"figure": dict(zip(figures, numbers, strict=False))}
    return []


def add_select(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Put the select below the page's title, and in its place links where scripts are off."""
    members = groups(app).get(name, [])
    title = next(doctree.findall(nodes.title), None)
    if len(members) < 2 or title is None:
        return
    named = [
        (app.builder.get_relative_uri(name, one), html.escape(app.env.titles[one].astext()), one) for one in members
    ]
    options = "".join(f'<option value="{uri}"{" selected" * (one == name)}>{text}</option>' for uri, text, one in named)
    links = " · ".join(f'<a href="{uri}">{text}</a>' for uri, text, _ in named)
    place = nodes.raw(
        "",
        f'<p class="page-switch"><label>Model <select data-page-switch autocomplete="off">{options}</select></label>'
        f"<noscript>{links}</noscript></p>",
        format="html",
    )
    title.parent.insert(title.parent.index(title) + 1, place)


def neighbours(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Pages of a group have the first page's chapters before and after."""
    del template
    if doctree is None:
        return
    members = groups(app).get(name, [])
    if len(members) < 2:
        return
    related = app.builder.relations.get(members[0], [None, None, None])  # pyright: ignore[reportAttributeAccessIssue]
    for key, other in zip(("prev", "next"), related[1:], strict=True):
        if other:
            context[key] = {
                "link": app.builder.get_relative_uri(name, other), "title": app.env.titles[other].astext(),
            }  # fmt: skip


@cache
def definitions(env: BuildEnvironment) -> dict[str, str]:
    """The glossary's definitions by the anchors of their terms."""
    pages = {document for document, _ in env.domaindata["std"]["objects"].values() if document.endswith(GLOSSARY)}
    items = [item for page in pages for item in env.get_doctree(page).findall(nodes.definition_list_item)]
    return {
        anchor: " ".join(item[-1].astext().split())
        for item in items
        for term in item.findall(nodes.term)
        for anchor in term["ids"]
    }


def explain(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Tell a term's definition where a pointer rests on a link to it."""
    del name
    for link in doctree.findall(nodes.reference):
        anchor = link.get("refuri", "").partition("#")[2]
        if anchor.startswith("term-"):
            link["reftitle"] = definitions(app.env).get(anchor, "")


def setup(app: Sphinx) -> None:
    """Register every step with Sphinx."""
    app.connect("config-inited", include, priority=950)  # after the contents have been read
    app.connect("env-get-updated", number, priority=900)  # after numbers have been given
    app.connect("doctree-resolved", add_select)
    app.connect("doctree-resolved", explain)
    app.connect("html-page-context", neighbours)
    app.add_js_file(SCRIPT, loading_method="defer")
