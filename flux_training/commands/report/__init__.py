"""`flux report`: a run, or several side by side, as one HTML file that needs nothing and asks nobody.

Here belongs what is drawn from what was fetched; templates/ has the page, its style and its script.
"""
