"""Put every row of the big table to every contender."""

from benchmarks import changes, copyups, mounts, reads, trees
from benchmarks.command import main

main((*trees.ROWS, *reads.ROWS, *changes.ROWS, *copyups.ROWS, *mounts.ROWS), "all")
