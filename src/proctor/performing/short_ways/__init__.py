"""The short ways of ordinary calls: what is done in most cases, in few steps."""
