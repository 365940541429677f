"""The parts of the Kelpie worker 0.7.1, as localcloud.node puts them together.

Here belongs what runs beside the training in the container. Its quirks are kept on purpose.
"""
