"""Pretraining of a network on images without labels."""
