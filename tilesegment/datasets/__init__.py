"""Labelled data sets as people have them: one reader a module."""
