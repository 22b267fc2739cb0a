"""What every package may stand on and knows nothing of networks: files, factories, tables of text."""
