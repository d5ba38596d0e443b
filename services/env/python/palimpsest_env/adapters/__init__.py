"""Environments of others as they are: each module here is one PyPI package behind our interface."""
