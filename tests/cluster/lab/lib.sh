# Sourced by the others. WORK is where everything is made; nothing else on the machine
# is written, but cgroups cluster/* and network namespaces cluster-*.
LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:?the folder of the cluster}
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd -P)
case $WORK/ in
/var/* | /etc/* | /opt/* | /run/*) echo "$WORK: a node has an overlay over that; take another folder" >&2; exit 1 ;;
esac
NODES=${NODES:-n1 n2}
PAUSE=registry.k8s.io/pause:3.10
export PATH=$WORK/bin:$PATH:/usr/sbin:/sbin

# Addresses for documentation, in namespaces of the cluster's own.
SERVER4=198.51.100.10 API6=2001:db8:1::10 DNS64=2001:db8:64::1
node4() { echo "192.0.2.1${1#n}"; } # n1: 192.0.2.11
node6() { echo "2001:db8:1::1${1#n}"; }
pods6() { echo "2001:db8:6:${1#n}::/64"; }

on() { local n=$1; shift; nsenter --net="/run/netns/cluster-$n" "$@"; }
# node n1 COMMAND: in the node: its mounts, processes and network.
node() { local n=$1; shift; nsenter -t "$(cat "$WORK/$n/init")" -m -p -n -u env PATH="$PATH" "$@"; }
kubectl() { on cp "$WORK/bin/kubectl" --kubeconfig="$WORK/admin.conf" "$@"; }
# within SECONDS COMMAND: until it succeeds.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "no success in time: $*" >&2; return 1; }
		sleep 0.3
	done
}

# boxed NAME LOG COMMAND: as the first process of a PID namespace, with which all end.
boxed() {
	local name=$1 log=$2 parent child=
	shift 2
	# Its copy of the mounts must not keep network namespaces of others alive.
	nsenter --net="/run/netns/cluster-$name" unshare --mount --pid --fork --uts --kill-child \
		sh -c 'umount -R -l /run/netns 2>/dev/null; exec "$@"' sh "$@" >>"$log" 2>&1 </dev/null &
	parent=$! # unshare, no shell, whose child is the first process
	for _ in $(seq 100); do
		child=$(cat "/proc/$parent/task/$parent/children" 2>/dev/null || true)
		[ -z "$child" ] || break
		sleep 0.05
	done
	mkdir -p "$WORK/$name"
	echo $child >"$WORK/$name/init"
}

# unbox NAME: ends it, and waits until it has.
unbox() {
	[ -s "$WORK/$1/init" ] || return 0
	local pid
	pid=$(cat "$WORK/$1/init")
	rm -f "$WORK/$1/init"
	kill -9 $pid 2>/dev/null || return 0
	within 20 sh -c "! kill -0 $pid"
}

# cable n1: the node's network, as a machine has it that has just started.
cable() {
	local n=$1 m
	ip netns add cluster-$n
	on $n ip link set lo up
	on $n sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
	ip -n cluster-rt link add $n type veth peer name eth0 netns cluster-$n
	on rt ip link set $n master lan up
	on $n ip link set eth0 up
	[ $n != cp ] || { on cp ip addr add $API6/64 dev eth0 nodad; return; }
	on $n ip addr add "$(node4 $n)/24" dev eth0
	on $n ip addr add "$(node6 $n)/64" dev eth0 nodad
	on $n ip route add default via 192.0.2.1
	on $n ip -6 route add default via 2001:db8:1::1
	for m in $NODES; do
		[ $m = $n ] || on $n ip -6 route add "$(pods6 $m)" via "$(node6 $m)"
	done
}

# network n1: the pod network's configuration, as its own DaemonSet would write it.
network() {
	local n=$1 kind=ptp extra=
	[ $n = "${NODES%% *}" ] || kind=bridge extra='"bridge":"cni0","isGateway":true,'
	node $n sh -c "cat >/etc/cni/net.d/.new && mv /etc/cni/net.d/.new /etc/cni/net.d/10-pods.conflist" <<-T
		{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"$kind",$extra"ipam":{"type":"host-local","ranges":[[{"subnet":"$(pods6 $n)"}]],"routes":[{"dst":"::/0"}]}}]}
	T
}
