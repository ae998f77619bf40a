#!/bin/bash
# libvirt.sh up|down DIR: libvirt, a box and a VAGRANT_HOME for a machine where
# nothing of that is: a container or a CI runner with Debian 12, root, and no
# systemd to run libvirtd. Without KVM the machines are emulated, slowly.
# All of it goes on in the network namespace natless-vagrant, where libvirt's
# bridges disturb nobody; DIR keeps the box for the next time. It installs
# Debian packages, QEMU from backports, and enables backports for that.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { sed -n '2,/^set/s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
netns=natless-vagrant
inside() { nsenter --net=/run/netns/$netns env VAGRANT_HOME="$dir/home" "$@"; }
virsh() { inside virsh -q -c qemu:///system "$@"; }

programs() {
	command -v vagrant >/dev/null && command -v libvirtd >/dev/null && qemu-system-x86_64 --version 2>/dev/null | head -n 1 | grep -qv ' 7\.' && return
	export DEBIAN_FRONTEND=noninteractive
	if ! apt-get indextargets --format '$(RELEASE)' | grep -q bookworm-backports; then
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk '$2 == "bookworm" { print $1; exit }')
		echo "deb $mirror bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
	fi
	apt-get -qq update
	apt-get -qq -y --no-install-recommends install vagrant vagrant-libvirt libvirt-daemon-system dnsmasq-base iptables fdisk debootstrap qemu-utils rsync openssh-client >/dev/null
	# Debian 12's own QEMU does not boot the kernel of backports without KVM.
	apt-get -qq -y --no-install-recommends -t bookworm-backports install qemu-system-x86 qemu-utils >/dev/null
}

daemons() {
	[ -e /run/netns/$netns ] || ip netns add $netns
	ip -n $netns link set lo up
	if ! grep -q natless /etc/libvirt/qemu.conf; then
		mv /etc/libvirt/qemu.conf /etc/libvirt/qemu.conf.before
		cat >/etc/libvirt/qemu.conf <<-C
			# of natless's vagrant/libvirt.sh, which takes it back
			user = "root"
			group = "root"
			security_driver = "none"
			cgroup_controllers = [ ]
			namespaces = [ ]
			remember_owner = 0
		C
	fi
	mkdir -p /run/libvirt
	for d in virtlogd libvirtd; do
		kill -0 "$(cat "$dir/$d.pid" 2>/dev/null)" 2>/dev/null || inside /usr/sbin/$d -d -p "$dir/$d.pid"
	done
	for _ in {1..50}; do virsh version >/dev/null 2>&1 && return; sleep 0.2; done
	virsh version
}

# home is what this machine needs besides the project's Vagrantfile.
home() {
	mkdir -p "$dir/home" "$dir/images"
	# There are machines with a /dev/kvm that boots nothing of today's.
	[ -e /dev/kvm ] && grep -q -w -e vmx -e svm /proc/cpuinfo && driver=kvm || driver=qemu
	cat >"$dir/home/Vagrantfile" <<-R
		Vagrant.configure("2") do |config|
		  config.vm.boot_timeout = 900
		  config.vm.provider "libvirt" do |libvirt|
		    libvirt.driver = "$driver"
		    libvirt.memory = 640
		    libvirt.storage_pool_path = "$dir/images"
		  end
		end
	R
	[ -e "$dir/natless.box" ] || "$here/box.sh" "$dir" >/dev/null
	inside vagrant box list | grep -q '^natless/bookworm ' || inside vagrant box add --name natless/bookworm "$dir/natless.box" >/dev/null
}

up() {
	programs
	daemons
	home
	cat >"$dir/env" <<-E
		export VAGRANT_HOME=$dir/home VAGRANT_DEFAULT_PROVIDER=libvirt NATLESS_BOX=natless/bookworm
		natless_vagrant="nsenter --net=/run/netns/$netns"
	E
}

# down ends what up started; machines are to be destroyed before.
down() {
	for net in $(virsh net-list --name --all 2>/dev/null | grep -i vagrant); do
		virsh net-destroy "$net" >/dev/null 2>&1 || true
		virsh net-undefine "$net" >/dev/null 2>&1 || true
	done
	if virsh pool-dumpxml default 2>/dev/null | grep -q "<path>$dir/images<"; then
		virsh pool-destroy default >/dev/null || true
		virsh pool-undefine default >/dev/null || true
	fi
	for d in libvirtd virtlogd; do
		[ ! -e "$dir/$d.pid" ] || kill "$(cat "$dir/$d.pid")" 2>/dev/null || true
		rm -f "$dir/$d.pid"
	done
	[ ! -e /etc/libvirt/qemu.conf.before ] || mv /etc/libvirt/qemu.conf.before /etc/libvirt/qemu.conf
	[ ! -e /run/netns/$netns ] || ip netns del $netns
	# What vagrant made of the box; another machine might have another.
	rm -rf "$dir/images" "$dir/home" "$dir/env"
}

case $1 in
up) up ;;
down) down ;;
*) sed -n '2,/^set/s/^# //p' "$0" >&2; exit 2 ;;
esac
