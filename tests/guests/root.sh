# A small Debian for riscv64 with systemd, as the ext4 file system $OUTPUT: run as root of a namespace that can execute
# riscv64 programs (see namespace.py).
#
# MIRROR and SUITE say where packages come from, MODULES is a folder whose lib/modules goes into the image, WORK a new folder.

PATH=$PATH:/usr/sbin:/sbin
packages=apt,dbus,e2fsprogs,iproute2,kmod,login,passwd,systemd-sysv,udev
root=$WORK/root

TMPDIR=$WORK mmdebstrap --quiet --mode=root --variant=essential --arch=riscv64 --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --format=directory "$SUITE" "$root" "$MIRROR" </dev/null

cp -r "$MODULES/lib/modules" "$root/usr/lib/"
chroot "$root" depmod "$(ls "$root/usr/lib/modules")"

# Root needs no password, and its shell keeps quiet: no colours, titles or marks for pasted text on the serial line.
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
cat > "$root/root/.profile" <<'PROFILE'
export TERM=dumb SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 PS1='qemud:~# '
bind 'set enable-bracketed-paste off'
stty -echoctl
PROFILE
rm -f "$root/root/.bashrc" "$root/etc/motd" "$root/etc/update-motd.d/"*
echo qemud > "$root/etc/hostname"
echo '127.0.0.1 localhost qemud' > "$root/etc/hosts"
echo '0123456789abcdef0123456789abcdef' > "$root/etc/machine-id"
echo '/dev/root / ext4 rw 0 0' > "$root/etc/fstab"
echo 'nameserver 10.0.2.3' > "$root/etc/resolv.conf"
rm -f "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d/"*

# An address for any network card that there is, and no waiting for one where there is none.
cat > "$root/etc/systemd/network/10-dhcp.network" <<'NETWORK'
[Match]
Name=e*
[Network]
DHCP=ipv4
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6
NETWORK
systemctl --quiet --root "$root" enable systemd-networkd.service
systemctl --quiet --root "$root" mask systemd-networkd-wait-online.service

# Timers that would run a package manager or a trim in the middle of a test.
systemctl --quiet --root "$root" mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service

# What the image is known by: a sum over all that tests look at.
( cd "$root" && find usr/bin usr/lib -xdev -type f -print0 | sort --zero-terminated | xargs --null sha256sum ) > "$WORK/sums"
install -m 644 "$WORK/sums" "$root/root/sums"

# It is up to date: no unit need find out.
touch "$root/etc/.updated" "$root/var/.updated"

rm -rf "$root/dev/"* "$root/var/cache/apt" "$root/var/lib/apt/lists/"*
mke2fs -q -t ext4 -L root -m 0 -d "$root" "$OUTPUT" 640M </dev/null
