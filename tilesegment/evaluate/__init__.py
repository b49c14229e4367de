"""Measuring models against truth and against themselves."""
