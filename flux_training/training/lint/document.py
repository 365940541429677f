"""docs/lint.md, made from the rules."""

from __future__ import annotations

from flux_training.training.lint.registry import Rule
from flux_training.training.lint.rules import AREAS, RULES

HEAD = """\
# What lint finds

`flux lint`, `make preview` and `make up` look at every declared job folder before anything is made or paid for. An **error** stops
`preview` and `up`; a **warning** does not. Made from the rules by `make generated`: {count} rules, {errors} of them errors.

A finding can be silenced by its name, for one job (or a glob), with the reason:

```yaml
flux-training:jobs:
  sketches:
    lint:
      silence:
        image-few: "five drawings are all there are"
```

Not so the rules marked **always**: without what they ask for there is nothing that could be queued, or others would be hurt. A silence that
hides nothing is a warning itself, and a name that is no rule is refused with the nearest that is.
"""


def lint_document() -> str:
    errors = sum(rule.severity == "error" for rule in RULES.values())
    parts = [HEAD.format(count=len(RULES), errors=errors)]
    for area in AREAS:
        parts.append(f"\n## {area.name[0].upper()}{area.name[1:]}\n")
        parts.append("\n| name | | why | to mend it |\n|---|---|---|---|\n")
        parts += [_row(rule) for rule in area.rules]
    return "".join(parts)


def _row(rule: Rule) -> str:
    kind = f"{rule.severity}, **always**" if rule.why_loud else rule.severity
    return f"| `{rule.code}` | {kind} | {_cell(rule.rule)} | {_cell(rule.mend)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
