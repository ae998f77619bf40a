#!/bin/bash
# box.sh DIR: builds DIR/natless.box, a Debian 12 for vagrant-libvirt, where no
# public box can be had. As root on Debian, from the machine's own package
# mirror; two or three minutes. The kernel is that of backports, which has what
# the fast path wants (TCX, Linux 6.6); KERNEL=stable takes Debian 12's own.
# Its machines reach no mirror, so what provision.sh would install is in it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: box.sh DIR}"
work=$(cd "$1" && pwd)
root=$work/root

uri() { apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk -v r="$1" '$2 == r { print $1; exit }'; }
mirror=$(uri bookworm)
[ -n "$mirror" ] || { echo "box.sh: apt knows no mirror of Debian 12 (bookworm)" >&2; exit 1; }
key=$(find /usr/share/rubygems-integration /opt/vagrant -path '*/vagrant-[0-9]*/keys/vagrant.pub' 2>/dev/null | head -n 1 || true)
[ -n "$key" ] || { echo "box.sh: vagrant's public key is not there: install vagrant" >&2; exit 1; }

base=systemd-sysv,dbus,udev,kmod,initramfs-tools,zstd,grub-pc,openssh-server,sudo,ifupdown,isc-dhcp-client,rsync,procps,ca-certificates
apt-get() { DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -o Acquire::Retries=3 -qq -y --no-install-recommends "$@" >>"$work/log"; }

# disk makes the image, with one bootable partition, mounted.
disk() {
	rm -f "$work/base.raw"
	truncate -s 4G "$work/base.raw"
	printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$work/base.raw"
	loop=$(losetup -f --show "$work/base.raw")
	trap close EXIT
	partx -a "$loop" # not losetup -P: the kernel may lack the parser of such tables
	mkfs.ext4 -q -L root "${loop}p1"
	uuid=$(blkid -s UUID -o value "${loop}p1")
	mkdir -p "$root"
	mount "${loop}p1" "$root"
}

close() {
	for m in dev sys proc ''; do mountpoint -q "$root/$m" && umount "$root/$m"; done
	partx -d "$loop"
	losetup -d "$loop"
}

# system installs Debian, its kernel and what provision.sh asks for.
system() {
	for try in 1 2 3; do # what was fetched is kept
		debootstrap --variant=minbase --include=$base bookworm "$root" "$mirror" >"$work/log" 2>&1 && break
		[ $try -lt 3 ] || { tail "$work/log" >&2; return 1; }
	done
	mount -t proc proc "$root/proc"
	mount -t sysfs sys "$root/sys"
	mount --bind /dev "$root/dev"
	printf 'deb %s %s main\n' "$mirror" bookworm "$mirror" bookworm-backports >"$root/etc/apt/sources.list"
	[ "${KERNEL:-backports}" = backports ] && release=bookworm-backports || release=bookworm
	echo 'UUID='"$uuid"' / ext4 defaults,errors=remount-ro 0 1' >"$root/etc/fstab"
	printf 'MODULES=list\nCOMPRESS=zstd\n' >"$root/etc/initramfs-tools/conf.d/small"
	printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod virtio_net ext4 ahci ata_piix >>"$root/etc/initramfs-tools/modules"
	apt-get update
	apt-get install -t $release linux-image-cloud-amd64
	# shellcheck disable=SC2046
	apt-get install $("$here/provision.sh" packages)
	apt-get clean
	rm -rf "$root"/var/lib/apt/lists/*
	: >"$root/etc/apt/sources.list"
}

# people is what Vagrant expects of a box: its user, its key, its network.
people() {
	chroot "$root" useradd -m -s /bin/bash vagrant
	echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
	chmod 440 "$root/etc/sudoers.d/vagrant"
	install -d -m 700 "$root/home/vagrant/.ssh"
	install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
	chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
	echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/vagrant.conf"
	echo bookworm >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n127.0.1.1 bookworm\n' >"$root/etc/hosts"
	printf '%s\n' 'source /etc/network/interfaces.d/*' 'auto lo' 'iface lo inet loopback' 'auto eth0' 'iface eth0 inet dhcp' >"$root/etc/network/interfaces"
	chroot "$root" systemctl -q enable ssh networking serial-getty@ttyS0
	chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service fstrim.timer man-db.timer
	: >"$root/etc/machine-id"
}

boot() {
	cat >"$root/etc/default/grub" <<-S
		GRUB_TIMEOUT=0
		GRUB_DISTRIBUTOR=Debian
		GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 net.ifnames=0 biosdevname=0 mitigations=off"
		GRUB_TERMINAL="serial console"
		GRUB_DISABLE_OS_PROBER=true
	S
	chroot "$root" grub-install --target=i386-pc "$loop" >>"$work/log" 2>&1
	chroot "$root" update-grub >>"$work/log" 2>&1
	# Without /dev/disk/by-uuid, grub names the loop device.
	sed -i "s,root=/dev/loop[0-9]*p1,root=UUID=$uuid,; s,/dev/loop[0-9]*,hd0,g" "$root/boot/grub/grub.cfg"
}

disk
system
people
boot
sync
close
trap - EXIT
qemu-img convert -O qcow2 "$work/base.raw" "$work/box.img"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 4}' >"$work/metadata.json"
tar -C "$work" -cf "$work/natless.box" metadata.json box.img
rm -f "$work/base.raw" "$work/box.img" "$work/metadata.json"
echo "$work/natless.box"
