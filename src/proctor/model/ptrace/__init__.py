"""Tracers on the modelled machine."""
