"""Everything here works around a behaviour of Lightning 2.6 (written for 2.6.6) that would spoil a run.

Each function says what Lightning does and what happens without the function. The tests beside them show Lightning's
behaviour first: a test that fails with a newer Lightning says which workaround has become needless.

What Lightning does by itself, by module:

- ``checkpoints``: follows class paths in a checkpoint; shows a traceback where its own restoring fails
- ``counters``: repeats or skips an epoch where a checkpoint was written between two epochs
- ``loaders``: sets the epoch after it has started the workers; warns of batch samplers of predictions
- ``noise``: prints lines that no user can act on
- ``optimizers``: rejects clipping with a fused optimizer; keeps the rate of its own finder
- ``parsing``: reads 1 as 1.0 for its limits; takes abbreviated options
- ``pending_evaluations``: skips the evaluation that belongs to the step of a checkpoint
- ``processes``: installs signal handlers that wait for lost ranks; silently kills ranks

Workarounds that must be overridden methods stand in their classes: ``Average.setup``, ``StopEarly``, ``KnownScores``,
``BestCheckpoint.load_state_dict``, ``Command._parse_ckpt_path``, ``SavedConfig``, ``Sharded`` and
``Trainer._run_stage``. Their comments say what Lightning does.
"""
