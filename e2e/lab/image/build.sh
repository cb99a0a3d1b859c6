#!/bin/bash
# Builds the image of a lab machine: Debian 12 from the mirrors that apt on this
# machine is set up for. Usage: build.sh PACKAGES-FILE OVERLAY-DIR OUT-DIR
#
# OUT-DIR receives root.img (ext4, label "root"), vmlinux and initrd.img.
set -euo pipefail
packages=$1 overlay=$2 out=$3

include=$(sed -e 's/#.*//' "$packages" | xargs | tr ' ' ',')
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Only Debian's own entries: a machine may have others.
mirror=$(awk -F': ' '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
mirror=${mirror:-http://deb.debian.org/debian}
security=${mirror%/debian}/debian-security

echo "image: installing $(tr ',' '\n' <<<"$include" | wc -l) packages and what they need from $mirror"
mmdebstrap --mode=auto --variant=minbase --include="$include" \
  --aptopt='Acquire::Retries "3"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook='mkdir -p "$1/usr/sbin" && printf "#!/bin/sh\nexit 101\n" > "$1/usr/sbin/policy-rc.d" && chmod +x "$1/usr/sbin/policy-rc.d"' \
  --customize-hook="copy-in $overlay/etc $overlay/usr /" \
  --customize-hook='chroot "$1" /bin/sh /usr/lib/holdfast-lab/finish' \
  --customize-hook="copy-out /boot/vmlinux /boot/initrd.img $out" \
  bookworm "$work/root.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"

# A tree that belongs to root without being root is what a user namespace is
# for; mke2fs 1.47.1 could read the archive itself, Debian 12 has 1.47.0.
echo "image: writing the file system"
mkdir "$work/root"
unpack='tar --numeric-owner -C "$1/root" -xf "$1/root.tar" --exclude=./dev/\* && mkfs.ext4 -q -F -L root -J size=16 -E root_owner=0:0 -d "$1/root" "$1/root.img" 4G && rm -rf "$1/root"'
if [ "$(id -u)" = 0 ]; then
  bash -euc "$unpack" build "$work"
else
  unshare --map-auto --map-root-user bash -euc "$unpack" build "$work"
fi
mv "$work/root.img" "$out/root.img"
