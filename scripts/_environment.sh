# Sourced by the other scripts: makes .venv on first use, and again when what it holds has changed.
#
# ensure_environment EXTRAS   installs the checkout with these extras ("" or "test,report")
#
# Needs Python 3.10 to 3.13 with venv and pip, and a package index; nothing else.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "autotune: needs Python 3.10 to 3.13 with the venv module; install one and run this again" >&2
    return 2
}

# The full CUDA build of torch is several GB; it is of use only where there is a GPU.
constraints() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 || echo "-c $root/constraints-cpu.txt"
}

ensure_environment() {
    local extras="$1" python stamp wanted
    stamp="$venv/.autotune-$(tr ',' '-' <<<"${extras:-base}")"
    wanted="$(cat "$root/pyproject.toml" "$root/constraints-cpu.txt" | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    python="$(find_python)"
    echo "autotune: setting up $venv (once; takes a few minutes)" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    # shellcheck disable=SC2046
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $(constraints) \
        --editable "$root${extras:+[$extras]}" >&2
    echo "$wanted" >"$stamp"
}
