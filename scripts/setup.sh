# Finds or makes the Python environment; sourced by run_all.sh and run_tests.sh in the root of the
# repository, leaves the interpreter to use in KDLIB_PYTHON. Seconds when there is nothing to do.
# 1. KDLIB_PYTHON, if set, is used as it is; what it lacks of pyproject.toml ends the run.
# 2. The python3 on the PATH (an active venv or conda environment, Colab) is, if it lacks nothing.
# 3. Else .venv is made or completed; pip's own configuration decides where torch comes from.

kdlib_fail() { printf 'setup: %s\n' "$@" >&2 && exit 1; }

# Prints each requirement of pyproject.toml that interpreter $1 does not meet.
kdlib_lacks() {
    "$1" - <<'PY' 2>&1 || true
import sys
if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit(f"Python 3.11, 3.12 or 3.13 (it is {sys.version.split()[0]})")
import tomllib
from importlib.metadata import version
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for line in project["dependencies"] + project["optional-dependencies"]["test"]:
    try:
        from packaging.requirements import Requirement
        wanted = Requirement(line)
        if not wanted.specifier.contains(version(wanted.name), prereleases=True):
            print(f"{line} (it has {version(wanted.name)})")
    except ModuleNotFoundError: # of packaging, or of what is asked for
        print(line)
PY
}

kdlib_venv() {
    local python stamp=.venv/kdlib-setup wanted
    for python in .venv/bin/python python3 python3.13 python3.12 python3.11 ""; do
        [ -z "$python" ] || wanted=$("$python" -c 'import hashlib, sys
sys.exit(1) if not (3, 11) <= sys.version_info < (3, 14) else print(hashlib.sha256(
    open("constraints.txt", "rb").read() + open("pyproject.toml", "rb").read()).hexdigest())' \
            2>/dev/null) && break
    done
    [ -n "$python" ] || kdlib_fail "Python 3.11, 3.12 or 3.13 is needed and not on the PATH"
    KDLIB_PYTHON=$PWD/.venv/bin/python
    if [ "$python" != .venv/bin/python ]; then
        "$python" -m venv --clear .venv ||
            kdlib_fail "$python cannot make a venv; on Debian or Ubuntu: apt install python3-venv"
    fi
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing into .venv, minutes the first time" >&2
    "$KDLIB_PYTHON" -m pip install -q -c constraints.txt -e '.[test]' || kdlib_fail "pip failed"
    echo "$wanted" >"$stamp"
    "$KDLIB_PYTHON" -c 'from kdlib import _compat; print("setup:", _compat.torchvision_line())' >&2
}

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # for environments used as they are
if [ -n "${KDLIB_PYTHON:-}" ]; then
    kdlib_missing=$(kdlib_lacks "$KDLIB_PYTHON")
    [ -z "$kdlib_missing" ] || kdlib_fail "KDLIB_PYTHON=$KDLIB_PYTHON lacks" "$kdlib_missing"
elif command -v python3 >/dev/null && [ -z "$(kdlib_lacks python3)" ]; then
    KDLIB_PYTHON=python3
else
    kdlib_venv
fi
KDLIB_PYTHON=$("$KDLIB_PYTHON" -c 'import sys; print(sys.executable)') # absolute
export KDLIB_PYTHON
