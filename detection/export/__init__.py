"""Exports that run without PyTorch, each with a proof that it gives the same detections.

:mod:`.folder` writes the folder of an export. :mod:`.forms` and :mod:`.nodes` make a detector exportable,
:mod:`.onnx_file` writes the file. :mod:`.gate` compares it with the detector, and :mod:`.loading` reads it back as a
detector. :mod:`.standalone` needs neither PyTorch nor this toolkit.
"""
