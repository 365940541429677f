"""What a preview and a plan need to know about a stack: the states of its runs, prices, and what changed.

Facts about one stack that come from several services belong here.
"""
