"""Serve a detector over HTTP: ``rcnn serve``.

Start with :mod:`.server`, which loads the model and listens. :mod:`.app` has the routes, and :mod:`.guard` what holds
for every request. :mod:`.batcher` runs images that come together as one batch: :mod:`.detecting` decodes them, detects
the objects, and writes the answers of :mod:`.messages`. :mod:`.limits` checks the bodies, :mod:`.metrics` counts, and
:mod:`.page` makes the page to try it.
"""
