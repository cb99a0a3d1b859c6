#!/bin/bash
# Builds the Debian 12 base of an image from the mirrors that apt on this machine
# is set up for. Usage: build.sh INSTALL REMOVE OUT-DIR, the first two lists of
# packages with commas.
#
# OUT-DIR receives base.tar, and packages with the versions that are in it.
set -euo pipefail
install=$1 remove=$2 out=$3

# With it mmdebstrap cuts every later time to it, and writes nothing that depends on the day.
export SOURCE_DATE_EPOCH=0

# Only Debian's own entries: a machine may have others.
mirror=$(awk -F': ' '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
mirror=${mirror:-http://deb.debian.org/debian}
security=${mirror%/debian}/debian-security

echo "base: installing $install and what they need from $mirror"
mmdebstrap --quiet --mode=auto --variant=essential --include="usr-is-merged,$install" \
  --aptopt='Acquire::Retries "3"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
  --dpkgopt='path-exclude=/usr/sbin/xfs_scrub*' \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --customize-hook="for p in ${remove//,/ }; do chroot \"\$1\" dpkg --purge --force-depends --force-remove-essential \$p >\"\$1/.log\" 2>&1 || { cat \"\$1/.log\"; exit 1; }; done; rm -f \"\$1/.log\"" \
  --customize-hook='mkdir -p "$1/usr/share/holdfast"; chroot "$1" dpkg-query -W > "$1/usr/share/holdfast/packages"' \
  --customize-hook="copy-out /usr/share/holdfast/packages $out" \
  --customize-hook='cd "$1" && rm -rf var/cache/* var/log/* var/lib/dpkg/*-old etc/lvm/backup usr/lib/*/gconv && ln -sf ../proc/self/mounts etc/mtab' \
  bookworm "$out/base.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"
