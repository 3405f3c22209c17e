"""Figures of spectra."""
