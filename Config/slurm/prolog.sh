#!/bin/sh
# Slurm's Prolog (slurm.conf: Prolog=/etc/slurm/prolog.d/*), as root on each node before a job: no job starts on a node whose daemon does not
# answer. A prolog that fails takes the node out of service and queues the job again; the reason is in slurmd's log.
# A tier that is degraded is no reason: saves go on to the other one.
timeout 30 cairn status >/dev/null || exit 1
