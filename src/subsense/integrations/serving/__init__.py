"""Serve an adapted network over HTTP with LitServe. Needs ``subsense[serve]``."""
