"""``rcnn backbones``: list backbones, show the cost of one, and compare plain and residual networks."""
