"""What is learned: a file per objective, each with its Config, encode, units, collate, loss and metrics together."""
