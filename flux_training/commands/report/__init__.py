"""`flux report`: one run, or several side by side, as a single HTML file.

Code that makes the page from fetched results belongs here; templates/ has its HTML, style and script.
"""
