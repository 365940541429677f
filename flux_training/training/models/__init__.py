"""The models that can be trained: one table of facts, and which of them a train.yml names."""
