"""Background jobs of the block layer: mirror, commit, stream, backup, create; snapshots, dirty bitmaps and transactions of all that.

- `states`: in what state a job accepts what; `job`: what every job does; `manager`: all jobs, and groups that complete together.
- `blockjob`: jobs that use nodes; `filters`: the nodes they put into the graph; `copying`: buffers, requests side by side, chains.
- `mirror` (with `mirror_filter`, `mirror_start`), `commit` and `stream` (both by `sweep`), `backup` (with `before`), `create`: the jobs.
- `starting`: what commands check that begin jobs; `commands`, `change_commands`: the handlers.
- `transaction`: actions that happen all or not at all; `snapshots`, `bitmap_actions`, `backup_actions`: most of them.

Everything belongs to the event loop.  Commands that change jobs or the graph, and jobs that come to their end, take turns
(`Jobs.turn`), so that none sees another's work half done.
"""
