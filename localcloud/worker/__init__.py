"""The parts of the Kelpie worker 0.7.1, as localcloud.node puts them together. Its quirks are kept on purpose."""
