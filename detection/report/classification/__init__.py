"""Evaluation reports of image classifiers, and their comparison."""
