"""A plan as a page of HTML that includes its pictures: the Markdown, rendered."""

from markdown_it import MarkdownIt

from flux_training.commands.plan.markdown import as_markdown
from flux_training.commands.plan.pictures import Pictures
from flux_training.training.runs.plan import Plan

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2530; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-bottom: 1px solid #d0d7de; padding-bottom: .3rem; }
table { border-collapse: collapse; margin: .8rem 0; }
td, th { font-weight: normal; border: 1px solid #d0d7de; padding: .35rem .7rem; vertical-align: top; text-align: left; }
code { background: #eff1f3; border-radius: .25rem; padding: .1rem .3rem; font-size: .9em; }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; } pre code { background: none; }
del { background: #ffebe9; } ins { background: #dafbe1; text-decoration: none; }
sub { color: #59636e; }
"""


def as_page(plan: Plan, pictures: Pictures) -> str:
    """A whole document. HTML in the Markdown is kept: it is our own, and texts from others are escaped."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(as_markdown(plan, pictures))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Training plan</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )
