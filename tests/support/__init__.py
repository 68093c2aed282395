"""Shared helpers of the tests: models, pictures, references."""
