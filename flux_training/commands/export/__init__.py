"""`flux export`: a folder that can be published.

Code that turns a fetched run into a model card and its files belongs here.
"""
