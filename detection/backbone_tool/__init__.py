"""``rcnn backbones``: what backbones there are, what one of them costs, and why they are residual."""
