#!/usr/bin/env bash
## Train and analyse a profile; what is done is not done again.
##
##   ./run_all.sh [PROFILE] [--dry-run] [--jobs N] [--out DIR] [--trust-data] [--set KEY=VALUE]...
##
##   PROFILE        a folder of params/ (default: digits, minutes on a laptop)
##   --dry-run      print the jobs and what is left of them, start nothing
##   --jobs N       notebooks at once (default: the cores; on a GPU one)
##   --out DIR      results folder (default: results/PROFILE)
##   --trust-data   accept a data set whose fingerprint is not the recorded one
##   --set K=V      another value of a key of the params files, e.g. --set epochs=2
##
## Exit code: 0, 1 when a job failed (the others are done), 2 for a wrong option, profile or
## parameter, 75 when another start is at work on the same results.
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) sed -n 's/^## \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")"
. scripts/setup.sh
cd "$OLDPWD" # where a relative DIR is meant
exec "$KDLIB_PYTHON" -m kdlib run "$@"
