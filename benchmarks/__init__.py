"""How fast is the union, beside what else shows several directories as one?

Each program here asks one question and puts the same work to every contender, in turn, in one run:

    python -m benchmarks              everything in the big table (what ``make bench`` runs)
    python -m benchmarks.trees        walking, listing and packing trees
    python -m benchmarks.reads        reading files
    python -m benchmarks.changes      creating, renaming, removing, writing
    python -m benchmarks.copyups      changing what lies in a lower layer
    python -m benchmarks.mounts       from exec to mounted
    python -m benchmarks.growth       how cost grows with layers, names, depth and files

Below them: `rows` (what a row is), `stacks` (the directories it stands on), `contenders` (who competes),
`measure` (how a time is taken), `results` (what is kept), `table` (what is shown).

Three rules make the numbers worth reading. Contenders take turns within each round, so that a noisy minute harms all
of them alike, and ratios are taken within a round before their median is. The layers are fresh in each measurement.
The bare directory is a contender too: what it costs is what the work itself costs.
"""
