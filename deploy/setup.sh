#!/bin/sh
# Makes .venv with everything Saldo needs, from the hashed lock, and fetches Kafka's jars. Run by `make setup`.
# Every path is relative to the checkout, whose own path may have blanks or a colon.
set -eu

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

case "$(uname -s)" in
  Linux | Darwin) ;;
  *) fail "$(uname -s) is not supported: Saldo runs on Linux and macOS; on Windows run it inside WSL 2" ;;
esac
if [ "$(uname -s)" = Linux ] && (ldd --version 2>&1 || true) | grep -qi musl; then
  fail "this system uses musl (Alpine and its kin), for which the Java and PostgreSQL packages have no build;" \
    "use a glibc system (Debian, Ubuntu, Fedora, ...), or docker compose"
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.13 python3.12 python3.11 python3.14 python3; fi
python=''
for candidate in "$@"; do
  if fits "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "no Python 3.11 to 3.14 found (tried: $*); install one, or name it: make setup PYTHON=/path/to/it"

if ! fits .venv/bin/python; then
  target=.venv
  case "$PWD" in
    *:*)
      # Python refuses to make a venv in a path with a colon; it may well be reached through one.
      target="${XDG_CACHE_HOME:-$HOME/.cache}/saldo/venv-$(printf %s "$PWD" | cksum | cut -d' ' -f1)"
      rm -rf .venv
      ln -s "$target" .venv
      ;;
  esac
  if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    "$python" -m venv --clear "$target"
  else
    "$python" -m venv --clear --without-pip "$target"
  fi
fi

# A venv without pip (a system Python without ensurepip) is filled by a pip from outside.
if .venv/bin/python -m pip --version >/dev/null 2>&1; then
  pip() { .venv/bin/python -m pip "$@"; }
elif "$python" -m pip --version >/dev/null 2>&1; then
  pip() { "$python" -m pip --python .venv/bin/python "$@"; }
elif command -v uv >/dev/null 2>&1; then
  pip() { uv pip "$@" --python .venv/bin/python; }
else
  fail "$python has neither ensurepip nor pip: install one of them (Debian and Ubuntu: python3-venv or python3-pip)"
fi

say "installing packages from requirements.lock into .venv ($(.venv/bin/python --version))"
# Two test packages are published as pure Python sources only.
pip install -q --require-hashes --only-binary :all: --no-binary pyactiveresource,ShopifyAPI -r requirements.lock ||
  fail "packages could not be installed; if one has no wheel for this system, try another Python (make setup PYTHON=...)"
pip install -q --no-deps --no-build-isolation -e .
say "checking Kafka's jars"
.venv/bin/python -m deploy.local.jars fetch
