"""Datasets to tables and verdicts; loads no model."""
