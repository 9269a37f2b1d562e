"""Look at backbones: ``tools/backbone.py list vgg``, ``show resnet50``, ``benchmark``, ``gradients``."""

from detection.backbone_tool.command import main

if __name__ == "__main__":
    main()
