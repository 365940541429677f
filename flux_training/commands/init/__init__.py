"""A project of your own: `init`.

Code that writes the files of a new project belongs here.
"""
