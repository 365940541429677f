"""`flux ui`: a live page of a stack in the browser.

The page's server, what it reads, and the page's files (assets/) belong here.
"""
