"""Workarounds for behaviour of Lightning 2.6 (written for 2.6.6) that would harm a run.

Each docstring describes what Lightning does, and what would happen without the workaround. The tests show Lightning's
behaviour first: a test that fails with a newer Lightning shows which workaround is no longer needed.

Behaviour of Lightning, by module:

- ``checkpoints``: follows class paths in a checkpoint; shows a traceback where its own restoring fails
- ``counters``: repeats or skips an epoch where a checkpoint was written between two epochs
- ``loaders``: sets the epoch after it has started the workers; warns about batch samplers in prediction
- ``noise``: prints lines that no user can act on
- ``optimizers``: rejects clipping with a fused optimizer; keeps the learning rate of its own finder
- ``parsing``: reads 1 as 1.0 for its limits; accepts abbreviated options
- ``pending_evaluations``: skips the evaluation after the step of a checkpoint
- ``processes``: installs signal handlers that wait for lost ranks; silently kills ranks

Workarounds that override methods are in the classes of these methods: ``Average.setup``, ``StopEarly``,
``KnownScores``, ``BestCheckpoint.load_state_dict``, ``Command._parse_ckpt_path``, ``SavedConfig``, ``Sharded`` and
``Trainer._run_stage``. Their comments describe what Lightning does.
"""
