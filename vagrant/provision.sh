#!/bin/bash
# provision.sh MACHINE: makes a machine of the Vagrantfile what it is there for:
# host, server or client. The steps can be had singly, and run as well in the
# namespaces that play the machines in a test:
#
#   packages            say which of Debian's packages are needed
#   prepare [FAST_PATH]   install them, and write natless's configuration; FAST_PATH is
#                       auto, off or required
#   install DEB         install, or upgrade to, natless's package
#   network             install the CNI plugins, and make two containers
#   containers up|down  make them, or remove them
#   snapshot            say what a purge must leave as it was
#   before              say what of it was there before the package was
#   purge               remove natless's package and what belongs to it
set -euo pipefail

packages="ca-certificates curl iproute2 iputils-ping nftables procps"
build=${NATLESS_BUILD:-/vagrant/build}
before=/var/tmp/natless.before
containers="one two"

step_host() {
	step_prepare
	step_install "$build/natless-1.deb"
	step_network
	natless status
	natless workloads
	for _ in {1..90}; do # a first look; the server may be younger than the host
		ip netns exec one ping -n -c 1 -W 5 2001:db8:64::192.168.56.20 && return
	done
	return 1
}

# The host routes for the client's network, which is not natless's uplink.
step_prepare() {
	step_missing
	echo "net.ipv4.conf.$(device 192.168.57.10).forwarding = 1" >/etc/sysctl.d/lab.conf
	sysctl -qp /etc/sysctl.d/lab.conf
	dpkg -s natless >/dev/null 2>&1 || step_snapshot >$before
	step_configure "$@"
}

step_network() {
	mkdir -p /opt/cni/bin
	install "$build"/cni/* /opt/cni/bin/
	step_containers up
}

step_server() { step_missing; }

# The client knows the way to the server's network, and nothing of natless.
step_client() {
	step_missing
	ip route replace 192.168.56.0/24 via 192.168.57.10
}

step_packages() { echo "$packages"; }

step_missing() {
	# shellcheck disable=SC2086
	dpkg -s $packages >/dev/null 2>&1 && return
	apt-get -qq update
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $packages >/dev/null
}

step_install() { DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$1"; }

step_before() { cat $before; }

step_purge() { dpkg -P natless; }

# device says which one has an address.
device() { ip -o -4 addr show to "$1" | awk '{ print $2; exit }'; }

step_configure() {
	mkdir -p /etc/natless /etc/cni/net.d
	cat >/etc/natless/natless.yaml <<-YAML
		uplink: $(device 192.168.56.10)
		prefix: 2001:db8:64::/96
		addresses: {ipv4: 192.0.0.10, ipv6: "2001:db8:64::192.0.0.10"}
		pools:
		  - {name: default, ipv4: 192.168.56.128/32, ports_per_workload: 1024, cooldown: 5s}
		${1:+fast_path: $1}
	YAML
	# What host-local remembers lies in /run: after a reboot no container has an address.
	cat >/etc/cni/net.d/10-containers.conflist <<-'JSON'
		{"cniVersion": "1.0.0", "name": "containers", "plugins": [
		  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "/run/cni",
		    "ranges": [[{"subnet": "2001:db8:6::/64"}]], "routes": [{"dst": "::/0"}]}},
		  {"type": "natless-cni"}]}
	JSON
}

cni() {
	NETCONFPATH=/etc/cni/net.d CNI_PATH=/opt/cni/bin:/usr/lib/cni CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=$2" \
		/opt/cni/bin/cnitool "$1" containers "/run/netns/$2" >/dev/null
}

step_containers() {
	for c in $containers; do
		case $1 in
		up)
			[ -e "/run/netns/$c" ] && continue
			ip netns add "$c"
			ip -n "$c" link set lo up
			cni add "$c"
			;;
		down)
			[ -e "/run/netns/$c" ] || continue
			cni del "$c"
			ip netns del "$c"
			;;
		*) echo "containers up, or down" >&2; return 2 ;;
		esac
	done
}

# step_snapshot leaves out what changes by itself, and what is not natless's:
# containers' devices and their addresses, and where routers were heard.
step_snapshot() {
	echo "# files"; find /etc /usr /opt /var /run /srv /sys/fs/bpf -iname '*natless*' -not -path '/var/tmp/*' 2>/dev/null | sort
	echo "# people"; getent passwd | cut -d: -f1; getent group | cut -d: -f1
	echo "# devices"; ip -o link | awk -F '[:@] *' '{ print $2 }' | grep -v ^veth
	echo "# addresses"; ip -o addr | awk '$3 == "inet" { print $2, $4 }' | grep -v ^veth
	echo "# routes"; ip route show table all | grep -v -e ' expires ' -e veth -e 'fe80:' -e ff00:
	echo "# rules"; ip rule; ip -6 rule
	echo "# neighbours"; ip neigh show proxy; ip -6 neigh show proxy
	echo "# nftables"; nft -t list ruleset
	echo "# qdiscs"; tc qdisc show | grep -v veth || true
	echo "# sysctls"; sysctl -a 2>/dev/null | grep '^net\.' | grep -v -e veth -e nf_conntrack -e '\.addr_gen_mode' -e random -e stable_secret || true
}

[ $# -gt 0 ] && declare -F "step_$1" >/dev/null || { sed -n '2,/^set/s/^#\( \|$\)//p' "$0" >&2; exit 2; }
"step_$@"
