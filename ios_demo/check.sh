#!/usr/bin/env bash
# Builds and tests the Swift player, and parses the demo app, with a Swift toolchain of Linux or of a Mac.
#
#   SWIFT_ROOT=DIR  a Debian 13 in a folder, with swiftlang, g++ and python3 (root is needed to enter it)
#   PYTHON=FILE     a Python with ondevice: it draws what the player is compared with, and reads what it exports
#
# Where there is no toolchain nothing is checked: it says so and ends with 77, which is neither passed nor failed.
set -euo pipefail
cd "$(dirname "$0")"
repository=$(cd .. && pwd)

if [ -n "${SWIFT_ROOT:-}" ] && [ -z "${IN_SWIFT_ROOT:-}" ]; then
  if [ ! -L "$SWIFT_ROOT/usr/bin/swift" ] && [ ! -x "$SWIFT_ROOT/usr/bin/swift" ]; then
    echo "swift-check: FAILED: SWIFT_ROOT is $SWIFT_ROOT, which has no usr/bin/swift." >&2
    exit 1
  fi
elif ! command -v swift >/dev/null; then
  cat >&2 <<'EOF'
swift-check: NOT RUN: there is no Swift toolchain here.
  On Debian 13: apt-get install swiftlang g++ python3
  On an older Debian or Ubuntu, as root, in a folder:
    debootstrap --include=swiftlang,g++,python3,ca-certificates trixie /var/tmp/trixie http://deb.debian.org/debian
    make swift-check SWIFT_ROOT=/var/tmp/trixie
  Elsewhere: https://www.swift.org/install
EOF
  exit 77
fi

# What Python draws, once; without it the tests of whole pictures are skipped, and say so.
if [ -z "${IN_SWIFT_ROOT:-}" ]; then
  drawn="$PWD/Player/.build/drawn"
  if [ -n "${PYTHON:-}" ]; then "$PYTHON" Player/Tests/drawn.py "$drawn"; fi
  if [ -f "$drawn/drawn.json" ]; then export ONDEVICE_DRAWN="$drawn"; fi
  export ONDEVICE_CACHE="$PWD/Player/.build/metal"
fi

# What runs where the toolchain is: here, or in its folder.
checks() {
  swift --version 2>&1 | head -1
  (cd Player && swift build && swift test)
  find Demo -name '*.swift' -exec swiftc -frontend -parse {} +
}

if [ -n "${IN_SWIFT_ROOT:-}" ]; then
  [ -n "${ONDEVICE_DRAWN:-}" ] || unset ONDEVICE_DRAWN
  checks
  exit
elif [ -n "${SWIFT_ROOT:-}" ]; then
  mkdir -p "$SWIFT_ROOT$repository"
  # The mounts are the process's own, and go with it.
  unshare --mount bash -ec '
    mount --bind /proc "$1/proc"
    mount --bind /dev "$1/dev"
    mount --bind "$2" "$1$2"
    exec chroot "$1" env -i IN_SWIFT_ROOT=1 HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 \
      ONDEVICE_DRAWN="${ONDEVICE_DRAWN:-}" ONDEVICE_CACHE="$ONDEVICE_CACHE" bash "$2/ios_demo/check.sh"
  ' swift-check "$SWIFT_ROOT" "$repository"
else
  checks
fi

# The result that a benchmark exported is read as one of a phone would be.
if [ -n "${PYTHON:-}" ]; then "$PYTHON" -m ondevice.bench "$ONDEVICE_DRAWN/result.json" --device apple; fi
echo "swift-check: passed: the player was built and tested; the app was parsed, as only Xcode can build it."
