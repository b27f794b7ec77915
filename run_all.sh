#!/usr/bin/env bash
## Train and analyse a profile; what is done is not done again.
##
##   ./run_all.sh [PROFILE] [--dry-run] [--jobs N] [--out DIR] [--workflow-profile NAME]
##                [--trust-data] [--set KEY=VALUE]...
##
##   PROFILE        a folder of params/ (default: digits, minutes on a laptop)
##   --dry-run      print the jobs, what is left of them and the time and memory it will take
##                  (a few real steps of each kind of run are measured); start nothing
##   --jobs N       notebooks at once (default: the cores; on a GPU one)
##   --out DIR      results folder (default: results/PROFILE)
##   --workflow-profile NAME
##                  where the jobs run: local, slurm (docs/cluster.md) or a folder of your own
##   --trust-data   accept a data set whose fingerprint is not the recorded one
##   --only NN      this notebook of the profile alone (04, 04_self_distillation); may be repeated
##   --set K=V      another value of a key of the params files, e.g. --set epochs=2, or of one inside
##                  a mapping, e.g. --set options.kd.temperature=2
##
## Exit code: 0, 1 when a job failed (the others are done), 2 for a wrong option, profile or
## parameter, 75 when another start is at work on the same results.
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) sed -n 's/^## \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")"
. scripts/setup.sh
kdlib_root=$PWD
cd "$OLDPWD" # where a relative DIR is meant
# By path: `-m kdlib` imports torch, seconds, before it can say that another start is at work.
exec "$KDLIB_PYTHON" -P "$kdlib_root/kdlib/__main__.py" run "$@"
