"""Lint: rules that find mistakes in job folders before anything is paid for.

A rule is a pure function over facts (`training.dataset.facts`) that are gathered once per file. `training.jobs.lint.lint_jobs`
checks the jobs of a stack.
"""
