"""``tools/predict.py``: what a detector finds in images and videos, as pictures and as data."""
