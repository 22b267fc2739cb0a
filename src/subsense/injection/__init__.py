"""Adapters inside the network: the plan of sites, banks, hooks, and layers run with their adapters."""
