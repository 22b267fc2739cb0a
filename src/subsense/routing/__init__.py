"""Which adapter set serves, what each row uses of every bank, and where the rows are inside the network."""
