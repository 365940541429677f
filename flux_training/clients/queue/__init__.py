"""One job in Kelpie's queue for each run: which jobs are a run's, who may post, posting once, and posting again."""
