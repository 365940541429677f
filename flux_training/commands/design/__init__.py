"""The design system of all pages.

The stylesheet, and what more than one page needs to embed or serve it, belong here.
"""
