"""The commands of the program ``rcnn``, one file each: the name of the file is the name of the command.

A command's module has ``add_options(parser)`` and ``run(options)``, which returns the exit code. Both import slow
modules only where they need them, so that help texts and errors about options appear at once. :mod:`.options` holds the
options that many commands share, with one name and one meaning.
"""
