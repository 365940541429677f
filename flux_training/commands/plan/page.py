"""A plan as a page of HTML that includes its pictures: the Markdown, rendered."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from flux_training.commands.design.style import content_security_policy_hash, shared_style_with
from flux_training.commands.plan.markdown import plan_as_markdown
from flux_training.commands.plan.pictures import Pictures
from flux_training.training.runs.plan import Plan

STYLE = Path(__file__).with_name("plan.css")


def _name_columns(tokens: Sequence[Token]) -> None:
    """Give each cell the title of its column, which a narrow screen shows before it. Rows of pictures have no titles."""
    table, column = Token("", "", 0), 0
    titles: list[str] = []
    for token, content in pairwise(tokens):
        if token.type == "table_open":
            # Focusable, so that a wide table can be scrolled with the keyboard.
            token.attrSet("tabindex", "0")
            table, titles = token, []
        elif token.type == "tr_open":
            column = 0
        elif token.type == "th_open":
            titles.append("".join(child.content for child in content.children or ()))
            is_picture = "<img" in content.content
            table.attrSet("class", "" if is_picture else "stacked")
        elif token.type == "td_open":
            if titles[column] and table.attrGet("class"):
                token.attrSet("data-label", titles[column])
            column += 1


def plan_as_page(plan: Plan, pictures: Pictures) -> str:
    """A whole document. HTML in the Markdown is kept: it is our own, and texts from others are escaped."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = markdown.parse(plan_as_markdown(plan, pictures))
    _name_columns(tokens)
    body = markdown.renderer.render(tokens, markdown.options, {})
    style = shared_style_with(STYLE)
    # The Markdown renderer aligns table columns with style attributes, so the policy must allow these.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{content_security_policy_hash(style)}'; style-src-attr 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Training plan</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>\n{body}</main></body></html>\n"
    )
