"""train.yml, ai-toolkit's configuration of one training: how it is read, edited and compared."""
