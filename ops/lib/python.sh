# Which Python to use. Sourced by the scripts in ops/ and by .ci/run; needs nothing but a POSIX shell.
#
# A name on the PATH proves nothing: version managers leave shims that fail when their version is not active, and
# Debian's python3 comes without ensurepip. So every candidate is run before it is believed.

# python_works PYTHON: it runs, is 3.11 or newer, and can make virtual environments.
python_works() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# python_candidates VERSION...: one candidate a line, for each version those on the PATH, then pyenv's.
python_candidates() {
    for version in "$@"; do
        command -v "python$version" || true
        for candidate in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions/$version".*/bin/"python$version"; do
            if [ -x "$candidate" ]; then printf '%s\n' "$candidate"; fi
        done
        for candidate in "/usr/local/bin/python$version" "/usr/bin/python$version"; do
            if [ -x "$candidate" ]; then printf '%s\n' "$candidate"; fi
        done
    done
}

# find_python [VERSION]: prints a Python that works: $PYTHON if set (it must work), else the newest of the versions
# that the tests run on, else whatever newer python3 there is. With VERSION (as 3.11), only that one; silent when absent.
find_python() {
    if [ $# -eq 1 ]; then
        python_candidates "$1" | while IFS= read -r candidate; do
            if python_works "$candidate"; then printf '%s\n' "$candidate"; break; fi
        done | grep .
        return
    fi
    if [ -n "${PYTHON:-}" ]; then
        if python_works "$PYTHON"; then printf '%s\n' "$PYTHON"; return 0; fi
        echo "PYTHON=$PYTHON is not a Python 3.11 or newer with the venv and ensurepip modules." >&2
        return 1
    fi
    for version in 3.13 3.12 3.11 3 3.14; do
        if found="$(find_python "$version")"; then printf '%s\n' "$found"; return 0; fi
    done
    echo "LogStitch needs Python 3.11 or newer that can make virtual environments; none was found." >&2
    python_candidates 3.13 3.12 3.11 3 | sort -u | while IFS= read -r candidate; do
        if ! reason="$("$candidate" -c 'import sys
if sys.version_info < (3, 11): sys.exit("it is older than 3.11")
try: import venv, ensurepip
except ImportError as e: sys.exit(f"it has no {e.name} (on Debian and Ubuntu: apt install python3-venv)")' 2>&1)"
        then printf '  %s: %s\n' "$candidate" "$(printf '%s\n' "$reason" | head -n 1)" >&2; fi
    done
    echo "Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}
