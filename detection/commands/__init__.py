"""The commands of the program ``rcnn``, a file for each: the file's name is the name that a user types.

A command's module has ``add_options(parser)`` and ``run(options)``, which returns the exit code. Both import what takes
long only where they need it, so that help texts and wrong options appear at once. :mod:`.options` holds the options
that many commands share, with one name and one meaning.
"""
