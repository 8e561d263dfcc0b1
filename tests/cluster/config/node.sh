# Run in a node's new mount and network namespaces: makes them a machine of their own.
# The paths that matter to Kubernetes are the usual ones; what is written there stays in the node's own directory.
set -eu
state=@STATE@
node=$state/@NODE@

# This copy of the machine's mounts would keep its named network namespaces alive. (One that goes meanwhile is gone.)
awk '$3 == "nsfs" { print $2 }' /proc/self/mounts | xargs --no-run-if-empty umount || true
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock

mkdir -p "$node/lib/${state##*/}" "$node/log" "$node/sys"
mount --bind "$state" "$node/lib/${state##*/}"
mount --rbind "$node/lib" /var/lib
mount --bind "$node/log" /var/log
# Nobody reads a node's systemd units, but nodetls' boot guard is one, and not the machine's.
mkdir -p "$node/systemd/system" /etc/systemd
mount --bind "$node/systemd" /etc/systemd

# A sysfs shows the network namespace that it was mounted in.
mount -t sysfs sysfs "$node/sys"
mount --rbind /sys/fs/cgroup "$node/sys/fs/cgroup"
mount -t bpf bpf "$node/sys/fs/bpf"
mount --move "$node/sys" /sys

# For mountPropagation, as systemd does.
mount --make-rshared /

ipv4() {
	echo 1 >/proc/sys/net/ipv4/ip_forward
	ip address add @ADDRESS4@/24 dev eth0
	ip route add default via @PEER_ADDRESS4@
	ip route add @PEER_POD_CIDR4@ via @PEER_ADDRESS4@
}
ipv6() {
	echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
	ip address add @ADDRESS6@/64 dev eth0 nodad
	ip route add default via @PEER_ADDRESS6@
	ip route add @PEER_POD_CIDR6@ via @PEER_ADDRESS6@
}
ip link set lo up
ip link set eth0 up
for family in @FAMILIES@; do $family; done
