"""What a preview and a plan need to know about a stack: the states of its runs, prices, and what changed.

Facts that are gathered from several services for one stack belong here.
"""
