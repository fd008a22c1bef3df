"""Stands here so that tests of every room find the modules beside it."""
