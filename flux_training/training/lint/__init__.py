"""Lint: every mistake in job folders and stack settings that can be seen before anyone pays, all at once, with the mend.

`training.lint.jobs.lint_jobs` looks at the jobs of a stack. Rules are pure functions (`training.lint.rules.RULES`) over facts that
are gathered once a file (`training.lint.facts`).
"""
