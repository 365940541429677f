"""A plan as a page of HTML that includes its pictures: the Markdown, rendered."""

from pathlib import Path

from markdown_it import MarkdownIt

from flux_training.commands.design.style import content_security_policy_hash, shared_style_with
from flux_training.commands.plan.markdown import plan_as_markdown
from flux_training.commands.plan.pictures import Pictures
from flux_training.training.runs.plan import Plan

STYLE = Path(__file__).with_name("plan.css")


def plan_as_page(plan: Plan, pictures: Pictures) -> str:
    """A whole document. HTML in the Markdown is kept: it is our own, and texts from others are escaped."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(plan_as_markdown(plan, pictures))
    # Make tables focusable, so that wide ones can be scrolled with the keyboard.
    body = body.replace("<table>", '<table tabindex="0">')
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
