"""Schemas of the tables of spectra."""
