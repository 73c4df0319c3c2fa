"""What is learned: one file per objective, each with Config, encode, units, collate, wrap, loss and evaluate together."""
