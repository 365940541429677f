"""docs/lint.md, made from the rules."""

from flux_training.training.lint.registry import Rule
from flux_training.training.lint.rules import AREAS, RULES

HEAD = """\
# Lint rules

`flux lint`, `make preview` and `make up` check every declared job folder before anything is created or paid for. An **error** stops
`preview` and `up`; a **warning** does not. This page is generated from the rules by `make generated`: {count} rules, {errors} of them errors.

You can silence a rule for one job (or for a pattern of jobs), with a reason:

```yaml
config:
  flux-training:jobs:
    sketches:
      lint:
        silence:
          image-few: "there are only five drawings"
```

Rules marked **always** cannot be silenced: without them there is nothing to queue, or others would be harmed. An entry that silences
nothing is reported as a warning, and an unknown rule name is an error that suggests the nearest one.
"""


def lint_document() -> str:
    errors = sum(rule.severity == "error" for rule in RULES.values())
    parts = [HEAD.format(count=len(RULES), errors=errors)]
    for area in AREAS:
        parts.append(f"\n## {area.name[0].upper()}{area.name[1:]}\n")
        parts.append("\n| rule | | why | fix |\n|---|---|---|---|\n")
        parts += [_row(rule) for rule in area.rules]
    return "".join(parts)


def _row(rule: Rule) -> str:
    kind = f"{rule.severity}, **always**" if rule.always else rule.severity
    return f"| `{rule.code}` | {kind} | {_cell(rule.why)} | {_cell(rule.fix)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
