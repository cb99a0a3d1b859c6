#!/bin/bash
# Unpacks static busybox from Debian 12, with a link for each of its applets and the few
# files that programs look for. Usage: unpack.sh INSTALL REMOVE OUT-DIR, as build.sh; the
# second is not used.
#
# OUT-DIR receives base.tar, and packages with the versions that are in it.
set -euo pipefail
install=$1 out=$3
export SOURCE_DATE_EPOCH=0

mirror=$(awk -F': ' '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
mirror=${mirror:-http://deb.debian.org/debian}
security=${mirror%/debian}/debian-security

echo "base: unpacking $install from $mirror"
mmdebstrap --quiet --mode=auto --variant=extract --include="$install" \
  --aptopt='Acquire::Retries "3"' \
  --extract-hook='for a in $("$1/bin/busybox" --list); do [ -e "$1/bin/$a" ] || ln -s busybox "$1/bin/$a"; done' \
  --extract-hook='rm -rf "$1/usr"; mkdir -p "$1/root" "$1/tmp" "$1/usr/share/holdfast"; chmod 1777 "$1/tmp"' \
  --extract-hook='echo root:x:0:0:root:/root:/bin/sh > "$1/etc/passwd"; echo root:x:0: > "$1/etc/group"' \
  --extract-hook='"$1/bin/busybox" | sed 1q > "$1/usr/share/holdfast/packages"' \
  --extract-hook="copy-out /usr/share/holdfast/packages $out" \
  bookworm "$out/base.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"
# Copied from this machine.
tar --delete -f "$out/base.tar" ./etc/hostname ./etc/resolv.conf
