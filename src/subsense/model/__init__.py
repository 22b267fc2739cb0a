"""The adapted network: made, called, saved, loaded."""
