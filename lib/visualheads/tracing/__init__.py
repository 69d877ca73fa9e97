"""Samples to attention rows to measures to a labelled Dataset, on one machine or many."""
