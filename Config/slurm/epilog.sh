#!/bin/sh
# Slurm's Epilog (slurm.conf: Epilog=/etc/slurm/epilog.d/*), as root on each node after a job: the next job gets the node once what this one had
# staged is flushed. The daemon flushes without it too; this keeps the next job's traffic, a reboot or a power-off out of its way.
# LIMIT must be below slurm.conf's BatchStartTimeout and PrologEpilogTimeout. What is not flushed by then goes on behind the next job.
LIMIT=${CAIRN_EPILOG_LIMIT:-300}
cairn drain --limit "$LIMIT" >/dev/null 2>&1 || logger -t cairn-epilog "job ${SLURM_JOB_ID:-?}: not flushed after $LIMIT s: $(cairn status 2>&1 | tail -n 3)"
exit 0    # else Slurm would take the node out of service
