"""Plumbing that decides no number: errors, files, tables, settings, command lines."""
