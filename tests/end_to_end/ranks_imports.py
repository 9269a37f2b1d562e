"""Imports all slow modules."""

import torch.distributed.launcher.api

import detection.cli
import detection.engine.command
import detection.engine.run

__all__ = ["detection", "torch"]
