"""Readers and transforms that data sets share."""
