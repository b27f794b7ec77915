#!/usr/bin/env bash
## Lint, unit tests and notebooks; exit code 0 when all of them pass.
##
##   ./run_tests.sh [PYTEST ARGUMENTS]
##
## -m "not gpu" adds the slow tests. Tests marked `data` need the image sets in $KDLIB_DATA.
set -uo pipefail
case " $* " in *" -h "* | *" --help "*) sed -n 's/^## \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")" || exit
. scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
failed=0
"$KDLIB_PYTHON" -m ruff check . || failed=1
"$KDLIB_PYTHON" -m ruff format --check . || failed=1
"$KDLIB_PYTHON" -m pytest -q "$@" || failed=1
"$KDLIB_PYTHON" -m pytest -q --nbval-lax --nbval-current-env notebooks || failed=1
exit "$failed"
