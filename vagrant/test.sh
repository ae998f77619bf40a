#!/bin/bash
# test.sh: brings the machines up, runs the checks with the fast path and
# without, and destroys the machines, whatever happens. make vagrant-test builds
# what it needs and calls it. Where no systemd runs, nothing can have started a
# provider, so libvirt.sh does it in LAB (default /var/tmp/natless-vagrant).
set -euo pipefail
cd "$(dirname "$0")"
lab=${LAB:-/var/tmp/natless-vagrant}
natless_vagrant=

end() {
	status=$?
	trap '' INT TERM HUP
	$natless_vagrant vagrant destroy -f 2>&1 | tail -n 3 || true
	[ -z "$natless_vagrant" ] || ./libvirt.sh down "$lab"
	exit $status
}
trap end EXIT
trap 'exit 130' INT TERM HUP

if [ ! -d /run/systemd/system ]; then
	natless_vagrant="nsenter --net=/run/netns/natless-vagrant"
	./libvirt.sh up "$lab"
	# shellcheck source=/dev/null
	. "$lab/env"
fi
command -v vagrant >/dev/null || { echo "make vagrant-test needs vagrant, with VirtualBox or libvirt" >&2; exit 1; }

$natless_vagrant vagrant up
failed=
for fast_path in ${FAST_PATH:-auto off}; do
	echo "fast_path: $fast_path"
	$natless_vagrant build/checks -dir . -lab machines -fast-path "$fast_path" | tee "build/checks-$fast_path.tap" || failed=1
done
for fast_path in ${FAST_PATH:-auto off}; do
	tap=build/checks-$fast_path.tap
	printf 'fast path %s: %d of %d checks ok\n' "$fast_path" "$(grep -c '^ok' "$tap")" "$(sed -n 's/^1\.\.//p' "$tap")"
done
[ -z "$failed" ]
